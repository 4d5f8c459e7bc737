//! Second-order filters: low-pass, high-pass, notch.
//!
//! rt-safe. Coefficients are those of R. Bristow-Johnson, "Cookbook formulae for audio equalizer
//! biquad filter coefficients" (bilinear transform with the frequency pre-warped), run in
//! transposed direct form II. A filter begins, and begins again when a command is followed, as if
//! its input had always been what it is first: nothing kicks.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::unit::Unit;

/// Highest frequency as a part of the sampling frequency; half of it is where sampling ends, and
/// near it the bilinear transform bends every shape.
const HIGHEST: f64 = 0.45;
/// Lowest frequency as a part of the sampling frequency: below it the coefficients lose too many
/// digits to each other.
const LOWEST: f64 = 1e-6;

/// Coefficients with a0 = 1.
#[derive(Clone, Copy, Debug)]
struct Coefficients {
    b: [f64; 3],
    a: [f64; 2],
}

impl Coefficients {
    fn of(b: [f64; 3], a: [f64; 3]) -> Self {
        Self {
            b: b.map(|value| value / a[0]),
            a: [a[1] / a[0], a[2] / a[0]],
        }
    }

    /// Output over input when the input never changes.
    fn steady_gain(&self) -> f64 {
        self.b.iter().sum::<f64>() / (1.0 + self.a[0] + self.a[1])
    }
}

struct Biquad {
    coefficients: Coefficients,
    state: Option<[f64; 2]>,
}

impl Block for Biquad {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let (x, Coefficients { b, a }) = (inputs[0], self.coefficients);
        let [one, two] = self.state.unwrap_or_else(|| {
            // The state that goes with an input that was always `x`.
            let steady = self.coefficients.steady_gain() * x;
            [steady - b[0] * x, b[2] * x - a[1] * steady]
        });
        let y = b[0] * x + one;
        self.state = Some([b[1] * x - a[0] * y + two, b[2] * x - a[1] * y]);
        outputs[0] = y;
        Ok(())
    }

    fn engage(&mut self) {
        self.state = None;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.maybe(&mut self.state, |memory, state| memory.numbers(state));
    }
}

fn design(
    settings: &mut Settings<'_>,
    key: &str,
    default_q: f64,
    numerator: fn(cosine: f64) -> [f64; 3],
) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let period_s = settings.period_s();
    let frequencies = LOWEST / period_s..=HIGHEST / period_s;
    let frequency = settings.number(key, frequencies, None);
    let q = settings.number("q", 0.05..=100.0, Some(default_q));
    let (frequency_hz, q) = (frequency?, q?);
    let omega = TAU * frequency_hz * period_s;
    let alpha = omega.sin() / (2.0 * q);
    let cosine = omega.cos();
    let poles = [1.0 + alpha, -2.0 * cosine, 1.0 - alpha];
    let coefficients = Coefficients::of(numerator(cosine), poles);
    let port = |name| vec![Port::new(name, unit)];
    Some(Design::new(port("in"), port("out"), move || Biquad {
        coefficients,
        state: None,
    }))
}

/// Second-order low-pass; `q` = 1/√2 is Butterworth.
pub fn low_pass(settings: &mut Settings<'_>) -> Option<Design> {
    design(settings, "cutoff_hz", FRAC_1_SQRT_2, |cosine| {
        [(1.0 - cosine) / 2.0, 1.0 - cosine, (1.0 - cosine) / 2.0]
    })
}

/// Second-order high-pass; `q` = 1/√2 is Butterworth.
pub fn high_pass(settings: &mut Settings<'_>) -> Option<Design> {
    design(settings, "cutoff_hz", FRAC_1_SQRT_2, |cosine| {
        [(1.0 + cosine) / 2.0, -1.0 - cosine, (1.0 + cosine) / 2.0]
    })
}

/// Takes one frequency out; the gap is `frequency_hz / q` wide.
pub fn notch(settings: &mut Settings<'_>) -> Option<Design> {
    design(settings, "frequency_hz", 5.0, |cosine| {
        [1.0, -2.0 * cosine, 1.0]
    })
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S, complaints};
    use super::TAU;
    use crate::settings::Table;
    use proptest::prelude::*;

    /// Amplitude of the output for a sine of amplitude 1, after the beginning has died away.
    fn response(kind: &str, table: &Table, frequency_hz: f64) -> f64 {
        let mut filter = Bench::new(kind, table);
        let mut top = 0.0_f64;
        for tick in 0..40_000 {
            let phase = TAU * frequency_hz * PERIOD_S * f64::from(tick);
            let out = filter.step(&[phase.sin()])[0];
            if tick > 20_000 {
                top = top.max(out.abs());
            }
        }
        top
    }

    fn at(key: &str, frequency_hz: f64) -> Table {
        Table::default().with(key, frequency_hz)
    }

    #[test]
    fn a_butterworth_is_3_db_down_at_its_cutoff_and_40_db_a_decade_beyond() {
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let low = at("cutoff_hz", 5.3);
        assert!((response("low-pass", &low, 5.3) - half).abs() < 1e-3);
        assert!((response("low-pass", &low, 0.053) - 1.0).abs() < 1e-3);
        assert!(response("low-pass", &low, 53.0) < 0.0101);
        let high = at("cutoff_hz", 5.3);
        assert!((response("high-pass", &high, 5.3) - half).abs() < 1e-3);
        assert!((response("high-pass", &high, 53.0) - 1.0).abs() < 1e-2);
        assert!(response("high-pass", &high, 0.53) < 0.0101);
    }

    #[test]
    fn a_notch_takes_out_its_frequency_and_leaves_the_others() {
        let notch = at("frequency_hz", 17.3);
        assert!(response("notch", &notch, 17.3) < 1e-3);
        assert!(response("notch", &notch, 3.1) > 0.99);
        assert!(response("notch", &notch, 71.3) > 0.98);
    }

    #[test]
    fn matches_the_cookbook_worked_by_hand() {
        // fs = 250 Hz, f0 = 25 Hz, Q = 1/sqrt 2: w0 = 0.2 pi, alpha = sin w0 / sqrt 2.
        let (cosine, alpha) = (0.809_016_994_374_947_5, 0.415_626_937_776_665_4);
        let mut filter = Bench::new("low-pass", &at("cutoff_hz", 25.0));
        filter.step(&[0.0]);
        let b0 = (1.0 - cosine) / 2.0 / (1.0 + alpha);
        let first = filter.step(&[1.0])[0];
        assert!((first - b0).abs() < 1e-12, "{first} {b0}");
        let second = filter.step(&[0.0])[0];
        let expected = 2.0 * b0 + 2.0 * cosine / (1.0 + alpha) * b0;
        assert!((second - expected).abs() < 1e-12, "{second} {expected}");
    }

    #[test]
    fn a_cutoff_beyond_what_sampling_carries_is_refused_with_the_range() {
        let found = complaints("low-pass", &at("cutoff_hz", 125.0));
        assert!(found[0].message.contains("out of range"), "{found:?}");
        assert!(found[0].fix.contains("112.5"), "{found:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn begins_without_a_kick_and_stays_bounded(
            cutoff in 0.1..110.0_f64, q in 0.3..20.0_f64, first in -10.0..10.0_f64,
            noise in prop::collection::vec(-1.0..1.0_f64, 100),
        ) {
            let table = at("cutoff_hz", cutoff).with("q", q);
            let mut low = Bench::new("low-pass", &table);
            for _ in 0..5 {
                prop_assert!((low.step(&[first])[0] - first).abs() < 1e-6);
            }
            let mut high = Bench::new("high-pass", &table);
            prop_assert!(high.step(&[first])[0].abs() < 1e-6);
            for value in noise {
                // The resonance of a filter of quality q gains at most about q.
                prop_assert!(low.step(&[value])[0].abs() < 100.0 * (1.0 + q));
            }
        }
    }
}
