//! The cable: a pseudo-terminal behind a stable path, or a Unix socket to an emulated USB adapter.
//!
//! Nothing here blocks. A peer that goes away is not an error: the simulator waits for the next
//! one. Output that the peer does not take is thrown away and counted, as a UART would.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use kairo_hal::MonoNs;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// How often a missing peer is looked for, ns.
pub const RETRY_NS: u64 = 10_000_000;

/// Where the arm's line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A pseudo-terminal with a symbolic link to it at this path.
    Pty(PathBuf),
    /// A Unix socket that somebody else listens on (QEMU's chardev with `server=on`).
    Connect(PathBuf),
    /// A Unix socket that we listen on, one peer at a time.
    Listen(PathBuf),
}

impl Endpoint {
    /// The path, and what it is called in the start-up line.
    #[must_use]
    pub fn describe(&self) -> (&'static str, &Path) {
        match self {
            Self::Pty(path) => ("pty", path),
            Self::Connect(path) => ("connect-unix", path),
            Self::Listen(path) => ("listen-unix", path),
        }
    }
}

/// Why a line could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The pseudo-terminal could not be made.
    #[error("cannot make a pseudo-terminal: {source}; is /dev/pts mounted?")]
    Pty {
        /// The system's reason.
        source: io::Error,
    },
    /// The path is taken by something that is not ours to replace, or cannot be written.
    #[error("cannot put the line at {}: {source}; remove what is there or choose another path",
        path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Only a pseudo-terminal can be unplugged from this side.
    #[error("only a --pty line can be unplugged here; pull the emulated adapter instead")]
    NotAPty,
}

/// The connected peer.
#[derive(Debug)]
enum Peer {
    Master(File),
    Socket(UnixStream),
}

/// The line. See the module documentation.
#[derive(Debug)]
pub struct Transport {
    endpoint: Endpoint,
    listener: Option<UnixListener>,
    peer: Option<Peer>,
    /// The pseudo-terminal's own name, while there is one.
    device: Option<PathBuf>,
    /// Whether somebody has the pseudo-terminal open, as far as the last read could tell.
    is_heard: bool,
    retry_at: MonoNs,
    /// Bytes that the peer did not take.
    pub overrun_bytes: u64,
}

impl Transport {
    /// Makes the line.
    ///
    /// # Errors
    /// See [`TransportError`]. A peer that is not there yet is not an error.
    pub fn open(endpoint: Endpoint) -> Result<Self, TransportError> {
        let mut transport = Self {
            endpoint,
            listener: None,
            peer: None,
            device: None,
            is_heard: true,
            retry_at: MonoNs(0),
            overrun_bytes: 0,
        };
        match &transport.endpoint {
            Endpoint::Pty(_) => transport.plug()?,
            Endpoint::Listen(path) => transport.listener = Some(listen(path)?),
            Endpoint::Connect(_) => {}
        }
        Ok(transport)
    }

    /// The pseudo-terminal's own name (`/dev/pts/3`), while there is one.
    #[must_use]
    pub fn device(&self) -> Option<&Path> {
        self.device.as_deref()
    }

    /// Makes a new pseudo-terminal behind the same path; nothing when there is one.
    ///
    /// # Errors
    /// [`TransportError::NotAPty`] for sockets, and what making one can fail with.
    pub fn plug(&mut self) -> Result<(), TransportError> {
        let Endpoint::Pty(link) = &self.endpoint else {
            return Err(TransportError::NotAPty);
        };
        if self.peer.is_some() {
            return Ok(());
        }
        let (master, device) = open_pty().map_err(|source| TransportError::Pty { source })?;
        place_link(&device, link).map_err(|source| TransportError::Path {
            path: link.clone(),
            source,
        })?;
        self.peer = Some(Peer::Master(master));
        self.device = Some(device);
        self.is_heard = true;
        Ok(())
    }

    /// Hangs the pseudo-terminal up and takes its path away.
    ///
    /// # Errors
    /// [`TransportError::NotAPty`] for sockets.
    pub fn unplug(&mut self) -> Result<(), TransportError> {
        let Endpoint::Pty(link) = &self.endpoint else {
            return Err(TransportError::NotAPty);
        };
        remove_link(link, self.device.as_deref());
        self.peer = None;
        self.device = None;
        Ok(())
    }

    /// What to wait on for input or for a peer; `None` when only time can help.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.peer, &self.listener) {
            // A pseudo-terminal that nobody has open polls as hung up for ever.
            (Some(Peer::Master(master)), _) => self.is_heard.then(|| master.as_fd()),
            (Some(Peer::Socket(socket)), _) => Some(socket.as_fd()),
            (None, Some(listener)) => Some(listener.as_fd()),
            (None, None) => None,
        }
    }

    /// When to look again by itself, if [`Transport::poll_fd`] is not enough.
    #[must_use]
    pub fn retry_at(&self) -> Option<MonoNs> {
        let is_waiting = match &self.peer {
            Some(Peer::Master(_)) => !self.is_heard,
            Some(Peer::Socket(_)) => false,
            None => matches!(self.endpoint, Endpoint::Connect(_)),
        };
        is_waiting.then_some(self.retry_at)
    }

    /// Reads what is there into `buffer`; 0 when nothing is. A peer that left is let go of.
    /// The second value says that one was.
    pub fn receive(&mut self, now: MonoNs, buffer: &mut [u8]) -> (usize, bool) {
        self.find_peer(now);
        let result = match &mut self.peer {
            Some(Peer::Master(master)) => master.read(buffer),
            Some(Peer::Socket(socket)) => socket.read(buffer),
            None => return (0, false),
        };
        match result {
            Ok(count) if count > 0 => {
                self.is_heard = true;
                (count, false)
            }
            Err(error) if is_try_again(&error) => {
                self.is_heard = true;
                (0, false)
            }
            // The end of the file, or a failure: the peer is gone.
            _ => (0, self.lose_peer(now)),
        }
    }

    /// Sends what the peer takes; the rest is lost.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let result = match &mut self.peer {
                Some(Peer::Master(master)) => master.write(rest),
                Some(Peer::Socket(socket)) => socket.write(rest),
                None => break,
            };
            match result {
                Ok(count) if count > 0 => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.overrun_bytes += rest.len() as u64;
    }

    fn find_peer(&mut self, now: MonoNs) {
        if self.peer.is_some() || now < self.retry_at {
            return;
        }
        let found = match (&self.endpoint, &self.listener) {
            (Endpoint::Connect(path), _) => UnixStream::connect(path).ok(),
            (_, Some(listener)) => listener.accept().ok().map(|(stream, _)| stream),
            _ => None,
        };
        match found.filter(|stream| stream.set_nonblocking(true).is_ok()) {
            Some(stream) => self.peer = Some(Peer::Socket(stream)),
            None if self.listener.is_none() => self.retry_at = now.plus_ns(RETRY_NS),
            None => {}
        }
    }

    fn lose_peer(&mut self, now: MonoNs) -> bool {
        self.retry_at = now.plus_ns(RETRY_NS);
        if let Some(Peer::Master(_)) = self.peer {
            // The pseudo-terminal stays for whoever opens it next.
            return std::mem::replace(&mut self.is_heard, false);
        }
        if self.listener.is_some() {
            self.retry_at = now;
        }
        self.peer.take().is_some()
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        match &self.endpoint {
            Endpoint::Pty(link) => remove_link(link, self.device.as_deref()),
            // A path that is gone already is as good.
            Endpoint::Listen(path) => drop(std::fs::remove_file(path)),
            Endpoint::Connect(_) => {}
        }
    }
}

/// Listens at `path`, replacing a socket that a dead process left behind.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, TransportError> {
    let path_error = |source| TransportError::Path {
        path: path.to_owned(),
        source,
    };
    if UnixStream::connect(path).is_ok() {
        return Err(path_error(io::ErrorKind::AddrInUse.into()));
    }
    let is_socket = std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()));
    if is_socket {
        std::fs::remove_file(path).map_err(path_error)?;
    }
    let listener = UnixListener::bind(path).map_err(path_error)?;
    listener.set_nonblocking(true).map_err(path_error)?;
    Ok(listener)
}

/// A raw pseudo-terminal: its near end, non-blocking, and the name of the far end.
fn open_pty() -> io::Result<(File, PathBuf)> {
    let pty = nix::pty::openpty(None, None)?;
    for end in [&pty.master, &pty.slave] {
        // A program started by whoever runs this must not keep the line open.
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    let device = nix::unistd::ttyname(&pty.slave)?;
    let mut settings = tcgetattr(&pty.slave)?;
    cfmakeraw(&mut settings);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
    let flags = OFlag::from_bits_retain(fcntl(&pty.master, FcntlArg::F_GETFL)?);
    fcntl(&pty.master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // The far end is not kept open: its exclusive mode must end with the program that set it.
    Ok((File::from(pty.master), device))
}

/// Points `link` at `device` in one step; only a symbolic link is replaced.
fn place_link(device: &Path, link: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(link) {
        Ok(metadata) if !metadata.file_type().is_symlink() => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        _ => {}
    }
    let mut name = link
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = link.with_file_name(name);
    std::os::unix::fs::symlink(device, &fresh)?;
    std::fs::rename(&fresh, link)
}

/// Removes `link` if it is still ours.
fn remove_link(link: &Path, device: Option<&Path>) {
    if device.is_some() && std::fs::read_link(link).ok().as_deref() == device {
        // Whoever removed it in between did what we wanted.
        let _ = std::fs::remove_file(link);
    }
}

fn is_try_again(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAGAIN | Errno::EINTR)
    )
}
