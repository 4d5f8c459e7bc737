//! A table of the file as `kairo_blocks` reads it: the same tree, without the parser.
//!
//! setup-only.

use std::ops::Range;

use kairo_blocks::settings::{Entry, Table, Value};
use toml::de::{DeTable, DeValue};

/// The table `source` that stands at `span`.
pub(super) fn table(source: &DeTable<'_>, span: Range<usize>) -> Table {
    let entries = source.iter().map(|(key, found)| Entry {
        key: key.get_ref().to_string(),
        key_span: key.span(),
        value: value(found.get_ref(), found.span()),
        span: found.span(),
    });
    Table {
        entries: entries.collect(),
        span,
    }
}

fn value(source: &DeValue<'_>, span: Range<usize>) -> Value {
    match source {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other, Value::Number),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other, |value| Value::Number(value as f64)),
        DeValue::Array(list) => {
            let values = list.iter();
            Value::List(
                values
                    .map(|entry| (value(entry.get_ref(), entry.span()), entry.span()))
                    .collect(),
            )
        }
        DeValue::Table(inner) => Value::Table(table(inner, span)),
        DeValue::Datetime(_) => Value::Other,
    }
}
