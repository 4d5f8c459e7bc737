//! The demo over the hosted form: daemons on this machine, the arm on a pseudo-terminal.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::sleeper;
use super::world::{
    CyclictestAnswer, CyclictestRequest, Facts, World, cyclictest_arguments, cyclictest_result,
};
use crate::hosted::Hosted;
use crate::simulator::Simulator;

/// The hosted form with a simulated arm.
#[derive(Debug)]
pub struct HostedWorld {
    hosted: Hosted,
}

impl HostedWorld {
    /// Wraps a running hosted form.
    ///
    /// # Errors
    /// When it drives a real arm: the demo injects faults that need the simulator.
    pub fn new(hosted: Hosted) -> anyhow::Result<Self> {
        ensure!(
            hosted.simulator.is_some(),
            "the demo injects faults, so it needs the simulator"
        );
        Ok(Self { hosted })
    }
}

impl World for HostedWorld {
    fn form(&self) -> &'static str {
        "hosted"
    }

    fn ipc_socket(&self) -> PathBuf {
        self.hosted.ipc_socket()
    }

    fn simulator(&mut self) -> &mut Simulator {
        self.hosted
            .simulator
            .as_mut()
            .expect("checked when the world was made")
    }

    fn kill_kairod(&mut self) -> anyhow::Result<()> {
        Ok(self.hosted.kairod.crash()?)
    }

    fn run_unrelated_program(&mut self) -> anyhow::Result<()> {
        let program = self.hosted.kairod.program();
        let output = Command::new(program).arg("--help").output();
        output
            .map(drop)
            .with_context(|| format!("cannot start {}", program.display()))
    }

    fn pull_cable(&mut self) -> anyhow::Result<()> {
        Ok(self.simulator().unplug()?)
    }

    fn plug_cable(&mut self) -> anyhow::Result<()> {
        Ok(self.simulator().plug()?)
    }

    fn clear_estop(&mut self) -> anyhow::Result<()> {
        let program = self.hosted.kairod.program().with_file_name("kairo");
        let output = Command::new(&program)
            .args(["rt", "clear-estop"])
            .env("KAIRO_RUN_DIR", self.hosted.run_directory())
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kairo rt clear-estop: {said}");
        Ok(())
    }

    fn stop_real_time(&mut self) -> anyhow::Result<()> {
        let log = self.hosted.real_time.log().display().to_string();
        ensure!(
            self.hosted.real_time.stop(),
            "kairo-rt did not leave by itself; see {log}"
        );
        Ok(())
    }

    fn start_real_time(&mut self) -> anyhow::Result<()> {
        Ok(self.hosted.real_time.resume()?)
    }

    fn cyclictest(&mut self, request: CyclictestRequest) -> anyhow::Result<CyclictestAnswer> {
        // What this user may not have, kairo-rt does not have here either.
        let mut said = String::new();
        for real_time in [true, false] {
            let arguments = cyclictest_arguments(request, real_time);
            let output = Command::new("cyclictest")
                .args(&arguments)
                .output()
                .context("cannot start cyclictest (Debian package rt-tests)")?;
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            let result = cyclictest_result(&said);
            if let Some(result) = result
                && output.status.success()
            {
                return Ok(CyclictestAnswer {
                    program: "cyclictest",
                    arguments,
                    result,
                });
            }
        }
        ensure!(
            said.contains("Unable to change scheduling policy"),
            "cyclictest ran neither with SCHED_FIFO nor without: {said}"
        );
        let period = Duration::from_micros(request.period_us);
        Ok(CyclictestAnswer {
            program: sleeper::NAME,
            arguments: Vec::new(),
            result: sleeper::measure(period, request.duration)?,
        })
    }

    fn power_off(&mut self) -> anyhow::Result<String> {
        let kairod = self.hosted.kairod.stop();
        let real_time = self.hosted.real_time.stop();
        ensure!(
            kairod && real_time,
            "left by themselves: kairod {kairod}, kairo-rt {real_time}"
        );
        Ok("kairod, then kairo-rt, left by themselves with status 0".into())
    }

    fn facts(&mut self) -> anyhow::Result<Facts> {
        Ok(Facts {
            accelerator: "none".into(),
            ..Facts::default()
        })
    }
}
