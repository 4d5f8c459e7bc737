//! Events: what a caller gives, what the log keeps, and what it checks.
//!
//! The log does not look into `data`; by convention of KairoOS it is one MsgPack value. Wall time
//! is for people: order is `seq`, and within one boot the monotonic clock.

use std::sync::Arc;

use crate::error::StoreError;
use crate::topic::is_topic;

/// Longest `data`, bytes.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;
/// Longest id, source, stream name, correlation, causation or trace context, bytes.
pub const MAX_TEXT_BYTES: usize = 256;
/// Most other names of one topic.
pub const MAX_ALIASES: usize = 4;
/// What an event costs beside its `data`, for the bounds of queues: a generous guess.
const OVERHEAD_BYTES: usize = 512;

/// How much an event is worth to whoever publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Numbered and never written. It is gone with the process.
    Volatile,
    /// Written within 5 ms or 256 events. Once acknowledged it survives the death of the process;
    /// a power cut may take the last second.
    Batched,
    /// Acknowledged after a commit that was flushed to the disk: it survives a power cut.
    Synchronous,
}

impl Class {
    /// Its name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Volatile => "volatile",
            Self::Batched => "batched",
            Self::Synchronous => "synchronous",
        }
    }

    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Volatile => 0,
            Self::Batched => 1,
            Self::Synchronous => 2,
        }
    }

    pub(crate) const fn of_code(code: i64) -> Self {
        match code {
            0 => Self::Volatile,
            1 => Self::Batched,
            _ => Self::Synchronous,
        }
    }
}

/// Where a stream must be for an append to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Anywhere.
    #[default]
    Any,
    /// It has no event yet.
    None,
    /// Its last event has this version.
    Exactly(u64),
}

impl Expected {
    /// Whether a stream whose last version is `actual` (0 without events) is where it must be.
    pub const fn admits(self, actual: u64) -> bool {
        match self {
            Self::Any => true,
            Self::None => actual == 0,
            Self::Exactly(version) => actual == version,
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => formatter.write_str("any version"),
            Self::None => formatter.write_str("no event"),
            Self::Exactly(version) => write!(formatter, "version {version}"),
        }
    }
}

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Unique for as long as the event is kept. Appending the same content under the same id again
    /// changes nothing and gives the first one's number. Without one the log makes it.
    pub id: Option<String>,
    /// The canonical topic.
    pub topic: Arc<str>,
    /// Its other names.
    pub aliases: Arc<[String]>,
    /// Who says it.
    pub source: String,
    /// How much it is worth.
    pub class: Class,
    /// The stream it belongs to.
    pub stream: Option<String>,
    /// Where that stream must be.
    pub expected: Expected,
    /// What it belongs to.
    pub correlation_id: Option<String>,
    /// The event or request that led to it.
    pub causation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The facts.
    pub data: Vec<u8>,
}

impl NewEvent {
    /// A batched event without stream, id and relations.
    pub fn new(topic: &str, source: &str, data: Vec<u8>) -> Self {
        Self {
            id: None,
            topic: topic.into(),
            aliases: Arc::from([]),
            source: source.into(),
            class: Class::Batched,
            stream: None,
            expected: Expected::Any,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            data,
        }
    }

    /// The same in another class.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The same under this id.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The same in a stream that must be at `expected`.
    #[must_use]
    pub fn stream(mut self, stream: &str, expected: Expected) -> Self {
        self.stream = Some(stream.into());
        self.expected = expected;
        self
    }

    /// The same with a correlation.
    #[must_use]
    pub fn correlation(mut self, correlation_id: &str) -> Self {
        self.correlation_id = Some(correlation_id.into());
        self
    }

    /// What it takes in a queue, bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.data.len()
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if !is_topic(&self.topic) {
            let shown: String = self.topic.chars().take(64).collect();
            let detail = format!("{shown:?} is not a topic: segments of letters, digits, `_`, `-`");
            return Err(StoreError::invalid("topic", detail));
        }
        if self.aliases.len() > MAX_ALIASES || !self.aliases.iter().all(|alias| is_topic(alias)) {
            let detail = format!("have to be topics, at most {MAX_ALIASES}");
            return Err(StoreError::invalid("aliases", detail));
        }
        let texts = [
            ("id", self.id.as_deref()),
            ("source", Some(self.source.as_str())),
            ("stream", self.stream.as_deref()),
            ("correlation_id", self.correlation_id.as_deref()),
            ("causation_id", self.causation_id.as_deref()),
            ("traceparent", self.traceparent.as_deref()),
        ];
        for (what, text) in texts {
            let bytes = text.map_or(1, str::len);
            if bytes == 0 || bytes > MAX_TEXT_BYTES {
                let detail = format!("has {bytes} bytes, allowed are 1 to {MAX_TEXT_BYTES}");
                return Err(StoreError::invalid(what, detail));
            }
        }
        if self.data.len() > MAX_DATA_BYTES {
            let bytes = self.data.len();
            let detail = format!("has {bytes} bytes, allowed are {MAX_DATA_BYTES}");
            return Err(StoreError::invalid("data", detail));
        }
        match (self.class, &self.stream, self.expected) {
            (Class::Volatile, Some(_), _) => Err(StoreError::invalid(
                "stream",
                "needs class batched or synchronous: a volatile event is not written",
            )),
            (_, None, Expected::None | Expected::Exactly(_)) => Err(StoreError::invalid(
                "expected version",
                "is given without a stream",
            )),
            _ => Ok(()),
        }
    }
}

/// What an event got when it was taken: known at once, before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its number.
    pub seq: u64,
    /// Wall time, ns since 1970.
    pub time_ns: i64,
    /// CLOCK_MONOTONIC, ns.
    pub monotonic_ns: u64,
}

/// What an append led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The event's number; the first one's where it was there already.
    pub seq: u64,
    /// Its version in its stream.
    pub version: Option<u64>,
    /// True when the same event was in the log already.
    pub duplicate: bool,
}

/// What a summary event stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Number of the first event that it replaced.
    pub from_seq: u64,
    /// How many there were.
    pub count: u64,
    /// SHA-256 over them, see [`crate::compaction`].
    pub sha256: [u8; 32],
}

/// An event's place in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPlace {
    /// The stream.
    pub name: String,
    /// 1 is its first event.
    pub version: u64,
}

/// An event as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number: grows, is never given twice, has holes.
    pub seq: u64,
    /// Unique.
    pub id: String,
    /// The canonical topic.
    pub topic: Arc<str>,
    /// Its other names.
    pub aliases: Arc<[String]>,
    /// Who said it.
    pub source: String,
    /// How it was written.
    pub class: Class,
    /// Where it stands in its stream.
    pub stream: Option<StreamPlace>,
    /// What it belongs to.
    pub correlation_id: Option<String>,
    /// What led to it.
    pub causation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Wall time, ns since 1970; may jump.
    pub time_ns: i64,
    /// CLOCK_MONOTONIC of that boot, ns.
    pub monotonic_ns: u64,
    /// The boot it happened in.
    pub boot: Arc<str>,
    /// The facts.
    pub data: Vec<u8>,
    /// What it stands for, where it is a summary.
    pub replaced: Option<Replaced>,
}

/// The parts of an event over which checksums and digests go, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Content<'e> {
    pub seq: u64,
    pub id: Option<&'e str>,
    pub topic: &'e str,
    pub source: &'e str,
    pub stream: Option<(&'e str, u64)>,
    pub relations: [Option<&'e str>; 3],
    pub times: (i64, u64),
    pub data: &'e [u8],
    pub replaced: Option<&'e [u8]>,
}

impl Content<'_> {
    /// Feeds every part, with lengths, so that no two different contents give the same bytes.
    pub fn feed(&self, mut sink: impl FnMut(&[u8])) {
        let mut part = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u32::MAX, |bytes| bytes.len() as u32);
            sink(&length.to_le_bytes());
            sink(bytes.unwrap_or_default());
        };
        part(Some(&self.seq.to_le_bytes()));
        part(self.id.map(str::as_bytes));
        part(Some(self.topic.as_bytes()));
        part(Some(self.source.as_bytes()));
        part(self.stream.map(|(name, _)| name.as_bytes()));
        let version = self.stream.map_or(0, |(_, version)| version);
        part(Some(&version.to_le_bytes()));
        for relation in self.relations {
            part(relation.map(str::as_bytes));
        }
        part(Some(&self.times.0.to_le_bytes()));
        part(Some(&self.times.1.to_le_bytes()));
        part(Some(self.data));
        part(self.replaced);
    }

    /// CRC-32 of the content: a flipped bit in a row is noticed when the row is read. `buffer` is
    /// only a place to put it together: many small pieces would cost more than one copy.
    pub fn checksum(&self, buffer: &mut Vec<u8>) -> u32 {
        buffer.clear();
        self.feed(|bytes| buffer.extend_from_slice(bytes));
        crc32fast::hash(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_rule_is_refused_by_name() {
        let good = NewEvent::new("a.b", "test", vec![]);
        assert_eq!(good.check(), Ok(()));
        let refused = |event: NewEvent| match event.check() {
            Err(StoreError::Invalid { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(NewEvent::new("a.*", "test", vec![])), "topic");
        assert_eq!(refused(NewEvent::new("a", "", vec![])), "source");
        assert_eq!(refused(good.clone().id(&"x".repeat(257))), "id");
        let long = vec![0; MAX_DATA_BYTES + 1];
        assert_eq!(refused(NewEvent::new("a", "test", long)), "data");
        let volatile = good.clone().class(Class::Volatile);
        assert_eq!(refused(volatile.stream("s", Expected::Any)), "stream");
        let mut adrift = good;
        adrift.expected = Expected::Exactly(3);
        assert_eq!(refused(adrift), "expected version");
    }

    #[test]
    fn checksums_tell_where_one_part_ends() {
        let content = |id, topic| Content {
            seq: 1,
            id,
            topic,
            source: "s",
            stream: None,
            relations: [None; 3],
            times: (0, 0),
            data: &[],
            replaced: None,
        };
        let sum = |id, topic| content(id, topic).checksum(&mut Vec::new());
        assert_ne!(sum(Some("ab"), "c"), sum(Some("a"), "bc"));
        assert_ne!(sum(None, "c"), sum(Some(""), "c"));
    }
}
