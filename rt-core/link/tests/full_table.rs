//! A process whose table of descriptors is nearly full gets a message with more of them than fit:
//! it refuses the message, and keeps none. A program of its own: the limit is the process's.

#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set itself up has failed"
)]

use std::fs::File;
use std::os::fd::AsFd;

use kairo_link::control::{ControlError, ControlSocket, Request};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

/// Descriptors in a message.
const SENT: usize = 20;

#[test]
fn what_arrives_in_a_table_that_is_nearly_full_does_not_stay_there() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let (one, other) = (ControlSocket::from_fd(one), ControlSocket::from_fd(other));
    let mine = File::open("/dev/null").unwrap();
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(soft > 256);
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    // All but three places are taken.
    let mut taken = Vec::new();
    while let Ok(file) = mine.try_clone() {
        taken.push(file);
    }
    taken.truncate(taken.len() - 3);
    for _ in 0..4 {
        one.send(&Request::Mapped, &[mine.as_fd(); SENT]).unwrap();
        let refused = other.receive::<Request>();
        assert!(
            matches!(refused, Err(ControlError::Malformed { .. })),
            "{refused:?}"
        );
        // What stayed would be missing here.
        let free: Vec<File> = (0..3).map_while(|_| mine.try_clone().ok()).collect();
        assert_eq!(free.len(), 3, "descriptors of a refused message stay open");
    }
    // Those who take none need no place at all.
    one.send(&Request::Mapped, &[mine.as_fd(); SENT]).unwrap();
    let refused = other.receive_bare::<Request>();
    assert!(
        matches!(refused, Err(ControlError::Descriptors)),
        "{refused:?}"
    );
    let free: Vec<File> = (0..3).map_while(|_| mine.try_clone().ok()).collect();
    assert_eq!(free.len(), 3);
}
