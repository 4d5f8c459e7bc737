//! kairo-forward: carries a TCP port to the kernel's IPC socket. For QEMU development only.
//!
//! **Danger.** The IPC protocol has no passwords, because a Unix socket has file permissions and
//! the kernel knows its peers. A TCP port has neither: whoever reaches the port is, to kairod, this
//! process, and may do what the policy lets this process do. So it runs only where the kernel
//! command line says `kairo.forward=PORT`, which only the QEMU runner does, and QEMU forwards the
//! port to loopback.
//!
//! Two threads a connection, at most [`MAX_CONNECTIONS`] connections; more are closed at once.
//! The end of one direction is passed on as the end of that direction; an error ends both at once,
//! so that a killed client loses its claims as if it had been on the socket itself.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

/// Connections at once. A developer has a CLI or two and a demo.
const MAX_CONNECTIONS: usize = 32;
/// Bytes moved at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Forwards a TCP port to the IPC socket: for QEMU development only, it has no authentication.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// The Unix socket to connect to.
    #[arg(long, value_name = "PATH", default_value = "/run/kairo/kernel.sock")]
    socket: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen).with_context(|| {
        let address = arguments.listen;
        format!("cannot listen on {address}; is another process using the port?")
    })?;
    eprintln!(
        "kairo-forward: {} -> {}; whoever reaches this port commands the robot",
        listener.local_addr().unwrap_or(arguments.listen),
        arguments.socket.display()
    );
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                if let Some(place) = Place::take(&open) {
                    serve(client, &arguments.socket, place);
                }
            }
            // Out of descriptors, or the peer was gone already: go on with the next.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// One of the [`MAX_CONNECTIONS`], given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        // Only the accepting thread adds, so the bound holds without a loop.
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            return None;
        }
        open.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects `client` to the socket and carries both directions until both have ended.
fn serve(client: TcpStream, socket: &Path, place: Place) {
    let Ok(kernel) = UnixStream::connect(socket) else {
        return; // Dropping the client closes it, which is what it would see on the socket.
    };
    let link = Arc::new(Link { client, kernel });
    // Requests are small and wait for an answer; a delay here would be seen in every call.
    let _ = link.client.set_nodelay(true);
    let outward = Arc::clone(&link);
    thread::spawn(move || {
        let _place = place;
        let back = Arc::clone(&outward);
        let backward = thread::spawn(move || {
            carry(&back.kernel, &back.client, || {
                back.client.shutdown(Shutdown::Write)
            })
            .unwrap_or_else(|_| back.end());
        });
        let kernel = &outward.kernel;
        carry(&outward.client, kernel, || kernel.shutdown(Shutdown::Write))
            .unwrap_or_else(|_| outward.end());
        // It ends by itself: its source has ended, or `end` ended it.
        let _ = backward.join();
    });
}

/// The two ends of one forwarded connection.
struct Link {
    client: TcpStream,
    kernel: UnixStream,
}

impl Link {
    /// Ends both ends at once, which wakes whoever reads or writes them.
    fn end(&self) {
        // An end that is closed already is what is wanted.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.kernel.shutdown(Shutdown::Both);
    }
}

/// Copies until the source ends, then passes the end on.
fn carry<R, W>(
    source: &R,
    target: &W,
    end: impl FnOnce() -> std::io::Result<()>,
) -> std::io::Result<()>
where
    for<'a> &'a R: Read,
    for<'a> &'a W: Write,
{
    let (mut source, mut target) = (source, target);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return end();
        }
        target.write_all(&buffer[..count])?;
    }
}
