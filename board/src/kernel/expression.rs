//! Kconfig conditions: parsing, evaluation against a configuration, and the terms that fail.
//!
//! Guarantees: parsing is bounded in depth and never panics; text that is not an expression
//! gives `None`. Compiler tests (`$(…)`) count as true, see `kconfig`.

use std::fmt;

use super::dotconfig::DotConfig;

/// Nesting of parentheses and negations: the kernel stays below ten.
const DEPTH_MAX: usize = 64;

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// A symbol, or one of the constants `y`, `m`, `n`.
    Symbol(String),
    /// A quoted text.
    Text(String),
    /// A test that only kconfig can run.
    Opaque(String),
    /// `!a`
    Not(Box<Expression>),
    /// `a && b`
    And(Box<Expression>, Box<Expression>),
    /// `a || b`
    Or(Box<Expression>, Box<Expression>),
    /// `a = b` and its relatives.
    Compare(Box<Expression>, Comparison, Box<Expression>),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Expression {
    /// Whether the condition holds (`y` or `m`) in `config`.
    pub fn holds(&self, config: &DotConfig) -> bool {
        match self {
            Self::Symbol(_) => self.value(config) != "n",
            Self::Text(text) => !text.is_empty() && text != "n",
            Self::Opaque(_) => true,
            Self::Not(inner) => !inner.holds(config),
            Self::And(left, right) => left.holds(config) && right.holds(config),
            Self::Or(left, right) => left.holds(config) || right.holds(config),
            Self::Compare(left, comparison, right) => {
                compare(&left.value(config), *comparison, &right.value(config))
            }
        }
    }

    /// The terms that keep the condition from holding; empty when it holds.
    pub fn unmet(&self, config: &DotConfig) -> Vec<Expression> {
        if self.holds(config) {
            return Vec::new();
        }
        match self {
            Self::And(left, right) => {
                let mut terms = left.unmet(config);
                terms.extend(right.unmet(config));
                terms
            }
            // Any side of an "or" would do, so it is one term.
            _ => vec![self.clone()],
        }
    }

    fn value(&self, config: &DotConfig) -> String {
        match self {
            Self::Symbol(name) if matches!(name.as_str(), "y" | "m" | "n") => name.clone(),
            // A number stands for itself.
            Self::Symbol(name) if name.bytes().all(|byte| byte.is_ascii_digit()) => name.clone(),
            Self::Symbol(name) => config
                .value(name)
                .unwrap_or("n")
                .trim_matches('"')
                .to_owned(),
            Self::Text(text) => text.clone(),
            other => if other.holds(config) { "y" } else { "n" }.to_owned(),
        }
    }
}

fn compare(left: &str, comparison: Comparison, right: &str) -> bool {
    let ordering = match (number(left), number(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => left.cmp(right),
    };
    match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::Unequal => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    }
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symbol(text) | Self::Opaque(text) => formatter.write_str(text),
            Self::Text(text) => write!(formatter, "\"{text}\""),
            Self::Not(inner) => write!(formatter, "!{}", Grouped(inner)),
            Self::And(left, right) => {
                write!(formatter, "{} && {}", Grouped(left), Grouped(right))
            }
            Self::Or(left, right) => write!(formatter, "{left} || {right}"),
            Self::Compare(left, comparison, right) => {
                write!(formatter, "{left} {} {right}", comparison.sign())
            }
        }
    }
}

/// Puts parentheses around what binds less tightly than `&&` and `!`.
struct Grouped<'a>(&'a Expression);

impl fmt::Display for Grouped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::Or(..) => write!(formatter, "({})", self.0),
            _ => write!(formatter, "{}", self.0),
        }
    }
}

/// Parses a condition; `None` when the text is none.
pub fn parse(text: &str) -> Option<Expression> {
    let mut parser = Parser {
        rest: text,
        depth: 0,
    };
    let parsed = parser.or()?;
    parser.skip_space();
    (parser.rest.is_empty() || parser.rest.starts_with('#')).then_some(parsed)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn or(&mut self) -> Option<Expression> {
        let mut left = self.and()?;
        while self.take("||") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Some(left)
    }

    fn and(&mut self) -> Option<Expression> {
        let mut left = self.comparison()?;
        while self.take("&&") {
            left = Expression::And(Box::new(left), Box::new(self.comparison()?));
        }
        Some(left)
    }

    fn comparison(&mut self) -> Option<Expression> {
        let left = self.primary()?;
        // Longer signs first, so that `<=` is not read as `<`.
        const SIGNS: [Comparison; 6] = [
            Comparison::Unequal,
            Comparison::LessOrEqual,
            Comparison::GreaterOrEqual,
            Comparison::Equal,
            Comparison::Less,
            Comparison::Greater,
        ];
        for sign in SIGNS {
            if self.take(sign.sign()) {
                return Some(Expression::Compare(
                    Box::new(left),
                    sign,
                    Box::new(self.primary()?),
                ));
            }
        }
        Some(left)
    }

    fn primary(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let parsed = if self.take("!") {
            Some(Expression::Not(Box::new(self.primary()?)))
        } else if self.take("(") {
            let inner = self.or()?;
            self.take(")").then_some(inner)
        } else if self.take("$(") {
            self.opaque()
        } else if self.take("\"") {
            let (text, rest) = self.rest.split_once('"')?;
            self.rest = rest;
            Some(Expression::Text(text.to_owned()))
        } else {
            self.symbol()
        };
        self.depth -= 1;
        parsed
    }

    fn symbol(&mut self) -> Option<Expression> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let end = self
            .rest
            .bytes()
            .position(|byte| !is_name(byte))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then(|| Expression::Symbol(name.to_owned()))
    }

    /// What follows `$(`, up to the parenthesis that closes it.
    fn opaque(&mut self) -> Option<Expression> {
        let mut open = 1;
        for (index, byte) in self.rest.bytes().enumerate() {
            match byte {
                b'(' => open += 1,
                b')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                let text = format!("$({})", &self.rest[..index]);
                self.rest = &self.rest[index + 1..];
                return Some(Expression::Opaque(text));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmet(condition: &str, config: &str) -> Vec<String> {
        let config = DotConfig::parse(config);
        let parsed = parse(condition).expect("an expression");
        parsed
            .unmet(&config)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn only_the_terms_that_fail_are_named() {
        let config = "CONFIG_NET=y\nCONFIG_M=m\n";
        assert_eq!(
            unmet("NET && BLOCK && !M && (A || B)", config),
            ["BLOCK", "!M", "A || B"]
        );
        assert_eq!(unmet("NET || BLOCK", config), Vec::<String>::new());
    }

    #[test]
    fn values_are_compared_as_numbers_where_they_are_numbers() {
        let config = "CONFIG_GCC_VERSION=120200\nCONFIG_NAME=\"a\"\nCONFIG_Y=y\n";
        assert_eq!(
            unmet("GCC_VERSION >= 90000 && NAME = \"a\"", config),
            Vec::<String>::new()
        );
        assert_eq!(
            unmet("GCC_VERSION < 90000", config),
            ["GCC_VERSION < 90000"]
        );
        assert_eq!(unmet("Y != n && ABSENT = n", config), Vec::<String>::new());
    }

    #[test]
    fn compiler_tests_count_as_true_and_do_not_confuse_the_parser() {
        assert_eq!(unmet("$(cc-option,-m(32),a) && X", ""), ["X"]);
    }

    #[test]
    fn negated_groups_keep_their_parentheses() {
        assert_eq!(unmet("!(A || B)", "CONFIG_A=y\n"), ["!(A || B)"]);
    }

    #[test]
    fn text_that_is_no_expression_is_refused_without_panicking() {
        for broken in ["", "&&", "A &&", "(A", "A B", "$(x", "\"open", "ä"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
        assert_eq!(parse(&"!".repeat(100_000)), None, "bounded depth");
        assert_eq!(parse(&"(".repeat(100_000)), None, "bounded depth");
    }
}
