//! What the operating system may change in the state area, as named transitions.
//!
//! [`State::open`] reads an area and says which [`Role`] the running system has in it. A transition
//! that this role does not allow is refused with a [`Refusal`]; one that it does allow is a
//! [`Plan`] of single-sector writes, and the state afterwards is what [`State::open`] finds then.
//! Nothing here reads or writes a disk.
//!
//! What holds, and what [`crate::faults`] shows under every cut:
//! - neither the slot that runs nor the active one is ever written, nor one that an older copy of
//!   the record would boot: [`State::begin_install`] makes both copies say the same first;
//! - a slot's seal is void before the slot is written, and there again before a record names it;
//! - only the loader writes tokens; a trial has a nonce of its own instead of cleared tokens;
//! - the floor for release numbers never falls, whatever is committed, rolled back or reset.

use std::fmt;

use crate::area::{Place, Slot, Snapshot};
use crate::booted::Booted;
use crate::loader::{self, Decision, Disk};
use crate::plan::Plan;
use crate::record::{
    Canary, LOADER_VERSION, ManifestHash, Nonce, Quarantine, Record, Release, SEQUENCE_MAX, Seal,
    Token, Trial,
};
use crate::sector::{Sector, SectorError};

/// Numbers kept free below the largest, so that no transition runs out of them in the middle.
pub const SEQUENCE_MARGIN: u32 = 16;

/// What the running system is, by the area and by how it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It runs from the active slot, and nothing is on trial.
    Committed,
    /// It runs from the active slot; the next boot tries the other one.
    TrialPending,
    /// It is on trial.
    Probation {
        /// The attempt, from 1.
        attempt: u8,
    },
    /// It runs from the active slot because the trial of the other one failed.
    RolledBack(Cause),
    /// It runs although the other slot is active, whose kernel did not load.
    Fallback,
    /// It runs without a record, because both are damaged.
    Recovered,
    /// The area is not what it was when this system was started, or not ours.
    Inconsistent,
}

/// Why a trial failed, as far as the state area tells. What the system on trial said itself is
/// kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It was tried and never confirmed.
    NeverConfirmed,
    /// Its kernel is missing or damaged.
    KernelUnloadable,
    /// The loader could not write a token, so it was never tried: not the release's fault.
    TokensUnwritable,
}

/// Whether somebody insists on what would be refused for caution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Insist {
    /// No.
    No,
    /// Yes: a quarantined release is tried again.
    Yes,
}

/// Why a transition is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The running system's role does not allow it.
    #[error("cannot {what}: this system is {role}")]
    Role {
        /// What was asked for.
        what: &'static str,
        /// What it is.
        role: Role,
    },
    /// The boot script is not known to read the sectors that we write.
    #[error(
        "the boot script has left no trace of this boot in the state area ({found}): it may read \
         another disk, or be of another version; nothing is updated until it has"
    )]
    LoaderUnseen {
        /// What is in its place.
        found: String,
    },
    /// The running system's own seal is damaged.
    #[error("the seal of slot {slot}, which runs, is damaged: seal it again first")]
    Unsealed {
        /// The slot.
        slot: Slot,
    },
    /// The other slot holds nothing that was ever committed.
    #[error("slot {slot} holds no committed system to go back to")]
    NothingThere {
        /// The slot.
        slot: Slot,
    },
    /// The release failed before.
    #[error("release {manifest} failed its trial on this machine; insist to try it again")]
    Quarantined {
        /// The release.
        manifest: ManifestHash,
    },
    /// The release is older than what is allowed.
    #[error("release number {number} is below {floor}, the lowest that the running one allows")]
    BelowFloor {
        /// Its number.
        number: u64,
        /// The lowest allowed.
        floor: u64,
    },
    /// The slot holds something else than what was ordered.
    #[error("slot {slot} holds {found}, not {wanted}")]
    Contents {
        /// The slot.
        slot: Slot,
        /// What was read back.
        found: ManifestHash,
        /// What was to be written.
        wanted: ManifestHash,
    },
    /// The install that was staged is no longer the state of the disk.
    #[error("the area has changed since slot {slot} was staged; install again")]
    Outdated {
        /// The slot.
        slot: Slot,
    },
    /// A nonce that was there before.
    #[error("the nonce {nonce} has been used; take another random one")]
    NonceUsed {
        /// The nonce.
        nonce: Nonce,
    },
    /// The numbers are used up.
    #[error("record number {sequence} is too close to 2147483647; renumber first")]
    SequenceExhausted {
        /// The number.
        sequence: u32,
    },
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Committed => "committed",
            Self::TrialPending => "about to try the other slot",
            Self::Probation { attempt } => {
                return write!(formatter, "on trial, attempt {attempt}");
            }
            Self::RolledBack(_) => "back from a failed trial that is not settled yet",
            Self::Fallback => "running although the other slot is active",
            Self::Recovered => "running without a record",
            Self::Inconsistent => "not what the state area says",
        };
        formatter.write_str(text)
    }
}

/// A slot that is being written. It is nobody's system until it is [`Staged`] and tried.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Writing {
    slot: Slot,
    release: Release,
    insist: Insist,
    sequence: u32,
}

impl Writing {
    /// The slot that may be written now.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The slot is written, flushed, and was read back from the medium: `found` is the manifest
    /// whose every hash the contents have.
    ///
    /// # Errors
    /// [`Refusal::Contents`] when that is another manifest.
    pub fn staged(self, found: ManifestHash) -> Result<Staged, Refusal> {
        let wanted = self.release.manifest;
        if found == wanted {
            return Ok(Staged(self));
        }
        let slot = self.slot;
        Err(Refusal::Contents {
            slot,
            found,
            wanted,
        })
    }
}

/// A slot that was written and read back.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Staged(Writing);

/// The state area as the running system finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    booted: Booted,
    area: Snapshot,
    records: [Result<Record, SectorError>; 2],
    seals: [Option<Seal>; 2],
}

impl State {
    /// Looks at an area.
    #[must_use]
    pub fn open(area: Snapshot, booted: Booted) -> Self {
        let records = Place::RECORDS.map(|place| Record::from_sector(area.at(place)));
        let seals = Slot::BOTH.map(|slot| Seal::from_sector(area.at(Place::seal(slot))).ok());
        Self {
            booted,
            area,
            records,
            seals,
        }
    }

    /// How the running system was started.
    #[must_use]
    pub fn booted(&self) -> Booted {
        self.booted
    }

    /// The record that counts.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        self.newest().map(|(_, record)| record)
    }

    /// The seal of a slot, if it is whole.
    #[must_use]
    pub fn seal(&self, slot: Slot) -> Option<Seal> {
        self.seals[slot as usize]
    }

    /// What the next boot will do.
    #[must_use]
    pub fn next_boot(&self) -> Decision {
        loader::decide(&self.area, Disk::Writable)
    }

    /// What the running system is.
    #[must_use]
    pub fn role(&self) -> Role {
        let Booted {
            slot,
            attempt,
            sequence,
            ..
        } = self.booted;
        let is_foreign = |record: &Result<Record, SectorError>| {
            !matches!(record, Ok(_) | Err(SectorError::Checksum { .. }))
        };
        if self.records.iter().any(is_foreign) {
            return Role::Inconsistent;
        }
        let Some(record) = self.record() else {
            return match sequence {
                0 => Role::Recovered,
                _ => Role::Inconsistent,
            };
        };
        if sequence > record.sequence {
            return Role::Inconsistent;
        }
        let is_unchanged = sequence == record.sequence;
        match record.trial {
            None if slot == record.active => Role::Committed,
            Some(trial) if slot == trial.slot && attempt > 0 && is_unchanged => {
                Role::Probation { attempt }
            }
            Some(trial) if slot == record.active => match is_unchanged {
                true => Role::RolledBack(self.cause(trial)),
                false => Role::TrialPending,
            },
            _ if attempt > 0 => Role::Inconsistent,
            _ => Role::Fallback,
        }
    }

    /// Makes the other slot ready to be written with `release`.
    ///
    /// # Errors
    /// [`Refusal`]: not committed, the loader unseen, unsealed, quarantined, or below the floor.
    pub fn begin_install(
        &self,
        release: Release,
        insist: Insist,
    ) -> Result<(Plan, Writing), Refusal> {
        let record = self.committed("begin an install")?;
        self.loader_was_here()?;
        let slot = self.booted.slot;
        if self.seal(slot).is_none() {
            return Err(Refusal::Unsealed { slot });
        }
        acceptable(&record, release, insist)?;
        let other = slot.other();
        let mut plan = Plan::default();
        let mut sequence = record.sequence;
        if !self.is_settled() {
            plan = self.settled(plan, record)?;
            sequence += 1;
        }
        if self.area.at(Place::seal(other)) != &Sector::VOID {
            plan = plan.then(Place::seal(other), Sector::VOID);
        }
        let writing = Writing {
            slot: other,
            release,
            insist,
            sequence,
        };
        Ok((plan, writing))
    }

    /// Puts the staged slot on trial: the next boot tries it. `nonce` must be random.
    ///
    /// # Errors
    /// [`Refusal`]: not committed, or no longer the state in which it was staged.
    pub fn activate(&self, staged: &Staged, nonce: Nonce) -> Result<Plan, Refusal> {
        let record = self.committed("activate an update")?;
        let Staged(writing) = staged;
        let slot = writing.slot;
        let is_void = self.area.at(Place::seal(slot)) == &Sector::VOID;
        if !is_void || slot == self.booted.slot || writing.sequence != record.sequence {
            return Err(Refusal::Outdated { slot });
        }
        acceptable(&record, writing.release, writing.insist)?;
        self.try_slot(record, slot, writing.release, nonce)
    }

    /// Puts the other slot, committed before, on trial again.
    ///
    /// # Errors
    /// [`Refusal`]: not committed, nothing there, quarantined, or below the floor.
    pub fn roll_back_by_hand(&self, nonce: Nonce, insist: Insist) -> Result<Plan, Refusal> {
        let record = self.committed("go back to the other slot")?;
        self.loader_was_here()?;
        let slot = self.booted.slot.other();
        let seal = self.seal(slot).ok_or(Refusal::NothingThere { slot })?;
        acceptable(&record, seal.release, insist)?;
        self.try_slot(record, slot, seal.release, nonce)
    }

    /// Takes back a trial that has not begun.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless one is pending.
    pub fn cancel(&self) -> Result<Plan, Refusal> {
        let record = self.in_role("cancel a trial", |role| role == Role::TrialPending)?;
        let trial = None;
        self.both(Plan::default(), Record { trial, ..record })
    }

    /// Confirms the running system: it is active from now on.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is on trial.
    pub fn commit(&self) -> Result<Plan, Refusal> {
        let is_on_trial = |role| matches!(role, Role::Probation { .. });
        let record = self.in_role("commit", is_on_trial)?;
        let what = "commit";
        let trial = record.trial.ok_or_else(|| self.refused(what))?;
        // The seal carries the floor that is in force, so that it outlives both records.
        let floor = record.floor.max(trial.release.floor);
        let seal = Seal {
            sequence: self.next_sequence()?,
            release: Release {
                floor,
                ..trial.release
            },
        };
        let committed = Record {
            active: trial.slot,
            trial: None,
            floor,
            quarantine: record.quarantine.without(trial.release.manifest),
            ..record
        };
        let plan = Plan::default().then(Place::seal(trial.slot), seal.to_sector());
        self.both(plan, committed)
    }

    /// How many attempts the system on trial has left after this one, when its gates have failed.
    /// Nothing is written: the reset that must follow takes the next attempt, or goes back.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is on trial.
    pub fn gates_failed(&self) -> Result<u8, Refusal> {
        match self.role() {
            Role::Probation { attempt } => Ok(crate::area::ATTEMPTS.saturating_sub(attempt)),
            _ => Err(self.refused("fail the gates")),
        }
    }

    /// Ends a failed trial: its release is quarantined, and its slot is nobody's system any more.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless a trial has failed.
    pub fn settle_rollback(&self) -> Result<Plan, Refusal> {
        let what = "settle a rollback";
        let record = self.in_role(what, |role| matches!(role, Role::RolledBack(_)))?;
        let trial = record.trial.ok_or_else(|| self.refused(what))?;
        let is_its_fault = self.cause(trial) != Cause::TokensUnwritable;
        let mut plan = Plan::default();
        let mut quarantine = record.quarantine;
        if is_its_fault {
            quarantine = quarantine.with(trial.release.manifest);
            if self.area.at(Place::seal(trial.slot)) != &Sector::VOID {
                plan = plan.then(Place::seal(trial.slot), Sector::VOID);
            }
        }
        let settled = Record {
            trial: None,
            quarantine,
            ..record
        };
        self.both(plan, settled)
    }

    /// Makes the running system the active one, whose own kernel did not load.
    ///
    /// # Errors
    /// [`Refusal`]: not a fallback, not sealed, or below the floor.
    pub fn adopt(&self, insist: Insist) -> Result<Plan, Refusal> {
        let record = self.in_role("adopt the running slot", |role| role == Role::Fallback)?;
        let slot = self.booted.slot;
        let seal = self.seal(slot).ok_or(Refusal::Unsealed { slot })?;
        if insist == Insist::No {
            above_floor(&record, seal.release)?;
        }
        let adopted = Record {
            active: slot,
            trial: None,
            ..record
        };
        self.both(Plan::default(), adopted)
    }

    /// Writes new records where both were damaged, or not ours. The running slot is active.
    ///
    /// # Errors
    /// [`Refusal::Role`] when there is a record, or when the running system was on trial.
    pub fn recover(&self) -> Result<Plan, Refusal> {
        let role = self.role();
        let is_allowed = role == Role::Recovered || role == Role::Inconsistent;
        if !is_allowed || self.booted.attempt > 0 {
            return Err(self.refused("recover"));
        }
        let records = self.records.iter().flatten();
        let seals = self.seals.iter().flatten();
        let numbers = records.clone().map(|record| record.sequence);
        let numbers = numbers.chain(seals.clone().map(|seal| seal.sequence));
        let sequence = numbers.fold(self.booted.sequence, u32::max);
        let floors = records.clone().map(|record| record.floor);
        let floors = floors.chain(seals.map(|seal| seal.release.floor));
        let quarantine = records
            .max_by_key(|record| record.sequence)
            .map(|record| record.quarantine);
        let record = Record {
            sequence,
            active: self.booted.slot,
            trial: None,
            floor: floors.fold(0, u64::max),
            wipe: false,
            quarantine: quarantine.unwrap_or_default(),
        };
        has_room(sequence)?;
        // What is not ours goes first: the loader may go by it.
        let first = self
            .records
            .iter()
            .position(|record| record.is_err())
            .unwrap_or(0);
        Ok(pair(Plan::default(), first, record))
    }

    /// Makes both copies of the record say the same, after a cut or when one was damaged.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is committed.
    pub fn settle(&self) -> Result<Plan, Refusal> {
        let record = self.committed("settle the records")?;
        if self.is_settled() {
            return Ok(Plan::default());
        }
        self.settled(Plan::default(), record)
    }

    /// Seals the running slot again after its seal was damaged. `release` is what the slot's own
    /// manifest says.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is committed.
    pub fn seal_again(&self, release: Release) -> Result<Plan, Refusal> {
        let record = self.committed("seal the running slot")?;
        let floor = release.floor.max(record.floor);
        let seal = Seal {
            sequence: record.sequence,
            release: Release { floor, ..release },
        };
        Ok(Plan::default().then(Place::seal(self.booted.slot), seal.to_sector()))
    }

    /// Asks the next boot to make configuration and data anew. Both slots, the floor and the
    /// quarantine stay: a reset is no way to get an old or a bad release in.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is committed.
    pub fn ask_for_wipe(&self) -> Result<Plan, Refusal> {
        let record = self.committed("reset to factory state")?;
        let wipe = true;
        self.both(Plan::default(), Record { wipe, ..record })
    }

    /// Configuration and data are new.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is committed.
    pub fn wiped(&self) -> Result<Plan, Refusal> {
        let record = self.committed("finish a reset")?;
        let wipe = false;
        self.both(Plan::default(), Record { wipe, ..record })
    }

    /// Begins the record numbers anew; needed after two thousand million changes, which no flash
    /// survives, or when something wrote a large one. Reboot behind it: the running system was
    /// started by an old number.
    ///
    /// # Errors
    /// [`Refusal::Role`] unless it is committed.
    pub fn renumber(&self) -> Result<Plan, Refusal> {
        let record = self.committed("renumber")?;
        let (newest, _) = self.newest().ok_or_else(|| self.refused("renumber"))?;
        let active = record.active;
        // The seals keep their order through every one of these writes.
        let mut plan = Plan::default();
        for (slot, sequence) in [(active.other(), 1), (active, 2)] {
            if let Some(seal) = self.seal(slot) {
                plan = plan.then(Place::seal(slot), Seal { sequence, ..seal }.to_sector());
            }
        }
        let sequence = 2;
        Ok(pair(plan, 1 - newest, Record { sequence, ..record }))
    }

    /// The index of the copy that counts, and what it says.
    fn newest(&self) -> Option<(usize, Record)> {
        match (&self.records[0], &self.records[1]) {
            (Ok(first), Ok(second)) if second.sequence > first.sequence => Some((1, *second)),
            (Ok(first), _) => Some((0, *first)),
            (Err(_), Ok(second)) => Some((1, *second)),
            (Err(_), Err(_)) => None,
        }
    }

    /// Whether both copies of the record say the same, so that losing either loses nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match &self.records {
            [Ok(first), Ok(second)] => first.means_the_same_as(second),
            _ => false,
        }
    }

    fn cause(&self, trial: Trial) -> Cause {
        let is_spent = |place| {
            Token::from_sector(self.area.at(place)).is_ok_and(|token| token.nonce == trial.nonce)
        };
        if self.booted.attempt > 0 {
            Cause::KernelUnloadable
        } else if Place::ATTEMPTS.into_iter().any(is_spent) {
            // One token is enough: a damaged one must not get a bad release another chance.
            Cause::NeverConfirmed
        } else {
            Cause::TokensUnwritable
        }
    }

    fn refused(&self, what: &'static str) -> Refusal {
        let role = self.role();
        Refusal::Role { what, role }
    }

    fn in_role(
        &self,
        what: &'static str,
        is_allowed: impl Fn(Role) -> bool,
    ) -> Result<Record, Refusal> {
        let record = self.record().filter(|_| is_allowed(self.role()));
        record.ok_or_else(|| self.refused(what))
    }

    fn committed(&self, what: &'static str) -> Result<Record, Refusal> {
        self.in_role(what, |role| role == Role::Committed)
    }

    fn loader_was_here(&self) -> Result<(), Refusal> {
        let wanted = Canary {
            sequence: self.booted.sequence,
            loader: LOADER_VERSION,
        };
        let found = match Canary::from_sector(self.area.at(Place::Canary)) {
            Ok(canary) if canary == wanted => return Ok(()),
            Ok(canary) => format!("version {}, record {}", canary.loader, canary.sequence),
            Err(error) => error.to_string(),
        };
        Err(Refusal::LoaderUnseen { found })
    }

    fn next_sequence(&self) -> Result<u32, Refusal> {
        let sequence = self.record().map_or(0, |record| record.sequence);
        has_room(sequence)?;
        Ok(sequence + 1)
    }

    fn try_slot(
        &self,
        record: Record,
        slot: Slot,
        release: Release,
        nonce: Nonce,
    ) -> Result<Plan, Refusal> {
        let mut tokens = Place::ATTEMPTS.into_iter().map(|place| self.area.at(place));
        if tokens.any(|sector| Token::from_sector(sector) == Ok(Token { nonce })) {
            return Err(Refusal::NonceUsed { nonce });
        }
        let trial = Some(Trial {
            slot,
            nonce,
            release,
        });
        self.settled(Plan::default(), Record { trial, ..record })
    }

    /// Writes `record` over the older copy.
    fn settled(&self, plan: Plan, record: Record) -> Result<Plan, Refusal> {
        let sequence = self.next_sequence()?;
        let older = self.newest().map_or(0, |(newest, _)| 1 - newest);
        Ok(plan.then(
            Place::RECORDS[older],
            Record { sequence, ..record }.to_sector(),
        ))
    }

    /// Writes `record` over both copies, so that losing either loses nothing.
    fn both(&self, plan: Plan, record: Record) -> Result<Plan, Refusal> {
        let sequence = self.next_sequence()? - 1;
        let older = self.newest().map_or(0, |(newest, _)| 1 - newest);
        Ok(pair(plan, older, Record { sequence, ..record }))
    }
}

/// Writes `record` with the two numbers behind its own, the copy `first` first.
fn pair(plan: Plan, first: usize, record: Record) -> Plan {
    [first, 1 - first]
        .into_iter()
        .zip(1..)
        .fold(plan, |plan, (copy, more)| {
            let sequence = record.sequence + more;
            plan.then(
                Place::RECORDS[copy],
                Record { sequence, ..record }.to_sector(),
            )
        })
}

fn has_room(sequence: u32) -> Result<(), Refusal> {
    if sequence > SEQUENCE_MAX - SEQUENCE_MARGIN {
        return Err(Refusal::SequenceExhausted { sequence });
    }
    Ok(())
}

fn acceptable(record: &Record, release: Release, insist: Insist) -> Result<(), Refusal> {
    let manifest = release.manifest;
    if insist == Insist::No && record.quarantine.holds(manifest) {
        return Err(Refusal::Quarantined { manifest });
    }
    above_floor(record, release)
}

fn above_floor(record: &Record, release: Release) -> Result<(), Refusal> {
    let (number, floor) = (release.number, record.floor);
    if number < floor {
        return Err(Refusal::BelowFloor { number, floor });
    }
    Ok(())
}

/// The area of a disk fresh from the factory: the same release in both slots, sealed.
#[must_use]
pub fn factory_area(release: Release) -> Snapshot {
    let mut area = Snapshot::EMPTY;
    let record = Record::factory(release.floor);
    let second = Record {
        sequence: record.sequence + 1,
        quarantine: Quarantine::default(),
        ..record
    };
    area.put(Place::Record0, record.to_sector());
    area.put(Place::Record1, second.to_sector());
    // Slot a has the larger number: it is the active one.
    for (slot, sequence) in [(Slot::A, 2), (Slot::B, 1)] {
        area.put(Place::seal(slot), Seal { sequence, release }.to_sector());
    }
    area
}
