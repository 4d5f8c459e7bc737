//! A ring of records that keeps the newest: one writer that never waits, readers that may lose.
//!
//! The writer is the control loop; it overwrites the oldest records when the ring is full, so the
//! ring always holds the last seconds, whether somebody reads or not. The reader is the drain, on
//! an ordinary thread; when it was too slow it notices, by itself, and goes on with the oldest
//! record that is left. rt-safe: [`RingWriter::push`], which is wait-free: it copies the record,
//! stores two words, and steps over at most as many old records as the new one displaces.
//!
//! **Shared words.** `OLDEST` is the position of the oldest whole record, `COMMITTED` the position
//! after the newest. Positions count words for ever; a word's place is its position modulo the
//! capacity. `OLDEST` moves before the words it gives up are overwritten, `COMMITTED` after the new
//! ones are written; so whoever looks at the memory at any instant, also after the process was
//! killed between any two instructions, finds whole records between the two.
//!
//! Not `rtrb`: that refuses when it is full, which keeps the oldest; a flight recorder needs the
//! newest, and needs it to be there when the process is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::memory::Memory;

/// Words of a ring's shared positions, before its data.
pub const CONTROL_WORDS: usize = 16;
/// Words of a record before its payload.
pub const RECORD_HEADER_WORDS: usize = 2;
/// Most words of one record, header included: 128 KiB.
pub const RECORD_WORDS_MAX: usize = 16 * 1024;

const OLDEST: usize = 0;
const COMMITTED: usize = 8;
/// Upper half of a record's first word, with its kind below it.
const MARK: u64 = 0x6B52;

/// The first word of a record.
const fn first_word(kind: u16, words: usize) -> u64 {
    (MARK << 48) | ((kind as u64) << 32) | words as u64
}

/// Kind and length of the record whose first word this is; `None` if it is not one.
const fn parse_first(word: u64) -> Option<(u16, usize)> {
    let words = (word & 0xFFFF_FFFF) as usize;
    if word >> 48 != MARK || words < RECORD_HEADER_WORDS || words > RECORD_WORDS_MAX {
        return None;
    }
    Some(((word >> 32) as u16, words))
}

/// Where a ring lies in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First word of its positions.
    pub offset: usize,
    /// Words of data, a power of two of at least twice [`RECORD_WORDS_MAX`].
    pub capacity: usize,
}

impl Place {
    /// Words from the offset to the end.
    pub const fn words(&self) -> usize {
        CONTROL_WORDS + self.capacity
    }

    /// Whether it is a ring's place at all, and inside `words`.
    pub const fn fits(&self, words: usize) -> bool {
        self.capacity.is_power_of_two()
            && self.capacity >= 2 * RECORD_WORDS_MAX
            && self.offset < words
            && self.capacity <= words
            && self.offset + self.words() <= words
    }
}

#[derive(Clone, Debug)]
struct Shared {
    memory: Arc<Memory>,
    place: Place,
}

impl Shared {
    fn control(&self, index: usize) -> &AtomicU64 {
        &self.memory.words()[self.place.offset + index]
    }

    fn data(&self) -> &[AtomicU64] {
        let start = self.place.offset + CONTROL_WORDS;
        &self.memory.words()[start..start + self.place.capacity]
    }

    /// The index of a position. The capacity is a power of two.
    const fn index(&self, position: u64) -> usize {
        position as usize & (self.place.capacity - 1)
    }
}

/// The writing end. One per ring.
#[derive(Debug)]
pub struct RingWriter {
    shared: Shared,
    oldest: u64,
    committed: u64,
    sequence: u64,
}

impl RingWriter {
    /// The writer of an empty ring. setup-only.
    ///
    /// # Panics
    /// If the place does not fit the memory, a bug of the caller.
    pub fn new(memory: Arc<Memory>, place: Place) -> Self {
        assert!(place.fits(memory.words().len()), "{place:?}");
        Self {
            shared: Shared { memory, place },
            oldest: 0,
            committed: 0,
            sequence: 0,
        }
    }

    /// Appends a record, and gives up the oldest ones in its way. rt-safe.
    ///
    /// A payload too long for a record takes its sequence number and is not written: the reader
    /// finds it missing. False then.
    pub fn push(&mut self, kind: u16, payload: &[u64]) -> bool {
        let sequence = self.sequence;
        self.sequence += 1;
        let words = RECORD_HEADER_WORDS + payload.len();
        if words > RECORD_WORDS_MAX {
            return false;
        }
        let end = self.committed + words as u64;
        self.give_up_before(end);
        let (first, second) = (first_word(kind, words), sequence);
        let data = self.shared.data();
        data[self.shared.index(self.committed)].store(first, Ordering::Relaxed);
        data[self.shared.index(self.committed + 1)].store(second, Ordering::Relaxed);
        let start = self
            .shared
            .index(self.committed + RECORD_HEADER_WORDS as u64);
        let until_end = payload.len().min(data.len() - start);
        let (tail, wrapped) = payload.split_at(until_end);
        for (word, value) in data[start..]
            .iter()
            .zip(tail)
            .chain(data.iter().zip(wrapped))
        {
            word.store(*value, Ordering::Relaxed);
        }
        self.committed = end;
        // Pairs with the acquire in `RingReader::read`: the words of the record come before.
        self.shared.control(COMMITTED).store(end, Ordering::Release);
        true
    }

    /// Leaves a number out: the reader finds a record missing. rt-safe.
    pub const fn skip(&mut self) {
        self.sequence += 1;
    }

    /// Moves `OLDEST` so far that a record up to `end` overwrites nothing that counts.
    fn give_up_before(&mut self, end: u64) {
        let capacity = self.shared.place.capacity as u64;
        if end - self.oldest <= capacity {
            return;
        }
        while end - self.oldest > capacity && self.oldest < self.committed {
            let first = self.shared.data()[self.shared.index(self.oldest)].load(Ordering::Relaxed);
            // Only this writer writes here. If the words are spoilt all the same, all is given up.
            self.oldest = match parse_first(first) {
                Some((_, words)) => self.oldest + words as u64,
                None => self.committed,
            };
        }
        self.shared
            .control(OLDEST)
            .store(self.oldest, Ordering::Relaxed);
        // Pairs with the fence in `RingReader::read`: a reader that saw a word written after this
        // also sees that the record it was reading had been given up.
        fence(Ordering::Release);
    }
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing new.
    Nothing,
    /// A record of this kind and number; its payload is in the buffer.
    Record {
        /// Its kind.
        kind: u16,
        /// Its number.
        sequence: u64,
    },
    /// The writer overtook: records are lost. Read on.
    Overtaken,
}

/// A reading end. Any number of them; they take nothing away. Ordinary threads.
#[derive(Debug)]
pub struct RingReader {
    shared: Shared,
    position: u64,
}

impl RingReader {
    /// A reader that begins with the oldest record there is.
    ///
    /// # Panics
    /// If the place does not fit the memory, a bug of the caller.
    pub fn new(memory: Arc<Memory>, place: Place) -> Self {
        assert!(place.fits(memory.words().len()), "{place:?}");
        Self {
            shared: Shared { memory, place },
            position: 0,
        }
    }

    /// Takes the next record; its payload replaces what is in `payload`.
    pub fn read(&mut self, payload: &mut Vec<u64>) -> Found {
        // Pairs with the release in `RingWriter::push`.
        let committed = self.shared.control(COMMITTED).load(Ordering::Acquire);
        let oldest = self.shared.control(OLDEST).load(Ordering::Relaxed);
        if self.position < oldest {
            self.position = oldest;
            return Found::Overtaken;
        }
        if self.position >= committed {
            return Found::Nothing;
        }
        let data = self.shared.data();
        let word = |position| data[self.shared.index(position)].load(Ordering::Relaxed);
        let first = parse_first(word(self.position));
        let sequence = word(self.position + 1);
        payload.clear();
        if let Some((_, words)) = first {
            let until = self.position + words as u64;
            let from = self.position + RECORD_HEADER_WORDS as u64;
            payload.extend((from..until).map(word));
        }
        // Pairs with the fence in `RingWriter::give_up_before`.
        fence(Ordering::Acquire);
        let oldest = self.shared.control(OLDEST).load(Ordering::Relaxed);
        if self.position < oldest {
            self.position = oldest;
            return Found::Overtaken;
        }
        match first {
            Some((kind, words)) if self.position + words as u64 <= committed => {
                self.position += words as u64;
                Found::Record { kind, sequence }
            }
            // Not a record although nobody overwrote it: the memory is spoilt. Start anew.
            _ => {
                self.position = committed;
                Found::Overtaken
            }
        }
    }
}

/// Walks the records of a ring found in the words of a dead process. Bounded by the words; every
/// word is checked, and the walk ends at the first that is none of a record's.
pub fn walk(words: &[u64], place: Place, mut visit: impl FnMut(u16, u64, &[u64])) {
    if !place.fits(words.len()) {
        return;
    }
    let control = &words[place.offset..place.offset + CONTROL_WORDS];
    let data = &words[place.offset + CONTROL_WORDS..place.offset + place.words()];
    let (mut position, committed) = (control[OLDEST], control[COMMITTED]);
    let capacity = place.capacity as u64;
    let at = |position: u64| data[position as usize & (place.capacity - 1)];
    let mut payload = Vec::new();
    while position < committed && committed - position <= capacity {
        let Some((kind, length)) = parse_first(at(position)) else {
            return;
        };
        let Some(until) = position
            .checked_add(length as u64)
            .filter(|until| *until <= committed)
        else {
            return;
        };
        payload.clear();
        payload.extend((position + RECORD_HEADER_WORDS as u64..until).map(at));
        visit(kind, at(position + 1), &payload);
        position = until;
    }
}

#[cfg(test)]
mod tests;
