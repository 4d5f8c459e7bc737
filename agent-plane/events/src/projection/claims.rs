//! Which devices are claimed, and by whom.

use rusqlite::{Connection, params};
use serde::Deserialize;

use super::Projection;
use crate::event::Event;

/// The projection of claims.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims;

/// A claim that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The device.
    pub device: String,
    /// Its epoch.
    pub epoch: u64,
    /// The event with which it began.
    pub seq: u64,
    /// Who claimed it, as that event's `source` and correlation say.
    pub correlation_id: Option<String>,
    /// The boot in which it began.
    pub boot: String,
}

#[derive(Deserialize)]
struct Facts {
    device: String,
    #[serde(default)]
    epoch: u64,
}

impl Projection for Claims {
    fn name(&self) -> &'static str {
        "claims"
    }

    fn version(&self) -> u32 {
        2
    }

    fn topics(&self) -> &'static [&'static str] {
        &[
            "kairo.system.device.claimed",
            "kairo.system.device.released",
            "kairo.system.rt.lost",
        ]
    }

    fn create(&self, tables: &Connection) -> rusqlite::Result<()> {
        tables.execute_batch(
            "DROP TABLE IF EXISTS projected_claims;
             CREATE TABLE projected_claims (
                 device TEXT PRIMARY KEY,
                 epoch INTEGER NOT NULL,
                 seq INTEGER NOT NULL,
                 correlation_id TEXT,
                 boot TEXT NOT NULL
             ) STRICT, WITHOUT ROWID;",
        )
    }

    fn apply(&mut self, event: &Event, tables: &Connection) -> rusqlite::Result<()> {
        if event.topic.ends_with(".rt.lost") {
            tables.execute("DELETE FROM projected_claims", [])?;
            return Ok(());
        }
        let Ok(facts) = rmp_serde::from_slice::<Facts>(&event.data) else {
            return Ok(());
        };
        if event.topic.ends_with(".claimed") {
            tables.execute(
                "INSERT OR REPLACE INTO projected_claims VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    facts.device,
                    facts.epoch as i64,
                    event.seq as i64,
                    event.correlation_id,
                    &*event.boot
                ],
            )?;
        } else {
            let sql = "DELETE FROM projected_claims WHERE device = ?1";
            tables.execute(sql, [facts.device])?;
        }
        Ok(())
    }
}

impl Claims {
    /// The claims that have not ended, at most `limit`, by device.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(tables: &Connection, limit: u32) -> rusqlite::Result<Vec<Claim>> {
        let sql = "SELECT device, epoch, seq, correlation_id, boot FROM projected_claims
                   ORDER BY device LIMIT ?1";
        let mut statement = tables.prepare(sql)?;
        let rows = statement.query_map([limit], |row| {
            Ok(Claim {
                device: row.get(0)?,
                epoch: row.get::<_, i64>(1)? as u64,
                seq: row.get::<_, i64>(2)? as u64,
                correlation_id: row.get(3)?,
                boot: row.get(4)?,
            })
        })?;
        rows.collect()
    }
}
