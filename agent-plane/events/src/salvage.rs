//! What happens to a damaged file: it is put aside, and everything readable moves to a new one.
//!
//! Nothing is ever repaired in place. The damaged file keeps its bytes under another name for
//! whoever wants to look (one that was cut off gets a hole at its end, so that SQLite reads it);
//! the newest two of them are kept. Rows are read in the order of
//! their numbers; where a page cannot be read, the reading goes on behind it, and the range in
//! between is reported. Every row is checked against its checksum.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::error::StoreError;
use crate::queue::BLOCK;
use crate::schema;

/// Damaged files that are kept.
const KEPT_FILES: usize = 2;
/// Damages after which the rest is given up: each costs a few dozen look-ups.
const MAX_DAMAGES: usize = 1000;
/// No log is larger: a header that claims more is damaged itself.
const MAX_LENGTHENED_BYTES: u64 = 64 << 30;
/// Farthest to look behind a damage.
const FARTHEST: u64 = 1 << 52;

/// What a salvage found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Where the damaged file is now.
    pub quarantined: PathBuf,
    /// What was wrong with it.
    pub damage: String,
    /// Events that are in the new file.
    pub events: u64,
    /// Rows that were read and are not what was written.
    pub damaged_rows: u64,
    /// Ranges of numbers in which events could not be read, both ends included. The last one ends
    /// with the largest number there can be when nobody knows what came behind.
    pub lost: Vec<(u64, u64)>,
    /// Tables that could not be read to their end.
    pub damaged_tables: Vec<&'static str>,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where a new file grows until it is complete.
pub(crate) fn fresh_path(path: &Path) -> PathBuf {
    with_suffix(path, ".salvaging")
}

/// Goes on where an earlier salvage was interrupted: a new file without the damaged one beside it
/// is complete and takes its place; one that was being filled is done again.
pub(crate) fn take_up(path: &Path) -> Result<(), StoreError> {
    let fresh = fresh_path(path);
    if !fresh.exists() {
        return Ok(());
    }
    if path.exists() {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(with_suffix(&fresh, suffix));
        }
        return Ok(());
    }
    std::fs::rename(&fresh, path)?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Renames the file and what belongs to it. Gives the new name.
pub(crate) fn quarantine(path: &Path, now_s: u64) -> Result<PathBuf, StoreError> {
    let mut aside = with_suffix(path, &format!(".corrupt-{now_s}"));
    for attempt in 1..1000 {
        if !aside.exists() {
            break;
        }
        aside = with_suffix(path, &format!(".corrupt-{now_s}-{attempt}"));
    }
    std::fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    forget_old(path);
    Ok(aside)
}

/// Removes all but the newest damaged files. Failing to is no reason to stop.
fn forget_old(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let prefix = format!("{}.corrupt-", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort();
    let count = found.len().saturating_sub(KEPT_FILES);
    for (_, old) in found.drain(..count) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(with_suffix(&old, suffix));
        }
    }
}

/// Tables that are moved row by row, with their columns. `events` comes after what it refers to.
const TABLES: &[(&str, &str, usize)] = &[
    ("meta", "key, value", 2),
    ("boots", "boot_id, uuid", 2),
    ("topics", "topic_id, name, aliases", 3),
    ("streams", "stream_id, name, version", 3),
    (
        "consumers",
        "name, patterns, cursor, gap_from, gap_to, seen_ns",
        6,
    ),
    ("effects", "consumer, event_id, seq", 3),
    (
        "idempotency",
        "owner, key, method, fingerprint, began_ns, boot_id, monotonic_ns, result, checksum",
        9,
    ),
];
const EVENTS: &str = "seq, id, topic_id, source, stream_id, version, class, time_ns, \
     monotonic_ns, boot_id, correlation_id, causation_id, traceparent, data, replaced, checksum";
const EVENT_COLUMNS: usize = 16;

fn insert(table: &str, columns: &str, count: usize) -> String {
    let places = vec!["?"; count].join(",");
    format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})")
}

/// Lengthens a file that was cut off to the size that its header claims. SQLite reads nothing of a
/// file that is too short; the missing pages are then zeros, which it does not take for pages. The
/// new part is a hole and takes no space.
fn lengthen(path: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)?;
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0)?;
    let page_bytes = u64::from(u16::from_be_bytes([header[16], header[17]]));
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    let claimed = page_bytes * u64::from(pages);
    if header.starts_with(b"SQLite format 3\0")
        && claimed > file.metadata()?.len()
        && claimed <= MAX_LENGTHENED_BYTES
    {
        file.set_len(claimed)?;
    }
    Ok(())
}

/// Moves what can be read of the file at `from` into the new, empty log `to`.
pub(crate) fn move_readable(from: &Path, to: &Connection, salvage: &mut Salvage) {
    // Where that fails, SQLite says so again.
    let _ = lengthen(from);
    let Ok(old) = Connection::open(from) else {
        salvage.lost.push((0, u64::MAX));
        return;
    };
    // Its write-ahead log stays as it is, too.
    let _ = old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    // A page with impossible cells is an error and not a guess.
    let _ = old.execute_batch("PRAGMA cell_size_check = ON");
    for (table, columns, count) in TABLES {
        if move_table(&old, to, table, columns, *count).is_err() {
            salvage.damaged_tables.push(table);
        }
    }
    move_events(&old, to, salvage);
}

fn values(row: &rusqlite::Row<'_>, count: usize) -> Result<Vec<Value>, rusqlite::Error> {
    (0..count).map(|index| row.get(index)).collect()
}

fn move_table(
    old: &Connection,
    to: &Connection,
    table: &str,
    columns: &str,
    count: usize,
) -> Result<(), rusqlite::Error> {
    let mut into = to.prepare(&insert(table, columns, count))?;
    let mut statement = old.prepare(&format!("SELECT {columns} FROM {table}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // A row that the schema refuses is damaged; the others may be fine.
        let _ = into.execute(params_from_iter(values(row, count)?));
    }
    Ok(())
}

fn move_events(old: &Connection, to: &Connection, salvage: &mut Salvage) {
    let mut after: u64 = 0;
    for _ in 0..MAX_DAMAGES {
        match move_run(old, to, &mut after, salvage) {
            Ok(()) => return,
            Err(_) => match behind(old, after) {
                Some(next) => {
                    salvage.lost.push((after + 1, next - 1));
                    after = next - 1;
                }
                None => break,
            },
        }
    }
    salvage.lost.push((after + 1, u64::MAX));
}

/// The next number behind a damage that can be read.
fn behind(old: &Connection, after: u64) -> Option<u64> {
    let sql = "SELECT seq FROM events NOT INDEXED WHERE seq > ?1 ORDER BY seq LIMIT 1";
    let mut jump = 1;
    while jump < FARTHEST {
        let from = i64::try_from(after + jump).ok()?;
        if let Ok(seq) = old.query_row(sql, [from], |row| row.get::<_, i64>(0)) {
            return u64::try_from(seq).ok().filter(|next| *next > after);
        }
        jump *= 2;
    }
    None
}

/// Moves rows until the end or the next damage.
fn move_run(
    old: &Connection,
    to: &Connection,
    after: &mut u64,
    salvage: &mut Salvage,
) -> Result<(), rusqlite::Error> {
    let mut into = to.prepare(&insert("events", EVENTS, EVENT_COLUMNS))?;
    let sql = format!("SELECT {EVENTS} FROM events NOT INDEXED WHERE seq > ?1 ORDER BY seq");
    let mut statement = old.prepare(&sql)?;
    let start = i64::try_from(*after).unwrap_or(i64::MAX);
    let mut rows = statement.query([start])?;
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)?;
        let seq = u64::try_from(seq).unwrap_or(0);
        if seq <= *after {
            // A tree that goes back is damaged.
            return Err(rusqlite::Error::InvalidQuery);
        }
        let moved =
            values(row, EVENT_COLUMNS).and_then(|values| into.execute(params_from_iter(values)));
        match moved {
            Ok(1) => salvage.events += 1,
            _ => salvage.damaged_rows += 1,
        }
        *after = seq;
    }
    Ok(())
}

/// Makes what was moved consistent: rows whose checksum is wrong go, streams get the versions of
/// their events, and numbers begin behind everything that may have been given out.
pub(crate) fn finish(to: &Connection, salvage: &mut Salvage) -> Result<(), StoreError> {
    let mut reader = crate::reader::LogReader::over(to)?;
    let mut query = crate::query::Query::default();
    let mut damaged = Vec::new();
    loop {
        let page = reader.page(&query)?;
        damaged.extend(page.damaged);
        let Some(next) = page.next else { break };
        query.after = next;
    }
    let head = reader.head()?;
    for seq in &damaged {
        let seq = i64::try_from(*seq).unwrap_or(i64::MAX);
        to.execute("DELETE FROM events WHERE seq = ?1", [seq])?;
    }
    salvage.events -= damaged.len() as u64;
    salvage.damaged_rows += damaged.len() as u64;
    to.execute(
        "UPDATE streams SET version = max(version, coalesce(
             (SELECT max(version) FROM events WHERE events.stream_id = streams.stream_id), 0))",
        [],
    )?;
    let reserved = schema::number(to, "reserved_until").ok().flatten();
    if reserved.is_none_or(|reserved| reserved < head) {
        // Nobody knows what was given out: skip more than can have been.
        schema::set(to, "reserved_until", &((head + 2 * BLOCK) as i64))?;
    }
    if !matches!(schema::text(to, "log"), Ok(Some(_))) {
        schema::set(to, "log", &crate::clock::random_name())?;
    }
    to.execute("DELETE FROM projections", [])?;
    Ok(())
}
