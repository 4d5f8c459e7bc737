//! The small world: what is going on in it, and what is bounded so that it has an end.

use super::disk::{Disk, GARBAGE, Id, Library, Pending, SECTORS, kernel, root};
use super::mutant::Mutant;
use crate::area::{Place, Slot};
use crate::booted::Booted;
use crate::record::{ManifestHash, Release};
use crate::sector::{SECTOR_BYTES, Sector};
use crate::state::factory_area;

/// Which release: an index into [`RELEASES`].
pub type ReleaseIndex = u8;

/// What happens to a release when it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nature {
    /// It comes up, and passes its gates unless it is unlucky.
    Works,
    /// It panics before init runs.
    Crashes,
    /// It comes up and never passes its gates.
    FailsGates,
}

/// The releases there are: their nature, number and floor.
pub const RELEASES: [(&str, Nature, u64, u64); 6] = [
    ("factory", Nature::Works, 1, 1),
    ("good", Nature::Works, 3, 1),
    ("crashes", Nature::Crashes, 4, 1),
    ("fails gates", Nature::FailsGates, 5, 1),
    ("strict", Nature::Works, 6, 4),
    ("too old", Nature::Works, 0, 0),
];

/// The release as the state area knows it.
#[must_use]
pub fn release(index: ReleaseIndex) -> Release {
    let (_, _, number, floor) = RELEASES[index as usize];
    Release {
        manifest: ManifestHash([index; 32]),
        number,
        floor,
    }
}

/// Kernel or root of a release.
#[must_use]
pub fn contents(index: ReleaseIndex) -> Sector {
    Sector([0x10 + index; SECTOR_BYTES])
}

/// How much of everything may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Installs begun.
    pub installs: u8,
    /// Power cuts.
    pub cuts: u8,
    /// Sectors that go bad.
    pub rots: u8,
    /// Manual rollbacks.
    pub by_hand: u8,
    /// Factory resets.
    pub wipes: u8,
}

/// What a flush does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flush {
    /// What it says.
    Honest,
    /// It keeps the last writes in the cache, which goes to the medium in order.
    KeepsBack(usize),
    /// It keeps the last writes in the cache, which goes to the medium in any order.
    KeepsBackUnordered(usize),
}

/// What the world is like.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How much happens in it.
    pub budget: Budget,
    /// What its disk does.
    pub flush: Flush,
    /// What is broken in it.
    pub mutant: Option<Mutant>,
    /// States after which to give up.
    pub states_max: usize,
}

/// An install that somebody ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// What to install.
    pub release: ReleaseIndex,
    /// Whether a quarantined release is tried again.
    pub insists: bool,
}

/// What follows a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// Nothing.
    Idle,
    /// The slot is written.
    Install(Order),
    /// The release has been put in quarantine.
    Quarantined(ReleaseIndex),
    /// The release has been committed.
    Committed(ReleaseIndex),
}

/// What the operating system is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Nothing.
    Idle,
    /// A plan: a write at even steps, a flush at odd ones.
    Plan {
        /// Which.
        plan: u32,
        /// The step.
        step: u8,
        /// What follows.
        then: Then,
    },
    /// Writing the kernel of the other slot.
    Kernel(Order),
    /// Writing its root.
    Root(Order),
    /// Flushing both.
    Sync(Order),
    /// Reading both back.
    ReadBack(Order),
    /// Both are good; nothing is activated yet.
    Staged(Order),
}

/// What the machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It is off, or resets.
    Off,
    /// The boot script has decided and is about to do this step of its decision.
    Loader {
        /// Which decision.
        decision: u32,
        /// How many of its writes are done.
        step: u8,
    },
    /// A system runs.
    Running {
        /// How it was started.
        booted: Booted,
        /// What it does.
        job: Job,
    },
}

/// One state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The disk.
    pub disk: Disk,
    /// The machine.
    pub phase: Phase,
    /// What may still happen.
    pub budget: Budget,
    /// Trials so far; the next nonce.
    pub trials: u8,
    /// Tokens written for the trial of now.
    pub attempts: u8,
    /// Of these, how many a cut or a bad sector may have taken back.
    pub uncounted: u8,
    /// Releases that were put in quarantine and not taken out, a bit each.
    pub quarantined: u8,
    /// The highest floor that was ever in force.
    pub floor: u8,
    /// Whether a sector has gone bad since the factory.
    pub is_damaged: bool,
}

impl World {
    /// A machine fresh from the factory, off.
    pub fn new(library: &mut Library, budget: Budget) -> Self {
        let area = factory_area(release(0));
        let factory = library.id(&contents(0));
        let mut durable = [factory; SECTORS];
        for place in Place::ALL {
            durable[place.index()] = library.id(area.at(place));
        }
        Self {
            disk: Disk {
                durable,
                pending: Pending::default(),
            },
            phase: Phase::Off,
            budget,
            trials: 0,
            attempts: 0,
            uncounted: 0,
            quarantined: 0,
            floor: 1,
            is_damaged: false,
        }
    }
}

/// The release whose kernel or root a sector is.
#[must_use]
pub fn release_in(library: &Library, id: Id) -> Option<ReleaseIndex> {
    let sector = library.sector(id);
    let mut all = 0..RELEASES.len() as ReleaseIndex;
    all.find(|index| *sector == contents(*index))
}

/// The release that a slot holds whole, if it does.
#[must_use]
pub fn whole(library: &Library, view: &[Id; SECTORS], slot: Slot) -> Option<ReleaseIndex> {
    let (kernel, root) = (view[kernel(slot)], view[root(slot)]);
    if kernel != root || kernel == GARBAGE {
        return None;
    }
    release_in(library, kernel)
}
