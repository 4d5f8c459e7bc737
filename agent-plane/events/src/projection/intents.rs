//! Which intents were begun, under which, and how they ended.

use rusqlite::{Connection, params};
use serde::Deserialize;

use super::Projection;
use crate::event::Event;

/// Ended intents that are kept for look-up; older ones are in the log alone.
const KEPT_ENDED: u32 = 10_000;

/// The projection of intents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intents;

/// An intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its id.
    pub intent: String,
    /// The intent under which it was begun.
    pub parent: Option<String>,
    /// `running`, or how it ended.
    pub status: String,
    /// The event with which it began.
    pub began_seq: u64,
    /// The event with which it ended.
    pub ended_seq: Option<u64>,
    /// The boot in which it began.
    pub boot: String,
}

#[derive(Deserialize)]
struct Facts {
    intent: String,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    status: Option<String>,
}

impl Projection for Intents {
    fn name(&self) -> &'static str {
        "intents"
    }

    fn version(&self) -> u32 {
        2
    }

    fn topics(&self) -> &'static [&'static str] {
        &["kairo.system.intent.started", "kairo.system.intent.ended"]
    }

    fn create(&self, tables: &Connection) -> rusqlite::Result<()> {
        tables.execute_batch(
            "DROP TABLE IF EXISTS projected_intents;
             CREATE TABLE projected_intents (
                 intent TEXT PRIMARY KEY,
                 parent TEXT,
                 status TEXT NOT NULL,
                 began_seq INTEGER NOT NULL,
                 ended_seq INTEGER,
                 boot TEXT NOT NULL
             ) STRICT, WITHOUT ROWID;
             CREATE INDEX projected_intents_ended ON projected_intents (ended_seq)
                 WHERE ended_seq IS NOT NULL;",
        )
    }

    fn apply(&mut self, event: &Event, tables: &Connection) -> rusqlite::Result<()> {
        let Ok(facts) = rmp_serde::from_slice::<Facts>(&event.data) else {
            return Ok(());
        };
        if event.topic.ends_with(".started") {
            tables.execute(
                "INSERT OR IGNORE INTO projected_intents VALUES (?1, ?2, 'running', ?3, NULL, ?4)",
                params![facts.intent, facts.parent, event.seq as i64, &*event.boot],
            )?;
            return Ok(());
        }
        let status = facts.status.unwrap_or_else(|| "ended".into());
        // The first end counts.
        tables.execute(
            "UPDATE projected_intents SET status = ?2, ended_seq = ?3
             WHERE intent = ?1 AND ended_seq IS NULL",
            params![facts.intent, status, event.seq as i64],
        )?;
        tables.execute(
            "DELETE FROM projected_intents WHERE ended_seq IN (
                 SELECT ended_seq FROM projected_intents WHERE ended_seq IS NOT NULL
                 ORDER BY ended_seq DESC LIMIT 10 OFFSET ?1)",
            [KEPT_ENDED],
        )?;
        Ok(())
    }
}

impl Intents {
    /// The intents that run, at most `limit`, in the order in which they began.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn running(tables: &Connection, limit: u32) -> rusqlite::Result<Vec<Intent>> {
        let sql = "SELECT intent, parent, status, began_seq, ended_seq, boot FROM projected_intents
                   WHERE ended_seq IS NULL ORDER BY began_seq LIMIT ?1";
        let mut statement = tables.prepare(sql)?;
        let rows = statement.query_map([limit], |row| {
            Ok(Intent {
                intent: row.get(0)?,
                parent: row.get(1)?,
                status: row.get(2)?,
                began_seq: row.get::<_, i64>(3)? as u64,
                ended_seq: row.get::<_, Option<i64>>(4)?.map(|seq| seq as u64),
                boot: row.get(5)?,
            })
        })?;
        rows.collect()
    }
}
