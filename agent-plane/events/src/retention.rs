//! Retention: the file stays within its limits, and consumers are not robbed in silence.
//!
//! The oldest events go first, a chunk at a time between two transactions of the writer, so that no
//! append waits long. An event that a durable consumer has not acknowledged is kept until the
//! second, larger limit; then it goes too, and the consumer is told the gap.
//!
//! Age is measured by the monotonic clock for events of this boot, so that setting the clock (a
//! board without a battery starts in 1970) eats nothing. Events that were stamped before 2020 in
//! an earlier boot have no known age: only the limit on bytes takes them.

use std::time::Duration;

use rusqlite::{Connection, params};

use crate::error::StoreError;

/// Most events that one chunk removes.
const CHUNK: usize = 8192;
/// 2020-01-01: a wall clock before it was not set.
const CLOCK_WAS_SET_NS: i64 = 1_577_836_800_000_000_000;
/// What a row takes beside its data, with its share of the indexes; only to size a chunk.
const ROW_BYTES: u64 = 200;

/// Where the log remembers the last number that was removed.
pub(crate) const REMOVED_UNTIL: &str = "removed_until";

/// What a log may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file that may be in use.
    pub max_bytes: u64,
    /// Age beyond which an event goes.
    pub max_age: Option<Duration>,
    /// Bytes more that may be in use for consumers that have not acknowledged.
    pub held_bytes: u64,
    /// How much older an event may get for them.
    pub held_age: Duration,
}

impl Default for Limits {
    /// 256 MiB and 30 days; half of that more for consumers.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            max_bytes: 256 * 1024 * 1024,
            max_age: Some(day * 30),
            held_bytes: 128 * 1024 * 1024,
            held_age: day * 15,
        }
    }
}

/// The clocks, and the boot they belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub wall_ns: i64,
    pub monotonic_ns: u64,
    pub boot_id: i64,
}

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    pub removed: usize,
    /// Whether there may be more to remove.
    pub more: bool,
}

/// Bytes of the file that are in use.
pub(crate) fn used_bytes(connection: &Connection) -> Result<u64, StoreError> {
    let pragma = |name: &str| -> Result<i64, rusqlite::Error> {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok((pages * pragma("page_size")?).unsigned_abs())
}

fn age(now: Now, time_ns: i64, monotonic_ns: i64, boot_id: i64) -> Duration {
    let ns = if boot_id == now.boot_id {
        now.monotonic_ns.saturating_sub(monotonic_ns.unsigned_abs())
    } else if time_ns < CLOCK_WAS_SET_NS {
        0
    } else {
        u64::try_from(now.wall_ns.saturating_sub(time_ns)).unwrap_or(0)
    };
    Duration::from_nanos(ns)
}

/// The last number that may go now, if any.
fn horizon(
    connection: &Connection,
    limits: &Limits,
    now: Now,
    excess: u64,
    hard: bool,
) -> Result<(Option<i64>, usize), StoreError> {
    let sql = "SELECT min(cursor) FROM consumers";
    let acknowledged: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
    let acknowledged = acknowledged.unwrap_or(i64::MAX);
    let sql = "SELECT seq, time_ns, monotonic_ns, boot_id, length(data) FROM events NOT INDEXED
               ORDER BY seq LIMIT ?1";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([CHUNK as i64])?;
    let (mut last, mut count, mut freed) = (None, 0, 0_u64);
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let age = age(now, row.get(1)?, row.get(2)?, row.get(3)?);
        let old = limits.max_age.is_some_and(|most| age > most);
        let oldest = limits
            .max_age
            .is_some_and(|most| age > most + limits.held_age);
        let wanted = old || freed < excess;
        let allowed = seq <= acknowledged || oldest || hard;
        if !(wanted && allowed) {
            break;
        }
        freed += ROW_BYTES + row.get::<_, i64>(4)?.unsigned_abs();
        (last, count) = (Some(seq), count + 1);
    }
    Ok((last, count))
}

/// Removes a chunk of what is beyond the limits, in a transaction of its own.
pub(crate) fn enforce(
    connection: &Connection,
    limits: &Limits,
    now: Now,
) -> Result<Turn, StoreError> {
    let used = used_bytes(connection)?;
    // A little more than needed, so that not every append pays for its own removal.
    let target = limits.max_bytes - limits.max_bytes / 16;
    let excess = if used > limits.max_bytes {
        used - target
    } else {
        0
    };
    let hard = used > limits.max_bytes.saturating_add(limits.held_bytes);
    let (Some(last), removed) = horizon(connection, limits, now, excess, hard)? else {
        return Ok(Turn::default());
    };
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = remove(connection, last);
    let done = done.and_then(|()| Ok(connection.execute_batch("COMMIT")?));
    if let Err(error) = done {
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        return Err(error);
    }
    Ok(Turn {
        removed,
        more: removed == CHUNK,
    })
}

fn remove(connection: &Connection, last: i64) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE consumers SET gap_from = coalesce(gap_from, cursor + 1), gap_to = ?1, cursor = ?1
         WHERE cursor < ?1",
        [last],
    )?;
    // A stream whose last event goes is forgotten: the file is bounded, so its versions are too.
    connection.execute(
        "DELETE FROM streams WHERE stream_id IN (
             SELECT DISTINCT stream_id FROM events WHERE seq <= ?1 AND stream_id IS NOT NULL)
         AND NOT EXISTS (SELECT 1 FROM events e
             WHERE e.stream_id = streams.stream_id AND e.seq > ?1)",
        [last],
    )?;
    connection.execute("DELETE FROM effects WHERE seq <= ?1", params![last])?;
    connection.execute("DELETE FROM events WHERE seq <= ?1", params![last])?;
    crate::schema::set(connection, REMOVED_UNTIL, &last)?;
    connection.execute(
        "DELETE FROM topics WHERE NOT EXISTS (
             SELECT 1 FROM events e WHERE e.topic_id = topics.topic_id)",
        [],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        wall_ns: 1_800_000_000_000_000_000,
        monotonic_ns: 10_000_000_000,
        boot_id: 2,
    };

    #[test]
    fn setting_the_clock_does_not_age_the_events_of_this_boot() {
        // Stamped in 1970, six seconds ago.
        assert_eq!(age(NOW, 5, 4_000_000_000, 2), Duration::from_secs(6));
        // Stamped in the future.
        assert_eq!(age(NOW, i64::MAX, 4_000_000_000, 2), Duration::from_secs(6));
    }

    #[test]
    fn events_of_earlier_boots_age_by_the_wall_unless_it_was_not_set() {
        let hour_ago = NOW.wall_ns - 3_600_000_000_000;
        assert_eq!(age(NOW, hour_ago, 0, 1), Duration::from_secs(3600));
        assert_eq!(age(NOW, 5, 0, 1), Duration::ZERO);
        assert_eq!(age(NOW, i64::MAX, 0, 1), Duration::ZERO);
    }
}
