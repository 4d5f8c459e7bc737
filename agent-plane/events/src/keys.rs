//! Idempotency keys that survive a kill and a power cut: what was begun under one, and its result.
//!
//! A row is written before what its key stands for is done, and again with the result. So after a
//! restart a key is in one of three states: unknown (nothing was done), begun (nobody can say
//! whether it was done), done (with its result). For an event that is published under a key
//! ([`crate::Store::append_keyed`]) the row and the event are one transaction, so that key is never
//! only begun.
//!
//! Who may use a key, how many, and what is told to whom is the caller's business: it keeps the
//! keys in memory while it runs, says what is to be forgotten, and reads them once at its start.
//! Rows go by age too, measured by the monotonic clock, so that setting the clock forgets nothing.
//! Those of an earlier boot, whose age no clock can tell, begin to age anew.

use std::time::Duration;

use rusqlite::{Connection, params};

use crate::error::StoreError;
use crate::event::Appended;

/// How long a row is kept beyond the age at which its caller forgets it: the caller decides, this
/// only cleans up after one that was killed.
const MARGIN: Duration = Duration::from_secs(60);
/// Most rows that are read at a start. Beyond it the oldest are left out.
pub const MAX_READ: u32 = 128 * 1024;

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Whose it is.
    pub owner: String,
    /// It.
    pub key: String,
    /// The method that was asked for, for people.
    pub method: String,
    /// What was asked for.
    pub fingerprint: [u8; 32],
}

/// A key as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it stands for.
    pub key: Key,
    /// When it was begun, ns since 1970, for people.
    pub began_ns: i64,
    /// How long ago it was begun or done.
    pub age: Duration,
    /// The result; none when nobody knows whether it was done.
    pub result: Option<Vec<u8>>,
}

/// Makes the result of an event that is published under a key, from what became of it and the id
/// that the log gives it if it has none of its own.
pub type ResultOf = Box<dyn FnOnce(&Appended, String) -> Vec<u8> + Send>;

/// The key under which an event is published.
pub struct Keyed {
    /// What it stands for.
    pub key: Key,
    /// Keys of the same owner that are forgotten with it.
    pub forget: Vec<String>,
    /// How long keys are kept.
    pub kept_for: Duration,
    /// The result that is kept.
    pub result: ResultOf,
}

impl std::fmt::Debug for Keyed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(formatter)
    }
}

/// The moment of a write, and the boot it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub wall_ns: i64,
    pub monotonic_ns: u64,
    pub boot_id: i64,
}

fn checksum(key: &Key, result: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let texts = [&key.owner, &key.key, &key.method].map(String::as_bytes);
    for part in [texts[0], texts[1], texts[2], &key.fingerprint] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(&[u8::from(result.is_some())]);
    hasher.update(result.unwrap_or_default());
    hasher.finalize()
}

/// Writes that a key was begun, or what it led to; forgets others of its owner, and what is old.
pub(crate) fn put(
    tables: &Connection,
    key: &Key,
    result: Option<&[u8]>,
    forget: &[String],
    kept_for: Duration,
    now: Moment,
) -> Result<(), StoreError> {
    for other in forget {
        remove(tables, &key.owner, other)?;
    }
    let oldest = now
        .monotonic_ns
        .saturating_sub(nanoseconds(kept_for + MARGIN));
    // Only of this boot: the start has restamped all others.
    let sql = "DELETE FROM idempotency WHERE monotonic_ns < ?1";
    tables.prepare(sql)?.execute([number(oldest)])?;
    let sql = "INSERT INTO idempotency (owner, key, method, fingerprint, began_ns, boot_id,
                   monotonic_ns, result, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
               ON CONFLICT (owner, key) DO UPDATE SET method = excluded.method,
                   fingerprint = excluded.fingerprint, boot_id = excluded.boot_id,
                   monotonic_ns = excluded.monotonic_ns, result = excluded.result,
                   checksum = excluded.checksum,
                   began_ns = iif(fingerprint = excluded.fingerprint, began_ns,
                       excluded.began_ns)";
    tables.prepare(sql)?.execute(params![
        key.owner,
        key.key,
        key.method,
        key.fingerprint,
        now.wall_ns,
        now.boot_id,
        number(now.monotonic_ns),
        result,
        checksum(key, result),
    ])?;
    Ok(())
}

/// Forgets a key: what it stands for was not done.
pub(crate) fn remove(tables: &Connection, owner: &str, key: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM idempotency WHERE owner = ?1 AND key = ?2";
    tables.prepare(sql)?.execute([owner, key])?;
    Ok(())
}

/// Reads all keys that are younger than `kept_for`, the oldest first, and forgets the others. A row
/// that is damaged counts as begun: nobody knows.
pub(crate) fn take_over(
    tables: &Connection,
    kept_for: Duration,
    now: Moment,
) -> Result<Vec<Kept>, StoreError> {
    tables.execute(
        "UPDATE idempotency SET boot_id = ?1, monotonic_ns = ?2 WHERE boot_id != ?1",
        params![now.boot_id, number(now.monotonic_ns)],
    )?;
    let oldest = now.monotonic_ns.saturating_sub(nanoseconds(kept_for));
    let sql = "DELETE FROM idempotency WHERE monotonic_ns < ?1";
    tables.execute(sql, [number(oldest)])?;
    let sql = "SELECT owner, key, method, fingerprint, began_ns, monotonic_ns, result, checksum
               FROM idempotency ORDER BY monotonic_ns DESC LIMIT ?1";
    let mut statement = tables.prepare(sql)?;
    let mut rows = statement.query([MAX_READ])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let fingerprint: Vec<u8> = row.get(3)?;
        let whole = <[u8; 32]>::try_from(fingerprint);
        let key = Key {
            owner: row.get(0)?,
            key: row.get(1)?,
            method: row.get(2)?,
            fingerprint: whole.clone().unwrap_or_default(),
        };
        let result: Option<Vec<u8>> = row.get(6)?;
        let is_sound = whole.is_ok()
            && i64::from(checksum(&key, result.as_deref())) == row.get::<_, i64>(7)?;
        let since = now
            .monotonic_ns
            .saturating_sub(row.get::<_, i64>(5)?.unsigned_abs());
        all.push(Kept {
            key,
            began_ns: row.get(4)?,
            age: Duration::from_nanos(since),
            result: result.filter(|_| is_sound),
        });
    }
    all.reverse();
    Ok(all)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT_FOR: Duration = Duration::from_secs(600);
    const NOW: Moment = Moment {
        wall_ns: 5,
        monotonic_ns: 1_000_000_000_000,
        boot_id: 2,
    };

    fn tables() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        crate::schema::make(&connection).unwrap();
        connection
    }

    fn key(name: &str) -> Key {
        Key {
            owner: "operator@0".into(),
            key: name.into(),
            method: "permission.grant".into(),
            fingerprint: [7; 32],
        }
    }

    fn later(seconds: u64) -> Moment {
        Moment {
            monotonic_ns: NOW.monotonic_ns + seconds * 1_000_000_000,
            ..NOW
        }
    }

    #[test]
    fn a_key_is_found_begun_and_then_done_with_its_result() {
        let tables = tables();
        put(&tables, &key("a"), None, &[], KEPT_FOR, NOW).unwrap();
        let found = take_over(&tables, KEPT_FOR, later(1)).unwrap();
        assert_eq!(
            (found[0].key.clone(), found[0].result.clone()),
            (key("a"), None)
        );
        put(&tables, &key("a"), Some(b"x"), &[], KEPT_FOR, later(2)).unwrap();
        let found = take_over(&tables, KEPT_FOR, later(5)).unwrap();
        assert_eq!(found[0].result.as_deref(), Some(&b"x"[..]));
        assert_eq!(
            (found[0].began_ns, found[0].age),
            (5, Duration::from_secs(3))
        );
        remove(&tables, "operator@0", "a").unwrap();
        assert_eq!(take_over(&tables, KEPT_FOR, later(5)).unwrap(), []);
    }

    #[test]
    fn keys_go_by_age_and_those_of_an_earlier_boot_age_anew() {
        let tables = tables();
        put(&tables, &key("old"), None, &[], KEPT_FOR, NOW).unwrap();
        put(&tables, &key("young"), None, &[], KEPT_FOR, later(600)).unwrap();
        let found = take_over(&tables, KEPT_FOR, later(601)).unwrap();
        assert_eq!(found.len(), 1);
        // Seconds after a boot nobody knows how long the machine was off.
        let after = Moment {
            monotonic_ns: 3_000_000_000,
            boot_id: 3,
            ..NOW
        };
        let found = take_over(&tables, KEPT_FOR, after).unwrap();
        assert_eq!((found.len(), found[0].age), (1, Duration::ZERO));
        let much_later = Moment {
            monotonic_ns: 700_000_000_000,
            ..after
        };
        let forgotten = ["young".to_string()];
        put(
            &tables,
            &key("next"),
            None,
            &forgotten,
            KEPT_FOR,
            much_later,
        )
        .unwrap();
        let found = take_over(&tables, KEPT_FOR, much_later).unwrap();
        assert_eq!(found[0].key, key("next"));
    }

    #[test]
    fn a_damaged_row_says_that_nobody_knows() {
        let tables = tables();
        put(&tables, &key("a"), Some(b"result"), &[], KEPT_FOR, NOW).unwrap();
        let sql = "UPDATE idempotency SET result = x'00'";
        tables.execute(sql, []).unwrap();
        let found = take_over(&tables, KEPT_FOR, NOW).unwrap();
        assert_eq!(found[0].result, None);
    }
}
