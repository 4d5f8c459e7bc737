//! The tables, and the way from every released schema to the newest.
//!
//! Migrations are numbered and go forward only, all of them in one transaction. Before that a whole
//! copy of the file is made beside it (`events.db.v1.backup`), flushed before it gets that name;
//! the two newest are kept. Where the disk has no room for the copy, nothing is changed and the
//! file is not used. A file of a later version is left alone.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _};

use crate::error::StoreError;

/// The schema that this version writes.
pub const SCHEMA: u32 = 2;
/// `KAEV`, in the file's header: this is an event log of KairoOS.
const APPLICATION_ID: i32 = 0x4B41_4556;

/// One step: from the schema before `to` to `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    pub to: u32,
    pub statements: &'static str,
}

/// All steps, from an empty file on.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        to: 1,
        statements: VERSION_1,
    },
    Migration {
        to: 2,
        statements: VERSION_2,
    },
];

/// Room that a migration leaves on the disk beside the copy.
const SPARE_BYTES: u64 = 8 * 1024 * 1024;
/// Copies that are kept.
const KEPT_BACKUPS: u32 = 2;

/// An index on one column is ordered by that column and then by seq, which is the row's key: so
/// each serves "of this topic, after that number" without a sort.
const VERSION_1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE boots (boot_id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE topics (
    topic_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    aliases TEXT NOT NULL,
    UNIQUE (name, aliases)
) STRICT;
CREATE TABLE streams (
    stream_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL
) STRICT;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    id TEXT,
    topic_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    stream_id INTEGER,
    version INTEGER,
    class INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    monotonic_ns INTEGER NOT NULL,
    boot_id INTEGER NOT NULL,
    correlation_id TEXT,
    causation_id TEXT,
    traceparent TEXT,
    data BLOB NOT NULL,
    replaced BLOB,
    checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_id ON events (id) WHERE id IS NOT NULL;
CREATE INDEX events_topic ON events (topic_id);
CREATE INDEX events_stream ON events (stream_id) WHERE stream_id IS NOT NULL;
CREATE INDEX events_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX events_time ON events (time_ns);
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    patterns TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    gap_from INTEGER,
    gap_to INTEGER,
    seen_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE effects (
    consumer TEXT NOT NULL,
    event_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (consumer, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX effects_seq ON effects (seq);
CREATE TABLE projections (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Keys of requests that may be repeated ([`crate::keys`]).
const VERSION_2: &str = "
CREATE TABLE idempotency (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    method TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    began_ns INTEGER NOT NULL,
    boot_id INTEGER NOT NULL,
    monotonic_ns INTEGER NOT NULL,
    result BLOB,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (monotonic_ns);
";

/// What to do with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Migrated {
    /// The copy that was made before, and the schema that it has.
    pub backup: Option<(PathBuf, u32)>,
}

/// The schema of a file; 0 when it is empty.
pub(crate) fn version(connection: &Connection) -> Result<u32, StoreError> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if tables > 0 && application != i64::from(APPLICATION_ID) {
        let detail = "it is a database, and no event log of KairoOS".into();
        return Err(StoreError::Corrupt { detail });
    }
    u32::try_from(version).map_err(|_| StoreError::Corrupt {
        detail: format!("schema version {version}"),
    })
}

/// Brings a file to the newest of `migrations`. `free_bytes` is what its disk has left.
pub(crate) fn migrate(
    connection: &Connection,
    path: &Path,
    migrations: &[Migration],
    free_bytes: u64,
) -> Result<Migrated, StoreError> {
    let found = version(connection)?;
    let newest = migrations.last().map_or(0, |migration| migration.to);
    if found > newest {
        return Err(StoreError::TooNew {
            found,
            known: newest,
        });
    }
    if found == newest {
        return Ok(Migrated { backup: None });
    }
    let backup = match found {
        0 => None,
        _ => Some((back_up(connection, path, found, free_bytes)?, found)),
    };
    // One transaction: either the whole way or nothing.
    connection.execute_batch("BEGIN EXCLUSIVE")?;
    let done = steps(connection, found, newest, migrations);
    match done {
        Ok(()) => connection.execute_batch("COMMIT")?,
        Err(error) => {
            connection.execute_batch("ROLLBACK")?;
            return Err(error);
        }
    }
    Ok(Migrated { backup })
}

fn steps(
    connection: &Connection,
    found: u32,
    newest: u32,
    migrations: &[Migration],
) -> Result<(), StoreError> {
    for migration in migrations.iter().filter(|migration| migration.to > found) {
        connection.execute_batch(migration.statements)?;
    }
    connection.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {newest}"
    ))?;
    Ok(())
}

/// The newest schema in an empty database.
#[cfg(test)]
pub(crate) fn make(connection: &Connection) -> Result<(), StoreError> {
    steps(connection, 0, SCHEMA, MIGRATIONS)
}

/// That every table and index is the one that the migrations make. A flipped bit in the text of the
/// schema can leave a database that is sound in itself, and is not this one.
pub(crate) fn check(connection: &Connection) -> Result<(), StoreError> {
    let fresh = Connection::open_in_memory()?;
    steps(&fresh, 0, SCHEMA, MIGRATIONS)?;
    let mut expected = fresh.prepare("SELECT name, sql FROM sqlite_schema WHERE sql NOT NULL")?;
    let mut rows = expected.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        let found: Option<String> = connection
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE name = ?1",
                [&name],
                |row| row.get(0),
            )
            .optional()?;
        if found.as_deref() != Some(sql.as_str()) {
            let detail = format!("the schema of {name} is not what it was");
            return Err(StoreError::Corrupt { detail });
        }
    }
    Ok(())
}

/// Where the copy of a file of this version is kept.
fn backup_path(path: &Path, version: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".v{version}.backup"));
    PathBuf::from(name)
}

/// A whole and consistent copy of the file, as it is now. It has its name only once it is on the
/// disk, and an attempt that fails leaves nothing behind.
fn back_up(
    connection: &Connection,
    path: &Path,
    version: u32,
    free_bytes: u64,
) -> Result<PathBuf, StoreError> {
    let needed = crate::retention::used_bytes(connection)? + SPARE_BYTES;
    if free_bytes < needed {
        let detail = format!(
            "bringing schema {version} up to date needs {needed} bytes for a copy, \
             {free_bytes} are free"
        );
        return Err(StoreError::DiskFull { detail });
    }
    let backup = backup_path(path, version);
    let mut part = backup.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let _ = std::fs::remove_file(&part); // Of an attempt that was cut short.
    if let Err(error) = copy(connection, &part) {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    std::fs::rename(&part, &backup)?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    for old in 0..(version + 1).saturating_sub(KEPT_BACKUPS) {
        // One that stays is only a file too many.
        let _ = std::fs::remove_file(backup_path(path, old));
    }
    Ok(backup)
}

fn copy(connection: &Connection, part: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let text = part.to_str().ok_or_else(|| StoreError::Io {
        detail: format!("{} is not UTF-8", part.display()),
    })?;
    // Made before SQLite does, which takes an empty file, for its mode: what robots do is not
    // everybody's.
    let file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(part)?;
    connection.execute("VACUUM INTO ?1", [text])?;
    file.sync_all()?;
    Ok(())
}

/// A number in the table of facts about the log.
pub(crate) fn number(connection: &Connection, key: &str) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let found: Option<i64> = connection
        .query_row(sql, [key], |row| row.get(0))
        .optional()?;
    match found.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(StoreError::Corrupt {
            detail: format!("{key} is negative"),
        }),
    }
}

/// A text in that table.
pub(crate) fn text(connection: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    Ok(connection
        .query_row(sql, [key], |row| row.get(0))
        .optional()?)
}

/// Sets an entry of that table.
pub(crate) fn set(
    connection: &Connection,
    key: &str,
    value: &dyn rusqlite::ToSql,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        rusqlite::params![key, value],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Connection {
        Connection::open(path).unwrap()
    }

    const ROOM: u64 = u64::MAX;
    const FIRST: &[Migration] = &[MIGRATIONS[0]];
    const LATER: &[Migration] = &[
        MIGRATIONS[0],
        Migration {
            to: 2,
            statements: "ALTER TABLE events ADD COLUMN colour TEXT;",
        },
    ];

    #[test]
    fn a_migration_leaves_a_backup_that_opens_with_the_old_schema() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        migrate(&connection, &path, FIRST, ROOM).unwrap();
        set(&connection, "log", &"abc").unwrap();
        let migrated = migrate(&connection, &path, LATER, ROOM).unwrap();
        assert_eq!(version(&connection).unwrap(), 2);
        let (backup, was) = migrated.backup.unwrap();
        assert_eq!(was, 1);
        let backup = open(&backup);
        assert_eq!(version(&backup).unwrap(), 1);
        assert_eq!(text(&backup, "log").unwrap().as_deref(), Some("abc"));
        let again = migrate(&connection, &path, LATER, ROOM).unwrap();
        assert_eq!(again.backup, None);
    }

    #[test]
    fn a_later_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        migrate(&connection, &path, LATER, ROOM).unwrap();
        let refused = migrate(&connection, &path, FIRST, ROOM);
        assert_eq!(refused, Err(StoreError::TooNew { found: 2, known: 1 }));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        migrate(&connection, &path, FIRST, ROOM).unwrap();
        let broken = &[
            MIGRATIONS[0],
            Migration {
                to: 2,
                statements: "DROP TABLE effects; NONSENSE;",
            },
        ];
        assert!(migrate(&connection, &path, broken, ROOM).is_err());
        assert_eq!(version(&connection).unwrap(), 1);
        let effects: i64 = connection
            .query_row("SELECT count(*) FROM effects", [], |row| row.get(0))
            .unwrap();
        assert_eq!(effects, 0);
    }

    #[test]
    fn a_database_of_somebody_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        let refused = migrate(&connection, &path, FIRST, ROOM);
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn without_room_for_the_copy_nothing_is_changed_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        migrate(&connection, &path, FIRST, ROOM).unwrap();
        let refused = migrate(&connection, &path, LATER, SPARE_BYTES);
        let said = refused.unwrap_err();
        assert!(matches!(said, StoreError::DiskFull { .. }), "{said}");
        assert_eq!(version(&connection).unwrap(), 1);
        let files = std::fs::read_dir(directory.path()).unwrap();
        assert_eq!(files.count(), 1);
    }

    #[test]
    fn the_two_newest_copies_are_kept_and_are_not_everybodys() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        let mut steps = vec![MIGRATIONS[0]];
        for to in 2..=4 {
            migrate(&connection, &path, &steps, ROOM).unwrap();
            let statements = "CREATE TABLE IF NOT EXISTS more (x ANY) STRICT;";
            steps.push(Migration { to, statements });
        }
        migrate(&connection, &path, &steps, ROOM).unwrap();
        let there = [1, 2, 3].map(|version| backup_path(&path, version).exists());
        assert_eq!(there, [false, true, true]);
        let mode = std::fs::metadata(backup_path(&path, 3))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    /// Every prefix of the write-ahead log is what a power cut could have left of a migration.
    #[test]
    fn a_power_cut_at_any_byte_of_a_migration_leaves_the_old_or_the_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = open(&path);
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
            .unwrap();
        migrate(&connection, &path, FIRST, ROOM).unwrap();
        set(&connection, "log", &"abc").unwrap();
        connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        migrate(&connection, &path, MIGRATIONS, ROOM).unwrap();
        let file = std::fs::read(&path).unwrap();
        let wal = std::fs::read(directory.path().join("events.db-wal")).unwrap();
        assert!(wal.len() > 4096, "the migration is in the write-ahead log");
        let mut found = std::collections::BTreeSet::new();
        for cut in (0..wal.len()).step_by(512).chain([wal.len()]) {
            let place = tempfile::tempdir().unwrap();
            let copy = place.path().join("events.db");
            std::fs::write(&copy, &file).unwrap();
            std::fs::write(place.path().join("events.db-wal"), &wal[..cut]).unwrap();
            let connection = open(&copy);
            let version = version(&connection).unwrap();
            assert_eq!(text(&connection, "log").unwrap().as_deref(), Some("abc"));
            migrate(&connection, &copy, MIGRATIONS, ROOM).unwrap();
            check(&connection).unwrap();
            found.insert(version);
        }
        assert_eq!(found, [1, 2].into());
    }
}
