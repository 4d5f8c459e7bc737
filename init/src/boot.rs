//! Runs the boot table: each phase once, in order, with its declared consequence.
//!
//! Guarantees: every phase ends within its own deadlines; the watchdog is fed between phases and
//! after each job on a disk; a phase that fails is said on the console, kept in the status, and
//! followed by exactly the consequence its row declares.

use std::time::Duration;

use crate::cmdline::Cmdline;
use crate::config::SystemConfig;
use crate::phases::{self, PHASES};
use crate::status::{BootStatus, milliseconds};
use crate::sys::{Ending, Job, Pid, Sys, SysError};
use crate::watchdog;

/// One row of the boot sequence.
#[derive(Debug)]
pub struct Phase {
    /// Its name on the console.
    pub name: &'static str,
    /// What is done; answers what to say about it.
    pub run: fn(&mut Boot<'_>) -> Result<String, PhaseError>,
    /// What follows a failure.
    pub on_failure: Consequence,
}

/// What follows when a phase fails.
#[derive(Debug)]
pub enum Consequence {
    /// Nothing but words: the machine is useful without it.
    Continue,
    /// Do this instead; if that fails too, continue.
    Fallback(fn(&mut Boot<'_>) -> Result<String, PhaseError>),
    /// The machine is of no use: restart it through the firmware.
    Reboot,
}

/// Why a phase failed.
#[derive(Debug, thiserror::Error)]
pub enum PhaseError {
    /// The machine refused or did not answer.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// What was found cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// What the phases know and make.
pub struct Boot<'a> {
    /// The machine.
    pub sys: &'a mut dyn Sys,
    /// What the status will say.
    pub status: BootStatus,
    /// The kernel command line.
    pub cmdline: Cmdline,
    /// The settings in force.
    pub config: SystemConfig,
    /// Mounts to undo at the end, in the order they were made.
    pub disk_mounts: Vec<&'static str>,
    /// The robot's configuration that kairo-rt is given.
    pub robot_file: &'static str,
    /// The child that makes the next boot's random seed.
    pub seed_job: Option<Pid>,
}

impl std::fmt::Debug for Boot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boot")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Boot<'_> {
    /// Runs a job on a disk within a deadline and feeds the watchdog afterwards.
    ///
    /// # Errors
    /// The job's own, or that it did not finish in time.
    pub fn job(&mut self, job: &Job, deadline: Duration) -> Result<Vec<u8>, SysError> {
        debug_assert!(deadline <= watchdog::STEP_MAX);
        let result = self.sys.run_bounded(job, deadline);
        watchdog::feed(self.sys, &mut self.status.watchdog);
        result
    }

    /// Notes and says that something is not as planned.
    pub fn degrade(&mut self, what: String) {
        self.sys.say(&format!("degraded: {what}"));
        self.status.degrade(what);
    }
}

/// What the boot leaves for the supervisor.
#[derive(Debug)]
pub struct Booted {
    /// For the control protocol.
    pub status: BootStatus,
    /// For the service table.
    pub cmdline: Cmdline,
    /// Mounts to undo at the end, in the order they were made.
    pub disk_mounts: Vec<&'static str>,
    /// The robot's configuration that kairo-rt is given.
    pub robot_file: &'static str,
    /// The child that makes the next boot's random seed.
    pub seed_job: Option<Pid>,
}

/// Runs the table. `None`: a phase without which the machine is useless failed, and the machine
/// was asked to reboot.
pub fn run(sys: &mut dyn Sys) -> Option<Booted> {
    let status = BootStatus::new(sys.now());
    let mut boot = Boot {
        sys,
        status,
        cmdline: Cmdline::default(),
        config: SystemConfig::default(),
        disk_mounts: Vec::new(),
        robot_file: phases::ROBOT_FILE_OF_THE_IMAGE,
        seed_job: None,
    };
    for phase in PHASES {
        let started = boot.sys.now();
        let mut outcome = (phase.run)(&mut boot);
        if let Err(error) = &outcome {
            let complaint = format!("{}: {error}", phase.name);
            boot.degrade(complaint);
            match phase.on_failure {
                Consequence::Continue => {}
                Consequence::Fallback(instead) => outcome = instead(&mut boot),
                Consequence::Reboot => {
                    boot.sys.say("cannot go on without this: rebooting");
                    boot.sys.end(Ending::Reboot);
                    return None;
                }
            }
        }
        let took_ms = milliseconds(boot.sys.now().saturating_sub(started));
        match outcome {
            Ok(done) => boot.sys.say(&format!("{done} ({took_ms} ms)")),
            Err(error) if matches!(phase.on_failure, Consequence::Fallback(_)) => {
                boot.degrade(format!("{}, fallback: {error}", phase.name));
            }
            Err(_) => {}
        }
        watchdog::feed(boot.sys, &mut boot.status.watchdog);
    }
    Some(Booted {
        status: boot.status,
        cmdline: boot.cmdline,
        disk_mounts: boot.disk_mounts,
        robot_file: boot.robot_file,
        seed_job: boot.seed_job,
    })
}
