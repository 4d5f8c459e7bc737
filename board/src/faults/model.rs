//! The fault model of updates at full size: `cargo xtask faults model`.

use kairo_slots::faults::walk::{Walked, walk};
use kairo_slots::faults::{Budget, Explored, Flush, Mutant, Rules, explore};
use serde_json::{Value, json};

use crate::bench::{Bound, Mark, Report, Run};
use crate::paths::Paths;

/// States that must be explored altogether.
const STATES_MIN: f64 = 1_000_000.0;

/// Where an exploration stops that should have ended long before.
const STATES_MAX: usize = 20_000_000;

/// One exploration: what it is called, and what happens in it.
struct World {
    name: &'static str,
    budget: Budget,
    flush: Flush,
}

const fn budget(installs: u8, cuts: u8, rots: u8, by_hand: u8, wipes: u8) -> Budget {
    Budget {
        installs,
        cuts,
        rots,
        by_hand,
        wipes,
    }
}

/// Small worlds, each explored to its end. One more cut or install makes any of them ten times as
/// large, so each has one thing more of.
const WORLDS: [World; 5] = [
    World {
        name: "two cuts and a bad sector in one update",
        budget: budget(1, 2, 1, 0, 0),
        flush: Flush::Honest,
    },
    World {
        name: "a cut, an update, a rollback by hand and a reset",
        budget: budget(1, 1, 0, 1, 1),
        flush: Flush::Honest,
    },
    World {
        name: "a cut in two updates",
        budget: budget(2, 1, 0, 0, 0),
        flush: Flush::Honest,
    },
    World {
        name: "three cuts in one update",
        budget: budget(1, 3, 0, 0, 0),
        flush: Flush::Honest,
    },
    World {
        name: "a disk that loses its last six writes, in two updates",
        budget: budget(2, 1, 0, 0, 0),
        flush: Flush::KeepsBack(6),
    },
];

/// What random walks have: always some of everything.
const WALKING: Budget = budget(9, 9, 9, 9, 9);
/// Walks, and steps in each.
const WALKS: u64 = 64;
const WALK_STEPS: u64 = 5_000;

/// Explores, walks, and breaks the design on purpose.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    let run = Run::begin("model", paths, "none");
    let mut marks = Vec::new();
    let mut raw = Vec::new();
    let mut states = 0.0;
    for world in &WORLDS {
        eprintln!("exploring: {}", world.name);
        let found = explore(rules(world.budget, world.flush, None));
        states += found.states as f64;
        if let Some(violation) = &found.violation {
            eprintln!("{violation}");
        }
        let holds = found.violation.is_none() && found.is_complete;
        marks.push(truth(
            world.name,
            holds,
            "explored to the end, nothing found",
        ));
        raw.push(exploration(world.name, &found));
    }
    marks.insert(
        0,
        Mark::new(
            "states explored",
            states,
            "states",
            None,
            Bound::AtLeast(STATES_MIN),
        ),
    );
    let (walked, broken) = walks();
    marks.push(Mark::new(
        "random walks that broke something",
        broken,
        "walks",
        None,
        Bound::AtMost(0.0),
    ));
    let found = Mutant::ALL
        .into_iter()
        .filter(|mutant| is_found(*mutant))
        .count();
    let all = Mutant::ALL.len() as f64;
    let name = "broken designs that were found";
    marks.push(Mark::new(
        name,
        found as f64,
        "designs",
        None,
        Bound::AtLeast(all),
    ));
    let raw = json!({ "explorations": raw, "walks": walked, "mutants": Mutant::ALL.len() });
    Ok(run.end(marks, raw))
}

fn rules(budget: Budget, flush: Flush, mutant: Option<Mutant>) -> Rules {
    Rules {
        budget,
        flush,
        mutant,
        states_max: STATES_MAX,
    }
}

fn truth(name: &str, holds: bool, unit: &str) -> Mark {
    Mark::new(
        name,
        f64::from(u8::from(holds)),
        unit,
        None,
        Bound::AtLeast(1.0),
    )
}

fn exploration(name: &str, found: &Explored) -> Value {
    json!({
        "world": name,
        "states": found.states,
        "transitions": found.transitions,
        "cuts": found.cuts,
        "reorderings": found.outcomes,
        "disks_booted": found.disks,
        "boots": found.boots,
        "depth": found.depth,
        "complete": found.is_complete,
        "violation": found.violation.as_ref().map(ToString::to_string),
    })
}

fn walks() -> (Value, f64) {
    let mut sum = Walked::default();
    let mut broken = 0.0;
    for seed in 0..WALKS {
        match walk(rules(WALKING, Flush::Honest, None), seed, WALK_STEPS) {
            Ok(walked) => {
                sum.steps += walked.steps;
                sum.cuts += walked.cuts;
                sum.rots += walked.rots;
                sum.installs += walked.installs;
            }
            Err(violation) => {
                eprintln!("seed {seed}: {violation}");
                broken += 1.0;
            }
        }
    }
    let value = json!({
        "seeds": [0, WALKS],
        "steps": sum.steps,
        "cuts": sum.cuts,
        "bad_sectors": sum.rots,
        "installs": sum.installs,
    });
    (value, broken)
}

fn is_found(mutant: Mutant) -> bool {
    let found = explore(rules(mutant.world(), Flush::Honest, Some(mutant)));
    found.violation.is_some()
}
