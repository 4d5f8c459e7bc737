//! Which processes were started and have not ended.

use rusqlite::{Connection, params};
use serde::Deserialize;

use super::Projection;
use crate::event::Event;

/// The projection of processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processes;

/// A process session that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The session.
    pub process: String,
    /// Its number in the machine's kernel, in the boot it was started in.
    pub pid: Option<i64>,
    /// That boot.
    pub boot: String,
    /// The event with which it began.
    pub seq: u64,
}

#[derive(Deserialize)]
struct Facts {
    process: String,
    #[serde(default)]
    pid: Option<i64>,
}

impl Projection for Processes {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn version(&self) -> u32 {
        1
    }

    fn topics(&self) -> &'static [&'static str] {
        &[
            "kairo.system.process.spawned",
            "kairo.system.process.exited",
            "kairo.system.process.canceled",
        ]
    }

    fn create(&self, tables: &Connection) -> rusqlite::Result<()> {
        tables.execute_batch(
            "DROP TABLE IF EXISTS projected_processes;
             CREATE TABLE projected_processes (
                 process TEXT PRIMARY KEY,
                 pid INTEGER,
                 boot TEXT NOT NULL,
                 seq INTEGER NOT NULL
             ) STRICT, WITHOUT ROWID;",
        )
    }

    fn apply(&mut self, event: &Event, tables: &Connection) -> rusqlite::Result<()> {
        let Ok(facts) = rmp_serde::from_slice::<Facts>(&event.data) else {
            return Ok(());
        };
        if event.topic.ends_with(".spawned") {
            tables.execute(
                "INSERT OR REPLACE INTO projected_processes VALUES (?1, ?2, ?3, ?4)",
                params![facts.process, facts.pid, &*event.boot, event.seq as i64],
            )?;
        } else {
            let sql = "DELETE FROM projected_processes WHERE process = ?1";
            tables.execute(sql, [facts.process])?;
        }
        Ok(())
    }
}

impl Processes {
    /// The processes that have not ended, at most `limit`, in the order in which they began.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(tables: &Connection, limit: u32) -> rusqlite::Result<Vec<Process>> {
        let sql = "SELECT process, pid, boot, seq FROM projected_processes
                   ORDER BY seq LIMIT ?1";
        let mut statement = tables.prepare(sql)?;
        let rows = statement.query_map([limit], |row| {
            Ok(Process {
                process: row.get(0)?,
                pid: row.get(1)?,
                boot: row.get(2)?,
                seq: row.get::<_, i64>(3)? as u64,
            })
        })?;
        rows.collect()
    }
}
