//! Projections: tables that follow from the events, and are built anew from them.
//!
//! A projection sees each event of its topics once, in the order of the log, in the transaction
//! that appends it: its tables are never behind the log nor ahead of it. When its version is not
//! the one that its tables were made by, they are made anew from what the log still holds.

use std::fmt;

use rusqlite::{Connection, OptionalExtension as _};

use crate::error::StoreError;
use crate::event::Event;
use crate::query::Query;
use crate::reader::LogReader;
use crate::topic::Pattern;

mod claims;
mod intents;
mod open;
mod processes;

pub use claims::{Claim, Claims};
pub use intents::{Intent, Intents};
pub use open::{Kind, Open, OpenThings};
pub use processes::{Process, Processes};

/// Projections of one log: one bit each says whether a topic concerns it.
const MAX_PROJECTIONS: usize = 64;

/// A set of tables that events make.
pub trait Projection: Send {
    /// Its name; stable.
    fn name(&self) -> &'static str;
    /// To be raised whenever its tables or its rules change.
    fn version(&self) -> u32;
    /// Patterns of the topics that concern it.
    fn topics(&self) -> &'static [&'static str];
    /// Drops its tables if they are there, and makes them empty.
    ///
    /// # Errors
    /// What SQLite says.
    fn create(&self, tables: &Connection) -> rusqlite::Result<()>;
    /// Takes in one event. What it does not understand it leaves out: an event with odd data must
    /// not be able to stop the log.
    ///
    /// # Errors
    /// What SQLite says; the transaction then fails.
    fn apply(&mut self, event: &Event, tables: &Connection) -> rusqlite::Result<()>;
}

/// The projections that every log of KairoOS has.
pub fn built_in() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(Claims),
        Box::new(Intents),
        Box::new(Processes),
        Box::new(OpenThings),
    ]
}

/// The projections of a log.
pub(crate) struct Projections {
    all: Vec<(Box<dyn Projection>, Vec<Pattern>)>,
}

impl fmt::Debug for Projections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.all.iter().map(|(projection, _)| projection.name());
        formatter.debug_list().entries(names).finish()
    }
}

impl Projections {
    pub fn new(projections: Vec<Box<dyn Projection>>) -> Result<Self, StoreError> {
        if projections.len() > MAX_PROJECTIONS {
            return Err(StoreError::Limit {
                what: "projections",
                limit: MAX_PROJECTIONS,
                fix: "merge some",
            });
        }
        let mut all = Vec::new();
        for projection in projections {
            let patterns: Result<Vec<_>, _> = projection
                .topics()
                .iter()
                .map(|text| Pattern::parse(text))
                .collect();
            let patterns =
                patterns.map_err(|error| StoreError::invalid("projection", error.to_string()))?;
            all.push((projection, patterns));
        }
        Ok(Self { all })
    }

    /// Which of them a topic concerns, one bit each.
    pub fn concerned(&self, topic: &str, aliases: &[String]) -> u64 {
        let bits = self.all.iter().enumerate().map(|(index, (_, patterns))| {
            u64::from(Pattern::any_matches(patterns, topic, aliases)) << index
        });
        bits.fold(0, |all, bit| all | bit)
    }

    pub fn apply(
        &mut self,
        concerned: u64,
        event: &Event,
        tables: &Connection,
    ) -> Result<(), StoreError> {
        for (index, (projection, _)) in self.all.iter_mut().enumerate() {
            if concerned & (1 << index) != 0 {
                projection.apply(event, tables)?;
            }
        }
        Ok(())
    }

    /// Builds those anew whose version is not that of their tables. Gives their names.
    pub fn rebuild(&mut self, connection: &Connection) -> Result<Vec<&'static str>, StoreError> {
        let mut rebuilt = Vec::new();
        for (projection, patterns) in &mut self.all {
            let name = projection.name();
            let sql = "SELECT version FROM projections WHERE name = ?1";
            let found: Option<u32> = connection
                .query_row(sql, [name], |row| row.get(0))
                .optional()?;
            if found == Some(projection.version()) {
                continue;
            }
            connection.execute_batch("BEGIN IMMEDIATE")?;
            if let Err(error) = build(projection.as_mut(), patterns, connection) {
                connection.execute_batch("ROLLBACK")?;
                return Err(error);
            }
            connection.execute_batch("COMMIT")?;
            rebuilt.push(name);
        }
        Ok(rebuilt)
    }
}

fn build(
    projection: &mut dyn Projection,
    patterns: &[Pattern],
    connection: &Connection,
) -> Result<(), StoreError> {
    projection.create(connection)?;
    let mut reader = LogReader::over(connection)?;
    let mut query = Query {
        patterns: patterns.to_vec(),
        ..Query::default()
    };
    loop {
        let page = reader.page(&query)?;
        for event in &page.events {
            projection.apply(event, connection)?;
        }
        let Some(next) = page.next else { break };
        query.after = next;
    }
    connection.execute(
        "INSERT INTO projections (name, version) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET version = excluded.version",
        rusqlite::params![projection.name(), projection.version()],
    )?;
    Ok(())
}
