//! Durable consumers: who has read how far, and which effects were done.
//!
//! A consumer has a name, a filter and a cursor, which only its acknowledgements move: what was
//! delivered and not acknowledged is delivered again, by this process or the next one. An effect
//! is done once: its own rows, its entry in the ledger `(consumer, event id)` and the cursor are
//! one transaction. A replay never runs one. The ledger goes by id, and keeps an id as long as
//! retention keeps events of that age, so a retry after a compaction does nothing again either.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::StoreError;
use crate::log::Log;
use crate::query::Delivery;
use crate::topic::Pattern;

/// Durable consumers of one log: each holds back retention.
pub const MAX_CONSUMERS: usize = 256;
/// Patterns of one consumer.
pub const MAX_PATTERNS: usize = 32;
/// Longest name, bytes.
pub const MAX_NAME_BYTES: usize = 192;

/// Where a consumer begins when it is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event.
    Oldest,
    /// With what comes.
    Newest,
    /// After this number.
    After(u64),
}

/// Events that retention took before a consumer had acknowledged them: all numbers from `from` to
/// `to`, of which only some may have been meant for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostEvents {
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
}

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its name.
    pub name: String,
    /// What it wants; everything when there is none.
    pub patterns: Vec<Pattern>,
    /// It has acknowledged everything up to this number.
    pub cursor: u64,
    /// What it lost and has not been told, or not acknowledged.
    pub gap: Option<LostEvents>,
}

/// What became of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectOutcome {
    /// It was done, now.
    Done,
    /// It had been done before; it was not done again.
    AlreadyDone,
    /// The delivery is a replay; it was not done.
    Replay,
}

pub(crate) fn check(name: &str, patterns: &[Pattern]) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let detail = format!(
            "has {} bytes, allowed are 1 to {MAX_NAME_BYTES}",
            name.len()
        );
        return Err(StoreError::invalid("consumer name", detail));
    }
    if patterns.len() > MAX_PATTERNS {
        let detail = format!(
            "has {} patterns, allowed are {MAX_PATTERNS}",
            patterns.len()
        );
        return Err(StoreError::invalid("filter", detail));
    }
    Ok(())
}

fn joined(patterns: &[Pattern]) -> String {
    let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

/// Reads the state of a consumer.
pub(crate) fn state_of(tables: &Connection, name: &str) -> Result<ConsumerState, StoreError> {
    let sql = "SELECT patterns, cursor, gap_from, gap_to FROM consumers WHERE name = ?1";
    let found = tables.query_row(sql, [name], |row| {
        let patterns: String = row.get(0)?;
        let gap = row
            .get::<_, Option<i64>>(2)?
            .zip(row.get::<_, Option<i64>>(3)?);
        Ok((patterns, row.get::<_, i64>(1)?, gap))
    });
    let Some((patterns, cursor, gap)) = found.optional()? else {
        return Err(StoreError::UnknownConsumer { name: name.into() });
    };
    let patterns: Result<Vec<_>, _> = patterns.split_whitespace().map(Pattern::parse).collect();
    Ok(ConsumerState {
        name: name.into(),
        patterns: patterns.map_err(|error| StoreError::Corrupt {
            detail: format!("the filter of consumer {name:?}: {error}"),
        })?,
        cursor: cursor.unsigned_abs(),
        gap: gap.map(|(from, to)| LostEvents {
            from: from.unsigned_abs(),
            to: to.unsigned_abs(),
        }),
    })
}

/// Makes a consumer, or gives the one there is a new filter. Its cursor stays where it is.
pub(crate) fn register(
    log: &Log<'_>,
    name: &str,
    patterns: &[Pattern],
    start: Start,
    now_ns: i64,
) -> Result<ConsumerState, StoreError> {
    let tables = log.connection;
    let filter = joined(patterns);
    let sql = "UPDATE consumers SET patterns = ?2, seen_ns = ?3 WHERE name = ?1";
    if tables.execute(sql, params![name, filter, now_ns])? == 0 {
        let count: i64 =
            tables.query_row("SELECT count(*) FROM consumers", [], |row| row.get(0))?;
        if count >= MAX_CONSUMERS as i64 {
            return Err(StoreError::Limit {
                what: "consumers",
                limit: MAX_CONSUMERS,
                fix: "remove one that nobody uses any more",
            });
        }
        let head: i64 =
            tables.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| {
                row.get(0)
            })?;
        let cursor = match start {
            Start::Oldest => 0,
            Start::Newest => head,
            Start::After(seq) => i64::try_from(seq).unwrap_or(i64::MAX).min(head),
        };
        tables.execute(
            "INSERT INTO consumers (name, patterns, cursor, seen_ns) VALUES (?1, ?2, ?3, ?4)",
            params![name, filter, cursor, now_ns],
        )?;
    }
    state_of(tables, name)
}

/// Moves a cursor forward, never back, and never beyond what is in the log.
pub(crate) fn acknowledge(
    tables: &Connection,
    name: &str,
    seq: u64,
    now_ns: i64,
) -> Result<u64, StoreError> {
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    let sql = "UPDATE consumers SET
                   cursor = max(cursor, min(?2, (SELECT coalesce(max(seq), 0) FROM events))),
                   gap_from = CASE WHEN gap_to <= ?2 THEN NULL ELSE gap_from END,
                   gap_to = CASE WHEN gap_to <= ?2 THEN NULL ELSE gap_to END,
                   seen_ns = ?3
               WHERE name = ?1 RETURNING cursor";
    let cursor = tables.query_row(sql, params![name, seq, now_ns], |row| row.get::<_, i64>(0));
    match cursor.optional()? {
        Some(cursor) => Ok(cursor.unsigned_abs()),
        None => Err(StoreError::UnknownConsumer { name: name.into() }),
    }
}

/// Forgets a consumer, with its ledger.
pub(crate) fn remove(tables: &Connection, name: &str) -> Result<(), StoreError> {
    tables.execute("DELETE FROM effects WHERE consumer = ?1", [name])?;
    if tables.execute("DELETE FROM consumers WHERE name = ?1", [name])? == 0 {
        return Err(StoreError::UnknownConsumer { name: name.into() });
    }
    Ok(())
}

/// All consumers, by name.
pub(crate) fn all(tables: &Connection) -> Result<Vec<ConsumerState>, StoreError> {
    let mut statement = tables.prepare("SELECT name FROM consumers ORDER BY name")?;
    let names: Result<Vec<String>, _> = statement.query_map([], |row| row.get(0))?.collect();
    names?.iter().map(|name| state_of(tables, name)).collect()
}

/// Does an effect, unless it was done or is a replay, and moves the cursor.
pub(crate) fn effect(
    log: &mut Log<'_>,
    name: &str,
    delivery: &Delivery,
    now_ns: i64,
    work: impl FnOnce(&Connection) -> Result<(), StoreError>,
) -> Result<EffectOutcome, StoreError> {
    if delivery.is_replay() {
        return Ok(EffectOutcome::Replay);
    }
    let event = delivery.event();
    acknowledge(log.connection, name, event.seq, now_ns)?;
    let sql = "INSERT INTO effects (consumer, event_id, seq) VALUES (?1, ?2, ?3)
               ON CONFLICT DO NOTHING";
    let seq = i64::try_from(event.seq).unwrap_or(i64::MAX);
    let entered = log.connection.execute(sql, params![name, event.id, seq])?;
    if entered == 0 {
        return Ok(EffectOutcome::AlreadyDone);
    }
    work(log.connection)?;
    Ok(EffectOutcome::Done)
}
