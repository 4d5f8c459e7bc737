//! The log as its writer's owner sees it: append, and be told when it is on the disk.
//!
//! `append` never waits for the disk: it hands the entry to the one writer thread through a queue
//! of bounded length, and refuses when that is full. Each callback is called exactly once, on the
//! writer thread or, when the entry is refused at once, on the caller's. Whoever acts only after
//! `Ok` fails closed.

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::digest::Digest;
use crate::entry::{Entry, Redactor};
use crate::files::FILE_BYTES_MAX;
use crate::open::{OpenError, OpenReport, Opened, open};
use crate::writer::{Job, run};

/// How the log is kept.
#[derive(Clone)]
pub struct Options {
    /// A segment is ended after so many bytes; between 4 KiB and 32 MiB.
    pub segment_bytes: u64,
    /// Oldest segments are retired when all together are larger; none keeps everything.
    pub retain_bytes: Option<u64>,
    /// A checkpoint is made after so many entries.
    pub checkpoint_entries: u64,
    /// And so long after an entry, if none was made since.
    pub checkpoint_after: Duration,
    /// Entries that may wait for the disk; more are refused.
    pub queue_entries_max: usize,
    /// Takes secrets out of texts, before they are hashed and written. Runs where `append` runs.
    pub redactor: Option<Redactor>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // A segment is what verification and reading hold in memory.
            segment_bytes: 4 << 20,
            // About half a million entries.
            retain_bytes: Some(256 << 20),
            checkpoint_entries: 64,
            checkpoint_after: Duration::from_secs(10),
            // Some 60 kB each at the very most, 1 kB as a rule.
            queue_entries_max: 1024,
            redactor: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("segment_bytes", &self.segment_bytes)
            .field("retain_bytes", &self.retain_bytes)
            .field("checkpoint_entries", &self.checkpoint_entries)
            .field("checkpoint_after", &self.checkpoint_after)
            .field("queue_entries_max", &self.queue_entries_max)
            .field("redactor", &self.redactor.is_some())
            .finish()
    }
}

impl Options {
    /// The options within their bounds.
    fn bounded(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(4 << 10, FILE_BYTES_MAX / 8);
        self.checkpoint_entries = self.checkpoint_entries.max(1);
        self.queue_entries_max = self.queue_entries_max.max(1);
        self
    }
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of its record.
    pub number: u64,
    /// Hash of its record.
    pub hash: Digest,
}

/// Why an entry is not in the log. The act that needed it must not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too many entries wait for the disk.
    #[error("{waiting} audit entries wait for the disk already; try again")]
    QueueFull {
        /// How many may.
        waiting: usize,
    },
    /// The disk refused. The next entry is tried anew.
    #[error("the audit log cannot be written: {reason}")]
    NotWritten {
        /// Whether it is full, or over its quota or size limit.
        disk_full: bool,
        /// What the system said.
        reason: String,
    },
    /// The log is closed, or its thread died.
    #[error("the audit log is closed")]
    Closed,
}

/// How the log is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The last entry that is on the disk.
    pub last: Option<Position>,
    /// Entries refused because of the disk, since the log was opened.
    pub refused: u64,
    /// What the disk said last, while that still stands.
    pub trouble: Option<String>,
}

/// What the two sides share.
pub(crate) type Shared = Arc<Mutex<Status>>;

/// Called once, with what became of an entry.
type Done = Box<dyn FnOnce(Result<Position, AppendError>) + Send>;

/// A callback that is called even when nobody does: then with [`AppendError::Closed`].
pub(crate) struct Waiter(Option<Done>);

impl Waiter {
    /// Says what became of the entry.
    pub fn tell(mut self, result: Result<Position, AppendError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(AppendError::Closed));
        }
    }
}

/// An audit log that is open for writing. Dropping it writes what waits, a last checkpoint, and
/// the head, and waits for that.
pub struct Log {
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
    shared: Shared,
    redactor: Option<Redactor>,
    queue_entries_max: usize,
    public_key: crate::key::PublicKey,
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Log")
            .field("public_key", &self.public_key)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in a directory, which is made if need be.
    ///
    /// Reads and verifies the newest segment. A chain that is broken is set aside and a new one
    /// begun, and the report says so; an unfinished end is cut off. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process has the log open.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, OpenReport), OpenError> {
        let options = options.bounded();
        let Opened { writer, report } = open(directory, &options)?;
        let shared = Shared::default();
        let public_key = writer.public_key();
        let queue_entries_max = options.queue_entries_max;
        let redactor = options.redactor.clone();
        let (queue, jobs) = sync_channel(queue_entries_max);
        let status = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kairo-audit".to_owned());
        let thread = thread.spawn(move || run(writer, &jobs, &options, &status));
        let log = Self {
            queue: Some(queue),
            writer: Some(thread.map_err(|error| OpenError::io(directory, error))?),
            shared,
            redactor,
            queue_entries_max,
            public_key,
        };
        Ok((log, report))
    }

    /// Appends an entry. `done` hears its position once it is on the disk, or why it is not.
    ///
    /// `done` should be short: while it runs on the writer thread, nothing is written.
    pub fn append(
        &self,
        entry: Entry,
        done: impl FnOnce(Result<Position, AppendError>) + Send + 'static,
    ) {
        let job = Job {
            entry: Box::new(entry.bounded(self.redactor.as_ref())),
            waiter: Waiter(Some(Box::new(done))),
        };
        let Some(queue) = &self.queue else {
            return;
        };
        match queue.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => job.waiter.tell(Err(AppendError::QueueFull {
                waiting: self.queue_entries_max,
            })),
            Err(TrySendError::Disconnected(job)) => job.waiter.tell(Err(AppendError::Closed)),
        }
    }

    /// Appends an entry and waits for the disk. Not for an asynchronous program.
    ///
    /// # Errors
    /// When the entry is not in the log.
    pub fn append_and_wait(&self, entry: Entry) -> Result<Position, AppendError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.append(entry, move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// How the log is doing.
    pub fn status(&self) -> Status {
        let status = self.shared.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that signs, for keeping elsewhere.
    pub const fn public_key(&self) -> crate::key::PublicKey {
        self.public_key
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The writer ends when nobody can send any more.
        self.queue = None;
        let own_thread = std::thread::current().id();
        let writer = self.writer.take();
        // A callback that drops the last handle runs on the writer, which cannot wait for itself.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != own_thread) {
            // A panic of the writer has been reported by itself.
            let _ = writer.join();
        }
    }
}
