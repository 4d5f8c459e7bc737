//! Who is at the other end of a connection, as the kernel says, never as the client says.
//!
//! `SO_PEERCRED` gives the user, group and process that called `connect`; `SO_PEERPIDFD` (Linux
//! 6.5) pins that process, so its number cannot come to mean another one while we hold it. When
//! the process ends, the connection ends: a descriptor left to a child or passed on would
//! otherwise act in the name of a process that no longer exists.
//!
//! From that comes a class: by the policy file's `[[identity]]`, else operator for root and
//! kairod's own user, else agent. An operator can give that up ([`Identity::confine`]): a launcher
//! does so before it hands its connection to the program that it starts. Nobody else can change
//! what it is.

use std::cell::{Ref, RefCell};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::permission::policy::Policy;
use crate::permission::{Class, Subject};
use crate::readiness::{Watched, watch};
use crate::views::Peer;

/// The peer of one connection.
#[derive(Debug)]
pub struct Identity {
    subject: RefCell<Subject>,
    gid: u32,
    pid: i32,
    process: Option<String>,
    /// None on kernels before 6.5.
    pinned: Option<AsyncFd<Watched<OwnedFd>>>,
}

impl Identity {
    /// Asks the kernel about the peer of `stream`, and the policy what that makes it.
    pub fn of(stream: &UnixStream, policy: &Policy) -> nix::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        // Nobody is served unpinned where pinning is possible: not a peer that is gone already,
        // and not because somebody used up our descriptors.
        let pinned = match peer_pid_fd(stream) {
            Err(Errno::ENOPROTOOPT) => None,
            fd => Some(watch(fd?).map_err(|_| Errno::EMFILE)?),
        };
        let pid = credentials.pid();
        // Read after pinning: the name is that of the pinned process or of none.
        let process = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let (class, name) = classify(uid, gid, policy);
        Ok(Self {
            subject: RefCell::new(Subject { class, name, uid }),
            gid,
            pid,
            process: process.map(|process| process.trim_end().to_string()),
            pinned,
        })
    }

    /// Whom a permission is decided for.
    pub fn subject(&self) -> Subject {
        self.subject.borrow().clone()
    }

    /// The same, to look at. Not to be kept across a wait.
    pub fn as_subject(&self) -> Ref<'_, Subject> {
        self.subject.borrow()
    }

    /// The process that connected; 0 when it lies outside kairod's pid namespace.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// The name that this process had then.
    pub fn process(&self) -> Option<&str> {
        self.process.as_deref()
    }

    /// Makes it less than it is, for good. False, and nothing changes, unless it is an operator.
    pub fn confine(&self, class: Class, name: Option<String>) -> bool {
        let mut subject = self.subject.borrow_mut();
        if !subject.class.may_confine() {
            return false;
        }
        subject.class = class;
        if name.is_some() {
            subject.name = name;
        }
        true
    }

    /// Whether the peer's process still runs; true on kernels that cannot tell. Asked again at each
    /// use that changes something, because what [`Identity::ended`] reports comes a turn later.
    pub fn is_alive(&self) -> bool {
        let Some(pinned) = &self.pinned else {
            return true;
        };
        let fd = pinned.get_ref().as_fd();
        let mut asked = [PollFd::new(fd, PollFlags::POLLIN)];
        // A pidfd is readable once its process has ended; an error means that we cannot know.
        matches!(poll(&mut asked, PollTimeout::ZERO), Ok(0))
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
        let subject = self.subject();
        Peer {
            connection,
            class: subject.class,
            name: subject.name,
            uid: subject.uid,
            gid: self.gid,
            pid: self.pid,
            process: self.process.clone(),
            pinned: self.pinned.is_some(),
        }
    }
}

/// The user of a connection that is not served yet, and the class that the policy gives it.
pub fn user_of(stream: &UnixStream, policy: &Policy) -> nix::Result<(u32, Class)> {
    let credentials = getsockopt(stream, PeerCredentials)?;
    let (class, _) = classify(credentials.uid(), credentials.gid(), policy);
    Ok((credentials.uid(), class))
}

/// The class of a user and group, and the name that the policy gives it.
fn classify(uid: u32, gid: u32, policy: &Policy) -> (Class, Option<String>) {
    let fits = |wanted: Option<u32>, has: u32| wanted.is_none_or(|wanted| wanted == has);
    let rule = policy
        .identities
        .iter()
        .find(|rule| fits(rule.uid, uid) && fits(rule.gid, gid));
    match rule {
        Some(rule) => (rule.class, rule.name.clone()),
        None if uid == 0 || uid == nix::unistd::geteuid().as_raw() => (Class::Operator, None),
        None => (Class::Agent, None),
    }
}

/// A pidfd of the peer. ENOPROTOOPT says that the kernel has no such option.
fn peer_pid_fd(stream: &UnixStream) -> nix::Result<OwnedFd> {
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
    Errno::result(status)?;
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: the kernel just installed this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_class_comes_from_the_policy_then_from_the_user() {
        let text = "[[identity]]\nuid = 4242\nclass = 'driver'\nname = 'lidar'\n";
        let policy = Policy::parse(text, Path::new("policy.toml")).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        assert_eq!(classify(0, 0, &policy), (Class::Operator, None));
        assert_eq!(classify(own, 7, &policy), (Class::Operator, None));
        assert_eq!(classify(4241, 0, &policy), (Class::Agent, None));
        let driver = (Class::Driver, Some("lidar".to_string()));
        assert_eq!(classify(4242, 9, &policy), driver);
    }
}
