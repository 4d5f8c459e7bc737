//! JSON Schema as far as the kernel's schemas use it. A keyword that it does not know fails the
//! test: a schema that says more than is checked would pass unseen.

use serde_json::{Map, Value};

/// What says nothing about validity.
const ANNOTATIONS: [&str; 10] = [
    "$schema",
    "$defs",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "format",
    "deprecated",
    "readOnly",
];

/// The first thing wrong with `value` under `schema`, whose references point into `whole`.
pub fn check(value: &Value, schema: &Value, whole: &Value) -> Result<(), String> {
    at("", value, schema, whole)
}

/// Whether `value` is of the JSON type `name`.
pub fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|v| v.fract() == 0.0)
        }
        other => panic!("no type is called {other:?}"),
    }
}

fn at(path: &str, value: &Value, schema: &Value, whole: &Value) -> Result<(), String> {
    let place = if path.is_empty() { "it" } else { path };
    let keywords = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return Err(format!("{place} is not allowed")),
    };
    for (keyword, operand) in keywords {
        if !holds(path, value, keyword, operand, keywords, whole)? {
            let shown: String = value.to_string().chars().take(200).collect();
            return Err(format!(
                "{place} is {shown}, which breaks {keyword}: {operand}"
            ));
        }
    }
    Ok(())
}

fn holds(
    path: &str,
    value: &Value,
    keyword: &str,
    operand: &Value,
    siblings: &Map<String, Value>,
    whole: &Value,
) -> Result<bool, String> {
    let parts = || operand.as_array().unwrap().iter();
    let fits = |part: &Value| at(path, value, part, whole).is_ok();
    let length = || value.as_array().map_or(0, Vec::len) as u64;
    Ok(match keyword {
        "type" => match operand {
            Value::String(name) => is_type(value, name),
            names => names
                .as_array()
                .unwrap()
                .iter()
                .any(|name| is_type(value, name.as_str().unwrap())),
        },
        "const" => value == operand,
        "enum" => parts().any(|known| known == value),
        "minimum" => !value.is_number() || value.as_f64() >= operand.as_f64(),
        "maximum" => !value.is_number() || value.as_f64() <= operand.as_f64(),
        "minItems" => !value.is_array() || length() >= operand.as_u64().unwrap(),
        "maxItems" => !value.is_array() || length() <= operand.as_u64().unwrap(),
        "$ref" => {
            let pointer = operand.as_str().unwrap().trim_start_matches('#');
            let target = whole.pointer(pointer).ok_or(format!("no {operand}"))?;
            at(path, value, target, whole)?;
            true
        }
        "anyOf" => parts().any(fits),
        "oneOf" => parts().filter(|part| fits(part)).count() == 1,
        "allOf" => parts().all(fits),
        "required" => match value {
            Value::Object(entries) => {
                parts().all(|key| entries.contains_key(key.as_str().unwrap()))
            }
            _ => true,
        },
        "properties" => inside(path, value, operand, whole)?,
        "additionalProperties" => others(path, value, operand, siblings, whole)?,
        "items" => match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    at(&format!("{path}[{index}]"), item, operand, whole)?;
                }
                true
            }
            _ => true,
        },
        note if ANNOTATIONS.contains(&note) => true,
        other => panic!("the kernel's schemas use `{other}`, which conformance/schema.rs lacks"),
    })
}

fn inside(path: &str, value: &Value, operand: &Value, whole: &Value) -> Result<bool, String> {
    if let Value::Object(entries) = value {
        for (key, schema) in operand.as_object().unwrap() {
            if let Some(found) = entries.get(key) {
                at(&format!("{path}.{key}"), found, schema, whole)?;
            }
        }
    }
    Ok(true)
}

fn others(
    path: &str,
    value: &Value,
    operand: &Value,
    siblings: &Map<String, Value>,
    whole: &Value,
) -> Result<bool, String> {
    let named = siblings.get("properties").and_then(Value::as_object);
    if let Value::Object(entries) = value {
        for (key, found) in entries {
            if named.is_none_or(|named| !named.contains_key(key)) {
                at(&format!("{path}.{key}"), found, operand, whole)?;
            }
        }
    }
    Ok(true)
}

#[test]
fn schemas_refuse_what_they_should() {
    use serde_json::json;
    let schema = json!({
        "type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"$ref": "#/$defs/N"}, "t": {"type": ["string", "null"]}},
        "$defs": {"N": {"type": "integer", "minimum": 0}},
    });
    let fits = |value: Value| check(&value, &schema, &schema);
    assert_eq!(fits(json!({"n": 1, "t": null})), Ok(()));
    for wrong in [
        json!({}),
        json!({"n": -1}),
        json!({"n": "x"}),
        json!({"n": 1, "u": 1}),
    ] {
        assert!(fits(wrong.clone()).is_err(), "{wrong}");
    }
}
