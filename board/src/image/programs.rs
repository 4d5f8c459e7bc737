//! Builds the programs of the image so that the result does not depend on where it was built.
//!
//! Guarantees: the paths of the workspace, of cargo's home and of the target directory are mapped
//! away, incremental builds are off, the lock file binds, the caller's RUSTFLAGS are ignored; a
//! build path that still shows in a program is an error. Static programs have no loader.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::definition::{Board, Program};
use super::elf;
use super::error::ImageError;
use super::source::Source;
use crate::progress::Step;

/// The longest one cargo call may take: a cold build on a slow machine.
const BUILD_DEADLINE: Duration = Duration::from_secs(45 * 60);

/// Builds every program of `board`; the answers are the files, in the definition's order.
///
/// # Errors
/// [`ImageError::Program`] with the compiler's last words; [`ImageError::NotStatic`] and
/// [`ImageError::BuildPathInside`] for programs that break the image's promises.
pub fn build(
    step: &Step,
    source: &Source,
    board: &Board,
    target_dir: &Path,
    logs: &Path,
) -> Result<Vec<PathBuf>, ImageError> {
    let (fixed, dynamic): (Vec<&Program>, Vec<&Program>) =
        board.program.iter().partition(|program| program.r#static);
    if !dynamic.is_empty() {
        let mut command = cargo(source, board, target_dir, "build");
        for program in &dynamic {
            command.args(["--package", &program.package, "--bin", &program.binary]);
        }
        run(step, command, &logs.join("cargo-programs.log"))?;
    }
    for program in &fixed {
        let mut command = cargo(source, board, target_dir, "rustc");
        command.args(["--package", &program.package, "--bin", &program.binary]);
        // For this crate alone: proc macros of the same build must stay dynamic.
        command.args(["--", "-C", "target-feature=+crt-static"]);
        run(
            step,
            command,
            &logs.join(format!("cargo-{}.log", program.binary)),
        )?;
    }
    let built = target_dir.join(&board.target).join("release");
    let files = board
        .program
        .iter()
        .map(|program| built.join(&program.binary));
    let files: Vec<PathBuf> = files.collect();
    for (program, file) in board.program.iter().zip(&files) {
        check(program, file, source, target_dir)?;
    }
    Ok(files)
}

fn cargo(source: &Source, board: &Board, target_dir: &Path, verb: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .arg(verb)
        .args([
            "--release",
            "--locked",
            "--target",
            &board.target,
            "--target-dir",
        ])
        .arg(target_dir)
        .current_dir(&source.directory)
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            remappings(source, target_dir).join("\u{1f}"),
        )
        .env("CARGO_INCREMENTAL", "0")
        .env("KAIRO_COMMIT", &source.commit)
        .env("SOURCE_DATE_EPOCH", source.epoch_s.to_string());
    command
}

/// One flag per build path; the compiler takes the last that fits, so the target directory,
/// which usually lies inside the workspace, comes after it.
fn remappings(source: &Source, target_dir: &Path) -> Vec<String> {
    [
        (source.directory.clone(), "/kairoos"),
        (cargo_home(), "/cargo"),
        (target_dir.to_path_buf(), "/kairoos/target"),
    ]
    .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
    .to_vec()
}

fn cargo_home() -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from)
}

fn run(step: &Step, command: Command, log: &Path) -> Result<(), ImageError> {
    step.run(command, log, BUILD_DEADLINE, |line| {
        line.trim_start().starts_with("Compiling")
    })
    .map(|_| ())
    .map_err(|source| ImageError::Program {
        why: "build the image's programs",
        source,
    })
}

fn check(
    program: &Program,
    file: &Path,
    source: &Source,
    target_dir: &Path,
) -> Result<(), ImageError> {
    if let (true, Some(interpreter)) = (program.r#static, elf::needs(file)?.interpreter) {
        return Err(ImageError::NotStatic {
            path: file.to_path_buf(),
            interpreter,
        });
    }
    let bytes = fs::read(file).map_err(ImageError::file("read", file))?;
    for path in [&source.directory, &cargo_home(), &target_dir.to_path_buf()] {
        let found = path.display().to_string();
        if contains(&bytes, found.as_bytes()) {
            return Err(ImageError::BuildPathInside {
                path: file.to_path_buf(),
                found,
            });
        }
    }
    Ok(())
}

/// Whether `needle` is in `bytes`. One word such as `/` would be found anywhere, so paths of
/// fewer than four bytes are not looked for.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    needle.len() >= 4 && bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_mapped_after_the_workspace_around_it() {
        let source = Source {
            directory: "/w".into(),
            commit: "c".into(),
            epoch_s: 0,
        };
        let flags = remappings(&source, Path::new("/w/target/image"));
        assert_eq!(flags[0], "--remap-path-prefix=/w=/kairoos");
        assert_eq!(
            flags[2],
            "--remap-path-prefix=/w/target/image=/kairoos/target"
        );
    }

    #[test]
    fn a_build_path_inside_a_program_is_refused() {
        let source = Source {
            directory: env!("CARGO_MANIFEST_DIR").into(),
            commit: "c".into(),
            epoch_s: 0,
        };
        let program = Program {
            package: "p".into(),
            binary: "b".into(),
            r#static: false,
        };
        let this = env::current_exe().unwrap(); // debug information names the sources
        let error = check(&program, &this, &source, Path::new("/nowhere/target")).unwrap_err();
        assert!(
            matches!(error, ImageError::BuildPathInside { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_dynamic_program_cannot_pass_for_a_static_one() {
        let source = Source {
            directory: "/nowhere".into(),
            commit: "c".into(),
            epoch_s: 0,
        };
        let program = Program {
            package: "p".into(),
            binary: "b".into(),
            r#static: true,
        };
        let this = env::current_exe().unwrap();
        let error = check(&program, &this, &source, Path::new("/nowhere/target")).unwrap_err();
        assert!(matches!(error, ImageError::NotStatic { .. }), "{error}");
    }
}
