//! Who is at the other end of a connection, as the kernel says, never as the client says.
//!
//! `SO_PEERCRED` gives the user, group and process that called `connect`; `SO_PEERPIDFD` (Linux
//! 6.5) pins that process, so its number cannot come to mean another one while we hold it. When
//! the process ends, the connection ends: a descriptor left to a child or passed on would
//! otherwise act in the name of a process that no longer exists.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::readiness::{Watched, watch};
use crate::router::Permission;
use crate::views::Peer;

/// The peer of one connection.
#[derive(Debug)]
pub struct Identity {
    uid: u32,
    gid: u32,
    pid: i32,
    process: Option<String>,
    /// None on kernels before 6.5.
    pinned: Option<AsyncFd<Watched<OwnedFd>>>,
}

impl Identity {
    /// Asks the kernel about the peer of `stream`.
    pub fn of(stream: &UnixStream) -> nix::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let pinned = peer_pid_fd(stream).and_then(|fd| watch(fd).ok());
        let pid = credentials.pid();
        // Read after pinning: the name is that of the pinned process or of none.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid,
            process: name.map(|name| name.trim_end().to_string()),
            pinned,
        })
    }

    /// Whether the peer may call methods of this class. The one place where classes are decided:
    /// whoever may open the socket (mode 0660) may observe and actuate; only root and kairod's own
    /// user administer.
    pub fn may(&self, permission: Permission) -> bool {
        match permission {
            Permission::Observe | Permission::Actuate => true,
            Permission::Admin => self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw(),
        }
    }

    /// Returns when the peer's process has ended; never on kernels that cannot tell.
    pub async fn ended(&self) {
        match &self.pinned {
            // A pidfd becomes readable when its process ends.
            Some(pinned) => drop(pinned.readable().await),
            None => std::future::pending().await,
        }
    }

    /// What others may see of it.
    pub fn view(&self, connection: u64) -> Peer {
        Peer {
            connection,
            uid: self.uid,
            gid: self.gid,
            pid: self.pid,
            process: self.process.clone(),
            pinned: self.pinned.is_some(),
        }
    }
}

/// A pidfd of the peer, where the kernel has the option.
fn peer_pid_fd(stream: &UnixStream) -> Option<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the life of `stream`; the kernel writes at most `length`
    // bytes into `fd`, which is an int, as the option says.
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if status != 0 || fd < 0 {
        return None;
    }
    // SAFETY: the kernel just installed this descriptor for us and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
