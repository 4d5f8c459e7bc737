//! The drain: brings records from the rings to files, for as long as the disk takes them.
//!
//! One ordinary thread, which alone may wait for the disk. It holds at most [`BATCH_BYTES`] and one
//! record; what it cannot write stays in the rings, and once a ring has gone round, the oldest are
//! lost, counted, and marked by a gap frame. Nothing here reaches back to a loop.
//!
//! A disk that fails, full, gone, read-only or broken, is reported once, tried again every
//! [`RETRY`], and reported once more when it works. To keep to our own bound, our oldest files are
//! deleted, crash files last, and never others than ours: a flight recorder keeps the newest. A
//! disk that others fill costs us at most half of our room, no crash file, and nothing at all once
//! a deletion did not help: whoever fills a disk must not be able to erase the record of it.

use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kairo_link::stats::{Stats, add};

use crate::black_box::Salvaged;
use crate::file::{Header, Kind, Origin, encode_frame, encode_header};
use crate::memory::Memory;
use crate::ring::{Found, Place, RingReader};
use crate::storage::{Storage, Stored};

/// Bytes gathered for one write.
pub const BATCH_BYTES: usize = 256 * 1024;
/// How often the rings are looked at. They keep seconds.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// How long a failed disk is left alone.
pub const RETRY: Duration = Duration::from_secs(1);
/// How often, and how many times at most, an old black box is tried that could not be brought to
/// disk. Its memory stays where it is, for the next start.
const SALVAGE_RETRY: Duration = Duration::from_secs(60);
const SALVAGE_TRIES: u32 = 5;
/// How often what was written is put on the medium: what a power cut may cost.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Files a full directory has, about: deleting one of them makes this part of the room.
const FILES: u64 = 8;
/// Largest file.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// ENOSPC, EDQUOT and EFBIG: deleting something of ours may help.
const NO_ROOM: [i32; 3] = [28, 122, 27];

/// One loop's ring, being read.
#[derive(Debug)]
struct Feed {
    reader: RingReader,
    expected: u64,
}

/// What a drain is made of.
#[derive(Debug)]
pub struct DrainParts<S> {
    /// Where to.
    pub storage: S,
    /// The memory of the rings.
    pub memory: Arc<Memory>,
    /// The rings, by loop.
    pub places: Vec<Place>,
    /// The header of the files; the number of the segment is filled in.
    pub header: Header,
    /// Most bytes that all files together may have.
    pub size_max_bytes: u64,
    /// Where to count.
    pub stats: Stats,
    /// What an earlier kairo-rt left in its black box, to be written first.
    pub salvaged: Option<Salvaged>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Drain<S> {
    parts: DrainParts<S>,
    feeds: Vec<Feed>,
    payload: Vec<u64>,
    /// Frames that are not on disk yet, and where each ends.
    batch: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes of the open file; `None` when there is none.
    segment: Option<u64>,
    begin_segment: bool,
    failed_at: Option<Instant>,
    failing: bool,
    synced: Instant,
    /// Attempts to bring the old black box to disk, and when the next one is due.
    salvage_tries: u32,
    salvage_due: Option<Instant>,
    /// Something was deleted for want of room, and nothing could be written since.
    deleted_in_vain: bool,
}

impl<S: Storage> Drain<S> {
    /// A drain that has not read anything.
    pub fn new(parts: DrainParts<S>, now: Instant) -> Self {
        let feed = |place: &Place| Feed {
            reader: RingReader::new(Arc::clone(&parts.memory), *place),
            expected: 0,
        };
        Self {
            feeds: parts.places.iter().map(feed).collect(),
            payload: Vec::new(),
            batch: Vec::new(),
            ends: Vec::new(),
            segment: None,
            begin_segment: false,
            failed_at: None,
            failing: false,
            synced: now,
            salvage_tries: 0,
            salvage_due: None,
            deleted_in_vain: false,
            parts,
        }
    }

    /// Moves what is there to disk, if the disk takes it. `note` gets one line when the disk fails
    /// and one when it works again.
    pub fn step(&mut self, now: Instant, note: &mut dyn FnMut(&str)) {
        if self.failed_at.is_some_and(|at| now < at + RETRY) {
            return;
        }
        self.bring_salvaged(now, note);
        let moved = self.move_all(now);
        let stats = self.parts.stats.clone();
        let stats = stats.block();
        match moved {
            Ok(()) => {
                self.failed_at = None;
                if self.failing {
                    self.failing = false;
                    stats.recorder.failing.store(0, Ordering::Relaxed);
                    let lost = stats.recorder.dropped.load(Ordering::Relaxed);
                    note(&format!(
                        "recorder: writes again; {lost} records lost so far"
                    ));
                }
            }
            Err(error) => {
                self.failed_at = Some(now);
                self.segment = None;
                self.count_failure(&error);
                stats.recorder.failing.store(1, Ordering::Relaxed);
                if !self.failing {
                    self.failing = true;
                    note(&format!(
                        "recorder: cannot write: {error}; the robot runs on, the newest seconds \
                         stay in memory, trying again every second"
                    ));
                }
            }
        }
    }

    /// Counts a failure, and makes room where that may help.
    fn count_failure(&mut self, error: &Error) {
        let recorder = &self.parts.stats.block().recorder;
        add(&recorder.write_errors, 1);
        let raw = error.raw_os_error().unwrap_or(5);
        let errno = u64::try_from(raw).unwrap_or(0);
        recorder.errno.store(errno, Ordering::Relaxed);
        if NO_ROOM.contains(&raw) {
            // If this fails too, the next attempt says so.
            let _ = self.make_room();
        }
    }

    /// Writes the rest and marks the end. Call when no loop runs any more.
    pub fn finish(mut self, now: Instant, note: &mut dyn FnMut(&str)) {
        self.failed_at = None;
        self.step(now, note);
        for index in 0..self.feeds.len() {
            let sequence = self.feeds[index].expected;
            self.frame(Kind::End as u16, index, sequence, &[]);
        }
        if !self.failing {
            // Whoever cannot write now has said so, or says nothing more.
            let _ = self.flush().and_then(|()| self.parts.storage.sync());
        }
    }

    fn move_all(&mut self, now: Instant) -> Result<(), Error> {
        self.flush()?;
        for index in 0..self.feeds.len() {
            // Bounded: a loop that writes faster than this reads would keep us here for ever.
            let mut left = 2 * self.parts.places[index].capacity / crate::ring::RECORD_HEADER_WORDS;
            while left > 0 && self.take(index)? {
                left -= 1;
            }
        }
        self.flush()?;
        if now.saturating_duration_since(self.synced) >= SYNC_INTERVAL {
            self.synced = now;
            self.parts.storage.sync()?;
        }
        Ok(())
    }

    /// Takes one record of a ring into the batch; false when there is none.
    fn take(&mut self, index: usize) -> Result<bool, Error> {
        let mut payload = std::mem::take(&mut self.payload);
        let found = self.feeds[index].reader.read(&mut payload);
        let more = match found {
            Found::Nothing => Ok(false),
            Found::Overtaken => Ok(true),
            Found::Record { kind, sequence } => {
                self.keep(index, kind, sequence, &payload).map(|()| true)
            }
        };
        self.payload = payload;
        more
    }

    fn keep(
        &mut self,
        index: usize,
        kind: u16,
        sequence: u64,
        payload: &[u64],
    ) -> Result<(), Error> {
        let stats = self.parts.stats.clone();
        let recorder = &stats.block().recorder;
        let expected = std::mem::replace(&mut self.feeds[index].expected, sequence + 1);
        let missing = sequence.saturating_sub(expected);
        if missing > 0 {
            add(&recorder.dropped, missing);
            self.frame(Kind::Gap as u16, index, expected, &[expected, missing]);
        }
        // A new file begins with a keyframe, so that it can be replayed from its start.
        let full = kind == Kind::Keyframe as u16 && self.segment_is_full();
        let flushed = if full { self.flush() } else { Ok(()) };
        self.begin_segment |= full;
        // Whatever the disk said: the ring gives this record no second time.
        self.frame(kind, index, sequence, payload);
        add(&recorder.records, 1);
        flushed?;
        if self.batch.len() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn frame(&mut self, kind: u16, index: usize, sequence: u64, payload: &[u64]) {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        encode_frame(&mut self.batch, kind, index, sequence, payload);
        self.ends.push(self.batch.len());
    }

    fn segment_bytes(&self) -> u64 {
        (self.parts.size_max_bytes / FILES).clamp(1, SEGMENT_BYTES_MAX)
    }

    fn segment_is_full(&self) -> bool {
        let waiting = self.batch.len() as u64;
        self.segment
            .is_some_and(|bytes| bytes + waiting >= self.segment_bytes())
    }

    /// Writes the batch. What was written is gone from it, also when the rest could not be.
    fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        // A loop whose keyframes are far apart must not make a file without bound.
        let overlong = self
            .segment
            .is_some_and(|bytes| bytes >= 2 * self.segment_bytes());
        if self.segment.is_none() || self.begin_segment || overlong {
            self.segment = None;
            let header = self.parts.header.clone();
            self.open(&header, false, 0)?;
            self.parts.header.segment += 1;
            self.begin_segment = false;
        }
        let (written, result) = self.parts.storage.append(&self.batch);
        let whole = self.ends.partition_point(|end| *end <= written);
        let cut = whole.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.batch.drain(..cut);
        self.ends.drain(..whole);
        for end in &mut self.ends {
            *end -= cut;
        }
        if let Some(bytes) = &mut self.segment {
            *bytes += written as u64;
        }
        let recorder = &self.parts.stats.block().recorder;
        add(&recorder.bytes, written as u64);
        if result.is_ok() {
            self.deleted_in_vain = false;
        }
        result
    }

    /// Makes room and begins a file; its number.
    fn open(&mut self, header: &Header, crash: bool, more: u64) -> Result<u64, Error> {
        let start = encode_header(header).map_err(Error::other)?;
        let room = self.segment_bytes().max(start.len() as u64 + more);
        let mut files = self.parts.storage.files()?;
        let mut total: u64 = files.iter().map(|file| file.bytes).sum();
        while total + room > self.parts.size_max_bytes && !files.is_empty() {
            let crashes = files.iter().filter(|file| file.crash);
            let crashed: u64 = crashes.map(|file| file.bytes).sum();
            // Crash files are kept longest, but a crash loop shall not push everything else out.
            let first_crash = files.iter().position(|file| file.crash);
            let too_many = first_crash.filter(|_| 2 * crashed > self.parts.size_max_bytes);
            let oldest = files.remove(too_many.unwrap_or_else(|| oldest_of(&files)));
            self.parts.storage.remove(&oldest)?;
            total -= oldest.bytes;
        }
        let newest = files.iter().map(|file| file.number).max();
        let number = newest.map_or(1, |number| number.saturating_add(1));
        self.parts.storage.create(number, crash)?;
        let (written, result) = self.parts.storage.append(&start);
        if let Err(error) = result {
            // A file without a whole header is of no use to anybody.
            self.discard(number, crash);
            return Err(error);
        }
        self.segment = Some(written as u64);
        let recorder = &self.parts.stats.block().recorder;
        add(&recorder.bytes, written as u64);
        add(&recorder.files, 1);
        Ok(number)
    }

    /// Takes back a file that was just begun.
    fn discard(&mut self, number: u64, crash: bool) {
        let bytes = 0;
        let _ = self.parts.storage.remove(&Stored {
            number,
            crash,
            bytes,
        });
    }

    /// Makes some room on a full disk: a file's worth of our oldest recordings, but never a crash
    /// file, nor the newest file, nor what would leave us less than half of our bound, and nothing
    /// after a deletion that did not help.
    fn make_room(&mut self) -> Result<(), Error> {
        if self.deleted_in_vain {
            return Ok(());
        }
        let mut files = self.parts.storage.files()?;
        let mut total: u64 = files.iter().map(|file| file.bytes).sum();
        files.pop();
        let (mut freed, wanted) = (0, self.segment_bytes().min(2 * BATCH_BYTES as u64));
        for oldest in files.iter().filter(|file| !file.crash) {
            total -= oldest.bytes;
            if freed >= wanted || 2 * total < self.parts.size_max_bytes {
                break;
            }
            self.deleted_in_vain = true;
            self.parts.storage.remove(oldest)?;
            freed += oldest.bytes;
        }
        Ok(())
    }

    /// Brings an earlier black box to disk. If that cannot be done, the rings come first all the
    /// same, and it is tried again rarely.
    fn bring_salvaged(&mut self, now: Instant, note: &mut dyn FnMut(&str)) {
        if self.salvage_due.is_some_and(|due| now < due) {
            return;
        }
        let Some(salvaged) = self.parts.salvaged.take() else {
            return;
        };
        let written = self.write_salvaged(&salvaged);
        self.segment = None;
        let Err(error) = written else {
            salvaged.done();
            return;
        };
        if self.salvage_tries == 0 {
            note(&format!(
                "recorder: cannot bring the last crash's records to disk: {error}; they stay in \
                 memory, trying again {} times, a minute apart, and at the next start",
                SALVAGE_TRIES - 1
            ));
        }
        self.salvage_tries += 1;
        self.salvage_due = Some(now + SALVAGE_RETRY);
        if self.salvage_tries < SALVAGE_TRIES {
            self.parts.salvaged = Some(salvaged);
        }
        self.count_failure(&error);
    }

    fn write_salvaged(&mut self, salvaged: &Salvaged) -> Result<(), Error> {
        let header = Header {
            origin: Origin::BlackBox,
            ..salvaged.header.clone()
        };
        let number = self.open(&header, true, salvaged.frames.len() as u64)?;
        let (_, appended) = self.parts.storage.append(&salvaged.frames);
        let written = appended.and_then(|()| self.parts.storage.sync());
        if written.is_err() {
            // Half of it would only take the room of what is recorded now.
            self.discard(number, true);
        }
        written
    }
}

/// Which of these to delete first: the oldest, crash files last.
fn oldest_of(files: &[Stored]) -> usize {
    let recorded = files.iter().position(|file| !file.crash);
    recorded.unwrap_or(0)
}

#[cfg(test)]
mod tests;
