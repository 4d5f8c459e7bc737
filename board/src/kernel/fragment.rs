//! The fragments in `kernel-config/`: what is asked of the kernel, and why.
//!
//! A fragment is kconfig text with one rule added: every symbol is preceded by a comment with
//! its reason. Guarantees: a fragment that breaks the rule, or two fragments that ask for
//! different things, are errors that name file and line.
//! Does not: know what the kernel made of the requests; that is `check`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Arch;

/// Fragments used on every architecture, in the order in which they are read.
const COMMON: [&str; 7] = [
    "rt",
    "base",
    "containers",
    "drivers",
    "qemu",
    "hardening",
    "debug-off",
];

/// What a fragment wants a symbol to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `CONFIG_X=value`, with the value as kconfig writes it (`y`, `250`, `"text"`).
    Value(String),
    /// `# CONFIG_X is not set`.
    Unset,
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => formatter.write_str(value),
            Self::Unset => formatter.write_str("not set"),
        }
    }
}

/// One symbol asked for by a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The symbol without `CONFIG_`.
    pub symbol: String,
    /// What it is to be.
    pub wanted: Wanted,
    /// Why, from the comment above it.
    pub reason: String,
    /// The fragment's file name.
    pub fragment: String,
    /// The line in it, from 1.
    pub line: usize,
}

/// What is wrong with the fragments.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    /// A fragment could not be read.
    #[error("cannot read the kernel fragment {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One or more rules are broken; one line each.
    #[error("kernel fragments:\n{0}")]
    Rules(String),
}

/// The fragments of an architecture, in the order in which they are read.
pub fn files(arch: Arch) -> Vec<String> {
    COMMON
        .iter()
        .copied()
        .chain([arch.name()])
        .map(|name| format!("{name}.config"))
        .collect()
}

/// Reads and checks the fragments of `arch` below `dir`.
///
/// # Errors
/// [`FragmentError::Rules`] names every broken rule at once.
pub fn load(dir: &Path, arch: Arch) -> Result<Vec<Request>, FragmentError> {
    let mut requests = Vec::new();
    let mut broken = Vec::new();
    for file in files(arch) {
        let path = dir.join(&file);
        let text = fs::read_to_string(&path).map_err(|source| FragmentError::Read {
            path: path.clone(),
            source,
        })?;
        let (found, mut problems) = parse(&file, &text);
        requests.extend(found);
        broken.append(&mut problems);
    }
    broken.extend(contradictions(&requests));
    if broken.is_empty() {
        Ok(requests)
    } else {
        Err(FragmentError::Rules(broken.join("\n")))
    }
}

/// Parses one fragment; returns its requests and one line per broken rule.
pub fn parse(file: &str, text: &str) -> (Vec<Request>, Vec<String>) {
    let mut requests = Vec::new();
    let mut problems = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let (line, content) = (index + 1, raw.trim());
        if content.is_empty() {
            comment.clear();
            continue;
        }
        let Some((symbol, wanted)) = request(content) else {
            match content.strip_prefix('#') {
                Some(words) => comment.push(words.trim()),
                None => problems.push(format!(
                    "{file}:{line}: {content:?} is neither a comment nor a symbol; write \
                     CONFIG_X=value or `# CONFIG_X is not set`"
                )),
            }
            continue;
        };
        let reason = std::mem::take(&mut comment).join(" ");
        if reason.is_empty() {
            problems.push(format!(
                "{file}:{line}: CONFIG_{symbol} has no reason; say why in a comment right above it"
            ));
        }
        requests.push(Request {
            symbol,
            wanted,
            reason,
            fragment: file.to_owned(),
            line,
        });
    }
    (requests, problems)
}

/// Reads `CONFIG_X=value` or `# CONFIG_X is not set`.
fn request(content: &str) -> Option<(String, Wanted)> {
    let is_symbol = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (name, wanted) = if let Some(rest) = content.strip_prefix("# CONFIG_") {
        (rest.strip_suffix(" is not set")?, Wanted::Unset)
    } else {
        let (name, value) = content.strip_prefix("CONFIG_")?.split_once('=')?;
        // `=n` is the other way to write "not set"; kconfig itself never writes it.
        (
            name,
            if value == "n" {
                Wanted::Unset
            } else {
                Wanted::Value(value.to_owned())
            },
        )
    };
    is_symbol(name).then(|| (name.to_owned(), wanted))
}

/// Symbols asked for twice: one of the two reasons is not true, or not needed.
fn contradictions(requests: &[Request]) -> Vec<String> {
    let mut first: BTreeMap<&str, &Request> = BTreeMap::new();
    let mut problems = Vec::new();
    for request in requests {
        if let Some(earlier) = first.insert(&request.symbol, request) {
            problems.push(format!(
                "{}:{}: CONFIG_{} is already asked for in {}:{}; keep one of the two",
                request.fragment, request.line, request.symbol, earlier.fragment, earlier.line
            ));
        }
    }
    problems
}

/// The text that kconfig is given: the requests over the lines of a minimal configuration.
///
/// Lines of `minimal` about a requested symbol are dropped, so that kconfig does not warn
/// about every one; so are its choices, of which kconfig would keep the wrong one.
pub fn merge(minimal: &str, requests: &[Request]) -> String {
    const MINIMAL_CHOICES: [&str; 2] = ["CC_OPTIMIZE_FOR_SIZE", "KERNEL_XZ"];
    let replaced = |symbol: &str| {
        MINIMAL_CHOICES.contains(&symbol) || requests.iter().any(|request| request.symbol == symbol)
    };
    let kept = minimal
        .lines()
        .filter(|line| request(line.trim()).is_some_and(|(symbol, _)| !replaced(&symbol)))
        .map(str::to_owned);
    let asked = requests.iter().map(|request| match &request.wanted {
        Wanted::Value(value) => format!("CONFIG_{}={value}", request.symbol),
        Wanted::Unset => format!("# CONFIG_{} is not set", request.symbol),
    });
    kept.chain(asked).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_unset_symbols_are_read_with_their_reasons() {
        let text = "# About.\n\n# Real time,\n# always.\nCONFIG_PREEMPT_RT=y\n\
                    # None.\n# CONFIG_SWAP is not set\n# Name.\nCONFIG_NAME=\"a=b\"\n";
        let (requests, problems) = parse("rt.config", text);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[0].reason, "Real time, always.");
        assert_eq!(requests[1].wanted, Wanted::Unset);
        assert_eq!(requests[2].wanted, Wanted::Value("\"a=b\"".to_owned()));
        assert_eq!(requests[2].line, 9);
    }

    #[test]
    fn a_symbol_without_a_reason_is_refused() {
        let (_, problems) = parse("rt.config", "# Why.\nCONFIG_A=y\nCONFIG_B=y\n");
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("rt.config:3: CONFIG_B has no reason"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_headline_above_an_empty_line_is_no_reason() {
        let (_, problems) = parse("rt.config", "# Headline.\n\nCONFIG_A=y\n");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn text_that_is_no_kconfig_is_refused() {
        let (_, problems) = parse("rt.config", "# Why.\nCONFIG_A y\n");
        assert!(problems[0].starts_with("rt.config:2"), "{problems:?}");
    }

    #[test]
    fn asking_twice_names_both_places() {
        let (mut requests, _) = parse("a.config", "# Why.\nCONFIG_A=y\n");
        requests.extend(parse("b.config", "# Why.\n# CONFIG_A is not set\n").0);
        let problems = contradictions(&requests);
        assert!(problems[0].contains("a.config:2") && problems[0].contains("b.config:2"));
    }

    #[test]
    fn requests_replace_lines_of_the_minimal_configuration() {
        let (requests, _) = parse(
            "a.config",
            "# Why.\nCONFIG_A=y\n# Why.\n# CONFIG_B is not set\n",
        );
        let minimal = "#\n# Generated\n#\n# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=3\n\
                       CONFIG_KERNEL_XZ=y\n";
        assert_eq!(
            merge(minimal, &requests),
            "CONFIG_C=3\nCONFIG_A=y\n# CONFIG_B is not set\n"
        );
    }
}
