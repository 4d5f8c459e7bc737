//! The store: a log that is open, with its writer and its reader thread.
//!
//! Every call returns at once. What takes time comes back as a [`Ticket`], which can be awaited in
//! any runtime or waited for by a thread. Queues are bounded; a full one refuses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::clock::Clocks;
use crate::compaction::{Compacted, Range, compact};
use crate::consumer::{self, ConsumerState, EffectOutcome, Start};
use crate::error::StoreError;
use crate::event::{Appended, Class, NewEvent, Stamp};
use crate::keys::{self, Kept, Key, Keyed};
use crate::log::Log;
use crate::opening::{self, OpenReport};
use crate::projection::Projection;
use crate::query::{Delivery, Fetched, Page, Query};
use crate::queue::Queue;
use crate::read_queue::ReadQueue;
use crate::reader::LogReader;
use crate::retention::Limits;
use crate::ticket::{Ticket, ticket};
use crate::topic::Pattern;
use crate::writer::{Health, OnCommit, Writer, contained};

/// How long closing waits for what is queued.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// How to open a log.
#[derive(Default)]
pub struct Options {
    /// What it may keep.
    pub limits: Limits,
    /// Size beyond which the file cannot grow, whatever the limits say; none is the disk's.
    pub hard_limit_bytes: Option<u64>,
    /// Projections to keep.
    pub projections: Vec<Box<dyn Projection>>,
    /// Called after each commit with the newest number.
    pub on_commit: Option<OnCommit>,
    /// Where times come from.
    pub clocks: Clocks,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Options")
            .field("limits", &self.limits)
            .field("hard_limit_bytes", &self.hard_limit_bytes)
            .finish_non_exhaustive()
    }
}

/// What an open log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The newest number in the log.
    pub head: u64,
    /// Events that wait for the disk, and their bytes.
    pub waiting: (usize, usize),
    /// Events that were accepted and could not be written, since it was opened.
    pub lost: u64,
    /// Bytes of the file in use, when the limits were looked at last.
    pub used_bytes: u64,
    /// Why the last transaction failed; none when it did not.
    pub failure: Option<StoreError>,
}

/// An open log. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    name: String,
    boot: Arc<str>,
    clocks: Clocks,
    queue: Arc<Queue>,
    reads: Arc<ReadQueue>,
    health: Arc<Health>,
    threads: Vec<JoinHandle<()>>,
    /// Held open, and with it the lock that keeps other processes out.
    _lock: std::fs::File,
}

impl Store {
    /// Opens the log at `path`, makes it if it is not there, salvages it if it is damaged.
    /// Blocks on the disk, usually for milliseconds.
    ///
    /// # Errors
    /// When the directory cannot be used, another process has the log, its schema is later than
    /// this version's, or the disk is full.
    pub fn open(path: &Path, options: Options) -> Result<(Self, OpenReport), StoreError> {
        let opening::Opened {
            connection,
            lock,
            name,
            boot,
            next_seq,
            reserved_until,
            projections,
            report,
        } = opening::open(path, options.hard_limit_bytes, options.projections)?;
        let queue = Arc::new(Queue::new(next_seq, reserved_until, options.clocks));
        let health = Arc::new(Health::default());
        // Pairs with nothing: a number for people.
        health.head.store(report.head, Ordering::Relaxed);
        let this_boot = Arc::clone(&boot.1);
        let writer = Writer {
            path: path.to_path_buf(),
            name: name.clone(),
            boot,
            projections,
            queue: Arc::clone(&queue),
            health: Arc::clone(&health),
            limits: options.limits,
            clocks: options.clocks,
            on_commit: options.on_commit,
        };
        let writing = std::thread::Builder::new()
            .name("events-writer".into())
            .spawn(move || writer.run(&connection))?;
        let reads = Arc::new(ReadQueue::default());
        let (readers, from) = (Arc::clone(&reads), path.to_path_buf());
        let reading = std::thread::Builder::new()
            .name("events-reader".into())
            .spawn(move || readers.serve(&from))?;
        let store = Self {
            path: path.to_path_buf(),
            name,
            boot: this_boot,
            clocks: options.clocks,
            queue,
            reads,
            health,
            threads: vec![writing, reading],
            _lock: lock,
        };
        Ok((store, report))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The boot in which it was opened, as the machine's kernel names it.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The id of an event that was appended without one.
    pub fn id_of(&self, seq: u64) -> String {
        format!("{}-{seq}", self.name)
    }

    /// What it says of itself.
    pub fn status(&self) -> Status {
        Status {
            // Pairs with nothing: numbers for people.
            head: self.health.head.load(Ordering::Relaxed),
            waiting: self.queue.waiting(),
            lost: self.health.lost.load(Ordering::Relaxed),
            used_bytes: self.health.used_bytes.load(Ordering::Relaxed),
            failure: self.health.failure(),
        }
    }

    /// Numbers an event of class volatile, which is all that the log does with it.
    ///
    /// # Errors
    /// When it breaks a rule, or no number is left.
    pub fn number(&self, event: &NewEvent) -> Result<Stamp, StoreError> {
        event.check()?;
        self.queue.number()
    }

    /// Appends an event. Its number is known at once; the ticket says when it is in the log, as its
    /// class promises, or why it is not (then its number belongs to nothing).
    ///
    /// # Errors
    /// When it breaks a rule or the queue is full: then nothing was done.
    pub fn append(&self, event: NewEvent) -> Result<(Stamp, Ticket<Appended>), StoreError> {
        event.check()?;
        if event.class == Class::Volatile {
            let stamp = self.queue.number()?;
            let appended = Appended {
                seq: stamp.seq,
                version: None,
                duplicate: false,
            };
            return Ok((stamp, Ticket::ready(Ok(appended))));
        }
        let urgent = event.class == Class::Synchronous;
        let (completer, ticket) = ticket();
        let stamp = self.queue.push_event(event, urgent, Some(completer))?;
        Ok((stamp, ticket))
    }

    /// Appends an event under a key: its row and the key's, with the result, are one transaction. A
    /// volatile event is only numbered; its ticket says when the key is on the disk.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn append_keyed(
        &self,
        event: NewEvent,
        keyed: Keyed,
    ) -> Result<(Stamp, Ticket<Appended>), StoreError> {
        event.check()?;
        if event.class == Class::Volatile {
            let stamp = self.queue.number()?;
            let appended = Appended {
                seq: stamp.seq,
                version: None,
                duplicate: false,
            };
            let kept = self.run(true, move |log| {
                log.keep_result(keyed, &appended, stamp)?;
                Ok(appended)
            })?;
            return Ok((stamp, kept));
        }
        let urgent = event.class == Class::Synchronous;
        let (completer, ticket) = ticket();
        let keyed = Some(Box::new(keyed));
        let stamp = self
            .queue
            .push_keyed(event, urgent, keyed, Some(completer))?;
        Ok((stamp, ticket))
    }

    /// Writes that something is begun under a key, or what it led to, and flushes it. `forget` are
    /// keys of the same owner that go, and those older than `kept_for` go too.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn keep_key(
        &self,
        key: Key,
        result: Option<Vec<u8>>,
        forget: Vec<String>,
        kept_for: Duration,
    ) -> Result<Ticket<()>, StoreError> {
        let now = ((self.clocks.wall_ns)(), (self.clocks.monotonic_ns)());
        self.run(true, move |log| {
            log.put_key(&key, result.as_deref(), &forget, kept_for, now)
        })
    }

    /// Forgets a key under which nothing was done. Not flushed: one that comes back after a power
    /// cut says only that nobody knows.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn forget_key(&self, owner: String, key: String) -> Result<Ticket<()>, StoreError> {
        self.run(false, move |log| keys::remove(log.connection, &owner, &key))
    }

    /// The keys that an earlier process left, the oldest first.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn take_over_keys(&self, kept_for: Duration) -> Result<Ticket<Vec<Kept>>, StoreError> {
        let now = ((self.clocks.wall_ns)(), (self.clocks.monotonic_ns)());
        self.run(true, move |log| log.take_over_keys(kept_for, now))
    }

    /// Completes when everything that was appended before is in the log and flushed to the disk, or
    /// could not be written.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn settled(&self) -> Result<Ticket<()>, StoreError> {
        self.run(true, |_| Ok(()))
    }

    /// Appends an event without asking what became of it; [`Status::lost`] counts those that could
    /// not be written.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn post(&self, event: NewEvent) -> Result<Stamp, StoreError> {
        event.check()?;
        match event.class {
            Class::Volatile => self.queue.number(),
            class => self
                .queue
                .push_event(event, class == Class::Synchronous, None),
        }
    }

    /// Reads a page on the reader thread.
    ///
    /// # Errors
    /// When too many reads wait already.
    pub fn query(&self, query: Query) -> Result<Ticket<Page>, StoreError> {
        self.read(move |reader| reader.page(&query))
    }

    /// Reads what a consumer gets behind number `after`, and behind what it has acknowledged.
    ///
    /// # Errors
    /// When too many reads wait already.
    pub fn fetch(
        &self,
        consumer: &str,
        after: u64,
        limit: usize,
    ) -> Result<Ticket<Fetched>, StoreError> {
        let name = consumer.to_string();
        self.read(move |reader| reader.fetch(&name, after, limit))
    }

    /// Reads something on the reader thread.
    ///
    /// # Errors
    /// When too many reads wait already.
    pub fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut LogReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Ticket<T>, StoreError> {
        let (completer, ticket) = ticket();
        self.reads.push(Box::new(move |reader| {
            completer.complete(reader.and_then(work));
        }))?;
        Ok(ticket)
    }

    /// Makes a durable consumer, or gives the one of that name a new filter: its cursor stays.
    ///
    /// # Errors
    /// When it breaks a rule or the queue is full.
    pub fn register(
        &self,
        name: &str,
        patterns: Vec<Pattern>,
        start: Start,
    ) -> Result<Ticket<ConsumerState>, StoreError> {
        consumer::check(name, &patterns)?;
        let (name, now) = (name.to_string(), (self.clocks.wall_ns)());
        self.run(true, move |log| {
            consumer::register(log, &name, &patterns, start, now)
        })
    }

    /// Acknowledges everything up to `seq` for a consumer. Gives its cursor. Written as a batch is:
    /// what a power cut takes of it is delivered again.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn acknowledge(&self, name: &str, seq: u64) -> Result<Ticket<u64>, StoreError> {
        let (name, now) = (name.to_string(), (self.clocks.wall_ns)());
        self.run(false, move |log| {
            consumer::acknowledge(log.connection, &name, seq, now)
        })
    }

    /// Forgets a consumer and its ledger.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn remove_consumer(&self, name: &str) -> Result<Ticket<()>, StoreError> {
        let name = name.to_string();
        self.run(true, move |log| consumer::remove(log.connection, &name))
    }

    /// All consumers, read on the reader thread.
    ///
    /// # Errors
    /// When too many reads wait already.
    pub fn consumers(&self) -> Result<Ticket<Vec<ConsumerState>>, StoreError> {
        self.read(|reader| consumer::all(reader.connection()))
    }

    /// Does the effect of an event for a consumer once: the rows that `work` writes, the entry in
    /// the ledger and the consumer's cursor are one transaction. It is not done when it was done
    /// before, nor for a replay. When `work` fails, nothing is changed.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn effect(
        &self,
        consumer: &str,
        delivery: &Delivery,
        work: impl FnOnce(&Connection) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Ticket<EffectOutcome>, StoreError> {
        let (name, now) = (consumer.to_string(), (self.clocks.wall_ns)());
        let delivery = delivery.clone();
        self.run(false, move |log| {
            consumer::effect(log, &name, &delivery, now, work)
        })
    }

    /// Replaces a range of events by one summary.
    ///
    /// # Errors
    /// When the summary breaks a rule or the queue is full.
    pub fn compact(
        &self,
        range: Range,
        summary: NewEvent,
    ) -> Result<Ticket<Compacted>, StoreError> {
        summary.check()?;
        let now = ((self.clocks.wall_ns)(), (self.clocks.monotonic_ns)());
        self.run(true, move |log| compact(log, &range, summary, now))
    }

    /// Runs `work` in its turn on the writer thread, inside the transaction of its group. What it
    /// writes is undone when it fails.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn run<T: Send + 'static>(
        &self,
        flush: bool,
        work: impl FnOnce(&mut Log<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Ticket<T>, StoreError> {
        let (completer, ticket) = ticket();
        let job = move |log: Result<&mut Log<'_>, StoreError>| {
            let outcome = log.and_then(|log| contained(log, work));
            let finish = move |committed: Result<(), StoreError>| {
                completer.complete(committed.and(outcome));
            };
            Box::new(finish) as crate::queue::Finish
        };
        self.queue.push_job(Box::new(job), flush)?;
        Ok(ticket)
    }

    /// Writes what is queued and closes the file, for so long. False when the disk did not finish
    /// in time: the threads are then left to it.
    pub fn close(mut self, patience: Duration) -> bool {
        self.end(patience)
    }

    fn end(&mut self, patience: Duration) -> bool {
        self.queue.close();
        self.reads.close();
        let due = Instant::now() + patience;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                if Instant::now() >= due {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
        true
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end(CLOSE_PATIENCE);
    }
}
