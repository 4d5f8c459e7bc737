//! Service notifications: `READY=1`, `WATCHDOG=1`, `STATUS=…`, `STOPPING=1` to `$NOTIFY_SOCKET`.
//!
//! The public sd_notify(3) protocol, so that kairo-init and systemd supervise the same binary.
//! Ordinary threads only. Without a socket every call does nothing; a full or vanished one loses
//! the message, because no supervisor may stop a robot by not reading.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where notifications go.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What `NOTIFY_SOCKET` and `WATCHDOG_USEC` ask for.
    pub fn from_environment() -> Self {
        let address = std::env::var("NOTIFY_SOCKET").ok();
        let watchdog = std::env::var("WATCHDOG_USEC").ok();
        Self::new(address.as_deref(), watchdog.as_deref())
    }

    fn new(address: Option<&str>, watchdog_usec: Option<&str>) -> Self {
        let socket = address.and_then(|address| connect(address).ok());
        let microseconds = watchdog_usec.and_then(|text| text.parse::<u64>().ok());
        let watchdog = microseconds
            .filter(|value| *value > 0)
            .map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// How often to beat: a third of the watchdog's patience; none when nobody watches.
    pub fn beat_interval(&self) -> Option<Duration> {
        self.socket
            .as_ref()
            .and(self.watchdog)
            .map(|patience| patience / 3)
    }

    /// Sends `text`, lines of `KEY=value`.
    pub fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }
}

fn connect(address: &str) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_is_told_and_beats_at_a_third() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let notifier = Notifier::new(path.to_str(), Some("3000000"));
        assert_eq!(notifier.beat_interval(), Some(Duration::from_secs(1)));
        notifier.send("READY=1\nSTATUS=armed");
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=armed");
    }

    #[test]
    fn is_silent_without_a_supervisor() {
        let notifier = Notifier::new(None, Some("3000000"));
        assert_eq!(notifier.beat_interval(), None);
        notifier.send("READY=1");
        let gone = Notifier::new(Some("/nonexistent/notify"), None);
        gone.send("READY=1");
    }
}
