//! The PID controller.
//!
//! rt-safe. Formula and discretisation are those of K. J. Åström and R. M. Murray, "Feedback
//! Systems" (2008), section 10.5: the derivative acts on the measurement through a first-order
//! filter with time constant `derivative_time / derivative_filter` (backward difference), the
//! setpoint is weighted in the proportional part, and the integral is bled by back-calculation:
//! what the output limit takes away is fed back over `tracking_time` (Åström and Hägglund, "PID
//! Controllers: Theory, Design, and Tuning", 1995, section 3.5).
//!
//! ```text
//! P = gain * (setpoint_weight * setpoint - measured)
//! D = Td / (Td + N h) * (D - gain * N * (measured - measured before))
//! out = clamp(P + I + D + feedforward)
//! I = I + gain * h / Ti * (setpoint - measured) + h / Tt * (out - unclamped out)
//! ```

use super::arithmetic::bounds;
use super::{ANY, POSITIVE};
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

/// Numbers of a controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    gain: f64,
    setpoint_weight: f64,
    /// `gain * h / Ti`; zero without integral.
    integral_step: f64,
    /// `h / Tt`, at most 1.
    tracking_step: f64,
    /// `Td / (Td + N h)`; zero without derivative.
    derivative_decay: f64,
    /// `gain * N * derivative_decay`.
    derivative_gain: f64,
    output: (f64, f64),
}

impl Tuning {
    /// Reads the keys of a controller, each beginning with `prefix`.
    pub(super) fn read(settings: &mut Settings<'_>, prefix: &str, output: Unit) -> Option<Self> {
        let key = |name: &str| format!("{prefix}{name}");
        let period_s = settings.period_s();
        let gain = settings.number(&key("gain"), ANY, None);
        let integral_key = key("integral_time_s");
        let integral = if settings.has(&integral_key) {
            settings
                .number(&integral_key, period_s..=1e6, None)
                .map(Some)
        } else {
            Some(None)
        };
        let derivative = settings.number(&key("derivative_time_s"), 0.0..=1e3, Some(0.0));
        let filter = settings.number(&key("derivative_filter"), 1.0..=100.0, Some(10.0));
        let weight = settings.number(&key("setpoint_weight"), 0.0..=1.0, Some(1.0));
        let limits = bounds(settings, &key("output_"), output);
        let (gain, integral, derivative, filter) = (gain?, integral?, derivative?, filter?);
        // Between derivative and integral time, as the sources advise.
        let tracking_default = integral.map_or(1.0, |integral| {
            if derivative > 0.0 {
                (integral * derivative).sqrt()
            } else {
                integral
            }
        });
        let tracking_key = key("tracking_time_s");
        let tracking = settings.number(&tracking_key, POSITIVE, Some(tracking_default))?;
        let decay = if derivative > 0.0 {
            derivative / (derivative + filter * period_s)
        } else {
            0.0
        };
        Some(Self {
            gain,
            setpoint_weight: weight?,
            integral_step: integral.map_or(0.0, |integral| gain * period_s / integral),
            tracking_step: (period_s / tracking).min(1.0),
            derivative_decay: decay,
            derivative_gain: gain * filter * decay,
            output: limits?,
        })
    }
}

/// A controller and its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controller {
    tuning: Tuning,
    integral: f64,
    derivative: f64,
    measured_before: Option<f64>,
}

/// What a controller gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controlled {
    /// Within the limits.
    pub(super) out: f64,
    /// How much the limits took away: positive when more was wanted.
    pub(super) excess: f64,
}

impl Controller {
    pub(super) const fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            integral: 0.0,
            derivative: 0.0,
            measured_before: None,
        }
    }

    /// One period. rt-safe.
    pub(super) fn step(&mut self, setpoint: f64, measured: f64, feedforward: f64) -> Controlled {
        let tuning = &self.tuning;
        let before = self.measured_before.unwrap_or(measured);
        self.measured_before = Some(measured);
        self.derivative = tuning.derivative_decay * self.derivative
            - tuning.derivative_gain * (measured - before);
        let proportional = tuning.gain * (tuning.setpoint_weight * setpoint - measured);
        let wanted = proportional + self.integral + self.derivative + feedforward;
        let out = wanted.clamp(tuning.output.0, tuning.output.1);
        if tuning.integral_step != 0.0 {
            self.integral += tuning.integral_step * (setpoint - measured)
                + tuning.tracking_step * (out - wanted);
        }
        Controlled {
            out,
            excess: wanted - out,
        }
    }

    /// The integral, for whoever knows that it must not grow. rt-safe.
    pub(super) const fn integral(&self) -> f64 {
        self.integral
    }

    /// Puts the integral back. rt-safe.
    pub(super) const fn set_integral(&mut self, integral: f64) {
        self.integral = integral;
    }

    /// Forgets everything. rt-safe.
    pub(super) const fn reset(&mut self) {
        *self = Self::new(self.tuning);
    }

    /// See [`Block::memory`]. rt-safe.
    pub(super) fn memory(&mut self, memory: &mut Memory<'_>) {
        let Self {
            tuning: _,
            integral,
            derivative,
            measured_before,
        } = self;
        memory.number(integral);
        memory.number(derivative);
        memory.maybe(measured_before, Memory::number);
    }
}

struct Pid(Controller);

impl Block for Pid {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let controlled = self.0.step(inputs[0], inputs[1], inputs[2]);
        outputs[0] = controlled.out;
        outputs[1] = f64::from(u8::from(controlled.excess != 0.0));
        Ok(())
    }

    fn engage(&mut self) {
        self.0.reset();
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        self.0.memory(memory);
    }
}

/// `pid`.
pub fn design(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", None);
    let output_unit = settings.unit("output_unit", None);
    let (unit, output_unit) = (unit?, output_unit?);
    let tuning = Tuning::read(settings, "", output_unit)?;
    let inputs = vec![
        Port::new("setpoint", unit),
        Port::new("measured", unit),
        Port::optional("feedforward", output_unit, 0.0),
    ];
    let outputs = vec![
        Port::new("out", output_unit),
        Port::new("saturated", Unit::FLAG),
    ];
    Some(Design::new(inputs, outputs, move || {
        Pid(Controller::new(tuning))
    }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S, complaints};
    use crate::settings::Table;

    fn settings(gain: f64) -> Table {
        Table::default()
            .with("unit", "rad")
            .with("output_unit", "rad/s")
            .with("gain", gain)
            .with("output_min_rad_s", -1.0)
            .with("output_max_rad_s", 1.0)
    }

    #[test]
    fn without_times_it_is_a_gain_within_limits() {
        let mut pid = Bench::new("pid", &settings(2.0));
        assert_eq!(pid.step(&[0.5, 0.2, 0.1]), [0.7, 0.0]);
        assert_eq!(pid.step(&[5.0, 0.2, 0.0]), [1.0, 1.0]);
    }

    #[test]
    fn the_integral_grows_by_gain_over_its_time() {
        let mut pid = Bench::new("pid", &settings(0.5).with("integral_time_s", 2.0));
        let mut last = 0.0;
        for _ in 0..250 {
            last = pid.step(&[0.4, 0.0, 0.0])[0];
        }
        // P + gain / Ti * e * t, where the newest period is not integrated yet.
        let expected = 0.2 + 0.5 / 2.0 * 0.4 * (249.0 * PERIOD_S);
        assert!((last - expected).abs() < 1e-9, "{last} {expected}");
        pid.engage();
        assert_eq!(pid.step(&[0.4, 0.0, 0.0])[0], 0.2);
    }

    #[test]
    fn the_derivative_of_a_ramp_settles_at_gain_times_time_times_slope() {
        let mut pid = Bench::new("pid", &settings(0.5).with("derivative_time_s", 0.1));
        let mut last = 0.0;
        for tick in 0..500 {
            let measured = 0.3 * PERIOD_S * f64::from(tick);
            last = pid.step(&[measured, measured, 0.0])[0];
        }
        assert!((last + 0.5 * 0.1 * 0.3).abs() < 1e-9, "{last}");
    }

    #[test]
    fn a_setpoint_step_does_not_kick_through_the_derivative() {
        let mut pid = Bench::new("pid", &settings(0.1).with("derivative_time_s", 10.0));
        pid.step(&[0.0, 0.0, 0.0]);
        assert_eq!(pid.step(&[1.0, 0.0, 0.0])[0], 0.1);
    }

    /// An integrator as plant, saturated for two seconds: how far it overshoots.
    fn overshoot(table: &Table) -> f64 {
        let mut pid = Bench::new("pid", table);
        let mut position = 0.0;
        let mut top = 0.0_f64;
        for _ in 0..2500 {
            position += pid.step(&[2.0, position, 0.0])[0] * PERIOD_S;
            top = top.max(position);
        }
        assert!((position - 2.0).abs() < 0.01, "{position}");
        top - 2.0
    }

    #[test]
    fn back_calculation_keeps_the_integral_from_winding_up() {
        let table = settings(4.0).with("integral_time_s", 0.5);
        let with = overshoot(&table.clone().with("tracking_time_s", 0.1));
        let without = overshoot(&table.with("tracking_time_s", 1e6));
        assert!(with < 0.2, "{with}");
        assert!(
            without > 3.0 * with,
            "{without} is not much worse than {with}"
        );
    }

    #[test]
    fn a_first_order_plant_follows_the_closed_loop_of_the_textbook() {
        // P control of 1 / (s + 1): the loop is gain / (s + 1 + gain), steady at gain / (1 + gain).
        let mut pid = Bench::new("pid", &settings(0.9));
        let (mut plant, decay) = (0.0, (-PERIOD_S).exp());
        let mut at_half_second = 0.0;
        for tick in 0..5000 {
            let out = pid.step(&[1.0, plant, 0.0])[0];
            plant = plant * decay + out * (1.0 - decay);
            if tick == 124 {
                at_half_second = plant;
            }
        }
        assert!((plant - 0.9 / 1.9).abs() < 1e-6, "{plant}");
        let expected = 0.9 / 1.9 * (1.0 - (-1.9_f64 * 0.5).exp());
        assert!(
            (at_half_second - expected).abs() < 2e-3,
            "{at_half_second} {expected}"
        );
    }

    #[test]
    fn an_integral_faster_than_the_loop_is_refused() {
        let found = complaints("pid", &settings(1.0).with("integral_time_s", 0.001));
        assert!(found[0].message.contains("out of range"), "{found:?}");
    }
}
