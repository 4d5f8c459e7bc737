//! Keeps the services running: a state machine per service, driven by events and by time.
//!
//! Guarantees: [`Supervisor::handle`] and [`Supervisor::tick`] never wait; a service is started
//! only when what it comes after is ready or given up on for now; a crash is answered by back-off
//! and never by giving up; only the main process of a service, as the kernel names it, can say
//! that the service is ready or alive. Non-goal: it does not decide about the watchdog, it only
//! shows it the pulses.

use std::time::Duration;

use crate::boot::Booted;
use crate::control::Waiter;
use crate::life::{Live, Next, State};
use crate::lines::LineSplitter;
use crate::notify::Notice;
use crate::phases::CGROUP_ROOT;
use crate::ring::{Line, LogRing};
use crate::services::{self, EXIT_CONFIG_REFUSED};
use crate::shutdown::Shutdown;
use crate::status::{BootStatus, milliseconds};
use crate::sys::{BootTime, Event, Exit, Job, Pid, Sys};
use crate::votes::{Verdict, verdict};
use crate::watchdog;

/// After SIGKILL a process is gone in milliseconds, unless a device holds it.
pub const KILL_DEADLINE: Duration = Duration::from_secs(2);
/// Lines of a service that go into the crash log with the news of its death.
const CRASH_LINES: usize = 20;
/// Size at which the crash log is rotated; two of them at most.
const CRASH_LOG_BYTES_MAX: u64 = 256 * 1024;
const CRASH_LOG: &str = "/var/log/crash.log";

/// All services, the log ring and the watchdog's verdict.
#[derive(Debug)]
pub struct Supervisor {
    /// The boot, for the control protocol.
    pub status: BootStatus,
    /// In the order of starting.
    pub services: Vec<Live>,
    /// What everyone said.
    pub ring: LogRing,
    /// Mounts to undo at the end.
    pub disk_mounts: Vec<&'static str>,
    /// Present once the machine is going down.
    pub shutdown: Option<Shutdown>,
    /// Control clients that wait for a service to come or go.
    pub waiters: Vec<Waiter>,
    /// Processes reaped that were nobody's service.
    pub orphans_reaped: u64,
    /// Notices from processes that speak for no service.
    pub notices_refused: u64,
    crash_job: Option<Pid>,
    seed_job: Option<Pid>,
    crash_notes_dropped: u64,
    feed_at: BootTime,
}

impl Supervisor {
    /// Takes over after the boot.
    pub fn new(booted: Booted, now: BootTime) -> Self {
        let services = services::table(&booted).into_iter();
        Self {
            services: services.map(|service| Live::new(service, now)).collect(),
            status: booted.status,
            ring: LogRing::default(),
            disk_mounts: booted.disk_mounts,
            shutdown: None,
            waiters: Vec::new(),
            orphans_reaped: 0,
            notices_refused: 0,
            crash_job: None,
            seed_job: booted.seed_job,
            crash_notes_dropped: 0,
            feed_at: now,
        }
    }

    /// Crash-log entries that were given up because the disk did not keep up.
    pub fn crash_notes_dropped(&self) -> u64 {
        self.crash_notes_dropped
    }

    /// Says a line on the console and keeps it in the ring.
    pub fn say(&mut self, sys: &mut dyn Sys, text: String) {
        sys.say(&text);
        self.ring.push(Line {
            ms: milliseconds(sys.now()),
            service: "kairo-init",
            text,
        });
    }

    /// Reacts to one event.
    pub fn handle(&mut self, sys: &mut dyn Sys, event: Event) {
        match event {
            Event::Exited(pid, exit) => self.exited(sys, pid, exit),
            Event::Notify(pid, datagram) => self.notified(sys, pid, &datagram),
            Event::Output(pid, bytes) => self.output(sys.now(), pid, &bytes),
            Event::Request(client, line) => self.request(sys, client, &line),
            Event::ClientGone(client) => self.waiters.retain(|waiter| waiter.client != client),
            Event::PowerOff(who) => self.shut_down(sys, crate::sys::Ending::PowerOff, who),
            Event::Reboot(who) => self.shut_down(sys, crate::sys::Ending::Reboot, who),
        }
    }

    /// Does what time alone asks for: starts, deadlines, beats, the watchdog, the shutdown.
    /// Answers true when the machine has been told to end.
    pub fn tick(&mut self, sys: &mut dyn Sys) -> bool {
        for index in 0..self.services.len() {
            self.advance(sys, index);
        }
        self.answer_waiters(sys);
        self.note_readiness(sys);
        if sys.now() >= self.feed_at {
            self.decide_feeding(sys);
            self.feed_at = sys.now() + watchdog::FEED_INTERVAL;
        }
        self.advance_shutdown(sys)
    }

    /// When [`Supervisor::tick`] has something to do next.
    pub fn next_deadline(&self) -> BootTime {
        let services = self.services.iter().filter_map(Live::deadline);
        let waiters = self.waiters.iter().map(|waiter| waiter.until);
        let first = services.chain(waiters).min();
        first.map_or(self.feed_at, |until| until.min(self.feed_at))
    }

    fn advance(&mut self, sys: &mut dyn Sys, index: usize) {
        let now = sys.now();
        let live = &self.services[index];
        let name = live.service.name;
        match live.state {
            State::Waiting if self.shutdown.is_none() && self.may_start(index) => {
                self.start(sys, index);
            }
            State::Starting(until) if now >= until => {
                let waited = live.service.ready_deadline.unwrap_or_default().as_secs();
                self.say(
                    sys,
                    format!("{name} did not say READY=1 within {waited} s, stopping it"),
                );
                self.services[index].settled = true;
                self.terminate(sys, index, Next::BackOff);
            }
            State::Running => {
                let vote = live.service.vote;
                let silent_for = now.saturating_sub(live.last_alive);
                if let Some(vote) = vote.filter(|vote| silent_for > vote.interval) {
                    let interval = vote.interval.as_secs();
                    let text = format!("{name} has not beaten for {interval} s, restarting it");
                    self.critical(sys, index, text);
                    self.terminate(sys, index, Next::BackOff);
                }
            }
            State::Stopping(until, next) if now >= until => {
                self.say(sys, format!("{name} ignored SIGTERM, killing it"));
                self.kill(sys, index, next);
            }
            State::Killing(until, next) if now >= until => {
                self.say(sys, format!("{name} survives SIGKILL: a device holds it"));
                self.kill(sys, index, next);
            }
            State::BackOff(until) if now >= until => self.start(sys, index),
            _ => {}
        }
    }

    fn may_start(&self, index: usize) -> bool {
        let Some(after) = self.services[index].service.after else {
            return true;
        };
        let mut others = self.services.iter();
        others.any(|live| live.service.name == after && live.settled)
    }

    /// Starts a service now.
    pub fn start(&mut self, sys: &mut dyn Sys, index: usize) {
        let now = sys.now();
        let live = &mut self.services[index];
        if live.ran {
            live.restarts = live.restarts.saturating_add(1);
        }
        live.ran = true;
        live.said = None;
        live.ready_at = None;
        live.started_at = now;
        match sys.launch(&live.service.launch) {
            Ok(pid) => {
                live.pid = Some(pid);
                let [newest, previous] = &mut live.outputs;
                *previous = newest.replace((pid, LineSplitter::new(now)));
                match live.service.ready_deadline {
                    Some(deadline) => live.state = State::Starting(now + deadline),
                    None => self.become_ready(sys, index),
                }
            }
            Err(error) => {
                live.settled = true;
                live.last_exit = Some(error.to_string());
                self.crashed(sys, index, error.to_string());
            }
        }
    }

    fn become_ready(&mut self, sys: &mut dyn Sys, index: usize) {
        let now = sys.now();
        let live = &mut self.services[index];
        live.state = State::Running;
        live.settled = true;
        live.ready_at = Some(now);
        live.last_alive = now;
        let took = milliseconds(now.saturating_sub(live.started_at));
        let text = format!("{} ready ({took} ms)", live.service.name);
        self.say(sys, text);
    }

    /// Sends SIGTERM and starts the stop deadline.
    pub fn terminate(&mut self, sys: &mut dyn Sys, index: usize, next: Next) {
        let live = &mut self.services[index];
        let Some(pid) = live.pid else {
            live.state = State::Stopped;
            return;
        };
        live.state = State::Stopping(sys.now() + live.service.stop_deadline, next);
        // One that is gone already is reaped in a moment.
        let _gone_already = sys.kill(pid, libc::SIGTERM);
    }

    fn kill(&mut self, sys: &mut dyn Sys, index: usize, next: Next) {
        let live = &mut self.services[index];
        live.state = State::Killing(sys.now() + KILL_DEADLINE, next);
        let Some(pid) = live.pid else {
            return;
        };
        let _gone_already = sys.kill(pid, libc::SIGKILL);
        if live.service.owns_cgroup {
            sweep(sys, live.service.launch.cgroup);
        }
    }

    fn exited(&mut self, sys: &mut dyn Sys, pid: Pid, exit: Exit) {
        if self.crash_job == Some(pid) {
            self.crash_job = None;
            self.crash_notes_dropped += u64::from(exit != Exit::Status(0));
            return;
        }
        if self.seed_job == Some(pid) {
            self.seed_job = None;
            if exit != Exit::Status(0) {
                self.say(
                    sys,
                    "the random seed for the next boot could not be made".to_owned(),
                );
            }
            return;
        }
        let mut services = self.services.iter();
        let Some(index) = services.position(|live| live.pid == Some(pid)) else {
            self.orphans_reaped += 1;
            return;
        };
        let live = &mut self.services[index];
        live.pid = None;
        live.ready_at = None;
        live.last_exit = Some(exit.to_string());
        let name = live.service.name;
        if live.service.owns_cgroup {
            sweep(sys, live.service.launch.cgroup);
        }
        let asked_for = match live.state {
            State::Stopping(_, next) | State::Killing(_, next) => Some(next),
            _ => None,
        };
        // What comes after it does not wait for one that ended before it was ever ready.
        live.settled |= asked_for != Some(Next::Start);
        match asked_for {
            Some(Next::Stay) => {
                live.state = State::Stopped;
                self.say(sys, format!("{name} stopped: {exit}"));
            }
            Some(Next::Start) => self.start(sys, index),
            _ if self.shutdown.is_some() => live.state = State::Stopped,
            _ if exit == Exit::Status(EXIT_CONFIG_REFUSED) => {
                live.state = State::Refused;
                let text = format!("{name} refused its configuration; see 'log', then 'start'");
                self.critical(sys, index, text);
            }
            _ => self.crashed(sys, index, exit.to_string()),
        }
    }

    fn crashed(&mut self, sys: &mut dyn Sys, index: usize, how: String) {
        let now = sys.now();
        let live = &mut self.services[index];
        let restart = live
            .back_off
            .crashed(now, now.saturating_sub(live.started_at));
        live.state = State::BackOff(now + restart.delay);
        live.crash_loop = restart.level > 1;
        let looping = match live.crash_loop {
            true => " (crash loop, level 2)",
            false => "",
        };
        let delay = milliseconds(restart.delay);
        let text = format!(
            "{} {how}, restart in {delay} ms{looping}",
            live.service.name
        );
        self.critical(sys, index, text);
    }

    /// Says a line and writes it, with the service's last words, to the crash log.
    fn critical(&mut self, sys: &mut dyn Sys, index: usize, text: String) {
        let name = self.services[index].service.name;
        let mut entry = format!("{} {text}\n", milliseconds(sys.now()));
        for line in self.ring.tail(CRASH_LINES, Some(name)) {
            entry.push_str(&format!("    {} {}\n", line.ms, line.text));
        }
        self.say(sys, text);
        // One writer at a time: a disk that does not answer costs entries, never processes.
        if self.crash_job.is_some() {
            self.crash_notes_dropped += 1;
            return;
        }
        let job = Job::AppendLog {
            path: CRASH_LOG.to_owned(),
            text: entry,
            bytes_max: CRASH_LOG_BYTES_MAX,
        };
        self.crash_job = sys.run_detached(&job).ok();
    }

    fn notified(&mut self, sys: &mut dyn Sys, pid: Pid, datagram: &[u8]) {
        let mut services = self.services.iter();
        let Some(index) = services.position(|live| live.pid == Some(pid)) else {
            self.notices_refused += 1;
            return;
        };
        let notice = Notice::parse(datagram);
        let live = &mut self.services[index];
        if notice.status.is_some() {
            live.said = notice.status;
        }
        // A beat before READY=1 proves a process, not a service.
        if notice.beat && live.state == State::Running {
            live.last_alive = sys.now();
        }
        if notice.ready && matches!(live.state, State::Starting(_)) {
            self.become_ready(sys, index);
        }
    }

    fn output(&mut self, now: BootTime, pid: Pid, bytes: &[u8]) {
        let ms = milliseconds(now);
        for live in &mut self.services {
            let service = live.service.name;
            for (of, splitter) in live.outputs.iter_mut().flatten() {
                if *of != pid {
                    continue;
                }
                let ring = &mut self.ring;
                let keep = |text| ring.push(Line { ms, service, text });
                if bytes.is_empty() {
                    splitter.finish(keep);
                } else {
                    splitter.push(now, bytes, keep);
                }
                return;
            }
        }
    }

    fn note_readiness(&mut self, sys: &mut dyn Sys) {
        if self.status.ready_ms.is_some() || !self.services.iter().all(|live| live.settled) {
            return;
        }
        let ready_ms = milliseconds(sys.now());
        self.status.ready_ms = Some(ready_ms);
        let took = ready_ms - self.status.init_start_ms;
        let missing = self
            .services
            .iter()
            .filter(|live| live.state != State::Running);
        let missing: Vec<&str> = missing.map(|live| live.service.name).collect();
        let text = match missing.is_empty() {
            true => format!("ready in {took} ms"),
            false => format!(
                "ready in {took} ms, degraded: without {}",
                missing.join(", ")
            ),
        };
        self.say(sys, text);
    }

    fn decide_feeding(&mut self, sys: &mut dyn Sys) {
        let was_fed = self.status.watchdog.fed;
        // A shutdown has deadlines of its own; what it stops cannot vote any more.
        let decision = match self.shutdown {
            Some(_) => Verdict::Feed,
            None => {
                let now = sys.now();
                let pulses = self.services.iter().filter_map(|live| live.pulse(now));
                verdict(now, &pulses.collect::<Vec<_>>())
            }
        };
        match decision {
            Verdict::Feed => {
                watchdog::feed(sys, &mut self.status.watchdog);
                if !was_fed && self.status.watchdog.fed {
                    self.status.watchdog.why = None;
                    self.say(sys, "watchdog is fed again".to_owned());
                }
            }
            Verdict::Starve(name, away) => {
                let why = format!("{name} has been away for {} s", away.as_secs());
                self.status.watchdog.fed = false;
                self.status.watchdog.why = Some(why.clone());
                if was_fed {
                    self.say(sys, format!("watchdog is no longer fed: {why}"));
                }
            }
        }
    }

    /// Gives a service that an operator starts a fresh grace.
    pub fn renew_grace(&mut self, now: BootTime, index: usize) {
        self.services[index].last_alive = now;
    }
}

/// Kills whatever a service left in its own cgroup.
fn sweep(sys: &mut dyn Sys, cgroup: &str) {
    // It fails only where the cgroup does not exist, and then nothing is in it.
    let _nothing_left = sys.write(&format!("{CGROUP_ROOT}/{cgroup}/cgroup.kill"), "1\n");
}

/// PID 1's whole life after the boot: waits, handles, ticks, until the machine is told to end.
pub fn run(sys: &mut dyn Sys, supervisor: &mut Supervisor) {
    while !supervisor.tick(sys) {
        let until = supervisor.next_deadline();
        let events: Vec<Event> = sys.wait(until);
        for event in events {
            supervisor.handle(sys, event);
        }
    }
}
