//! What must hold, and the check that a disk boots.

use std::fmt;

use super::disk::{GARBAGE, Id, Library, SECTORS, kernel};
use super::world::{Nature, RELEASES, ReleaseIndex, release, release_in, whole};
use crate::area::{ATTEMPTS, Place, Slot};
use crate::loader::{self, Disk};

/// Boots without a fault after which a machine must be up: every attempt, and one more.
const BOOTS_MAX: usize = ATTEMPTS as usize + 1;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Property {
    /// Left alone, the machine comes up, within [`BOOTS_MAX`] boots, in a whole release that works.
    Boots,
    /// A slot with a whole seal holds exactly the release that the seal names.
    SealTrue,
    /// The active slot is sealed, unless a sector went bad.
    ActiveSealed,
    /// The running slot, and any that a whole record names, is not written.
    SlotKept,
    /// A trial gets three attempts, and one more for each token that was lost.
    AttemptsBounded,
    /// A trial is given up only after three attempts.
    AttemptsGiven,
    /// What failed its trial is not tried again unless somebody insists.
    QuarantineKept,
    /// The floor never falls, and nothing below it is installed.
    FloorKept,
    /// Only what was read back whole is tried.
    ReadBack,
    /// Nobody writes what is the other one's to write.
    WritersKept,
}

/// What did not hold, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub property: Property,
    /// How it shows.
    pub detail: String,
    /// Everything that happened since the factory.
    pub steps: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{:?}: {}", self.property, self.detail)?;
        for (step, number) in self.steps.iter().zip(1..) {
            writeln!(formatter, "{number:>4}. {step}")?;
        }
        Ok(())
    }
}

/// Where a machine that is left alone ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// The slot that runs.
    pub slot: Slot,
    /// The release in it.
    pub release: ReleaseIndex,
    /// How many boots it took.
    pub boots: usize,
}

/// Boots a disk as often as it takes, without any fault.
///
/// # Errors
/// Why it does not come up.
pub fn settles(library: &mut Library, disk: &[Id; SECTORS]) -> Result<End, String> {
    let mut view = *disk;
    for boots in 1..=BOOTS_MAX {
        let decision = loader::decide(&library.area(&view), Disk::Writable);
        for (place, sector) in &decision.writes {
            view[place.index()] = library.id(sector);
        }
        let Some((slot, index)) = load(library, &view, decision.slot, decision.fallback) else {
            return Err(format!("no kernel loads: {decision}"));
        };
        // The kernel's own check of its root: a wrong one is a panic, and a reset.
        if whole(library, &view, slot) != Some(index) {
            continue;
        }
        if RELEASES[index as usize].1 == Nature::Works {
            return Ok(End {
                slot,
                release: index,
                boots,
            });
        }
    }
    Err(format!("not up after {BOOTS_MAX} boots"))
}

/// The slot whose kernel the boot script starts, and the release that the kernel is of.
pub fn load(
    library: &Library,
    view: &[Id; SECTORS],
    slot: Slot,
    fallback: Option<Slot>,
) -> Option<(Slot, ReleaseIndex)> {
    let candidates = [Some(slot), fallback];
    candidates.into_iter().flatten().find_map(|slot| {
        let id = view[kernel(slot)];
        let index = release_in(library, id).filter(|_| id != GARBAGE);
        index.map(|index| (slot, index))
    })
}

/// The first slot whose seal is whole and not true.
pub fn untrue_seal(library: &Library, view: &[Id; SECTORS]) -> Option<Slot> {
    Slot::BOTH.into_iter().find(|slot| {
        let Some(seal) = library.seal(view[Place::seal(*slot).index()]) else {
            return false;
        };
        let holds = whole(library, view, *slot).map(|index| release(index).manifest);
        holds != Some(seal.release.manifest)
    })
}

/// The active slot, if its seal is not whole.
pub fn unsealed_active(library: &Library, view: &[Id; SECTORS]) -> Option<Slot> {
    let records = Place::RECORDS.map(|place| library.record(view[place.index()]));
    let newest = records
        .into_iter()
        .flatten()
        .max_by_key(|record| record.sequence)?;
    let seal = library.seal(view[Place::seal(newest.active).index()]);
    seal.is_none().then_some(newest.active)
}

/// Whether a whole record, the older one too, names this slot.
pub fn is_named(library: &Library, view: &[Id; SECTORS], slot: Slot) -> bool {
    let records = Place::RECORDS.map(|place| library.record(view[place.index()]));
    records
        .into_iter()
        .flatten()
        .any(|record| record.active == slot || record.trial.is_some_and(|trial| trial.slot == slot))
}
