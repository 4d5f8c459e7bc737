//! What a step may do to the system under test from outside: the faults, and the truth.
//!
//! One implementation boots the image in QEMU, the other runs both planes on this machine; the
//! steps are the same over either.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::report::{Boot, Image};
use crate::simulator::Simulator;

/// What cyclictest is asked for.
#[derive(Clone, Copy, Debug)]
pub struct CyclictestRequest {
    /// Interval between wake-ups.
    pub period_us: u64,
    /// SCHED_FIFO priority.
    pub priority: u64,
    /// The core to pin it to.
    pub core: Option<u64>,
    /// How long.
    pub duration: Duration,
}

/// What cyclictest answered.
#[derive(Clone, Debug)]
pub struct CyclictestAnswer {
    /// What measured: `cyclictest`, or its stand-in where it may not run.
    pub program: &'static str,
    /// The arguments it ran with.
    pub arguments: Vec<String>,
    /// Its own JSON result.
    pub result: Value,
}

/// A running system and the hands around it.
pub trait World: std::fmt::Debug {
    /// `image` or `hosted`.
    fn form(&self) -> &'static str;

    /// The host's socket that reaches the kernel IPC.
    fn ipc_socket(&self) -> PathBuf;

    /// The far side of the cable.
    fn simulator(&mut self) -> &mut Simulator;

    /// Kills kairod as a crash would (SIGKILL); something brings it back.
    ///
    /// # Errors
    /// When it could not be signalled.
    fn kill_kairod(&mut self) -> anyhow::Result<()>;

    /// Starts and ends a program of kairod's size on the agent plane's cores, one that has nothing
    /// to do with the robot: what kairod's restart costs the machine, without kairod.
    ///
    /// # Errors
    /// When it could not be run.
    fn run_unrelated_program(&mut self) -> anyhow::Result<()>;

    /// Pulls the servo cable.
    ///
    /// # Errors
    /// When it could not be pulled.
    fn pull_cable(&mut self) -> anyhow::Result<()>;

    /// Plugs it back.
    ///
    /// # Errors
    /// When it could not be plugged.
    fn plug_cable(&mut self) -> anyhow::Result<()>;

    /// Clears the e-stop that kairo-rt starts with, as an operator does on the robot: by
    /// `kairo rt clear-estop`, past the agent plane.
    ///
    /// # Errors
    /// When it stays latched; it does until the loops run.
    fn clear_estop(&mut self) -> anyhow::Result<()>;

    /// Stops kairo-rt in order, so that cyclictest has the core to itself.
    ///
    /// # Errors
    /// When it did not stop.
    fn stop_real_time(&mut self) -> anyhow::Result<()>;

    /// Starts it again.
    ///
    /// # Errors
    /// When it did not start.
    fn start_real_time(&mut self) -> anyhow::Result<()>;

    /// Runs cyclictest where kairo-rt runs.
    ///
    /// # Errors
    /// When it is missing or failed.
    fn cyclictest(&mut self, request: CyclictestRequest) -> anyhow::Result<CyclictestAnswer>;

    /// Ends the system in order and says how that went.
    ///
    /// # Errors
    /// When it did not end, or not cleanly.
    fn power_off(&mut self) -> anyhow::Result<String>;

    /// The image and boot under test.
    ///
    /// # Errors
    /// When the system does not tell.
    fn facts(&mut self) -> anyhow::Result<Facts>;
}

/// What is under test.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `kvm`, `tcg` or `none`.
    pub accelerator: String,
    /// `fifo` or `ordinary`: how the host schedules the emulator; empty when hosted.
    pub host_priority: &'static str,
    /// The image, if there is one.
    pub image: Option<Image>,
    /// The boot, if there was one.
    pub boot: Option<Boot>,
}

/// cyclictest's histogram reaches this far, µs. What lies above is counted at its exact maximum.
const HISTOGRAM_US: u64 = 4000;

/// Arguments for cyclictest: one thread; the JSON result goes to standard error, because standard
/// output has a report for people that cannot be turned off.
pub fn cyclictest_arguments(request: CyclictestRequest, real_time: bool) -> Vec<String> {
    let mut arguments: Vec<String> = ["-q", "-t", "1", "--json=/dev/stderr"]
        .map(String::from)
        .into();
    arguments.push(format!("--histogram={HISTOGRAM_US}"));
    arguments.push(format!("--interval={}", request.period_us));
    arguments.push(format!("--duration={}", request.duration.as_secs().max(1)));
    if real_time {
        arguments.push("--mlockall".into());
        arguments.push(format!("--priority={}", request.priority));
        if let Some(core) = request.core {
            arguments.push(format!("--affinity={core}"));
        }
    }
    arguments
}

/// The JSON result in what cyclictest wrote, which may have warnings around it.
pub fn cyclictest_result(written: &str) -> Option<Value> {
    let from = written.find("{\n")?;
    serde_json::Deserializer::from_str(&written[from..])
        .into_iter()
        .next()?
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_found_between_other_words() {
        let written = "WARN: stat /dev/cpu_dma_latency\n{\n \"thread\": {}\n}\n# Thread 0:\n";
        assert!(cyclictest_result(written).expect("found")["thread"].is_object());
        assert_eq!(cyclictest_result("unable to set scheduler"), None);
    }
}
