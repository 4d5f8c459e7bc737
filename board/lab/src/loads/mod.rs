//! The loads: what an agent can do to a machine from inside its cgroup, each without end.
//!
//! Ordinary processes without privileges. They take what they can get and check no answer: a
//! refusal by a limit is part of the load.

mod disk;
mod ipc;
mod memory;
mod processes;

use std::convert::Infallible;

use clap::ValueEnum;

/// The kernel socket of the agent plane.
pub const KERNEL_SOCKET: &str = "/run/kairo/kernel.sock";

/// Where the disk load writes: on the data partition, made for the agent plane's user.
pub const CHURN_DIR: &str = "/data/kairo-lab";

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// Nothing.
    Idle,
    /// Four processes that compute.
    Cpu,
    /// Walks through memory, and maps and unmaps it.
    Memory,
    /// Makes processes as fast as it can, up to its limit of tasks.
    Fork,
    /// Writes, syncs, reads back and removes files on the data partition.
    Disk,
    /// Floods the kernel socket with good and bad requests.
    Ipc,
    /// Allocates until its cgroup's limit kills it, again and again.
    Oom,
    /// Kills kairod ten times; kairo-init brings it back.
    KairodKill,
    /// kairod is stopped (SIGSTOP) for the window.
    KairodStop,
    /// The clock is set a day ahead, and back.
    ClockStep,
    /// The data partition has no block left.
    DiskFull,
}

impl Load {
    /// As spelled on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Fork => "fork",
            Self::Disk => "disk",
            Self::Ipc => "ipc",
            Self::Oom => "oom",
            Self::KairodKill => "kairod-kill",
            Self::KairodStop => "kairod-stop",
            Self::ClockStep => "clock-step",
            Self::DiskFull => "disk-full",
        }
    }

    /// How many times as long as others its windows are. A late wake-up is a coincidence with
    /// another task's switch. Where hardly any task runs, the maximum takes long to be seen; and
    /// such seconds cost the host nothing.
    pub const fn patience(self) -> u64 {
        match self {
            Self::Idle | Self::KairodStop | Self::ClockStep | Self::DiskFull => 20,
            _ => 1,
        }
    }

    /// Whether it is something the lab does to the machine in the window.
    pub const fn is_a_trouble(self) -> bool {
        !self.is_a_session() && !matches!(self, Self::Idle)
    }

    /// Whether it is a process in an agent's session; the others are done by the lab.
    pub const fn is_a_session(self) -> bool {
        matches!(
            self,
            Self::Cpu | Self::Memory | Self::Fork | Self::Disk | Self::Ipc | Self::Oom
        )
    }
}

/// Is the load until killed.
///
/// # Errors
/// When it cannot even begin.
pub fn run(load: Load) -> anyhow::Result<()> {
    let never: Infallible = match load {
        Load::Idle | Load::KairodKill | Load::KairodStop | Load::ClockStep | Load::DiskFull => {
            return Ok(());
        }
        Load::Cpu => processes::spin()?,
        Load::Memory => memory::walk()?,
        Load::Fork => processes::storm()?,
        Load::Disk => disk::churn()?,
        Load::Ipc => ipc::flood()?,
        Load::Oom => memory::exhaust()?,
    };
    match never {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_called_by_its_name() {
        for load in Load::value_variants() {
            assert_eq!(Load::from_str(load.name(), false), Ok(*load));
        }
    }
}
