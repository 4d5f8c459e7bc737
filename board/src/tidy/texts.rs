//! Headers, names, leftovers, sizes, the changelog and the kernel fragments.

use super::lexer;
use super::{Problem, SourceFile};
use crate::kernel::{Arch, fragment};

/// The largest file in the tree, in bytes: larger ones stay in every clone for ever.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The groups of a release in the changelog, in this order.
const CHANGELOG_GROUPS: [&str; 3] = ["Safety and timing", "Features", "Internals"];
/// Characters that a reason needs at least to say anything.
const REASON_CHARACTERS_MIN: usize = 10;

/// Every Rust file says first what it is.
pub fn header(file: &SourceFile, found: &mut Vec<Problem>) {
    if file.is_rust() && !file.text.starts_with("//! ") {
        let message = "does not open with `//!`: say what it is, what it guarantees, what it \
                       does not do";
        found.push(file.problem(1, message));
    }
}

/// Names that say nothing about what is inside.
pub fn module_name(file: &SourceFile, found: &mut Vec<Problem>) {
    const EMPTY_NAMES: [&str; 7] = [
        "util", "utils", "common", "helper", "helpers", "misc", "manager",
    ];
    if !file.is_rust() {
        return;
    }
    let path = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
    let name = path.rsplit('/').next().unwrap_or(path);
    if EMPTY_NAMES.contains(&name) {
        let message = format!("a module called `{name}` says nothing; name what it does");
        found.push(file.problem(0, message));
    }
}

/// Marks of unfinished work need a reason that a reader can judge.
pub fn leftovers(file: &SourceFile, found: &mut Vec<Problem>) {
    let is_hash_commented = [".toml", ".config", ".sh", ".yml"]
        .iter()
        .any(|ending| file.path.ends_with(ending));
    let comments = match (file.is_rust(), is_hash_commented) {
        (true, _) => lexer::split(&file.text).comments,
        (false, true) => file.text.clone(),
        (false, false) => return,
    };
    for (index, line) in comments.lines().enumerate() {
        for mark in ["TODO", "FIXME", "XXX"] {
            let Some((before, after)) = line.split_once(mark) else {
                continue;
            };
            let quoted = before.ends_with(['`', '"', '/']) || after.starts_with(['`', '"', '/']);
            let reason = after
                .split_once("): ")
                .map_or("", |(_, reason)| reason)
                .trim();
            if !quoted && reason.chars().count() < REASON_CHARACTERS_MIN {
                let message = format!(
                    "{mark} without a reason; write `{mark}(issue N): why it is not done now`"
                );
                found.push(file.problem(index + 1, message));
            }
        }
    }
}

/// Large files are made by the build or fetched, not kept in the tree.
pub fn size(file: &SourceFile, found: &mut Vec<Problem>) {
    if file.bytes > FILE_BYTES_MAX {
        let message = format!(
            "{} bytes, more than {FILE_BYTES_MAX}; generate it or fetch it",
            file.bytes
        );
        found.push(file.problem(0, message));
    }
}

/// The changelog exists, and each release in it is grouped by what matters to whom.
pub fn changelog(files: &[SourceFile], found: &mut Vec<Problem>) {
    let Some(file) = files.iter().find(|file| file.path == "CHANGELOG.md") else {
        let message = "is missing; every release says what changed".to_owned();
        found.push(Problem {
            path: "CHANGELOG.md".to_owned(),
            line: 0,
            message,
        });
        return;
    };
    let mut next_group = 0;
    let mut releases = 0;
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with("## ") {
            next_group = 0;
            releases += 1;
        }
        let Some(heading) = line.strip_prefix("### ") else {
            continue;
        };
        match CHANGELOG_GROUPS
            .iter()
            .position(|group| *group == heading.trim())
        {
            Some(group) if group >= next_group => next_group = group + 1,
            _ => {
                let message = format!(
                    "heading {heading:?}; each release has, in this order and at most once: {}",
                    CHANGELOG_GROUPS.join(", ")
                );
                found.push(file.problem(index + 1, message));
            }
        }
    }
    if releases == 0 {
        found.push(file.problem(0, "has no `## ` heading for any release"));
    }
}

/// Every kernel symbol has a reason, and every fragment is used.
pub fn fragments(files: &[SourceFile], found: &mut Vec<Problem>) {
    let used: Vec<String> = [Arch::X86_64, Arch::Arm64]
        .into_iter()
        .flat_map(fragment::files)
        .collect();
    for file in files {
        let Some(name) = file.path.strip_prefix("kernel-config/") else {
            continue;
        };
        if !name.ends_with(".config") {
            continue;
        }
        if !used.iter().any(|used| used == name) {
            found.push(file.problem(
                0,
                "no architecture uses this fragment; list it or delete it",
            ));
        }
        let (_, broken) = fragment::parse(&file.path, &file.text);
        for message in broken {
            // The fragment parser names file and line itself.
            let mut parts = message.splitn(3, ':');
            let line = parts.nth(1).and_then(|line| line.parse().ok()).unwrap_or(0);
            found.push(file.problem(line, parts.next().unwrap_or(&message).trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::rust_file;

    fn each(rule: fn(&SourceFile, &mut Vec<Problem>), path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        rule(&rust_file(path, text), &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    fn whole(rule: fn(&[SourceFile], &mut Vec<Problem>), path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        rule(&[rust_file(path, text)], &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_eq!(each(header, "a.rs", "//! It is.\n"), [""; 0]);
        assert_eq!(each(header, "a.rs", "use std::fs;\n//! Late.\n").len(), 1);
        assert_eq!(each(header, "a.py", "x = 1\n"), [""; 0]);
    }

    #[test]
    fn empty_names_are_found() {
        assert_eq!(each(module_name, "a/src/utils.rs", "").len(), 1);
        assert_eq!(each(module_name, "a/tests/common/mod.rs", "").len(), 1);
        assert_eq!(each(module_name, "a/src/common_cause.rs", ""), [""; 0]);
    }

    #[test]
    fn unfinished_work_needs_a_reason() {
        assert_eq!(each(leftovers, "a.rs", "// TODO: later\n").len(), 1);
        assert_eq!(each(leftovers, "a.rs", "// FIXME(me)\n").len(), 1);
        assert_eq!(each(leftovers, "a.config", "# TODO\n").len(), 1);
        let reasoned = "// TODO(issue 7): needs the update library, which comes later\n";
        assert_eq!(each(leftovers, "a.rs", reasoned), [""; 0]);
        assert_eq!(
            each(leftovers, "a.rs", "f(\"TODO\"); // about `TODO` marks\n"),
            [""; 0]
        );
    }

    #[test]
    fn large_files_are_found() {
        let mut found = Vec::new();
        let mut file = rust_file("a.bin", "");
        file.bytes = FILE_BYTES_MAX;
        size(&file, &mut found);
        assert_eq!(found.len(), 0);
        file.bytes += 1;
        size(&file, &mut found);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn the_changelog_has_its_groups_in_order() {
        let good = "# Changelog\n## Unreleased\n### Safety and timing\n### Internals\n\
                    ## 0.1\n### Features\n";
        assert_eq!(whole(changelog, "CHANGELOG.md", good), [""; 0]);
        let other = "## Unreleased\n### Fixed\n";
        assert_eq!(whole(changelog, "CHANGELOG.md", other).len(), 1);
        let order = "## Unreleased\n### Internals\n### Features\n";
        assert_eq!(whole(changelog, "CHANGELOG.md", order).len(), 1);
        assert_eq!(
            whole(changelog, "CHANGELOG.md", "# Changelog\n").len(),
            1,
            "no release"
        );
        assert_eq!(whole(changelog, "README.md", "").len(), 1, "no changelog");
    }

    #[test]
    fn fragments_without_reasons_or_users_are_found() {
        let good = "# Why.\nCONFIG_A=y\n";
        assert_eq!(whole(fragments, "kernel-config/rt.config", good), [""; 0]);
        let bare = whole(fragments, "kernel-config/rt.config", "CONFIG_A=y\n");
        assert!(
            bare[0].starts_with("kernel-config/rt.config:1: CONFIG_A has no"),
            "{bare:?}"
        );
        assert_eq!(
            whole(fragments, "kernel-config/unused.config", good).len(),
            1
        );
    }
}
