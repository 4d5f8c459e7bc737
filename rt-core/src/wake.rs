//! Wakes an ordinary thread from a real-time one.
//!
//! rt-safe to ring: one write to a non-blocking eventfd that never leaves this process. The
//! descriptor is not shared with the agent plane on purpose: `O_NONBLOCK` belongs to the open file,
//! so a hostile peer that held it could clear the flag, fill the counter, and make the next ring
//! block a real-time thread. The link server passes rings on (see `link_server`).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A bell. Clones ring the same one.
#[derive(Clone, Debug)]
pub struct Wake {
    event: Arc<EventFd>,
}

impl Wake {
    /// A new bell. setup-only.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let event = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        Ok(Self { event })
    }

    /// Rings. A bell that was rung 2^64 times without an answer stays rung. rt-safe.
    pub fn ring(&self) {
        let _ = self.event.write(1);
    }

    /// Answers: not ringing any more. Ordinary threads.
    pub fn answer(&self) {
        let _ = self.event.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
