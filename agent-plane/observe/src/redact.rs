//! Takes secrets out of what leaves a process for people's eyes: log lines, snapshots, traces.
//!
//! Two rules. By name: what stands under a key that sounds like a secret (`token`, `password`,
//! `Authorization`, …) goes, whatever it looks like, also in a text that holds JSON, a header or an
//! assignment. By shape: vault handles, PEM blocks, bearer tokens, JSON web tokens, well-known
//! prefixes, passwords in addresses, and long words that look random go wherever they stand.
//!
//! Everything is one pass over the text, without recursion beyond [`MAX_DEPTH`], so a hostile text
//! costs its length. When in doubt it takes too much. It cannot know a secret that looks like a
//! word, or one that was encoded: it is a backstop, and not what keeps secrets in the vault.

mod shape;

use std::borrow::Cow;

use rmpv::Value as Wire;
use serde_json::{Map, Value};

/// Deepest nesting that is shown; what lies deeper is left out.
pub const MAX_DEPTH: usize = 12;
/// What stands where something was taken out.
pub const REDACTED: &str = "[redacted]";
/// What stands where the budget was used up.
pub const LEFT_OUT: &str = "[left out]";

/// Parts of keys that make what stands under them a secret, without case, `_`, `-`, and spaces.
const SECRET_PARTS: [&str; 14] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "apikey",
    "privatekey",
    "accesskey",
    "credential",
    "authorization",
    "cookie",
    "signature",
    "bearer",
];
/// Whole keys, and ends of keys, that do. Ends, because `ssh_key` is one and `keyboard` is not.
const SECRET_ENDS: [&str; 3] = ["key", "keys", "auth"];
/// Longest key that is looked at; a longer one is taken for a secret's.
const MAX_KEY_BYTES: usize = 128;

/// Whether what stands under `key` is taken for a secret.
pub fn is_secret_key(key: &str) -> bool {
    if key.len() > MAX_KEY_BYTES {
        return true;
    }
    let plain: String = key
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    SECRET_PARTS.iter().any(|part| plain.contains(part))
        || SECRET_ENDS.iter().any(|end| plain.ends_with(end))
        || plain == "pin"
}

/// `text` without secrets.
pub fn text(text: &str) -> Cow<'_, str> {
    // A document as a text: what its escapes hide from a scan is plain once it is read.
    if text.trim_start().starts_with(['{', '['])
        && let Ok(document) = serde_json::from_str::<Value>(text)
    {
        let mut budget = Budget::default();
        return Cow::Owned(json(&document, &mut budget).to_string());
    }
    shape::without_secrets(text)
}

/// How much may still be shown: bounds what a snapshot costs whoever reads it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Values.
    pub values: usize,
    /// Bytes of texts and keys.
    pub bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            values: 4096,
            bytes: 64 * 1024,
        }
    }
}

impl Budget {
    /// Takes a value with a text of so many bytes; false when that is too much.
    fn take(&mut self, bytes: usize) -> bool {
        if self.values == 0 || self.bytes < bytes {
            self.values = 0;
            return false;
        }
        self.values -= 1;
        self.bytes -= bytes;
        true
    }

    /// Whether something was left out.
    pub const fn is_used_up(&self) -> bool {
        self.values == 0
    }
}

/// `value` without secrets, and within `budget`.
pub fn json(value: &Value, budget: &mut Budget) -> Value {
    json_at(value, budget, 0)
}

fn json_at(value: &Value, budget: &mut Budget, depth: usize) -> Value {
    let length = value.as_str().map_or(8, str::len);
    if depth > MAX_DEPTH || !budget.take(length) {
        return LEFT_OUT.into();
    }
    match value {
        Value::String(text) => self::text(text).into(),
        Value::Array(items) => {
            let mut shown = Vec::new();
            for item in items {
                shown.push(json_at(item, budget, depth + 1));
                if budget.is_used_up() {
                    break;
                }
            }
            shown.into()
        }
        Value::Object(entries) => {
            let mut shown = Map::new();
            for (key, value) in entries {
                let value = under(key, budget, |budget| json_at(value, budget, depth + 1));
                put(&mut shown, key, value);
                if budget.is_used_up() {
                    break;
                }
            }
            shown.into()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// A value of the wire as JSON, without secrets and within `budget`. Bytes are shown by their
/// number alone; keys that are no texts as texts.
pub fn wire(value: &Wire, budget: &mut Budget) -> Value {
    wire_at(value, budget, 0)
}

fn wire_at(value: &Wire, budget: &mut Budget, depth: usize) -> Value {
    let length = value.as_str().map_or(8, str::len);
    if depth > MAX_DEPTH || !budget.take(length) {
        return LEFT_OUT.into();
    }
    match value {
        Wire::Nil => Value::Null,
        Wire::Boolean(is) => (*is).into(),
        Wire::Integer(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => Value::Null,
        },
        // What is not finite has no number in JSON.
        Wire::F32(number) => f64::from(*number).into(),
        Wire::F64(number) => (*number).into(),
        Wire::String(text) => self::text(text.as_str().unwrap_or("[not UTF-8]")).into(),
        Wire::Binary(bytes) => Value::String(format!("[{} bytes]", bytes.len())),
        Wire::Ext(_, bytes) => Value::String(format!("[{} bytes]", bytes.len())),
        Wire::Array(items) => {
            let mut shown = Vec::new();
            for item in items {
                shown.push(wire_at(item, budget, depth + 1));
                if budget.is_used_up() {
                    break;
                }
            }
            shown.into()
        }
        Wire::Map(entries) => {
            let mut shown = Map::new();
            for (key, value) in entries {
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_string);
                let value = under(&key, budget, |budget| wire_at(value, budget, depth + 1));
                put(&mut shown, &key, value);
                if budget.is_used_up() {
                    break;
                }
            }
            shown.into()
        }
    }
}

/// What is shown under `key`: truth values and nothing say no secret.
fn under(key: &str, budget: &mut Budget, show: impl FnOnce(&mut Budget) -> Value) -> Value {
    if !budget.take(key.len()) {
        return LEFT_OUT.into();
    }
    let shown = show(budget);
    if is_secret_key(key) && !matches!(shown, Value::Null | Value::Bool(_)) {
        return REDACTED.into();
    }
    shown
}

/// Puts an entry under its key, which somebody may have chosen too.
fn put(shown: &mut Map<String, Value>, key: &str, value: Value) {
    let cut: String = key.chars().take(MAX_KEY_BYTES).collect();
    let plain = text(&cut).into_owned();
    let mut name = plain.clone();
    // Two secrets as keys look alike afterwards. There are at most as many as entries.
    let mut number = 1;
    while shown.contains_key(&name) {
        number += 1;
        name = format!("{plain}#{number}");
        if number > 64 {
            return;
        }
    }
    shown.insert(name, value);
}

#[cfg(test)]
mod tests;
