//! What an image is built from: the commit, its time, and a hash over every input.
//!
//! The hash decides whether an earlier image may be reused. It covers more than the commit,
//! because a working tree may differ from it, and less than the tree, because a change in a
//! document must not rebuild the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::manifest::{hexadecimal, sha256_file};

/// Directories and files of the workspace that can change an image.
const INPUTS: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "rust-toolchain.toml",
    "rt-core",
    "hal",
    "agent-plane",
    "init",
    "board/boards",
    "board/lab",
    "board/robots",
    "board/src/image",
    ".cargo",
];

/// Input files looked at, at most; a tree with more has build results in it by mistake.
const MAX_INPUT_FILES: usize = 20_000;

/// The identity of a source tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The root of the tree.
    pub directory: PathBuf,
    /// The commit, with `-dirty` where files differ from it; `unknown` outside a repository.
    pub commit: String,
    /// The commit's time in seconds of the epoch: the age of every file in the image.
    pub epoch_s: u64,
}

impl Source {
    /// Looks at the tree in `directory`. Without a repository (an unpacked archive) the commit is
    /// unknown and the age is that of the epoch, or `SOURCE_DATE_EPOCH`.
    #[must_use]
    pub fn of(directory: &Path) -> Source {
        let head = git(directory, &["rev-parse", "HEAD"]);
        let clean = git(directory, &["status", "--porcelain"]).is_none_or(|text| text.is_empty());
        let commit = match head {
            Some(id) if clean => id,
            Some(id) => format!("{id}-dirty"),
            None => "unknown".to_owned(),
        };
        let epoch_s = git(directory, &["log", "-1", "--format=%ct"])
            .or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok())
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        Source {
            directory: directory.to_path_buf(),
            commit,
            epoch_s,
        }
    }

    /// Whether the tree is exactly its commit.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.commit != "unknown" && !self.commit.ends_with("-dirty")
    }

    /// Hash over every input: the listed files of the tree, `others`, and the `texts` (versions,
    /// options).
    ///
    /// # Errors
    /// [`ImageError::File`] for an input that cannot be read.
    pub fn inputs_hash(&self, others: &[&Path], texts: &[&str]) -> Result<String, ImageError> {
        let mut hasher = Sha256::new();
        let mut add = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        add(&self.commit);
        add(&self.epoch_s.to_string());
        texts.iter().for_each(|text| add(text));
        let mut files = Vec::new();
        for input in INPUTS {
            collect(&self.directory.join(input), &mut files)?;
        }
        files.sort();
        for file in &files {
            add(&file
                .strip_prefix(&self.directory)
                .unwrap_or(file)
                .display()
                .to_string());
            add(&sha256_file(file)?);
        }
        for file in others {
            add(&sha256_file(file)?);
        }
        Ok(hexadecimal(&hasher.finalize()))
    }
}

/// The trimmed output of a git command; `None` when it fails or git is not there.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Adds the regular files at or below `path`; what does not exist adds nothing.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), ImageError> {
    let Ok(data) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if data.is_file() {
        files.push(path.to_path_buf());
    } else if data.is_dir() && !path.ends_with("target") {
        for entry in fs::read_dir(path).map_err(ImageError::file("list", path))? {
            collect(
                &entry.map_err(ImageError::file("list", path))?.path(),
                files,
            )?;
        }
    }
    if files.len() > MAX_INPUT_FILES {
        return Err(ImageError::Definition {
            path: path.to_path_buf(),
            reason: format!("more than {MAX_INPUT_FILES} source files: build results inside?"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(directory: &Path) -> Source {
        Source {
            directory: directory.to_path_buf(),
            commit: "c".into(),
            epoch_s: 1,
        }
    }

    #[test]
    fn a_changed_source_changes_the_hash_and_a_changed_document_does_not() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("init/src")).unwrap();
        fs::create_dir_all(tree.path().join("docs")).unwrap();
        fs::write(tree.path().join("init/src/main.rs"), "one").unwrap();
        let hash = || source(tree.path()).inputs_hash(&[], &["options"]).unwrap();
        let first = hash();
        fs::write(tree.path().join("docs/readme.md"), "text").unwrap();
        assert_eq!(hash(), first);
        fs::write(tree.path().join("init/src/main.rs"), "two").unwrap();
        assert_ne!(hash(), first);
    }

    #[test]
    fn a_renamed_file_changes_the_hash() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("hal")).unwrap();
        fs::write(tree.path().join("hal/a.rs"), "x").unwrap();
        let first = source(tree.path()).inputs_hash(&[], &[]).unwrap();
        fs::rename(tree.path().join("hal/a.rs"), tree.path().join("hal/b.rs")).unwrap();
        assert_ne!(source(tree.path()).inputs_hash(&[], &[]).unwrap(), first);
    }
}
