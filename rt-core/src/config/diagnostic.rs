//! Problems found in a configuration file, each with its place and its remedy.
//!
//! setup-only. A file is read to its end and every problem is collected, because mending a robot's
//! configuration one message at a time is how people learn to skip the check.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One problem: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 when the file could not be read at all.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key or table it is about, as a dotted path; empty for a syntax error.
    pub key: String,
    /// What is wrong, with the value.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if self.line > 0 {
            write!(formatter, ":{}:{}", self.line, self.column)?;
        }
        formatter.write_str(": ")?;
        if !self.key.is_empty() {
            write!(formatter, "`{}`: ", self.key)?;
        }
        write!(formatter, "{}", self.message)?;
        if !self.fix.is_empty() {
            write!(formatter, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// Every problem of one file, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The problems.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(formatter, "{diagnostic}")?;
        }
        let count = self.diagnostics.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(
            formatter,
            "{count} {noun}; nothing was started and nothing is armed"
        )
    }
}

/// Collects the problems of one file while it is read.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    file: &'t Path,
    text: &'t str,
    found: Vec<Diagnostic>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Self {
            file,
            text,
            found: Vec::new(),
        }
    }

    /// The file that is read.
    pub(super) fn file(&self) -> PathBuf {
        self.file.to_path_buf()
    }

    /// The line, from 1, at which the byte range `span` begins.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        position(self.text, span.start).0
    }

    /// Adds a problem at the byte range `span` of the file.
    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (line, column) = position(self.text, span.start);
        self.found.push(Diagnostic {
            file: self.file.to_path_buf(),
            line,
            column,
            key: key.into(),
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// `value` if there were no problems.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found
                    .sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
                Err(ConfigError {
                    diagnostics: self.found,
                })
            }
        }
    }
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// The known name that `name` was probably meant to be, if one is near enough.
pub(super) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    // A third of the longer name may differ: `period_ms` still finds `period_us`, `foo` finds
    // nothing.
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(name.len()))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        assert_eq!(position("ab\ncdé\nx", 0), (1, 1));
        assert_eq!(position("ab\ncdé\nx", 4), (2, 2));
        assert_eq!(position("ab\ncdé\nx", 8), (3, 1));
        assert_eq!(position("ab", 99), (1, 3));
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["period_us", "priority", "core"];
        assert_eq!(nearest("period_ms", &known), Some("period_us"));
        assert_eq!(nearest("perod_us", &known), Some("period_us"));
        assert_eq!(nearest("colour_of_the_robot", &known), None);
    }
}
