//! The arm simulator as a child process, and its control conversation.
//!
//! It is the far side of the cable: what the demo and the tests hold against what the robot says
//! of itself. Dropping the handle ends the process it started, and no other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::qemu::json_lines::JsonLines;
use crate::qemu::process::{KeptChild, Terminal};
use crate::qemu::{PrivateDirectory, QemuError};

/// How long the simulator may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Names it in errors.
const NAME: &str = "the arm simulator";

/// Which end of the cable the simulator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A pseudo-terminal.
    Pty,
    /// A Unix socket it listens on, for QEMU's usb-serial.
    UnixSocket,
}

/// A joint as it really is, by the simulator's own state.
#[derive(Clone, Debug, Deserialize)]
pub struct JointTruth {
    /// Servo id.
    pub id: u8,
    /// Position, rad from the middle of the servo's range.
    pub position_rad: f64,
    /// Velocity, rad/s.
    pub velocity_rad_s: f64,
    /// The goal position register, rad.
    pub goal_rad: f64,
}

/// A goal-position write that arrived at the servos.
#[derive(Clone, Debug, Deserialize)]
pub struct GoalWrite {
    /// When, CLOCK_MONOTONIC ns of this machine.
    pub t_ns: u64,
    /// The goals, rad, in the order of the ids.
    pub goal_rad: Vec<f64>,
}

/// A running simulator.
#[derive(Debug)]
pub struct Simulator {
    /// Ended when this is dropped, before its directory goes.
    _child: KeptChild,
    control: JsonLines,
    directory: PrivateDirectory,
}

impl Simulator {
    /// Starts `program` on a `line` of its own and waits until it answers; its log goes to `logs`.
    ///
    /// # Errors
    /// [`QemuError::Program`] when it cannot be started, [`QemuError::Conversation`] when it does
    /// not answer.
    pub fn start(program: &Path, line: Line, logs: &Path, seed: u64) -> Result<Self, QemuError> {
        let directory = PrivateDirectory::new()?;
        let option = match line {
            Line::Pty => "--pty",
            Line::UnixSocket => "--listen-unix",
        };
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let arguments = [
            option.to_owned(),
            text(line_path(&directory)),
            "--control".to_owned(),
            text(control_path(&directory)),
            "--seed".to_owned(),
            seed.to_string(),
        ];
        let log = logs.join("arm-sim.log");
        let child = KeptChild::start(program, &arguments, Terminal::None, &log)?;
        match JsonLines::connect(&control_path(&directory), NAME, ANSWER) {
            Ok(control) => Ok(Self {
                _child: child,
                control,
                directory,
            }),
            Err(error) => {
                let reason = format!("{error}; it said: {}", child.said());
                Err(QemuError::Program {
                    program: "kairo-arm-sim".to_owned(),
                    reason,
                })
            }
        }
    }

    /// Where the servo line is: the link to the pseudo-terminal, or the socket.
    #[must_use]
    pub fn line_path(&self) -> PathBuf {
        line_path(&self.directory)
    }

    /// The control socket, for people who want to ask it themselves.
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        control_path(&self.directory)
    }

    fn call(&mut self, request: &Value) -> Result<Value, QemuError> {
        let failed = |reason| QemuError::Conversation { with: NAME, reason };
        self.control.send(request, ANSWER)?;
        let answer = self.control.receive(ANSWER, |_| true)?;
        let answer = answer.ok_or_else(|| failed(format!("no answer to {request}")))?;
        if answer["ok"] == true {
            return Ok(answer);
        }
        let reason = answer["error"].as_str().unwrap_or("no reason given");
        Err(failed(format!("{request} was refused: {reason}")))
    }

    /// Every joint as it really is.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn truth(&mut self) -> Result<Vec<JointTruth>, QemuError> {
        let answer = self.call(&json!({"op": "truth"}))?;
        understood(&answer["joints"])
    }

    /// The goal writes since `since_ns`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn goals(&mut self, since_ns: u64) -> Result<Vec<GoalWrite>, QemuError> {
        let answer = self.call(&json!({"op": "goals", "since_ns": since_ns}))?;
        understood(&answer["goals"])
    }

    /// Corrupts this fraction of the replies for `duration`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn corrupt(&mut self, fraction: f64, duration: Duration) -> Result<(), QemuError> {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.call(&json!({
            "op": "fault", "corrupt": fraction, "drop": 0.0, "duration_ms": duration_ms,
        }))?;
        Ok(())
    }

    /// The simulator's counters, as it gives them.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn counters(&mut self) -> Result<Value, QemuError> {
        self.call(&json!({"op": "counters"}))
    }

    /// Hangs up the pseudo-terminal.
    ///
    /// # Errors
    /// [`QemuError`]; also when the line is a socket.
    pub fn unplug(&mut self) -> Result<(), QemuError> {
        self.call(&json!({"op": "unplug"})).map(drop)
    }

    /// Makes a new pseudo-terminal behind the same link.
    ///
    /// # Errors
    /// [`QemuError`]; also when the line is a socket.
    pub fn plug(&mut self) -> Result<(), QemuError> {
        self.call(&json!({"op": "plug"})).map(drop)
    }
}

fn line_path(directory: &PrivateDirectory) -> PathBuf {
    directory.path().join("line")
}

fn control_path(directory: &PrivateDirectory) -> PathBuf {
    directory.path().join("control")
}

fn understood<'value, T: Deserialize<'value>>(value: &'value Value) -> Result<T, QemuError> {
    T::deserialize(value).map_err(|error| QemuError::Conversation {
        with: NAME,
        reason: format!("its answer is not understood: {error}"),
    })
}
