//! Where things run: the cgroup of a lab session in the agent plane, and joining a cgroup at start.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::loads::Load;

/// The real-time plane's cgroup.
pub const RT_CGROUP: &str = "/sys/fs/cgroup/kairo/rt";
/// The lab's session beside those of other agents.
const SESSION_CGROUP: &str = "/sys/fs/cgroup/kairo/agent/session-lab";
/// The agent plane's user and group.
pub const AGENT: (u32, u32) = (100, 100);
/// What the session may hold before its own OOM kill; the agent plane as a whole has 256 MiB.
const MEMORY_MAX: &str = "160M";
/// How long the kernel may take to end a killed group.
const EMPTY: Duration = Duration::from_secs(30);

/// Makes the child enter `cgroup` before it becomes its program, and give up root if asked.
pub fn join_on_start(command: &mut Command, cgroup: &'static str, user: Option<(u32, u32)>) {
    let procs = format!("{cgroup}/cgroup.procs");
    // SAFETY: kairo-lab has one thread, so the child may use std between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            fs::write(&procs, "0")?;
            if let Some((uid, gid)) = user {
                nix::unistd::setgroups(&[])?;
                nix::unistd::setgid(gid.into())?;
                nix::unistd::setuid(uid.into())?;
                nix::sys::prctl::set_no_new_privs()?;
            }
            Ok(())
        });
    }
}

/// A load in its cgroup; dropping it kills all of it.
#[derive(Debug)]
pub struct Session {
    child: Child,
    /// What the disk had written when the load began.
    written_before: u64,
}

impl Session {
    /// Starts `load` as an agent.
    ///
    /// # Errors
    /// When the cgroup cannot be made or the program not be started.
    pub fn start(load: Load) -> anyhow::Result<Self> {
        fs::create_dir_all(SESSION_CGROUP).context(SESSION_CGROUP)?;
        let limit = format!("{SESSION_CGROUP}/memory.max");
        fs::write(&limit, MEMORY_MAX).with_context(|| limit)?;
        let mut command = Command::new("/usr/bin/kairo-lab");
        command
            .args(["load", load.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        join_on_start(&mut command, SESSION_CGROUP, Some(AGENT));
        let child = command.spawn().context("kairo-lab load does not start")?;
        let written_before = sectors_written();
        Ok(Self {
            child,
            written_before,
        })
    }

    /// What the kernel counted for the session so far: the proof that the load was one.
    pub fn work(&self) -> Value {
        json!({
            "cpu_us": field("cpu.stat", "usage_usec"),
            "throttled": field("cpu.stat", "nr_throttled"),
            "oom_kills": field("memory.events", "oom_kill"),
            "page_faults": field("memory.stat", "pgfault"),
            "sectors_written": sectors_written() - self.written_before,
        })
    }

    /// Ends it and waits until nothing of it is left.
    ///
    /// # Errors
    /// When the group does not empty.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.kill();
        let end = Instant::now() + EMPTY;
        loop {
            let left = fs::read_to_string(format!("{SESSION_CGROUP}/cgroup.procs"))?;
            if left.is_empty() {
                break;
            }
            if Instant::now() > end {
                bail!("the load does not end: {left:?} are left of it");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Counters are per group: the next load starts from zero.
        fs::remove_dir(SESSION_CGROUP).context(SESSION_CGROUP)
    }

    fn kill(&mut self) {
        // A group that is gone needs no killing.
        let _ = fs::write(format!("{SESSION_CGROUP}/cgroup.kill"), "1");
        let _ = self.child.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sectors of 512 bytes written to the disk since boot, by anybody; zero without that disk.
fn sectors_written() -> u64 {
    let text = fs::read_to_string("/sys/block/vda/stat").unwrap_or_default();
    // The seventh number, by the kernel's documentation of the file.
    let number = text.split_whitespace().nth(6);
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// One number of a flat keyed file of the session.
fn field(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("{SESSION_CGROUP}/{file}")).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key)?.1.parse().ok()
}
