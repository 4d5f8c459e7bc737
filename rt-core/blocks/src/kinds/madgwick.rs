//! Attitude from gyroscope and accelerometer, and a magnetometer if there is one.
//!
//! rt-safe. The gradient-descent filter of S. O. H. Madgwick, "An efficient orientation filter for
//! inertial and inertial/magnetic sensor arrays" (University of Bristol, 2010), equations 10 to 34
//! and 45, 46: the gyroscope is integrated, and the estimate is pulled, by `beta_rad_s`, down the
//! steepest slope of the difference between measured and expected gravity (and field). Without a
//! magnetometer nothing knows where north is, and yaw drifts with the gyroscope's bias.
//!
//! Earth frame: x forward at the start (magnetic north with a magnetometer), y left, z up. The
//! accelerometer of a body at rest measures +9.81 m/s² along the axis that points up. The
//! quaternion turns body vectors into earth vectors. Samples without direction (free fall, no
//! field) only integrate.

use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

type Vector = [f64; 3];
type Quaternion = [f64; 4];

/// Shortest vector that has a direction; below lies the noise of any sensor.
const SHORTEST: f64 = 1e-12;

struct Madgwick {
    beta_rad_s: f64,
    period_s: f64,
    magnetometer: bool,
    attitude: Quaternion,
}

fn direction<const N: usize>(vector: [f64; N]) -> Option<[f64; N]> {
    let length = vector.iter().map(|part| part * part).sum::<f64>().sqrt();
    (length > SHORTEST).then(|| vector.map(|part| part / length))
}

fn product(p: Quaternion, q: Quaternion) -> Quaternion {
    [
        p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3],
        p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2],
        p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1],
        p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0],
    ]
}

/// `vector` of the body, seen from the earth.
fn to_earth(q: Quaternion, vector: Vector) -> Vector {
    let turned = product(
        product(q, [0.0, vector[0], vector[1], vector[2]]),
        conjugate(q),
    );
    [turned[1], turned[2], turned[3]]
}

fn conjugate(q: Quaternion) -> Quaternion {
    [q[0], -q[1], -q[2], -q[3]]
}

/// The slope of `|d seen from the body - measured|² / 2` over the quaternion, where `d` is a
/// direction on earth: Jacobian transposed times difference, equations 20 to 22 with d = (x, 0, z).
fn slope(q: Quaternion, x: f64, z: f64, measured: Vector) -> Quaternion {
    let [a, b, c, d] = q;
    let difference = [
        2.0 * x * (0.5 - c * c - d * d) + 2.0 * z * (b * d - a * c) - measured[0],
        2.0 * x * (b * c - a * d) + 2.0 * z * (a * b + c * d) - measured[1],
        2.0 * x * (a * c + b * d) + 2.0 * z * (0.5 - b * b - c * c) - measured[2],
    ];
    let jacobian = [
        [
            -2.0 * z * c,
            2.0 * z * d,
            -4.0 * x * c - 2.0 * z * a,
            -4.0 * x * d + 2.0 * z * b,
        ],
        [
            -2.0 * x * d + 2.0 * z * b,
            2.0 * x * c + 2.0 * z * a,
            2.0 * x * b + 2.0 * z * d,
            -2.0 * x * a + 2.0 * z * c,
        ],
        [
            2.0 * x * c,
            2.0 * x * d - 4.0 * z * b,
            2.0 * x * a - 4.0 * z * c,
            2.0 * x * b,
        ],
    ];
    std::array::from_fn(|column| {
        (0..3)
            .map(|row| jacobian[row][column] * difference[row])
            .sum()
    })
}

impl Madgwick {
    fn update(&mut self, gyro: Vector, accel: Vector, mag: Option<Vector>) {
        let q = self.attitude;
        let turning = product(q, [0.0, gyro[0], gyro[1], gyro[2]]);
        let mut rate = turning.map(|part| part / 2.0);
        if let Some(down) = self.correction(accel, mag) {
            for (part, slope) in rate.iter_mut().zip(down) {
                *part -= self.beta_rad_s * slope;
            }
        }
        let next = std::array::from_fn(|part| q[part] + rate[part] * self.period_s);
        // A quaternion of length zero cannot come of one of length one and a bounded rate; a rate
        // that is not finite must show.
        self.attitude = direction(next).unwrap_or(next);
    }

    fn correction(&self, accel: Vector, mag: Option<Vector>) -> Option<Quaternion> {
        let q = self.attitude;
        let accel = direction(accel)?;
        let mut total = slope(q, 0.0, 1.0, accel);
        if let Some(mag) = mag.and_then(direction) {
            // The field's own inclination, so that a wrong one only turns yaw (equations 45, 46).
            let h = to_earth(q, mag);
            let flux = slope(q, h[0].hypot(h[1]), h[2], mag);
            for (part, slope) in total.iter_mut().zip(flux) {
                *part += slope;
            }
        }
        direction(total)
    }
}

impl Block for Madgwick {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let vector = |first: usize| [inputs[first], inputs[first + 1], inputs[first + 2]];
        let mag = self.magnetometer.then(|| vector(6));
        self.update(vector(0), vector(3), mag);
        let [w, x, y, z] = self.attitude;
        let roll = (2.0 * (w * x + y * z)).atan2(1.0 - 2.0 * (x * x + y * y));
        let pitch = (2.0 * (w * y - z * x)).clamp(-1.0, 1.0).asin();
        let yaw = (2.0 * (w * z + x * y)).atan2(1.0 - 2.0 * (y * y + z * z));
        outputs.copy_from_slice(&[roll, pitch, yaw, w, x, y, z]);
        Ok(())
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.numbers(&mut self.attitude);
    }
}

/// `madgwick`.
pub fn design(settings: &mut Settings<'_>) -> Option<Design> {
    // 0.041 is the value the report finds for its sensors; 0.1 suits cheaper ones.
    let beta = settings.number("beta_rad_s", 0.0..=10.0, Some(0.1));
    let magnetometer = settings.flag("magnetometer", false);
    let (beta_rad_s, magnetometer, period_s) = (beta?, magnetometer?, settings.period_s());
    let three =
        |name: &str, unit| ["x", "y", "z"].map(|axis| Port::new(format!("{name}_{axis}"), unit));
    let mut inputs = three("gyro", Unit::RAD_PER_S).to_vec();
    inputs.extend(three("accel", Unit::M_PER_S2));
    if magnetometer {
        inputs.extend(three("mag", Unit::TESLA));
    }
    let mut outputs = ["roll", "pitch", "yaw"]
        .map(|name| Port::new(name, Unit::RAD))
        .to_vec();
    outputs.extend(["q_w", "q_x", "q_y", "q_z"].map(|name| Port::new(name, Unit::ONE)));
    Some(Design::new(inputs, outputs, move || Madgwick {
        beta_rad_s,
        period_s,
        magnetometer,
        attitude: [1.0, 0.0, 0.0, 0.0],
    }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S};
    use super::{Quaternion, conjugate, product, slope, to_earth};
    use crate::settings::Table;
    use proptest::prelude::*;

    /// Roll, pitch and yaw as a quaternion, z after y after x.
    fn quaternion(roll: f64, pitch: f64, yaw: f64) -> Quaternion {
        let turn = |angle: f64, axis: usize| {
            let mut q = [(angle / 2.0).cos(), 0.0, 0.0, 0.0];
            q[axis] = (angle / 2.0).sin();
            q
        };
        product(product(turn(yaw, 3), turn(pitch, 2)), turn(roll, 1))
    }

    #[test]
    fn a_turn_is_integrated_exactly_when_nothing_corrects() {
        let table = Table::default().with("beta_rad_s", 0.0);
        for (axis, output) in [(0, 0), (1, 1), (2, 2)] {
            let mut filter = Bench::new("madgwick", &table);
            let mut inputs = [0.0, 0.0, 0.0, 0.0, 0.0, 9.81];
            inputs[axis] = 0.5;
            let mut angle = 0.0;
            for _ in 0..500 {
                angle = filter.step(&inputs)[output];
            }
            assert!(
                (angle - 0.5 * 500.0 * PERIOD_S).abs() < 1e-5,
                "axis {axis}: {angle}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, cases: 32, ..Default::default()
        })]

        #[test]
        fn a_body_at_rest_is_found_by_gravity_and_field(
            roll in -2.5..2.5_f64, pitch in -1.2..1.2_f64, yaw in -2.5..2.5_f64,
        ) {
            let body_to_earth = quaternion(roll, pitch, yaw);
            let seen = |earth| to_earth(conjugate(body_to_earth), earth);
            let (gravity, field) = (seen([0.0, 0.0, 9.81]), seen([20e-6, 0.0, -40e-6]));
            let table = Table::default().with("beta_rad_s", 1.0).with("magnetometer", true);
            let mut filter = Bench::new("madgwick", &table);
            let mut inputs = [0.0; 9];
            inputs[3..6].copy_from_slice(&gravity);
            inputs[6..].copy_from_slice(&field);
            let mut outputs = Vec::new();
            for _ in 0..8000 {
                outputs = filter.step(&inputs).to_vec();
            }
            let found = [outputs[3], outputs[4], outputs[5], outputs[6]];
            let same = found.iter().zip(body_to_earth).map(|(one, two)| one * two).sum::<f64>();
            prop_assert!(same.abs() > 0.9999, "{found:?} is not {body_to_earth:?}");
            prop_assert!((outputs[0] - roll).abs() < 0.02 && (outputs[2] - yaw).abs() < 0.02);
        }

        /// The analytic slope against differences of the function it is the slope of.
        #[test]
        fn the_slope_is_the_derivative_of_the_error(
            q in prop::array::uniform4(-1.0..1.0_f64),
            measured in prop::array::uniform3(-1.0..1.0_f64),
            x in 0.0..1.0_f64, z in -1.0..1.0_f64,
        ) {
            let error = |q: Quaternion| {
                let [a, b, c, d] = q;
                let parts = [
                    2.0 * x * (0.5 - c * c - d * d) + 2.0 * z * (b * d - a * c) - measured[0],
                    2.0 * x * (b * c - a * d) + 2.0 * z * (a * b + c * d) - measured[1],
                    2.0 * x * (a * c + b * d) + 2.0 * z * (0.5 - b * b - c * c) - measured[2],
                ];
                parts.iter().map(|part| part * part).sum::<f64>() / 2.0
            };
            let analytic = slope(q, x, z, measured);
            for part in 0..4 {
                let nudge = |by: f64| {
                    let mut moved = q;
                    moved[part] += by;
                    error(moved)
                };
                let numeric = (nudge(1e-6) - nudge(-1e-6)) / 2e-6;
                prop_assert!((numeric - analytic[part]).abs() < 1e-4 * (1.0 + numeric.abs()));
            }
        }
    }

    #[test]
    fn free_fall_does_not_disturb_the_estimate() {
        let mut filter = Bench::new("madgwick", &Table::default());
        let outputs = filter.step(&[0.0; 6]);
        assert_eq!(outputs[3..], [1.0, 0.0, 0.0, 0.0]);
    }
}
