//! The same world at random, for far longer than it can be explored.

use super::Property;
use super::check::{Violation, settles};
use super::steps::{Lab, Step};
use super::world::{Phase, Rules, World};

/// What a walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Steps.
    pub steps: u64,
    /// Power cuts among them.
    pub cuts: u64,
    /// Sectors that went bad.
    pub rots: u64,
    /// Installs begun.
    pub installs: u64,
}

/// Goes `steps` steps from the factory; the same seed goes the same way.
///
/// # Errors
/// The first thing that did not hold, with all the steps to it.
pub fn walk(rules: Rules, seed: u64, steps: u64) -> Result<Walked, Violation> {
    let mut lab = Lab::new(rules);
    let mut world = World::new(&mut lab.library, rules.budget);
    let mut random = Random(seed);
    let mut taken: Vec<Step> = Vec::new();
    let mut walked = Walked::default();
    let mut list = Vec::new();
    let violation = |property, detail, taken: &[Step]| Violation {
        property,
        detail,
        steps: taken.iter().map(ToString::to_string).collect(),
    };
    for _ in 0..steps {
        list.clear();
        lab.next(&world, &mut list);
        // What must never happen is a violation whether the walk would have taken it or not.
        if let Some((step, Err((property, detail)))) = list.iter().find(|(_, to)| to.is_err()) {
            taken.push(*step);
            return Err(violation(*property, detail.clone(), &taken));
        }
        let index = choose(&list, &mut random);
        let (step, outcome) = list.swap_remove(index);
        taken.push(step);
        walked.steps += 1;
        walked.cuts += u64::from(step == Step::Cut);
        walked.rots += u64::from(matches!(step, Step::Rots(_)));
        walked.installs += u64::from(matches!(step, Step::Begins("install", _)));
        let Ok(next) = outcome else { break };
        // There is always more of everything.
        world = World {
            budget: rules.budget,
            ..next
        };
        if world.phase == Phase::Off
            && let Err(detail) = settles(&mut lab.library, &world.disk.view())
        {
            return Err(violation(Property::Boots, detail, &taken));
        }
        if world.trials == u8::MAX {
            // No nonce is left.
            break;
        }
    }
    Ok(walked)
}

/// Faults are many and ordinary steps few: without weights nothing would ever get done.
fn choose(list: &[super::steps::Next], random: &mut Random) -> usize {
    let is_fault = |step: &Step| matches!(step, Step::Cut | Step::Rots(_) | Step::Resets);
    let faults = list.iter().filter(|(step, _)| is_fault(step)).count();
    let wants_fault = faults == list.len() || (faults > 0 && random.below(16) == 0);
    let chosen: Vec<usize> = (0..list.len())
        .filter(|index| is_fault(&list[*index].0) == wants_fault)
        .collect();
    chosen[random.below(chosen.len() as u64) as usize]
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
