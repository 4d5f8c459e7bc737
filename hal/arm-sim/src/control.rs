//! The control socket: one JSON object per line each way (`docs/internals/interfaces.md`).
//!
//! Everything is bounded and nothing blocks: at most [`CLIENTS_MAX`] clients, a line of at most
//! [`LINE_BYTES_MAX`], and no further request of a client is read before it took the last reply. A
//! client that breaks the bounds loses its connection; nobody else notices.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use kairo_hal::MonoNs;
use nix::poll::PollFlags;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fault::FaultRates;
use crate::simulator::Simulator;
use crate::transport::{Transport, TransportError, listen};

/// Most clients at a time.
pub const CLIENTS_MAX: usize = 8;
/// Longest request, bytes.
pub const LINE_BYTES_MAX: usize = 4096;

/// A request.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The true state of every joint.
    Truth {},
    /// Sets the fault rates.
    Fault {
        /// Probability of a damaged reply.
        #[serde(default)]
        corrupt: f64,
        /// Probability of a missing reply.
        #[serde(default)]
        drop: f64,
        /// Probability of garbage before a reply.
        #[serde(default)]
        garbage: f64,
        /// Probability of a reply that is cut short.
        #[serde(default)]
        half: f64,
        /// For how long, ms; 0 means until changed.
        #[serde(default)]
        duration_ms: u64,
    },
    /// What happened on the line.
    Counters {},
    /// The goal-position writes that arrived.
    Goals {
        /// Only those after this instant, ns.
        #[serde(default)]
        since_ns: u64,
    },
    /// Takes a servo's supply away for a moment.
    Reboot {
        /// The servo.
        id: u8,
    },
    /// Blocks a joint where it is, or lets it go again.
    Jam {
        /// Its servo.
        id: u8,
        /// Whether it is blocked.
        jammed: bool,
    },
    /// Pulls the cable.
    Unplug {},
    /// Plugs it in again.
    Plug {},
}

/// Answers one line.
pub fn answer(
    line: &[u8],
    now: MonoNs,
    simulator: &mut Simulator,
    transport: &mut Transport,
) -> Value {
    match serde_json::from_slice(line) {
        Ok(request) => handle(&request, now, simulator, transport),
        Err(error) => refusal(&format!("not a request: {error}")),
    }
}

fn handle(
    request: &Request,
    now: MonoNs,
    simulator: &mut Simulator,
    transport: &mut Transport,
) -> Value {
    match *request {
        Request::Truth {} => truth(now, simulator),
        Request::Fault {
            corrupt,
            drop,
            garbage,
            half,
            duration_ms,
        } => {
            let rates = FaultRates {
                corrupt,
                drop,
                garbage,
                half,
            };
            if !rates.is_valid() {
                return refusal("a rate is not between 0 and 1");
            }
            simulator.set_faults(now, rates, duration_ms.saturating_mul(1_000_000));
            json!({"ok": true})
        }
        Request::Counters {} => counters(simulator, transport),
        Request::Goals { since_ns } => goals(now, MonoNs(since_ns), simulator),
        Request::Reboot { id } => match simulator.reboot(now, id) {
            true => json!({"ok": true}),
            false => refusal("no servo has this id"),
        },
        Request::Jam { id, jammed } => match simulator.jam(now, id, jammed) {
            true => json!({"ok": true}),
            false => refusal("no servo has this id"),
        },
        Request::Unplug {} => {
            let result = transport.unplug();
            if result.is_ok() {
                simulator.hang_up();
            }
            outcome(result)
        }
        Request::Plug {} => outcome(transport.plug()),
    }
}

fn outcome(result: Result<(), TransportError>) -> Value {
    match result {
        Ok(()) => json!({"ok": true}),
        Err(error) => refusal(&error.to_string()),
    }
}

fn refusal(reason: &str) -> Value {
    json!({"ok": false, "error": reason})
}

fn truth(now: MonoNs, simulator: &mut Simulator) -> Value {
    let joints = simulator.truth(now).map(|joint| {
        json!({
            "id": joint.id,
            "position_rad": joint.position_rad,
            "velocity_rad_s": joint.velocity_rad_s,
            "goal_rad": joint.goal_rad,
            "torque_nm": joint.torque_nm,
            "torque_enabled": joint.torque_enabled,
            "current_a": joint.current_a,
        })
    });
    json!({"ok": true, "now_ns": now.0, "joints": joints})
}

fn counters(simulator: &Simulator, transport: &Transport) -> Value {
    let counters = simulator.counters();
    json!({
        "ok": true,
        "packets": counters.packets,
        "replies": counters.replies,
        "corrupted": counters.faults.corrupted,
        "dropped": counters.faults.dropped,
        "bad_checksum": counters.bad_checksum,
        "garbage_bytes": counters.garbage_bytes,
        "halved": counters.faults.halved,
        "garbage_sent": counters.faults.garbage_sent,
        "collisions": counters.collisions,
        "overrun_bytes": transport.overrun_bytes,
        "skipped_ns": counters.skipped_ns,
    })
}

fn goals(now: MonoNs, since: MonoNs, simulator: &Simulator) -> Value {
    let (writes, lost) = simulator.goals_since(since);
    let goals: Vec<Value> = writes
        .map(|write| json!({"t_ns": write.at.0, "ids": write.ids, "goal_rad": write.goal_rad}))
        .collect();
    json!({"ok": true, "now_ns": now.0, "lost": lost, "goals": goals})
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl Client {
    fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Serves the client as far as that goes without waiting; false when it is to be let go.
    fn serve(&mut self, answer: &mut dyn FnMut(&[u8]) -> Value) -> bool {
        if !self.flush() {
            return false;
        }
        let mut chunk = [0; LINE_BYTES_MAX];
        if !self.has_output() && !self.input.contains(&b'\n') {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        while !self.has_output() {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
                break;
            };
            let line: Vec<u8> = self.input.drain(..=end).collect();
            self.output = answer(&line).to_string().into_bytes();
            self.output.push(b'\n');
            self.sent = 0;
            if !self.flush() {
                return false;
            }
        }
        self.input.len() <= LINE_BYTES_MAX || self.input.contains(&b'\n')
    }

    fn flush(&mut self) -> bool {
        while self.has_output() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return false,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// The control socket.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
}

impl ControlServer {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`TransportError::Path`] when the path is taken or cannot be written.
    pub fn open(path: &Path) -> Result<Self, TransportError> {
        Ok(Self {
            listener: listen(path)?,
            path: path.to_owned(),
            clients: Vec::new(),
        })
    }

    /// What to wait on, and for what.
    pub fn poll_fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|client| {
            let wanted = if client.has_output() {
                PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            (client.stream.as_fd(), wanted)
        });
        let is_open = self.clients.len() < CLIENTS_MAX;
        is_open
            .then(|| (self.listener.as_fd(), PollFlags::POLLIN))
            .into_iter()
            .chain(clients)
    }

    /// Serves everybody as far as that goes without waiting.
    pub fn serve(&mut self, mut answer: impl FnMut(&[u8]) -> Value) {
        while self.clients.len() < CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else {
                break;
            };
            if stream.set_nonblocking(true).is_ok() {
                let (input, output) = (Vec::new(), Vec::new());
                self.clients.push(Client {
                    stream,
                    input,
                    output,
                    sent: 0,
                });
            }
        }
        self.clients.retain_mut(|client| client.serve(&mut answer));
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // A path that is gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}
