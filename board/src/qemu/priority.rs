//! The priority of QEMU's own threads on the host.
//!
//! A guest's SCHED_FIFO means nothing while the host gives the virtual core to somebody else: on a
//! busy two-core host the guest's loop then misses periods that no guest can save. So the threads
//! of a machine that is measured get a real-time priority of the host, as the ones of any
//! real-time guest do. All of them, because a virtual core waits for locks that the others hold.
//!
//! Guarantees: SCHED_FIFO at the lowest priority there is, so that whatever real-time work the host
//! has goes first; the host's throttling (95 % as shipped) stays in force, so a guest that spins
//! cannot take the machine. Where it is not permitted nothing changes, and the reason is told.

use std::process::{Command, Stdio};

use super::process::KeptChild;
use crate::host::program_path;

/// What the host granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPriority {
    /// SCHED_FIFO for every thread that QEMU has at this time.
    Fifo,
    /// The ordinary policy, and why.
    Ordinary {
        /// What the host said.
        reason: String,
    },
}

impl HostPriority {
    /// In one word, for reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            HostPriority::Fifo => "fifo",
            HostPriority::Ordinary { .. } => "ordinary",
        }
    }
}

/// Asks for SCHED_FIFO for all threads of `child`.
#[must_use]
pub fn raise(child: &KeptChild) -> HostPriority {
    let program = program_path("chrt").unwrap_or("chrt".into());
    let asked = Command::new(program)
        .args(["--fifo", "--all-tasks", "--pid", "1"])
        .arg(child.id().to_string())
        .stdin(Stdio::null())
        .output();
    let reason = match asked {
        Ok(output) if output.status.success() => return HostPriority::Fifo,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("chrt: {error}"),
    };
    HostPriority::Ordinary { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::process::Terminal;
    use std::path::Path;

    fn policy(id: u32) -> String {
        // Field 41 of /proc/PID/stat, counted from behind the program's name; 1 is SCHED_FIFO.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let behind = stat.rsplit_once(')').unwrap().1.to_owned();
        behind.split_whitespace().nth(38).unwrap().to_owned()
    }

    #[test]
    fn what_is_said_to_be_granted_is_what_the_kernel_has() {
        let said = tempfile::NamedTempFile::new().unwrap();
        let arguments = ["600".to_owned()];
        let program = Path::new("/bin/sleep");
        let child = KeptChild::start(program, &arguments, Terminal::None, said.path()).unwrap();
        assert_eq!(policy(child.id()), "0");
        match raise(&child) {
            HostPriority::Fifo => assert_eq!(policy(child.id()), "1"),
            HostPriority::Ordinary { reason } => {
                assert_eq!(policy(child.id()), "0");
                assert!(!reason.is_empty());
            }
        }
    }
}
