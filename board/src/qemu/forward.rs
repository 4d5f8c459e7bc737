//! A Unix socket on the host that reaches the kernel socket inside the guest.
//!
//! Each connection gets one TCP connection to the forwarded port. Guarantees: when either side
//! closes, or is killed, the other is closed at once in both directions, because the kernel inside
//! ends a client's claims by its connection; at most [`MAX_CONNECTIONS`] at a time, others are
//! refused by closing. A half-closed connection is a closed one here.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::error::QemuError;

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 64;

/// How often the listening thread looks whether it shall end.
const POLL: Duration = Duration::from_millis(10);

/// How long QEMU may take to accept; it is a process on this host.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A listening socket; it ends, and its file goes, with this value.
#[derive(Debug)]
pub struct Forward {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Listens at `path` for connections to `port` on this host's loopback.
    ///
    /// # Errors
    /// [`QemuError::File`] when the socket cannot be made.
    pub fn listen(path: &Path, port: u16) -> Result<Forward, QemuError> {
        // A socket file left by a killed run would make every later one fail.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(QemuError::file("listen at", path))?;
        listener
            .set_nonblocking(true)
            .map_err(QemuError::file("listen at", path))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let active = Arc::new(AtomicUsize::new(0));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => serve(client, port, &active),
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(Forward {
            path: path.to_path_buf(),
            stop,
            thread: Some(thread),
        })
    }

    /// Where clients connect: the value for `KAIRO_IPC_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects one client through; on any trouble the client is closed, which it must handle anyway.
fn serve(client: UnixStream, port: u16, active: &Arc<AtomicUsize>) {
    if active.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
        active.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let active = Arc::clone(active);
    thread::spawn(move || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Ok(guest) = TcpStream::connect_timeout(&address, CONNECT_DEADLINE) {
            // Requests are small and answered one by one: waiting to fill packets only delays.
            let _ = guest.set_nodelay(true);
            let _ = client.set_nonblocking(false);
            relay(&client, &guest);
        }
        active.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Copies both ways until either side is done, then closes both.
fn relay(client: &UnixStream, guest: &TcpStream) {
    let close = || {
        let _ = client.shutdown(Shutdown::Both);
        let _ = guest.shutdown(Shutdown::Both);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            copy(client, guest);
            close();
        });
        copy(guest, client);
        close();
    });
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match from.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) if to.write_all(&chunk[..count]).is_err() => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);

    fn forward() -> (tempfile::TempDir, Forward, TcpListener) {
        let directory = tempfile::tempdir().unwrap();
        let guest = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = guest.local_addr().unwrap().port();
        let forward = Forward::listen(&directory.path().join("kernel.sock"), port).unwrap();
        (directory, forward, guest)
    }

    #[test]
    fn bytes_pass_both_ways() {
        let (_directory, forward, guest) = forward();
        let mut client = UnixStream::connect(forward.path()).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        let (mut inside, _) = guest.accept().unwrap();
        client.write_all(b"ping").unwrap();
        let mut bytes = [0; 4];
        inside.read_exact(&mut bytes).unwrap();
        inside.write_all(b"pong").unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"pong");
    }

    #[test]
    fn a_client_that_dies_is_closed_inside() {
        let (_directory, forward, guest) = forward();
        let client = UnixStream::connect(forward.path()).unwrap();
        let (mut inside, _) = guest.accept().unwrap();
        inside.set_read_timeout(Some(LONG)).unwrap();
        drop(client);
        assert_eq!(inside.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_guest_that_closes_closes_the_client() {
        let (_directory, forward, guest) = forward();
        let mut client = UnixStream::connect(forward.path()).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        drop(guest.accept().unwrap());
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn the_socket_goes_with_the_machine() {
        let (_directory, forward, _guest) = forward();
        let path = forward.path().to_path_buf();
        drop(forward);
        assert!(!path.exists());
    }
}
