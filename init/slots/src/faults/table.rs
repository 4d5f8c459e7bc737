//! Every moment of an update against every fault, as a table for people.
//!
//! A cell says which slots can be running once the machine has been left alone after the fault. It
//! is made by running the real code up to the moment, doing the fault, and booting every disk that
//! it can leave.

use std::fmt::Write as _;

use super::check::settles;
use super::disk::{GARBAGE, Id, SECTORS};
use super::steps::{Lab, Next, Step};
use super::world::{Budget, Flush, Job, Phase, ReleaseIndex, Rules, World};
use crate::area::Place;

/// Steps to the next moment, at most; more is a mistake in the way there.
const STEPS_MAX: usize = 100;

const GOOD: ReleaseIndex = 1;
const CRASHES: ReleaseIndex = 2;

/// A moment of an update of slot b, on a machine that ran from slot a.
struct Moment {
    name: &'static str,
    world: World,
}

/// What goes wrong.
struct Fault {
    name: &'static str,
    sectors: &'static [usize],
}

const fn at(place: Place) -> usize {
    place as usize
}

/// The faults, beside a power cut.
const FAULTS: [Fault; 8] = [
    Fault {
        name: "R0 bad",
        sectors: &[at(Place::Record0)],
    },
    Fault {
        name: "R1 bad",
        sectors: &[at(Place::Record1)],
    },
    Fault {
        name: "both bad",
        sectors: &[at(Place::Record0), at(Place::Record1)],
    },
    Fault {
        name: "seals bad",
        sectors: &[at(Place::SealA), at(Place::SealB)],
    },
    Fault {
        name: "tokens bad",
        sectors: &[
            at(Place::Attempt1),
            at(Place::Attempt2),
            at(Place::Attempt3),
        ],
    },
    Fault {
        name: "area bad",
        sectors: &[0, 1, 2, 3, 4, 5, 6, 7],
    },
    Fault {
        name: "kernel a bad",
        sectors: &[Place::ALL.len()],
    },
    Fault {
        name: "kernel b bad",
        sectors: &[Place::ALL.len() + 2],
    },
];

/// The table, in Markdown.
#[must_use]
pub fn table() -> String {
    let rules = Rules {
        budget: Budget {
            installs: 1,
            cuts: 1,
            rots: 0,
            by_hand: 0,
            wipes: 0,
        },
        flush: Flush::Honest,
        mutant: None,
        states_max: 0,
    };
    let mut lab = Lab::new(rules);
    let mut moments = update(&mut lab, rules.budget, GOOD);
    moments.extend(failed_update(&mut lab, rules.budget));
    let mut text = "| when | power cut |".to_owned();
    let mut line = "|---|---|".to_owned();
    for fault in &FAULTS {
        let _ = write!(text, " {} |", fault.name);
        line.push_str("---|");
    }
    let _ = writeln!(text, "\n{line}");
    for moment in &moments {
        let disks = moment.world.disk.cuts(&mut lab.library);
        let _ = write!(text, "| {} | {} |", moment.name, ends(&mut lab, &disks));
        for fault in &FAULTS {
            let mut view = moment.world.disk.view();
            for index in fault.sectors {
                view[*index] = GARBAGE;
            }
            let _ = write!(text, " {} |", ends(&mut lab, &[view]));
        }
        text.push('\n');
    }
    text
}

/// Where the machine can be afterwards.
fn ends(lab: &mut Lab, disks: &[[Id; SECTORS]]) -> String {
    let mut slots: Vec<&str> = disks
        .iter()
        .map(|disk| settles(&mut lab.library, disk).map_or("**none**", |end| end.slot.letter()))
        .collect();
    slots.sort_unstable();
    slots.dedup();
    slots.join(", ")
}

fn update(lab: &mut Lab, budget: Budget, release: ReleaseIndex) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut mark = |name, world: &World| {
        moments.push(Moment {
            name,
            world: *world,
        });
    };
    let first = World::new(&mut lab.library, budget);
    let mut world = until(lab, first, |world| job(world) == Some(Job::Idle));
    mark("committed", &world);
    world = begin(lab, &world, "install", release);
    world = until(lab, world, |world| matches!(job(world), Some(Job::Sync(_))));
    mark("writing slot b", &world);
    world = until(lab, world, |world| {
        matches!(job(world), Some(Job::Staged(_)))
    });
    mark("staged", &world);
    world = begin(lab, &world, "activate", release);
    world = forward(lab, &world);
    mark("activating", &world);
    world = until(lab, world, |world| job(world) == Some(Job::Idle));
    mark("trial pending", &world);
    world = step(lab, &world, |step| *step == Step::Resets);
    world = step(lab, &world, |step| *step == Step::Decides);
    world = forward(lab, &world);
    mark("attempt 1 used", &world);
    world = until(lab, world, |world| job(world) == Some(Job::Idle));
    mark("probation", &world);
    world = begin(lab, &world, "commit", 0);
    for (name, steps) in [("sealing", 1), ("first record", 2), ("second record", 2)] {
        for _ in 0..steps {
            world = forward(lab, &world);
        }
        mark(name, &world);
    }
    world = until(lab, world, |world| job(world) == Some(Job::Idle));
    mark("committed again", &world);
    moments
}

fn failed_update(lab: &mut Lab, budget: Budget) -> Vec<Moment> {
    let first = World::new(&mut lab.library, budget);
    let mut world = until(lab, first, |world| job(world) == Some(Job::Idle));
    world = begin(lab, &world, "install", CRASHES);
    world = until(lab, world, |world| {
        matches!(job(world), Some(Job::Staged(_)))
    });
    world = begin(lab, &world, "activate", CRASHES);
    world = until(lab, world, |world| job(world) == Some(Job::Idle));
    world = step(lab, &world, |step| *step == Step::Resets);
    world = until(lab, world, |world| job(world) == Some(Job::Idle));
    let rolled_back = Moment {
        name: "rolled back",
        world,
    };
    world = begin(lab, &world, "settle a rollback", 0);
    world = forward(lab, &world);
    let settling = Moment {
        name: "settling the rollback",
        world,
    };
    vec![rolled_back, settling]
}

fn job(world: &World) -> Option<Job> {
    match world.phase {
        Phase::Running { job, .. } => Some(job),
        Phase::Off | Phase::Loader { .. } => None,
    }
}

/// The one thing that goes on by itself.
fn forward(lab: &mut Lab, world: &World) -> World {
    step(lab, world, |step| {
        !matches!(
            step,
            Step::Cut | Step::Rots(_) | Step::Resets | Step::Begins(..)
        )
    })
}

fn until(lab: &mut Lab, mut world: World, is_there: impl Fn(&World) -> bool) -> World {
    for _ in 0..STEPS_MAX {
        if is_there(&world) {
            return world;
        }
        world = forward(lab, &world);
    }
    panic!("never there: {world:?}");
}

fn begin(lab: &mut Lab, world: &World, what: &str, release: ReleaseIndex) -> World {
    step(lab, world, |step| match step {
        Step::Begins(name, index) => *name == what && (release == 0 || *index == release),
        _ => false,
    })
}

fn step(lab: &mut Lab, world: &World, is_it: impl Fn(&Step) -> bool) -> World {
    let mut list: Vec<Next> = Vec::new();
    lab.next(world, &mut list);
    let found = list.into_iter().find(|(step, _)| is_it(step));
    let Some((_, Ok(next))) = found else {
        panic!("it cannot go on as the table has it: {world:?}");
    };
    next
}
