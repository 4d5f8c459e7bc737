//! Reads one TOML table key by key, remembering which keys were asked for.
//!
//! setup-only. Each accessor reports a missing key, a wrong type or a value out of range as a
//! problem with its place and returns `None`; [`TableReader::finish`] reports every key that
//! nobody asked for. So a schema is written once, as the sequence of accesses, and unknown keys,
//! types, ranges and the documented key list cannot drift apart.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Problems, nearest};

/// A value with its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// How many tables there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// So many.
    pub(super) count: usize,
    /// Bytes of the statistics that each takes, where that is why.
    pub(super) statistics_bytes: Option<usize>,
}

impl From<usize> for Most {
    fn from(count: usize) -> Self {
        Self {
            count,
            statistics_bytes: None,
        }
    }
}

impl Most {
    /// The arithmetic of a refusal, if there is one.
    fn reason(&self, found: usize) -> String {
        self.statistics_bytes.map_or_else(String::new, |each| {
            format!(
                ": each takes {each} bytes of the statistics, {found} take {}, and there is room \
                 for {}",
                found * each,
                self.count * each
            )
        })
    }
}

/// One table being read.
pub(super) struct TableReader<'d> {
    table: &'d DeTable<'d>,
    span: Range<usize>,
    path: String,
    asked: Vec<&'static str>,
}

impl<'d> TableReader<'d> {
    pub(super) fn new(table: &'d DeTable<'d>, span: Range<usize>, path: &str) -> Self {
        Self {
            table,
            span,
            path: path.to_owned(),
            asked: Vec::new(),
        }
    }

    /// The dotted path of `key` in the file.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The table as it was parsed, for readers of their own.
    pub(super) const fn source(&self) -> &'d DeTable<'d> {
        self.table
    }

    /// Where the table itself stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where the value of `key` is; the table, where it is absent.
    pub(super) fn span_of(&mut self, key: &'static str) -> Range<usize> {
        let value = self.look_up(key);
        value.map_or_else(|| self.span(), Spanned::span)
    }

    fn look_up(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value)
    }

    fn missing(&self, problems: &mut Problems<'_>, key: &str, example: &str) {
        let fix = format!("add `{key} = {example}`");
        problems.add(self.span(), self.path_of(key), "is missing", fix);
    }

    fn wrong_type(
        &self,
        problems: &mut Problems<'_>,
        key: &str,
        found: &Spanned<DeValue<'_>>,
        wanted: &str,
    ) {
        let message = format!(
            "is {} where {wanted} belongs",
            article(found.get_ref().type_str())
        );
        problems.add(
            found.span(),
            self.path_of(key),
            message,
            format!("write {wanted}"),
        );
    }

    /// A text that must be there.
    pub(super) fn text(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        example: &str,
    ) -> Option<Located<String>> {
        let Some(found) = self.look_up(key) else {
            self.missing(problems, key, &format!("\"{example}\""));
            return None;
        };
        let Some(text) = found.get_ref().as_str() else {
            self.wrong_type(
                problems,
                key,
                found,
                &format!("a text such as \"{example}\""),
            );
            return None;
        };
        if text.is_empty() {
            let fix = format!("write a text such as \"{example}\"");
            problems.add(found.span(), self.path_of(key), "is empty", fix);
            return None;
        }
        Some(Located {
            value: text.to_owned(),
            span: found.span(),
        })
    }

    /// A text that must be one of `choices`; the first is suggested when it is missing.
    pub(super) fn choice<T: Copy>(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(problems, key, choices[0].0)?;
        let chosen = choices.iter().find(|(name, _)| *name == text.value);
        if chosen.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let listed = names
                .iter()
                .map(|name| format!("\"{name}\""))
                .collect::<Vec<_>>();
            let mut fix = format!("write {}", listed.join(" or "));
            if let Some(near) = nearest(&text.value, &names) {
                fix = format!("did you mean \"{near}\"? One of {}", listed.join(", "));
            }
            let message = format!("\"{}\" is unknown", text.value);
            problems.add(text.span, self.path_of(key), message, fix);
        }
        chosen.map(|(_, value)| *value)
    }

    /// A whole number in `range`; `default` stands in when the key is not there.
    pub(super) fn integer(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        range: RangeInclusive<i64>,
        default: Option<i64>,
    ) -> Option<Located<i64>> {
        let Some(found) = self.look_up(key) else {
            if default.is_none() {
                let example = format!(
                    "N`, N between {} and {}, as in `{key} = {}",
                    range.start(),
                    range.end(),
                    range.start()
                );
                self.missing(problems, key, &example);
            }
            return default.map(|value| Located {
                value,
                span: self.span(),
            });
        };
        let Some(number) = found.get_ref().as_integer() else {
            self.wrong_type(problems, key, found, "a whole number");
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        match value.filter(|value| range.contains(value)) {
            Some(value) => Some(Located {
                value,
                span: found.span(),
            }),
            None => {
                self.out_of_range(
                    problems,
                    key,
                    found.span(),
                    number.as_str(),
                    (range.start(), range.end()),
                );
                None
            }
        }
    }

    /// A finite number in `range`. Whole numbers are numbers too.
    pub(super) fn number(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<Located<f64>> {
        let Some(found) = self.look_up(key) else {
            self.missing(problems, key, &format!("{:.1}", range.end()));
            return None;
        };
        let text = match found.get_ref() {
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) => {
                let value = i64::from_str_radix(number.as_str(), number.radix());
                value.map_or_else(|_| number.as_str().to_owned(), |value| value.to_string())
            }
            _ => {
                self.wrong_type(problems, key, found, "a number");
                return None;
            }
        };
        match text
            .parse::<f64>()
            .ok()
            .filter(|value| range.contains(value))
        {
            Some(value) => Some(Located {
                value,
                span: found.span(),
            }),
            None => {
                self.out_of_range(
                    problems,
                    key,
                    found.span(),
                    &text,
                    (range.start(), range.end()),
                );
                None
            }
        }
    }

    fn out_of_range(
        &self,
        problems: &mut Problems<'_>,
        key: &str,
        span: Range<usize>,
        value: &str,
        bounds: (impl std::fmt::Display, impl std::fmt::Display),
    ) {
        let message = format!("{value} is out of range");
        let fix = format!("write a value from {} to {}", bounds.0, bounds.1);
        problems.add(span, self.path_of(key), message, fix);
    }

    /// True or false; `default` stands in when the key is not there.
    pub(super) fn boolean(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        default: bool,
    ) -> Option<bool> {
        let Some(found) = self.look_up(key) else {
            return Some(default);
        };
        let value = found.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(problems, key, found, "true or false");
        }
        value
    }

    /// Whether `key` is there. Counts as asking for it.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.look_up(key).is_some()
    }

    /// The table under `key`.
    pub(super) fn table(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
    ) -> Option<TableReader<'d>> {
        let path = self.path_of(key);
        let Some(found) = self.look_up(key) else {
            problems.add(
                0..0,
                path.clone(),
                "is missing",
                format!("add a `[{path}]` table"),
            );
            return None;
        };
        let Some(table) = found.get_ref().as_table() else {
            self.wrong_type(problems, key, found, &format!("a `[{path}]` table"));
            return None;
        };
        Some(TableReader::new(table, found.span(), &path))
    }

    /// The tables of the array under `key`: at least one, at most `most`.
    pub(super) fn tables(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        most: impl Into<Most>,
    ) -> Vec<TableReader<'d>> {
        if self.look_up(key).is_none() {
            let path = self.path_of(key);
            let fix = format!("add a `[[{path}]]` table");
            problems.add(self.span(), path, "is missing", fix);
        }
        self.tables_if_any(problems, key, most)
    }

    /// The tables of the array under `key`: at most `most`, and none if the key is absent.
    pub(super) fn tables_if_any(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        most: impl Into<Most>,
    ) -> Vec<TableReader<'d>> {
        let most = most.into();
        let path = self.path_of(key);
        let Some(found) = self.look_up(key) else {
            return Vec::new();
        };
        let Some(array) = found.get_ref().as_array() else {
            self.wrong_type(problems, key, found, &format!("`[[{path}]]` tables"));
            return Vec::new();
        };
        if array.len() > most.count {
            let message = format!(
                "has {} entries, but kairo-rt serves at most {}{}",
                array.len(),
                most.count,
                most.reason(array.len())
            );
            problems.add(found.span(), path.clone(), message, "remove the others");
        }
        let mut readers = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_table() {
                Some(table) => readers.push(TableReader::new(table, entry.span(), &path)),
                None => self.wrong_type(problems, key, entry, &format!("`[[{path}]]` tables")),
            }
        }
        readers
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        for name in self.table.keys() {
            let key = name.get_ref().as_ref();
            if self.asked.contains(&key) {
                continue;
            }
            let fix = match nearest(key, &self.asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", self.asked.join(", ")),
            };
            problems.add(name.span(), self.path_of(key), "is not a known key", fix);
        }
    }
}

/// "an integer", "a string".
fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
