//! Every state, once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::check::{End, Property, Violation, settles};
use super::disk::{Id, SECTORS};
use super::steps::{Lab, Next, Step};
use super::world::{Phase, Rules, World};

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: u64,
    /// Ways from one to another.
    pub transitions: u64,
    /// States in which the power was cut.
    pub cuts: u64,
    /// Disks that those cuts left, each a subset of the unflushed writes, torn or whole.
    pub outcomes: u64,
    /// Boots, from a disk that was left alone to a system that is up.
    pub boots: u64,
    /// Different disks that were booted so.
    pub disks: u64,
    /// The longest way from the factory.
    pub depth: u32,
    /// Whether every state there is was reached.
    pub is_complete: bool,
    /// The first thing that did not hold, by the shortest way to it.
    pub violation: Option<Violation>,
}

/// Where a state was reached from.
#[derive(Clone, Copy, Debug)]
struct Trace {
    parent: u32,
    step: Step,
}

/// Walks through all states that `rules` allow, the nearest first.
#[must_use]
pub fn explore(rules: Rules) -> Explored {
    let mut search = Search {
        lab: Lab::new(rules),
        seen: HashSet::default(),
        traces: Vec::new(),
        queue: VecDeque::new(),
        settled: HashMap::default(),
        found: Explored {
            states: 0,
            transitions: 0,
            cuts: 0,
            outcomes: 0,
            boots: 0,
            disks: 0,
            depth: 0,
            is_complete: false,
            violation: None,
        },
    };
    let first = World::new(&mut search.lab.library, rules.budget);
    let start = Trace {
        parent: u32::MAX,
        step: Step::Resets,
    };
    search.arrive(first, start, 0);
    let mut list = Vec::new();
    while let Some((number, depth, world)) = search.queue.pop_front() {
        list.clear();
        search.lab.next(&world, &mut list);
        search.follow(number, depth, &mut list);
        if search.found.violation.is_some() || search.found.states >= rules.states_max as u64 {
            return search.found;
        }
    }
    search.found.is_complete = true;
    search.found
}

struct Search {
    lab: Lab,
    /// By a hash of 64 bits: among ten million states, two share one with a chance of 1 to 400 000,
    /// and then one of the two is not looked at.
    seen: HashSet<u64, BuildHasherDefault<Mixer>>,
    traces: Vec<Trace>,
    queue: VecDeque<(u32, u32, World)>,
    settled: HashMap<[Id; SECTORS], Result<End, String>, BuildHasherDefault<Mixer>>,
    found: Explored,
}

impl Search {
    fn follow(&mut self, number: u32, depth: u32, list: &mut Vec<Next>) {
        let cuts = list.iter().filter(|(step, _)| *step == Step::Cut).count();
        self.found.cuts += u64::from(cuts > 0);
        self.found.outcomes += cuts as u64;
        for (step, outcome) in list.drain(..) {
            self.found.transitions += 1;
            let trace = Trace {
                parent: number,
                step,
            };
            match outcome {
                Ok(world) => self.arrive(world, trace, depth + 1),
                Err((property, detail)) => self.violate(property, detail, trace),
            }
            if self.found.violation.is_some() {
                return;
            }
        }
    }

    fn arrive(&mut self, world: World, trace: Trace, depth: u32) {
        let mut hasher = Mixer::default();
        world.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return;
        }
        let number = self.traces.len() as u32;
        self.traces.push(trace);
        self.found.states += 1;
        self.found.depth = self.found.depth.max(depth);
        if world.phase == Phase::Off
            && let Err(detail) = self.settle(&world)
        {
            self.violate(Property::Boots, detail, trace);
            return;
        }
        self.queue.push_back((number, depth, world));
    }

    fn settle(&mut self, world: &World) -> Result<End, String> {
        let view = world.disk.view();
        if let Some(known) = self.settled.get(&view) {
            return known.clone();
        }
        let end = settles(&mut self.lab.library, &view);
        self.found.disks += 1;
        self.found.boots += end.as_ref().map_or(0, |end| end.boots as u64);
        self.settled.insert(view, end.clone());
        end
    }

    fn violate(&mut self, property: Property, detail: String, last: Trace) {
        let mut steps = vec![last.step.to_string()];
        let mut at = last.parent;
        while let Some(trace) = self.traces.get(at as usize) {
            steps.push(trace.step.to_string());
            at = trace.parent;
        }
        // The first state was reached from nowhere.
        steps.pop();
        steps.reverse();
        self.found.violation = Some(Violation {
            property,
            detail,
            steps,
        });
    }
}

/// A fast hash that mixes every word well: multiplication and rotation, then the finish of
/// SplitMix64. Nothing hostile is hashed here.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
