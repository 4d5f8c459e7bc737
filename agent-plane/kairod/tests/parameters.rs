//! Parameters of the wrong kind, one too many, one too few: for every method of the table, the
//! refusal names the method and the parameter, and kairod is well.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::{Client, ErrorCode, ErrorInfo};
use serde_json::{Map, Value, json};
use support::{System, call};

/// A method as introspection describes it.
struct Method {
    name: String,
    schema: Value,
}

impl Method {
    fn properties(&self) -> Vec<(String, Value)> {
        let properties = self.schema["properties"].as_object();
        let properties = properties.into_iter().flatten();
        properties
            .map(|(name, schema)| (name.clone(), schema.clone()))
            .collect()
    }

    fn required(&self) -> Vec<String> {
        let required = self.schema["required"].as_array().into_iter().flatten();
        required
            .map(|name| name.as_str().unwrap().to_string())
            .collect()
    }

    /// Every required parameter with a value of its kind.
    fn smallest(&self) -> Map<String, Value> {
        let required = self.required().into_iter();
        required
            .map(|name| {
                let value = example(&self.schema["properties"][&name], &self.schema);
                (name, value)
            })
            .collect()
    }
}

/// What a schema stands for, with its reference followed.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => root.pointer(path.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// A value of that schema.
fn example(schema: &Value, root: &Value) -> Value {
    let schema = resolved(schema, root);
    if let Some(value) = schema["enum"].as_array().and_then(|all| all.first()) {
        return value.clone();
    }
    if !schema["const"].is_null() {
        return schema["const"].clone();
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(first) = schema[choice].as_array().and_then(|all| all.first()) {
            return example(first, root);
        }
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].clone(),
        kind => kind.clone(),
    };
    match kind.as_str() {
        Some("string") => json!("x"),
        Some("integer") => json!(1),
        Some("number") => json!(0.5),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten();
            let members = required.map(|name| {
                let name = name.as_str().unwrap();
                (name.to_string(), example(&schema["properties"][name], root))
            });
            Value::Object(members.collect())
        }
        _ => Value::Null,
    }
}

/// Whether a schema takes anything, or a choice of kinds that leaves no value of the wrong one.
fn takes(schema: &Value, root: &Value, value: &Value) -> bool {
    let schema = resolved(schema, root);
    if schema == &json!(true)
        || schema.as_object().is_some_and(|all| {
            !all.contains_key("type")
                && !all.contains_key("enum")
                && !all.contains_key("const")
                && !all.contains_key("anyOf")
                && !all.contains_key("oneOf")
        })
    {
        return true;
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(all) = schema[choice].as_array() {
            return all.iter().any(|one| takes(one, root, value));
        }
    }
    let kind = match value {
        Value::String(_) => "string",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Null => "null",
    };
    let is = |name: &Value| {
        name.as_str()
            .is_some_and(|name| name == kind || (name == "number" && kind == "integer"))
    };
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is),
        name => is(name),
    }
}

fn methods(client: &mut Client) -> Vec<Method> {
    let all = call(client, "kernel.introspect", json!({})).unwrap();
    let all = all["methods"].as_array().unwrap().iter();
    all.map(|method| Method {
        name: method["name"].as_str().unwrap().to_string(),
        schema: method["params"].clone(),
    })
    .collect()
}

fn refused(client: &mut Client, method: &Method, params: Map<String, Value>) -> ErrorInfo {
    let shown = format!("{} {}", method.name, Value::Object(params.clone()));
    let error = match call(client, &method.name, Value::Object(params)) {
        Err(error) => error,
        Ok(result) => panic!("{shown} was taken: {result}"),
    };
    assert_eq!(error.code, ErrorCode::InvalidParams, "{shown}: {error}");
    assert!(error.message.contains(&method.name), "{shown}: {error}");
    error
}

#[test]
fn a_parameter_of_the_wrong_kind_is_named_with_what_it_should_be() {
    let system = System::start();
    let mut client = system.client();
    let wrong = [
        json!("text"),
        json!(3),
        json!(-3),
        json!(0.5),
        json!(true),
        json!([1]),
        json!({"a": 1}),
    ];
    let mut tried = 0;
    for method in methods(&mut client) {
        for (name, schema) in method.properties() {
            for value in &wrong {
                if takes(&schema, &method.schema, value) {
                    continue;
                }
                let mut params = method.smallest();
                params.insert(name.clone(), value.clone());
                let error = refused(&mut client, &method, params);
                let named = format!("`{name}");
                assert!(
                    error.message.contains(&named),
                    "{} {name} = {value}: {error}",
                    method.name
                );
                for empty in [
                    "did not match any variant",
                    "data did not match",
                    "syntax error",
                ] {
                    assert!(
                        !error.message.contains(empty),
                        "{} {name} = {value}: {error}",
                        method.name
                    );
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried} wrong values were tried");
    call(&mut client, "kernel.ping", json!({})).unwrap();
}

#[test]
fn a_required_parameter_that_is_missing_is_named() {
    let system = System::start();
    let mut client = system.client();
    for method in methods(&mut client) {
        for name in method.required() {
            let mut params = method.smallest();
            params.remove(&name);
            let error = refused(&mut client, &method, params);
            let named = format!("`{name}`");
            assert!(error.message.contains(&named), "{}: {error}", method.name);
        }
    }
}

#[test]
fn a_parameter_that_no_method_has_is_named() {
    let system = System::start();
    let mut client = system.client();
    for method in methods(&mut client) {
        let mut params = method.smallest();
        params.insert("surprise".into(), json!(1));
        let error = refused(&mut client, &method, params);
        assert_eq!(error.reason_name(), "unknown_key", "{}", method.name);
        assert!(
            error.message.contains("`surprise`"),
            "{}: {error}",
            method.name
        );
    }
}
