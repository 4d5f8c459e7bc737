//! `sd_notify`: tells the supervisor that we are ready, alive, stopping.
//!
//! A datagram a message to `$NOTIFY_SOCKET`; without it, or when it cannot be reached, nothing
//! happens: a supervisor that does not listen must not stop the service.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the supervisor.
#[derive(Debug)]
pub struct Supervisor {
    target: Option<(UnixDatagram, SocketAddr)>,
}

impl Supervisor {
    /// The supervisor that the environment names.
    pub fn from_environment() -> Self {
        let target = std::env::var("NOTIFY_SOCKET").ok().and_then(|name| {
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address.ok()?))
        });
        Self { target }
    }

    /// Sends one message.
    pub fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.target {
            // See the header: a deaf supervisor is not our failure.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }

    /// How often to send `WATCHDOG=1`: a third of the interval the supervisor tolerates.
    pub fn beat_interval() -> Option<Duration> {
        let interval_us: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
        (interval_us >= 3).then(|| Duration::from_micros(interval_us / 3))
    }
}
