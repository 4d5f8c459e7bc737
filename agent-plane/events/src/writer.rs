//! The writer thread: the only one that changes the file.
//!
//! It takes what waits as one group, runs it as one transaction, and then tells every caller.
//! A group that holds a synchronous event commits with `synchronous=FULL`; what was only batched is
//! flushed to the disk within a second after. A request that breaks a rule (a version, an id) fails
//! alone; a failure of the file fails the whole group, and the next group tries anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::clock::Clocks;
use crate::error::StoreError;
use crate::event::Appended;
use crate::log::Log;
use crate::projection::Projections;
use crate::queue::{BLOCK, Command, Finish, Group, Queue};
use crate::retention::{self, Limits, Now};
use crate::schema;
use crate::ticket::Completer;

/// How long a batch may lie in the kernel's cache before it is flushed to the disk.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Events after which the limits are looked at.
const RETENTION_EVENTS: u64 = 4096;
/// Share of the limit on bytes after which they are: how far it can be exceeded, but for one group.
const RETENTION_SHARE: u64 = 32;
/// Time after which they are, while anything is written.
const RETENTION_TIME: Duration = Duration::from_secs(60);

/// Called after each commit with the newest number in the log, on the writer thread: must not
/// block.
pub type OnCommit = Arc<dyn Fn(u64) + Send + Sync>;

/// What the writer tells about itself.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// The newest number in the log. Written by the writer, read by anybody for information.
    pub head: AtomicU64,
    /// Events that were accepted and could not be written.
    pub lost: AtomicU64,
    /// Bytes of the file in use.
    pub used_bytes: AtomicU64,
    /// Why the last transaction failed; none when it did not.
    pub failure: Mutex<Option<StoreError>>,
}

impl Health {
    pub fn failure(&self) -> Option<StoreError> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, failure: Option<StoreError>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// Everything the writer needs.
pub(crate) struct Writer {
    pub path: PathBuf,
    pub name: String,
    pub boot: (i64, Arc<str>),
    pub projections: Projections,
    pub queue: Arc<Queue>,
    pub health: Arc<Health>,
    pub limits: Limits,
    pub clocks: Clocks,
    pub on_commit: Option<OnCommit>,
}

/// The loop's state, on its own thread.
struct Turns<'c> {
    log: Log<'c>,
    wal: PathBuf,
    queue: Arc<Queue>,
    health: Arc<Health>,
    limits: Limits,
    clocks: Clocks,
    on_commit: Option<OnCommit>,
    boot_id: i64,
    /// Whether commits are flushed now, as SQLite was told.
    full: bool,
    unflushed_since: Option<Instant>,
    /// Events and bytes written since the limits were looked at, and when that was.
    written: u64,
    written_bytes: u64,
    retained: Instant,
    /// Retention found more than one chunk to remove.
    behind: bool,
}

impl Writer {
    /// Runs until the queue is closed and empty.
    pub fn run(self, connection: &Connection) {
        let boot_id = self.boot.0;
        let log = match Log::new(connection, self.name, self.boot, self.projections) {
            Ok(log) => log,
            Err(error) => {
                // Everything that waits is dropped, which tells its callers.
                self.health.set(Some(error));
                self.queue.close();
                while !self.queue.next_group(None).last {}
                return;
            }
        };
        let mut turns = Turns {
            log,
            wal: wal_of(&self.path),
            queue: self.queue,
            health: self.health,
            limits: self.limits,
            clocks: self.clocks,
            on_commit: self.on_commit,
            boot_id,
            full: false,
            unflushed_since: None,
            written: 0,
            written_bytes: 0,
            retained: Instant::now(),
            behind: true,
        };
        while turns.turn() {}
        turns.end();
    }
}

/// The write-ahead log of a file.
fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// What one command led to, until the commit is known.
enum Outcome {
    Appended(Option<Completer<Appended>>, Result<Appended, StoreError>),
    Ran(Finish),
}

impl Turns<'_> {
    /// One group; false after the last one.
    fn turn(&mut self) -> bool {
        let flush_at = self.unflushed_since.map(|since| since + FLUSH_AFTER);
        let now = self.behind.then(Instant::now);
        let group = self.queue.next_group(now.or(flush_at));
        let last = group.last;
        if group.reserve {
            self.reserve();
        }
        if !group.commands.is_empty() {
            self.commit(group);
        }
        let due = |since: Instant| since.elapsed() >= FLUSH_AFTER;
        if self.unflushed_since.is_some_and(due) {
            self.flush_to_disk();
        }
        self.retain();
        !last
    }

    /// Runs a group as one transaction and tells everybody.
    fn commit(&mut self, group: Group) {
        let mut outcomes = Vec::with_capacity(group.commands.len());
        let mut done = self.begin(group.synchronous);
        for command in group.commands {
            match command {
                Command::Append(pending) => {
                    self.written_bytes += pending.event.size_bytes() as u64;
                    let appended = match &done {
                        Ok(()) => self.log.append(&pending.event, pending.stamp),
                        Err(error) => Err(error.clone()),
                    };
                    let appended = match pending.keyed {
                        Some(keyed) => appended.and_then(|appended| {
                            self.log.keep_result(*keyed, &appended, pending.stamp)?;
                            Ok(appended)
                        }),
                        None => appended,
                    };
                    if let Err(error) = &appended
                        && error.ends_the_transaction()
                    {
                        done = Err(error.clone());
                    }
                    outcomes.push(Outcome::Appended(pending.done, appended));
                }
                Command::Run(job) => {
                    let finish = match &done {
                        Ok(()) => job(Ok(&mut self.log)),
                        Err(error) => job(Err(error.clone())),
                    };
                    if done.is_ok() && self.log.connection.is_autocommit() {
                        // SQLite gave the whole transaction up inside the job.
                        let detail = "a transaction was lost inside a job".into();
                        done = Err(StoreError::Io { detail });
                    }
                    outcomes.push(Outcome::Ran(finish));
                }
            }
        }
        let done = done.and_then(|()| self.finish());
        if let Err(error) = &done {
            self.roll_back(error);
        }
        self.report(&done, group.synchronous, &outcomes);
        for outcome in outcomes {
            match outcome {
                Outcome::Appended(Some(completer), appended) => {
                    completer.complete(done.clone().and(appended));
                }
                Outcome::Appended(None, _) => {}
                Outcome::Ran(finish) => finish(done.clone()),
            }
        }
    }

    fn begin(&mut self, full: bool) -> Result<(), StoreError> {
        self.set_full(full)?;
        self.log.connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(())
    }

    fn set_full(&mut self, full: bool) -> Result<(), StoreError> {
        if self.full != full {
            let level = if full { "FULL" } else { "NORMAL" };
            let sql = format!("PRAGMA synchronous = {level}");
            self.log.connection.execute_batch(&sql)?;
            self.full = full;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.log.flush()?;
        self.log.connection.execute_batch("COMMIT")?;
        Ok(())
    }

    fn roll_back(&mut self, error: &StoreError) {
        if !self.log.connection.is_autocommit()
            && let Err(error) = self.log.connection.execute_batch("ROLLBACK")
        {
            self.health.set(Some(error.into()));
        }
        self.log.forget();
        self.health.set(Some(error.clone()));
    }

    /// What others may know of the transaction.
    fn report(&mut self, done: &Result<(), StoreError>, full: bool, outcomes: &[Outcome]) {
        let appended = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Appended(_, appended) => Some(appended),
            Outcome::Ran(_) => None,
        });
        if done.is_err() {
            let count = appended.count() as u64;
            // Pairs with nothing: a count for people.
            self.health.lost.fetch_add(count, Ordering::Relaxed);
            return;
        }
        let new = appended.flatten().filter(|appended| !appended.duplicate);
        let (mut count, mut head) = (0, 0);
        for appended in new {
            count += 1;
            head = head.max(appended.seq);
        }
        self.health.set(None);
        self.written += count;
        if full {
            self.unflushed_since = None;
        } else {
            self.unflushed_since.get_or_insert_with(Instant::now);
        }
        // Pairs with nothing: whoever needs order reads the file.
        let head = self
            .health
            .head
            .fetch_max(head, Ordering::Relaxed)
            .max(head);
        if let Some(on_commit) = &self.on_commit {
            on_commit(head);
        }
    }

    /// Reserves the next block of numbers, on the disk, before any of it can be given out.
    fn reserve(&mut self) {
        let until = self.queue.next_seq() + BLOCK;
        let done = self.begin(true).and_then(|()| {
            schema::set(self.log.connection, "reserved_until", &(until as i64))?;
            self.finish()
        });
        match done {
            Ok(()) => self.queue.reserved(until),
            Err(error) => self.roll_back(&error),
        }
    }

    /// Flushes batches that were committed into the kernel's cache.
    fn flush_to_disk(&mut self) {
        self.unflushed_since = None;
        // What is not in the write-ahead log any more was flushed when it was moved.
        let flushed = std::fs::File::open(&self.wal).and_then(|file| file.sync_data());
        if let Err(error) = flushed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.health.set(Some(error.into()));
        }
    }

    /// Keeps the limits, a chunk at a time.
    fn retain(&mut self) {
        let due = self.behind
            || self.written >= RETENTION_EVENTS
            || self.written_bytes >= self.limits.max_bytes / RETENTION_SHARE
            || (self.written > 0 && self.retained.elapsed() >= RETENTION_TIME);
        if !due {
            return;
        }
        (self.written, self.written_bytes) = (0, 0);
        self.retained = Instant::now();
        let now = Now {
            wall_ns: (self.clocks.wall_ns)(),
            monotonic_ns: (self.clocks.monotonic_ns)(),
            boot_id: self.boot_id,
        };
        let turn = retention::enforce(self.log.connection, &self.limits, now);
        match turn {
            Ok(turn) => {
                self.behind = turn.more;
                if turn.removed > 0 {
                    self.log.forget();
                }
            }
            Err(error) => {
                self.behind = false;
                self.roll_back(&error);
            }
        }
        if let Ok(used) = retention::used_bytes(self.log.connection) {
            // Pairs with nothing: a number for people.
            self.health.used_bytes.store(used, Ordering::Relaxed);
        }
    }

    /// Gives back the numbers that were not used, and leaves no write-ahead log behind.
    fn end(mut self) {
        let next = self.queue.next_seq();
        let given_back = self.begin(true).and_then(|()| {
            let until = next.saturating_sub(1) as i64;
            schema::set(self.log.connection, "reserved_until", &until)?;
            self.finish()
        });
        if let Err(error) = given_back {
            // The next start begins behind the block instead.
            self.roll_back(&error);
        }
    }
}

/// Runs `work` so that its failure, or its panic, undoes what it did and nothing else.
pub(crate) fn contained<T>(
    log: &mut Log<'_>,
    work: impl FnOnce(&mut Log<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // What is remembered is forgotten if the job fails, so it has to be in the tables before.
    log.flush()?;
    log.connection.execute_batch("SAVEPOINT job")?;
    let done = catch_unwind(AssertUnwindSafe(|| work(log)));
    let done = done.unwrap_or_else(|_| {
        let detail = "a job panicked".into();
        Err(StoreError::Internal { detail })
    });
    if log.connection.is_autocommit() {
        log.forget();
        return done;
    }
    if done.is_err() {
        log.connection.execute_batch("ROLLBACK TO job")?;
        log.forget();
    }
    log.connection.execute_batch("RELEASE job")?;
    done
}
