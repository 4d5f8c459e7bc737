//! An event as it travels, encoded once for all who get it.
//!
//! The bytes are the event's map without the name of the subscription, which is the only part that
//! differs between receivers: a frame is a copy of them with that name behind. `data` is put in as
//! the bytes that the publisher sent, so an event of many small values costs its length and not a
//! tree of values. Event loop only. Does not check that a frame is short enough before it is made
//! for somebody ([`Encoded::frame`]).

use std::sync::Arc;

use kairo_events::NewEvent;
use kairo_wire::message::Message;
use kairo_wire::{Event, Limits, frame, scan};
use serde::Serialize;

use super::{Published, time_text};

/// First byte of a map with no entry, and the most entries that such a byte can count.
const SMALL_MAP: u8 = 0x80;
const SMALL_MAP_ENTRIES: u8 = 15;
/// What an event costs beside its bytes, for the bound of the ring: a generous guess.
const OVERHEAD_BYTES: usize = 256;

/// The event's map but for `data` and `subscription`: at most 13 entries, so with these two it is
/// still a map whose first byte counts them.
#[derive(Serialize)]
struct Envelope<'e> {
    id: &'e str,
    #[serde(rename = "type")]
    topic: &'e str,
    source: &'e str,
    specversion: &'static str,
    time: String,
    seq: u64,
    aliases: &'e [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_version: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replay: bool,
}

/// An event, ready to travel.
#[derive(Debug)]
pub struct Encoded {
    /// Its number.
    pub seq: u64,
    /// Its topic.
    pub topic: Arc<str>,
    /// The topic's other names.
    pub aliases: Arc<[String]>,
    /// Room for a header, then the map.
    bytes: Vec<u8>,
}

impl Encoded {
    /// An event that was published.
    pub fn new(event: &NewEvent, time_ns: i64, told: &Published) -> Self {
        let envelope = Envelope {
            id: &told.id,
            topic: &event.topic,
            source: &event.source,
            specversion: "1.0",
            time: time_text(time_ns),
            seq: told.seq,
            aliases: &event.aliases,
            correlation_id: event.correlation_id.as_deref(),
            causation_id: event.causation_id.as_deref(),
            traceparent: event.traceparent.as_deref(),
            stream: event.stream.as_deref(),
            stream_version: told.version,
            replay: false,
        };
        Self {
            seq: told.seq,
            topic: Arc::clone(&event.topic),
            aliases: Arc::clone(&event.aliases),
            bytes: put_together(&envelope, &event.data),
        }
    }

    /// An event of the log.
    pub fn stored(event: &kairo_events::Event, replay: bool) -> Self {
        let envelope = Envelope {
            id: &event.id,
            topic: &event.topic,
            source: &event.source,
            specversion: "1.0",
            time: time_text(event.time_ns),
            seq: event.seq,
            aliases: &event.aliases,
            correlation_id: event.correlation_id.as_deref(),
            causation_id: event.causation_id.as_deref(),
            traceparent: event.traceparent.as_deref(),
            stream: event.stream.as_ref().map(|place| place.name.as_str()),
            stream_version: event.stream.as_ref().map(|place| place.version),
            replay,
        };
        Self {
            seq: event.seq,
            topic: Arc::clone(&event.topic),
            aliases: Arc::clone(&event.aliases),
            bytes: put_together(&envelope, &event.data),
        }
    }

    /// What keeping it costs, bytes.
    pub fn cost_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.bytes.capacity() + self.topic.len()
    }

    /// The length of its frame for a subscription; none when that would be too long to send.
    pub fn frame_bytes(&self, subscription: &str) -> Option<usize> {
        let length = self.bytes.len() + subscription_entry(subscription).len();
        let limit = Limits::default().payload_bytes(Event::KIND);
        (length <= frame::HEADER_BYTES + limit).then_some(length)
    }

    /// Its frame for a subscription; none when that would be too long to send.
    pub fn frame(&self, subscription: &str) -> Option<Vec<u8>> {
        let length = self.frame_bytes(subscription)?;
        let payload = u32::try_from(length - frame::HEADER_BYTES).ok()?;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.bytes);
        bytes.extend(subscription_entry(subscription));
        bytes[..frame::HEADER_BYTES].copy_from_slice(&frame::header(Event::KIND, payload));
        bytes[frame::HEADER_BYTES] += 1;
        Some(bytes)
    }
}

/// Room for a header, then the map of `envelope` with `data`.
fn put_together(envelope: &Envelope<'_>, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; frame::HEADER_BYTES];
    // Writing into memory does not fail, and these types always have a form.
    let _ = rmp_serde::encode::write_named(&mut bytes, envelope);
    debug_assert!(
        bytes[frame::HEADER_BYTES] <= SMALL_MAP + SMALL_MAP_ENTRIES - 2,
        "two entries more have to fit"
    );
    bytes[frame::HEADER_BYTES] += 1;
    put_text(&mut bytes, "data");
    // Anything but one value would make the rest of the map unreadable. By convention it is one.
    if scan::check(data, scan::MAX_DEPTH, data.len()).is_ok() {
        bytes.extend_from_slice(data);
    } else {
        let _ = rmpv::encode::write_value(&mut bytes, &rmpv::Value::Binary(data.to_vec()));
    }
    bytes.shrink_to_fit();
    bytes
}

fn subscription_entry(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 20);
    put_text(&mut bytes, "subscription");
    put_text(&mut bytes, name);
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // Writing into memory does not fail.
    let _ = rmp_serde::encode::write(bytes, text);
}

#[cfg(test)]
mod tests {
    use kairo_events::{Class, Expected};
    use kairo_wire::Value;

    use super::*;

    fn told() -> Published {
        Published {
            seq: 7,
            id: "log-7".into(),
            version: Some(3),
            duplicate: false,
        }
    }

    fn decoded(encoded: &Encoded) -> Event {
        let frame = encoded.frame("s12").unwrap();
        assert_eq!(Some(frame.len()), encoded.frame_bytes("s12"));
        Event::decode(&frame[frame::HEADER_BYTES..], &Limits::default()).unwrap()
    }

    #[test]
    fn an_event_with_every_field_travels_whole() {
        let data = super::super::encoded(&Value::from("facts"));
        let mut event = NewEvent::new("a.b", "agent@7", data).stream("s", Expected::Any);
        event.aliases = vec!["a.c".to_string()].into();
        event.correlation_id = Some("c".into());
        event.causation_id = Some("d".into());
        event.traceparent = Some("t".into());
        let got = decoded(&Encoded::new(&event, 0, &told()));
        let expected = Event {
            id: "log-7".into(),
            topic: "a.b".into(),
            source: "agent@7".into(),
            specversion: "1.0".into(),
            time: "1970-01-01T00:00:00.000Z".into(),
            data: Value::from("facts"),
            seq: 7,
            aliases: vec!["a.c".into()],
            correlation_id: Some("c".into()),
            causation_id: Some("d".into()),
            traceparent: Some("t".into()),
            stream: Some("s".into()),
            stream_version: Some(3),
            replay: false,
            subscription: Some("s12".into()),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn data_that_is_not_one_value_travels_as_bytes() {
        for bytes in [vec![], vec![0xc0, 0xc0], vec![0xc1], vec![0x92, 0xc0]] {
            let event = NewEvent::new("a", "s", bytes.clone()).class(Class::Volatile);
            let got = decoded(&Encoded::new(&event, 0, &told()));
            assert_eq!(got.data, Value::Binary(bytes));
        }
    }

    #[test]
    fn what_is_too_long_for_a_frame_has_none() {
        let limit = Limits::default().payload_bytes(Event::KIND);
        let event = NewEvent::new(
            "a",
            "s",
            super::super::encoded(&Value::Binary(vec![0; limit])),
        );
        let encoded = Encoded::new(&event, 0, &told());
        assert_eq!(
            (encoded.frame("s1"), encoded.frame_bytes("s1")),
            (None, None)
        );
    }
}
