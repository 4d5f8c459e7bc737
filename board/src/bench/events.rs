//! `bench events`: the event log beside SQLite doing the same rows, and under kills.
//!
//! Runs `agent-plane/events/examples/event_cost.rs` (appends, opening, replay) and
//! `event_torture.rs` (200 times SIGKILL), release profile, on the disk that holds `target`: in
//! memory a flush costs nothing, and the comparison would mean nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::mark::{Bound, Control, Mark};
use super::quantile::quantile;
use super::report::{Report, Run};
use crate::paths::Paths;

/// How often the process is killed.
const KILLS: u32 = 200;
/// What a synchronous append may take, in commits of SQLite alone.
const COMMITS_MAX: f64 = 1.3;
/// Events a second, written in batches and read again.
const EVENTS_PER_S: f64 = 200_000.0;
/// What opening a million events may take, ms.
const OPEN_MAX_MS: f64 = 1000.0;

/// Measures.
///
/// # Errors
/// When a program cannot be built or run.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    let run = Run::begin("events", paths, "none");
    let name = format!("target/bench-events-{}", std::process::id());
    let directory = paths.workspace().join(name);
    std::fs::create_dir_all(&directory).context("cannot make a directory for the logs")?;
    let measured = measure(paths, &directory);
    // What was measured counts, whether or not it can be tidied up.
    let _ = std::fs::remove_dir_all(&directory);
    let raw = measured?;
    Ok(run.end(marks(&raw), raw))
}

fn measure(paths: &Paths, directory: &Path) -> anyhow::Result<Value> {
    let text = directory.to_string_lossy().into_owned();
    let cost = example(paths, "event_cost", &[&text])?;
    let seed = std::process::id().to_string();
    let kills = KILLS.to_string();
    let killed = directory.join("killed");
    std::fs::create_dir_all(&killed)?;
    let killed = killed.to_string_lossy().into_owned();
    let kills = example(paths, "event_torture", &[&killed, &kills, &seed])?;
    Ok(json!({"cost": cost, "kills": kills}))
}

/// Runs an example of kairo-events and reads what it printed.
fn example(paths: &Paths, name: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = Command::new("cargo")
        .current_dir(paths.workspace())
        .args(["run", "--quiet", "--release", "--locked"])
        .args(["-p", "kairo-events", "--example", name, "--"])
        .args(arguments)
        .output()
        .context("cargo cannot be started")?;
    ensure!(
        output.status.success(),
        "{name} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("the output of {name}"))
}

/// The numbers in a list.
fn numbers(values: &Value) -> Vec<f64> {
    let values = values.as_array().map_or(&[][..], Vec::as_slice);
    values.iter().filter_map(Value::as_f64).collect()
}

fn marks(raw: &Value) -> Vec<Mark> {
    let cost = |name: &str, share: f64| quantile(&numbers(&raw["cost"][name]), share);
    let commit = |share: f64| {
        let value = cost("raw_commit_ns", share) / 1000.0;
        Some(Control::new("SQLite's commit of the same row", value))
    };
    let append = |name: &str, share: f64, bound: Bound| {
        let value = cost("synchronous_ns", share) / 1000.0;
        Mark::new(name, value, "µs", commit(share), bound)
    };
    let reported = Bound::Reported;
    let rate = |name: &str, key: &str, control: Option<&str>, bound: Bound| {
        let control = control.map(|key| Control::new("SQLite, 256 a commit", cost(key, 0.5)));
        Mark::new(name, cost(key, 0.5), "/s", control, bound)
    };
    let least = Bound::AtLeast(EVENTS_PER_S);
    let batched_raw = Some("raw_batched_per_s");
    let relations = "batched_with_id_stream_correlation_per_s";
    let none = |name: &str, key: &str| {
        let value = raw["kills"][key].as_f64().unwrap_or(f64::NAN);
        Mark::new(name, value, "", None, Bound::AtMost(0.0))
    };
    let told = |name: &str, key: &str| {
        let value = raw["kills"][key].as_f64().unwrap_or(f64::NAN);
        Mark::new(name, value, "", None, reported)
    };
    let open_ms = cost("open_ns", 1.0) / 1e6;
    vec![
        append(
            "synchronous append, median",
            0.5,
            Bound::AtMostControlTimes(COMMITS_MAX),
        ),
        append("synchronous append, p99", 0.99, reported),
        append("synchronous append, p99.9", 0.999, reported),
        append("synchronous append, max", 1.0, reported),
        rate("batched appends", "batched_per_s", batched_raw, least),
        rate("with id, stream, correlation", relations, None, reported),
        Mark::new(
            "open a million events, max",
            open_ms,
            "ms",
            None,
            Bound::Below(OPEN_MAX_MS),
        ),
        rate("replay a million events", "replay_per_s", None, least),
        rate(
            "replay two thirds of them",
            "replay_filtered_per_s",
            None,
            reported,
        ),
        told("processes killed", "kills"),
        told("events acknowledged", "acknowledged"),
        none("of them lost", "lost"),
        none("numbers given out twice", "reused_numbers"),
        told("effects done", "effects"),
        none("of them done twice", "duplicate_effects"),
        none("of them lost after they were told", "lost_effects"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(append: f64, batched: f64, lost: u32) -> Value {
        json!({
            "cost": {
                "synchronous_ns": [append], "raw_commit_ns": [100_000.0],
                "batched_per_s": [batched], "raw_batched_per_s": [400_000.0],
                "batched_with_id_stream_correlation_per_s": [1.0],
                "open_ns": [5e6], "replay_per_s": [200_000.0], "replay_filtered_per_s": [1.0],
            },
            "kills": {
                "kills": 200, "acknowledged": 5, "lost": lost, "effects": 5,
                "duplicate_effects": 0, "lost_effects": 0, "reused_numbers": 0,
            },
        })
    }

    #[test]
    fn each_bound_is_kept_at_it_and_missed_beyond() {
        let missed = |raw: &Value| -> Vec<String> {
            let marks = marks(raw).into_iter().filter(|mark| !mark.ok);
            marks.map(|mark| mark.name).collect()
        };
        assert_eq!(missed(&raw(130_000.0, 200_000.0, 0)), [""; 0]);
        let slow = missed(&raw(130_001.0, 199_999.0, 1));
        let names = [
            "synchronous append, median",
            "batched appends",
            "of them lost",
        ];
        assert_eq!(slow, names);
        assert!(
            !missed(&json!({})).is_empty(),
            "what was not measured is missed"
        );
    }
}
