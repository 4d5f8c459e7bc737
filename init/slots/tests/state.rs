//! What each role may do, what it writes, and what is refused with which words.

use kairo_slots::area::{Place, Slot, Snapshot};
use kairo_slots::booted::Booted;
use kairo_slots::loader::{Disk, Source, decide};
use kairo_slots::plan::Plan;
use kairo_slots::record::{
    Canary, LOADER_VERSION, ManifestHash, Nonce, Record, Release, SEQUENCE_MAX, Seal,
};
use kairo_slots::sector::Sector;
use kairo_slots::state::{Cause, Insist, Refusal, Role, State, factory_area};

const OLD: Release = Release {
    manifest: ManifestHash([1; 32]),
    number: 1,
    floor: 1,
};
const NEW: Release = Release {
    manifest: ManifestHash([2; 32]),
    number: 2,
    floor: 1,
};
const STRICT: Release = Release {
    manifest: ManifestHash([3; 32]),
    number: 3,
    floor: 3,
};

/// A machine: its area and how it was started last.
struct Machine {
    area: Snapshot,
    booted: Booted,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self {
            area: factory_area(OLD),
            booted: Booted {
                slot: Slot::A,
                attempt: 0,
                sequence: 0,
                source: Source::Blind,
            },
        };
        machine.boot();
        machine
    }

    fn boot(&mut self) -> &mut Self {
        let decision = decide(&self.area, Disk::Writable);
        for (place, sector) in &decision.writes {
            self.area.put(*place, *sector);
        }
        self.booted = Booted {
            slot: decision.slot,
            attempt: decision.attempt,
            sequence: decision.sequence,
            source: decision.source,
        };
        self
    }

    fn state(&self) -> State {
        State::open(self.area.clone(), self.booted)
    }

    fn perform(&mut self, plan: Result<Plan, Refusal>) -> Vec<Place> {
        let plan = plan.expect("it is allowed");
        for write in plan.writes() {
            self.area.put(write.place, write.sector);
        }
        plan.writes().iter().map(|write| write.place).collect()
    }

    fn install(&mut self, release: Release, nonce: u8) -> Result<(), Refusal> {
        let (plan, _) = self.state().begin_install(release, Insist::No)?;
        self.perform(Ok(plan));
        let (again, writing) = self.state().begin_install(release, Insist::No)?;
        assert_eq!(
            again,
            Plan::default(),
            "beginning twice writes nothing more"
        );
        let staged = writing.staged(release.manifest)?;
        self.perform(self.state().activate(&staged, Nonce([nonce; 8])));
        Ok(())
    }

    fn update(&mut self, release: Release, nonce: u8) {
        self.install(release, nonce).expect("it is allowed");
        self.boot();
        self.perform(self.state().commit());
        self.boot();
    }
}

#[test]
fn an_update_writes_these_sectors_in_this_order() {
    let mut machine = Machine::new();
    assert_eq!(machine.state().role(), Role::Committed);
    let (plan, writing) = machine.state().begin_install(NEW, Insist::No).unwrap();
    assert_eq!(writing.slot(), Slot::B);
    assert_eq!(machine.perform(Ok(plan)), [Place::SealB]);
    assert_eq!(*machine.area.at(Place::SealB), Sector::VOID);
    let staged = writing.staged(NEW.manifest).unwrap();
    let plan = machine.state().activate(&staged, Nonce([9; 8]));
    assert_eq!(machine.perform(plan), [Place::Record0]);
    assert_eq!(machine.state().role(), Role::TrialPending);
    assert_eq!(machine.state().next_boot().slot, Slot::B);
    machine.boot();
    assert_eq!(machine.state().role(), Role::Probation { attempt: 1 });
    assert_eq!(machine.state().gates_failed(), Ok(2));
    let plan = machine.state().commit();
    assert_eq!(
        machine.perform(plan),
        [Place::SealB, Place::Record1, Place::Record0]
    );
    assert_eq!(machine.state().role(), Role::Committed);
    assert!(machine.state().is_settled());
    assert_eq!(
        machine.state().seal(Slot::B).unwrap().release.manifest,
        NEW.manifest
    );
    assert_eq!(machine.boot().booted.slot, Slot::B);
}

#[test]
fn three_attempts_then_quarantine_until_somebody_insists() {
    let mut machine = Machine::new();
    machine.install(NEW, 9).unwrap();
    for attempt in 1..=3 {
        machine.boot();
        assert_eq!(machine.state().role(), Role::Probation { attempt });
    }
    machine.boot();
    assert_eq!(
        machine.state().role(),
        Role::RolledBack(Cause::NeverConfirmed)
    );
    let plan = machine.state().settle_rollback();
    assert_eq!(machine.perform(plan), [Place::Record1, Place::Record0]);
    assert_eq!(machine.state().role(), Role::Committed);
    let refused = Refusal::Quarantined {
        manifest: NEW.manifest,
    };
    assert_eq!(machine.install(NEW, 10), Err(refused));
    let (_, writing) = machine.state().begin_install(NEW, Insist::Yes).unwrap();
    let staged = writing.staged(NEW.manifest).unwrap();
    let used = machine.state().activate(&staged, Nonce([9; 8]));
    assert_eq!(
        used,
        Err(Refusal::NonceUsed {
            nonce: Nonce([9; 8])
        })
    );
    machine.perform(machine.state().activate(&staged, Nonce([10; 8])));
    machine.boot();
    machine.perform(machine.state().commit());
    let record = machine.state().record().unwrap();
    assert!(
        !record.quarantine.holds(NEW.manifest),
        "it has proven itself"
    );
}

#[test]
fn causes_are_told_apart() {
    let mut machine = Machine::new();
    machine.install(NEW, 9).unwrap();
    machine.boot();
    // The script used up an attempt, found no kernel in b and started a.
    machine.booted.slot = Slot::A;
    assert_eq!(
        machine.state().role(),
        Role::RolledBack(Cause::KernelUnloadable)
    );
    // A disk that takes no token.
    let mut machine = Machine::new();
    machine.install(NEW, 9).unwrap();
    let decision = decide(&machine.area, Disk::ReadOnly);
    assert_eq!((decision.slot, decision.attempt), (Slot::A, 0));
    assert_eq!(decision.writes, []);
    machine.booted.sequence = decision.sequence;
    assert_eq!(
        machine.state().role(),
        Role::RolledBack(Cause::TokensUnwritable)
    );
    machine.perform(machine.state().settle_rollback());
    assert!(
        !machine
            .state()
            .record()
            .unwrap()
            .quarantine
            .holds(NEW.manifest)
    );
}

#[test]
fn a_pending_trial_is_cancelled_and_leaves_nothing() {
    let mut machine = Machine::new();
    machine.install(NEW, 9).unwrap();
    machine.perform(machine.state().cancel());
    assert_eq!(machine.state().role(), Role::Committed);
    assert_eq!(machine.boot().booted.slot, Slot::A);
    let error = machine.state().cancel().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot cancel a trial: this system is committed"
    );
}

#[test]
fn going_back_by_hand_is_a_trial_and_respects_the_floor() {
    let mut machine = Machine::new();
    machine.update(NEW, 9);
    let plan = machine
        .state()
        .roll_back_by_hand(Nonce([10; 8]), Insist::No);
    machine.perform(plan);
    assert_eq!(machine.boot().booted.slot, Slot::A);
    assert_eq!(machine.state().role(), Role::Probation { attempt: 1 });
    machine.perform(machine.state().commit());
    machine.boot();
    let newest = Slot::BOTH.map(|slot| machine.state().seal(slot).unwrap().sequence);
    assert!(
        newest[0] > newest[1],
        "the seals know which was committed last"
    );
    // A release that closes the way back.
    machine.update(STRICT, 11);
    let error = machine
        .state()
        .roll_back_by_hand(Nonce([12; 8]), Insist::Yes)
        .unwrap_err();
    assert_eq!(
        error,
        Refusal::BelowFloor {
            number: 1,
            floor: 3
        }
    );
    assert_eq!(
        machine.install(NEW, 12),
        Err(Refusal::BelowFloor {
            number: 2,
            floor: 3
        })
    );
    // Damage to both records does not lower it.
    machine.area.put(Place::Record0, Sector::VOID);
    machine.area.put(Place::Record1, Sector::VOID);
    machine.boot();
    assert_eq!(
        (machine.booted.slot, machine.booted.source),
        (Slot::B, Source::Seals)
    );
    assert_eq!(machine.state().role(), Role::Recovered);
    machine.perform(machine.state().recover());
    assert_eq!(machine.state().role(), Role::Committed);
    assert_eq!(machine.state().record().unwrap().floor, 3);
}

#[test]
fn nothing_is_installed_unless_the_loader_was_here() {
    let mut machine = Machine::new();
    let other = Canary {
        sequence: machine.booted.sequence,
        loader: LOADER_VERSION + 1,
    };
    for canary in [Sector::VOID, other.to_sector()] {
        machine.area.put(Place::Canary, canary);
        let error = machine.install(NEW, 9).unwrap_err();
        assert!(matches!(error, Refusal::LoaderUnseen { .. }), "{error}");
    }
    machine.boot();
    machine.install(NEW, 9).unwrap();
}

#[test]
fn what_was_not_read_back_or_has_changed_since_is_not_activated() {
    let machine = Machine::new();
    let (_, writing) = machine.state().begin_install(NEW, Insist::No).unwrap();
    let error = writing.staged(OLD.manifest).unwrap_err();
    assert!(
        matches!(error, Refusal::Contents { slot: Slot::B, .. }),
        "{error}"
    );
    // Still sealed: the plan was not performed.
    let (plan, writing) = machine.state().begin_install(NEW, Insist::No).unwrap();
    let staged = writing.staged(NEW.manifest).unwrap();
    let outdated = Err(Refusal::Outdated { slot: Slot::B });
    assert_eq!(machine.state().activate(&staged, Nonce([9; 8])), outdated);
    // The record has changed meanwhile.
    let mut machine = machine;
    machine.perform(Ok(plan));
    machine.perform(machine.state().ask_for_wipe());
    assert_eq!(machine.state().activate(&staged, Nonce([9; 8])), outdated);
}

#[test]
fn an_install_settles_the_records_first() {
    let mut machine = Machine::new();
    machine.area.put(Place::Record0, Sector::VOID);
    machine.boot();
    let (plan, _) = machine.state().begin_install(NEW, Insist::No).unwrap();
    assert_eq!(machine.perform(Ok(plan)), [Place::Record0, Place::SealB]);
    assert!(machine.state().is_settled());
    assert_eq!(machine.state().settle(), Ok(Plan::default()));
    machine.area.put(Place::SealA, Sector::VOID);
    let error = machine.state().begin_install(NEW, Insist::No).unwrap_err();
    assert_eq!(error, Refusal::Unsealed { slot: Slot::A });
    machine.perform(machine.state().seal_again(OLD));
    assert!(machine.state().begin_install(NEW, Insist::No).is_ok());
}

#[test]
fn a_wipe_is_asked_for_and_done_once() {
    let mut machine = Machine::new();
    machine.perform(machine.state().ask_for_wipe());
    machine.boot();
    assert!(machine.state().record().unwrap().wipe);
    machine.perform(machine.state().wiped());
    assert!(!machine.boot().state().record().unwrap().wipe);
}

#[test]
fn a_fallback_is_adopted() {
    let mut machine = Machine::new();
    machine.update(NEW, 9);
    // The kernel of b did not load, and a's did.
    machine.booted.slot = Slot::A;
    assert_eq!(machine.state().role(), Role::Fallback);
    let error = machine.state().begin_install(NEW, Insist::No).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("although the other slot is active"),
        "{error}"
    );
    machine.perform(machine.state().adopt(Insist::No));
    assert_eq!(machine.state().role(), Role::Committed);
    assert_eq!(machine.boot().booted.slot, Slot::A);
}

#[test]
fn a_changed_area_is_noticed_and_a_trial_in_it_is_not_kept() {
    let mut machine = Machine::new();
    machine.install(NEW, 9).unwrap();
    machine.boot();
    // The record of the trial is gone; the older one knows nothing of it.
    machine.area.put(Place::Record0, Sector::VOID);
    assert_eq!(machine.state().role(), Role::Inconsistent);
    assert!(machine.state().recover().is_err());
    assert!(machine.state().commit().is_err());
    assert_eq!(machine.boot().booted.slot, Slot::A);
    assert_eq!(machine.state().role(), Role::Committed);
}

#[test]
fn numbers_that_run_out_are_begun_anew() {
    let mut machine = Machine::new();
    machine.update(NEW, 9);
    let mut record = machine.state().record().unwrap();
    record.sequence = SEQUENCE_MAX - 3;
    machine.area.put(Place::Record1, record.to_sector());
    machine.boot();
    let error = machine.state().ask_for_wipe().unwrap_err();
    assert!(
        matches!(error, Refusal::SequenceExhausted { .. }),
        "{error}"
    );
    let plan = machine.state().renumber().unwrap();
    // Cut off after any write, it boots the same slot, and so does either record alone.
    for count in 0..=plan.writes().len() {
        let mut area = machine.area.clone();
        for write in &plan.writes()[..count] {
            area.put(write.place, write.sector);
        }
        assert_eq!(decide(&area, Disk::Writable).slot, Slot::B);
        area.put(Place::Record0, Sector::VOID);
        area.put(Place::Record1, Sector::VOID);
        assert_eq!(
            decide(&area, Disk::Writable).slot,
            Slot::B,
            "by the seals, after {count}"
        );
    }
    machine.perform(Ok(plan));
    machine.boot();
    assert_eq!(machine.booted.sequence, 4);
    assert_eq!(machine.state().role(), Role::Committed);
    machine.update(STRICT, 10);
}

#[test]
fn a_foreign_record_is_not_trusted_and_can_be_replaced() {
    let mut machine = Machine::new();
    let foreign = Seal {
        sequence: 1,
        release: OLD,
    };
    machine.area.put(Place::Record1, foreign.to_sector());
    machine.boot();
    assert_eq!(machine.state().role(), Role::Inconsistent);
    let plan = machine.state().recover();
    assert_eq!(machine.perform(plan), [Place::Record1, Place::Record0]);
    assert_eq!(machine.state().role(), Role::Committed);
    assert_eq!(
        Record::from_sector(machine.area.at(Place::Record0))
            .unwrap()
            .sequence,
        4
    );
}
