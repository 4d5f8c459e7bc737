//! Comparison with hysteresis, edges and latches, on signals that are 0 or 1.
//!
//! rt-safe.

use super::{ANY, POSITIVE};
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

/// Whether a flag is set. Anything above one half is.
pub(super) fn is_set(value: f64) -> bool {
    value > 0.5
}

fn flags(names: &[&str]) -> Vec<Port> {
    let ports = names.iter().map(|name| Port::new(*name, Unit::FLAG));
    ports.collect()
}

struct Compare {
    on_above: f64,
    off_below: f64,
    on: bool,
}

impl Block for Compare {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        if !inputs[0].is_finite() {
            return Err(FaultKind::NotFinite { output: 0 });
        }
        self.on = if self.on {
            inputs[0] >= self.off_below
        } else {
            inputs[0] > self.on_above
        };
        outputs[0] = f64::from(u8::from(self.on));
        Ok(())
    }

    fn engage(&mut self) {
        self.on = false;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.flag(&mut self.on);
    }
}

/// `out` becomes 1 above `threshold`, and 0 again below `threshold - hysteresis`.
pub fn compare(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let threshold = settings.quantity("threshold", unit, ANY, None);
    let hysteresis = settings.quantity("hysteresis", unit, 0.0..=*POSITIVE.end(), Some(0.0));
    let (threshold, hysteresis) = (threshold?, hysteresis?);
    Some(Design::new(
        vec![Port::new("in", unit)],
        flags(&["out"]),
        move || Compare {
            on_above: threshold,
            off_below: threshold - hysteresis,
            on: false,
        },
    ))
}

struct Edge {
    before: Option<bool>,
}

impl Block for Edge {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let now = is_set(inputs[0]);
        let rises = now && self.before == Some(false);
        let falls = !now && self.before == Some(true);
        self.before = Some(now);
        outputs[0] = f64::from(u8::from(rises));
        outputs[1] = f64::from(u8::from(falls));
        Ok(())
    }

    fn engage(&mut self) {
        self.before = None;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.maybe(&mut self.before, Memory::flag);
    }
}

/// `rise` and `fall` are 1 for the period in which `in` changed.
pub fn edge(_: &mut Settings<'_>) -> Option<Design> {
    Some(Design::new(
        flags(&["in"]),
        flags(&["rise", "fall"]),
        || Edge { before: None },
    ))
}

struct Latch {
    on: bool,
}

impl Block for Latch {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        self.on = (self.on || is_set(inputs[0])) && !is_set(inputs[1]);
        outputs[0] = f64::from(u8::from(self.on));
        Ok(())
    }

    fn engage(&mut self) {
        self.on = false;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.flag(&mut self.on);
    }
}

/// `out` is 1 from `set` until `reset`; `reset` wins.
pub fn latch(_: &mut Settings<'_>) -> Option<Design> {
    Some(Design::new(
        flags(&["set", "reset"]),
        flags(&["out"]),
        || Latch { on: false },
    ))
}

#[cfg(test)]
mod tests {
    use super::super::harness::Bench;
    use crate::settings::Table;

    #[test]
    fn a_comparison_keeps_its_answer_inside_the_hysteresis() {
        let table = Table::default()
            .with("threshold", 1.0)
            .with("hysteresis", 0.4);
        let mut compare = Bench::new("compare", &table);
        let answers = [0.9, 1.0, 1.1, 0.7, 0.6, 0.59, 0.9].map(|value| compare.step(&[value])[0]);
        assert_eq!(answers, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert!(
            compare.try_step(&[f64::NAN]).is_err(),
            "NaN is neither above nor below"
        );
    }

    #[test]
    fn an_edge_lasts_one_period_and_the_first_value_is_none() {
        let mut edge = Bench::new("edge", &Table::default());
        assert_eq!(edge.step(&[1.0]), [0.0, 0.0]);
        assert_eq!(edge.step(&[0.0]), [0.0, 1.0]);
        assert_eq!(edge.step(&[1.0]), [1.0, 0.0]);
        assert_eq!(edge.step(&[1.0]), [0.0, 0.0]);
    }

    #[test]
    fn a_latch_holds_until_reset_and_reset_wins() {
        let mut latch = Bench::new("latch", &Table::default());
        let steps = [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]];
        assert_eq!(
            steps.map(|inputs| latch.step(&inputs)[0]),
            [0.0, 1.0, 1.0, 0.0, 0.0]
        );
        latch.step(&[1.0, 0.0]);
        latch.engage();
        assert_eq!(latch.step(&[0.0, 0.0]), [0.0]);
    }
}
