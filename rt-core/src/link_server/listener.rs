//! `rt.sock` and `operator.sock`: who may connect at all. Ordinary threads only.
//!
//! Never takes more than a few connections a turn, and does not spin on a connection that cannot be
//! accepted: peers that connect in a tight loop, or a full table of descriptors, cost the server
//! some of each turn and not the turns of the others. Who is sent away is closed by another thread
//! ([`Undertaker`]), and while those are all stuck nobody is let in.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kairo_link::control::{ControlSocket, Notice};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen,
    socket, sockopt,
};
use nix::unistd::{Uid, chown, geteuid};

use super::undertaker::{Peer, Undertaker};
use crate::journal::note;

/// Connections waiting in the kernel; more are refused there.
const BACKLOG: i32 = 8;
/// Connections taken a turn, those of users who may not connect included.
const ACCEPTS_PER_TURN_MAX: usize = 8;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {call}: {errno}; is --run-dir writable, and is no other \
         kairo-rt running there?", path = path.display())]
pub struct ListenError {
    path: PathBuf,
    call: &'static str,
    errno: Errno,
}

/// The listening socket. Removes its path when dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    allowed: Vec<u32>,
    /// The last accept failed, and would fail again at once.
    failing: bool,
    undertaker: Undertaker,
}

impl Listener {
    /// Listens on `path` for root, the own user, and `agent_uid`.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub fn bind(path: &Path, agent_uid: u32) -> Result<Self, ListenError> {
        let failed = |call| {
            move |errno| ListenError {
                path: path.to_path_buf(),
                call,
                errno,
            }
        };
        // What an earlier kairo-rt left. A live one would lose its socket; kairo-init and systemd
        // run one at a time.
        let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        if is_socket {
            let _ = fs::remove_file(path);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
            .map_err(failed("socket"))?;
        let address = UnixAddr::new(path).map_err(failed("the path"))?;
        bind(fd.as_raw_fd(), &address).map_err(failed("bind"))?;
        let io_failed = |call| {
            move |error: std::io::Error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                ListenError {
                    path: path.to_path_buf(),
                    call,
                    errno,
                }
            }
        };
        // Before `listen`, so that nobody connects under the wrong mode.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_failed("chmod"))?;
        let own = geteuid().as_raw();
        if agent_uid != own {
            chown(path, Some(Uid::from_raw(agent_uid)), None).map_err(failed("chown"))?;
        }
        let backlog = Backlog::new(BACKLOG).map_err(failed("backlog"))?;
        listen(&fd, backlog).map_err(failed("listen"))?;
        Ok(Self {
            fd,
            path: path.to_path_buf(),
            allowed: vec![0, own, agent_uid],
            failing: false,
            undertaker: Undertaker::default(),
        })
    }

    /// What to wait for: connections, or nothing after an accept that failed or while none is let
    /// in. Whoever waits would end every wait at once; the next turn tries again all the same.
    pub(crate) fn interest(&self) -> PollFlags {
        if self.failing || !self.undertaker.has_room() {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        }
    }

    /// Up to `most` waiting connections of users who may connect, and never more than a turn has;
    /// others are told and closed.
    pub(crate) fn accept(&mut self, most: usize) -> Vec<Peer> {
        let mut accepted = Vec::new();
        self.undertaker.turn();
        if !self.undertaker.has_room() {
            return accepted;
        }
        for _ in 0..most.min(ACCEPTS_PER_TURN_MAX) {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let raw = match accept4(self.fd.as_raw_fd(), flags) {
                Ok(raw) => raw,
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(Errno::EAGAIN) => {
                    self.failing = false;
                    break;
                }
                Err(errno) => {
                    self.fails(errno);
                    break;
                }
            };
            self.failing = false;
            // SAFETY: accept4 just made this descriptor, and nobody else knows it.
            accepted.extend(self.checked(unsafe { OwnedFd::from_raw_fd(raw) }));
        }
        accepted
    }

    fn fails(&mut self, errno: Errno) {
        // Said once, not every turn.
        if !std::mem::replace(&mut self.failing, true) {
            let path = self.path.display();
            note(format_args!(
                "{path}: cannot accept a connection: {errno}; trying again every turn"
            ));
        }
    }

    fn checked(&self, fd: OwnedFd) -> Option<Peer> {
        let uid = getsockopt(&fd, sockopt::PeerCredentials).map(|peer| peer.uid());
        let socket = self.undertaker.will_close(ControlSocket::from_fd(fd));
        match uid {
            Ok(uid) if self.allowed.contains(&uid) => return Some(socket),
            Ok(uid) => {
                let reason = format!(
                    "user {uid} may not connect; start kairo-rt with --agent-uid {uid} if it shall"
                );
                let _ = socket.send(&Notice::Refused { reason }, &[]);
            }
            Err(_) => {}
        }
        None
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;

    fn has_work(listener: &Listener) -> bool {
        let mut fds = [PollFd::new(listener.as_fd(), listener.interest())];
        poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn a_turn_takes_a_few_connections_and_leaves_the_rest_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rt.sock");
        let mut listener = Listener::bind(&path, geteuid().as_raw()).unwrap();
        // One more than the backlog is what the kernel lets wait.
        let peers = ACCEPTS_PER_TURN_MAX + 1;
        let _peers: Vec<_> = (0..peers)
            .map(|_| ControlSocket::connect(&path).unwrap())
            .collect();
        assert_eq!(listener.accept(usize::MAX).len(), ACCEPTS_PER_TURN_MAX);
        assert!(listener.accept(0).is_empty());
        assert_eq!(listener.accept(usize::MAX).len(), 1);
    }

    #[test]
    fn users_who_may_not_connect_use_up_the_turn_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rt.sock");
        let mut listener = Listener::bind(&path, geteuid().as_raw()).unwrap();
        listener.allowed.clear();
        let peers = ACCEPTS_PER_TURN_MAX + 1;
        let _peers: Vec<_> = (0..peers)
            .map(|_| ControlSocket::connect(&path).unwrap())
            .collect();
        assert!(listener.accept(usize::MAX).is_empty());
        assert!(has_work(&listener), "one is left for the next turn");
        assert!(listener.accept(usize::MAX).is_empty());
        assert!(!has_work(&listener));
    }

    #[test]
    fn an_accept_that_fails_waits_a_turn_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rt.sock");
        let mut listener = Listener::bind(&path, geteuid().as_raw()).unwrap();
        let _peer = ControlSocket::connect(&path).unwrap();
        assert!(has_work(&listener));
        // A descriptor that nothing can be accepted on stands for a full table of descriptors.
        let nothing = std::fs::File::open("/dev/null").unwrap();
        let good = std::mem::replace(&mut listener.fd, nothing.into());
        assert!(listener.accept(usize::MAX).is_empty());
        listener.fd = good;
        assert!(!has_work(&listener), "the wait would end at once, for ever");
        assert_eq!(listener.accept(usize::MAX).len(), 1);
        let _another = ControlSocket::connect(&path).unwrap();
        assert!(has_work(&listener));
    }
}
