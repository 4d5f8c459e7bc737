//! MsgPack values as JSON and back, for cases and drivers.
//!
//! What JSON lacks is tagged: `{"$bin": HEX}`, `{"$bin_length": N}` for long binary data that came,
//! `{"$bin_repeat": [BYTE, N]}` and `{"$repeat": [TEXT, N]}` for long data to send.

use kairo_wire::Value as Wire;
use serde_json::{Value, json};

/// Binary data longer than this is shown by its length.
const SHOWN_BYTES: usize = 64 * 1024;

/// The bytes of a hexadecimal text; spaces are for people.
pub fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).unwrap())
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text:?}");
    digits
        .chunks_exact(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// A MsgPack value as JSON.
pub fn shown(value: &Wire) -> Value {
    match value {
        Wire::Binary(bytes) if bytes.len() > SHOWN_BYTES => json!({"$bin_length": bytes.len()}),
        Wire::Binary(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({"$bin": hex})
        }
        Wire::Array(items) => items.iter().map(shown).collect(),
        Wire::Map(entries) => {
            let text = |key: &Wire| key.as_str().map_or_else(|| key.to_string(), String::from);
            let entries = entries.iter().map(|(key, value)| (text(key), shown(value)));
            Value::Object(entries.collect())
        }
        plain => serde_json::to_value(plain).unwrap(),
    }
}

/// The long text that `{"$repeat": [TEXT, N]}` stands for.
pub fn repeated(value: &Value) -> Option<String> {
    let parts = value.get("$repeat")?;
    let count = usize::try_from(parts[1].as_u64().unwrap()).unwrap();
    Some(parts[0].as_str().unwrap().repeat(count))
}

/// A case's JSON as MsgPack; `ids` are those of the requests that a peer has read.
pub fn wire(value: &Value, ids: &[Wire]) -> Wire {
    if let Some(text) = repeated(value) {
        return text.into();
    }
    if let Some(index) = value.get("$id") {
        let index = usize::try_from(index.as_u64().unwrap()).unwrap();
        return ids[index].clone();
    }
    if let Some(hex) = value.get("$bin") {
        return Wire::Binary(from_hex(hex.as_str().unwrap()));
    }
    if let Some(parts) = value.get("$bin_repeat") {
        let count = usize::try_from(parts[1].as_u64().unwrap()).unwrap();
        return Wire::Binary(vec![parts[0].as_u64().unwrap() as u8; count]);
    }
    match value {
        Value::Array(items) => Wire::Array(items.iter().map(|item| wire(item, ids)).collect()),
        Value::Object(entries) => Wire::Map(
            entries
                .iter()
                .map(|(key, value)| (key.as_str().into(), wire(value, ids)))
                .collect(),
        ),
        plain => rmp_serde::from_slice(&rmp_serde::to_vec(plain).unwrap()).unwrap(),
    }
}
