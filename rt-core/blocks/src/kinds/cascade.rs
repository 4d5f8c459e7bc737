//! Two PID controllers, the outer one commanding the inner: position over speed, say.
//!
//! rt-safe. Two `pid` blocks wired in a row would do, but for one thing: while the inner controller
//! is at its limit, the outer one's integral winds up without anybody telling it. Here the outer
//! integral stands still for as long as the inner output is cut in the direction it pushes to
//! (conditional integration, Åström and Hägglund, "PID Controllers", 1995, section 3.5). Each
//! controller is that of the `pid` block, with keys that begin with `outer_` and `inner_`.

use super::pid::{Controller, Tuning};
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

struct Cascade {
    outer: Controller,
    inner: Controller,
    inner_excess: f64,
}

impl Block for Cascade {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let before = self.outer.integral();
        let wanted = self.outer.step(inputs[0], inputs[1], 0.0);
        let pushes = (self.outer.integral() - before) * self.inner_excess > 0.0;
        if pushes {
            self.outer.set_integral(before);
        }
        let controlled = self.inner.step(wanted.out, inputs[2], inputs[3]);
        self.inner_excess = controlled.excess;
        outputs[0] = controlled.out;
        outputs[1] = wanted.out;
        outputs[2] = f64::from(u8::from(controlled.excess != 0.0));
        Ok(())
    }

    fn engage(&mut self) {
        self.outer.reset();
        self.inner.reset();
        self.inner_excess = 0.0;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        self.outer.memory(memory);
        self.inner.memory(memory);
        memory.number(&mut self.inner_excess);
    }
}

/// `cascade`.
pub fn design(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", None);
    let middle = settings.unit("inner_unit", None);
    let output = settings.unit("output_unit", None);
    let (unit, middle, output) = (unit?, middle?, output?);
    let outer = Tuning::read(settings, "outer_", middle);
    let inner = Tuning::read(settings, "inner_", output);
    let (outer, inner) = (outer?, inner?);
    let inputs = vec![
        Port::new("setpoint", unit),
        Port::new("outer_measured", unit),
        Port::new("inner_measured", middle),
        Port::optional("feedforward", output, 0.0),
    ];
    let outputs = vec![
        Port::new("out", output),
        Port::new("inner_setpoint", middle),
        Port::new("saturated", Unit::FLAG),
    ];
    Some(Design::new(inputs, outputs, move || Cascade {
        outer: Controller::new(outer),
        inner: Controller::new(inner),
        inner_excess: 0.0,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S};
    use crate::settings::Table;

    fn settings() -> Table {
        Table::default()
            .with("unit", "rad")
            .with("inner_unit", "rad/s")
            .with("output_unit", "Nm")
            .with("outer_gain", 6.0)
            .with("outer_integral_time_s", 1.0)
            .with("outer_output_min_rad_s", -5.0)
            .with("outer_output_max_rad_s", 5.0)
            .with("inner_gain", 2.0)
            .with("inner_integral_time_s", 0.3)
            .with("inner_output_min_nm", -0.5)
            .with("inner_output_max_nm", 0.5)
    }

    #[test]
    fn moves_a_mass_against_gravity_to_its_setpoint_without_winding_up() {
        let mut cascade = Bench::new("cascade", &settings());
        let (mut position, mut velocity, mut top) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..5000 {
            let torque = cascade.step(&[1.0, position, velocity, 0.0])[0];
            assert!(torque.abs() <= 0.5);
            // 0.1 kg m², a constant load of 0.1 Nm.
            velocity += (torque - 0.1) / 0.1 * PERIOD_S;
            position += velocity * PERIOD_S;
            top = top.max(position);
        }
        assert!((position - 1.0).abs() < 1e-3, "{position}");
        assert!(velocity.abs() < 1e-3, "{velocity}");
        assert!(top < 1.35, "{top}");
    }

    #[test]
    fn the_outer_integral_stands_still_while_the_inner_is_at_its_limit() {
        // The plant does not move at all, so both controllers push as hard as they may.
        let mut cascade = Bench::new("cascade", &settings().with("outer_setpoint_weight", 0.0));
        let mut middle = [0.0; 2];
        for tick in 0..2000 {
            let outputs = cascade.step(&[0.5, 0.0, 0.0, 0.0]);
            middle[usize::from(tick >= 1000)] = outputs[1];
        }
        assert_eq!(middle[0], middle[1], "the inner setpoint went on growing");
        assert!(
            middle[0] < 4.9,
            "it only stopped at its own limit: {middle:?}"
        );
    }
}
