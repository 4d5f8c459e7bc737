//! Compaction: one summary event in the place of a range of a stream or topic.
//!
//! The summary stands where the last of the replaced events stood: it takes over that event's
//! number and its version in the stream, so whoever reads on from anywhere meets it at the right
//! moment, and whoever has acknowledged the replaced ones never meets it. It has an id of its own,
//! and says what it stands for: the first number, how many, and a SHA-256 over them.
//!
//! The hash goes over the replaced events in order; of each over its number, id, topic, source,
//! stream, version, relations, times and data, each with its length before it as 32 bits, little
//! endian (none: all ones). With a copy of the events anybody can compute it again.

use sha2::{Digest as _, Sha256};

use crate::consumer;
use crate::error::StoreError;
use crate::event::{Content, Event, NewEvent, Replaced, Stamp};
use crate::log::{Log, pack};
use crate::query::Query;
use crate::reader::LogReader;
use crate::topic::Pattern;

/// Most events that one compaction replaces: it is one transaction.
pub const MAX_REPLACED: usize = 100_000;

/// What to replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// Events of a stream up to this number.
    Stream {
        /// The stream.
        name: String,
        /// Last number.
        until: u64,
    },
    /// Events of one topic, from one number to another.
    Topic {
        /// The topic, no pattern.
        topic: String,
        /// First number.
        from: u64,
        /// Last number.
        until: u64,
    },
}

/// What was replaced by which event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Number of the summary.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// What it stands for.
    pub replaced: Replaced,
}

/// SHA-256 over events, as [the module](self) says.
pub fn digest<'e>(events: impl IntoIterator<Item = &'e Event>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for event in events {
        let replaced = event.replaced.as_ref().map(pack);
        let content = Content {
            seq: event.seq,
            id: Some(&event.id),
            topic: &event.topic,
            source: &event.source,
            stream: event
                .stream
                .as_ref()
                .map(|place| (place.name.as_str(), place.version)),
            relations: [
                event.correlation_id.as_deref(),
                event.causation_id.as_deref(),
                event.traceparent.as_deref(),
            ],
            times: (event.time_ns, event.monotonic_ns),
            data: &event.data,
            replaced: replaced.as_deref(),
        };
        content.feed(|bytes| hasher.update(bytes));
    }
    hasher.finalize().into()
}

/// The events of a range, if they may be replaced.
fn replaceable(log: &Log<'_>, range: &Range) -> Result<Vec<Event>, StoreError> {
    let mut query = match range {
        Range::Stream { name, until } => Query {
            stream: Some(name.clone()),
            until: Some(*until),
            ..Query::default()
        },
        Range::Topic { topic, from, until } => Query {
            patterns: vec![
                Pattern::parse(topic)
                    .map_err(|error| StoreError::invalid("topic", error.to_string()))?,
            ],
            after: from.saturating_sub(1),
            until: Some(*until),
            ..Query::default()
        },
    };
    let mut reader = LogReader::over(log.connection)?;
    let mut events = Vec::new();
    loop {
        let page = reader.page(&query)?;
        if let Some(seq) = page.damaged.first() {
            let detail = format!("event {seq} in the range is damaged");
            return Err(StoreError::Corrupt { detail });
        }
        events.extend(page.events);
        if events.len() > MAX_REPLACED {
            let detail = format!("covers more than {MAX_REPLACED} events; do it in parts");
            return Err(StoreError::invalid("range", detail));
        }
        match page.next {
            Some(next) => query.after = next,
            None => break,
        }
    }
    if let (Range::Topic { .. }, Some(event)) = (
        range,
        events.iter().find(|event| {
            // A hole in the middle of a stream's versions would look like a loss.
            event.stream.is_some()
        }),
    ) {
        let detail = format!("holds event {} of a stream; compact the stream", event.seq);
        return Err(StoreError::invalid("range", detail));
    }
    Ok(events)
}

/// Replaces a range by `summary`. Its topic, source, data and relations are the caller's; its
/// stream is the range's, its id is made.
pub(crate) fn compact(
    log: &mut Log<'_>,
    range: &Range,
    mut summary: NewEvent,
    now: (i64, u64),
) -> Result<Compacted, StoreError> {
    let events = replaceable(log, range)?;
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return Err(StoreError::invalid("range", "holds no event"));
    };
    for state in consumer::all(log.connection)? {
        if state.cursor < last.seq {
            return Err(StoreError::Unacknowledged {
                consumer: state.name,
                cursor: state.cursor,
                to: last.seq,
            });
        }
    }
    let replaced = Replaced {
        from_seq: first
            .replaced
            .map_or(first.seq, |replaced| replaced.from_seq),
        count: events
            .iter()
            .map(|event| event.replaced.map_or(1, |replaced| replaced.count))
            .sum(),
        sha256: digest(&events),
    };
    for event in &events {
        let seq = i64::try_from(event.seq).unwrap_or(i64::MAX);
        log.connection
            .execute("DELETE FROM events WHERE seq = ?1", [seq])?;
    }
    let hash: String = replaced.sha256[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let id = format!("{}-summary-{hash}", log.name);
    summary.id = Some(id.clone());
    summary.stream = match range {
        Range::Stream { name, .. } => Some(name.clone()),
        Range::Topic { .. } => None,
    };
    let stamp = Stamp {
        seq: last.seq,
        time_ns: now.0,
        monotonic_ns: now.1,
    };
    let version = last.stream.as_ref().map(|place| place.version);
    log.insert_summary(&summary, stamp, version, &replaced)?;
    Ok(Compacted {
        seq: last.seq,
        id,
        replaced,
    })
}
