//! The writer: the one thread that touches the files of an open log.
//!
//! What waits is written as one group: one write, one fdatasync, then the callbacks, then the head.
//! A group that fails leaves nothing behind that counts: the file is cut back to where it was, the
//! callbacks hear why, and the next group is tried from the beginning. The thread sleeps while
//! nobody appends.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use crate::clock::Clock;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::files::{LOG_MODE, segment_name, sync_directory, to_count};
use crate::head::Head;
use crate::key::{PublicKey, SecretKey};
use crate::log::{AppendError, Options, Position, Shared, Waiter};
use crate::record::{Body, Broken, Checkpoint, CheckpointCause, Draft, Retired, Segment};

/// Entries that are written at once; bounds a group at some 15 MB, a quarter MB as a rule.
const GROUP_ENTRIES_MAX: usize = 256;

/// An entry on its way.
pub struct Job {
    /// The entry, bounded.
    pub entry: Box<Entry>,
    /// Who waits for it.
    pub waiter: Waiter,
}

/// A segment that is not written any more.
#[derive(Clone, Debug)]
pub struct OldSegment {
    /// What will be said when it is retired.
    pub retired: Retired,
    /// Its size.
    pub bytes: u64,
}

/// The open files, and where in the chain they end.
#[derive(Debug)]
pub struct Writer {
    /// Where the files are.
    pub directory: PathBuf,
    /// Held locked as long as the log is open.
    pub _lock: File,
    /// Signs.
    pub key: SecretKey,
    /// What time it is.
    pub clock: Clock,
    /// The newest segment.
    pub file: File,
    /// Its index.
    pub segment: u32,
    /// Bytes of it that count.
    pub segment_bytes: u64,
    /// Number of its first record.
    pub segment_first: u64,
    /// Older segments, oldest first.
    pub old: VecDeque<OldSegment>,
    /// The last record.
    pub last: Position,
    /// Number that `audit.head` says.
    pub head: u64,
    /// Records since the last checkpoint.
    pub unsigned: u64,
    /// Chains that were set aside.
    pub broken: Vec<Broken>,
    /// Notes of the log's own that wait for the next group.
    pub notes: Vec<Entry>,
    /// Whether the file may be longer than what counts.
    pub is_dirty: bool,
    /// Whether the head says that the log is in use.
    pub is_marked_open: bool,
}

/// Serves the queue until nobody can append any more, then closes the log.
pub fn run(mut writer: Writer, jobs: &Receiver<Job>, options: &Options, shared: &Shared) {
    let mut refused_before = 0;
    let mut checkpoint_due = None;
    let start = writer.group(Vec::new(), Some(CheckpointCause::Start), options);
    report(shared, &writer, 0, start.err());
    loop {
        let job = match checkpoint_due {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => {
                jobs.recv_timeout(Instant::saturating_duration_since(&due, Instant::now()))
            }
        };
        match job {
            Ok(job) => {
                let more = std::iter::from_fn(|| jobs.try_recv().ok());
                let group: Vec<Job> = std::iter::once(job)
                    .chain(more.take(GROUP_ENTRIES_MAX - 1))
                    .collect();
                serve(&mut writer, group, options, shared, &mut refused_before);
            }
            Err(RecvTimeoutError::Timeout) => {
                let made = writer.group(Vec::new(), Some(CheckpointCause::Time), options);
                report(shared, &writer, 0, made.err());
                checkpoint_due = None;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        checkpoint_due = match writer.unsigned {
            0 => None,
            _ => checkpoint_due.or_else(|| Instant::now().checked_add(options.checkpoint_after)),
        };
    }
    let stopped = writer.stop();
    report(shared, &writer, 0, stopped.err());
}

/// Writes a group and tells everybody.
fn serve(
    writer: &mut Writer,
    group: Vec<Job>,
    options: &Options,
    shared: &Shared,
    refused_before: &mut u64,
) {
    let (entries, waiters): (Vec<Entry>, Vec<Waiter>) = group
        .into_iter()
        .map(|job| (*job.entry, job.waiter))
        .unzip();
    let refused_note = (*refused_before > 0).then(|| {
        let reason = format!("{refused_before} entries could not be written and were refused");
        Entry::own_note("audit.refused", reason)
    });
    let notes_before = writer.notes.len();
    writer.notes.extend(refused_note);
    match writer.group(entries, None, options) {
        Ok(positions) => {
            *refused_before = 0;
            report(shared, writer, 0, None);
            for (waiter, position) in waiters.into_iter().zip(positions) {
                waiter.tell(Ok(position));
            }
            writer.after_group(options, shared);
        }
        Err(error) => {
            writer.notes.truncate(notes_before);
            let refused = to_count(waiters.len());
            *refused_before += refused;
            let not_written = not_written(&error);
            report(shared, writer, refused, Some(error));
            for waiter in waiters {
                waiter.tell(Err(not_written.clone()));
            }
        }
    }
}

/// Publishes how the log is doing.
fn report(shared: &Shared, writer: &Writer, refused: u64, trouble: Option<io::Error>) {
    let mut status = shared.lock().unwrap_or_else(PoisonError::into_inner);
    status.last = Some(writer.last);
    status.refused += refused;
    status.trouble = trouble.map(|error| error.to_string());
}

fn not_written(error: &io::Error) -> AppendError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    AppendError::NotWritten {
        disk_full: matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge),
        reason: error.to_string(),
    }
}

impl Writer {
    /// The key that signs.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Writes notes, entries, and a checkpoint if one is asked for or due. The positions are those
    /// of the entries.
    fn group(
        &mut self,
        entries: Vec<Entry>,
        cause: Option<CheckpointCause>,
        options: &Options,
    ) -> io::Result<Vec<Position>> {
        if !self.is_marked_open {
            self.store_head(false)?;
            self.is_marked_open = true;
        }
        if self.segment_bytes >= options.segment_bytes {
            self.rotate()?;
        }
        let notes = self.notes.len();
        let count = entries.len();
        let written = to_count(notes + count);
        let due = self.unsigned + written >= options.checkpoint_entries;
        let cause = cause.or_else(|| due.then_some(CheckpointCause::Entries));
        let entries = self.notes.iter().cloned().chain(entries);
        let mut bodies: Vec<Body> = entries.map(Box::new).map(Body::Entry).collect();
        bodies.extend(cause.map(|cause| self.checkpoint(cause)));
        let positions = self.commit(bodies)?;
        self.notes.clear();
        if count == 0 {
            // Nobody waits, so the head need not wait either.
            self.store_head(false)?;
        }
        Ok(positions.into_iter().skip(notes).take(count).collect())
    }

    /// What follows a group when everybody has been told: the head, and retention.
    fn after_group(&mut self, options: &Options, shared: &Shared) {
        let stored = self.store_head(false);
        let retired = stored.and_then(|()| self.retire(options));
        report(shared, self, 0, retired.err());
    }

    /// Writes the last checkpoint and says that nothing follows.
    fn stop(&mut self) -> io::Result<()> {
        if !self.is_marked_open {
            return Ok(());
        }
        let notes = std::mem::take(&mut self.notes);
        let mut bodies: Vec<Body> = notes.into_iter().map(Box::new).map(Body::Entry).collect();
        bodies.push(self.checkpoint(CheckpointCause::Stop));
        self.commit(bodies)?;
        self.store_head(true)
    }

    fn checkpoint(&self, cause: CheckpointCause) -> Body {
        Body::Checkpoint(Checkpoint {
            key: self.public_key().id(),
            segment: self.segment,
            cause,
        })
    }

    /// Appends records as one signed group, and returns when they are on the disk. Nothing has
    /// happened when it fails.
    fn commit(&mut self, bodies: Vec<Body>) -> io::Result<Vec<Position>> {
        let closes = matches!(bodies.last(), Some(Body::Checkpoint(_)));
        let (bytes, positions) = self.encode(bodies);
        self.cut_back()?;
        self.is_dirty = true;
        let written = self.file.write_all_at(&bytes, self.segment_bytes);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // If this fails too, it is tried again before anything else is written.
            let _ = self.cut_back();
            return Err(error);
        }
        self.is_dirty = false;
        self.segment_bytes += to_count(bytes.len());
        self.last = positions.last().copied().unwrap_or(self.last);
        self.unsigned = match closes {
            true => 0,
            false => self.unsigned + to_count(positions.len()),
        };
        Ok(positions)
    }

    /// Removes what a failed write may have left.
    fn cut_back(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.set_len(self.segment_bytes)?;
            self.is_dirty = false;
        }
        Ok(())
    }

    fn encode(&self, bodies: Vec<Body>) -> (Vec<u8>, Vec<Position>) {
        let count = bodies.len();
        let mut bytes = Vec::new();
        let mut positions = Vec::with_capacity(count);
        let mut last = self.last;
        for (index, body) in bodies.into_iter().enumerate() {
            let draft = Draft {
                number: last.number + 1,
                moment: self.clock.now(),
                head: self.head,
                body,
                previous: last.hash,
            };
            last.number = draft.number;
            let (line, hash) = draft.encode((index + 1 == count).then_some(&self.key));
            last.hash = hash;
            bytes.extend_from_slice(&line);
            positions.push(last);
        }
        (bytes, positions)
    }

    /// Lets the head say where the log ends now.
    pub fn store_head(&mut self, closed: bool) -> io::Result<()> {
        let head = Head {
            number: self.last.number,
            hash: self.last.hash,
            segment: self.segment,
            segment_bytes: self.segment_bytes,
            closed,
            time: self.clock.now().time,
            key: String::new(),
            signature: String::new(),
        };
        head.store(&self.directory, &self.key)?;
        self.head = self.last.number;
        Ok(())
    }

    /// Ends the segment and begins the next.
    fn rotate(&mut self) -> io::Result<()> {
        if self.unsigned > 0 {
            let checkpoint = self.checkpoint(CheckpointCause::Rotation);
            self.commit(vec![checkpoint])?;
        }
        let index = self.segment.checked_add(1);
        let index = index.ok_or_else(|| io::Error::other("there are too many segments"))?;
        let (line, positions) = self.encode(vec![Body::Segment(Segment {
            index,
            broken: self.broken.clone(),
        })]);
        let path = self.directory.join(segment_name(index));
        let begun = create(&path, &line).and_then(|file| {
            sync_directory(&self.directory)?;
            Ok(file)
        });
        let file = match begun {
            Ok(file) => file,
            Err(error) => {
                // Left behind, it is an unfinished segment: made anew here, or removed at a start.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        };
        self.old.push_back(OldSegment {
            retired: Retired {
                segment: self.segment,
                first: self.segment_first,
                last: self.last.number,
                hash: self.last.hash,
            },
            bytes: self.segment_bytes,
        });
        self.file = file;
        self.segment = index;
        self.segment_bytes = to_count(line.len());
        self.last = positions.last().copied().unwrap_or(self.last);
        self.segment_first = self.last.number;
        self.unsigned = 1;
        self.store_head(false)
    }

    /// Removes oldest segments while all are too large together; each is recorded, signed, and in
    /// the head before it goes.
    fn retire(&mut self, options: &Options) -> io::Result<()> {
        let Some(bytes_max) = options.retain_bytes else {
            return Ok(());
        };
        let old: u64 = self.old.iter().map(|segment| segment.bytes).sum();
        let mut bytes = old + self.segment_bytes;
        while bytes > bytes_max
            && let Some(oldest) = self.old.front().cloned()
        {
            let index = oldest.retired.segment;
            let checkpoint = self.checkpoint(CheckpointCause::Retirement);
            self.commit(vec![Body::Retired(oldest.retired), checkpoint])?;
            self.store_head(false)?;
            std::fs::remove_file(self.directory.join(segment_name(index)))?;
            sync_directory(&self.directory)?;
            self.old.pop_front();
            bytes -= oldest.bytes;
        }
        Ok(())
    }
}

/// Creates a segment with its first line; what an unfinished attempt left is overwritten.
pub fn create(path: &std::path::Path, line: &[u8]) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(LOG_MODE)
        .open(path)?;
    file.write_all_at(line, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// The position before the first record.
pub const BEFORE_FIRST: Position = Position {
    number: 0,
    hash: Digest::NONE,
};
