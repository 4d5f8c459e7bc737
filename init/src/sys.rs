//! What kairo-init asks of the machine: the one seam between its decisions and Linux.
//!
//! Every effect of PID 1 is a method here, so that a recording implementation can show a whole
//! boot as text. The contract of an implementation: a method returns promptly, except
//! [`Sys::run_bounded`] and [`Sys::wait`], which return by their deadline. Paths of the kernel's
//! own file systems (proc, sys, cgroup) are used directly because they cannot hang on a disk;
//! everything that touches a disk is a [`Job`] and runs in a child process that can be abandoned.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

/// A point in time: CLOCK_BOOTTIME, time since the kernel started.
pub type BootTime = Duration;

/// A process id.
pub type Pid = i32;

/// A connection to the control socket, by a number that is never reused within one boot.
pub type ClientId = u64;

/// Why the machine did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SysError {
    /// The kernel refused, with its reason.
    #[error("{what}: {errno}")]
    Refused {
        /// The operation and its object, as a reader would type it.
        what: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A job did not finish in time and was abandoned.
    #[error("{what}: no answer within {deadline_ms} ms, abandoned (a hung device?)")]
    Deadline {
        /// The operation and its object.
        what: String,
        /// How long it was given.
        deadline_ms: u64,
    },
}

impl SysError {
    /// The kernel refused `what` with `errno`.
    pub fn refused(what: impl Into<String>, errno: Errno) -> Self {
        Self::Refused {
            what: what.into(),
            errno,
        }
    }
}

/// A file system to attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Kernel name of the file system type.
    pub fstype: &'static str,
    /// Device or label.
    pub source: String,
    /// Where it appears.
    pub target: String,
    /// Restrictions: any of `ro`, `nosuid`, `nodev`, `noexec`.
    pub flags: &'static [&'static str],
    /// File-system options, `key=value` or a bare flag.
    pub options: Vec<String>,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fstype,
            source,
            target,
            ..
        } = self;
        write!(f, "mount {fstype} {source} on {target}")?;
        let words = self.flags.iter().copied();
        let words: Vec<&str> = words
            .chain(self.options.iter().map(String::as_str))
            .collect();
        if !words.is_empty() {
            write!(f, " ({})", words.join(" "))?;
        }
        Ok(())
    }
}

/// Work that may hang on a device; it runs in a child process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Attach a file system.
    Mount(Mount),
    /// Detach the file system at this path.
    Unmount(String),
    /// Write all dirty data to the disks.
    Sync,
    /// Make a directory and its parents; an existing one is fine.
    MakeDirs(String),
    /// Make a directory that only this user may enter; an existing one becomes so.
    MakePrivateDir(String, u32),
    /// Answer the content of a file, at most this many bytes.
    ReadFile(String, usize),
    /// Answer the content of a file and remove it, durably, before answering.
    TakeFile(String, usize),
    /// Replace a file by this content in one step (temporary file, fsync, rename).
    ReplaceFile(String, Vec<u8>),
    /// Replace a file by this many random bytes, waiting for the kernel's pool to be initialised.
    RenewSeed(String, usize),
    /// Append to a log; when it exceeds the bound it first becomes `PATH.1`.
    AppendLog {
        /// The log.
        path: String,
        /// What to add.
        text: String,
        /// Size at which the log is rotated away.
        bytes_max: u64,
    },
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(mount) => mount.fmt(f),
            Self::Unmount(target) => write!(f, "unmount {target}"),
            Self::Sync => write!(f, "sync"),
            Self::MakeDirs(path) => write!(f, "make directory {path}"),
            Self::MakePrivateDir(path, uid) => write!(f, "make directory {path} for user {uid}"),
            Self::ReadFile(path, _) => write!(f, "read {path}"),
            Self::TakeFile(path, _) => write!(f, "take {path}"),
            Self::ReplaceFile(path, content) => {
                write!(f, "replace {path} ({} bytes)", content.len())
            }
            Self::RenewSeed(path, _) => write!(f, "renew {path}"),
            Self::AppendLog { path, text, .. } => {
                write!(f, "append to {path}: {}", text.lines().next().unwrap_or(""))
            }
        }
    }
}

/// A program to start as a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Cgroup below `/sys/fs/cgroup`, without a leading slash.
    pub cgroup: &'static str,
    /// User it runs as.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: &'static [u32],
    /// RLIMIT_RTPRIO.
    pub realtime_priority_max: u64,
    /// Lift RLIMIT_MEMLOCK.
    pub lock_memory: bool,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Preference of the OOM killer, -1000 (never) to 1000.
    pub oom_score_adjust: i32,
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {}", self.argv.join(" "))?;
        write!(f, " [uid {} gid {}", self.uid, self.gid)?;
        if !self.groups.is_empty() {
            write!(f, " groups {:?}", self.groups)?;
        }
        write!(f, ", cgroup {}", self.cgroup)?;
        write!(f, ", rtprio {}", self.realtime_priority_max)?;
        if self.lock_memory {
            write!(f, ", memlock unlimited")?;
        }
        if self.no_new_privileges {
            write!(f, ", no new privileges")?;
        }
        write!(f, "]")
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A process ended and was reaped: a service or an orphan.
    Exited(Pid, Exit),
    /// A datagram on the notify socket; the kernel vouches for the sender's pid.
    Notify(Pid, Vec<u8>),
    /// Output of the service started as this pid.
    Output(Pid, Vec<u8>),
    /// A complete line from a control client.
    Request(ClientId, Vec<u8>),
    /// A control client went away.
    ClientGone(ClientId),
    /// Someone wants the machine off: a signal to PID 1 or the power button.
    PowerOff(&'static str),
    /// Someone wants a reboot: Ctrl-Alt-Del.
    Reboot(&'static str),
}

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Switch the power off.
    PowerOff,
    /// Restart through the firmware.
    Reboot,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power-off",
            Self::Reboot => "reboot",
        })
    }
}

/// The machine. See the module text for the contract.
pub trait Sys {
    /// CLOCK_BOOTTIME.
    fn now(&self) -> BootTime;
    /// Says a line on the kernel log, and so on the console.
    fn say(&mut self, line: &str);

    /// Whether the path exists; for in-memory file systems only.
    fn exists(&mut self, path: &str) -> bool;
    /// Names in a directory of an in-memory file system, sorted; empty when unreadable.
    fn list(&mut self, path: &str) -> Vec<String>;
    /// Makes one directory in an in-memory file system; an existing one gets mode and group.
    fn make_dir(&mut self, path: &str, mode: u32, gid: u32) -> Result<(), SysError>;
    /// Makes a symbolic link in an in-memory file system.
    fn make_link(&mut self, target: &str, link: &str) -> Result<(), SysError>;
    /// Attaches an in-memory file system.
    fn mount(&mut self, mount: &Mount) -> Result<(), SysError>;
    /// Reads a kernel interface file, at most 64 KiB.
    fn read(&mut self, path: &str) -> Result<String, SysError>;
    /// Writes a kernel interface file in one write(2).
    fn write(&mut self, path: &str, text: &str) -> Result<(), SysError>;
    /// Runs a job in a child; abandons it at the deadline. Answers the bytes a read job produced.
    fn run_bounded(&mut self, job: &Job, deadline: Duration) -> Result<Vec<u8>, SysError>;
    /// Runs a job in a child nobody waits for; its end arrives as [`Event::Exited`].
    fn run_detached(&mut self, job: &Job) -> Result<Pid, SysError>;

    /// Opens the watchdog, which starts it, and keeps it open for ever; a second call reopens.
    fn watchdog_open(&mut self, path: &str) -> Result<(), SysError>;
    /// Sets the watchdog's timeout and answers what it really is, in seconds.
    fn watchdog_set_timeout(&mut self, timeout_s: u32) -> Result<u32, SysError>;
    /// Answers the timeout in force, in seconds.
    fn watchdog_timeout(&mut self) -> Result<u32, SysError>;
    /// Whether the last reset was the watchdog's doing, as far as the hardware knows.
    fn watchdog_caused_reset(&mut self) -> bool;
    /// Feeds the watchdog once.
    fn watchdog_feed(&mut self) -> Result<(), SysError>;

    /// Sets the host name.
    fn set_hostname(&mut self, name: &str) -> Result<(), SysError>;
    /// Brings the loopback interface up.
    fn loopback_up(&mut self) -> Result<(), SysError>;
    /// CLOCK_REALTIME, whole seconds.
    fn wall_clock_s(&self) -> i64;
    /// Sets CLOCK_REALTIME.
    fn set_wall_clock(&mut self, unix_s: i64) -> Result<(), SysError>;
    /// Gives bytes to the kernel's random pool and credits them.
    fn add_entropy(&mut self, bytes: &[u8]) -> Result<(), SysError>;

    /// Makes the notify and control sockets and watches the power button.
    fn listen(&mut self, run_dir: &str, notify_gid: u32) -> Result<(), SysError>;
    /// Starts a program: own session, stdin from /dev/null, output into [`Event::Output`].
    fn launch(&mut self, launch: &Launch) -> Result<Pid, SysError>;
    /// Sends a signal to one process.
    fn kill(&mut self, pid: Pid, signal: i32) -> Result<(), SysError>;
    /// Sends SIGKILL to every process but PID 1.
    fn kill_everything(&mut self);
    /// Waits for events until the deadline; answers an empty list when it passes.
    fn wait(&mut self, until: BootTime) -> Vec<Event>;
    /// Queues one line for a control client; a client that does not read is disconnected.
    fn reply(&mut self, client: ClientId, line: &str);
    /// Ends the machine. Returns only in tests, or when the kernel refuses.
    fn end(&mut self, ending: Ending);
}
