//! What can go wrong, what to do about it, and which exit status says so.

use std::process::ExitCode;

use kairo_wire::{ClientError, ErrorCode};
use serde_json::{Value, json};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A parameter that could not even be sent.
    #[error("{0}")]
    Usage(String),
    /// The device did not get where it was sent.
    #[error("{0}")]
    NotDone(String),
    /// A file.
    #[error("cannot write {path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A program could not be started or was not content.
    #[error("{0}")]
    Program(String),
    /// kairo-rt's own socket.
    #[error("kairo-rt does not answer at {path}: {error}")]
    Operator {
        /// Which.
        path: String,
        /// Why.
        error: kairo_link::control::ControlError,
    },
    /// The real-time plane refuses.
    #[error("{0}")]
    Refused(String),
    /// Standard output was closed.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// The exit status: 0 done, 1 failed, 2 usage, 3 refused.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Refused(_) => ExitCode::from(3),
            Self::Usage(_) | Self::Client(ClientError::Endpoint(_)) => ExitCode::from(2),
            Self::Client(error) => ExitCode::from(error.refusal().map_or(1, status_of)),
            _ => ExitCode::from(1),
        }
    }

    /// The failure for programs: `{error: {message, …}}`, with the protocol's names where the
    /// kernel refused.
    pub fn json(&self) -> Value {
        let mut error = match self {
            Self::Client(ClientError::Refused(info)) => {
                serde_json::to_value(info).unwrap_or_default()
            }
            other => json!({"message": other.to_string()}),
        };
        if let Some(hint) = self.hint() {
            error["hint"] = hint.into();
        }
        json!({"error": error})
    }

    /// The next thing to try, where the message does not say it already.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Client(ClientError::Connect { .. }) => Some(
                "start the system with `cargo xtask run`, or say where it is with --socket or \
                 KAIRO_IPC_SOCKET",
            ),
            Self::Operator { .. } => Some(
                "run it on the robot itself, as root or as kairo-rt's user; KAIRO_RUN_DIR says \
                 where",
            ),
            Self::Client(ClientError::Closed) => {
                Some("kairod may have been restarted; run the command again")
            }
            Self::Client(ClientError::Deadline(_)) => {
                Some("see `kairo status`, or wait longer with --timeout 30s")
            }
            _ => None,
        }
    }
}

fn status_of(refusal: &kairo_wire::ErrorInfo) -> u8 {
    match refusal.code {
        ErrorCode::PermissionDenied | ErrorCode::Busy | ErrorCode::Limit | ErrorCode::Conflict => 3,
        ErrorCode::InvalidParams | ErrorCode::InvalidRequest => 2,
        _ => 1,
    }
}
