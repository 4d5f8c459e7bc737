//! `kairo events`.

use std::time::Duration;

use kairo_wire::{ClientError, Event, Incoming};
use serde_json::{Value, json};

use crate::arguments::EventOptions;
use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// How long to wait for an event before waiting again; only a bound on one wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints events until Ctrl-C, or as many as were asked for.
pub fn follow(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &EventOptions,
) -> Result<(), Failure> {
    let params = json!({"topics": options.patterns, "policy": "block"});
    let timeout = session.timeout;
    let mut events = session
        .client
        .subscribe("event.subscribe", params, timeout)?;
    events.set_patience(PATIENCE);
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        match events.next() {
            Some(Ok(Incoming::Event(event))) => {
                left -= 1;
                show(terminal, &event)?;
            }
            Some(Err(ClientError::Deadline(_)) | Ok(Incoming::Chunk(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        }
    }
    Ok(())
}

fn show(terminal: &Terminal, event: &Event) -> Result<(), Failure> {
    if terminal.json {
        let whole = serde_json::to_value(event);
        let whole = whole.map_err(|error| Failure::NotDone(error.to_string()))?;
        return terminal.json_line(&whole);
    }
    let data: Value = kairo_wire::message::typed(&event.data).unwrap_or(Value::Null);
    let facts = data.as_object().into_iter().flatten();
    let facts: Vec<String> = facts.map(|(key, value)| format!("{key}={value}")).collect();
    terminal.line(format!("{}  {}  {}", event.time, event.topic, facts.join(" ")).trim_end())
}
