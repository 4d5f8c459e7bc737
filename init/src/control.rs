//! The control protocol of `init.sock`: one JSON object per line each way.
//!
//! Every request gets exactly one reply, at once or, for start, stop and restart, when it has
//! happened or its deadline has passed. Waiting replies are bounded by [`WAITERS_MAX`]. The socket
//! itself admits root only; nothing here checks that again.

use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::life::{Live, Next, State};
use crate::services;
use crate::status::milliseconds;
use crate::supervisor::{KILL_DEADLINE, Supervisor};
use crate::sys::{BootTime, ClientId, Ending, Sys};

/// Replies that may wait at the same time.
pub const WAITERS_MAX: usize = 8;
/// Longest request line, bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// A request.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Status,
    Log {
        #[serde(default = "default_lines")]
        lines: usize,
        service: Option<String>,
    },
    Signal {
        service: String,
        signal: String,
    },
    Stop {
        service: String,
    },
    Start {
        service: String,
    },
    Restart {
        service: String,
    },
    Poweroff,
    Reboot,
}

fn default_lines() -> usize {
    50
}

/// A client that is answered when a service has come or gone.
#[derive(Debug)]
pub struct Waiter {
    /// Who.
    pub client: ClientId,
    /// Answered with a failure at this time.
    pub until: BootTime,
    service: usize,
    wants: Wants,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Ready,
    Stopped,
}

impl Supervisor {
    /// Answers one request line, now or through a waiter.
    pub(crate) fn request(&mut self, sys: &mut dyn Sys, client: ClientId, line: &[u8]) {
        let reply = match serde_json::from_slice::<Request>(line) {
            Ok(request) => self.perform(sys, client, request),
            Err(error) => Some(Err(format!("not a request: {error}"))),
        };
        let reply = match reply {
            None => return,
            Some(Ok(value)) => value,
            Some(Err(error)) => json!({"ok": false, "error": error}),
        };
        sys.reply(client, &reply.to_string());
    }

    fn perform(
        &mut self,
        sys: &mut dyn Sys,
        client: ClientId,
        request: Request,
    ) -> Option<Result<Value, String>> {
        match request {
            Request::Status => Some(Ok(self.report())),
            Request::Log { lines, service } => {
                let lines = self.ring.tail(lines, service.as_deref());
                Some(Ok(json!({"ok": true, "lines": lines})))
            }
            Request::Signal { service, signal } => Some(self.signal(sys, &service, &signal)),
            Request::Stop { service } => self.change(sys, client, &service, Wants::Stopped, false),
            Request::Start { service } => self.change(sys, client, &service, Wants::Ready, false),
            Request::Restart { service } => self.change(sys, client, &service, Wants::Ready, true),
            Request::Poweroff => self.end(sys, client, Ending::PowerOff),
            Request::Reboot => self.end(sys, client, Ending::Reboot),
        }
    }

    fn end(
        &mut self,
        sys: &mut dyn Sys,
        client: ClientId,
        ending: Ending,
    ) -> Option<Result<Value, String>> {
        // Answered first: the console that carries the answer is the first to be stopped.
        sys.reply(client, &json!({"ok": true}).to_string());
        self.shut_down(sys, ending, "a control client");
        None
    }

    fn find(&self, name: &str) -> Result<usize, String> {
        let mut services = self.services.iter();
        let found = services.position(|live| live.service.name == name);
        found.ok_or_else(|| {
            let services = self.services.iter();
            let names: Vec<&str> = services.map(|live| live.service.name).collect();
            format!("no service '{name}'; there are {}", names.join(", "))
        })
    }

    fn signal(&mut self, sys: &mut dyn Sys, name: &str, signal: &str) -> Result<Value, String> {
        let index = self.find(name)?;
        let long = match signal.starts_with("SIG") {
            true => signal.to_owned(),
            false => format!("SIG{signal}"),
        };
        let number = Signal::from_str(&long)
            .map_err(|_| format!("no signal '{signal}'; try KILL or TERM"))?;
        let pid = self.services[index].pid;
        let pid = pid.ok_or_else(|| format!("{name} is not running"))?;
        sys.kill(pid, number as i32)
            .map_err(|error| error.to_string())?;
        self.say(sys, format!("{number} sent to {name} by a control client"));
        Ok(json!({"ok": true, "pid": pid}))
    }

    fn change(
        &mut self,
        sys: &mut dyn Sys,
        client: ClientId,
        name: &str,
        wants: Wants,
        restart: bool,
    ) -> Option<Result<Value, String>> {
        let index = match self.find(name) {
            Ok(index) => index,
            Err(error) => return Some(Err(error)),
        };
        if self.shutdown.is_some() {
            return Some(Err("the machine is going down".to_owned()));
        }
        if self.waiters.len() == WAITERS_MAX {
            return Some(Err(format!("{WAITERS_MAX} requests are waiting already")));
        }
        let now = sys.now();
        let live = &mut self.services[index];
        let row = &live.service;
        let patience = row.stop_deadline + KILL_DEADLINE + row.ready_deadline.unwrap_or_default();
        let up = matches!(live.state, State::Running | State::Starting(_));
        match (wants, &mut live.state) {
            (Wants::Stopped, State::Stopping(_, next) | State::Killing(_, next)) => {
                *next = Next::Stay;
            }
            (Wants::Ready, State::Stopping(_, next) | State::Killing(_, next)) => {
                *next = Next::Start;
                // It votes again from here on.
                live.last_alive = now;
            }
            (Wants::Stopped, _) => self.terminate(sys, index, Next::Stay),
            (Wants::Ready, _) if up && restart => self.terminate(sys, index, Next::Start),
            (Wants::Ready, _) if up => {}
            (Wants::Ready, _) => {
                self.renew_grace(now, index);
                self.start(sys, index);
            }
        }
        self.waiters.push(Waiter {
            client,
            until: now + patience + Duration::from_secs(1),
            service: index,
            wants,
        });
        None
    }

    /// Answers the waiters whose wish has come true, or cannot any more.
    pub(crate) fn answer_waiters(&mut self, sys: &mut dyn Sys) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            let live = &self.services[waiter.service];
            let name = live.service.name;
            let reply = match (waiter.wants, live.state) {
                (Wants::Ready, State::Running) | (Wants::Stopped, State::Stopped) => {
                    json!({"ok": true})
                }
                (Wants::Ready, State::Refused) => {
                    json!({"ok": false, "error": format!("{name} refused its configuration")})
                }
                (_, state) if sys.now() >= waiter.until => {
                    let error = format!("{name} is still {}", state_name(live, state));
                    json!({"ok": false, "error": error})
                }
                _ => {
                    self.waiters.push(waiter);
                    continue;
                }
            };
            sys.reply(waiter.client, &reply.to_string());
        }
    }

    /// The answer to `status`.
    pub fn report(&self) -> Value {
        let services: Vec<Value> = self.services.iter().map(describe).collect();
        json!({
            "ok": true,
            "boot": self.status,
            "services": services,
            "log": {"bytes": self.ring.bytes(), "dropped_lines": self.ring.dropped()},
            "orphans_reaped": self.orphans_reaped,
            "notices_refused": self.notices_refused,
            "crash_notes_dropped": self.crash_notes_dropped(),
            "run_dir": services::RUN_DIR,
        })
    }
}

fn describe(live: &Live) -> Value {
    json!({
        "name": live.service.name,
        "pid": live.pid,
        "state": state_name(live, live.state),
        "restarts": live.restarts,
        "last_exit": live.last_exit,
        "ready_ms": live.ready_at.map(milliseconds),
        "status": live.said,
    })
}

fn state_name(live: &Live, state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Starting(_) => "starting",
        State::Running => "running",
        State::Stopping(..) => "stopping",
        State::Killing(..) => "killing",
        State::BackOff(_) if live.crash_loop => "crash-loop",
        State::BackOff(_) => "back-off",
        State::Stopped => "stopped",
        State::Refused => "refused",
    }
}
