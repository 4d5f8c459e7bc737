//! What the tests of the log share: temporary logs, seeded chance, reading everything.

#![allow(dead_code, clippy::unwrap_used)] // Each test uses a part of it; helpers fail the test.

pub mod torture;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kairo_events::{Event, LogReader, NewEvent, Options, Query, Store, StoreError, Ticket};

/// Long enough for the slowest machine; only a bound on a test that would hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A directory and the path of a log in it.
pub struct Place {
    pub directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("events.db")
    }

    pub fn open(&self) -> Store {
        self.open_with(Options::default())
    }

    pub fn open_with(&self, options: Options) -> Store {
        Store::open(&self.path(), options).unwrap().0
    }
}

/// Waits for a ticket, with a watchdog.
pub fn done<T: std::fmt::Debug>(ticket: Result<Ticket<T>, StoreError>) -> Result<T, StoreError> {
    match ticket?.wait_for(PATIENCE) {
        Ok(outcome) => outcome,
        Err(_) => panic!("no outcome within {PATIENCE:?}"),
    }
}

/// Appends and waits. Gives the number.
pub fn append(store: &Store, event: NewEvent) -> Result<u64, StoreError> {
    let (_, ticket) = store.append(event)?;
    done(Ok(ticket)).map(|appended| appended.seq)
}

pub fn event(topic: &str, text: &str) -> NewEvent {
    NewEvent::new(topic, "test", text.as_bytes().to_vec())
}

/// Everything that a query means, page by page, and the damaged numbers.
pub fn read_all(path: &Path, mut query: Query) -> (Vec<Event>, Vec<u64>) {
    let mut reader = LogReader::open(path).unwrap();
    let (mut events, mut damaged) = (Vec::new(), Vec::new());
    loop {
        let page = reader.page(&query).unwrap();
        events.extend(page.events);
        damaged.extend(page.damaged);
        match page.next {
            Some(next) => query.after = next,
            None => return (events, damaged),
        }
    }
}

pub fn text(event: &Event) -> &str {
    std::str::from_utf8(&event.data).unwrap()
}
