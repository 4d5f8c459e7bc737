//! A block's table in `robot.toml`, read key by key.
//!
//! setup-only. Every accessor reports a missing key, a wrong type or a value out of range as a
//! [`Complaint`] with its place and remedy, and gives `None`; [`Settings::finish`] complains about
//! every key nobody asked for. So a kind's keys, ranges and defaults are written once, as the
//! accesses its design makes. [`Table`] is the file's tree without the file format, so that this
//! crate and everyone's tests need no parser.

use std::ops::{Range, RangeInclusive};

use crate::unit::Unit;

/// Bytes of the file.
pub type Span = Range<usize>;

/// A value of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number, whole or not.
    Number(f64),
    /// A text.
    Text(String),
    /// True or false.
    Flag(bool),
    /// A list.
    List(Vec<(Value, Span)>),
    /// A table.
    Table(Table),
    /// Anything else, such as a date.
    Other,
}

impl Value {
    fn noun(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other => "something else",
        }
    }
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Value,
    /// Where the value stands.
    pub span: Span,
}

/// A table of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Its entries, in any order.
    pub entries: Vec<Entry>,
    /// Where it stands.
    pub span: Span,
}

impl Table {
    /// The entry under `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// This table with one more entry that stands nowhere. For programs and tests.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.entries.push(Entry {
            key: key.to_owned(),
            key_span: 0..0,
            value: value.into(),
            span: 0..0,
        });
        self
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}
impl From<Table> for Value {
    fn from(value: Table) -> Self {
        Self::Table(value)
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(list: Vec<T>) -> Self {
        Self::List(list.into_iter().map(|value| (value.into(), 0..0)).collect())
    }
}

/// A mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where.
    pub span: Span,
    /// The key it is about, without the path of the table.
    pub key: String,
    /// What is wrong, with the value.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

/// One table being read. See the module documentation.
#[derive(Debug)]
pub struct Settings<'t> {
    table: &'t Table,
    period_s: f64,
    asked: Vec<String>,
    complaints: Vec<Complaint>,
}

impl<'t> Settings<'t> {
    /// Reads `table` for a block that runs every `period_s` seconds. `known` keys are somebody
    /// else's and no mistake here.
    pub fn new(table: &'t Table, period_s: f64, known: &[&str]) -> Self {
        Self {
            table,
            period_s,
            asked: known.iter().map(|key| (*key).to_owned()).collect(),
            complaints: Vec::new(),
        }
    }

    /// The period of the loop, s.
    pub const fn period_s(&self) -> f64 {
        self.period_s
    }

    /// The keys that were asked for, and those known from the start.
    pub fn asked(&self) -> &[String] {
        &self.asked
    }

    /// Whether `key` is there. Counts as asking for it.
    pub fn has(&mut self, key: &str) -> bool {
        self.look_up(key).is_some()
    }

    /// A number in `range` under a key that names its own unit; `default` stands in when it is not
    /// there.
    pub fn number(
        &mut self,
        key: &str,
        range: RangeInclusive<f64>,
        default: Option<f64>,
    ) -> Option<f64> {
        let Some(entry) = self.look_up(key) else {
            if default.is_none() {
                let example = number_between(&range);
                self.missing(key, &example);
            }
            return default;
        };
        self.accept_number(key, &entry.value, &entry.span, &range)
    }

    /// A number under `base` and the ending of `unit`, as in `output_max_rad_s`.
    pub fn quantity(
        &mut self,
        base: &str,
        unit: Unit,
        range: RangeInclusive<f64>,
        default: Option<f64>,
    ) -> Option<f64> {
        self.number(&format!("{base}{}", unit.suffix()), range, default)
    }

    /// `count` numbers in `range`: a list of them, or one for all.
    pub fn numbers(
        &mut self,
        key: &str,
        count: usize,
        range: RangeInclusive<f64>,
        default: Option<f64>,
    ) -> Option<Vec<f64>> {
        let list = self.look_up(key).and_then(|entry| match &entry.value {
            Value::List(list) => Some((list, entry.span.clone())),
            _ => None,
        });
        let Some((list, span)) = list else {
            return self
                .number(key, range, default)
                .map(|value| vec![value; count]);
        };
        if list.len() != count {
            let message = format!("has {} numbers where {count} belong", list.len());
            self.complain_at(span, key, message, format!("write {count} numbers, or one"));
            return None;
        }
        let accepted = list
            .iter()
            .map(|(value, span)| self.accept_number(key, value, span, &range));
        accepted.collect::<Vec<_>>().into_iter().collect()
    }

    /// A whole number in `range`.
    pub fn count(
        &mut self,
        key: &str,
        range: RangeInclusive<usize>,
        default: Option<usize>,
    ) -> Option<usize> {
        let bounds = *range.start() as f64..=*range.end() as f64;
        let value = self.number(key, bounds, default.map(|value| value as f64))?;
        if value.fract() != 0.0 {
            let fix = format!("write a whole number, such as {}", value.trunc());
            self.complain(key, format!("{value} is not a whole number"), fix);
            return None;
        }
        Some(value as usize)
    }

    /// True or false.
    pub fn flag(&mut self, key: &str, default: bool) -> Option<bool> {
        match self.look_up(key) {
            None => Some(default),
            Some(entry) => match entry.value {
                Value::Flag(value) => Some(value),
                _ => self.wrong_type(key, &entry.value, &entry.span, "true or false"),
            },
        }
    }

    /// A text; `None` with a complaint when it is missing.
    pub fn text(&mut self, key: &str, example: &str) -> Option<String> {
        let Some(entry) = self.look_up(key) else {
            self.missing(key, &format!("\"{example}\""));
            return None;
        };
        match &entry.value {
            Value::Text(text) => Some(text.clone()),
            other => self.wrong_type(key, other, &entry.span, "a text"),
        }
    }

    /// A list of texts; empty with a complaint when it is missing.
    pub fn texts(&mut self, key: &str, example: &str) -> Vec<String> {
        let Some(entry) = self.look_up(key) else {
            self.missing(key, &format!("[\"{example}\"]"));
            return Vec::new();
        };
        let Value::List(list) = &entry.value else {
            self.wrong_type::<()>(key, &entry.value, &entry.span, "a list of texts");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (value, span) in list {
            match value {
                Value::Text(text) => texts.push(text.clone()),
                other => drop(self.wrong_type::<()>(key, other, span, "a text")),
            }
        }
        texts
    }

    /// A unit by its name.
    pub fn unit(&mut self, key: &str, default: Option<Unit>) -> Option<Unit> {
        if default.is_some() && !self.has(key) {
            return default;
        }
        let name = self.text(key, "rad")?;
        let unit = Unit::parse(&name);
        if unit.is_none() {
            let names: Vec<String> = Unit::all().map(|unit| unit.to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let fix = match nearest(&name, &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write one such as \"1\", \"rad\", \"rad/s\", \"Nm\", \"A\"".to_owned(),
            };
            self.complain(key, format!("\"{name}\" is no unit known here"), fix);
        }
        unit
    }

    /// The tables of a list; empty with a complaint when there is none.
    pub fn tables(&mut self, key: &str) -> Vec<&'t Table> {
        let Some(entry) = self.look_up(key) else {
            let fix = format!("add a `[[block.{key}]]` table");
            self.complain_at(self.table.span.clone(), key, "is missing", fix);
            return Vec::new();
        };
        let Value::List(list) = &entry.value else {
            self.wrong_type::<()>(key, &entry.value, &entry.span, "a list of tables");
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (value, span) in list {
            match value {
                Value::Table(table) => tables.push(table),
                other => drop(self.wrong_type::<()>(key, other, span, "a table")),
            }
        }
        tables
    }

    /// Any value at all.
    pub fn raw(&mut self, key: &str) -> Option<&'t Entry> {
        self.look_up(key)
    }

    /// Reads a table inside this one, with complaints gathered here.
    pub fn nested<T>(&mut self, table: &'t Table, read: impl FnOnce(&mut Self) -> T) -> T {
        let mut inner = Self::new(table, self.period_s, &[]);
        let result = read(&mut inner);
        self.complaints.extend(inner.finish());
        result
    }

    /// Adds a complaint about the value under `key`, or about the table when it is not there.
    pub fn complain(&mut self, key: &str, message: impl Into<String>, fix: impl Into<String>) {
        let entry = self.table.get(key);
        let span = entry.map_or_else(|| self.table.span.clone(), |entry| entry.span.clone());
        self.complain_at(span, key, message, fix);
    }

    /// Adds a complaint about a place.
    pub fn complain_at(
        &mut self,
        span: Span,
        key: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.complaints.push(Complaint {
            span,
            key: key.to_owned(),
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// All complaints, with one for each key nobody asked for.
    pub fn finish(self) -> Vec<Complaint> {
        self.close(false)
    }

    /// All complaints of a reader that gave up on the way: keys it did not come to are none, unless
    /// they are nearly one it did ask for.
    pub fn give_up(self) -> Vec<Complaint> {
        self.close(true)
    }

    fn close(mut self, gave_up: bool) -> Vec<Complaint> {
        let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
        for entry in &self.table.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let fix = match nearest(&entry.key, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None if gave_up => continue,
                None => format!("the keys here are {}", known.join(", ")),
            };
            self.complaints.push(Complaint {
                span: entry.key_span.clone(),
                key: entry.key.clone(),
                message: "is not a known key".to_owned(),
                fix,
            });
        }
        self.complaints
    }

    fn look_up(&mut self, key: &str) -> Option<&'t Entry> {
        if !self.asked.iter().any(|asked| asked == key) {
            self.asked.push(key.to_owned());
        }
        self.table.get(key)
    }

    fn missing(&mut self, key: &str, example: &str) {
        let fix = format!("add `{key} = {example}`");
        self.complain_at(self.table.span.clone(), key, "is missing", fix);
    }

    fn wrong_type<T>(&mut self, key: &str, found: &Value, span: &Span, wanted: &str) -> Option<T> {
        let message = format!("is {} where {wanted} belongs", found.noun());
        self.complain_at(span.clone(), key, message, format!("write {wanted}"));
        None
    }

    fn accept_number(
        &mut self,
        key: &str,
        value: &Value,
        span: &Span,
        range: &RangeInclusive<f64>,
    ) -> Option<f64> {
        let Value::Number(number) = value else {
            return self.wrong_type(key, value, span, "a number");
        };
        // NaN is in no range.
        if !range.contains(number) {
            let fix = format!("write {}", number_between(range));
            self.complain_at(span.clone(), key, format!("{number} is out of range"), fix);
            return None;
        }
        Some(*number)
    }
}

fn number_between(range: &RangeInclusive<f64>) -> String {
    format!("N, N from {} to {}", range.start(), range.end())
}

/// The known name that `name` was probably meant to be, if one is near enough: at most a third of
/// the longer of the two may differ.
pub fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(name.len()))
        .min()
        .map(|(_, candidate)| candidate)
}
