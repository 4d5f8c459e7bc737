//! The real machine: [`Sys`] over Linux system calls. One thread; nothing here blocks without a
//! deadline. No decisions: those are in the modules that use the trait.

mod identity;
mod job;
mod launch;
mod mount;
mod reactor;
mod watchdog;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::time::{ClockId, clock_gettime};

use crate::sys::{BootTime, ClientId, Ending, Event, Job, Launch, Mount, Pid, Sys, SysError};
use reactor::Reactor;
use watchdog::Watchdog;

/// Most bytes of a kernel interface file that are read.
const KERNEL_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Turns an I/O error into the trait's error, naming what was tried.
fn refused(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> SysError {
    move |error| {
        SysError::refused(
            what,
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
        )
    }
}

/// The machine under PID 1.
#[derive(Debug)]
pub struct LinuxSys {
    kernel_log: Option<File>,
    watchdog: Option<Watchdog>,
    reactor: Reactor,
}

impl LinuxSys {
    /// Blocks all signals, to receive them as events instead.
    ///
    /// # Errors
    /// The kernel refuses a signalfd, which it does only when it is out of memory.
    pub fn new() -> Result<Self, SysError> {
        Ok(Self {
            kernel_log: None,
            watchdog: None,
            reactor: Reactor::new()?,
        })
    }

    /// Ctrl-Alt-Del becomes SIGINT to PID 1 instead of an immediate reset.
    pub fn claim_ctrl_alt_del(&mut self) {
        if let Err(errno) = set_cad_enabled(false) {
            self.say(&format!("Ctrl-Alt-Del resets without a shutdown: {errno}"));
        }
    }
}

impl Sys for LinuxSys {
    fn now(&self) -> BootTime {
        // CLOCK_BOOTTIME cannot fail on a kernel of this decade.
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        time.unwrap_or_default()
    }

    fn say(&mut self, line: &str) {
        if self.kernel_log.is_none() {
            self.kernel_log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        }
        if let Some(log) = &mut self.kernel_log {
            // Level 5, notice: shown at the default console level, hidden by `quiet`. One write is
            // one record. A full kernel log overwrites its oldest lines; it does not fail.
            let _lost_line = log.write_all(format!("<5>kairo-init: {line}\n").as_bytes());
        }
    }

    fn exists(&mut self, path: &str) -> bool {
        fs::exists(path).unwrap_or(false)
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(path) else {
            return Vec::new();
        };
        let entries = entries.flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    fn make_dir(&mut self, path: &str, mode: u32, gid: u32) -> Result<(), SysError> {
        let what = || format!("make directory {path}");
        match fs::create_dir(path) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                return Err(refused(what())(error));
            }
            _ => {}
        }
        if gid != 0 {
            chown(path, Some(0), Some(gid)).map_err(refused(what()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(refused(what()))
    }

    fn make_link(&mut self, target: &str, link: &str) -> Result<(), SysError> {
        symlink(target, link).map_err(refused(format!("link {link}")))
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), SysError> {
        mount::attach(mount).map_err(|errno| SysError::refused(mount.to_string(), errno))
    }

    fn read(&mut self, path: &str) -> Result<String, SysError> {
        let mut text = String::new();
        let read = File::open(path)
            .and_then(|file| file.take(KERNEL_FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(refused(format!("read {path}")))?;
        Ok(text)
    }

    fn write(&mut self, path: &str, text: &str) -> Result<(), SysError> {
        let what = || format!("write {} to {path}", text.trim_end());
        let file = OpenOptions::new().write(true).open(path);
        let mut file = file.map_err(refused(what()))?;
        file.write_all(text.as_bytes()).map_err(refused(what()))
    }

    fn run_bounded(&mut self, job: &Job, deadline: Duration) -> Result<Vec<u8>, SysError> {
        let child = job::start(job)?;
        self.reactor.disown(child.pid);
        child.collect(job, deadline)
    }

    fn run_detached(&mut self, job: &Job) -> Result<Pid, SysError> {
        job::start(job).map(|child| child.pid)
    }

    fn watchdog_open(&mut self, path: &str) -> Result<(), SysError> {
        // The old one first: the device admits one opener.
        self.watchdog = None;
        self.watchdog = Some(Watchdog::open(path)?);
        Ok(())
    }

    fn watchdog_set_timeout(&mut self, timeout_s: u32) -> Result<u32, SysError> {
        self.opened_watchdog()?.set_timeout(timeout_s)
    }

    fn watchdog_timeout(&mut self) -> Result<u32, SysError> {
        self.opened_watchdog()?.timeout()
    }

    fn watchdog_caused_reset(&mut self) -> bool {
        self.watchdog.as_ref().is_some_and(Watchdog::caused_reset)
    }

    fn watchdog_feed(&mut self) -> Result<(), SysError> {
        self.opened_watchdog()?.feed()
    }

    fn set_hostname(&mut self, name: &str) -> Result<(), SysError> {
        let what = || format!("set host name {name}");
        nix::unistd::sethostname(name).map_err(|errno| SysError::refused(what(), errno))
    }

    fn loopback_up(&mut self) -> Result<(), SysError> {
        identity::loopback_up().map_err(|errno| SysError::refused("bring lo up", errno))
    }

    fn wall_clock_s(&self) -> i64 {
        clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec())
    }

    fn set_wall_clock(&mut self, unix_s: i64) -> Result<(), SysError> {
        let time = nix::sys::time::TimeSpec::new(unix_s, 0);
        nix::time::clock_settime(ClockId::CLOCK_REALTIME, time)
            .map_err(|errno| SysError::refused("set the clock", errno))
    }

    fn add_entropy(&mut self, bytes: &[u8]) -> Result<(), SysError> {
        identity::add_entropy(bytes).map_err(|errno| SysError::refused("credit the seed", errno))
    }

    fn listen(&mut self, run_dir: &str, notify_gid: u32) -> Result<(), SysError> {
        self.reactor.listen(run_dir, notify_gid)
    }

    fn launch(&mut self, launch: &Launch) -> Result<Pid, SysError> {
        let started = launch::start(launch)?;
        self.reactor.follow_output(started.pid, started.output);
        Ok(started.pid)
    }

    fn kill(&mut self, pid: Pid, signal: i32) -> Result<(), SysError> {
        // SAFETY: kill(2) takes no pointers.
        let result = unsafe { libc::kill(pid, signal) };
        Errno::result(result)
            .map(drop)
            .map_err(|errno| SysError::refused(format!("signal {signal} to {pid}"), errno))
    }

    fn kill_everything(&mut self) {
        // It fails only when there is nothing to kill.
        let _nobody_left = self.kill(-1, libc::SIGKILL);
    }

    fn wait(&mut self, until: BootTime) -> Vec<Event> {
        let timeout = until.saturating_sub(self.now());
        self.reactor.wait(timeout)
    }

    fn reply(&mut self, client: ClientId, line: &str) {
        self.reactor.reply(client, line);
    }

    fn end(&mut self, ending: Ending) {
        let mode = match ending {
            Ending::PowerOff => RebootMode::RB_POWER_OFF,
            Ending::Reboot => RebootMode::RB_AUTOBOOT,
        };
        let Err(errno) = reboot(mode);
        self.say(&format!("the kernel refuses the {ending}: {errno}"));
    }
}

impl LinuxSys {
    fn opened_watchdog(&mut self) -> Result<&mut Watchdog, SysError> {
        let missing = || SysError::refused("use the watchdog", Errno::ENODEV);
        self.watchdog.as_mut().ok_or_else(missing)
    }
}

/// A panic of PID 1 must not leave the machine without one: say it, sync for a bounded time,
/// restart. In a child of PID 1 it only ends the child.
pub fn reboot_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if std::process::id() != 1 {
            // SAFETY: _exit(2) takes no pointers and runs nothing of this process.
            unsafe { libc::_exit(101) };
        }
        if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
            let line = panic.to_string().replace('\n', " ");
            let _lost_line =
                log.write_all(format!("<0>kairo-init: {line}: rebooting\n").as_bytes());
        }
        if let Ok(child) = job::start(&Job::Sync) {
            let _not_synced = child.collect(&Job::Sync, Duration::from_secs(3));
        }
        let _the_kernel_panics_next = reboot(RebootMode::RB_AUTOBOOT);
    }));
}
