//! Descriptors that the event loop watches.
//!
//! Registering is unsafe in tokio because the loop keeps the descriptor's number: an object that
//! closed it early, or gave another one later, would make the loop watch a stranger's. The one
//! type here cannot: it owns what it watches until it is dropped, and hands out only references.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use kairo_link::control::ControlSocket;
use nix::sys::inotify::Inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What may be watched: owns one descriptor, the same one for life.
pub trait Steady: AsFd + private::Sealed {}

mod private {
    /// Only the types below are known to keep their descriptor.
    pub trait Sealed {}
    impl Sealed for super::OwnedFd {}
    impl Sealed for super::ControlSocket {}
    impl Sealed for super::Inotify {}
    impl Sealed for super::UnixStream {}
}

impl Steady for OwnedFd {}
impl Steady for ControlSocket {}
impl Steady for Inotify {}
impl Steady for UnixStream {}

/// A watched descriptor, for [`AsyncFd`].
#[derive(Debug)]
pub struct Watched<T: Steady>(T);

impl<T: Steady> Watched<T> {
    /// What is watched.
    pub fn inner(&self) -> &T {
        &self.0
    }
}

impl<T: Steady> AsRawFd for Watched<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T: Steady> AsFd for Watched<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Watches whether `inner` can be read, until the result is dropped.
///
/// # Errors
/// When the event loop cannot watch it, such as a regular file.
pub fn watch<T: Steady>(inner: T) -> std::io::Result<AsyncFd<Watched<T>>> {
    watch_for(inner, Interest::READABLE)
}

/// Watches `inner` for what is of interest, until the result is dropped.
///
/// # Errors
/// See [`watch`].
pub fn watch_for<T: Steady>(inner: T, interest: Interest) -> std::io::Result<AsyncFd<Watched<T>>> {
    // SAFETY: `Steady` types own their descriptor and never change it, and `Watched` gives no
    // mutable access, so the number stays valid and the same until deregistration in drop.
    let watched = unsafe { AsyncFd::register_with_interest(Watched(inner), interest) };
    watched.map_err(std::io::Error::from)
}
