//! Where the two sides of a call run, so that the scheduler decides for nobody.
//!
//! Left alone, the scheduler puts one server beside its caller and another on the other core, and
//! a wake-up across cores costs many times what any protocol does. So every system is measured in
//! both placements, with all threads of both sides pinned; a thread that is born later inherits
//! that. Pinning is read back, not assumed.

use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;

/// Passes over a process's threads before one that makes threads without end is given up.
const PASSES: usize = 20;

/// Where the server runs, seen from the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the caller's core.
    SameCore,
    /// On another one.
    TwoCores,
}

impl Placement {
    /// Both.
    pub const ALL: [Self; 2] = [Self::SameCore, Self::TwoCores];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameCore => "same_core",
            Self::TwoCores => "two_cores",
        }
    }
}

/// The two cores: the first two that this process may use.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    caller: usize,
    other: usize,
}

impl Cores {
    /// Chooses them.
    ///
    /// # Errors
    /// There is only one.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core) == Ok(true));
        match (cores.next(), cores.next()) {
            (Some(caller), Some(other)) => Ok(Self { caller, other }),
            _ => bail!("two cores are needed, and this process may use one"),
        }
    }

    /// Pins this process to the caller's core and `servers` as `placement` says.
    ///
    /// # Errors
    /// A process is gone or belongs to somebody else.
    pub fn place(self, placement: Placement, servers: &[Pid]) -> Result<()> {
        let core = match placement {
            Placement::SameCore => self.caller,
            Placement::TwoCores => self.other,
        };
        pin(Pid::this(), self.caller)?;
        servers.iter().try_for_each(|server| pin(*server, core))
    }
}

/// Pins every thread of a process to one core.
fn pin(process: Pid, core: usize) -> Result<()> {
    let mut wanted = CpuSet::new();
    wanted.set(core)?;
    for _ in 0..PASSES {
        let mut moved = false;
        for thread in threads(process)? {
            match sched_getaffinity(thread) {
                Ok(current) if current == wanted => {}
                Ok(_) => {
                    sched_setaffinity(thread, &wanted)?;
                    moved = true;
                }
                // It ended since it was listed.
                Err(Errno::ESRCH) => moved = true,
                Err(error) => return Err(error.into()),
            }
        }
        // A pass that finds every thread in its place: none was born unpinned meanwhile.
        if !moved {
            return Ok(());
        }
    }
    bail!("the threads of process {process} do not stay on core {core}")
}

fn threads(process: Pid) -> Result<Vec<Pid>> {
    let path = format!("/proc/{process}/task");
    let entries = std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    let mut threads = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_str().context("a thread whose number is no text")?;
        threads.push(Pid::from_raw(name.parse()?));
    }
    Ok(threads)
}

/// The process that listens at `path`, as the kernel says.
///
/// # Errors
/// Nobody does.
pub fn server_at(path: &str) -> Result<Pid> {
    let stream = UnixStream::connect(path).with_context(|| format!("nobody serves {path}"))?;
    let pid = getsockopt(&stream, PeerCredentials)?.pid();
    ensure!(pid > 0, "the server of {path} is in another namespace");
    Ok(Pid::from_raw(pid))
}
