//! Opening a log: lock, schema, damage, numbers, projections. Blocks on the disk.
//!
//! Small files are checked whole; in large ones, which would take seconds, the places that every
//! start needs are read, and each row's checksum is checked whenever it is read later.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, params};

use crate::clock::{boot_id, random_name};
use crate::error::StoreError;
use crate::projection::{Projection, Projections};
use crate::queue::BLOCK;
use crate::salvage::{self, Salvage};
use crate::schema::{self, MIGRATIONS};

/// Files up to this size are checked whole: some 50 ms.
const CHECKED_WHOLE_BYTES: u64 = 8 * 1024 * 1024;
/// The writer's page cache, KiB.
const CACHE_KIB: u32 = 8 * 1024;
/// The write-ahead log is cut back to this after it was moved into the file.
const WAL_LIMIT_BYTES: u32 = 16 * 1024 * 1024;
/// How long to wait for a lock of another process that looks at the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The newest number in the log.
    pub head: u64,
    /// What was salvaged, if the file was damaged.
    pub salvage: Option<Salvage>,
    /// The copy of the file before its schema was brought up to date, and the schema it has.
    pub backup: Option<(PathBuf, u32)>,
    /// Projections that were built anew.
    pub rebuilt: Vec<&'static str>,
}

/// A log ready for its threads.
pub(crate) struct Opened {
    pub connection: Connection,
    pub lock: File,
    pub name: String,
    pub boot: (i64, Arc<str>),
    pub next_seq: u64,
    pub reserved_until: u64,
    pub projections: Projections,
    pub report: OpenReport,
}

pub(crate) fn open(
    path: &Path,
    hard_limit_bytes: Option<u64>,
    projections: Vec<Box<dyn Projection>>,
) -> Result<Opened, StoreError> {
    let lock = lock(path)?;
    let mut report = OpenReport::default();
    salvage::take_up(path)?;
    let connection = match connect(path, &mut report) {
        Err(StoreError::Corrupt { detail }) => {
            report.salvage = Some(salvage_all(path, detail)?);
            connect(path, &mut report)?
        }
        other => other?,
    };
    limit(&connection, hard_limit_bytes)?;
    let mut projections = Projections::new(projections)?;
    report.rebuilt = projections.rebuild(&connection)?;
    let (name, boot) = identify(&connection)?;
    let sql = "SELECT coalesce(max(seq), 0) FROM events";
    let head: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    report.head = head.unsigned_abs();
    let used_until = schema::number(&connection, "reserved_until")?.unwrap_or(0);
    let next_seq = used_until.max(report.head) + 1;
    let reserved_until = next_seq + BLOCK;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    schema::set(&connection, "reserved_until", &(reserved_until as i64))?;
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(Opened {
        connection,
        lock,
        name,
        boot,
        next_seq,
        reserved_until,
        projections,
        report,
    })
}

/// Keeps other processes from writing to the same log.
fn lock(path: &Path) -> Result<File, StoreError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(PathBuf::from(name))?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => StoreError::Io {
            detail: format!("another process has {} open", path.display()),
        },
        std::fs::TryLockError::Error(error) => error.into(),
    })?;
    Ok(file)
}

/// Connects, brings the schema up to date, and looks for damage.
fn connect(path: &Path, report: &mut OpenReport) -> Result<Connection, StoreError> {
    // The file's mode is not SQLite's business, and what robots do is not everybody's.
    let made = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    drop(made);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let detail = format!("its file system allows journal mode {mode:?} only, not WAL");
        return Err(StoreError::Io { detail });
    }
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -{CACHE_KIB}; \
         PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}; PRAGMA temp_store = MEMORY; \
         PRAGMA cell_size_check = ON"
    ))?;
    let disk = nix::sys::statvfs::statvfs(path);
    // A file system that does not say counts as having room: then writing says it.
    let free_bytes = disk.map_or(u64::MAX, |disk| {
        disk.blocks_available() * disk.fragment_size()
    });
    let migrated = schema::migrate(&connection, path, MIGRATIONS, free_bytes)?;
    report.backup = migrated.backup;
    check(&connection, path)?;
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    schema::check(connection)?;
    let bytes = std::fs::metadata(path)?.len();
    if bytes <= CHECKED_WHOLE_BYTES {
        let found: String =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(StoreError::Corrupt { detail: found });
        }
        return Ok(());
    }
    let looks = [
        "SELECT count(*) FROM meta",
        "SELECT count(*) FROM topics",
        "SELECT count(*) FROM boots",
        "SELECT count(*) FROM consumers",
        "SELECT count(*) FROM projections",
        "SELECT count(*) FROM idempotency",
        "SELECT coalesce(min(seq), 0) + coalesce(max(checksum), 0) FROM
             (SELECT seq, checksum FROM events ORDER BY seq DESC LIMIT 100)",
        "SELECT coalesce(max(time_ns), 0) FROM events INDEXED BY events_time",
    ];
    for sql in looks {
        connection.query_row(sql, [], |row| row.get::<_, i64>(0))?;
    }
    Ok(())
}

/// Moves what is readable into a new file, puts the damaged one aside, and the new one in its
/// place. Until that is complete the damaged one stays where it is: a kill or a full disk on the
/// way only means that it is done again.
fn salvage_all(path: &Path, damage: String) -> Result<Salvage, StoreError> {
    let fresh = salvage::fresh_path(path);
    let mut salvage = Salvage {
        damage,
        ..Salvage::default()
    };
    let connection = connect(&fresh, &mut OpenReport::default())?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    salvage::move_readable(path, &connection, &mut salvage);
    salvage::finish(&connection, &mut salvage)?;
    connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")?;
    drop(connection);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    salvage.quarantined = salvage::quarantine(path, now.unwrap_or_default().as_secs())?;
    salvage::take_up(path)?;
    Ok(salvage)
}

fn limit(connection: &Connection, bytes: Option<u64>) -> Result<(), StoreError> {
    let Some(bytes) = bytes else { return Ok(()) };
    let page_bytes: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let pages = (bytes / page_bytes.unsigned_abs().max(1)).max(1);
    let sql = format!("PRAGMA max_page_count = {pages}");
    let _: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
    Ok(())
}

/// The log's own name, made once, and the number of this boot.
fn identify(connection: &Connection) -> Result<(String, (i64, Arc<str>)), StoreError> {
    let name = match schema::text(connection, "log")? {
        Some(name) => name,
        None => {
            let name = random_name();
            schema::set(connection, "log", &name)?;
            name
        }
    };
    let uuid = boot_id();
    let sql = "INSERT INTO boots (uuid) VALUES (?1) ON CONFLICT (uuid) DO NOTHING";
    connection.execute(sql, params![uuid])?;
    let sql = "SELECT boot_id FROM boots WHERE uuid = ?1";
    let number = connection.query_row(sql, params![uuid], |row| row.get(0))?;
    Ok((name, (number, Arc::from(uuid))))
}
