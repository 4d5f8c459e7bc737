//! `rt.sock`: who may connect at all. Ordinary threads only.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kairo_link::control::{ControlSocket, Notice};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen,
    socket, sockopt,
};
use nix::unistd::{Uid, chown, geteuid};

/// Connections waiting in the kernel; more are refused there.
const BACKLOG: i32 = 8;

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
        })
    }

    /// The next waiting connection of a user who may connect; others are told and closed.
    pub(crate) fn accept(&self) -> Option<ControlSocket> {
        loop {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let raw = accept4(self.fd.as_raw_fd(), flags).ok()?;
            // SAFETY: accept4 just made this descriptor, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            let uid = getsockopt(&fd, sockopt::PeerCredentials).map(|peer| peer.uid());
            let socket = ControlSocket::from_fd(fd);
            match uid {
                Ok(uid) if self.allowed.contains(&uid) => return Some(socket),
                Ok(uid) => {
                    let reason = format!(
                        "user {uid} may not connect; start kairo-rt with \
                                          --agent-uid {uid} if it shall"
                    );
                    let _ = socket.send(&Notice::Refused { reason }, &[]);
                }
                Err(_) => {}
            }
        }
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
