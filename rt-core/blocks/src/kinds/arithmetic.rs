//! Constants, sums, gains, clamps, choices and the delay.
//!
//! rt-safe. The delay is a mark on the graph: the program itself holds its value.

use super::{ANY, POSITIVE};
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::{Settings, Value};
use crate::unit::Unit;

/// Inputs a sum can have.
const TERMS_MAX: usize = 16;

/// A block that is a function of its inputs and nothing else.
struct Stateless<F>(F);

impl<F: Fn(&[f64], &mut [f64]) + Send> Block for Stateless<F> {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        (self.0)(inputs, outputs);
        Ok(())
    }

    fn memory(&mut self, _: &mut Memory<'_>) {}
}

fn out(unit: Unit) -> Vec<Port> {
    vec![Port::new("out", unit)]
}

/// `out = value`.
pub fn constant(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let range = if unit == Unit::FLAG { 0.0..=1.0 } else { ANY };
    let value = settings.quantity("value", unit, range, None)?;
    Some(Design::new(Vec::new(), out(unit), move || {
        Stateless(move |_: &[f64], outputs: &mut [f64]| outputs[0] = value)
    }))
}

/// `out = signs[0] * in_1 + signs[1] * in_2 + …`.
pub fn sum(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let listed = match settings.raw("signs").map(|entry| &entry.value) {
        Some(Value::List(list)) => list.len(),
        _ => 2,
    };
    if !(1..=TERMS_MAX).contains(&listed) {
        let message = format!("has {listed} signs, a sum has 1 to {TERMS_MAX}");
        settings.complain("signs", message, "write one sign an input, as in [1, -1]");
        return None;
    }
    let signs = settings.numbers("signs", listed, -1.0..=1.0, Some(1.0))?;
    let inputs = (1..=listed).map(|number| Port::new(format!("in_{number}"), unit));
    Some(Design::new(inputs.collect(), out(unit), move || {
        let signs = signs.clone();
        Stateless(move |inputs: &[f64], outputs: &mut [f64]| {
            outputs[0] = inputs
                .iter()
                .zip(&signs)
                .map(|(value, sign)| value * sign)
                .sum();
        })
    }))
}

/// `out = gain * in + offset`.
pub fn gain(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let output_unit = settings.unit("output_unit", Some(unit))?;
    let gain = settings.number("gain", ANY, None);
    let offset = settings.quantity("offset", output_unit, ANY, Some(0.0));
    let (gain, offset) = (gain?, offset?);
    Some(Design::new(
        vec![Port::new("in", unit)],
        out(output_unit),
        move || {
            Stateless(move |inputs: &[f64], outputs: &mut [f64]| {
                outputs[0] = gain * inputs[0] + offset;
            })
        },
    ))
}

/// `out = min(max(in, min), max)`.
pub fn clamp(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let (low, high) = bounds(settings, "", unit)?;
    Some(Design::new(
        vec![Port::new("in", unit)],
        out(unit),
        move || {
            Stateless(move |inputs: &[f64], outputs: &mut [f64]| {
                // NaN goes through, so that the program sees it.
                outputs[0] = inputs[0].clamp(low, high);
            })
        },
    ))
}

/// `PREFIXmin_UNIT` and `PREFIXmax_UNIT`, in order.
pub(super) fn bounds(settings: &mut Settings<'_>, prefix: &str, unit: Unit) -> Option<(f64, f64)> {
    let (low_key, high_key) = (format!("{prefix}min"), format!("{prefix}max"));
    let low = settings.quantity(&low_key, unit, ANY, None);
    let high = settings.quantity(&high_key, unit, ANY, None);
    let (low, high) = (low?, high?);
    if low >= high {
        let suffix = unit.suffix();
        let message = format!("{low} is not below {high_key}{suffix} = {high}");
        settings.complain(&format!("{low_key}{suffix}"), message, "exchange the two");
        return None;
    }
    Some((low, high))
}

/// `out = on` while `condition` is 1, `off` otherwise.
pub fn select(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let inputs = vec![
        Port::new("condition", Unit::FLAG),
        Port::new("on", unit),
        Port::new("off", unit),
    ];
    Some(Design::new(inputs, out(unit), || {
        Stateless(|inputs: &[f64], outputs: &mut [f64]| {
            outputs[0] = if inputs[0] > 0.5 {
                inputs[1]
            } else {
                inputs[2]
            };
        })
    }))
}

/// `out` is `in` of the period before.
pub fn delay(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::ONE))?;
    let initial = settings.quantity("initial", unit, ANY, Some(0.0))?;
    Some(Design::delay(unit, initial))
}

/// A positive quantity per second to some power, as in `rate_max_rad_s`.
pub(super) fn positive_rate(settings: &mut Settings<'_>, base: &str, unit: Unit) -> Option<f64> {
    settings.quantity(base, unit, POSITIVE, None)
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, complaints};
    use crate::settings::Table;

    #[test]
    fn each_does_its_arithmetic() {
        let table = Table::default();
        let mut sum = Bench::new("sum", &table.clone().with("signs", vec![1.0, -1.0, 0.5]));
        assert_eq!(sum.step(&[3.0, 1.0, 4.0]), [4.0]);
        let mut gain = Bench::new(
            "gain",
            &table.clone().with("gain", -2.0).with("offset", 1.0),
        );
        assert_eq!(gain.step(&[3.0]), [-5.0]);
        let mut clamp = Bench::new("clamp", &table.clone().with("min", -1.0).with("max", 2.0));
        assert_eq!(clamp.step(&[-9.0]), [-1.0]);
        assert_eq!(clamp.step(&[9.0]), [2.0]);
        assert!(
            clamp.step(&[f64::NAN])[0].is_nan(),
            "a clamp must not hide NaN"
        );
        let mut select = Bench::new("select", &table.clone());
        assert_eq!(select.step(&[1.0, 5.0, 6.0]), [5.0]);
        assert_eq!(select.step(&[0.0, 5.0, 6.0]), [6.0]);
        let constant = table.with("unit", "rad").with("value_rad", 0.5);
        assert_eq!(Bench::new("constant", &constant).step(&[]), [0.5]);
    }

    #[test]
    fn wrong_settings_are_named_with_their_remedy() {
        let wrong = Table::default()
            .with("unit", "rad")
            .with("min", 0.0)
            .with("max_rad", -1.0);
        let found = complaints("clamp", &wrong);
        let missing = found.iter().find(|complaint| complaint.key == "min_rad");
        assert_eq!(
            missing.map(|complaint| complaint.message.as_str()),
            Some("is missing")
        );
        let unknown = found.iter().find(|complaint| complaint.key == "min");
        assert!(unknown.is_some_and(|complaint| complaint.fix.contains("keys here")));
        let upside_down = Table::default().with("min", 2.0).with("max", -1.0);
        assert_eq!(
            complaints("clamp", &upside_down)[0].message,
            "2 is not below max = -1"
        );
        let no_unit = Table::default().with("unit", "rads").with("gain", 1.0);
        assert_eq!(complaints("gain", &no_unit)[0].fix, "did you mean \"rad\"?");
    }
}
