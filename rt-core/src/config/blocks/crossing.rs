//! Wires between loops: how old their values may be, and which close a circle.
//!
//! setup-only. Two loops have no common rate, so such a wire carries the newest value and nothing
//! waits for it. How old that may be is said by the block that reads it: a source that stops must
//! become a fault there, and only its author knows after how long.

use std::ops::RangeInclusive;

use kairo_blocks::graph::Wire;
use kairo_blocks::settings::Value;

use super::super::diagnostic::Problems;
use super::read::{Placed, Surroundings, place_of};
use super::{Crossing, LoopBlocks, Read};

/// The key of a block that reads from another loop.
pub(super) const AGE_KEY: &str = "max_age_ms";
/// What it may be: a value older than ten seconds is none.
const AGES_MS: RangeInclusive<u64> = 1..=10_000;

/// How old the values of `source`, which is on loop `from`, may be in `block`.
pub(super) fn age(
    block: &Placed,
    source: &str,
    from: usize,
    around: &Surroundings<'_>,
    problems: &mut Problems<'_>,
) -> Option<u64> {
    let key = format!("block.{AGE_KEY}");
    let span = place_of(&block.table, AGE_KEY);
    let (name, config) = around.loops[from];
    let Some(entry) = block.table.get(AGE_KEY) else {
        let message = format!("is missing: \"{source}\" comes from loop \"{name}\"");
        let fix = format!("add `{AGE_KEY} = 50`: an older value is a fault of this block");
        problems.add(span, key, message, fix);
        return None;
    };
    let whole = match entry.value {
        Value::Number(number) if number.fract() == 0.0 && number >= 0.0 => Some(number as u64),
        _ => None,
    };
    let Some(age_ms) = whole.filter(|age| AGES_MS.contains(age)) else {
        let (least, most) = AGES_MS.into_inner();
        let message = format!("is no whole number from {least} to {most}");
        problems.add(span, key, message, "write milliseconds, such as 50");
        return None;
    };
    // A value is a period old when the next one comes, and that may come late.
    let period_us = config.map_or(0, |config| config.period_us);
    if age_ms * 1000 < 2 * period_us {
        let message =
            format!("{age_ms} ms are less than two periods of loop \"{name}\": 2 * {period_us} us");
        let fix = format!("write {} or more", (2 * period_us).div_ceil(1000));
        problems.add(span, key, message, fix);
        return None;
    }
    Some(age_ms)
}

/// Whether the value of a crossing depends on the block that reads it, by way of other loops: a
/// circle that only the delay of its crossings keeps apart. `control_loop` is the reader's.
pub fn closes_circle(blocks: &[LoopBlocks], control_loop: usize, crossing: &Crossing) -> bool {
    let target = (control_loop, crossing.node);
    let mut seen = Vec::new();
    let mut open = vec![(crossing.from_loop, crossing.from_node)];
    // Ends: each node is looked at once.
    while let Some(place) = open.pop() {
        if place == target {
            return true;
        }
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        let inside = &blocks[place.0];
        for wire in &inside.graph.nodes[place.1].wires {
            match *wire {
                Wire::Output { node, .. } => open.push((place.0, node)),
                Wire::External(number) => {
                    if let Read::Crossing(further) = inside.reads[number] {
                        open.push((further.from_loop, further.from_node));
                    }
                }
                Wire::Constant(_) => {}
            }
        }
    }
    false
}
