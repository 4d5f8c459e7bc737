//! The marks of a hundred subscribers, one of which does not read.
//!
//! `board/ipc-bench/src/subscribers.rs` measures; here the windows with a stalled one are compared
//! with those without, for each policy.

use serde_json::Value;

use super::mark::{Bound, Control, Mark};
use super::quantile::median;

/// How much longer the others may wait.
const FACTOR: f64 = 1.2;
/// What kairod may weigh with a hundred subscribers, MB: 30 when idle, 8.4 of events that the bus
/// keeps, and for each of 101 connections 0.328, a queue of 256 KiB and a batch of 64 KiB.
const RESIDENT_MAX_MB: f64 = 71.5;

/// The marks of what was measured.
pub fn marks(found: &Value) -> Vec<Mark> {
    ["drop", "block"]
        .into_iter()
        .flat_map(|policy| marks_of(policy, &found[policy]))
        .collect()
}

fn marks_of(policy: &str, found: &Value) -> Vec<Mark> {
    let all = |kind: &str, pointer: &str| -> Vec<f64> {
        let windows = found[kind].as_array().into_iter().flatten();
        let values = windows.map(|window| window.pointer(pointer).and_then(Value::as_f64));
        values.map(|value| value.unwrap_or(f64::NAN)).collect()
    };
    let most = |values: &[f64]| values.iter().copied().reduce(larger).unwrap_or(f64::NAN);
    let delay = |kind: &str, quantile: &str| median(&all(kind, quantile)) / 1000.0;
    let control = |quantile: &str| Some(Control::new("none stalled", delay("free", quantile)));
    let mark = |name: &str, value: f64, unit: &str, control, bound| {
        Mark::new(
            format!("100 subscribers, {policy}, one stalled: {name}"),
            value,
            unit,
            control,
            bound,
        )
    };
    let stalled = |quantile: &str| delay("stalled", quantile);
    let bytes = all("stalled", "/resident_bytes");
    let told = all("stalled", "/last_one/told_lost");
    let least_told = told.iter().copied().reduce(smaller).unwrap_or(f64::NAN);
    let untold = most(&all("stalled", "/last_one/untold"));
    let times = Bound::AtMostControlTimes(FACTOR);
    let reported = Bound::Reported;
    vec![
        mark(
            "delivery to others, p50",
            stalled("/p50"),
            "µs",
            control("/p50"),
            reported,
        ),
        mark(
            "delivery to others, p99",
            stalled("/p99"),
            "µs",
            control("/p99"),
            times,
        ),
        mark(
            "delivery to others, p999",
            stalled("/p999"),
            "µs",
            control("/p999"),
            reported,
        ),
        mark(
            "events it is told to have lost",
            least_told,
            "",
            None,
            Bound::AtLeast(1.0),
        ),
        mark(
            "events neither given nor told",
            untold,
            "",
            None,
            Bound::AtMost(0.0),
        ),
        mark(
            "kairod in memory",
            most(&bytes) / 1e6,
            "MB",
            None,
            Bound::AtMost(RESIDENT_MAX_MB),
        ),
    ]
}

/// The larger; what was not measured counts as such, unlike in [`f64::max`].
fn larger(one: f64, other: f64) -> f64 {
    if one.is_nan() || one > other {
        one
    } else {
        other
    }
}

/// The smaller, in the same way.
fn smaller(one: f64, other: f64) -> f64 {
    if one.is_nan() || one < other {
        one
    } else {
        other
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(stalled_ns: u64, told: u64, untold: u64, bytes: u64) -> Value {
        let window = |ns: u64| {
            json!({"p50": ns, "p99": ns, "p999": ns, "max": ns, "resident_bytes": bytes,
                   "last_one": {"received": 1, "told_lost": told, "untold": untold}})
        };
        let policy = json!({"free": [window(1_000)], "stalled": [window(stalled_ns)]});
        json!({"drop": policy, "block": policy})
    }

    fn missed(found: &Value) -> usize {
        marks(found).iter().filter(|mark| !mark.ok).count()
    }

    #[test]
    fn others_wait_at_most_a_fifth_longer_and_the_stalled_one_is_told() {
        assert_eq!(missed(&found(1_200, 1, 0, 70_000_000)), 0);
        assert_eq!(missed(&found(1_201, 1, 0, 0)), 2);
        assert_eq!(
            missed(&found(1_200, 0, 0, 0)),
            2,
            "it lost nothing, so it proves nothing"
        );
        assert_eq!(missed(&found(1_200, 1, 1, 0)), 2);
        assert_eq!(missed(&found(1_200, 1, 0, 72_000_000)), 2);
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        assert!(!marks(&json!({})).iter().any(|mark| mark.ok));
        let mut half = found(1_200, 1, 0, 0);
        half["drop"]["stalled"][0]["last_one"] = Value::Null;
        assert_eq!(missed(&half), 2);
    }
}
