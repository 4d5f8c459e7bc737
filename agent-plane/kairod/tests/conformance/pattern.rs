//! What an outcome should look like: JSON with a few words that begin with `$`.
//!
//! Objects match if every named key matches (others may be there), arrays element by element,
//! numbers by value. See `agent-plane/conformance/README.md` for the words.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::wire_json::{from_hex, shown};

/// Values that a case has bound to names.
pub type Bindings = BTreeMap<String, Value>;

/// Whether `found` is what `wanted` says; binds names on the way. The error names the place.
pub fn matches(wanted: &Value, found: &Value, bound: &mut Bindings) -> Result<(), String> {
    at("", wanted, found, bound)
}

fn at(path: &str, wanted: &Value, found: &Value, bound: &mut Bindings) -> Result<(), String> {
    let place = if path.is_empty() { "it" } else { path };
    let wrong = || Err(format!("{place} is {}, expected {wanted}", short(found)));
    match wanted {
        Value::Object(entries) if entries.keys().any(|key| key.starts_with('$')) => {
            for (word, operand) in entries {
                if !special(path, word, operand, found, bound)? {
                    return wrong();
                }
            }
            Ok(())
        }
        Value::Object(entries) => {
            let Value::Object(present) = found else {
                return wrong();
            };
            for (key, wanted) in entries {
                let inner = format!("{path}.{key}");
                let absent = wanted.get("$absent") == Some(&Value::Bool(true));
                match present.get(key) {
                    None if absent => {}
                    None => return Err(format!("{inner} is absent, expected {wanted}")),
                    Some(found) if absent => {
                        return Err(format!("{inner} is {}, expected none", short(found)));
                    }
                    Some(found) => at(&inner, wanted, found, bound)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => match found {
            Value::Array(present) if present.len() == items.len() => items
                .iter()
                .zip(present)
                .enumerate()
                .try_for_each(|(index, (wanted, found))| {
                    at(&format!("{path}[{index}]"), wanted, found, bound)
                }),
            _ => wrong(),
        },
        Value::Number(number) => match (number.as_f64(), found.as_f64()) {
            (Some(wanted), Some(found)) if wanted == found => Ok(()),
            _ => wrong(),
        },
        _ if wanted == found => Ok(()),
        _ => wrong(),
    }
}

/// One word: whether it holds.
fn special(
    path: &str,
    word: &str,
    operand: &Value,
    found: &Value,
    bound: &mut Bindings,
) -> Result<bool, String> {
    Ok(match word {
        "$bind" => {
            bound.insert(operand.as_str().unwrap().into(), found.clone());
            true
        }
        "$ref" => bound.get(operand.as_str().unwrap()) == Some(found),
        "$type" => crate::schema::is_type(found, operand.as_str().unwrap()),
        "$above" => {
            let bound = match operand.get("$ref").and_then(Value::as_str) {
                Some(name) => bound[name].as_f64(),
                None => operand.as_f64(),
            };
            found.as_f64() > bound
        }
        "$length" => {
            let length = match found {
                Value::String(text) => text.chars().count(),
                Value::Array(items) => items.len(),
                Value::Object(entries) => entries.len(),
                _ => return Ok(false),
            };
            operand.as_u64() == Some(length as u64)
        }
        "$contains" => match found {
            Value::String(text) => text.contains(operand.as_str().unwrap()),
            Value::Array(items) => items
                .iter()
                .any(|item| at(path, operand, item, bound).is_ok()),
            _ => false,
        },
        "$msgpack" => {
            let Some(hex) = found.get("$bin").and_then(Value::as_str) else {
                return Ok(false);
            };
            let value: kairo_wire::Value =
                rmp_serde::from_slice(&from_hex(hex)).map_err(|error| error.to_string())?;
            at(path, operand, &shown(&value), bound)?;
            true
        }
        // Tags of binary data stand for themselves.
        "$bin" | "$bin_length" => found.get(word) == Some(operand),
        _ => return Err(format!("{path}: a pattern has no word {word:?}")),
    })
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a case sends: names replaced by what they are bound to, and long texts made.
pub fn filled(value: &Value, bound: &Bindings) -> Result<Value, String> {
    if let Some(name) = value.get("$ref").and_then(Value::as_str) {
        let value = bound.get(name);
        return value
            .cloned()
            .ok_or(format!("nothing is bound to {name:?}"));
    }
    if let Some(text) = crate::wire_json::repeated(value) {
        return Ok(text.into());
    }
    Ok(match value {
        Value::Array(items) => {
            let filled: Result<Vec<Value>, String> =
                items.iter().map(|item| filled(item, bound)).collect();
            Value::Array(filled?)
        }
        Value::Object(entries) => {
            let filled: Result<serde_json::Map<String, Value>, String> = entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), filled(value, bound)?)))
                .collect();
            Value::Object(filled?)
        }
        plain => plain.clone(),
    })
}

#[test]
fn patterns_see_what_is_wrong_and_where() {
    use serde_json::json;
    let check = |wanted: Value, found: Value| matches(&wanted, &found, &mut Bindings::new());
    assert!(check(json!({"a": 1}), json!({"a": 1.0, "b": 2})).is_ok());
    assert!(check(json!({"a": {"$absent": true}}), json!({"a": 1})).is_err());
    assert!(check(json!({"$contains": {"b": 1}}), json!([{"b": 2}, {"b": 1}])).is_ok());
    assert!(check(json!({"$contains": {"b": 3}}), json!([{"b": 2}])).is_err());
    assert!(check(json!([1, 2]), json!([1, 2, 3])).is_err());
    let wrong = check(json!({"a": [{"b": true}]}), json!({"a": [{"b": null}]})).unwrap_err();
    assert!(wrong.contains(".a[0].b"), "{wrong}");
    let packed = json!({"$bin": "81a16101"});
    assert!(check(json!({"$msgpack": {"a": 1}}), packed.clone()).is_ok());
    assert!(check(json!({"$msgpack": {"a": 2}}), packed).is_err());
    assert!(check(json!({"$above": 3}), json!(3)).is_err());
    assert!(check(json!({"$sounds": "right"}), json!(1)).is_err());
}
