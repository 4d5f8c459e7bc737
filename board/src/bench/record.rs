//! `bench record`: what the flight recorder adds to a tick.
//!
//! Runs `rt-core/examples/record_cost.rs`, release profile: the same entries through a tap that is
//! off (the control) and one that records, in turns, in one process.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::mark::{Bound, Control, Mark};
use super::quantile::quantile;
use super::report::{Report, Run};
use crate::paths::Paths;

/// What recording may add to a tick, ns: a thousandth of a 1 kHz period.
const ADDED_MAX_NS: f64 = 1000.0;

/// Measures.
///
/// # Errors
/// When the program cannot be built or run.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    let run = Run::begin("record", paths, "none");
    let output = Command::new("cargo")
        .current_dir(paths.workspace())
        .args(["run", "--quiet", "--release", "--locked", "-p", "kairo-rt"])
        .args(["--example", "record_cost"])
        .output()
        .context("cargo cannot be started")?;
    ensure!(
        output.status.success(),
        "record_cost failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let raw: Value = serde_json::from_slice(&output.stdout).context("record_cost's output")?;
    Ok(run.end(marks(&raw), raw))
}

/// A quantile of a list of numbers; NaN of none.
fn quantile_of(values: &Value, share: f64) -> f64 {
    let values = values.as_array().map_or(&[][..], Vec::as_slice);
    let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
    quantile(&numbers, share)
}

fn marks(raw: &Value) -> Vec<Mark> {
    let control = |share| {
        Some(Control::new(
            "the same tick, not recorded",
            quantile_of(&raw["off_ns"], share),
        ))
    };
    let live = |share| quantile_of(&raw["live_ns"], share);
    let within = Bound::AtMostControlPlus(ADDED_MAX_NS);
    let single = |share| quantile_of(&raw["single_ns"], share);
    let reported = |name: &str, value| Mark::new(name, value, "ns", None, Bound::Reported);
    vec![
        Mark::new(
            "record a tick, median",
            live(0.5),
            "ns",
            control(0.5),
            within,
        ),
        Mark::new(
            "record a tick, p99 of rounds",
            live(0.99),
            "ns",
            control(0.99),
            Bound::Reported,
        ),
        reported("one recorded tick with the clock, p99", single(0.99)),
        reported("one recorded tick with the clock, max", single(1.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_microsecond_more_is_kept_and_two_are_not() {
        let raw = |live: f64| json!({"off_ns": [50.0], "live_ns": [live], "single_ns": [60.0]});
        assert!(marks(&raw(1050.0)).iter().all(|mark| mark.ok));
        assert!(!marks(&raw(2050.0))[0].ok);
        assert!(!marks(&json!({}))[0].ok, "what was not measured is missed");
    }
}
