//! The demo over the image in QEMU: real kernel, real PID 1, a real /dev/ttyUSB0 in the guest.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::report::{Boot, Image};
use super::world::{
    CyclictestAnswer, CyclictestRequest, Facts, World, cyclictest_arguments, cyclictest_result,
};
use crate::image::BuiltImage;
use crate::qemu::{HostPriority, Machine};
use crate::simulator::Simulator;

/// Longest boot. Two to six seconds under software emulation on an idle host.
const BOOT: Duration = Duration::from_secs(90);
/// Longest answer of the console, beside what the request itself takes.
const CONSOLE: Duration = Duration::from_secs(20);
/// Longest ordered power-off, the guest's own deadlines included.
const POWER_OFF: Duration = Duration::from_secs(60);

/// A booted image with a simulated arm at its cable.
#[derive(Debug)]
pub struct QemuWorld {
    machine: Machine,
    simulator: Simulator,
    image: BuiltImage,
    status: Value,
    host_priority: HostPriority,
}

impl QemuWorld {
    /// Gives the machine a real-time priority on this host, where that is permitted, and waits
    /// until kairo-init says that both planes are ready.
    ///
    /// # Errors
    /// When the machine does not come up; the message has the tail of its console.
    pub fn new(
        mut machine: Machine,
        simulator: Simulator,
        image: BuiltImage,
    ) -> anyhow::Result<Self> {
        let host_priority = machine.raise_priority();
        if let HostPriority::Ordinary { reason } = &host_priority {
            eprintln!("this host gives QEMU no real-time priority ({reason}): periods may be lost");
        }
        machine.wait_for("kairo-init: ready", BOOT)?;
        let status = machine.wait_for_console(CONSOLE)?;
        Ok(Self {
            machine,
            simulator,
            image,
            status,
            host_priority,
        })
    }

    /// Asks the console, whose own control requests have no socket of their own.
    ///
    /// # Errors
    /// The guest's reason.
    pub fn control(&mut self, request: &Value) -> anyhow::Result<Value> {
        Ok(self.machine.control(request, CONSOLE)?)
    }
}

impl World for QemuWorld {
    fn form(&self) -> &'static str {
        "image"
    }

    fn ipc_socket(&self) -> PathBuf {
        self.machine.ipc_socket().to_owned()
    }

    fn simulator(&mut self) -> &mut Simulator {
        &mut self.simulator
    }

    fn kill_kairod(&mut self) -> anyhow::Result<()> {
        self.control(&json!({"op": "signal", "service": "kairod", "signal": "KILL"}))
            .map(drop)
    }

    fn run_unrelated_program(&mut self) -> anyhow::Result<()> {
        let argv = ["/usr/bin/kairo", "--help"];
        self.control(&json!({"op": "exec", "argv": argv, "timeout_ms": 10_000}))
            .map(drop)
    }

    fn pull_cable(&mut self) -> anyhow::Result<()> {
        Ok(self.machine.unplug_arm()?)
    }

    fn plug_cable(&mut self) -> anyhow::Result<()> {
        Ok(self.machine.plug_arm()?)
    }

    fn clear_estop(&mut self) -> anyhow::Result<()> {
        let argv = ["/usr/bin/kairo", "rt", "clear-estop"];
        let answer = self.control(&json!({"op": "exec", "argv": argv, "timeout_ms": 10_000}))?;
        ensure!(answer["status"] == 0, "kairo rt clear-estop: {answer}");
        Ok(())
    }

    fn stop_real_time(&mut self) -> anyhow::Result<()> {
        self.control(&json!({"op": "stop", "service": "kairo-rt"}))
            .map(drop)
    }

    fn start_real_time(&mut self) -> anyhow::Result<()> {
        self.control(&json!({"op": "start", "service": "kairo-rt"}))
            .map(drop)
    }

    fn cyclictest(&mut self, request: CyclictestRequest) -> anyhow::Result<CyclictestAnswer> {
        let arguments = cyclictest_arguments(request, true);
        let mut argv = vec!["/usr/bin/cyclictest".to_owned()];
        argv.extend(arguments.iter().cloned());
        let timeout = request.duration + CONSOLE;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let exec = json!({"op": "exec", "argv": argv, "cgroup": "rt", "timeout_ms": timeout_ms});
        let answer = self.machine.control(&exec, timeout + CONSOLE)?;
        ensure!(answer["status"] == 0, "cyclictest failed: {answer}");
        let written = answer["stderr"].as_str().unwrap_or_default();
        let result = cyclictest_result(written)
            .with_context(|| format!("cyclictest gave no result, but said: {written}"))?;
        Ok(CyclictestAnswer {
            program: "cyclictest",
            arguments,
            result,
        })
    }

    fn power_off(&mut self) -> anyhow::Result<String> {
        self.control(&json!({"op": "poweroff"}))?;
        let status = self.machine.wait(POWER_OFF)?;
        ensure!(status.success(), "QEMU ended with {status}");
        let line = self
            .machine
            .wait_for("kairo-init: power-off after", Duration::from_secs(1));
        let said = line
            .map(|line| line.text)
            .context("the machine went off without kairo-init")?;
        Ok(said.trim().to_owned())
    }

    fn facts(&mut self) -> anyhow::Result<Facts> {
        let manifest = &self.image.manifest;
        let image = Image {
            root_bytes: manifest.root_bytes,
            kernel_bytes: manifest.kernel_bytes,
            root_hash: manifest.root_hash.clone(),
        };
        let boot = &self.status["boot"];
        let number = |key: &str| {
            boot[key]
                .as_u64()
                .with_context(|| format!("kairo-init's status has no boot.{key}"))
        };
        let kernel_ms = number("init_start_ms")?;
        let boot = Boot {
            kernel_ms,
            init_to_ready_ms: number("ready_ms")?.saturating_sub(kernel_ms),
        };
        Ok(Facts {
            host_priority: self.host_priority.name(),
            accelerator: self.machine.accel().name().to_owned(),
            image: Some(image),
            boot: Some(boot),
        })
    }
}
