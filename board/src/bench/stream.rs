//! `cargo xtask bench stream`: a gigabyte from a service through kairod to a client.
//!
//! kairod runs as it is shipped, without a real-time plane. `board/ipc-bench` sends the same
//! content over a raw socket, through a raw relay, through kairod inline and through kairod in
//! descriptors, in turns; every sender is a process of its own. A mark's value is the median over
//! the windows. The throughput that is judged is that of descriptors: an inline stream is copied
//! through a third process, and is reported beside a relay that does nothing else. Descriptors that
//! the sender passes directly to the reader say how much of it is kairod's doing. kairod's memory
//! is looked at all the while.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The share of a raw socket's throughput, as how many times as long as it may take.
const SHARE: f64 = 0.7;
/// kairod's memory, MB, and what is in flight beside it: a window and a queue.
const RESIDENT_MAX_MB: f64 = 30.0;
const IN_FLIGHT_MB: f64 = 1.0;
/// How long kairod may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Measures.
///
/// # Errors
/// When something cannot be built or run.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    let binaries = Binaries::build(paths)?;
    let program = outside::build(paths, "ipc-bench")?;
    let run = Run::begin("stream", paths, "none");
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
    let pid = kairod.process().context("kairod has no process")?;
    let done = AtomicBool::new(false);
    let (output, resident_mb) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| most_resident_mb(pid, &done));
        let output = Command::new(&program).arg("stream").arg(&socket).output();
        done.store(true, Ordering::Relaxed);
        (output, looking.join().unwrap_or(f64::NAN))
    });
    let output = output?;
    kairod.stop();
    ensure!(
        output.status.success(),
        "{} ended with {}: {}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).context("its output")?;
    let raw = json!({"found": found, "resident_mb": resident_mb});
    Ok(run.end(marks(&found, resident_mb), raw))
}

/// The most that process `pid` has in memory until `done`, MB; not a number if it cannot be seen.
fn most_resident_mb(pid: u32, done: &AtomicBool) -> f64 {
    let path = format!("/proc/{pid}/status");
    let mut most = f64::NAN;
    while !done.load(Ordering::Relaxed) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        // `max` of a number and NaN is the number.
        most = most.max(kilobytes.map_or(f64::NAN, |kilobytes| kilobytes * 1024.0 / 1e6));
        std::thread::sleep(LOOK);
    }
    most
}

fn marks(found: &Value, resident_mb: f64) -> Vec<Mark> {
    let rate = |way: &str| {
        let windows = found[format!("{way}_bytes_per_s")].as_array();
        let rates = windows.into_iter().flatten();
        let mut rates: Vec<f64> = rates.filter_map(Value::as_f64).collect();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len().saturating_sub(1) / 2;
        rates.get(middle).copied().unwrap_or(f64::NAN) / 1e6
    };
    let beside = |name: &str, way: &str, control: &str, bound| {
        let control = Some(Control::new(control.replace('_', " "), rate(control)));
        Mark::new(name, rate(way), "MB/s", control, bound)
    };
    // The control is the raw socket's share: the mark is met when ours is at least that.
    let share = Control::new(format!("{SHARE} of a raw socket"), SHARE * rate("raw"));
    vec![
        Mark::new(
            "stream of 1 GiB in descriptors",
            rate("descriptor"),
            "MB/s",
            Some(share),
            Bound::AtLeastControl,
        ),
        Mark::new("raw socket", rate("raw"), "MB/s", None, Bound::Reported),
        beside(
            "stream in descriptors",
            "descriptor",
            "relay",
            Bound::Reported,
        ),
        beside("the same", "descriptor", "raw_descriptor", Bound::Reported),
        beside("stream inline", "inline", "relay", Bound::Reported),
        Mark::new(
            "kairod in memory meanwhile, most",
            resident_mb,
            "MB",
            None,
            Bound::AtMost(RESIDENT_MAX_MB + IN_FLIGHT_MB),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_tenths_of_a_raw_socket_are_enough_and_less_is_not() {
        let found = |ours: f64| {
            json!({"raw_bytes_per_s": [1e9, 9e8, 2e9], "relay_bytes_per_s": [5e8],
                   "raw_descriptor_bytes_per_s": [8e8],
                   "inline_bytes_per_s": [3e8], "descriptor_bytes_per_s": [ours]})
        };
        assert!(marks(&found(7e8), 12.0).iter().all(|mark| mark.ok));
        assert!(!marks(&found(6.9e8), 12.0)[0].ok);
        assert!(marks(&found(7e8), 31.5).iter().any(|mark| !mark.ok));
        assert!(!marks(&json!({}), f64::NAN).iter().any(|mark| mark.ok));
    }
}
