//! A signal that may only change so fast.
//!
//! rt-safe. `out` moves towards `in` by at most `rate_max * period` a period, and begins at the
//! first `in` after a command is followed.

use super::arithmetic::positive_rate;
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

struct RateLimit {
    step_max: f64,
    value: Option<f64>,
}

impl Block for RateLimit {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let before = self.value.unwrap_or(inputs[0]);
        let value = before + (inputs[0] - before).clamp(-self.step_max, self.step_max);
        self.value = Some(value);
        outputs[0] = value;
        Ok(())
    }

    fn engage(&mut self) {
        self.value = None;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.maybe(&mut self.value, Memory::number);
    }
}

/// `rate-limit`.
pub fn design(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let rate_max = positive_rate(settings, "rate_max", unit.rate())?;
    let step_max = rate_max * settings.period_s();
    let port = |name| vec![Port::new(name, unit)];
    Some(Design::new(port("in"), port("out"), move || RateLimit {
        step_max,
        value: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S};
    use crate::settings::Table;
    use proptest::prelude::*;

    fn limited(rate: f64) -> Bench {
        Bench::new(
            "rate-limit",
            &Table::default()
                .with("unit", "rad")
                .with("rate_max_rad_s", rate),
        )
    }

    #[test]
    fn a_step_becomes_a_ramp_of_the_rate() {
        let mut limit = limited(2.0);
        limit.step(&[0.0]);
        for tick in 1..=10 {
            let out = limit.step(&[1.0])[0];
            assert!((out - 2.0 * PERIOD_S * f64::from(tick)).abs() < 1e-12);
        }
    }

    #[test]
    fn begins_at_its_input_when_a_command_is_followed_after_a_pause() {
        let mut limit = limited(2.0);
        limit.step(&[0.0]);
        limit.engage();
        assert_eq!(limit.step(&[1.0]), [1.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn never_changes_faster_and_arrives_when_it_may(
            rate in 0.01..100.0_f64, values in prop::collection::vec(-5.0..5.0_f64, 2..200),
        ) {
            let mut limit = limited(rate);
            let mut before = limit.step(&values[..1])[0];
            prop_assert_eq!(before, values[0]);
            for value in &values[1..] {
                let out = limit.step(&[*value])[0];
                prop_assert!((out - before).abs() <= rate * PERIOD_S * (1.0 + 1e-9));
                if (value - before).abs() < rate * PERIOD_S {
                    prop_assert!((out - value).abs() < 1e-9);
                }
                before = out;
            }
        }
    }
}
