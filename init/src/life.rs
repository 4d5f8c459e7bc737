//! The life of one service: its states, and what each means to the watchdog and to the clock.
//! Data and pure functions; the supervisor changes them.

use crate::backoff::BackOff;
use crate::lines::LineSplitter;
use crate::services::Service;
use crate::sys::{BootTime, Pid};
use crate::votes::Pulse;

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started yet: what it comes after is not ready.
    Waiting,
    /// Started, `READY=1` awaited until then.
    Starting(BootTime),
    /// Ready.
    Running,
    /// SIGTERM sent; SIGKILL at that time.
    Stopping(BootTime, Next),
    /// SIGKILL sent; repeated at that time.
    Killing(BootTime, Next),
    /// Started again at that time.
    BackOff(BootTime),
    /// Stopped by an operator or by the shutdown.
    Stopped,
    /// It refused its configuration; an operator starts it again.
    Refused,
}

/// What follows when a stopping service is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it at once: an operator's restart.
    Start,
    /// Start it after back-off: it failed.
    BackOff,
    /// Nothing.
    Stay,
}

/// A service and its life so far.
#[derive(Debug)]
pub struct Live {
    /// Its row.
    pub service: Service,
    /// Where it is.
    pub state: State,
    /// Its main process.
    pub pid: Option<Pid>,
    /// Starts after the first.
    pub restarts: u32,
    /// How it last ended.
    pub last_exit: Option<String>,
    /// When it was last ready.
    pub ready_at: Option<BootTime>,
    /// Its own words.
    pub said: Option<String>,
    /// It crashes too often.
    pub crash_loop: bool,
    /// Ready once, or given up on for now: what comes after it may start.
    pub(crate) settled: bool,
    pub(crate) ran: bool,
    pub(crate) started_at: BootTime,
    pub(crate) last_alive: BootTime,
    pub(crate) back_off: BackOff,
    /// The newest process and the one before it, whose last output may still arrive.
    pub(crate) outputs: [Option<(Pid, LineSplitter)>; 2],
}

impl Live {
    pub(crate) fn new(service: Service, now: BootTime) -> Self {
        Self {
            service,
            state: State::Waiting,
            pid: None,
            restarts: 0,
            last_exit: None,
            ready_at: None,
            said: None,
            crash_loop: false,
            settled: false,
            ran: false,
            started_at: now,
            last_alive: now,
            back_off: BackOff::default(),
            outputs: [None, None],
        }
    }

    pub(crate) fn pulse(&self, now: BootTime) -> Option<Pulse> {
        let vote = self.service.vote?;
        let fresh = now.saturating_sub(self.last_alive) <= vote.interval;
        Some(Pulse {
            name: self.service.name,
            alive: self.state == State::Running && fresh,
            last_alive: self.last_alive,
            grace: vote.grace,
            abstains: matches!(
                self.state,
                State::Stopped
                    | State::Refused
                    | State::Stopping(_, Next::Stay)
                    | State::Killing(_, Next::Stay)
            ),
        })
    }

    /// When its state changes by time alone.
    pub(crate) fn deadline(&self) -> Option<BootTime> {
        match self.state {
            State::Starting(until)
            | State::Stopping(until, _)
            | State::Killing(until, _)
            | State::BackOff(until) => Some(until),
            State::Running => self
                .service
                .vote
                .map(|vote| self.last_alive + vote.interval),
            State::Waiting | State::Stopped | State::Refused => None,
        }
    }
}
