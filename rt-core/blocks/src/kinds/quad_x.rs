//! The mixer of a quadrotor in X.
//!
//! rt-safe. Motors as PX4 and most flight controllers number them: 1 front right and 2 rear left
//! turn counter-clockwise, 3 front left and 4 rear right clockwise, seen from above. Body axes x
//! forward, y left, z up (REP-103): positive roll lifts the left side, positive pitch lowers the
//! nose, positive yaw turns to the left.
//!
//! What the motors cannot give is taken in an order that keeps the vehicle upright ("air mode", as
//! in PX4's control allocation): roll and pitch are kept, and scaled together only when they alone
//! exceed the range; thrust moves as far as that needs; yaw gets what is left.

use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

/// Roll, pitch and yaw of each motor. Roll to the right is less thrust on the right: positive roll
/// about x (forward) lifts the left. Positive pitch about y (left) lowers the nose, so the rear
/// lifts. A motor that turns clockwise pushes the body counter-clockwise, positive yaw.
const MOTORS: [[f64; 3]; 4] = [
    [-1.0, -1.0, -1.0],
    [1.0, 1.0, -1.0],
    [1.0, -1.0, 1.0],
    [-1.0, 1.0, 1.0],
];

struct QuadX {
    idle: f64,
}

/// The part of `[0, 1]` to take of each of `steps`, so that `base + part * step` stays within
/// `low..=high`.
fn share(base: &[f64; 4], steps: &[f64; 4], low: f64, high: f64) -> f64 {
    let mut part = 1.0_f64;
    for (base, step) in base.iter().zip(steps) {
        let room = if *step > 0.0 { high - base } else { base - low };
        if step.abs() > room.max(0.0) {
            part = part.min(room.max(0.0) / step.abs());
        }
    }
    part
}

impl Block for QuadX {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let (thrust, low, high) = (inputs[0], self.idle, 1.0);
        let tilt = MOTORS.map(|motor| motor[0] * inputs[1] + motor[1] * inputs[2]);
        let most = tilt.iter().copied().fold(f64::MIN, f64::max);
        let least = tilt.iter().copied().fold(f64::MAX, f64::min);
        let scale = ((high - low) / (most - least).max(high - low)).min(1.0);
        // Thrust moves so that the tilt fits between idle and full.
        let base = thrust.max(low - least * scale).min(high - most * scale);
        let level = tilt.map(|tilt| base + tilt * scale);
        let yaw = MOTORS.map(|motor| motor[2] * inputs[3]);
        let yaw_share = share(&level, &yaw, low, high);
        for (output, (level, yaw)) in outputs.iter_mut().zip(level.iter().zip(yaw)) {
            *output = level + yaw * yaw_share;
        }
        let cut = scale < 1.0 || yaw_share < 1.0 || base != thrust;
        outputs[4] = f64::from(u8::from(cut));
        if inputs.iter().any(|input| !input.is_finite()) {
            // Minimum and maximum swallow NaN; nothing may be flown by such a number.
            return Err(FaultKind::NotFinite { output: 0 });
        }
        Ok(())
    }

    fn memory(&mut self, _: &mut Memory<'_>) {}
}

/// `quad-x`.
pub fn design(settings: &mut Settings<'_>) -> Option<Design> {
    let idle = settings.number("idle", 0.0..=0.5, Some(0.0))?;
    let ports = |names: &[&str]| {
        let ports = names.iter().map(|name| Port::new(*name, Unit::ONE));
        ports.collect::<Vec<_>>()
    };
    let inputs = ports(&["thrust", "roll", "pitch", "yaw"]);
    let mut outputs = ports(&["motor_1", "motor_2", "motor_3", "motor_4"]);
    outputs.push(Port::new("saturated", Unit::FLAG));
    Some(Design::new(inputs, outputs, move || QuadX { idle }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::Bench;
    use super::MOTORS;
    use crate::settings::Table;
    use proptest::prelude::*;

    fn mix(inputs: [f64; 4]) -> Vec<f64> {
        Bench::new("quad-x", &Table::default())
            .step(&inputs)
            .to_vec()
    }

    #[test]
    fn each_axis_moves_the_motors_it_should() {
        assert_eq!(mix([0.5, 0.0, 0.0, 0.0]), [0.5, 0.5, 0.5, 0.5, 0.0]);
        let close = |found: Vec<f64>, wanted: [f64; 4]| {
            found
                .iter()
                .zip(wanted)
                .all(|(found, wanted)| (found - wanted).abs() < 1e-12)
        };
        assert!(
            close(mix([0.5, 0.1, 0.0, 0.0]), [0.4, 0.6, 0.6, 0.4]),
            "roll lifts the left"
        );
        assert!(
            close(mix([0.5, 0.0, 0.1, 0.0]), [0.4, 0.6, 0.4, 0.6]),
            "pitch lifts the rear"
        );
        assert!(
            close(mix([0.5, 0.0, 0.0, 0.1]), [0.4, 0.4, 0.6, 0.6]),
            "yaw"
        );
    }

    #[test]
    fn yaw_gives_way_and_thrust_moves_before_roll_is_touched() {
        // Full thrust leaves no room upwards: thrust comes down, the roll stays whole.
        let motors = mix([1.0, 0.2, 0.0, 0.5]);
        assert!((motors[1] - motors[0] - 0.4).abs() < 0.4 + 1e-12);
        assert!((moment(&motors, 0) - 0.2).abs() < 1e-12, "{motors:?}");
        assert_eq!(motors[4], 1.0);
        // No thrust at all: it goes up by what the roll needs.
        let motors = mix([0.0, 0.2, 0.0, 0.0]);
        assert!((moment(&motors, 0) - 0.2).abs() < 1e-12, "{motors:?}");
    }

    fn moment(motors: &[f64], axis: usize) -> f64 {
        let parts = motors
            .iter()
            .zip(MOTORS)
            .map(|(motor, signs)| motor * signs[axis]);
        parts.sum::<f64>() / 4.0
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn motors_stay_in_range_and_roll_and_pitch_keep_their_direction(
            thrust in -0.5..1.5_f64, roll in -2.0..2.0_f64, pitch in -2.0..2.0_f64,
            yaw in -2.0..2.0_f64,
        ) {
            let motors = mix([thrust, roll, pitch, yaw]);
            for motor in &motors[..4] {
                prop_assert!((-1e-9..=1.0 + 1e-9).contains(motor), "{motors:?}");
            }
            let (rolled, pitched) = (moment(&motors, 0), moment(&motors, 1));
            // Scaled together, or not at all.
            let scale = 1.0_f64.min(0.5 / (roll.abs() + pitch.abs()));
            prop_assert!((rolled - roll * scale).abs() < 1e-9, "{motors:?}");
            prop_assert!((pitched - pitch * scale).abs() < 1e-9, "{motors:?}");
            let yawed = moment(&motors, 2);
            prop_assert!(yawed * yaw >= -1e-12 && yawed.abs() <= yaw.abs() + 1e-9);
        }
    }
}
