//! What an operator asks of kairo-rt directly, past the agent plane: messages of `operator.sock`.
//!
//! One request a connection, one reply, over a [`crate::control::ControlSocket`]. Only root and the
//! user that kairo-rt runs as may connect. Ordinary threads only.

use serde::{Deserialize, Serialize};

use crate::lines::LinesReport;

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "operator.sock";

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OperatorRequest {
    /// Stop everything, now.
    Estop,
    /// Clear the e-stop, if every input is good.
    ClearEstop,
    /// Raise a cause that comes from outside: `low_battery` or `operator_request`.
    Raise {
        /// Its name.
        cause: String,
    },
    /// Lower it.
    Lower {
        /// Its name.
        cause: String,
    },
    /// Take over from what an operator may take over from.
    TakeOver,
    /// Defer what can be deferred, or no longer.
    Defer {
        /// Which.
        on: bool,
    },
    /// Only tell how things stand.
    Status,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorReply {
    /// Whether it was done.
    pub done: bool,
    /// Why not, or what happened, in one sentence.
    pub text: String,
    /// Whether the e-stop is latched now.
    pub estop: bool,
    /// Every device, as its failsafe machine decided last.
    pub devices: Vec<DeviceFailsafe>,
    /// The GPIO lines; none on a robot without.
    #[serde(default)]
    pub lines: Option<LinesReport>,
}

/// What the failsafe machine of a device has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFailsafe {
    /// The device.
    pub device: String,
    /// The action in force.
    pub action: String,
    /// The cause that demands it; `none` without.
    pub cause: String,
    /// Every live cause.
    pub live: Vec<String>,
}
