//! Reading the log: pages of events, by number, topic, stream, correlation and time.
//!
//! A reader has a connection of its own and never waits for the writer, nor the writer for it. It
//! sees whole transactions only. A page is bounded in events, bytes and rows looked at, and holds
//! its snapshot no longer than it takes to read it, so the write-ahead log can be reused.
//!
//! Blocks on the disk: one thread uses one reader. Every row is checked against its checksum; a
//! damaged one is left out and named.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, ToSql};

use crate::consumer::{ConsumerState, state_of};
use crate::error::StoreError;
use crate::event::{Class, Content, Event, StreamPlace};
use crate::log::{split, unpack};
use crate::query::{
    Delivery, Fetched, MAX_PAGE_BYTES, MAX_PAGE_EVENTS, MAX_PAGE_ROWS, Page, Query,
};
use crate::schema;
use crate::topic::Pattern;

/// How long a read waits for somebody else's lock. Only recovery after a crash takes one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const COLUMNS: &str = "e.seq, e.topic_id, e.time_ns, e.correlation_id, e.id, e.source, s.name, \
     e.version, e.class, e.monotonic_ns, e.boot_id, e.causation_id, e.traceparent, e.data, \
     e.replaced, e.checksum FROM events e LEFT JOIN streams s ON s.stream_id = e.stream_id";

/// A topic and its other names.
#[derive(Clone, Debug)]
struct Topic {
    name: Arc<str>,
    aliases: Arc<[String]>,
}

/// A reader of a log.
#[derive(Debug)]
pub struct LogReader<C: Borrow<Connection> = Connection> {
    connection: C,
    /// The first part of the ids that the log makes.
    name: String,
    topics: HashMap<i64, Topic>,
    newest_topic: i64,
    boots: HashMap<i64, Arc<str>>,
}

/// Where to look, after the query was compared with the topics there are.
enum Way {
    /// Nothing can match.
    Nowhere,
    /// By an index.
    Index(&'static str, &'static str, i64),
    /// By correlation.
    Correlation(String),
    /// All rows in order.
    Scan,
}

/// A filter on rows, as far as no index does it.
struct Filter {
    topics: Option<Vec<i64>>,
    correlation_id: Option<String>,
    since_ns: i64,
    before_ns: i64,
}

impl LogReader {
    /// Opens a log for reading. The file must exist.
    ///
    /// # Errors
    /// When it cannot be opened or is no event log.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048")?;
        Self::over(connection)
    }
}

impl<C: Borrow<Connection>> LogReader<C> {
    /// A reader that uses a connection of somebody else, inside a transaction of theirs.
    pub(crate) fn over(connection: C) -> Result<Self, StoreError> {
        let name = schema::text(connection.borrow(), "log")?.unwrap_or_default();
        Ok(Self {
            connection,
            name,
            topics: HashMap::new(),
            newest_topic: 0,
            boots: HashMap::new(),
        })
    }

    /// The tables, for reading projections.
    pub fn connection(&self) -> &Connection {
        self.connection.borrow()
    }

    /// The log's newest number; 0 when it is empty.
    ///
    /// # Errors
    /// When the disk or the file fails.
    pub fn head(&self) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM events";
        let head: i64 = self.connection().query_row(sql, [], |row| row.get(0))?;
        Ok(head.unsigned_abs())
    }

    /// The oldest number that is still there.
    ///
    /// # Errors
    /// When the disk or the file fails.
    pub fn tail(&self) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT min(seq) FROM events";
        let tail: Option<i64> = self.connection().query_row(sql, [], |row| row.get(0))?;
        Ok(tail.map(i64::unsigned_abs))
    }

    /// The last number that retention removed; 0 when it has removed none yet.
    ///
    /// # Errors
    /// When the disk or the file fails.
    pub fn removed_until(&self) -> Result<u64, StoreError> {
        let removed = schema::number(self.connection(), crate::retention::REMOVED_UNTIL)?;
        Ok(removed.unwrap_or(0))
    }

    /// The state of a durable consumer.
    ///
    /// # Errors
    /// When there is none of that name, or the disk or the file fails.
    pub fn consumer(&self, name: &str) -> Result<ConsumerState, StoreError> {
        state_of(self.connection(), name)
    }

    /// What a consumer gets behind number `after`, and behind what it has acknowledged.
    ///
    /// # Errors
    /// When there is none of that name, or the disk or the file fails.
    pub fn fetch(&mut self, name: &str, after: u64, limit: usize) -> Result<Fetched, StoreError> {
        let state = self.consumer(name)?;
        let after = after.max(state.cursor);
        let page = self.page(&Query {
            after,
            patterns: state.patterns,
            limit,
            ..Query::default()
        })?;
        Ok(Fetched {
            looked_until: page.next.unwrap_or(page.head).max(after),
            more: page.next.is_some(),
            deliveries: page.events.into_iter().map(Delivery::of).collect(),
            gap: state.gap,
            damaged: page.damaged,
        })
    }

    /// One page of what `query` means.
    ///
    /// # Errors
    /// When the disk or the file fails. A damaged row is no error.
    pub fn page(&mut self, query: &Query) -> Result<Page, StoreError> {
        self.load_topics()?;
        let mut page = Page {
            head: self.head()?,
            ..Page::default()
        };
        let Some((way, filter, after, until)) = self.plan(query)? else {
            return Ok(page);
        };
        let limit = (
            query.limit.clamp(1, MAX_PAGE_EVENTS),
            query.max_bytes.min(MAX_PAGE_BYTES),
        );
        match way {
            Way::Nowhere => {}
            Way::Scan => {
                let sql = format!(
                    "SELECT {COLUMNS} WHERE e.seq > ?1 AND e.seq <= ?2 ORDER BY e.seq LIMIT ?3"
                );
                self.read(&sql, None, (after, until), limit, &filter, &mut page)?;
            }
            Way::Correlation(text) => {
                let sql = by_index("events_correlation", "correlation_id");
                let range = (after, until);
                self.read(&sql, Some(&text), range, limit, &filter, &mut page)?;
            }
            Way::Index(index, column, value) => {
                let sql = by_index(index, column);
                let range = (after, until);
                self.read(&sql, Some(&value), range, limit, &filter, &mut page)?;
            }
        }
        Ok(page)
    }

    /// Learns the topics that were added. Their numbers only grow, so what is known stays right.
    fn load_topics(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT topic_id, name, aliases FROM topics WHERE topic_id > ?1";
        let mut statement = self.connection.borrow().prepare(sql)?;
        let mut rows = statement.query([self.newest_topic])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let topic = Topic {
                name: row.get(1)?,
                aliases: split(row.get_ref(2)?.as_str().unwrap_or_default()),
            };
            self.topics.insert(id, topic);
            self.newest_topic = self.newest_topic.max(id);
        }
        Ok(())
    }

    /// The way to look, what is left to filter, and the range of numbers.
    fn plan(&self, query: &Query) -> Result<Option<(Way, Filter, i64, i64)>, StoreError> {
        let number = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
        let mut after = number(query.after);
        let mut until = query.until.map_or(i64::MAX, number);
        let topics = (!query.patterns.is_empty()).then(|| self.matching(&query.patterns));
        if let (Some(_), _) | (_, Some(_)) = (query.since_ns, query.before_ns) {
            // Which numbers those times cover; the filter does the rest, clock steps included.
            let sql = "SELECT min(seq), max(seq) FROM events INDEXED BY events_time
                       WHERE time_ns >= ?1 AND time_ns < ?2";
            let since = query.since_ns.unwrap_or(i64::MIN);
            let before = query.before_ns.unwrap_or(i64::MAX);
            let range = self.connection().query_row(sql, [since, before], |row| {
                Ok(row
                    .get::<_, Option<i64>>(0)?
                    .zip(row.get::<_, Option<i64>>(1)?))
            })?;
            let Some((first, last)) = range else {
                return Ok(None);
            };
            (after, until) = (after.max(first - 1), until.min(last));
        }
        let way = match (&query.stream, &query.correlation_id, &topics) {
            (Some(name), _, _) => {
                let sql = "SELECT stream_id FROM streams WHERE name = ?1";
                let found = self
                    .connection()
                    .query_row(sql, [name], |row| row.get(0))
                    .optional()?;
                found.map_or(Way::Nowhere, |id| {
                    Way::Index("events_stream", "stream_id", id)
                })
            }
            (None, Some(id), _) => Way::Correlation(id.clone()),
            (None, None, Some(ids)) if ids.is_empty() => Way::Nowhere,
            // With more than one, their rows would have to be sorted: a scan is steadier.
            (None, None, Some(ids)) if ids.len() == 1 => {
                Way::Index("events_topic", "topic_id", ids[0])
            }
            _ => Way::Scan,
        };
        let filter = Filter {
            topics,
            correlation_id: query.correlation_id.clone(),
            since_ns: query.since_ns.unwrap_or(i64::MIN),
            before_ns: query.before_ns.unwrap_or(i64::MAX),
        };
        Ok(Some((way, filter, after, until)))
    }

    /// The topics that `patterns` mean, in order.
    fn matching(&self, patterns: &[Pattern]) -> Vec<i64> {
        let matching = self
            .topics
            .iter()
            .filter(|(_, topic)| Pattern::any_matches(patterns, &topic.name, &topic.aliases));
        let mut ids: Vec<i64> = matching.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Reads rows into `page` until it is full.
    fn read(
        &mut self,
        sql: &str,
        key: Option<&dyn ToSql>,
        (after, until): (i64, i64),
        (limit, max_bytes): (usize, usize),
        filter: &Filter,
        page: &mut Page,
    ) -> Result<(), StoreError> {
        let Self {
            connection,
            name,
            topics,
            boots,
            ..
        } = self;
        let connection: &Connection = (*connection).borrow();
        let mut statement = connection.prepare(sql)?;
        // One more than may be looked at, to know whether there is more.
        let most = ToSqlOutput::from(MAX_PAGE_ROWS as i64 + 1);
        let mut rows = match key {
            None => statement.query(rusqlite::params![after, until, most])?,
            Some(key) => statement.query(rusqlite::params![after, until, most, key])?,
        };
        let mut last = None;
        let (mut bytes, mut looked_at) = (0, 0);
        let mut buffer = Vec::new();
        while let Some(row) = rows.next()? {
            if page.events.len() >= limit || bytes >= max_bytes.max(1) || looked_at >= MAX_PAGE_ROWS
            {
                page.next = last;
                return Ok(());
            }
            looked_at += 1;
            let seq: i64 = row.get(0)?;
            last = Some(seq.unsigned_abs());
            if !filter.passes(row)? {
                continue;
            }
            let boot: i64 = row.get(10)?;
            if let std::collections::hash_map::Entry::Vacant(entry) = boots.entry(boot) {
                let sql = "SELECT uuid FROM boots WHERE boot_id = ?1";
                let uuid = connection.query_row(sql, [boot], |row| row.get(0));
                entry.insert(uuid.optional()?.unwrap_or_else(|| Arc::from("unknown")));
            }
            match event(row, name, topics, &boots[&boot], &mut buffer) {
                Some(event) => {
                    bytes += event.data.len() + 256;
                    page.events.push(event);
                }
                None => page.damaged.push(seq.unsigned_abs()),
            }
        }
        // Rows that were committed after the head was asked for are in the page too, and in order.
        page.head = page.head.max(last.unwrap_or(0));
        Ok(())
    }
}

fn by_index(index: &str, column: &str) -> String {
    // Named, so that no statistics can make SQLite choose otherwise.
    let columns = COLUMNS.replace("events e", &format!("events e INDEXED BY {index}"));
    format!(
        "SELECT {columns} WHERE e.{column} = ?4 AND e.seq > ?1 AND e.seq <= ?2 \
         ORDER BY e.seq LIMIT ?3"
    )
}

impl Filter {
    fn passes(&self, row: &Row<'_>) -> Result<bool, StoreError> {
        if let Some(topics) = &self.topics {
            let topic: i64 = row.get(1)?;
            if topics.binary_search(&topic).is_err() {
                return Ok(false);
            }
        }
        let time: i64 = row.get(2)?;
        if time < self.since_ns || time >= self.before_ns {
            return Ok(false);
        }
        let correlation = row.get_ref(3)?.as_str_or_null();
        let correlation = correlation.unwrap_or_default();
        Ok(self.correlation_id.is_none() || self.correlation_id.as_deref() == correlation)
    }
}

/// The event in a row; none when the row is damaged.
fn event(
    row: &Row<'_>,
    log: &str,
    topics: &HashMap<i64, Topic>,
    boot: &Arc<str>,
    buffer: &mut Vec<u8>,
) -> Option<Event> {
    let text = |index: usize| row.get_ref(index).ok()?.as_str_or_null().ok();
    let seq = row.get::<_, i64>(0).ok()?.unsigned_abs();
    let topic = topics.get(&row.get(1).ok()?)?;
    let (id, source) = (text(4)?, text(5)??);
    let version = row.get::<_, Option<i64>>(7).ok()?.map(i64::unsigned_abs);
    let stream = text(6)?.zip(version);
    let relations = [text(3)?, text(11)?, text(12)?];
    let times = (row.get(2).ok()?, row.get::<_, i64>(9).ok()?.unsigned_abs());
    let data = row.get_ref(13).ok()?.as_blob().ok()?;
    let replaced = row.get_ref(14).ok()?.as_blob_or_null().ok()?;
    let content = Content {
        seq,
        id,
        topic: &topic.name,
        source,
        stream,
        relations,
        times,
        data,
        replaced,
    };
    if i64::from(content.checksum(buffer)) != row.get::<_, i64>(15).ok()? {
        return None;
    }
    let owned = |text: Option<&str>| text.map(str::to_string);
    Some(Event {
        seq,
        id: id.map_or_else(|| format!("{log}-{seq}"), str::to_string),
        topic: Arc::clone(&topic.name),
        aliases: Arc::clone(&topic.aliases),
        source: source.to_string(),
        class: Class::of_code(row.get(8).ok()?),
        stream: stream.map(|(name, version)| StreamPlace {
            name: name.to_string(),
            version,
        }),
        correlation_id: owned(relations[0]),
        causation_id: owned(relations[1]),
        traceparent: owned(relations[2]),
        time_ns: times.0,
        monotonic_ns: times.1,
        boot: Arc::clone(boot),
        data: data.to_vec(),
        replaced: replaced.and_then(unpack),
    })
}
