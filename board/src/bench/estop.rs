//! `bench estop`: from a pulled e-stop wire to the tick that stops the robot, and to its servos.
//!
//! Runs in the lab's image in instruction time: the wires are lines of a simulated chip of the
//! guest's kernel, the way from there on is the product's own. Ticks are counted from kairo-rt's
//! statistics and do not depend on the machine that this runs on; times are instruction-µs, and
//! say nothing about a board's interrupt.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::mark::{Bound, Mark};
use super::report::{Report, Run};
use crate::kernel::{self, Arch};
use crate::latency::Mode;
use crate::latency::guest::{Guest, build_image};
use crate::needs::{self, Work};
use crate::paths::Paths;

/// How often the wire is pulled.
const PULLS: usize = 200;
/// Longest run, guest time.
const TIME: Duration = Duration::from_secs(120);
/// The allowance over a tick, µs, as for commands.
const ALLOWANCE_US: f64 = 30.0;

/// Measures.
///
/// # Errors
/// When the guest does not run, or the e-stop does not.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    needs::ensure(
        paths,
        Work::Machine {
            builds_kernel: true,
        },
    )?;
    let run = Run::begin("estop", paths, "icount");
    let kernel = kernel::build(paths, Arch::X86_64)?.image;
    let image = build_image(paths, &kernel)?;
    let mut guest = Guest::boot(&image, &paths.out_dir("bench-estop")?, Mode::Instruction)?;
    let argv = ["/usr/bin/kairo-lab", "estop", "--pulls", &PULLS.to_string()].map(String::from);
    let found = guest.lab(&argv, TIME, Mode::Instruction)?;
    Ok(run.end(marks(&found)?, found))
}

fn marks(found: &Value) -> anyhow::Result<Vec<Mark>> {
    let period_us = &found["account"]["loops"][0]["period_us"];
    let period_us = period_us.as_f64().context("no period")?;
    let ticks = column(found, "ticks")?;
    let from_seen = column(found, "ticks_from_seen")?;
    let micros = |name| column(found, name).map(|each| each.map(|ns| ns / 1e3));
    let seen = micros("to_seen_ns")?;
    let decided = micros("to_decided_ns")?;
    let servos = micros("to_servos_ns")?;
    let a_tick = Bound::AtMost(1.0);
    let in_time = Bound::AtMost(period_us + ALLOWANCE_US);
    let reported = |name: &str, value: f64| Mark::new(name, value, "µs", None, Bound::Reported);
    Ok(vec![
        Mark::new(
            "wire to safe output, max",
            ticks.max(),
            "ticks",
            None,
            a_tick,
        ),
        Mark::new(
            "seen to safe output, max",
            from_seen.max(),
            "ticks",
            None,
            a_tick,
        ),
        Mark::new(
            "wire to safe output, max",
            decided.max(),
            "µs",
            None,
            in_time,
        ),
        reported("wire to safe output, p50", decided.quantile(0.5)),
        reported("wire to seen, p50", seen.quantile(0.5)),
        reported("wire to seen, max", seen.max()),
        reported("wire to the servos' line, p50", servos.quantile(0.5)),
        reported("wire to the servos' line, max", servos.max()),
    ])
}

/// One value of every pull, in order of size.
struct Column(Vec<f64>);

fn column(found: &Value, name: &str) -> anyhow::Result<Column> {
    let pulls = found["pulls"].as_array().context("no pulls")?;
    let values = pulls.iter().map(|pull| pull[name].as_f64());
    let mut values: Vec<f64> = values
        .collect::<Option<_>>()
        .with_context(|| format!("a pull without {name}: {}", json!(pulls)))?;
    ensure!(!values.is_empty(), "no pulls");
    values.sort_by(f64::total_cmp);
    Ok(Column(values))
}

impl Column {
    fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }

    fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The value below which `share` of all lie: the nearest rank, never interpolated.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ticks: u64, decided_ns: u64) -> Value {
        json!({
            "account": {"loops": [{"period_us": 4000}]},
            "pulls": [{
                "ticks": ticks, "ticks_from_seen": 1, "to_seen_ns": 900,
                "to_decided_ns": decided_ns, "to_servos_ns": decided_ns + 1,
            }],
        })
    }

    #[test]
    fn two_ticks_and_a_period_and_a_half_miss_their_marks() {
        let kept = |ticks, ns| -> Vec<bool> {
            let marks = marks(&found(ticks, ns)).unwrap();
            marks.iter().map(|mark| mark.ok).take(3).collect()
        };
        assert_eq!(kept(1, 4_030_000), [true, true, true]);
        assert_eq!(kept(2, 4_030_000), [false, true, true]);
        assert_eq!(kept(1, 4_031_000), [true, true, false]);
        assert!(marks(&json!({"pulls": []})).is_err());
    }
}
