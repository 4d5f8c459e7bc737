//! The ordered end: services by rank, then everything else, then the disks, then the power.
//!
//! Guarantees: kairo-rt is the last service to be asked, so that it writes its safe outputs after
//! nobody can command it any more; every step has a deadline, so the machine ends even if nothing
//! answers; the watchdog is fed until the disks are done and no longer, so that a kernel that
//! hangs in the very last call is reset by the hardware. A disk that does not sync is left alone:
//! its unmounts would hang the same way.

use std::time::Duration;

use crate::life::{Next, State};
use crate::phases::{SEED_BYTES, SEED_FILE};
use crate::services::STOP_RANK_MAX;
use crate::supervisor::Supervisor;
use crate::sys::{BootTime, Ending, Job, Sys};
use crate::watchdog;

const FILE_DEADLINE: Duration = Duration::from_secs(2);
const SYNC_DEADLINE: Duration = watchdog::STEP_MAX;
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(3);
/// Longest that one rank may take: the longest stop deadline of the table, then SIGKILL's, and one
/// more second. Whoever is left then is left behind, so that the next rank, and kairo-rt above all,
/// is still asked and not just killed.
const RANK_DEADLINE: Duration = Duration::from_secs(6);

/// A shutdown in progress.
#[derive(Debug)]
pub struct Shutdown {
    ending: Ending,
    /// The rank being stopped, and when the next one is.
    rank: u8,
    asked: bool,
    until: BootTime,
}

impl Supervisor {
    /// Begins the end; a second request changes nothing.
    pub(crate) fn shut_down(&mut self, sys: &mut dyn Sys, ending: Ending, who: &str) {
        if self.shutdown.is_some() {
            return;
        }
        self.say(sys, format!("{ending} asked for by {who}"));
        self.shutdown = Some(Shutdown {
            ending,
            rank: 0,
            asked: false,
            until: sys.now(),
        });
        for live in &mut self.services {
            match &mut live.state {
                State::Waiting | State::BackOff(_) => live.state = State::Stopped,
                State::Stopping(_, next) | State::Killing(_, next) => *next = Next::Stay,
                _ => {}
            }
        }
    }

    /// Takes the shutdown one step further, if there is one. True: the machine was told to end.
    pub(crate) fn advance_shutdown(&mut self, sys: &mut dyn Sys) -> bool {
        loop {
            let Some(shutdown) = &mut self.shutdown else {
                return false;
            };
            let (rank, ending) = (shutdown.rank, shutdown.ending);
            if !shutdown.asked {
                shutdown.asked = true;
                shutdown.until = sys.now() + RANK_DEADLINE;
                self.ask_rank_to_stop(sys, rank);
            }
            let late = self
                .shutdown
                .as_ref()
                .is_some_and(|shutdown| sys.now() >= shutdown.until);
            let mut of_rank = self
                .services
                .iter()
                .filter(|live| live.service.stop_rank == rank);
            if of_rank.any(|live| live.pid.is_some()) && !late {
                return false;
            }
            if rank == STOP_RANK_MAX {
                self.finish(sys, ending);
                return true;
            }
            if let Some(shutdown) = &mut self.shutdown {
                shutdown.rank += 1;
                shutdown.asked = false;
            }
        }
    }

    fn ask_rank_to_stop(&mut self, sys: &mut dyn Sys, rank: u8) {
        for index in 0..self.services.len() {
            let live = &self.services[index];
            if live.service.stop_rank == rank
                && matches!(live.state, State::Running | State::Starting(_))
            {
                self.terminate(sys, index, Next::Stay);
            }
        }
    }

    /// The last part, in a straight line: each step bounded, and the watchdog fed after each.
    fn finish(&mut self, sys: &mut dyn Sys, ending: Ending) {
        self.say(sys, "services are down, killing what is left".to_owned());
        sys.kill_everything();
        let seed = Job::RenewSeed(SEED_FILE.to_owned(), SEED_BYTES);
        self.last_job(sys, seed, FILE_DEADLINE);
        if self.last_job(sys, Job::Sync, SYNC_DEADLINE) {
            for target in std::mem::take(&mut self.disk_mounts).into_iter().rev() {
                self.last_job(sys, Job::Unmount(target.to_owned()), UNMOUNT_DEADLINE);
            }
        }
        let up_ms = sys.now().as_millis();
        self.say(sys, format!("{ending} after {up_ms} ms"));
        sys.end(ending);
    }

    fn last_job(&mut self, sys: &mut dyn Sys, job: Job, deadline: Duration) -> bool {
        let result = sys.run_bounded(&job, deadline);
        watchdog::feed(sys, &mut self.status.watchdog);
        match result {
            Ok(_) => true,
            Err(error) => {
                self.say(sys, error.to_string());
                false
            }
        }
    }
}
