//! The proof at the size that a test may have, and the design broken on purpose.
//!
//! `cargo xtask faults model` runs the same at full size.

use kairo_slots::faults::walk::walk;
use kairo_slots::faults::{Budget, Explored, Flush, Mutant, Property, Rules, explore};

/// States after which to give up on a world that should have ended long before.
const STATES_MAX: usize = 3_000_000;

fn rules(budget: Budget, flush: Flush, mutant: Option<Mutant>) -> Rules {
    Rules {
        budget,
        flush,
        mutant,
        states_max: STATES_MAX,
    }
}

fn budget(installs: u8, cuts: u8, rots: u8) -> Budget {
    Budget {
        installs,
        cuts,
        rots,
        by_hand: 0,
        wipes: 0,
    }
}

fn holds(budget: Budget, flush: Flush) -> Explored {
    let found = explore(rules(budget, flush, None));
    if let Some(violation) = &found.violation {
        panic!("{budget:?}, {flush:?}: {violation}");
    }
    assert!(found.is_complete, "{budget:?} is too large: {found:?}");
    println!("{budget:?}, {flush:?}: {found:?}");
    found
}

#[test]
fn no_cut_at_any_write_loses_the_machine() {
    let found = holds(budget(1, 2, 0), Flush::Honest);
    assert!(found.outcomes > found.cuts, "nothing was ever reordered");
    holds(budget(2, 1, 0), Flush::Honest);
}

#[test]
fn no_bad_sector_of_the_state_area_loses_the_machine() {
    holds(budget(1, 1, 1), Flush::Honest);
}

#[test]
fn going_back_by_hand_and_wiping_lose_nothing_either() {
    let more = Budget {
        by_hand: 1,
        ..budget(1, 1, 0)
    };
    holds(more, Flush::Honest);
    let wipes = Budget {
        wipes: 1,
        ..budget(1, 1, 0)
    };
    holds(wipes, Flush::Honest);
}

#[test]
fn a_disk_that_lies_is_survived_as_far_as_is_documented() {
    holds(budget(1, 1, 0), Flush::KeepsBack(6));
    for writes in 1..=3 {
        holds(budget(1, 1, 0), Flush::KeepsBackUnordered(writes));
    }
}

#[test]
fn random_walks_with_all_faults_at_once_find_nothing() {
    let all = Budget {
        installs: 9,
        cuts: 9,
        rots: 9,
        by_hand: 9,
        wipes: 9,
    };
    for seed in 0..8 {
        let walked = walk(rules(all, Flush::Honest, None), seed, 5_000);
        let walked = walked.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        println!("seed {seed}: {walked:?}");
        assert!(walked.cuts > 10 && walked.installs > 10, "{walked:?}");
    }
}

/// What each broken design is found by.
fn found_by(mutant: Mutant) -> Property {
    match mutant {
        Mutant::RecordBeforeSeal => Property::ActiveSealed,
        Mutant::OneRecordSector => Property::SlotKept,
        Mutant::NoFlush => Property::SealTrue,
        Mutant::NonceReused | Mutant::TokensCleared => Property::AttemptsGiven,
        Mutant::SealKept => Property::SealTrue,
        Mutant::NotSettled | Mutant::WrongSlot => Property::SlotKept,
        Mutant::NoToken => Property::AttemptsBounded,
        Mutant::NoQuarantine => Property::QuarantineKept,
        Mutant::FloorLowered => Property::FloorKept,
        Mutant::NotReadBack => Property::ReadBack,
    }
}

#[test]
fn every_broken_design_is_found() {
    for mutant in Mutant::ALL {
        let found = explore(rules(mutant.world(), Flush::Honest, Some(mutant)));
        let violation = found
            .violation
            .unwrap_or_else(|| panic!("{mutant:?} was not found"));
        println!("{mutant:?} after {} states: {violation}", found.states);
        assert_eq!(
            violation.property,
            found_by(mutant),
            "{mutant:?}: {violation}"
        );
    }
}
