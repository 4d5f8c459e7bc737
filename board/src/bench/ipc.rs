//! `cargo xtask bench ipc`: calls over kairod's socket beside a raw socket, zbus and tonic.
//!
//! kairod runs as it is shipped, without a real-time plane; every control is a process of its own
//! too. `board/ipc-bench` measures all of them in turns, window by window. A mark's value is the
//! median over the windows; everything is in `raw`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::mark::{Bound, Control, Mark};
use super::outside;
use super::report::{Report, Run};
use crate::binaries::Binaries;
use crate::hosted::service::Service;
use crate::paths::Paths;
use crate::qemu::PrivateDirectory;

/// The allowance over a raw round trip, µs.
const ALLOWANCE_US: f64 = 8.0;
/// Pipelined calls a second.
const PIPELINED_MIN: f64 = 300_000.0;
/// How long kairod may take to start.
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
    let raw = json!({"found": found, "resident_bytes": resident.as_ref().ok()});
    Ok(run.end(marks(&found, resident.unwrap_or(f64::NAN)), raw))
}

/// What kairod says it has in memory.
fn resident_bytes(socket: &std::path::Path) -> anyhow::Result<f64> {
    let mut ipc = crate::demo::ipc::Ipc::connect(socket)?;
    let metrics = ipc.call("system.get_metrics", &json!({}))?;
    metrics["kairod"]["resident_bytes"]
        .as_f64()
        .context("no resident_bytes")
}

fn marks(found: &Value, resident_bytes: f64) -> Vec<Mark> {
    let of = |who: &str, quantile: &str| {
        let windows = found["calls"][who].as_array().into_iter().flatten();
        let values = windows.map(|window| window[quantile].as_f64().unwrap_or(f64::NAN));
        median(values.collect()) / 1000.0
    };
    let beside = |who: &str, quantile: &str, bound| {
        let control = Some(Control::new(who, of(who, quantile)));
        let name = format!("call, {quantile}, beside {who}");
        Mark::new(name, of("kairod", quantile), "µs", control, bound)
    };
    let pipelined = found["pipelined_per_s"].as_array().into_iter().flatten();
    let pipelined: Vec<f64> = pipelined.filter_map(Value::as_f64).collect();
    // Whatever else a shared machine does makes a window slower and none faster.
    let best = pipelined.iter().copied().reduce(f64::max);
    vec![
        beside("raw", "p50", Bound::AtMostControlPlus(ALLOWANCE_US)),
        beside("zbus", "p50", Bound::AtMostControlPlus(0.0)),
        beside("tonic", "p50", Bound::AtMostControlPlus(0.0)),
        beside("raw", "p99", Bound::Reported),
        beside("raw", "p999", Bound::Reported),
        beside("raw", "max", Bound::Reported),
        Mark::new(
            "pipelined calls, best window",
            best.unwrap_or(f64::NAN),
            "1/s",
            None,
            Bound::AtLeast(PIPELINED_MIN),
        ),
        Mark::new(
            "pipelined calls, median window",
            median(pipelined),
            "1/s",
            None,
            Bound::Reported,
        ),
        Mark::new(
            "kairod in memory after that",
            resident_bytes / 1e6,
            "MB",
            None,
            Bound::AtMost(30.0),
        ),
    ]
}

/// The middle value, the lower of two; not a number if there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_eight_microseconds_above_the_floor_is_kept_and_one_more_is_not() {
        let window = |ns: u64| json!([{"p50": ns, "p99": ns, "p999": ns, "max": ns}]);
        let found = |ours: u64| {
            json!({"calls": {"raw": window(10_000), "kairod": window(ours),
                             "zbus": window(20_000), "tonic": window(30_000)},
                   "pipelined_per_s": [250_000.0, 310_000.0]})
        };
        assert!(marks(&found(18_000), 1e7).iter().all(|mark| mark.ok));
        let slow = marks(&found(19_000), 1e7);
        assert!(!slow[0].ok && slow[1].ok);
        assert!(!marks(&json!({}), f64::NAN).iter().any(|mark| mark.ok));
    }
}
