//! An event log whose file was damaged opens, or says why not; what it gives afterwards was
//! written so once, and it takes new events under new numbers.

use std::sync::OnceLock;
use std::time::Duration;

use kairo_events::{Class, Event, LogReader, NewEvent, Options, Query, Store, StoreError};

use crate::{audit_log, edits};

/// The log's file.
const NAME: &str = "events.db";
/// Watchdog of one step.
const PATIENCE: Duration = Duration::from_secs(60);

/// Damages the file, opens it, reads it.
pub fn run(input: &[u8]) {
    static ORIGINAL: OnceLock<(Vec<u8>, Vec<Event>)> = OnceLock::new();
    let (content, written) = ORIGINAL.get_or_init(write);
    let mut files = [content.clone()];
    if !edits::apply(input, &mut files) {
        return;
    }
    let directory = audit_log::directory();
    let path = directory.path().join(NAME);
    std::fs::write(&path, &files[0]).unwrap();
    let (store, _) = match Store::open(&path, Options::default()) {
        Ok(opened) => opened,
        // What cannot be opened says so; the caller goes on without a log.
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let seq = match append(&store) {
        Ok(seq) => seq,
        Err(error) => panic!("opened, and takes no event: {error}"),
    };
    assert!(store.close(PATIENCE), "does not close");
    for event in all(&path) {
        let original = written.iter().find(|one| one.seq == event.seq);
        match original {
            Some(original) => assert_eq!(
                (&event.topic, &event.data),
                (&original.topic, &original.data)
            ),
            None => assert_eq!(event.seq, seq, "{event:?} was never written"),
        }
    }
}

fn write() -> (Vec<u8>, Vec<Event>) {
    let directory = audit_log::directory();
    let path = directory.path().join(NAME);
    let (store, _) = Store::open(&path, Options::default()).unwrap();
    for _ in 0..40 {
        append(&store).unwrap();
    }
    assert!(store.close(PATIENCE));
    (std::fs::read(&path).unwrap(), all(&path))
}

fn append(store: &Store) -> Result<u64, StoreError> {
    let event = NewEvent::new("a.b", "fuzz", vec![0xa5; 200]).class(Class::Synchronous);
    let (_, ticket) = store.append(event)?;
    match ticket.wait_for(PATIENCE) {
        Ok(outcome) => outcome.map(|appended| appended.seq),
        Err(_) => panic!("no outcome within {PATIENCE:?}"),
    }
}

fn all(path: &std::path::Path) -> Vec<Event> {
    let mut reader = LogReader::open(path).unwrap();
    let (mut query, mut events) = (Query::default(), Vec::new());
    loop {
        let page = reader.page(&query).unwrap();
        events.extend(page.events);
        match page.next {
            Some(next) => query.after = next,
            None => return events,
        }
    }
}
