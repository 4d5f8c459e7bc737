//! The production kairo-rt as the lab runs it, and its statistics.
//!
//! The binary is the image's own; only its configuration is the lab's. kairo-init's kairo-rt is
//! stopped before, so kairod and everything else find this one in its place.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kairo_link::lines::{self, LineDescription, LineKind, LinesReport, PUMP_BIT, RESET_BIT};
use kairo_link::segment::{Kind, PeerAccess, Segment};
use kairo_link::stats::{self, PeriodStats, Stats, ThreadStats};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::measure::distribution;
use crate::robot::{LAB_DIR, RUN_DIR, Robot, line};
use crate::session;

/// Longest bring-up: the timers' calibration, and 50 warm-up periods.
const ARMED: Duration = Duration::from_secs(30);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(10);
/// A SCHED_FIFO priority below the plane's and above everybody's: the simulated arm stands for
/// hardware, which does not wait for agents.
const ARM_PRIORITY: i32 = 60;

/// A running program that is killed when this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the simulated arm inside the guest.
///
/// # Errors
/// When it does not start or makes no line.
pub fn start_arm() -> anyhow::Result<Running> {
    start(Command::new("/usr/bin/kairo-arm-sim"))
}

/// Starts the simulated arm, which answers at `control`.
///
/// # Errors
/// As [`start_arm`].
pub fn start_arm_with_control(control: &Path) -> anyhow::Result<Running> {
    let mut command = Command::new("/usr/bin/kairo-arm-sim");
    command.arg("--control").arg(control);
    start(command)
}

fn start(mut command: Command) -> anyhow::Result<Running> {
    command.arg("--pty").arg(line()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().context("kairo-arm-sim does not start")?);
    let pid = i32::try_from(running.0.id())?;
    let parameters = libc::sched_param {
        sched_priority: ARM_PRIORITY,
    };
    // SAFETY: the child lives, as it is not waited for yet; the kernel only reads `parameters`.
    let set = unsafe { libc::sched_setscheduler(pid, libc::SCHED_FIFO, &raw const parameters) };
    if set != 0 {
        bail!("kairo-arm-sim gets no SCHED_FIFO: {}", nix::Error::last());
    }
    let end = Instant::now() + ARMED;
    while !line().exists() {
        if Instant::now() > end {
            bail!("kairo-arm-sim made no line at {}", line().display());
        }
        std::thread::sleep(POLL);
    }
    Ok(running)
}

/// kairo-rt, armed.
#[derive(Debug)]
pub struct Plane {
    child: Child,
    stats: Stats,
}

impl Plane {
    /// Starts it and waits until it is armed.
    ///
    /// # Errors
    /// With what it said, when it does not arm.
    pub fn start(robot: Robot, config: &Path) -> anyhow::Result<Self> {
        let said = Path::new(LAB_DIR).join("kairo-rt.log");
        let log = fs::File::create(&said).with_context(|| said.display().to_string())?;
        let mut command = Command::new("/usr/bin/kairo-rt");
        command
            .arg("--config")
            .arg(config)
            .args(["--agent-uid", &session::AGENT.0.to_string()])
            .env("KAIRO_RUN_DIR", RUN_DIR)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if robot == Robot::Arm {
            command
                .arg("--port")
                .arg(format!("arm-bus={}", line().display()));
        }
        session::join_on_start(&mut command, session::RT_CGROUP, None);
        let mut child = command.spawn().context("kairo-rt does not start")?;
        // As kairo-init starts it. A refusal shows when memory runs out, not here.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), "-1000");
        match armed(&mut child) {
            Ok(stats) => Ok(Self { child, stats }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let words = fs::read_to_string(&said).unwrap_or_default();
                Err(error.context(words))
            }
        }
    }

    /// Everything it counted since it was armed.
    pub fn account(&self) -> Value {
        let block = self.stats.block();
        let loops: Vec<Value> = block
            .loops
            .iter()
            .filter(|each| load(&each.periods.period_ns) > 0)
            .map(|each| periods(&each.periods))
            .collect();
        let buses: Vec<Value> = block
            .buses
            .iter()
            .filter(|each| load(&each.servos_in_use) > 0)
            .map(|each| {
                json!({
                    "cycles": load(&each.cycles),
                    "losses": load(&each.losses),
                    "periods": periods(&each.periods),
                    "round_trip": distribution(&each.round_trip.snapshot()),
                })
            })
            .collect();
        let lines = &block.lines;
        let lines = (load(&lines.periods.period_ns) > 0).then(
            || json!({"periods": periods(&lines.periods), "edge_looks": load(&lines.edge_looks)}),
        );
        json!({"loops": loops, "buses": buses, "lines": lines})
    }

    /// Ticks that the first loop has begun.
    pub fn ticks(&self) -> u64 {
        load(&self.stats.block().loops[0].periods.ticks)
    }

    /// The lines of [`crate::gpio_sim`], as kairo-rt counts them, for one loop.
    pub fn lines(&self) -> LinesReport {
        let described = [
            ("stop-front", LineKind::Input, 0),
            ("stop-back", LineKind::Input, 1),
            ("reset-button", LineKind::Reset, RESET_BIT),
            ("relay", LineKind::ChargePump, PUMP_BIT),
        ]
        .map(|(name, kind, bit)| LineDescription {
            name: name.to_owned(),
            kind,
            bit,
            ..LineDescription::default()
        });
        lines::report(&described, &self.stats.block().lines, 1)
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Periods skipped so far, all loops together.
    pub fn skipped(&self) -> u64 {
        let loops = self.stats.block().loops.iter();
        loops.map(|each| load(&each.periods.skipped)).sum()
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("kairo-rt ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn periods(each: &PeriodStats) -> Value {
    json!({
        "period_us": load(&each.period_ns) / 1000,
        "ticks": load(&each.ticks),
        "skipped": load(&each.skipped),
        "overruns_late_wake": load(&each.overruns_late_wake),
        "overruns_long_execution": load(&each.overruns_long_execution),
        "identity_broken": load(&each.identity_broken),
        "thread": thread(&each.thread),
        "lateness": distribution(&each.lateness.snapshot()),
        "execution": distribution(&each.execution.snapshot()),
    })
}

fn thread(stats: &ThreadStats) -> Value {
    json!({
        "minor_faults": load(&stats.minor_faults),
        "major_faults": load(&stats.major_faults),
        "allocations": load(&stats.allocations),
        "voluntary_switches": load(&stats.voluntary_switches),
        "involuntary_switches": load(&stats.involuntary_switches),
    })
}

/// Waits until the child has a statistics segment that says it is armed.
fn armed(child: &mut Child) -> anyhow::Result<Stats> {
    let end = Instant::now() + ARMED;
    let mut why = "it has no statistics".to_owned();
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            bail!("kairo-rt ended with {status} before it was armed");
        }
        if let Some(fd) = statistics_of(child.id()) {
            let words = stats::PAYLOAD_WORDS;
            let opened = Segment::open(&fd, Kind::Stats, words, PeerAccess::ReadOnly);
            // It may be found before its header is written.
            match opened.map(Stats::new) {
                Ok(stats) if load(&stats.block().armed_ns) > 0 => return Ok(stats),
                Ok(_) => why = "it has not armed".to_owned(),
                Err(error) => why = error.to_string(),
            }
        }
        std::thread::sleep(POLL);
    }
    bail!("kairo-rt was not armed within {ARMED:?}: {why}")
}

/// The statistics segment among a process's open files.
fn statistics_of(pid: u32) -> Option<OwnedFd> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("memfd:kairo-stats") {
            return fs::File::open(entry.path()).ok().map(OwnedFd::from);
        }
    }
    None
}
