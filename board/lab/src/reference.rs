//! A window of cyclictest, where and as kairo-rt runs: same cgroup, policy, priority, core, period,
//! memory locked. Its samples are put into the histogram kairo-rt uses, so that rounding to buckets
//! is the same on both sides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kairo_link::histogram::{Histogram, Snapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::robot::{LAB_DIR, Timing};
use crate::session;

/// Its wake-ups lie where the loop's do: kairo-rt's default phase, as far from the kernel's tick.
const PHASE_US: u64 = 250;
/// Its histogram reaches this far in whole ns: 400 µs.
const HISTOGRAM_NS: u64 = 400_000;
/// The same in whole µs: 40 ms.
const HISTOGRAM_US: u64 = 40_000;

/// From its start to its first wake-up, at most.
const ALIGNED: Duration = Duration::from_millis(2250);

/// The unit cyclictest counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Single ns, up to [`HISTOGRAM_NS`]: instruction time.
    Nanoseconds,
    /// Whole µs, rounded down: wall time.
    Microseconds,
}

impl Resolution {
    const fn unit_ns(self) -> u64 {
        match self {
            Self::Nanoseconds => 1,
            Self::Microseconds => 1000,
        }
    }
}

/// What cyclictest saw.
#[derive(Debug)]
pub struct Window {
    /// Wake-ups.
    pub cycles: u64,
    /// Their lateness.
    pub lateness: Snapshot,
}

/// The arguments it runs with; without a duration it runs until it is interrupted.
pub fn arguments(
    timing: Timing,
    duration: Option<Duration>,
    resolution: Resolution,
) -> Vec<String> {
    let Timing {
        period_us,
        priority,
        core,
    } = timing;
    let histogram = match resolution {
        Resolution::Nanoseconds => format!("--nsecs --histogram={HISTOGRAM_NS}"),
        Resolution::Microseconds => format!("--histogram={HISTOGRAM_US}"),
    };
    let duration = duration.map_or(String::new(), |duration| {
        format!("--duration={}", duration.as_secs().max(1))
    });
    format!(
        "--quiet --threads=1 --mlockall --priority={priority} --affinity={core} \
         --interval={period_us} --secaligned={PHASE_US} {duration} {histogram}"
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect()
}

/// Runs it for `duration`.
///
/// # Errors
/// When it fails, or its result is not understood.
pub fn measure(
    timing: Timing,
    duration: Duration,
    resolution: Resolution,
) -> anyhow::Result<Window> {
    let child = start(timing, Some(duration), resolution)?;
    finish(child, resolution)
}

/// Runs it while `during` does something to the machine.
///
/// # Errors
/// As [`measure`], and what `during` says.
pub fn measure_during<T>(
    timing: Timing,
    resolution: Resolution,
    during: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Window, T)> {
    let child = start(timing, None, resolution)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // Aligned to the second, its first wake-up is up to two seconds away.
    std::thread::sleep(ALIGNED);
    let done = during();
    kill(pid, Signal::SIGINT)?;
    let window = finish(child, resolution)?;
    Ok((window, done?))
}

fn start(
    timing: Timing,
    duration: Option<Duration>,
    resolution: Resolution,
) -> anyhow::Result<Child> {
    let mut command = Command::new("/usr/bin/cyclictest");
    command
        .args(arguments(timing, duration, resolution))
        .arg(format!("--json={}", result_file().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    session::join_on_start(&mut command, session::RT_CGROUP, None);
    command.spawn().context("cyclictest does not start")
}

fn finish(mut child: Child, resolution: Resolution) -> anyhow::Result<Window> {
    let status = child.wait()?;
    ensure!(status.success(), "cyclictest ended with {status}");
    let result = result_file();
    let text = fs::read_to_string(&result).with_context(|| result.display().to_string())?;
    let value: Value = serde_json::from_str(&text).context("cyclictest's result")?;
    understand(&value["thread"]["0"], resolution)
        .with_context(|| format!("cyclictest's result is not understood: {text}"))
}

fn result_file() -> PathBuf {
    Path::new(LAB_DIR).join("cyclictest.json")
}

/// Samples beyond its histogram count at its maximum, so that none is lost.
fn understand(thread: &Value, resolution: Resolution) -> Option<Window> {
    let unit_ns = resolution.unit_ns();
    let lateness = Histogram::default();
    let mut inside = 0;
    for (value, count) in thread["histogram"].as_object()? {
        let value_ns = value.parse::<u64>().ok()? * unit_ns;
        let count = count.as_u64()?;
        inside += count;
        (0..count).for_each(|_| lateness.record(value_ns));
    }
    let cycles = thread["cycles"].as_u64()?;
    let max_ns = thread["max"].as_u64()? * unit_ns;
    (inside..cycles).for_each(|_| lateness.record(max_ns));
    Some(Window {
        cycles,
        lateness: lateness.snapshot(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_sample_of_cyclictest_is_lost() {
        let thread = json!({"histogram": {"3": 2, "4": 1}, "cycles": 4, "max": 900_000});
        let window = understand(&thread, Resolution::Microseconds).unwrap();
        assert_eq!((window.cycles, window.lateness.count), (4, 4));
        assert_eq!(window.lateness.max_ns, 900_000_000);
        assert!(understand(&json!({"cycles": 4}), Resolution::Nanoseconds).is_none());
    }
}
