//! Jerk-limited motion towards targets: one axis, or several that arrive together.
//!
//! rt-safe. The mathematics is [`crate::profile`]; a block plans anew when a target changes and
//! otherwise only looks up where the plan is. Planning is bounded, so a target that changes every
//! period costs that bound every period. A plan begins where the last one left the axes, so nothing
//! jumps; when a command is followed after a pause, axes begin at rest where `start` is.

use super::POSITIVE;
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::profile::{AxisLimits, AxisState, Plan};
use crate::settings::Settings;
use crate::unit::Unit;

/// Axes of one trajectory: joints of a device.
const AXES_MAX: usize = 8;

struct Trajectory {
    limits: [AxisLimits; AXES_MAX],
    axes: usize,
    period_s: f64,
    /// Outputs of an axis: position and velocity; for one axis also acceleration.
    outputs_per_axis: usize,
    plan: Option<(Plan<AXES_MAX>, [f64; AXES_MAX])>,
    /// Periods since the plan began. Times are products, so nothing drifts.
    periods: u64,
}

impl Trajectory {
    fn state(&self, axis: usize, start: f64) -> AxisState {
        match &self.plan {
            Some((plan, _)) => plan.at(axis, self.periods as f64 * self.period_s),
            None => AxisState::at_rest(start),
        }
    }
}

impl Block for Trajectory {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let (targets, starts) = inputs.split_at(self.axes);
        if let Some(axis) = inputs.iter().position(|value| !value.is_finite()) {
            let output = (axis % self.axes * self.outputs_per_axis) as u32;
            return Err(FaultKind::NotFinite { output });
        }
        let planned = self.plan.as_ref().map(|(_, targets)| targets);
        if planned.is_none_or(|planned| planned[..self.axes] != *targets) {
            let mut states = [AxisState::default(); AXES_MAX];
            for (axis, state) in states.iter_mut().enumerate().take(self.axes) {
                *state = self.state(axis, starts[axis]);
            }
            let plan = Plan::new(&states[..self.axes], targets, &self.limits);
            let mut kept = [0.0; AXES_MAX];
            kept[..self.axes].copy_from_slice(targets);
            self.plan = Some((plan, kept));
            self.periods = 0;
        }
        self.periods += 1;
        let mut moving = false;
        for axis in 0..self.axes {
            let state = self.state(axis, starts[axis]);
            let first = axis * self.outputs_per_axis;
            outputs[first] = state.position;
            outputs[first + 1] = state.velocity;
            if self.outputs_per_axis == 3 {
                outputs[first + 2] = state.acceleration;
            }
            moving |= state != AxisState::at_rest(targets[axis]);
        }
        outputs[self.axes * self.outputs_per_axis] = f64::from(u8::from(moving));
        Ok(())
    }

    fn engage(&mut self) {
        self.plan = None;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        let mut is_planned = self.plan.is_some();
        memory.flag(&mut is_planned);
        let blank = || (Plan::blank(self.axes), [0.0; AXES_MAX]);
        let (mut plan, mut targets) = self.plan.take().unwrap_or_else(blank);
        plan.memory(self.axes, memory);
        memory.numbers(&mut targets[..self.axes]);
        memory.word(&mut self.periods);
        self.plan = is_planned.then_some((plan, targets));
    }
}

/// Speed, acceleration and jerk: one number for all axes, or a list.
fn limits(settings: &mut Settings<'_>, unit: Unit, axes: usize) -> Option<[AxisLimits; AXES_MAX]> {
    let mut read = |base: &str, unit: Unit| {
        let key = format!("{base}{}", unit.suffix());
        settings.numbers(&key, axes, POSITIVE, None)
    };
    let velocity = read("velocity_max", unit.rate());
    let acceleration = read("acceleration_max", unit.rate().rate());
    let jerk = read("jerk_max", unit.rate().rate().rate());
    let (velocity, acceleration, jerk) = (velocity?, acceleration?, jerk?);
    let mut limits = [AxisLimits {
        velocity_max: 1.0,
        acceleration_max: 1.0,
        jerk_max: 1.0,
    }; AXES_MAX];
    for axis in 0..axes {
        limits[axis] = AxisLimits {
            velocity_max: velocity[axis],
            acceleration_max: acceleration[axis],
            jerk_max: jerk[axis],
        };
    }
    Some(limits)
}

fn unit_of_position(settings: &mut Settings<'_>) -> Option<Unit> {
    let unit = settings.unit("unit", Some(Unit::RAD))?;
    if unit.per_second > 0 {
        let message = format!("\"{unit}\" has no jerk with a name");
        settings.complain("unit", message, "write a position's unit, such as \"rad\"");
        return None;
    }
    Some(unit)
}

fn blank(
    limits: [AxisLimits; AXES_MAX],
    axes: usize,
    period_s: f64,
    per_axis: usize,
) -> Trajectory {
    Trajectory {
        limits,
        axes,
        period_s,
        outputs_per_axis: per_axis,
        plan: None,
        periods: 0,
    }
}

/// `jerk-limit`: one axis.
pub fn jerk_limit(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = unit_of_position(settings)?;
    let limits = limits(settings, unit, 1)?;
    let period_s = settings.period_s();
    let inputs = vec![Port::new("in", unit), Port::new("start", unit)];
    let outputs = vec![
        Port::new("out", unit),
        Port::new("velocity", unit.rate()),
        Port::new("acceleration", unit.rate().rate()),
        Port::new("moving", Unit::FLAG),
    ];
    Some(Design::new(inputs, outputs, move || {
        blank(limits, 1, period_s, 3)
    }))
}

/// `trajectory`: several axes that arrive together.
pub fn trajectory(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = unit_of_position(settings)?;
    let axes = settings.count("axes", 1..=AXES_MAX, None)?;
    let limits = limits(settings, unit, axes)?;
    let period_s = settings.period_s();
    let numbered = |name: &str| {
        let ports = (1..=axes).map(|axis| Port::new(format!("{name}_{axis}"), unit));
        ports.collect::<Vec<_>>()
    };
    let mut inputs = numbered("target");
    inputs.extend(numbered("start"));
    let mut outputs = Vec::new();
    for axis in 1..=axes {
        outputs.push(Port::new(format!("position_{axis}"), unit));
        outputs.push(Port::new(format!("velocity_{axis}"), unit.rate()));
    }
    outputs.push(Port::new("moving", Unit::FLAG));
    Some(Design::new(inputs, outputs, move || {
        blank(limits, axes, period_s, 2)
    }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S};
    use crate::settings::Table;
    use proptest::prelude::*;

    fn settings(axes: usize) -> Table {
        let table = Table::default()
            .with("velocity_max_rad_s", 2.0)
            .with("acceleration_max_rad_s2", 8.0)
            .with("jerk_max_rad_s3", 100.0);
        if axes == 1 {
            table
        } else {
            table.with("axes", axes as f64)
        }
    }

    #[test]
    fn axes_arrive_in_the_same_period_and_stay() {
        let mut block = Bench::new("trajectory", &settings(3));
        let inputs = [1.0, -0.2, 0.5, 0.0, 0.0, 0.4];
        let mut arrived = [None; 3];
        for tick in 0..1000 {
            let outputs = block.step(&inputs).to_vec();
            for (axis, when) in arrived.iter_mut().enumerate() {
                let there = outputs[2 * axis] == inputs[axis];
                match (&when, there) {
                    (None, true) => *when = Some(tick),
                    (Some(_), false) => panic!("axis {axis} left its target"),
                    _ => {}
                }
            }
            assert_eq!(outputs[6] == 0.0, arrived.iter().all(Option::is_some));
        }
        assert_eq!(arrived[0], arrived[1], "{arrived:?}");
        assert_eq!(arrived[0], arrived[2], "{arrived:?}");
    }

    #[test]
    fn follows_from_where_the_arm_is_after_a_pause() {
        let mut block = Bench::new("jerk-limit", &settings(1));
        for _ in 0..500 {
            block.step(&[1.0, 0.0]);
        }
        assert_eq!(block.step(&[1.0, 0.0])[0], 1.0);
        block.engage();
        let outputs = block.step(&[1.0, -0.5]);
        assert!((outputs[0] + 0.5).abs() < 1e-4, "{outputs:?}");
    }

    #[test]
    fn a_target_that_is_no_number_is_a_fault_and_not_a_search() {
        let mut block = Bench::new("jerk-limit", &settings(1));
        assert!(block.try_step(&[f64::NAN, 0.0]).is_err());
        assert!(block.try_step(&[0.0, f64::INFINITY]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, cases: 64, ..Default::default()
        })]

        #[test]
        fn the_sequence_of_setpoints_keeps_every_limit(
            targets in prop::collection::vec((-2.0..2.0_f64, 1_usize..300), 1..10),
        ) {
            let mut block = Bench::new("jerk-limit", &settings(1));
            let mut seen = [0.0; 4];
            for (target, ticks) in targets {
                for _ in 0..ticks {
                    seen.rotate_left(1);
                    seen[3] = block.step(&[target, 0.0])[0];
                    let [p0, p1, p2, p3] = seen;
                    let velocity = (p3 - p2) / PERIOD_S;
                    let change = (p3 - 2.0 * p2 + p1) / PERIOD_S.powi(2);
                    let jerk = (p3 - 3.0 * p2 + 3.0 * p1 - p0) / PERIOD_S.powi(3);
                    prop_assert!(velocity.abs() <= 2.0 * 1.0001, "{velocity}");
                    prop_assert!(change.abs() <= 8.0 * 1.001, "{change}");
                    prop_assert!(jerk.abs() <= 100.0 * 1.02, "{jerk}");
                }
            }
        }
    }
}
