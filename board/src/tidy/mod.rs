//! The house rules that a machine can check, as one function over the tree.
//!
//! rustfmt and clippy check what they can; this checks the rest: lengths, headers, banned
//! calls, forgotten files, unexplained leftovers. Each rule says what to do instead.
//! Exceptions live in `board/tidy-allow.toml`, each with a reason, and an exception that no
//! longer applies is itself a problem: the list can only shrink.
//! Does not: change files, or judge what needs understanding.

mod allow;
mod banned;
mod lengths;
mod lexer;
mod references;
mod texts;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

pub use allow::Allowances;

/// Where the exceptions are, from the workspace root.
const ALLOW_FILE: &str = "board/tidy-allow.toml";

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, from the workspace root.
    pub path: String,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.path, self.message),
            line => write!(formatter, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Why the rules could not be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum TidyError {
    /// git could not list the files.
    #[error("cannot list the files of {root} with `git ls-files`: {detail}")]
    List {
        /// The workspace.
        root: PathBuf,
        /// What git said.
        detail: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The list of exceptions is not valid.
    #[error("{ALLOW_FILE}: {0}")]
    Allow(String),
}

/// One file of the tree.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path from the workspace root, with forward slashes.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its text; empty for files that are not text.
    pub text: String,
}

impl SourceFile {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn problem(&self, line: usize, message: impl Into<String>) -> Problem {
        Problem {
            path: self.path.clone(),
            line,
            message: message.into(),
        }
    }
}

/// Reads the tree below `root` and checks every rule. An empty result means tidy.
///
/// Looks at what git tracks and at new files it does not ignore.
///
/// # Errors
/// [`TidyError`] when the tree cannot be read.
pub fn check(root: &Path) -> Result<Vec<Problem>, TidyError> {
    let files = read_tree(root)?;
    let allow_text = files.iter().find(|file| file.path == ALLOW_FILE);
    let allowances = match allow_text {
        Some(file) => Allowances::parse(&file.text).map_err(TidyError::Allow)?,
        None => Allowances::default(),
    };
    Ok(problems(&files, &allowances))
}

/// Checks every rule over `files`.
pub fn problems(files: &[SourceFile], allowances: &Allowances) -> Vec<Problem> {
    let mut found = Vec::new();
    for file in files {
        lengths::lines(file, &mut found);
        texts::header(file, &mut found);
        texts::module_name(file, &mut found);
        texts::leftovers(file, &mut found);
        texts::size(file, &mut found);
        banned::calls(file, &mut found);
    }
    lengths::files_and_functions(files, allowances, &mut found);
    references::modules(files, &mut found);
    texts::changelog(files, &mut found);
    texts::fragments(files, &mut found);
    found.sort();
    found
}

fn read_tree(root: &Path) -> Result<Vec<SourceFile>, TidyError> {
    let list_error = |detail: String| TidyError::List {
        root: root.to_owned(),
        detail,
    };
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .map_err(|error| list_error(error.to_string()))?;
    if !output.status.success() {
        return Err(list_error(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    let mut files = Vec::new();
    for name in output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let path = String::from_utf8_lossy(name).into_owned();
        let absolute = root.join(&path);
        // Deleted but still in the index, or a link: nothing to read.
        if !fs::symlink_metadata(&absolute).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let content = fs::read(&absolute).map_err(|source| TidyError::Read {
            path: absolute.clone(),
            source,
        })?;
        let bytes = content.len() as u64;
        files.push(SourceFile {
            path,
            bytes,
            text: String::from_utf8(content).unwrap_or_default(),
        });
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(files)
}

#[cfg(test)]
pub(crate) fn rust_file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        bytes: text.len() as u64,
        text: text.to_owned(),
    }
}
