//! What waits to be written to one connection: a queue bounded in bytes.
//!
//! Events and chunks enter only while there is room ([`Outgoing::has_room`]); their policy decides
//! what happens otherwise. Responses always enter, because no request is begun while there is no
//! room ([`Outgoing::has_any_room`]), but a few short urgent ones: so the queue holds at most
//! [`LIMIT_BYTES`], one frame more, and the responses of the requests in flight. A peer that does
//! not read fills its own queue and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

use crate::socket::Socket;

/// Bytes a connection may have waiting before pushes are held back.
pub const LIMIT_BYTES: usize = 256 * 1024;
/// Bytes of small frames that go into one write.
const BATCH_BYTES: usize = 64 * 1024;

/// The queue.
#[derive(Debug, Default)]
pub struct Outgoing {
    frames: RefCell<VecDeque<Vec<u8>>>,
    bytes: Cell<usize>,
    closed: Cell<bool>,
    filled: Notify,
    /// Rung when room was made; also by credit, so that a subscription waits in one place.
    pub freed: Notify,
}

impl Outgoing {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether a push of `length` bytes may enter. One longer than the limit may when the queue is
    /// empty, or it never could.
    pub fn has_room(&self, length: usize) -> bool {
        let waiting = self.bytes.get();
        waiting == 0 || waiting.saturating_add(length) <= LIMIT_BYTES
    }

    /// Appends a frame whatever the room is.
    pub fn push(&self, frame: Vec<u8>) {
        if self.closed.get() || frame.is_empty() {
            return;
        }
        self.bytes.set(self.bytes.get() + frame.len());
        self.frames.borrow_mut().push_back(frame);
        self.filled.notify_one();
    }

    /// Whether there is room for anything at all.
    pub fn has_any_room(&self) -> bool {
        self.bytes.get() < LIMIT_BYTES
    }

    /// Lets nothing more in; what waits is still written.
    pub fn close(&self) {
        self.closed.set(true);
        self.filled.notify_one();
    }

    /// Moves frames that wait into `batch`, as many as go into one write; gives their bytes.
    fn take(&self, batch: &mut Vec<u8>) -> usize {
        let mut frames = self.frames.borrow_mut();
        while let Some(next) = frames.front()
            && (batch.is_empty() || batch.len() + next.len() <= BATCH_BYTES)
        {
            batch.extend_from_slice(next);
            frames.pop_front();
        }
        batch.len()
    }

    /// Writes frames until the queue is closed and empty, or the peer is gone. Small ones go
    /// together: a write costs more than they do.
    pub async fn write_to(&self, socket: &Socket) -> std::io::Result<()> {
        let mut batch = Vec::new();
        loop {
            match self.take(&mut batch) {
                0 if self.closed.get() => return socket.finish(),
                0 => self.filled.notified().await,
                count => {
                    socket.write_all(&batch).await?;
                    // Counted until it is written: what is half-way through is memory too.
                    self.bytes.set(self.bytes.get().saturating_sub(count));
                    batch.clear();
                    batch.shrink_to(BATCH_BYTES);
                    self.freed.notify_waiters();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_held_back_at_the_limit_and_responses_are_not() {
        let queue = Outgoing::default();
        assert!(queue.has_room(LIMIT_BYTES));
        queue.push(vec![0; LIMIT_BYTES]);
        assert!(!queue.has_room(1));
        queue.push(vec![0; 10]);
        assert_eq!(queue.bytes(), LIMIT_BYTES + 10);
    }

    #[test]
    fn small_frames_go_together_and_a_long_one_alone() {
        let queue = Outgoing::default();
        for length in [10, 20, BATCH_BYTES, 30] {
            queue.push(vec![0; length]);
        }
        let mut lengths = Vec::new();
        let mut batch = Vec::new();
        while queue.take(&mut batch) > 0 {
            lengths.push(batch.len());
            batch.clear();
        }
        assert_eq!(lengths, [30, BATCH_BYTES, 30]);
    }

    #[test]
    fn a_frame_beyond_the_limit_enters_an_empty_queue_only() {
        let queue = Outgoing::default();
        assert!(queue.has_room(LIMIT_BYTES * 4));
        queue.push(vec![0; 1]);
        assert!(!queue.has_room(LIMIT_BYTES * 4));
    }
}
