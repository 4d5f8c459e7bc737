//! What arrives on a connection: bytes into frames, and the descriptors that come beside them.
//!
//! Descriptors are taken in only over connections that negotiated them. Everywhere else the bytes
//! are read without room for descriptors, and the machine's kernel closes what comes at once;
//! nothing of it enters this process. Those taken in wait for the frames that announce them, at
//! most [`kairo_wire::passing::MAX_WAITING`]; one that no frame announces closes the connection.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use kairo_wire::{Decoder, ErrorInfo, Limits, passing, scan};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::OwnedReadHalf;

use crate::connection::{Connection, End};
use crate::daemon::Daemon;
use crate::large_frames::Held;
use crate::router::refusal;

/// Most that is read at once, bytes; from a service, which may send streams.
const READ_BYTES: usize = 16 * 1024;
const READ_BYTES_OF_SERVICE: usize = 64 * 1024;

/// The reading half of a connection.
#[derive(Debug)]
pub struct Input {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Bytes into frames.
    pub decoder: Decoder,
    /// Descriptors whose frames have not come yet.
    pub arrived: VecDeque<OwnedFd>,
    /// The share of the frame under way, if it is a large one.
    pub held: Option<Held>,
}

impl Input {
    /// What arrives over `socket`.
    pub fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            buffer: vec![0; READ_BYTES],
            decoder: Decoder::new(Limits::default()),
            arrived: VecDeque::new(),
            held: None,
        }
    }

    /// Waits for a share of the large frames, if the frame under way is one and has none.
    pub async fn share(&mut self, daemon: &Daemon) {
        if let Some((kind, bytes)) = self.decoder.announced()
            && bytes > Limits::default().control_bytes
            && self.held.is_none()
        {
            self.held = daemon.large_frames.share(kind, bytes).await;
        }
    }

    /// Whether a descriptor came that no frame announced.
    pub fn has_stray_descriptors(&self) -> bool {
        !self.decoder.is_mid_frame() && !self.arrived.is_empty()
    }

    /// Reads what is there, once something is; gives how much.
    pub async fn read(&mut self, descriptors: bool, serves: bool) -> std::io::Result<usize> {
        if serves && self.buffer.len() < READ_BYTES_OF_SERVICE {
            self.buffer.resize(READ_BYTES_OF_SERVICE, 0);
        }
        if !descriptors {
            return self.socket.read(&mut self.buffer).await;
        }
        let stream = self.socket.as_ref();
        loop {
            stream.readable().await?;
            let receive = || passing::receive(stream, &mut self.buffer, &mut self.arrived);
            match stream.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// Takes in what was read.
    pub fn feed(&mut self, count: usize) {
        self.decoder.feed(&self.buffer[..count]);
    }

    /// Refuses the frame under way by its id, as far as that came; nothing can follow it.
    pub fn refuse(&self, connection: &Connection, error: ErrorInfo) -> End {
        let id = scan::salvage_id(self.decoder.unfinished_payload());
        connection.outgoing.push(refusal(id, error));
        End::Done
    }
}
