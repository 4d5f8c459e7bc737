//! The log inside a transaction of the writer: appending, streams, ids, projections.
//!
//! Owned by the writer thread. What it remembers of the tables (topics, stream versions) is
//! forgotten whenever something is rolled back, so memory never runs ahead of the file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use crate::error::StoreError;
use crate::event::{Appended, Content, Event, NewEvent, Replaced, Stamp, StreamPlace};
use crate::keys::{self, Kept, Key, Keyed, Moment};
use crate::projection::Projections;

/// Topics that a log may have: a client that invents one an event must not fill the disk with
/// names, nor the memory of readers.
pub const MAX_TOPICS: usize = 16 * 1024;
/// Streams remembered between transactions.
const REMEMBERED_STREAMS: usize = 4096;

/// A stream as the writer remembers it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    id: i64,
    version: u64,
    changed: bool,
}

/// The statements of an append, compiled once.
#[derive(Debug)]
struct Statements<'c> {
    insert: Statement<'c>,
    by_id: Statement<'c>,
    stream: Statement<'c>,
    set_version: Statement<'c>,
}

const INSERT: &str = "INSERT INTO events (seq, id, topic_id, source, stream_id, version, class, \
     time_ns, monotonic_ns, boot_id, correlation_id, causation_id, traceparent, data, replaced, \
     checksum) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)";
const BY_ID: &str = "SELECT e.seq, e.version, t.name, e.source, s.name, e.correlation_id, \
     e.causation_id, e.traceparent, e.data FROM events e JOIN topics t USING (topic_id) \
     LEFT JOIN streams s USING (stream_id) WHERE e.id = ?1";

/// A topic as the writer remembers it.
#[derive(Clone, Debug)]
struct Topic {
    id: i64,
    aliases: Arc<[String]>,
    /// Which projections it concerns.
    projections: u64,
}

/// The writer's side of the log.
#[derive(Debug)]
pub struct Log<'c> {
    pub(crate) connection: &'c Connection,
    statements: Statements<'c>,
    topics: HashMap<Arc<str>, Topic>,
    streams: HashMap<String, Stream>,
    pub(crate) projections: Projections,
    /// The first part of the ids that the log makes.
    pub(crate) name: String,
    boot: (i64, Arc<str>),
    buffer: Vec<u8>,
}

/// How the aliases of a topic are kept: joined by commas, which no topic contains.
pub(crate) fn joined(aliases: &[String]) -> String {
    aliases.join(",")
}

/// The opposite of [`joined`].
pub(crate) fn split(aliases: &str) -> Arc<[String]> {
    let parts = aliases.split(',').filter(|alias| !alias.is_empty());
    parts.map(str::to_string).collect()
}

fn row_number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

impl<'c> Log<'c> {
    pub(crate) fn new(
        connection: &'c Connection,
        name: String,
        boot: (i64, Arc<str>),
        projections: Projections,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            connection,
            statements: Statements {
                insert: connection.prepare(INSERT)?,
                by_id: connection.prepare(BY_ID)?,
                stream: connection
                    .prepare("SELECT stream_id, version FROM streams WHERE name = ?1")?,
                set_version: connection
                    .prepare("UPDATE streams SET version = ?2 WHERE stream_id = ?1")?,
            },
            topics: HashMap::new(),
            streams: HashMap::new(),
            projections,
            name,
            boot,
            buffer: Vec::new(),
        })
    }

    /// The tables, for a caller's own rows.
    pub fn connection(&self) -> &Connection {
        self.connection
    }

    /// The id of an event that was appended without one.
    pub(crate) fn made_id(&self, seq: u64) -> String {
        format!("{}-{seq}", self.name)
    }

    /// Appends one event. An error that is not of the file leaves the transaction as it was.
    pub(crate) fn append(
        &mut self,
        event: &NewEvent,
        stamp: Stamp,
    ) -> Result<Appended, StoreError> {
        if let Some(id) = &event.id
            && let Some(appended) = self.known(id, event)?
        {
            return Ok(appended);
        }
        let place = match &event.stream {
            None => None,
            Some(name) => Some(self.place(name, event)?),
        };
        let topic = self.topic(&event.topic, &event.aliases)?;
        self.insert(event, stamp, &topic, place, None)?;
        if let (Some((_, version)), Some(name)) = (place, &event.stream)
            && let Some(stream) = self.streams.get_mut(name)
        {
            (stream.version, stream.changed) = (version, true);
        }
        if topic.projections != 0 {
            let stored = self.stored(event, stamp, place.map(|(_, version)| version));
            self.projections
                .apply(topic.projections, &stored, self.connection)?;
        }
        Ok(Appended {
            seq: stamp.seq,
            version: place.map(|(_, version)| version),
            duplicate: false,
        })
    }

    /// Keeps the result of an event that was published under a key, in its transaction.
    pub(crate) fn keep_result(
        &mut self,
        keyed: Keyed,
        appended: &Appended,
        stamp: Stamp,
    ) -> Result<(), StoreError> {
        let result = (keyed.result)(appended, self.made_id(appended.seq));
        let now = (stamp.time_ns, stamp.monotonic_ns);
        self.put_key(
            &keyed.key,
            Some(&result),
            &keyed.forget,
            keyed.kept_for,
            now,
        )
    }

    /// Writes a key; `now` is wall time and monotonic time.
    pub(crate) fn put_key(
        &self,
        key: &Key,
        result: Option<&[u8]>,
        forget: &[String],
        kept_for: Duration,
        now: (i64, u64),
    ) -> Result<(), StoreError> {
        let moment = self.moment(now);
        keys::put(self.connection, key, result, forget, kept_for, moment)
    }

    /// The keys that an earlier process left.
    pub(crate) fn take_over_keys(
        &self,
        kept_for: Duration,
        now: (i64, u64),
    ) -> Result<Vec<Kept>, StoreError> {
        keys::take_over(self.connection, kept_for, self.moment(now))
    }

    fn moment(&self, (wall_ns, monotonic_ns): (i64, u64)) -> Moment {
        Moment {
            wall_ns,
            monotonic_ns,
            boot_id: self.boot.0,
        }
    }

    /// Writes the row of an event.
    fn insert(
        &mut self,
        event: &NewEvent,
        stamp: Stamp,
        topic: &Topic,
        place: Option<(i64, u64)>,
        replaced: Option<&Replaced>,
    ) -> Result<(), StoreError> {
        let stream = event.stream.as_deref();
        let replaced = replaced.map(pack);
        let content = Content {
            seq: stamp.seq,
            id: event.id.as_deref(),
            topic: &event.topic,
            source: &event.source,
            stream: stream.zip(place.map(|(_, version)| version)),
            relations: [
                event.correlation_id.as_deref(),
                event.causation_id.as_deref(),
                event.traceparent.as_deref(),
            ],
            times: (stamp.time_ns, stamp.monotonic_ns),
            data: &event.data,
            replaced: replaced.as_deref(),
        };
        let checksum = content.checksum(&mut self.buffer);
        self.statements.insert.execute(params![
            row_number(stamp.seq),
            event.id,
            topic.id,
            event.source,
            place.map(|(stream, _)| stream),
            place.map(|(_, version)| row_number(version)),
            event.class.code(),
            stamp.time_ns,
            row_number(stamp.monotonic_ns),
            self.boot.0,
            event.correlation_id,
            event.causation_id,
            event.traceparent,
            event.data,
            replaced,
            checksum,
        ])?;
        Ok(())
    }

    /// Writes a summary in the place of the events it replaces, which are gone already.
    pub(crate) fn insert_summary(
        &mut self,
        event: &NewEvent,
        stamp: Stamp,
        version: Option<u64>,
        replaced: &Replaced,
    ) -> Result<(), StoreError> {
        let place = match (&event.stream, version) {
            (Some(name), Some(version)) => self.find_stream(name)?.map(|found| (found.id, version)),
            _ => None,
        };
        let topic = self.topic(&event.topic, &event.aliases)?;
        self.insert(event, stamp, &topic, place, Some(replaced))
    }

    /// What is in the log under this id, if it is the same event.
    fn known(&mut self, id: &str, event: &NewEvent) -> Result<Option<Appended>, StoreError> {
        let made = id.strip_prefix(self.name.as_str());
        if made.is_some_and(|rest| rest.starts_with('-')) {
            let detail = format!("{id:?} begins like the ids that the log makes; use another");
            return Err(StoreError::invalid("id", detail));
        }
        let found = self.statements.by_id.query_row([id], |row| {
            let text = |index: usize| row.get::<_, Option<String>>(index);
            let same = text(2)?.as_deref() == Some(&*event.topic)
                && text(3)?.as_deref() == Some(event.source.as_str())
                && text(4)? == event.stream
                && text(5)? == event.correlation_id
                && text(6)? == event.causation_id
                && text(7)? == event.traceparent
                && row.get_ref(8)?.as_bytes_or_null()? == Some(event.data.as_slice());
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, same))
        });
        match found.optional()? {
            None => Ok(None),
            Some((seq, version, true)) => Ok(Some(Appended {
                seq: seq.unsigned_abs(),
                version: version.map(i64::unsigned_abs),
                duplicate: true,
            })),
            Some((seq, _, false)) => Err(StoreError::IdConflict {
                id: id.into(),
                seq: seq.unsigned_abs(),
            }),
        }
    }

    /// Where the next event of a stream goes, if the stream is where the caller expects it.
    fn place(&mut self, name: &str, event: &NewEvent) -> Result<(i64, u64), StoreError> {
        let found = self.find_stream(name)?;
        let actual = found.map_or(0, |stream| stream.version);
        if !event.expected.admits(actual) {
            return Err(StoreError::VersionConflict {
                stream: name.into(),
                expected: event.expected,
                actual,
            });
        }
        let id = match found {
            Some(stream) => stream.id,
            None => {
                let sql = "INSERT INTO streams (name, version) VALUES (?1, 0)";
                self.connection.execute(sql, [name])?;
                let id = self.connection.last_insert_rowid();
                let stream = Stream {
                    id,
                    version: 0,
                    changed: false,
                };
                self.streams.insert(name.into(), stream);
                id
            }
        };
        Ok((id, actual + 1))
    }

    fn find_stream(&mut self, name: &str) -> Result<Option<Stream>, StoreError> {
        if let Some(stream) = self.streams.get(name) {
            return Ok(Some(*stream));
        }
        let found = self.statements.stream.query_row([name], |row| {
            Ok(Stream {
                id: row.get(0)?,
                version: row.get::<_, i64>(1)?.unsigned_abs(),
                changed: false,
            })
        });
        let found = found.optional()?;
        if let Some(stream) = found {
            self.streams.insert(name.into(), stream);
        }
        Ok(found)
    }

    fn topic(&mut self, name: &Arc<str>, aliases: &Arc<[String]>) -> Result<Topic, StoreError> {
        if let Some(topic) = self.topics.get(name)
            && topic.aliases == *aliases
        {
            return Ok(topic.clone());
        }
        let joined = joined(aliases);
        let sql = "SELECT topic_id FROM topics WHERE name = ?1 AND aliases = ?2";
        let found = self
            .connection
            .query_row(sql, params![name, joined], |row| row.get(0));
        let id = match found.optional()? {
            Some(id) => id,
            None => {
                let count: i64 =
                    self.connection
                        .query_row("SELECT count(*) FROM topics", [], |row| row.get(0))?;
                if count >= MAX_TOPICS as i64 {
                    return Err(StoreError::Limit {
                        what: "topics",
                        limit: MAX_TOPICS,
                        fix: "put what varies into the data, or into the stream's name",
                    });
                }
                let sql = "INSERT INTO topics (name, aliases) VALUES (?1, ?2)";
                self.connection.execute(sql, params![name, joined])?;
                self.connection.last_insert_rowid()
            }
        };
        let topic = Topic {
            id,
            aliases: Arc::clone(aliases),
            projections: self.projections.concerned(name, aliases),
        };
        self.topics.insert(Arc::clone(name), topic.clone());
        Ok(topic)
    }

    fn stored(&self, event: &NewEvent, stamp: Stamp, version: Option<u64>) -> Event {
        let stream = event.stream.clone().zip(version);
        Event {
            seq: stamp.seq,
            id: event.id.clone().unwrap_or_else(|| self.made_id(stamp.seq)),
            topic: Arc::clone(&event.topic),
            aliases: Arc::clone(&event.aliases),
            source: event.source.clone(),
            class: event.class,
            stream: stream.map(|(name, version)| StreamPlace { name, version }),
            correlation_id: event.correlation_id.clone(),
            causation_id: event.causation_id.clone(),
            traceparent: event.traceparent.clone(),
            time_ns: stamp.time_ns,
            monotonic_ns: stamp.monotonic_ns,
            boot: Arc::clone(&self.boot.1),
            data: event.data.clone(),
            replaced: None,
        }
    }

    /// Writes the versions of the streams that this transaction appended to.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        for stream in self.streams.values_mut().filter(|stream| stream.changed) {
            let version = row_number(stream.version);
            self.statements
                .set_version
                .execute(params![stream.id, version])?;
            stream.changed = false;
        }
        if self.streams.len() > REMEMBERED_STREAMS {
            self.streams.clear();
        }
        Ok(())
    }

    /// Forgets what it remembers of the tables: something was rolled back, or rows were deleted.
    pub(crate) fn forget(&mut self) {
        self.topics.clear();
        self.streams.clear();
    }
}

/// A [`Replaced`] as it lies in a row.
pub(crate) fn pack(replaced: &Replaced) -> Vec<u8> {
    let mut bytes = replaced.from_seq.to_le_bytes().to_vec();
    bytes.extend(replaced.count.to_le_bytes());
    bytes.extend(replaced.sha256);
    bytes
}

/// The opposite of [`pack`]; none when it is something else.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Replaced> {
    let (from_seq, rest) = bytes.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    Some(Replaced {
        from_seq: u64::from_le_bytes(*from_seq),
        count: u64::from_le_bytes(*count),
        sha256: rest.try_into().ok()?,
    })
}
