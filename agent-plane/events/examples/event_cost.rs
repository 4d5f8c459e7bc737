//! What the event log costs, beside raw SQLite doing the same rows. Used by `xtask bench events`.
//!
//! `event_cost DIRECTORY` prints one JSON object. Sides are measured in turns; values are in the
//! order of the measurement and untrimmed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kairo_events::rusqlite::{Connection, params};
use kairo_events::{Class, Expected, Limits, LogReader, NewEvent, Options, Pattern, Query, Store};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Synchronous appends of a round, and rounds of each side.
const COMMITS: usize = 50;
const ROUNDS: usize = 40;
/// Events of a round of batches.
const BATCHED: usize = 200_000;
const BATCHED_ROUNDS: usize = 5;
/// Events in the log that is opened and replayed.
const MANY: usize = 1_000_000;
/// Tickets that are held at once.
const WINDOW: usize = 8192;

fn main() -> Outcome<()> {
    let directory = std::env::args()
        .nth(1)
        .ok_or("usage: event_cost DIRECTORY")?;
    let directory = PathBuf::from(directory);
    let mut raw = json!({});
    synchronous(&directory, &mut raw)?;
    batched(&directory, &mut raw)?;
    many(&directory, &mut raw)?;
    println!("{raw}");
    Ok(())
}

/// Nothing is removed while it is measured.
fn roomy() -> Options {
    Options {
        limits: Limits {
            max_bytes: 4 << 30,
            ..Limits::default()
        },
        projections: kairo_events::projection::built_in(),
        ..Options::default()
    }
}

fn data() -> Vec<u8> {
    // Like {device, epoch, connection, pid, uid} of a claim.
    vec![0xA5; 64]
}

fn event(class: Class) -> NewEvent {
    NewEvent::new("kairo.system.device.claimed", "kairod", data()).class(class)
}

/// One row, committed and flushed by SQLite itself: same schema, same indexes, same pragmas.
struct Raw {
    connection: Connection,
    next: i64,
}

impl Raw {
    fn open(path: &Path) -> Outcome<Self> {
        // The schema comes from a store, so that it cannot differ from ours.
        Store::open(path, Options::default())?
            .0
            .append(event(Class::Batched))?
            .1
            .wait()?;
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -8192")?;
        let next = connection.query_row("SELECT max(seq) + 1 FROM events", [], |row| row.get(0))?;
        Ok(Self { connection, next })
    }

    fn commit(&mut self, count: usize) -> Outcome<Vec<u64>> {
        let mut statement = self.connection.prepare(
            "INSERT INTO events (seq, topic_id, source, class, time_ns, monotonic_ns, boot_id,
                 data, checksum) VALUES (?1, 1, 'kairod', 2, ?1, ?1, 1, ?2, 0)",
        )?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let started = Instant::now();
            statement.execute(params![self.next, data()])?;
            times.push(nanoseconds(started));
            self.next += 1;
        }
        Ok(times)
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn synchronous(directory: &Path, raw: &mut Value) -> Outcome<()> {
    let mut control = Raw::open(&directory.join("raw.db"))?;
    let (store, _) = Store::open(&directory.join("ours.db"), Options::default())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.extend(control.commit(COMMITS)?);
        for _ in 0..COMMITS {
            let started = Instant::now();
            store.append(event(Class::Synchronous))?.1.wait()?;
            ours.push(nanoseconds(started));
        }
    }
    raw["synchronous_ns"] = json!(ours);
    raw["raw_commit_ns"] = json!(theirs);
    Ok(())
}

/// Appends `count` events, each with a ticket that is waited for. Gives events a second.
fn rate(store: &Store, count: usize, make: impl Fn(usize) -> NewEvent) -> Outcome<f64> {
    let mut open = VecDeque::with_capacity(WINDOW);
    let started = Instant::now();
    for index in 0..count {
        if open.len() == WINDOW
            && let Some(ticket) = open.pop_front()
        {
            let ticket: kairo_events::Ticket<_> = ticket;
            ticket.wait()?;
        }
        open.push_back(store.append(make(index))?.1);
    }
    for ticket in open {
        ticket.wait()?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

fn batched(directory: &Path, raw: &mut Value) -> Outcome<()> {
    let (store, _) = Store::open(&directory.join("batched.db"), roomy())?;
    let control = Raw::open(&directory.join("batched-raw.db"))?;
    control
        .connection
        .execute_batch("PRAGMA synchronous = NORMAL")?;
    let (mut plain, mut full, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = control.next;
    for round in 0..BATCHED_ROUNDS {
        plain.push(rate(&store, BATCHED, |_| event(Class::Batched))?);
        full.push(rate(&store, BATCHED, |index| {
            event(Class::Batched)
                .id(&format!("e{round:03}-{index:09}"))
                .stream(&format!("stream-{}", index % 64), Expected::Any)
                .correlation(&format!("c{}", index / 10))
        })?);
        theirs.push(raw_rate(&control.connection, &mut next)?);
    }
    raw["batched_per_s"] = json!(plain);
    raw["batched_with_id_stream_correlation_per_s"] = json!(full);
    raw["raw_batched_per_s"] = json!(theirs);
    Ok(())
}

/// SQLite alone, 256 rows to a transaction.
fn raw_rate(connection: &Connection, next: &mut i64) -> Outcome<f64> {
    let mut statement = connection.prepare(
        "INSERT INTO events (seq, topic_id, source, class, time_ns, monotonic_ns, boot_id,
             data, checksum) VALUES (?1, 1, 'kairod', 1, ?1, ?1, 1, ?2, 0)",
    )?;
    let started = Instant::now();
    for index in 0..BATCHED {
        if index % 256 == 0 {
            connection.execute_batch("BEGIN")?;
        }
        statement.execute(params![*next, data()])?;
        *next += 1;
        if index % 256 == 255 || index + 1 == BATCHED {
            connection.execute_batch("COMMIT")?;
        }
    }
    Ok(BATCHED as f64 / started.elapsed().as_secs_f64())
}

fn many(directory: &Path, raw: &mut Value) -> Outcome<()> {
    let path = directory.join("many.db");
    {
        let (store, _) = Store::open(&path, roomy())?;
        let topics = ["kairo.system.device.safe", "app.arm.moved", "app.arm.done"];
        rate(&store, MANY, |index| {
            NewEvent::new(topics[index % topics.len()], "kairod", data())
        })?;
    }
    let mut opens = Vec::new();
    let mut scans = Vec::new();
    let mut filtered = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let (store, report) = Store::open(&path, roomy())?;
        opens.push(nanoseconds(started));
        assert!(report.head >= MANY as u64);
        drop(store);
        scans.push(replay(&path, &[])?);
        filtered.push(replay(&path, &["app.>"])?);
    }
    raw["file_bytes"] = json!(std::fs::metadata(&path)?.len());
    raw["open_ns"] = json!(opens);
    raw["replay_per_s"] = json!(scans);
    raw["replay_filtered_per_s"] = json!(filtered);
    Ok(())
}

/// Reads everything that matches, checksums and all. Gives events a second.
fn replay(path: &Path, patterns: &[&str]) -> Outcome<f64> {
    let mut reader = LogReader::open(path)?;
    let patterns: Result<Vec<_>, _> = patterns.iter().map(|text| Pattern::parse(text)).collect();
    let mut query = Query {
        patterns: patterns?,
        ..Query::default()
    };
    let started = Instant::now();
    let mut count = 0;
    loop {
        let page = reader.page(&query)?;
        count += page.events.len();
        let Some(next) = page.next else { break };
        query.after = next;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
