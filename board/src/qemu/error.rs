//! The one error type of the QEMU runner. Where the machine itself went wrong, the message carries
//! the path of its log and the log's end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::HostError;
use crate::paths::PathsError;

/// Why a machine could not be started, driven or observed.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The host lacks QEMU.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The workspace or its output directory is not there.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The image could not be built.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// A file or socket operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or socket.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// `KAIRO_ACCEL` has a value nobody knows.
    #[error("KAIRO_ACCEL is {0:?}; it may be kvm or tcg")]
    AccelUnknown(String),
    /// KVM was demanded and does not work.
    #[error("KAIRO_ACCEL=kvm, but KVM does not work here: {0}; unset it to use TCG")]
    KvmUnusable(String),
    /// QEMU ended while something was expected from it.
    #[error(
        "QEMU ended ({status}) {doing}; it said: {said}\nlog {}, which ends:\n{tail}",
        log.display()
    )]
    Ended {
        /// Its exit status.
        status: String,
        /// What was going on.
        doing: String,
        /// Its standard error.
        said: String,
        /// The log of the kernel console.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// Something did not happen in time.
    #[error("{doing} took longer than {deadline:?}\nlog {}, which ends:\n{tail}", log.display())]
    Deadline {
        /// What was waited for.
        doing: String,
        /// How long.
        deadline: Duration,
        /// The log of the kernel console.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The QMP command.
        command: String,
        /// The reason it gave.
        reason: String,
    },
    /// A conversation over a socket failed.
    #[error("{with}: {reason}")]
    Conversation {
        /// The other side.
        with: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The machine has no such part.
    #[error("this machine was started without {0}")]
    NoSuchPart(&'static str),
    /// A program of the workspace could not be built or started.
    #[error("cannot start {program}: {reason}")]
    Program {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
}

impl QemuError {
    /// Wraps the error of a file operation with what was tried and on which file.
    pub fn file(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> QemuError + use<> {
        let path = path.to_path_buf();
        move |source| QemuError::File {
            action,
            path,
            source,
        }
    }
}
