//! The one place where PID 1 waits: signals, notices, control clients, service output, the power
//! button.
//!
//! Bounded per wake: [`DATAGRAMS_MAX`] notices, one read of [`READ_BYTES_MAX`] per stream, one new
//! client; whoever floods is served again at the next wake, after everyone else. Bounded in
//! memory: [`CLIENTS_MAX`] clients with bounded buffers each way, [`STREAMS_MAX`] output streams.
//! Exits are reported after output, so that a service's last words precede its death. The wait is
//! poll(2) with a timeout over a list rebuilt each time: there are at most a few dozen
//! descriptors, and a list that cannot go stale is worth more than epoll's speed.

mod clients;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind,
    listen, recvmsg, setsockopt, socket, sockopt,
};

use super::{launch, refused};
use crate::notify::DATAGRAM_BYTES_MAX;
use crate::services::{NOTIFY_AGENT, NOTIFY_ROOT};
use crate::sys::{ClientId, Event, Exit, Pid, SysError};
use clients::Clients;

/// Notices taken per wake and socket.
const DATAGRAMS_MAX: usize = 64;
/// Children reaped per wake; the rest follow at the next one.
const REAPED_MAX: usize = 256;
/// Bytes taken from one stream per wake.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Output streams at a time: each service's, and one more per restart whose orphans still hold it.
const STREAMS_MAX: usize = 32;
/// Jobs abandoned and not yet reaped that are remembered.
const DISOWNED_MAX: usize = 64;
/// Input devices looked at for a power button.
const INPUTS_MAX: u32 = 16;
/// The longest sleep: poll counts in an int of milliseconds, and nothing needs to sleep longer.
const SLEEP_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Reactor {
    signals: SignalFd,
    /// The services' sockets: root's, then the agent plane's.
    notify: Vec<OwnedFd>,
    clients: Clients,
    streams: Vec<(Pid, File)>,
    buttons: Vec<File>,
    disowned: Vec<Pid>,
}

impl Reactor {
    pub(super) fn new() -> Result<Self, SysError> {
        let error = |errno| SysError::refused("receive signals", errno);
        let mut set = SigSet::empty();
        let taken = [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGPWR,
            Signal::SIGHUP,
        ];
        for signal in taken {
            set.add(signal);
        }
        set.thread_block().map_err(error)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            signals: SignalFd::with_flags(&set, flags).map_err(error)?,
            notify: Vec::new(),
            clients: Clients::default(),
            streams: Vec::new(),
            buttons: Vec::new(),
            disowned: Vec::new(),
        })
    }

    /// The end of this child is nobody's business.
    pub(super) fn disown(&mut self, pid: Pid) {
        if self.disowned.len() == DISOWNED_MAX {
            self.disowned.remove(0);
        }
        self.disowned.push(pid);
    }

    pub(super) fn listen(&mut self, run_dir: &str, notify_gid: u32) -> Result<(), SysError> {
        // Two, because a queue has room for a few datagrams only: who may fill the one must not be
        // able to keep kairo-rt's beats out of the other.
        let path = format!("{run_dir}/{NOTIFY_ROOT}");
        self.notify.push(notify_socket(&path, 0o600)?);
        let path = format!("{run_dir}/{NOTIFY_AGENT}");
        self.notify.push(notify_socket(&path, 0o660)?);
        chown(&path, None, Some(notify_gid)).map_err(refused(format!("own {path}")))?;
        let path = format!("{run_dir}/init.sock");
        let listener = bound_socket(&path, SockType::Stream, 0o600)?;
        let backlog = Backlog::new(8).unwrap_or(Backlog::MAXCONN);
        listen(&listener, backlog)
            .map_err(|errno| SysError::refused(format!("listen on {path}"), errno))?;
        self.clients.serve(listener);
        self.buttons = power_buttons();
        Ok(())
    }

    pub(super) fn follow_output(&mut self, pid: Pid, output: OwnedFd) {
        launch::set_nonblocking(&output);
        if self.streams.len() == STREAMS_MAX {
            self.streams.remove(0);
        }
        self.streams.push((pid, File::from(output)));
    }

    pub(super) fn reply(&mut self, client: ClientId, line: &str) {
        self.clients.reply(client, line);
    }

    pub(super) fn wait(&mut self, timeout: Duration) -> Vec<Event> {
        self.sleep(timeout);
        let mut events = Vec::new();
        self.take_notices(&mut events);
        self.clients.serve_all(&mut events);
        self.take_output(&mut events);
        self.take_buttons(&mut events);
        self.take_signals(&mut events);
        self.reap(&mut events);
        events
    }

    fn sleep(&self, timeout: Duration) {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.signals.as_fd())];
        fds.extend(self.notify.iter().map(|notify| readable(notify.as_fd())));
        fds.extend(
            self.streams
                .iter()
                .map(|(_, stream)| readable(stream.as_fd())),
        );
        fds.extend(self.buttons.iter().map(|button| readable(button.as_fd())));
        fds.extend(self.clients.interests());
        // Rounded up: waking a millisecond early would spin until the deadline.
        let timeout = timeout.min(SLEEP_MAX) + Duration::from_micros(999);
        let timeout =
            PollTimeout::try_from(timeout.as_millis() as i32).unwrap_or(PollTimeout::ZERO);
        // An interrupted or failed poll is a wake without events; the caller comes again.
        let _spurious_wake = poll(&mut fds, timeout);
    }

    fn take_notices(&mut self, events: &mut Vec<Event>) {
        for notify in &self.notify {
            for _ in 0..DATAGRAMS_MAX {
                match receive_notice(notify.as_fd()) {
                    Ok(Some((pid, datagram))) => events.push(Event::Notify(pid, datagram)),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
    }

    fn take_output(&mut self, events: &mut Vec<Event>) {
        let mut chunk = [0; READ_BYTES_MAX];
        self.streams
            .retain_mut(|(pid, stream)| match stream.read(&mut chunk) {
                Ok(count) => {
                    // The empty chunk at the end finishes the last line.
                    events.push(Event::Output(*pid, chunk[..count].to_vec()));
                    count > 0
                }
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
    }

    fn take_buttons(&mut self, events: &mut Vec<Event>) {
        // struct input_event: a timeval, then type and code (u16), then value (i32).
        const EVENT_BYTES: usize = size_of::<libc::input_event>();
        const KEY_POWER_PRESSED: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];
        let mut chunk = [0; EVENT_BYTES * 16];
        for button in &mut self.buttons {
            let count = button.read(&mut chunk).unwrap_or(0);
            let mut presses = chunk[..count].chunks_exact(EVENT_BYTES);
            if presses.any(|event| event[EVENT_BYTES - 8..] == KEY_POWER_PRESSED) {
                events.push(Event::PowerOff("the power button"));
            }
        }
    }

    fn take_signals(&mut self, events: &mut Vec<Event>) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGTERM) => events.push(Event::PowerOff("SIGTERM to PID 1")),
                Ok(Signal::SIGPWR) => events.push(Event::PowerOff("SIGPWR")),
                Ok(Signal::SIGINT) => events.push(Event::Reboot("Ctrl-Alt-Del")),
                // SIGCHLD is handled by looking, because several may have become one; SIGHUP is
                // taken so that it does not end PID 1 in tests.
                _ => {}
            }
        }
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        for _ in 0..REAPED_MAX {
            let mut status = 0;
            // SAFETY: the status pointer outlives the call; WNOHANG does not wait.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            if let Some(index) = self.disowned.iter().position(|disowned| *disowned == pid) {
                self.disowned.remove(index);
                continue;
            }
            let exit = match libc::WIFSIGNALED(status) {
                true => Exit::Signal(libc::WTERMSIG(status)),
                false => Exit::Status(libc::WEXITSTATUS(status)),
            };
            events.push(Event::Exited(pid, exit));
        }
    }
}

fn bound_socket(path: &str, kind: SockType, mode: u32) -> Result<OwnedFd, SysError> {
    let error = |errno| SysError::refused(format!("listen on {path}"), errno);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, kind, flags, None).map_err(error)?;
    // One of an earlier run would refuse the new one.
    let _there_is_none = std::fs::remove_file(path);
    bind(socket.as_raw_fd(), &UnixAddr::new(path).map_err(error)?).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(refused(format!("protect {path}")))?;
    Ok(socket)
}

fn notify_socket(path: &str, mode: u32) -> Result<OwnedFd, SysError> {
    let notify = bound_socket(path, SockType::Datagram, mode)?;
    setsockopt(&notify, sockopt::PassCred, &true)
        .map_err(|errno| SysError::refused("ask for credentials", errno))?;
    Ok(notify)
}

/// One datagram and the pid the kernel vouches for. `None`: it carried no credentials.
fn receive_notice(socket: BorrowedFd<'_>) -> Result<Option<(Pid, Vec<u8>)>, Errno> {
    let mut bytes = [0; DATAGRAM_BYTES_MAX];
    let mut space = nix::cmsg_space!(libc::ucred);
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let count = message.bytes;
    let mut pid = None;
    // Descriptors that a sender adds do not fit and are refused by the kernel: so is the notice.
    let Ok(controls) = message.cmsgs() else {
        return Ok(None);
    };
    for control in controls {
        if let ControlMessageOwned::ScmCredentials(credentials) = control {
            pid = Some(credentials.pid());
        }
    }
    Ok(pid.map(|pid| (pid, bytes[..count].to_vec())))
}

/// The machine's power buttons, as input devices.
fn power_buttons() -> Vec<File> {
    let named = |number: &u32| {
        let name = format!("/sys/class/input/event{number}/device/name");
        std::fs::read_to_string(name).is_ok_and(|name| name.contains("Power Button"))
    };
    let open = |number| {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/dev/input/event{number}"))
            .ok()
    };
    (0..INPUTS_MAX).filter(named).filter_map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_flood_of_the_agent_plane_does_not_keep_the_notices_of_root_out() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().to_str().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let own_group = nix::unistd::getegid().as_raw();
        reactor.listen(run_dir, own_group).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        let agent = directory.path().join(NOTIFY_AGENT);
        while sender.send_to(b"WATCHDOG=1", &agent).is_ok() {}

        let root = directory.path().join(NOTIFY_ROOT);
        sender.send_to(b"READY=1", &root).unwrap();
        let mut events = Vec::new();
        reactor.take_notices(&mut events);
        let Some(Event::Notify(pid, datagram)) = events.first() else {
            panic!("the notice is the first event: {events:?}");
        };
        assert_eq!(*pid, std::process::id() as Pid);
        assert_eq!(datagram, b"READY=1");
    }
}
