//! The forwarder as a process, between a TCP client and a Unix server.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

struct Forwarder {
    process: Child,
    address: SocketAddr,
    kernel: UnixListener,
    _directory: tempfile::TempDir,
}

impl Forwarder {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel.sock");
        let kernel = UnixListener::bind(&path).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_kairo-forward"))
            .args(["--listen", "127.0.0.1:0", "--socket"])
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        said.read_line(&mut line).unwrap();
        let address = line.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            process,
            address,
            kernel,
            _directory: directory,
        }
    }

    fn connect(&self) -> (TcpStream, UnixStream) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (kernel, _) = self.kernel.accept().unwrap();
        kernel.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, kernel)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn bytes_arrive_both_ways_and_a_half_close_is_a_half_close() {
    let forwarder = Forwarder::start();
    let (mut client, mut kernel) = forwarder.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    kernel.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    kernel.write_all(b"answer").unwrap();
    drop(kernel);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
}

#[test]
fn a_client_that_vanishes_ends_the_connection_at_the_kernel() {
    let forwarder = Forwarder::start();
    let (client, mut kernel) = forwarder.connect();
    drop(client);
    assert_eq!(kernel.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_kernel_that_vanishes_ends_the_connection_at_the_client() {
    let forwarder = Forwarder::start();
    let (mut client, kernel) = forwarder.connect();
    drop(kernel);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn connections_beyond_the_bound_are_closed_and_the_others_live() {
    let forwarder = Forwarder::start();
    let mut open: Vec<_> = (0..32).map(|_| forwarder.connect()).collect();
    let mut surplus = TcpStream::connect(forwarder.address).unwrap();
    surplus.set_read_timeout(Some(PATIENCE)).unwrap();
    // Closed without having been read from: an end or a reset.
    assert!(matches!(surplus.read(&mut [0; 8]), Ok(0) | Err(_)));
    let (client, kernel) = &mut open[31];
    client.write_all(b"x").unwrap();
    kernel.read_exact(&mut [0; 1]).unwrap();
}
