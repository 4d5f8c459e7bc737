//! `kairo methods`, `kairo topics`, `kairo errors`: the kernel's own tables, as text.
//!
//! Everything comes from `kernel.introspect`, so methods that other processes serve are explained
//! like any other, and nothing here can be out of date.

use serde_json::{Value, json};

use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, items, text};

/// The rows of one kind.
fn rows(session: &mut Session<'_>, kind: &str) -> Result<Value, Failure> {
    let mut all = session.call("kernel.introspect", json!({"kind": kind}))?;
    Ok(all[kind].take())
}

/// `kairo methods`.
pub fn methods(
    session: &mut Session<'_>,
    terminal: &Terminal,
    name: Option<&str>,
) -> Result<(), Failure> {
    let Some(name) = name else {
        return summaries(session, terminal, "methods", "name");
    };
    let found = session.call("kernel.introspect", json!({"method": name}))?;
    let method = &found["methods"][0];
    if terminal.json {
        return terminal.json_page(method);
    }
    terminal.heading(name)?;
    terminal.line(text(&method["summary"]))?;
    let classes: Vec<String> = items(&method["classes"]).iter().map(text).collect();
    terminal.line(format!(
        "may be called by: {}, where no rule says otherwise",
        classes.join(", ")
    ))?;
    if let Some(right) = method["right"].as_str() {
        terminal.line(format!(
            "needs the right {right} to what the parameters name"
        ))?;
    }
    keys(terminal, "Parameters", &method["params"])?;
    keys(terminal, "Result", &method["result"])
}

/// `kairo topics`.
pub fn topics(
    session: &mut Session<'_>,
    terminal: &Terminal,
    name: Option<&str>,
) -> Result<(), Failure> {
    let Some(name) = name else {
        return summaries(session, terminal, "topics", "topic");
    };
    let all = rows(session, "topics")?;
    let mut known = items(&all).iter();
    let alias = |topic: &Value| items(&topic["aliases"]).iter().any(|alias| alias == name);
    let Some(topic) = known.find(|topic| topic["topic"] == name || alias(topic)) else {
        let text = format!("kairod publishes no topic {name:?}; `kairo topics` lists them");
        return Err(Failure::Usage(text));
    };
    if terminal.json {
        return terminal.json_page(topic);
    }
    terminal.heading(&text(&topic["topic"]))?;
    terminal.line(text(&topic["summary"]))?;
    terminal.line(format!("durability: {}", text(&topic["class"])))?;
    keys(terminal, "Data", &topic["data"])
}

/// `kairo errors`.
pub fn errors(
    session: &mut Session<'_>,
    terminal: &Terminal,
    name: Option<&str>,
) -> Result<(), Failure> {
    let all = rows(session, "errors")?;
    let mut found = Vec::new();
    for error in items(&all) {
        for reason in items(&error["reasons"]) {
            let wanted = name.is_none_or(|name| error["code"] == name || reason["reason"] == name);
            if wanted {
                let mut row = reason.clone();
                row["code"] = error["code"].clone();
                found.push(row);
            }
        }
    }
    if found.is_empty() {
        let name = name.unwrap_or_default();
        let text = format!("there is no code and no reason {name:?}; `kairo errors` lists them");
        return Err(Failure::Usage(text));
    }
    if terminal.json {
        return terminal.json_page(&json!({"reasons": found}));
    }
    if name.is_none() {
        let mut table = Table::new(&["code", "reason", "means"]);
        for row in &found {
            let cells = [&row["code"], &row["reason"], &row["summary"]];
            table.row(cells.map(|cell| Cell::from(text(cell))));
        }
        return terminal.table(&table);
    }
    for row in &found {
        terminal.heading(&format!("{} {}", text(&row["code"]), text(&row["reason"])))?;
        terminal.line(text(&row["summary"]))?;
        terminal.line(format!("What to do: {}", text(&row["remedy"])))?;
        if row["retryable"] == true {
            terminal.line("The same request can succeed later.")?;
        }
        keys(terminal, "Details", &row["details"])?;
    }
    Ok(())
}

/// A line for each of a kind.
fn summaries(
    session: &mut Session<'_>,
    terminal: &Terminal,
    kind: &'static str,
    key: &'static str,
) -> Result<(), Failure> {
    let all = rows(session, kind)?;
    if terminal.json {
        return terminal.json_page(&json!({ kind: all }));
    }
    let mut table = Table::new(&[key, "says"]);
    for row in items(&all) {
        table.row([
            Cell::from(text(&row[key])),
            Cell::from(text(&row["summary"])),
        ]);
    }
    terminal.table(&table)
}

/// The keys of a schema, with type and meaning.
fn keys(terminal: &Terminal, title: &str, schema: &Value) -> Result<(), Failure> {
    let entries = schema["properties"].as_object();
    let mut table = Table::new(&["key", "", "type", "says"]);
    for (key, about) in entries.into_iter().flatten() {
        let needed = items(&schema["required"])
            .iter()
            .any(|required| required == key.as_str());
        let says = about["description"].as_str().unwrap_or_default();
        table.row([
            Cell::from(key.clone()),
            Cell::from(if needed { "always" } else { "" }.to_string()),
            Cell::from(kind(about, schema)),
            Cell::from(says.replace('\n', " ")),
        ]);
    }
    if entries.is_none_or(serde_json::Map::is_empty) {
        return terminal.line(format!("{title}: nothing"));
    }
    terminal.heading(title)?;
    terminal.table(&table)
}

/// The type of a value in a word or two.
fn kind(about: &Value, whole: &Value) -> String {
    if let Some(reference) = about["$ref"].as_str() {
        let target = whole.pointer(reference.trim_start_matches('#'));
        return target.map_or_else(String::new, |target| kind(target, &Value::Null));
    }
    if let Some(values) = about["enum"].as_array() {
        let values: Vec<String> = values.iter().map(text).collect();
        return values.join(" | ");
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = about[choice].as_array() {
            let kinds: Vec<String> = choices.iter().map(|one| kind(one, whole)).collect();
            return kinds.join(" | ");
        }
    }
    if let Some(value) = about.get("const") {
        return text(value);
    }
    match &about["type"] {
        Value::Array(types) => {
            let types: Vec<String> = types.iter().map(text).collect();
            types.join(" | ")
        }
        one => text(one),
    }
}
