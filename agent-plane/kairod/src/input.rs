//! What arrives on a connection: bytes into frames, and the descriptors that come beside them.
//!
//! Descriptors are kept only over connections that negotiated them; everywhere else they are handed
//! to the closer as they come. Those kept wait for the frames that announce them, at most
//! [`kairo_wire::passing::MAX_WAITING`]; one that no frame announces closes the connection.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::closer;
use crate::connection::{Connection, End};
use crate::daemon::Daemon;
use crate::large_frames::Share;
use crate::router::refusal;
use crate::socket::Socket;
use kairo_wire::{Decoder, ErrorInfo, FrameKind, Limits, scan};

/// Most that is read at once, bytes; from a service, which may send streams.
const READ_BYTES: usize = 16 * 1024;
const READ_BYTES_OF_SERVICE: usize = 64 * 1024;

/// The reading half of a connection.
#[derive(Debug)]
pub struct Input<'connection> {
    socket: &'connection Socket,
    buffer: Vec<u8>,
    /// Bytes into frames.
    pub decoder: Decoder,
    /// Descriptors whose frames have not come yet.
    pub arrived: VecDeque<OwnedFd>,
    /// The share of the frame under way, if it is a large one.
    pub share: Option<Share>,
}

impl<'connection> Input<'connection> {
    /// What arrives over `socket`.
    pub fn new(socket: &'connection Socket) -> Self {
        Self {
            socket,
            buffer: vec![0; READ_BYTES],
            decoder: Decoder::new(Limits::default()),
            arrived: VecDeque::new(),
            share: None,
        }
    }

    /// Whether the frame under way is a large one and has no share yet.
    pub fn needs_share(&self) -> bool {
        self.share.is_none() && self.large().is_some()
    }

    /// Whether the large frame under way is one that this peer has no business to send.
    pub fn is_unasked(&self, serves: bool) -> bool {
        let is_request = |(kind, _): (FrameKind, usize)| kind == FrameKind::Request;
        !serves && !self.large().is_some_and(is_request)
    }

    /// Waits for a share of the large frames for the one under way.
    pub async fn have_share(&mut self, daemon: &Daemon, uid: u32) {
        if let Some((kind, bytes)) = self.large() {
            self.share = daemon.large_frames.share(kind, bytes, uid).await;
        }
    }

    fn large(&self) -> Option<(FrameKind, usize)> {
        let announced = self.decoder.announced();
        announced.filter(|(_, bytes)| *bytes > Limits::default().control_bytes)
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
        let read = self.socket.read(&mut self.buffer, &mut self.arrived).await;
        if !descriptors && !self.arrived.is_empty() {
            closer::close(std::mem::take(&mut self.arrived));
        }
        read
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

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if !self.arrived.is_empty() {
            closer::close(std::mem::take(&mut self.arrived));
        }
    }
}
