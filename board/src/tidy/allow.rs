//! The exceptions: which file or function may be longer, by how much, and why.

use serde::Deserialize;

/// All exceptions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowances {
    /// Files that may be longer than the limit.
    #[serde(default)]
    pub file: Vec<FileAllowance>,
    /// Functions that may be longer than the limit.
    #[serde(default)]
    pub function: Vec<FunctionAllowance>,
}

/// A file that may be longer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileAllowance {
    /// The file, from the workspace root.
    pub path: String,
    /// How many lines it may have.
    pub lines: usize,
    /// Why.
    pub reason: String,
}

/// A function that may be longer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionAllowance {
    /// The file, from the workspace root.
    pub path: String,
    /// The function's name.
    pub name: String,
    /// How many lines it may have.
    pub lines: usize,
    /// Why.
    pub reason: String,
}

impl Allowances {
    /// Reads the exceptions.
    ///
    /// # Errors
    /// A sentence, when the text is not valid or an exception has no reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let reasons = parsed
            .file
            .iter()
            .map(|entry| (&entry.path, &entry.reason))
            .chain(
                parsed
                    .function
                    .iter()
                    .map(|entry| (&entry.path, &entry.reason)),
            );
        for (path, reason) in reasons {
            if reason.trim().is_empty() {
                return Err(format!("the exception for {path} has no reason"));
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_without_a_reason_is_refused() {
        let entry = "[[file]]\npath = \"a.rs\"\nlines = 900\nreason = ";
        assert!(Allowances::parse(&format!("{entry}\"one table\"\n")).is_ok());
        assert!(Allowances::parse(&format!("{entry}\" \"\n")).is_err());
        assert!(Allowances::parse("[[file]]\npath = \"a.rs\"\nlines = 900\n").is_err());
    }
}
