//! What was open beside claims and intents: services, sessions, grants.
//!
//! Each begins with one event and ends with another. What is still here when a log is opened was
//! left open by a process that was killed, and its successor says how it ended. Bounded by what the
//! owner of the log allows of each at once.

use rusqlite::{Connection, params};
use serde::Deserialize;

use super::Projection;
use crate::event::Event;

/// The projection of services, sessions and grants.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenThings;

/// What kind of thing is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A namespace that a process serves; its name is the namespace.
    Service,
    /// A connection of somebody who is no operator; its name is its number.
    Session,
    /// A grant; its name is its number.
    Grant,
}

/// A thing that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its name among those of its kind.
    pub name: String,
    /// The event with which it began.
    pub seq: u64,
    /// The boot in which it did.
    pub boot: String,
}

#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    connection: Option<u64>,
    #[serde(default)]
    grant: Option<u64>,
}

impl Kind {
    const fn code(self) -> i64 {
        match self {
            Self::Service => 1,
            Self::Session => 2,
            Self::Grant => 3,
        }
    }
}

impl Projection for OpenThings {
    fn name(&self) -> &'static str {
        "open"
    }

    fn version(&self) -> u32 {
        1
    }

    fn topics(&self) -> &'static [&'static str] {
        &[
            "kairo.system.service.added",
            "kairo.system.service.removed",
            "kairo.system.session.started",
            "kairo.system.session.ended",
            "kairo.system.security.permission.granted",
            "kairo.system.security.permission.revoked",
        ]
    }

    fn create(&self, tables: &Connection) -> rusqlite::Result<()> {
        tables.execute_batch(
            "DROP TABLE IF EXISTS projected_open;
             CREATE TABLE projected_open (
                 kind INTEGER NOT NULL,
                 name TEXT NOT NULL,
                 seq INTEGER NOT NULL,
                 boot TEXT NOT NULL,
                 PRIMARY KEY (kind, name)
             ) STRICT, WITHOUT ROWID;",
        )
    }

    fn apply(&mut self, event: &Event, tables: &Connection) -> rusqlite::Result<()> {
        let Ok(facts) = rmp_serde::from_slice::<Facts>(&event.data) else {
            return Ok(());
        };
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let (kind, name) = match () {
            () if event.topic.contains(".service.") => (Kind::Service, facts.namespace),
            () if event.topic.contains(".session.") => (Kind::Session, number(facts.connection)),
            () => (Kind::Grant, number(facts.grant)),
        };
        let Some(name) = name else { return Ok(()) };
        let begins = [".added", ".started", ".granted"];
        if begins.iter().any(|end| event.topic.ends_with(end)) {
            tables.execute(
                "INSERT OR REPLACE INTO projected_open VALUES (?1, ?2, ?3, ?4)",
                params![kind.code(), name, event.seq as i64, &*event.boot],
            )?;
        } else {
            let sql = "DELETE FROM projected_open WHERE kind = ?1 AND name = ?2";
            tables.execute(sql, params![kind.code(), name])?;
        }
        Ok(())
    }
}

impl OpenThings {
    /// The things of a kind that have not ended, at most `limit`, in the order in which they began.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(tables: &Connection, kind: Kind, limit: u32) -> rusqlite::Result<Vec<Open>> {
        let sql = "SELECT name, seq, boot FROM projected_open WHERE kind = ?1
                   ORDER BY seq LIMIT ?2";
        let mut statement = tables.prepare(sql)?;
        let rows = statement.query_map(params![kind.code(), limit], |row| {
            Ok(Open {
                name: row.get(0)?,
                seq: row.get::<_, i64>(1)? as u64,
                boot: row.get(2)?,
            })
        })?;
        rows.collect()
    }
}
