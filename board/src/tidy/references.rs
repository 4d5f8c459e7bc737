//! Rust files that no `mod` declaration reaches: the compiler never sees them.

use std::collections::BTreeSet;

use super::lexer;
use super::{Problem, SourceFile};

/// Finds files that belong to a package and to no module tree.
pub fn modules(files: &[SourceFile], found: &mut Vec<Problem>) {
    let packages: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| directory_of(&file.path, "Cargo.toml"))
        .collect();
    let declared: Vec<(&str, String)> = files
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file.path.as_str(), lexer::split(&file.text).code))
        .collect();
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some(package) = package_of(&file.path, &packages) else {
            continue;
        };
        if is_root(&file.path, package, files) || is_declared(&file.path, files, &declared) {
            continue;
        }
        found.push(file.problem(
            0,
            "no `mod` declaration reaches this file; add one or delete it",
        ));
    }
}

/// The directory of `path` if its file name is `name`; the workspace root is `""`.
fn directory_of<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let rest = path.strip_suffix(name)?;
    if rest.is_empty() {
        Some("")
    } else {
        rest.strip_suffix('/')
    }
}

/// The innermost package that holds a file.
fn package_of<'a>(path: &str, packages: &BTreeSet<&'a str>) -> Option<&'a str> {
    packages
        .iter()
        .filter(|package| package.is_empty() || path.starts_with(&format!("{package}/")))
        .max_by_key(|package| package.len())
        .copied()
}

/// Whether cargo itself compiles the file as the root of a crate.
fn is_root(path: &str, package: &str, files: &[SourceFile]) -> bool {
    let inside = path
        .strip_prefix(package)
        .unwrap_or(path)
        .trim_start_matches('/');
    let parts: Vec<&str> = inside.split('/').collect();
    let by_convention = matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "benches" | "examples" | "fuzz_targets", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    );
    by_convention
        || files
            .iter()
            .filter(|file| directory_of(&file.path, "Cargo.toml") == Some(package))
            .any(|manifest| manifest.text.contains(&format!("path = \"{inside}\"")))
}

/// Whether a file that may declare the module does so.
fn is_declared(path: &str, files: &[SourceFile], declared: &[(&str, String)]) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    // `a/b/mod.rs` is module `b` of `a`; `a/b.rs` is too.
    let (module, parent) = match stem {
        "mod" => {
            let (parent, module) = directory.rsplit_once('/').unwrap_or(("", directory));
            (module, parent)
        }
        _ => (stem, directory),
    };
    let declaration = format!("mod {module};");
    let may_declare = |candidate: &str| {
        // Files beside it (`mod.rs`, crate roots), or the file named like its directory.
        let (beside, _) = candidate.rsplit_once('/').unwrap_or(("", candidate));
        candidate != path && (beside == parent || candidate == format!("{parent}.rs"))
    };
    let by_path_attribute = format!("\"{name}\"]");
    declared
        .iter()
        .any(|(candidate, code)| may_declare(candidate) && code.contains(&declaration))
        || files
            .iter()
            .filter(|file| file.is_rust())
            .flat_map(|file| file.text.lines())
            .any(|line| {
                let line = line.trim();
                line.starts_with("#[path") && line.ends_with(&by_path_attribute)
            })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::rust_file;

    fn lost(files: &[(&str, &str)]) -> Vec<String> {
        let mut found = Vec::new();
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| rust_file(path, text))
            .collect();
        modules(&files, &mut found);
        found.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn a_file_without_a_declaration_is_found() {
        let files = [
            ("a/Cargo.toml", ""),
            ("a/src/lib.rs", "mod used;\n// mod lost;\n"),
            ("a/src/used.rs", ""),
            ("a/src/lost.rs", ""),
        ];
        assert_eq!(lost(&files), ["a/src/lost.rs"]);
    }

    #[test]
    fn nested_modules_roots_and_named_paths_are_known() {
        let files = [
            ("a/Cargo.toml", "[[bin]]\npath = \"tools/x.rs\"\n"),
            (
                "a/src/main.rs",
                "mod one;\nmod two;\n#[path = \"odd.rs\"]\nmod three;\n",
            ),
            ("a/src/one/mod.rs", "mod inner;\n"),
            ("a/src/one/inner.rs", ""),
            ("a/src/two.rs", "mod deep;\n"),
            ("a/src/two/deep.rs", ""),
            ("a/src/odd.rs", ""),
            ("a/src/bin/tool.rs", ""),
            ("a/tests/claims.rs", ""),
            ("a/tools/x.rs", ""),
            ("a/build.rs", ""),
        ];
        assert_eq!(lost(&files), [""; 0]);
    }

    #[test]
    fn a_declaration_in_another_package_does_not_count() {
        let files = [
            ("a/Cargo.toml", ""),
            ("a/src/lib.rs", ""),
            ("a/src/lost.rs", ""),
            ("b/Cargo.toml", ""),
            ("b/src/lib.rs", "mod lost;\n"),
            ("b/src/lost.rs", ""),
        ];
        assert_eq!(lost(&files), ["a/src/lost.rs"]);
    }
}
