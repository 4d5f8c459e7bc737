//! What the boot script decides, as one pure function over the state area.
//!
//! [`decide`] is the counterpart of `board/boot/select.cmd`, line by line. The operating system
//! asks it what the next boot will do, the fault model boots with it, and a test runs the script
//! itself under U-Boot and compares. It goes by what the script can see: the script tests less
//! than [`crate::record`] does, because it has `test`, `itest` and `env import` and no more.
//!
//! Two things it does not model, because nothing of ours writes them and only somebody who can
//! write the disk could: right checksums over strings that no writer of ours makes, and numbers
//! beyond 31 bits.

use std::fmt;

use crate::area::{Place, Slot, Snapshot};
use crate::record::{Canary, LOADER_VERSION, SEQUENCE_MAX};
use crate::sector::{Sector, Variables};

/// What the slot was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A whole record.
    Record,
    /// Both records are damaged: the seals.
    Seals,
    /// The seals are damaged too: slot a, then slot b.
    Blind,
}

impl Source {
    const ALL: [Self; 3] = [Self::Record, Self::Seals, Self::Blind];

    /// The word on the kernel command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Seals => "seals",
            Self::Blind => "blind",
        }
    }

    /// The source with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.word() == word)
    }
}

/// What the script is about to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The slot it loads first.
    pub slot: Slot,
    /// Which attempt of a trial this is; 0 when it is none.
    pub attempt: u8,
    /// The number of the record it goes by; 0 without one.
    pub sequence: u32,
    /// What it goes by.
    pub source: Source,
    /// The slot it loads if the first one's kernel is missing or damaged.
    pub fallback: Option<Slot>,
    /// What it writes before, in this order: the token, then the canary.
    pub writes: Vec<(Place, Sector)>,
}

impl fmt::Display for Decision {
    /// The line that the script prints.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "KBOOT slot={} attempt={} seq={} from={} else={}",
            self.slot,
            self.attempt,
            self.sequence,
            self.source.word(),
            self.fallback.map_or("none", Slot::letter)
        )
    }
}

/// Whether the loader can write to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// It can.
    Writable,
    /// Every write fails.
    ReadOnly,
}

/// A record as far as the script looks.
struct Seen<'a> {
    sequence: u32,
    active: Slot,
    trial: Option<(Slot, &'a str)>,
}

/// What the script does with this area.
#[must_use]
pub fn decide(area: &Snapshot, disk: Disk) -> Decision {
    let variables = Place::ALL.map(|place| area.at(place).variables().ok());
    let of = |place: Place| variables[place.index()].as_ref();
    let first = of(Place::Record0).and_then(seen);
    let second = of(Place::Record1).and_then(seen);
    // Of two equal numbers the first copy counts.
    let record = match (first, second) {
        (Some(first), Some(second)) if second.sequence > first.sequence => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    };
    let sealed = Slot::BOTH.map(|slot| number(of(Place::seal(slot)), "sseq"));
    let [sealed_a, sealed_b] = sealed;
    let (source, sequence, active) = match &record {
        Some(record) => (Source::Record, record.sequence, record.active),
        None if sealed_b > sealed_a => (Source::Seals, 0, Slot::B),
        None if sealed_a > 0 => (Source::Seals, 0, Slot::A),
        None => (Source::Blind, 0, Slot::A),
    };
    let trial = record.and_then(|record| record.trial);
    let (attempt, token) = match trial {
        Some((_, nonce)) if disk == Disk::Writable => attempt(nonce, &of),
        _ => (0, None),
    };
    let slot = match trial {
        Some((slot, _)) if attempt > 0 => slot,
        _ => active,
    };
    let other = slot.other();
    let is_usable = slot != active || source == Source::Blind || sealed[other as usize] > 0;
    Decision {
        slot,
        attempt,
        sequence,
        source,
        fallback: is_usable.then_some(other),
        writes: token
            .into_iter()
            .chain(canary(sequence, disk, of(Place::Canary)))
            .collect(),
    }
}

/// The first attempt that is not used, and the token that uses it.
fn attempt<'a, 'v: 'a>(
    nonce: &str,
    of: &dyn Fn(Place) -> Option<&'a Variables<'v>>,
) -> (u8, Option<(Place, Sector)>) {
    for (place, attempt) in Place::ATTEMPTS.into_iter().zip(1..) {
        let used = of(place).and_then(|variables| variables.get("anon"));
        if used != Some(nonce) {
            return (attempt, Some((place, Sector::of(&[("anon", nonce)]))));
        }
    }
    (0, None)
}

fn canary(sequence: u32, disk: Disk, now: Option<&Variables<'_>>) -> Option<(Place, Sector)> {
    let wanted = Canary {
        sequence,
        loader: LOADER_VERSION,
    };
    let get = |name| now.and_then(|variables| variables.get(name));
    let is_there = get("cseq") == Some(sequence.to_string().as_str())
        && get("cver") == Some(LOADER_VERSION.to_string().as_str());
    let writes = !is_there && disk == Disk::Writable;
    writes.then(|| (Place::Canary, wanted.to_sector()))
}

fn seen<'a>(variables: &Variables<'a>) -> Option<Seen<'a>> {
    let active = variables.get("kact").and_then(Slot::from_letter)?;
    let trial = variables.get("ktry").and_then(Slot::from_letter);
    let trial = trial.filter(|slot| *slot != active);
    let sequence = number(Some(variables), "kseq");
    (sequence > 0).then_some(Seen {
        sequence,
        active,
        trial: trial.zip(variables.get("knon")),
    })
}

/// A number as U-Boot's `test` reads it: the digits in front, and 0 where there are none.
fn number(variables: Option<&Variables<'_>>, name: &str) -> u32 {
    let text = variables
        .and_then(|variables| variables.get(name))
        .unwrap_or("");
    let end = text.find(|character: char| !character.is_ascii_digit());
    let digits = &text[..end.unwrap_or(text.len())];
    digits
        .parse()
        .ok()
        .filter(|number| *number <= SEQUENCE_MAX)
        .unwrap_or(0)
}
