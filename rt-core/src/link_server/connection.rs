//! The connected agent plane: its socket, its doorbell, and what it shares with us. Ordinary
//! threads only.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, write};

use super::share::{DeviceOffer, Tenancy};
use super::undertaker::Peer;
use crate::order::LeaseChannel;

/// One agent plane.
#[derive(Debug)]
pub struct Connection {
    /// Its control socket, non-blocking.
    pub(super) socket: Peer,
    doorbell: OwnedFd,
    /// Our copy of the end it holds, to see whether the last ring was answered.
    rung: OwnedFd,
    /// What it was offered, until it has mapped it; in the order of the devices.
    pub(super) offers: Vec<DeviceOffer>,
    /// The rings of each device while no lease uses them; none before the peer has mapped them.
    pub(super) rings: Vec<Option<LeaseChannel>>,
    /// Who holds any of that.
    pub(super) tenancy: Tenancy,
}

impl Connection {
    /// A connection over `socket` that is offered `offers`, and the end of the doorbell to hand
    /// over.
    pub(super) fn new(
        socket: Peer,
        offers: Vec<DeviceOffer>,
        tenancy: Tenancy,
    ) -> Result<(Self, OwnedFd), Errno> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let rung = nix::unistd::dup(&reader)?;
        Ok((
            Self {
                socket,
                doorbell: writer,
                rung,
                rings: Vec::new(),
                offers,
                tenancy,
            },
            reader,
        ))
    }

    /// Rings, unless the last ring was not answered yet. Never blocks.
    pub(super) fn ring(&self) {
        let mut fds = [PollFd::new(self.rung.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO) == Ok(0) {
            // Eight bytes, as an eventfd would give.
            let _ = write(&self.doorbell, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_server::undertaker::Undertaker;
    use kairo_link::control::ControlSocket;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    #[test]
    fn rings_once_until_answered_whatever_the_peer_does_to_its_end() {
        let (ours, _theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let socket = Undertaker::default().will_close(ControlSocket::from_fd(ours));
        let (connection, bell) = Connection::new(socket, vec![], Tenancy::default()).unwrap();
        // A hostile peer makes its end blocking; ours is another open file.
        nix::fcntl::fcntl(&bell, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        (0..100_000).for_each(|_| connection.ring());
        let mut buffer = [0; 64];
        assert_eq!(nix::unistd::read(&bell, &mut buffer), Ok(8));
        connection.ring();
        assert_eq!(nix::unistd::read(&bell, &mut buffer), Ok(8));
        drop(bell);
        connection.ring();
    }
}
