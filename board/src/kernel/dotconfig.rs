//! A kernel `.config`: the result of kconfig.
//!
//! Guarantees: symbols that are off or absent are the same thing, as they are to the kernel's
//! own code. Does not: write one.

use std::collections::BTreeMap;

/// The symbols of a `.config` that have a value.
#[derive(Debug, Clone, Default)]
pub struct DotConfig {
    values: BTreeMap<String, String>,
}

impl DotConfig {
    /// Reads `CONFIG_X=value` lines; everything else says nothing.
    pub fn parse(text: &str) -> Self {
        let values = text
            .lines()
            .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='))
            .filter(|(_, value)| *value != "n")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { values }
    }

    /// The value as kconfig writes it (texts with their quotes); `None` when off or absent.
    pub fn value(&self, symbol: &str) -> Option<&str> {
        self.values.get(symbol).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_and_absent_symbols_have_no_value() {
        let text = "# CONFIG_OFF is not set\nCONFIG_ON=y\nCONFIG_TEXT=\"a=b\"\nCONFIG_NO=n\n";
        let config = DotConfig::parse(text);
        assert_eq!(config.value("ON"), Some("y"));
        assert_eq!(config.value("TEXT"), Some("\"a=b\""));
        assert_eq!(
            (config.value("OFF"), config.value("NO"), config.value("X")),
            (None, None, None)
        );
    }
}
