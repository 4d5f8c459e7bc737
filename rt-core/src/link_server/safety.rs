//! The link server's part in e-stops: it passes the agent plane's requests on and tells it what the
//! failsafe machines decided. Ordinary threads only.
//!
//! The agent plane can stop the robot whenever it wants. It can clear the e-stop only where
//! robot.toml says that a clear over IPC is an operator's, because kairod is not trusted with more;
//! and even then every input must be good, which the loops check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kairo_failsafe::Cause;
use kairo_link::control::Notice;

use crate::estop::Standing;
use crate::operator::{AskedToClear, Desk, described};

/// Shortest time between two notices about a device, unless its e-stop changed: an agent that lets
/// every command expire must not fill the log of events.
const PAUSE: Duration = Duration::from_millis(20);

/// Clears that wait for their answer; more are refused.
const CLEARS_MAX: usize = 4;

/// See the module documentation.
#[derive(Debug)]
pub struct Safety {
    desk: Arc<Desk>,
    clear_over_ipc: bool,
    told: Vec<Option<(Standing, Instant)>>,
    clears: Vec<(u64, AskedToClear)>,
}

impl Safety {
    /// Nothing told yet.
    pub fn new(desk: Arc<Desk>, clear_over_ipc: bool) -> Self {
        Self {
            told: vec![None; desk.devices.len()],
            desk,
            clear_over_ipc,
            clears: Vec::new(),
        }
    }

    pub(super) fn is_latched(&self) -> bool {
        self.desk.shared.estop().is_latched(self.told.len())
    }

    /// A new peer knows nothing, and waits for nothing.
    pub(super) fn forget(&mut self) {
        self.told.fill(None);
        self.clears.clear();
    }

    /// Whether something waits that the bell does not ring for.
    pub(super) fn has_to_answer(&self) -> bool {
        !self.clears.is_empty()
    }

    pub(super) fn stop(&self, request: u64) -> Notice {
        // That it may be forgotten is in the log.
        self.desk.stop();
        answered(request, Ok(()))
    }

    /// Asks for a clear; the refusal, if it is refused.
    pub(super) fn clear(&mut self, request: u64) -> Option<Notice> {
        let refusal = if !self.clear_over_ipc {
            "this robot takes no clear over IPC: run `kairo rt clear-estop` on the robot as root, \
             or set clear_over_ipc = true under [estop] in robot.toml"
        } else if self.clears.len() >= CLEARS_MAX {
            "too many clears at a time"
        } else {
            self.clears.push((request, self.desk.ask_to_clear()));
            return None;
        };
        Some(answered(request, Err(("not_allowed", refusal.to_owned()))))
    }

    /// What there is to tell now.
    pub(super) fn news(&mut self) -> Vec<Notice> {
        let mut news = Vec::new();
        let words = self.desk.shared.estop();
        for (number, told) in self.told.iter_mut().enumerate() {
            let standing = words.standing(number);
            let due = told.is_none_or(|(before, when)| {
                let stops = |standing: &Standing| standing.live.has(Cause::Estop);
                let estop = stops(&before) != stops(&standing);
                before != standing && (estop || when.elapsed() >= PAUSE)
            });
            if due {
                *told = Some((standing, Instant::now()));
                news.push(Notice::FailsafeChanged {
                    device: u32::try_from(number).unwrap_or(u32::MAX),
                    failsafe: described(&self.desk.devices[number], standing),
                });
            }
        }
        let desk = Arc::clone(&self.desk);
        self.clears.retain(|(request, asked)| {
            let outcome = desk.outcome(*asked);
            if let Some(outcome) = outcome {
                let outcome = outcome.map_err(|why| ("still_latched", why));
                news.push(answered(*request, outcome));
                return false;
            }
            true
        });
        news
    }
}

fn answered(request: u64, outcome: Result<(), (&str, String)>) -> Notice {
    let done = outcome.is_ok();
    let (code, reason) = outcome.err().unwrap_or_default();
    Notice::EstopAnswered {
        request,
        done,
        code: code.to_owned(),
        reason,
    }
}
