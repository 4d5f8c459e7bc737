//! `kairo events`: as they happen, from the log, replayed.

use std::time::Duration;

use kairo_wire::{ClientError, Event, Incoming};
use serde_json::{Map, Value, json};

use crate::arguments::{EventReplayOptions, QueryOptions, TailOptions};
use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Terminal, Tone};

/// How long to wait for an event before waiting again; only a bound on one wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events asked for at once.
const PAGE: u64 = 200;
/// The last event of a replay, which is about the replay and not of it.
const REPLAYED: &str = "kairo.system.event.replayed";

/// Prints events until Ctrl-C, or as many as were asked for.
pub fn tail(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &TailOptions,
) -> Result<(), Failure> {
    let mut params = json!({"topics": options.patterns, "policy": "block"});
    if let Some(from) = &options.from {
        params["from"] = from
            .parse()
            .map_or_else(|_| json!(from), |seq: u64| json!(seq));
    }
    if let Some(consumer) = &options.consumer {
        params["consumer"] = json!(consumer);
    }
    let timeout = session.timeout;
    let mut events = session
        .client
        .subscribe("event.subscribe", params, timeout)?;
    events.set_patience(PATIENCE);
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = next(&mut events)? else {
            return Ok(());
        };
        left -= 1;
        show(terminal, &event, false)?;
        if options.consumer.is_some() {
            // Printed: it need not come again.
            events.acknowledge(event.seq)?;
        }
    }
    Ok(())
}

/// The next event; none when the kernel has closed the connection.
fn next(
    events: &mut impl Iterator<Item = Result<Incoming, ClientError>>,
) -> Result<Option<Event>, Failure> {
    loop {
        match events.next() {
            Some(Ok(Incoming::Event(event))) => return Ok(Some(event)),
            Some(Err(ClientError::Deadline(_)) | Ok(Incoming::Chunk(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(None),
        }
    }
}

/// Prints what the log holds.
pub fn query(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &QueryOptions,
) -> Result<(), Failure> {
    let mut params = Map::new();
    params.insert("topics".into(), json!(options.patterns));
    let texts = [
        ("stream", &options.stream),
        ("correlation_id", &options.correlation),
        ("since", &options.since),
        ("before", &options.before),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            params.insert(key.into(), json!(text));
        }
    }
    let (mut after, mut left, mut damaged) = (options.after, options.limit, 0);
    while left > 0 {
        params.insert("after_seq".into(), json!(after));
        params.insert("limit".into(), json!(left.min(PAGE)));
        let page = session.call("event.query", Value::Object(params.clone()))?;
        let events: Vec<Event> = serde_json::from_value(page["events"].clone())
            .map_err(|error| Failure::NotDone(format!("event.query: {error}")))?;
        for event in &events {
            show(terminal, event, true)?;
        }
        left = left.saturating_sub(events.len() as u64);
        damaged += page["damaged"].as_array().map_or(0, Vec::len);
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    if damaged > 0 {
        let text = format!("{damaged} events in that range are damaged and cannot be shown");
        return Err(Failure::NotDone(text));
    }
    Ok(())
}

/// Prints a replay.
pub fn replay(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &EventReplayOptions,
) -> Result<(), Failure> {
    let mut params = json!({"topics": options.patterns, "from_seq": options.from});
    if let Some(until) = options.until {
        params["until_seq"] = json!(until);
    }
    let timeout = session.timeout;
    let mut events = session.client.subscribe("event.replay", params, timeout)?;
    events.set_patience(PATIENCE);
    while let Some(event) = next(&mut events)? {
        if event.topic == REPLAYED && !event.replay {
            return Ok(());
        }
        show(terminal, &event, true)?;
    }
    Ok(())
}

/// What a topic's last word says about it.
fn tone(topic: &str) -> Tone {
    match topic.rsplit('.').next().unwrap_or_default() {
        "lost" | "denied" | "failsafe" => Tone::Bad,
        "gap" | "degraded" | "removed" | "safe" => Tone::Warn,
        "added" | "connected" | "ready" => Tone::Good,
        _ => Tone::Strong,
    }
}

/// Prints an event, with its number where that is a way to come back to it.
fn show(terminal: &Terminal, event: &Event, numbered: bool) -> Result<(), Failure> {
    if terminal.json {
        let whole = serde_json::to_value(event);
        let whole = whole.map_err(|error| Failure::NotDone(error.to_string()))?;
        return terminal.json_line(&whole);
    }
    let data: Value = kairo_wire::message::typed(&event.data).unwrap_or(Value::Null);
    let facts = match data.as_object() {
        Some(facts) => facts
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<String>>()
            .join(" "),
        None if data.is_null() => String::new(),
        None => data.to_string(),
    };
    let number = if numbered {
        format!("{:>8}  ", event.seq)
    } else {
        String::new()
    };
    let topic = terminal.paint(tone(&event.topic), &event.topic);
    terminal.line(format!("{number}{}  {topic}  {facts}", event.time).trim_end())
}
