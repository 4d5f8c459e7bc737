//! `operator.sock`: e-stops, clears and takeovers from people, past the agent plane.
//!
//! Ordinary threads only; setup-only. Only root and kairo-rt's own user may connect, which the
//! kernel says ([`Listener`]). Each connection has a thread of its own and one request, so that
//! whoever connects and says nothing does not stand before an e-stop. It works while kairod is
//! stopped, hung or gone: nothing here waits for anybody but the control loops, and for those not
//! longer than [`LOOP_PATIENCE`].

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kairo_failsafe::{Cause, CauseSet};
use kairo_link::MonoNs;
use kairo_link::control::ControlSocket;
use kairo_link::lines::{self, LineDescription, LineKind, LineReport};
use kairo_link::operator::{DeviceFailsafe, OperatorReply, OperatorRequest};
use kairo_link::stats::Stats;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::estop::{Estop, Standing};
use crate::estop_memory::EstopMemory;
use crate::journal::note;
use crate::link_server::Listener;
use crate::shared::Shared;

/// How long a connection may take to say what it wants.
const REQUEST_PATIENCE_MS: u16 = 1_000;
/// How long loops may take to take a clear in: the longest periods there are, ten times over.
const LOOP_PATIENCE: Duration = Duration::from_secs(1);
/// How often to look at the shutdown flag when nothing happens.
const IDLE_MS: u16 = 100;
/// Connections served at a time; more wait in the kernel.
const CONNECTIONS_MAX: usize = 8;
/// How often to look for a free place when all are taken.
const FULL_MS: u16 = 5;

/// What the server is made of.
#[derive(Debug)]
pub struct OperatorServer {
    /// Accepts connections.
    pub listener: Listener,
    /// What every connection needs.
    pub desk: Arc<Desk>,
}

/// A clear that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct AskedToClear {
    number: u64,
    since: Instant,
}

/// What serves one request.
#[derive(Debug)]
pub struct Desk {
    /// The words to the loops.
    pub shared: Arc<Shared>,
    /// What remembers an e-stop.
    pub memory: EstopMemory,
    /// Names of the devices, in the order of robot.toml.
    pub devices: Vec<String>,
    /// The GPIO lines.
    pub lines: Vec<LineDescription>,
    /// How many loops there are.
    pub loops: usize,
    /// What is counted about the lines.
    pub stats: Stats,
}

impl OperatorServer {
    /// Serves until the control loops have ended.
    pub fn run(mut self) {
        let busy = Arc::new(AtomicUsize::new(0));
        while !self.desk.shared.loops_are_done() {
            let free = CONNECTIONS_MAX.saturating_sub(busy.load(Ordering::Acquire));
            // Whoever waits while there is no place must not end the wait at once.
            let (interest, timeout) = match free {
                0 => (PollFlags::empty(), FULL_MS),
                _ => (self.listener.interest(), IDLE_MS),
            };
            let mut fds = [PollFd::new(self.listener.as_fd(), interest)];
            // An interrupted or failed wait is a turn with nothing to do.
            let _ = poll(&mut fds, PollTimeout::from(timeout));
            for socket in self.listener.accept(free) {
                let (desk, mine) = (Arc::clone(&self.desk), Arc::clone(&busy));
                busy.fetch_add(1, Ordering::AcqRel);
                let builder = std::thread::Builder::new().name("operator".into());
                let thread = builder.spawn(move || {
                    desk.serve(&socket);
                    mine.fetch_sub(1, Ordering::AcqRel);
                });
                if thread.is_err() {
                    busy.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
    }
}

impl Desk {
    fn serve(&self, socket: &ControlSocket) {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(REQUEST_PATIENCE_MS));
        // Silent too long, gone, or not speaking this protocol: nothing to answer.
        let Ok(request) = socket.receive_bare::<OperatorRequest>() else {
            return;
        };
        let reply = self.answer(&request);
        note(format_args!("operator: {request:?}: {}", reply.text));
        let _ = socket.send(&reply, &[]);
    }

    /// Does what is asked and says what became of it.
    pub fn answer(&self, request: &OperatorRequest) -> OperatorReply {
        let words = self.shared.estop();
        let (done, text) = match request {
            OperatorRequest::Estop => (true, self.stop()),
            OperatorRequest::ClearEstop => match self.clear() {
                Ok(()) => (true, "the e-stop is clear".to_owned()),
                Err(why) => (false, why),
            },
            OperatorRequest::Raise { cause } => self.raise(words, cause, true),
            OperatorRequest::Lower { cause } => self.raise(words, cause, false),
            OperatorRequest::TakeOver => {
                words.take_over();
                (
                    true,
                    "asked; what may be taken over from only warns from the next tick on".into(),
                )
            }
            OperatorRequest::Defer { on } => {
                words.defer(*on);
                (
                    true,
                    if *on {
                        "deferred"
                    } else {
                        "no longer deferred"
                    }
                    .to_owned(),
                )
            }
            OperatorRequest::Status => (true, String::new()),
        };
        OperatorReply {
            done,
            text,
            estop: words.is_latched(self.devices.len()),
            devices: self.standings(),
            lines: (!self.lines.is_empty()).then(|| {
                let stats = &self.stats.block().lines;
                lines::report(&self.lines, stats, self.loops)
            }),
        }
    }

    /// Stops the robot, and says so, and what a restart will make of it.
    pub fn stop(&self) -> String {
        let text = "the e-stop is asked for; it is latched from the next tick on";
        match self.memory.press(self.shared.estop()) {
            Ok(()) => text.to_owned(),
            Err(error) => format!("{text}; a restart of kairo-rt may forget it: {error}"),
        }
    }

    fn raise(&self, words: &Estop, name: &str, holds: bool) -> (bool, String) {
        match Cause::from_name(name) {
            Some(cause) if words.raise(cause, holds) => (
                true,
                format!("{cause} is {}", if holds { "raised" } else { "lowered" }),
            ),
            _ => (
                false,
                format!("{name:?} is not low_battery or operator_request"),
            ),
        }
    }

    /// Asks for a clear, waits until every loop has taken it in, and looks at what they made of it.
    ///
    /// # Errors
    /// Why it is still latched.
    pub fn clear(&self) -> Result<(), String> {
        let asked = self.ask_to_clear();
        loop {
            if let Some(outcome) = self.outcome(asked) {
                return outcome;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Asks for a clear without waiting.
    pub fn ask_to_clear(&self) -> AskedToClear {
        AskedToClear {
            number: self.shared.estop().clear(),
            since: Instant::now(),
        }
    }

    /// What became of it; none while a loop has not taken it in yet.
    pub fn outcome(&self, asked: AskedToClear) -> Option<Result<(), String>> {
        let words = self.shared.estop();
        if !words.taken_in(asked.number, self.loops) {
            let why = "a control loop does not tick, or the robot is not armed: see \
                       `kairo rt status`";
            return (asked.since.elapsed() >= LOOP_PATIENCE).then(|| Err(why.to_owned()));
        }
        Some(match words.is_latched(self.devices.len()) {
            false => {
                let devices = self.devices.len();
                self.memory.look(words, self.loops, devices);
                Ok(())
            }
            true => Err(self.still_latched()),
        })
    }

    fn still_latched(&self) -> String {
        let stats = &self.stats.block().lines;
        let report = lines::report(&self.lines, stats, self.loops);
        let open = report.lines.iter().filter(|line| {
            // The charge pump stops nobody here; what it switches may.
            !line.good && line.kind != LineKind::ChargePump.name()
        });
        let open: Vec<String> = open.map(why_open).collect();
        if !open.is_empty() {
            return format!("still latched: {}", open.join("; "));
        }
        if !self.lines.is_empty() && !self.shared.estop().inputs_are_good(MonoNs::now()) {
            return "still latched: the GPIO lines are not being read; see `kairo rt status`"
                .into();
        }
        "still latched: the reset button is held down, or another stop came in; try again".into()
    }

    fn standings(&self) -> Vec<DeviceFailsafe> {
        let words = self.shared.estop();
        let named = self.devices.iter().enumerate();
        named
            .map(|(number, name)| described(name, words.standing(number)))
            .collect()
    }
}

/// What is wrong with a line.
fn why_open(line: &LineReport) -> String {
    match line.level.as_str() {
        "acting" => format!("{} must be closed first", line.name),
        "unreadable" if !line.refused.is_empty() => format!("{}: {}", line.name, line.refused),
        "unreadable" => format!("{} cannot be read; is its chip there?", line.name),
        _ => format!("{} was open a moment ago; try again", line.name),
    }
}

/// A standing in words.
pub fn described(device: &str, standing: Standing) -> DeviceFailsafe {
    let names = |set: CauseSet| set.iter().map(|cause| cause.name().to_owned()).collect();
    DeviceFailsafe {
        device: device.to_owned(),
        action: standing.action.name().to_owned(),
        cause: standing.cause.map_or("none", Cause::name).to_owned(),
        live: names(standing.live),
    }
}
