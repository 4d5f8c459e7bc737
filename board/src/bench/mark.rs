//! A mark: a measured value, the control measured beside it, and the bound it must keep.
//!
//! The bound is data, so that its words and the verdict are computed from the same numbers. A
//! value that is not finite, or whose control is missing, keeps no bound.

use serde::Serialize;

/// What was measured beside ours, in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Control {
    /// What it is: `rtrb 0.4.1`, `cyclictest`.
    pub name: String,
    /// Its value, in the unit of the mark.
    pub value: f64,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At most this.
    AtMost(f64),
    /// Below this.
    Below(f64),
    /// At least this.
    AtLeast(f64),
    /// At most the control's value plus this much.
    AtMostControlPlus(f64),
    /// At most the control's value times this.
    AtMostControlTimes(f64),
    /// At least the control's value.
    AtLeastControl,
    /// Anything: the number is reported, and judged by nobody.
    Reported,
}

impl Bound {
    /// Whether `value` keeps the bound beside `control`.
    pub fn is_kept(self, value: f64, control: Option<f64>) -> bool {
        let control = control.unwrap_or(f64::NAN);
        // Comparisons with NaN are false, so what was not measured is missed.
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::AtLeast(bound) => value >= bound,
            Self::AtMostControlPlus(margin) => value <= control + margin,
            Self::AtMostControlTimes(factor) => value <= control * factor,
            Self::AtLeastControl => value >= control,
            Self::Reported => true,
        }
    }

    /// The bound in words, for a mark in `unit` beside `control`.
    pub fn words(self, unit: &str, control: Option<&str>) -> String {
        let control = control.unwrap_or("a control that is missing");
        match self {
            Self::AtMost(bound) => format!("at most {bound} {unit}"),
            Self::Below(bound) => format!("below {bound} {unit}"),
            Self::AtLeast(bound) => format!("at least {bound} {unit}"),
            Self::AtMostControlPlus(0.0) => format!("at most {control}'s"),
            Self::AtMostControlPlus(margin) => format!("at most {control}'s + {margin} {unit}"),
            Self::AtMostControlTimes(factor) => format!("at most {factor} times {control}'s"),
            Self::AtLeastControl => format!("at least {control}'s"),
            Self::Reported => "reported".to_owned(),
        }
    }
}

/// One mark, as it stands in the report. Made by [`Mark::new`], which computes the verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// What was measured; stable.
    pub name: String,
    /// Ours.
    pub value: f64,
    /// Unit of the value and of the control's.
    pub unit: String,
    /// What it is compared with.
    pub control: Option<Control>,
    /// Value over control; absent without one.
    pub ratio: Option<f64>,
    /// The bound in words.
    pub mark: String,
    /// Whether it is kept.
    pub ok: bool,
}

impl Mark {
    /// Judges `value`, in `unit`, beside `control`.
    pub fn new(
        name: impl Into<String>,
        value: f64,
        unit: &str,
        control: Option<Control>,
        bound: Bound,
    ) -> Self {
        let beside = control.as_ref().map(|control| control.value);
        let words = bound.words(unit, control.as_ref().map(|control| control.name.as_str()));
        let ratio = beside.map(|beside| value / beside);
        Self {
            name: name.into(),
            value,
            unit: unit.to_owned(),
            ratio: ratio.filter(|ratio| ratio.is_finite()),
            mark: words,
            ok: value.is_finite() && bound.is_kept(value, beside),
            control,
        }
    }
}

impl Control {
    /// A control called `name` that measured `value`.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(value: f64, control: Option<f64>, bound: Bound) -> Mark {
        let control = control.map(|value| Control::new("cyclictest", value));
        Mark::new("max lateness", value, "µs", control, bound)
    }

    #[test]
    fn words_and_verdict_come_from_the_same_bound() {
        let kept = mark(6.0, Some(5.0), Bound::AtMostControlPlus(1.0));
        assert!(kept.ok);
        assert_eq!(kept.mark, "at most cyclictest's + 1 µs");
        assert_eq!(kept.ratio, Some(1.2));
        assert!(!mark(6.1, Some(5.0), Bound::AtMostControlPlus(1.0)).ok);
        assert!(mark(6.5, Some(5.0), Bound::AtMostControlTimes(1.3)).ok);
        assert!(!mark(6.6, Some(5.0), Bound::AtMostControlTimes(1.3)).ok);
        assert!(!mark(15.0, None, Bound::Below(15.0)).ok);
        assert!(mark(15.0, None, Bound::AtMost(15.0)).ok);
        assert!(!mark(4.9, Some(5.0), Bound::AtLeastControl).ok);
        assert!(mark(99.0, Some(5.0), Bound::Reported).ok);
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        assert!(!mark(f64::NAN, Some(5.0), Bound::AtMostControlPlus(0.0)).ok);
        assert!(!mark(1.0, None, Bound::AtMostControlPlus(0.0)).ok);
        assert!(!mark(1.0, Some(f64::NAN), Bound::AtLeastControl).ok);
        assert!(!mark(f64::NAN, None, Bound::Reported).ok);
        assert_eq!(mark(1.0, Some(0.0), Bound::Reported).ratio, None);
    }
}
