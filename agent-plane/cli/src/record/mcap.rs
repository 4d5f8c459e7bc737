//! A record as MCAP, the container that Foxglove and its kin read: JSON messages with JSON schemas.
//!
//! One channel a topic, made when its first message comes, with a schema of that message's shape:
//! every message of a topic has the same fields. Chunked and indexed, not compressed, so that no C
//! library is needed to write it. Message times are wall-clock times, computed from the monotonic
//! ones by the pair of both in the header: a clock step during the recording does not show.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use kairo_record::file::{Header, Kind};
use mcap::WriteOptions;
use mcap::records::MessageHeader;
use serde_json::{Value, json};

use super::layout::{Item, Layouts};
use super::{Records, next};
use crate::failure::Failure;

struct Channels {
    writer: mcap::Writer<BufWriter<File>>,
    ids: BTreeMap<String, (u16, u32)>,
    messages: u64,
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::NotDone(format!("cannot write the MCAP: {error}"))
}

/// Writes all messages; how many.
pub(super) fn write(
    file: BufWriter<File>,
    source: &Path,
    mut records: Records,
) -> Result<u64, Failure> {
    let header = records.header().clone();
    let layouts = Layouts::of(&header);
    let options = WriteOptions::new()
        .compression(None)
        .library(concat!("kairo ", env!("CARGO_PKG_VERSION")));
    let writer = options.create(file).map_err(|error| failed(&error))?;
    let mut channels = Channels {
        writer,
        ids: BTreeMap::new(),
        messages: 0,
    };
    let mut newest_ns = header.started_monotonic_ns;
    while let Some(frame) = next(source, &mut records)? {
        let loop_name = header.loops.get(usize::from(frame.loop_index));
        let loop_name = loop_name.map_or("loop", |known| known.name.as_str());
        if frame.kind == Kind::Gap as u16 {
            let missing = frame.payload.get(1).copied().unwrap_or(0);
            let event = json!({"event": "gap", "missing": missing});
            let topic = format!("{loop_name}/gaps");
            channels.put(&topic, wall_ns(&header, newest_ns), &event)?;
        }
        if frame.kind != Kind::Tick as u16 {
            continue;
        }
        let (tick, time_ns) = layouts.moment(&frame).unwrap_or((0, newest_ns));
        newest_ns = time_ns;
        for item in layouts.items(&frame) {
            let (topic, message) = message(&item, tick, time_ns);
            channels.put(&topic, wall_ns(&header, time_ns), &message)?;
        }
    }
    let messages = channels.messages;
    let finished = channels.writer.finish();
    finished.map_err(|error| failed(&error))?;
    // The file is flushed here, while a full disk can still be reported.
    super::flushed(channels.writer.into_inner())?;
    Ok(messages)
}

const fn wall_ns(header: &Header, monotonic_ns: u64) -> u64 {
    let since = monotonic_ns.saturating_sub(header.started_monotonic_ns);
    header.started_realtime_ns.saturating_add(since)
}

/// The topic and the message of an entry.
fn message(item: &Item<'_>, tick: u64, time_ns: u64) -> (String, Value) {
    let mut object = item.object();
    object["tick"] = tick.into();
    object["time_ns"] = time_ns.into();
    if !["loop", "device", "block"].contains(&item.of) {
        object[item.of] = item.index.into();
    }
    let name = match item.entry {
        "feedback" => "joint_states",
        "goals" => "setpoints",
        "command" => "commands",
        "reply" => "verdicts",
        "outcome" => "state",
        "period" => {
            let planned = object["planned"].as_u64().unwrap_or(time_ns);
            object["lateness_ns"] = time_ns.saturating_sub(planned).into();
            "timing"
        }
        other => other,
    };
    let owner = item.device.unwrap_or(item.loop_name);
    (format!("{owner}/{name}"), object)
}

/// A JSON schema that this value fits, and every other of the same shape.
fn schema_of(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let properties: serde_json::Map<String, Value> = fields
                .iter()
                .map(|(name, field)| (name.clone(), schema_of(field)))
                .collect();
            json!({"type": "object", "properties": properties})
        }
        Value::Number(number) if number.is_u64() => json!({"type": "integer"}),
        Value::String(_) => json!({"type": "string"}),
        // A float may be NaN in the next message, which is null.
        _ => json!({"type": "number"}),
    }
}

impl Channels {
    fn put(&mut self, topic: &str, wall_ns: u64, message: &Value) -> Result<(), Failure> {
        if !self.ids.contains_key(topic) {
            let schema = schema_of(message).to_string();
            let name = format!("kairo.{}", topic.replace('/', "."));
            let schema = self
                .writer
                .add_schema(&name, "jsonschema", schema.as_bytes())
                .map_err(|error| failed(&error))?;
            let id = self
                .writer
                .add_channel(schema, topic, "json", &BTreeMap::new())
                .map_err(|error| failed(&error))?;
            self.ids.insert(topic.to_owned(), (id, 0));
        }
        let Some((channel_id, sequence)) = self.ids.get_mut(topic) else {
            return Ok(());
        };
        let header = MessageHeader {
            channel_id: *channel_id,
            sequence: *sequence,
            log_time: wall_ns,
            publish_time: wall_ns,
        };
        *sequence = sequence.wrapping_add(1);
        self.messages += 1;
        let bytes = message.to_string();
        let written = self
            .writer
            .write_to_known_channel(&header, bytes.as_bytes());
        written.map_err(|error| failed(&error))
    }
}
