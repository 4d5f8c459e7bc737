//! The tables of `docs/reference/ipc.md` against the tables in the sources: a row that is missing
//! or says less fails here, with the line to put in.

use std::collections::BTreeSet;

use kairo_wire::ErrorCode;
use serde_json::Value;

use crate::{facts, reasons};

const REFERENCE: &str = include_str!("../../../../docs/reference/ipc.md");

/// The row that begins with `name`.
fn row(name: &str) -> Option<&'static str> {
    let begin = format!("| `{name}` |");
    REFERENCE.lines().find(|line| line.starts_with(&begin))
}

/// The words of a line: names as programs write them.
fn words(line: &str) -> BTreeSet<&str> {
    let parts = line.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
    parts.filter(|word| !word.is_empty()).collect()
}

fn keys(schema: &Value) -> Vec<&str> {
    let properties = schema["properties"].as_object();
    properties
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect()
}

fn report(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "docs/reference/ipc.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_reference_has_every_method_with_its_parameters_and_result() {
    let mut wrong = Vec::new();
    for method in super::all() {
        let (params, result) = (keys(&method.params), keys(&method.result));
        let line = row(method.name).unwrap_or_default();
        let said = words(line);
        // Results that are the same as another method's may say so.
        let refers = ["| the same", "| the identity"];
        let is_short = refers.iter().any(|word| line.contains(word));
        let named = |key: &&str| said.contains(key);
        if line.is_empty() || !params.iter().all(named) || !(is_short || result.iter().all(named)) {
            let (params, result) = (params.join(", "), result.join(", "));
            let name = method.name;
            wrong.push(format!(
                "| `{name}` | … | `{{{params}}}` | `{{{result}}}` |"
            ));
        }
    }
    report(&wrong);
}

#[test]
fn the_reference_has_every_topic_with_its_data() {
    let mut wrong = Vec::new();
    for topic in facts::TOPICS {
        let schema: Value = (topic.data)().into();
        let facts: BTreeSet<&str> = keys(&schema).into_iter().collect();
        let line = row(topic.name).unwrap_or_default();
        let inside = line
            .split_once("`{")
            .and_then(|(_, rest)| rest.split_once('}'));
        if inside.map(|(inside, _)| words(inside)) != Some(facts.clone()) {
            let facts: Vec<&str> = facts.into_iter().collect();
            wrong.push(format!("| `{}` | `{{{}}}` |", topic.name, facts.join(", ")));
        }
    }
    report(&wrong);
}

#[test]
fn the_reference_has_every_code_with_its_reasons() {
    let mut wrong = Vec::new();
    for code in ErrorCode::ALL {
        let rows = reasons::ROWS.iter().filter(|row| row.code == *code);
        let names: Vec<String> = rows.map(|row| format!("`{}`", row.name)).collect();
        let names = names.join(", ");
        let line = row(code.name()).unwrap_or_default();
        if !line.ends_with(&format!(" | {names} |")) {
            wrong.push(format!("| `{code}` | {} | {names} |", code.meaning()));
        }
    }
    report(&wrong);
}
