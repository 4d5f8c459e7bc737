//! `cargo xtask bench ipc`: calls over kairod's socket beside a raw socket, zbus and tonic; events
//! to a hundred subscribers, one of which stalls; and a kairod that has nothing to do.
//!
//! kairod runs as it is shipped, without a real-time plane; every control is a process of its own
//! too. `board/ipc-bench` measures all of them in turns, window by window, in two placements:
//! caller and server on one core, and on two. A mark's value is the median over the windows;
//! everything is in `raw`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::idle::{self, Idle};
use super::mark::{Bound, Control, Mark};
use super::outside;
use super::quantile::median;
use super::report::{Report, Run};
use super::subscribers;
use crate::binaries::Binaries;
use crate::demo::ipc::Ipc;
use crate::hosted::service::Service;
use crate::hosted::{self, Hosted};
use crate::paths::Paths;
use crate::qemu::PrivateDirectory;

/// The allowance over a raw round trip, µs.
const ALLOWANCE_US: f64 = 8.0;
/// Pipelined calls a second.
const PIPELINED_MIN: f64 = 300_000.0;
/// What an idle kairod may weigh, MB.
const RESIDENT_MAX_MB: f64 = 30.0;
/// How long kairod may take to start, and to find a real-time plane.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures.
///
/// # Errors
/// When something cannot be built or run.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    let binaries = Binaries::build(paths)?;
    let program = outside::build(paths, "ipc-bench")?;
    let run = Run::begin("ipc", paths, "none");
    let directory = PrivateDirectory::new()?;
    let below = |name: &str| directory.path().join(name).display().to_string();
    let arguments = [
        "--run-dir".to_string(),
        directory.path().display().to_string(),
        "--state-dir".to_string(),
        below("state"),
        "--policy".to_string(),
        below("policy.toml"),
    ];
    let log = directory.path().join("kairod.log");
    let kairod = Service::start("kairod", &binaries.path("kairod"), &arguments, &log)?;
    let socket = directory.path().join("kernel.sock");
    let until = Instant::now() + PATIENCE;
    while !socket.exists() {
        ensure!(Instant::now() < until, "kairod does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let idle = idle::watch(kairod.process().context("kairod is gone")?)?;
    let resting = resident_bytes(&socket);
    let output = Command::new(&program).arg(&socket).output()?;
    let resident = resident_bytes(&socket);
    kairod.stop();
    ensure!(
        output.status.success(),
        "{} ended with {}: {}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).context("its output")?;
    let linked = linked_idle(paths, &binaries)?;
    let raw = json!({"found": found, "resident_bytes": resident.as_ref().ok(),
                     "idle": idle, "idle_resident_bytes": resting.as_ref().ok(),
                     "linked_idle": linked});
    let mut marks = marks(&found);
    marks.extend(subscribers::marks(&found["subscribers"]));
    marks.extend(resting_marks(&idle, &linked));
    let weight = |name: &str, bytes: anyhow::Result<f64>| {
        let megabytes = bytes.unwrap_or(f64::NAN) / 1e6;
        Mark::new(name, megabytes, "MB", None, Bound::AtMost(RESIDENT_MAX_MB))
    };
    marks.push(weight("kairod in memory, idle", resting));
    marks.push(weight("kairod in memory, after all that", resident));
    Ok(run.end(marks, raw))
}

/// A kairod that is linked to a kairo-rt whose arm stands still.
fn linked_idle(paths: &Paths, binaries: &Binaries) -> anyhow::Result<Idle> {
    let hosted = Hosted::start(paths, binaries, &hosted::Options::default())?;
    let until = Instant::now() + PATIENCE;
    loop {
        let status = Ipc::connect(&hosted.ipc_socket())
            .and_then(|mut ipc| ipc.call("rt.status", &json!({})));
        match status {
            Ok(status) if status["connected"] == true => break,
            _ => ensure!(Instant::now() < until, "kairod finds no real-time plane"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    idle::watch(hosted.kairod.process().context("kairod is gone")?)
}

fn resting_marks(idle: &Idle, linked: &Idle) -> Vec<Mark> {
    let wakeups = |name: &str, idle: &Idle, bound| {
        let name = format!("wake-ups of an idle kairod, {name}");
        Mark::new(name, idle.wakeups_per_s, "1/s", None, bound)
    };
    vec![
        wakeups("no real-time plane", idle, Bound::AtMost(1.0)),
        // kairo-rt rings every 10 ms while it has new states, whoever listens.
        wakeups("linked to a robot that runs", linked, Bound::Reported),
    ]
}

/// What kairod says it has in memory.
fn resident_bytes(socket: &std::path::Path) -> anyhow::Result<f64> {
    let mut ipc = Ipc::connect(socket)?;
    let metrics = ipc.call("system.get_metrics", &json!({}))?;
    metrics["kairod"]["resident_bytes"]
        .as_f64()
        .context("no resident_bytes")
}

fn marks(found: &Value) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (placement, words) in [("same_core", "on one core"), ("two_cores", "on two cores")] {
        let calls = &found["calls"][placement];
        let of = |who: &str, quantile: &str| {
            let windows = calls[who].as_array().into_iter().flatten();
            let values = windows.map(|window| window[quantile].as_f64().unwrap_or(f64::NAN));
            median(&values.collect::<Vec<f64>>()) / 1000.0
        };
        let beside = |who: &str, quantile: &str, bound| {
            let control = Some(Control::new(who, of(who, quantile)));
            let name = format!("call {words}, {quantile}, beside {who}");
            Mark::new(name, of("kairod", quantile), "µs", control, bound)
        };
        marks.extend([
            beside("raw", "p50", Bound::AtMostControlPlus(ALLOWANCE_US)),
            beside("zbus", "p50", Bound::AtMostControlPlus(0.0)),
            beside("tonic", "p50", Bound::AtMostControlPlus(0.0)),
        ]);
        let reported = |quantile| beside("raw", quantile, Bound::Reported);
        marks.extend(["p99", "p999", "max"].map(reported));
        let rates = found["pipelined_per_s"][placement].as_array();
        let rates: Vec<f64> = rates
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect();
        marks.push(Mark::new(
            format!("pipelined calls {words}, median window"),
            median(&rates),
            "1/s",
            None,
            Bound::AtLeast(PIPELINED_MIN),
        ));
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ours_ns: u64, pipelined_per_s: f64) -> Value {
        let window = |ns: u64| json!([{"p50": ns, "p99": ns, "p999": ns, "max": ns}]);
        let calls = json!({"raw": window(10_000), "kairod": window(ours_ns),
                           "zbus": window(20_000), "tonic": window(30_000)});
        json!({"calls": {"same_core": calls, "two_cores": calls},
               "pipelined_per_s": {"same_core": [pipelined_per_s],
                                   "two_cores": [pipelined_per_s]}})
    }

    #[test]
    fn a_call_eight_microseconds_above_the_floor_is_kept_and_one_more_is_not() {
        assert!(marks(&found(18_000, 3e5)).iter().all(|mark| mark.ok));
        let slow = marks(&found(19_000, 3e5));
        assert!(!slow[0].ok && slow[1].ok);
        let slower = marks(&found(21_000, 2.9e5));
        assert!(!slower[1].ok && slower[2].ok && !slower[6].ok);
        assert!(!marks(&json!({})).iter().any(|mark| mark.ok));
    }

    #[test]
    fn a_placement_that_is_missing_is_missed_and_the_other_is_not() {
        let mut half = found(18_000, 3e5);
        half["calls"]["two_cores"] = Value::Null;
        let marks = marks(&half);
        assert!(marks[0].ok && !marks[7].ok);
    }

    #[test]
    fn more_than_a_wakeup_a_second_is_missed() {
        let idle = |wakeups_per_s| Idle {
            wakeups_per_s,
            by_thread: std::collections::BTreeMap::new(),
            processor_ms: 0,
            span_s: 20.0,
        };
        assert!(resting_marks(&idle(1.0), &idle(100.0))[0].ok);
        assert!(!resting_marks(&idle(1.1), &idle(0.0))[0].ok);
    }
}
