//! Proves that one commit gives one root: builds it twice, from nothing, in two different places.
//!
//! Both builds start from a fresh clone of the commit, with their own target directory, in
//! directories of different name and depth. What differs is named file by file.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::definition::Board;
use super::error::ImageError;
use super::filesystems::{Bench, NEEDS};
use super::source::Source;
use super::{Root, make_root};
use crate::host;
use crate::paths::Paths;
use crate::progress::Step;

/// Where the two builds happen, below `out/BOARD/reproducible`.
const PLACES: [&str; 2] = ["one", "another/and-deeper"];

/// Builds the root of the current commit twice; answers the hash both have.
///
/// # Errors
/// [`ImageError::Uncommitted`] for a tree with changes, [`ImageError::NotReproducible`] with the
/// files that differ.
pub fn check(paths: &Paths, board: &Board, robot: Option<&Path>) -> Result<String, ImageError> {
    let source = Source::of(paths.workspace());
    if !source.is_clean() {
        return Err(ImageError::Uncommitted);
    }
    let base = paths.out_dir(&format!("{}/reproducible", board.name))?;
    host::ensure(&NEEDS, &base)?;
    let step = Step::start("Building the root twice", None);
    let mut roots = Vec::new();
    for place in PLACES {
        step.note(&format!("from nothing in {place}"));
        let directory = base.join(place);
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(ImageError::file("remove", &directory))?;
        }
        fs::create_dir_all(&directory).map_err(ImageError::file("make", &directory))?;
        roots.push(build_in(&step, &directory, &source, board, robot)?);
    }
    let verdict = compare(&roots[0], &roots[1]);
    match &verdict {
        Ok(hash) => {
            fs::remove_dir_all(&base).map_err(ImageError::file("remove", &base))?;
            step.done(&format!("both have the root hash {hash}"));
        }
        Err(error) => step.failed(&error.to_string()),
    }
    verdict
}

fn build_in(
    step: &Step,
    directory: &Path,
    source: &Source,
    board: &Board,
    robot: Option<&Path>,
) -> Result<Root, ImageError> {
    let clone = directory.join("tree");
    let mut command = Command::new("git");
    command
        .args(["clone", "--quiet", "--no-hardlinks"])
        .arg(&source.directory)
        .arg(&clone);
    let log = directory.join("git.log");
    let deadline = std::time::Duration::from_secs(300);
    step.run(command, &log, deadline, |_| false)
        .map_err(|source| ImageError::Program {
            why: "clone the commit",
            source,
        })?;
    let source = Source::of(&clone);
    let robot = robot.map_or_else(|| clone.join(&board.robot), Path::to_path_buf);
    let bench = Bench {
        step,
        logs: directory,
    };
    make_root(
        bench,
        &source,
        board,
        &robot,
        &directory.join("target"),
        directory,
    )
}

fn compare(first: &Root, second: &Root) -> Result<String, ImageError> {
    if first.hash == second.hash {
        return Ok(first.hash.clone());
    }
    let differing: Vec<&str> = first
        .files
        .iter()
        .filter(|entry| {
            !second
                .files
                .iter()
                .any(|o| o.path == entry.path && o.sha256 == entry.sha256)
        })
        .map(|entry| entry.path.as_str())
        .collect();
    Err(ImageError::NotReproducible {
        first: first.hash.clone(),
        second: second.hash.clone(),
        differing: differing.join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::FileEntry;

    fn root(hash: &str, contents: &str) -> Root {
        let entry = FileEntry {
            path: "/usr/bin/kairod".into(),
            bytes: 1,
            sha256: Some(contents.into()),
            link: None,
            host_file: None,
        };
        Root {
            hash: hash.into(),
            bytes: 1,
            files: vec![entry],
        }
    }

    #[test]
    fn a_difference_is_named_by_file() {
        let error = compare(&root("1", "x"), &root("2", "y")).unwrap_err();
        assert!(error.to_string().contains("/usr/bin/kairod"), "{error}");
        assert_eq!(compare(&root("1", "x"), &root("1", "x")).unwrap(), "1");
    }
}
