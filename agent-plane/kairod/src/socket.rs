//! A client's socket: told when there is something to read, written to without asking first.
//!
//! The peer makes room in our direction each time it reads an answer. An event loop that watches
//! for room is woken by that, once a call, with nothing to do, and across cores the peer pays for
//! the wake-up. So room is watched for only while a write found none. Event loop only; one task
//! reads and one writes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Result, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use kairo_wire::{Sealed, passing};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;

use crate::closer;
use crate::readiness::{Watched, watch, watch_for};

/// What a peer may have lying unread when another descriptor is sent to it, bytes of the machine's
/// memory: some ten frames that announce one. A user's descriptors on their way are counted
/// together by the machine's kernel, a thousand of them by default, so that without this a few
/// peers that do not read would take those of all others.
const UNREAD_BYTES: usize = 8 * 1024;

/// The socket.
#[derive(Debug)]
pub struct Socket(Option<AsyncFd<Watched<UnixStream>>>);

impl Socket {
    /// Watches a connection that was accepted.
    ///
    /// # Errors
    /// The event loop cannot watch it.
    pub fn new(stream: tokio::net::UnixStream) -> Result<Self> {
        // Stays non-blocking, and leaves the event loop, which watched it for room too.
        watch(stream.into_std()?).map(Some).map(Self)
    }

    /// None only while it is being dropped.
    fn stream(&self) -> Result<&UnixStream> {
        let watched = self.0.as_ref().ok_or(ErrorKind::NotConnected)?;
        Ok(watched.get_ref().inner())
    }

    /// Reads what there is, once there is something, with the descriptors that come beside it; 0 is
    /// the end. There is always room for those: without it the machine's kernel would close them in
    /// our name, and that can take long ([`crate::closer`]).
    pub async fn read(&self, buffer: &mut [u8], arrived: &mut VecDeque<OwnedFd>) -> Result<usize> {
        let Some(watched) = &self.0 else {
            return Ok(0);
        };
        loop {
            let mut ready = watched.readable().await?;
            // A peer that always has more to say lets others have their turn.
            consume_budget().await;
            let before = arrived.len();
            match passing::receive(watched.get_ref().inner(), buffer, arrived) {
                Ok(count) => {
                    // Less than fits was all: asking again would only hear so. What comes from now
                    // on is a readiness of its own, and the peer's end stays ready. But a read ends
                    // where a descriptor does, and then a short one says nothing.
                    if count < buffer.len() && arrived.len() == before {
                        ready.clear_ready();
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of it, as room is made, with a payload beside the first byte if there is one.
    pub async fn write_all(&self, mut bytes: &[u8], mut beside: Option<Sealed>) -> Result<()> {
        // A second descriptor, so that the first goes on being watched for reading alone.
        let mut room: Option<AsyncFd<Watched<UnixStream>>> = None;
        let mut stream = self.stream()?;
        while !bytes.is_empty() {
            consume_budget().await;
            let written = match &beside {
                Some(sealed) => send_beside(stream, bytes, sealed),
                None => stream.write(bytes),
            };
            match written {
                Ok(count) => {
                    beside = None;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => match &room {
                    // Asked again after it is watched: room made in between rings as well.
                    None => room = Some(watch_for(stream.try_clone()?, Interest::WRITABLE)?),
                    Some(room) => room.writable().await?.clear_ready(),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends nothing more; the peer reads to the end.
    pub fn finish(&self) -> Result<()> {
        self.stream()?.shutdown(Shutdown::Write)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What lies on it unread ends with it.
        if let Some(watched) = self.0.take() {
            closer::close(watched.into_inner());
        }
    }
}

/// Sends the beginning of a frame with the payload beside it, unless too many of those lie unread:
/// the machine's kernel rings when the peer reads.
fn send_beside(stream: &UnixStream, frame: &[u8], sealed: &Sealed) -> Result<usize> {
    match passing::unread(stream)? {
        unread if unread > UNREAD_BYTES => Err(ErrorKind::WouldBlock.into()),
        _ => passing::send(stream, frame, Some(sealed.descriptor())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Longer than any machine takes, so that a failure ends.
    const WATCHDOG: Duration = Duration::from_secs(30);

    fn pair() -> (Socket, UnixStream) {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let far = far.into_std().unwrap();
        far.set_nonblocking(false).unwrap();
        (Socket::new(near).unwrap(), far)
    }

    #[tokio::test]
    async fn what_comes_after_a_short_read_is_read_too_and_then_the_end() {
        let (socket, mut far) = pair();
        let mut buffer = [0; 4];
        for word in ["one", "more", "longer"] {
            far.write_all(word.as_bytes()).unwrap();
            let mut read = Vec::new();
            while read.len() < word.len() {
                let reading =
                    timeout(WATCHDOG, socket.read(&mut buffer, &mut VecDeque::new())).await;
                read.extend_from_slice(&buffer[..reading.unwrap().unwrap()]);
            }
            assert_eq!(read, word.as_bytes());
        }
        // Both before the next readiness is looked at.
        far.write_all(b"last").unwrap();
        drop(far);
        // And the end stays.
        for expected in [4, 0, 0] {
            let reading = timeout(WATCHDOG, socket.read(&mut buffer, &mut VecDeque::new())).await;
            assert_eq!(reading.unwrap().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_written_as_room_is_made() {
        let (socket, mut far) = pair();
        // More than any socket's buffer takes.
        let sent: Vec<u8> = (0..4_000_000_u32).map(|number| number as u8).collect();
        let expected = sent.clone();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all)
        });
        let writing = timeout(WATCHDOG, socket.write_all(&sent, None)).await;
        writing.unwrap().unwrap();
        socket.finish().unwrap();
        assert!(reader.join().unwrap().unwrap() == expected);
    }

    #[tokio::test]
    async fn a_write_that_waits_for_room_ends_with_the_peer() {
        let (socket, far) = pair();
        let bytes = vec![0; 4_000_000];
        let (written, ()) =
            tokio::join!(timeout(WATCHDOG, socket.write_all(&bytes, None)), async {
                tokio::task::yield_now().await;
                drop(far);
            });
        assert!(written.unwrap().is_err());
    }
}
