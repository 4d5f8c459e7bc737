//! Did the kernel get what the fragments asked for, and if not, why not?
//!
//! kconfig drops a symbol whose dependency is not met without a word, and sets one that
//! something else selects. Guarantees: every request is compared with the result; every
//! difference is reported with the most specific reason that the Kconfig tree gives.
//! Does not: change anything, or ask whether the requests are wise.

use std::fmt;

use serde::Serialize;

use super::dotconfig::DotConfig;
use super::expression::Expression;
use super::fragment::{Request, Wanted};
use super::kconfig::{Definition, Kconfig};

/// One request that the resulting configuration does not fulfil.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The symbol without `CONFIG_`.
    pub symbol: String,
    /// The fragment that asks for it.
    pub fragment: String,
    /// The line in it, from 1.
    pub line: usize,
    /// What was asked for.
    pub wanted: String,
    /// What came out.
    pub actual: String,
    /// Why, in a sentence.
    pub reason: String,
    /// The dependency terms that are not met, each with what its symbols are.
    pub unmet: Vec<String>,
}

impl fmt::Display for Miss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}: CONFIG_{} wanted {}, is {}: {}",
            self.fragment, self.line, self.symbol, self.wanted, self.actual, self.reason
        )?;
        for term in &self.unmet {
            write!(formatter, "\n    unmet: {term}")?;
        }
        Ok(())
    }
}

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The architecture as the command line names it.
    pub arch: String,
    /// The kernel's release, such as `6.12.117`.
    pub release: String,
    /// Whether every request is fulfilled.
    pub ok: bool,
    /// How many symbols are asked for.
    pub requested: usize,
    /// The requests that are not fulfilled.
    pub misses: Vec<Miss>,
}

/// Compares each request with `config`.
pub fn compare(requests: &[Request], config: &DotConfig, kconfig: &Kconfig) -> Vec<Miss> {
    requests
        .iter()
        .filter_map(|request| miss(request, config, kconfig))
        .collect()
}

fn miss(request: &Request, config: &DotConfig, kconfig: &Kconfig) -> Option<Miss> {
    let symbol = &request.symbol;
    let actual = config.value(symbol);
    let unknown = kconfig.definitions(symbol).is_empty();
    let fulfilled = match &request.wanted {
        // A symbol that no longer exists is off, but the request says nothing any more.
        Wanted::Unset => actual.is_none() && !unknown,
        Wanted::Value(value) => actual == Some(value),
    };
    if fulfilled {
        return None;
    }
    let (reason, unmet) = if unknown {
        (
            "this kernel has no such symbol; it was renamed or removed".to_owned(),
            Vec::new(),
        )
    } else if request.wanted == Wanted::Unset {
        (why_on(symbol, config, kconfig), Vec::new())
    } else {
        why_not(symbol, actual, config, kconfig)
    };
    Some(Miss {
        symbol: symbol.clone(),
        fragment: request.fragment.clone(),
        line: request.line,
        wanted: request.wanted.to_string(),
        actual: actual.unwrap_or("not set").to_owned(),
        reason,
        unmet,
    })
}

/// Why a symbol is on although it was asked to be off.
fn why_on(symbol: &str, config: &DotConfig, kconfig: &Kconfig) -> String {
    let selectors = active_selectors(symbol, config, kconfig);
    if !selectors.is_empty() {
        return format!("selected by {}", selectors.join(", "));
    }
    if promptless(kconfig.definitions(symbol)) {
        return "it has no prompt and is on by default, so no fragment can turn it off".to_owned();
    }
    "kconfig keeps it on; its default or choice leaves no other value".to_owned()
}

fn active_selectors(symbol: &str, config: &DotConfig, kconfig: &Kconfig) -> Vec<String> {
    kconfig
        .selections(symbol)
        .iter()
        .filter(|selection| config.value(&selection.by).is_some())
        .filter(|selection| {
            selection
                .condition
                .as_ref()
                .is_none_or(|test| test.holds(config))
        })
        .map(|selection| selection.by.clone())
        .collect()
}

/// Why a symbol does not have the value asked for, and which terms stand in the way.
fn why_not(
    symbol: &str,
    actual: Option<&str>,
    config: &DotConfig,
    kconfig: &Kconfig,
) -> (String, Vec<String>) {
    let definitions = kconfig.definitions(symbol);
    // A symbol with several blocks needs one of them only: explain the nearest.
    let nearest = definitions
        .iter()
        .map(|definition| unmet_terms(definition, config))
        .min_by_key(Vec::len)
        .unwrap_or_default();
    if !nearest.is_empty() {
        let terms = nearest
            .iter()
            .map(|term| with_values(term, config))
            .collect();
        return ("a dependency is not met".to_owned(), terms);
    }
    if promptless(definitions) {
        let mut by: Vec<&str> = kconfig
            .selections(symbol)
            .iter()
            .map(|selection| selection.by.as_str())
            .collect();
        by.dedup();
        let reason = match by.as_slice() {
            [] => "it has no prompt, so no fragment can set it".to_owned(),
            _ => format!(
                "it has no prompt; it is set by selecting it from {}",
                by.join(", ")
            ),
        };
        return (reason, Vec::new());
    }
    let winner = kconfig
        .rivals(symbol)
        .find(|rival| config.value(rival).is_some());
    if let (None, Some(winner)) = (actual, winner) {
        return (
            format!("the choice it belongs to is taken by {winner}"),
            Vec::new(),
        );
    }
    let selectors = active_selectors(symbol, config, kconfig);
    if !selectors.is_empty() {
        return (format!("forced by {}", selectors.join(", ")), Vec::new());
    }
    (
        "its dependencies are met; the value is outside its range or type".to_owned(),
        Vec::new(),
    )
}

fn promptless(definitions: &[Definition]) -> bool {
    definitions
        .iter()
        .all(|definition| definition.prompt.is_none())
}

fn unmet_terms(definition: &Definition, config: &DotConfig) -> Vec<Expression> {
    let mut terms = Vec::new();
    for condition in definition
        .depends
        .iter()
        .chain(definition.prompt.iter().flatten())
    {
        for term in condition.unmet(config) {
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
    }
    terms
}

/// The term, followed by what the symbols in it are.
fn with_values(term: &Expression, config: &DotConfig) -> String {
    let mut symbols = Vec::new();
    collect_symbols(term, &mut symbols);
    let values: Vec<String> = symbols
        .iter()
        .map(|symbol| format!("{symbol} is {}", config.value(symbol).unwrap_or("not set")))
        .collect();
    if values.is_empty() {
        term.to_string()
    } else {
        format!("{term} ({})", values.join(", "))
    }
}

fn collect_symbols<'a>(term: &'a Expression, into: &mut Vec<&'a str>) {
    match term {
        Expression::Symbol(name) => {
            let constant = matches!(name.as_str(), "y" | "m" | "n")
                || name.bytes().all(|byte| byte.is_ascii_digit());
            if !constant && !into.contains(&name.as_str()) {
                into.push(name);
            }
        }
        Expression::Text(_) | Expression::Opaque(_) => {}
        Expression::Not(inner) => collect_symbols(inner, into),
        Expression::And(left, right)
        | Expression::Or(left, right)
        | Expression::Compare(left, _, right) => {
            collect_symbols(left, into);
            collect_symbols(right, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fragment;

    const TREE: &str = "
config BLOCK
	bool \"block\"
menuconfig MISC_FILESYSTEMS
	bool \"misc\"
if MISC_FILESYSTEMS
config EROFS_FS
	tristate \"erofs\"
	depends on BLOCK && (NET || INET)
endif
config EXPERT
	bool \"expert\"
	select DEBUG_KERNEL if BLOCK
config DEBUG_KERNEL
	bool \"debug\"
config HIDDEN
	bool
config USER
	bool \"user\"
	select HIDDEN
choice
	prompt \"rate\"
config HZ_100
	bool \"100\"
config HZ_250
	bool \"250\"
endchoice
config LIMIT
	int \"limit\"
	range 1 9
";

    fn misses(fragment_text: &str, config: &str) -> Vec<Miss> {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("Kconfig"), TREE).expect("write");
        let kconfig = Kconfig::read(dir.path(), "x86").expect("readable");
        let (requests, problems) = fragment::parse("test.config", fragment_text);
        assert_eq!(problems, Vec::<String>::new());
        compare(&requests, &DotConfig::parse(config), &kconfig)
    }

    fn single(fragment_text: &str, config: &str) -> Miss {
        let mut found = misses(fragment_text, config);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn fulfilled_requests_are_no_misses() {
        let fragment = "# Why.\nCONFIG_BLOCK=y\n# Why.\n# CONFIG_EXPERT is not set\n\
                        # Why.\nCONFIG_LIMIT=5\n";
        assert_eq!(
            misses(fragment, "CONFIG_BLOCK=y\nCONFIG_LIMIT=5\n"),
            Vec::new()
        );
    }

    #[test]
    fn a_symbol_that_vanished_silently_is_named_with_its_unmet_dependencies() {
        let miss = single("# Root.\nCONFIG_EROFS_FS=y\n", "CONFIG_BLOCK=y\n");
        assert_eq!((miss.line, miss.actual.as_str()), (2, "not set"));
        assert_eq!(
            miss.unmet,
            [
                "MISC_FILESYSTEMS (MISC_FILESYSTEMS is not set)",
                "NET || INET (NET is not set, INET is not set)"
            ]
        );
    }

    #[test]
    fn a_symbol_that_something_selects_names_the_selector() {
        let fragment = "# Off.\n# CONFIG_DEBUG_KERNEL is not set\n";
        let on = "CONFIG_DEBUG_KERNEL=y\nCONFIG_EXPERT=y\nCONFIG_BLOCK=y\n";
        assert_eq!(single(fragment, on).reason, "selected by EXPERT");
        let condition_off = "CONFIG_DEBUG_KERNEL=y\nCONFIG_EXPERT=y\n";
        assert!(!single(fragment, condition_off).reason.contains("selected"));
    }

    #[test]
    fn symbols_without_a_prompt_say_who_could_select_them() {
        let miss = single("# Why.\nCONFIG_HIDDEN=y\n", "");
        assert!(
            miss.reason.contains("selecting it from USER"),
            "{}",
            miss.reason
        );
    }

    #[test]
    fn a_lost_choice_names_the_winner() {
        let miss = single("# Why.\nCONFIG_HZ_250=y\n", "CONFIG_HZ_100=y\n");
        assert!(miss.reason.contains("taken by HZ_100"), "{}", miss.reason);
    }

    #[test]
    fn symbols_that_do_not_exist_are_misses_even_when_asked_to_be_off() {
        for fragment in [
            "# Why.\nCONFIG_GONE=y\n",
            "# Why.\n# CONFIG_GONE is not set\n",
        ] {
            assert!(single(fragment, "").reason.contains("no such symbol"));
        }
    }

    #[test]
    fn a_value_out_of_range_shows_both_values() {
        let miss = single("# Why.\nCONFIG_LIMIT=99\n", "CONFIG_LIMIT=9\n");
        assert_eq!((miss.wanted.as_str(), miss.actual.as_str()), ("99", "9"));
    }
}
