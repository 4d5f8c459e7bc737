//! The tap in a loop's tick: the one way in which anything from outside enters it.
//!
//! A tick must be a function of its state and its recorded inputs, or it cannot be replayed. So it
//! reads nothing by itself, no clock, ring, buffer or flag: it asks the tap, naming the entry and
//! giving a closure that does the reading. Three modes, one code path:
//!
//! - **off**: the closure is called, nothing else happens;
//! - **live**: the closure is called, and its result becomes an entry of this tick's record;
//! - **replay**: the closure is not called; the recorded entry is the result. Outputs are compared,
//!   bit for bit, with the recorded ones instead of being recorded.
//!
//! rt-safe but for the constructors: bounded copies into buffers made beforehand, and one push
//! into the ring at the end of a tick.

use crate::file::Kind;
use crate::ring::{RECORD_HEADER_WORDS, RECORD_WORDS_MAX, RingWriter};
use crate::state::{Sink, Source, State};

/// Most words of a tick: what fits a record of the ring.
pub const TICK_WORDS_MAX: usize = RECORD_WORDS_MAX - RECORD_HEADER_WORDS;

/// What an entry is, and whose: the tag, and a device of the loop or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its tag; see `Header::entries` of a file.
    pub tag: u16,
    /// Which device of the loop.
    pub index: u16,
}

impl Entry {
    const fn first_word(self, words: usize) -> u64 {
        ((self.tag as u64) << 48) | ((self.index as u64) << 32) | words as u64
    }

    const fn parse(word: u64) -> (Self, usize) {
        let entry = Self {
            tag: (word >> 48) as u16,
            index: (word >> 32) as u16,
        };
        (entry, (word & 0xFFFF_FFFF) as usize)
    }
}

/// The entries of a tick's payload, for readers. Ends at the first that is none.
pub fn entries(payload: &[u64]) -> impl Iterator<Item = (Entry, &[u64])> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let (entry, words) = Entry::parse(*first);
        let value = after.get(..words)?;
        rest = &after[words..];
        Some((entry, value))
    })
}

/// Where replay and record part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A word of an output differs.
    Output {
        /// The output.
        entry: Entry,
        /// The word within it.
        word: usize,
        /// As recorded.
        recorded: u64,
        /// As replayed.
        replayed: u64,
    },
    /// The replayed tick wants or gives another entry than the recorded one did.
    Order {
        /// What was recorded next; `None` at the end of the tick.
        recorded: Option<Entry>,
        /// What the replayed tick came to; `None` when it was over.
        replayed: Option<Entry>,
    },
    /// The recorded input is no value of its type.
    Malformed {
        /// The input.
        entry: Entry,
    },
}

/// What replay works on.
#[derive(Debug, Default)]
struct Replay {
    words: Vec<u64>,
    at: usize,
    compared: u64,
    difference: Option<Difference>,
}

impl Replay {
    /// The next entry, if it is this one. Moves on only then.
    fn next_if(&mut self, wanted: Entry) -> Option<(usize, usize)> {
        let first = self.words.get(self.at)?;
        let (entry, words) = Entry::parse(*first);
        let (start, end) = (self.at + 1, self.at + 1 + words);
        if entry != wanted || end > self.words.len() {
            return None;
        }
        self.at = end;
        Some((start, end))
    }

    fn out_of_order(&mut self, replayed: Option<Entry>) {
        let recorded = self.words.get(self.at).map(|word| Entry::parse(*word).0);
        let difference = Difference::Order { recorded, replayed };
        self.difference.get_or_insert(difference);
    }

    fn input<T: State + Default>(&mut self, entry: Entry) -> Option<T> {
        let (start, end) = self.next_if(entry)?;
        let mut value = T::default();
        let loaded = value.load(&mut Source::new(&self.words[start..end]));
        if loaded.is_err() {
            let difference = Difference::Malformed { entry };
            self.difference.get_or_insert(difference);
        }
        Some(value)
    }

    fn output(&mut self, entry: Entry, replayed: &[u64]) {
        let Some((start, end)) = self.next_if(entry) else {
            self.out_of_order(Some(entry));
            return;
        };
        self.compared += 1;
        let recorded = &self.words[start..end];
        let at = |words: &[u64], index: usize| words.get(index).copied().unwrap_or(0);
        let length = recorded.len().max(replayed.len());
        let different = (0..length).find(|index| at(recorded, *index) != at(replayed, *index));
        if let Some(word) = different {
            let difference = Difference::Output {
                entry,
                word,
                recorded: at(recorded, word),
                replayed: at(replayed, word),
            };
            self.difference.get_or_insert(difference);
        }
    }
}

#[derive(Debug)]
enum Mode {
    Off,
    Live(RingWriter),
    Replay(Box<Replay>),
}

/// See the module documentation. One per loop.
#[derive(Debug)]
pub struct Tap {
    mode: Mode,
    staging: Sink,
    recording: bool,
}

impl Tap {
    /// A tap that only calls closures. setup-only.
    pub fn off() -> Self {
        Self {
            mode: Mode::Off,
            staging: Sink::new(0),
            recording: false,
        }
    }

    /// A tap that records into a ring. setup-only.
    pub fn live(writer: RingWriter) -> Self {
        Self {
            mode: Mode::Live(writer),
            staging: Sink::new(TICK_WORDS_MAX),
            recording: false,
        }
    }

    /// A tap that replays. setup-only.
    pub fn replay() -> Self {
        Self {
            mode: Mode::Replay(Box::default()),
            staging: Sink::new(TICK_WORDS_MAX),
            recording: false,
        }
    }

    /// Whether inputs come from a record. rt-safe.
    pub const fn is_replaying(&self) -> bool {
        matches!(self.mode, Mode::Replay(_))
    }

    /// Whether entries are recorded. rt-safe.
    pub const fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live(_))
    }

    /// A tick begins. What passes the tap outside a tick is not recorded. rt-safe.
    pub fn begin(&mut self) {
        self.staging.clear();
        self.recording = true;
    }

    /// A tick ends: its record goes into the ring. rt-safe.
    pub fn end(&mut self) {
        self.recording = false;
        match &mut self.mode {
            Mode::Off => (),
            Mode::Live(writer) => push(writer, Kind::Tick, &self.staging),
            Mode::Replay(replay) => {
                if replay.at < replay.words.len() {
                    replay.out_of_order(None);
                }
            }
        }
    }

    /// Records the whole state, from which replay can begin. Between ticks. rt-safe.
    pub fn keyframe(&mut self, save: impl FnOnce(&mut Sink)) {
        if let Mode::Live(writer) = &mut self.mode {
            self.staging.clear();
            save(&mut self.staging);
            push(writer, Kind::Keyframe, &self.staging);
        }
    }

    /// An input that is always there. rt-safe.
    pub fn input<T: State + Default>(&mut self, entry: Entry, read: impl FnOnce() -> T) -> T {
        match &mut self.mode {
            Mode::Replay(replay) => replay.input(entry).unwrap_or_else(|| {
                replay.out_of_order(Some(entry));
                T::default()
            }),
            Mode::Off => read(),
            Mode::Live(_) => {
                let value = read();
                self.record(entry, &value);
                value
            }
        }
    }

    /// An input that may be there; only then it is recorded. rt-safe.
    pub fn input_some<T: State + Default>(
        &mut self,
        entry: Entry,
        read: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        match &mut self.mode {
            Mode::Replay(replay) => replay.input(entry),
            Mode::Off => read(),
            Mode::Live(_) => {
                let value = read();
                if let Some(value) = &value {
                    self.record(entry, value);
                }
                value
            }
        }
    }

    /// What the tick gave. rt-safe.
    pub fn output<T: State>(&mut self, entry: Entry, value: &T) {
        match &mut self.mode {
            Mode::Off => (),
            Mode::Live(_) => self.record(entry, value),
            Mode::Replay(replay) => {
                self.staging.clear();
                value.save(&mut self.staging);
                replay.output(entry, self.staging.words());
            }
        }
    }

    fn record<T: State>(&mut self, entry: Entry, value: &T) {
        if !self.recording {
            return;
        }
        let start = self.staging.words().len();
        self.staging.put(0);
        value.save(&mut self.staging);
        self.staging.trim(start + 1);
        let words = self.staging.words().len().saturating_sub(start + 1);
        self.staging.set(start, entry.first_word(words));
    }

    /// Gives the next tick to replay. Ordinary threads.
    pub fn load(&mut self, tick: &[u64]) {
        if let Mode::Replay(replay) = &mut self.mode {
            replay.words.clear();
            replay.words.extend_from_slice(tick);
            replay.at = 0;
        }
    }

    /// Outputs compared so far, and the first difference. Ordinary threads.
    pub fn outcome(&self) -> (u64, Option<Difference>) {
        match &self.mode {
            Mode::Replay(replay) => (replay.compared, replay.difference),
            Mode::Off | Mode::Live(_) => (0, None),
        }
    }
}

/// A record with a hole in it would replay wrongly: one that did not fit is left out, and its
/// number is missing.
fn push(writer: &mut RingWriter, kind: Kind, staging: &Sink) {
    if staging.overflowed() {
        writer.skip();
    } else {
        writer.push(kind as u16, staging.words());
    }
}

#[cfg(test)]
mod tests;
