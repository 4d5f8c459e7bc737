//! What waits to be written to one connection: a queue bounded in bytes.
//!
//! Events and chunks enter only while there is room ([`Outgoing::has_room`]); their policy decides
//! what happens otherwise. Responses always enter, because no request is begun while there is no
//! room ([`Outgoing::has_any_room`]), but a few short urgent ones: so the queue holds at most
//! [`LIMIT_BYTES`], one frame more, and the responses of the requests in flight. A peer that does
//! not read fills its own queue and nothing else.
//!
//! A frame may have a payload beside it, in a descriptor ([`Item::attached`]); it is sent with the
//! frame's first byte. A large frame holds its share of what all connections together may have
//! ([`crate::large_frames`]); a peer that leaves one lying is let go ([`Outgoing::overdue`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use kairo_wire::Sealed;
use kairo_wire::flow::DESCRIPTOR_COST_BYTES;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::large_frames::{self, Share};
use crate::socket::Socket;

/// Bytes a connection may have waiting before pushes are held back.
pub const LIMIT_BYTES: usize = 256 * 1024;
/// Bytes of small frames that go into one write.
const BATCH_BYTES: usize = 64 * 1024;

/// A frame on its way, and what goes with it.
#[derive(Debug, Default)]
pub struct Item {
    /// The frame.
    pub frame: Vec<u8>,
    /// The payload that it announces.
    pub attached: Option<Sealed>,
    /// Its share of the large frames, if it is one.
    pub held: Option<Share>,
    /// When a large one must have been written.
    due: Option<Instant>,
}

impl From<Vec<u8>> for Item {
    fn from(frame: Vec<u8>) -> Self {
        Self {
            frame,
            ..Self::default()
        }
    }
}

impl Item {
    /// A frame with its share of the large frames, if it is one.
    pub fn holding(frame: Vec<u8>, held: Option<Share>) -> Self {
        Self {
            held,
            ..Self::from(frame)
        }
    }

    /// What it counts in the queue, bytes: a descriptor is a thing of which a process has few.
    fn cost(&self) -> usize {
        let beside = self.attached.as_ref().map_or(0, |_| DESCRIPTOR_COST_BYTES);
        self.frame.len().max(beside as usize)
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Outgoing {
    frames: RefCell<VecDeque<Item>>,
    /// When the large frame that is being written must have been.
    writing_due: Cell<Option<Instant>>,
    /// Rung by a large frame.
    large: Notify,
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
    pub fn push(&self, item: impl Into<Item>) {
        let mut item = item.into();
        if self.closed.get() || item.frame.is_empty() {
            return;
        }
        if item.held.is_some() {
            item.due = Some(Instant::now() + large_frames::PATIENCE);
            self.large.notify_one();
        }
        self.bytes.set(self.bytes.get() + item.cost());
        self.frames.borrow_mut().push_back(item);
        self.filled.notify_one();
    }

    /// Whether there is room for anything at all.
    pub fn has_any_room(&self) -> bool {
        self.bytes.get() < LIMIT_BYTES
    }

    /// Returns when a large frame was not written in time.
    pub async fn overdue(&self) {
        loop {
            let queued = self.frames.borrow().iter().find_map(|item| item.due);
            match self.writing_due.get().or(queued) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::time::sleep_until(due).await,
                None => self.large.notified().await,
            }
        }
    }

    /// Returns once less than `limit` bytes wait.
    pub async fn room_below(&self, limit: usize) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before the check, so that room made in between is not missed.
            freed.as_mut().enable();
            if self.bytes.get() < limit {
                return;
            }
            freed.await;
        }
    }

    /// Lets nothing more in and drops what waits, with its descriptors and shares: others may hold
    /// the connection for a while.
    pub fn clear(&self) {
        self.close();
        self.frames.borrow_mut().clear();
    }

    /// Lets nothing more in; what waits is still written.
    pub fn close(&self) {
        self.closed.set(true);
        self.filled.notify_one();
    }

    /// Moves frames that wait into `batch`, as many as go into one write; gives what they count.
    /// One with a payload beside it goes alone, and one that is as long as a write is moved.
    fn take(&self, batch: &mut Item) -> usize {
        let mut frames = self.frames.borrow_mut();
        let mut count = 0;
        while let Some(next) = frames.front() {
            let alone = next.attached.is_some() || next.frame.len() >= BATCH_BYTES;
            if count > 0 && (alone || batch.frame.len() + next.frame.len() > BATCH_BYTES) {
                break;
            }
            count += next.cost();
            let Some(next) = frames.pop_front() else {
                break;
            };
            if alone {
                *batch = next;
                break;
            }
            batch.frame.extend_from_slice(&next.frame);
        }
        self.writing_due.set(batch.due);
        count
    }

    /// Writes frames until the queue is closed and empty, or the peer is gone. Small ones go
    /// together: a write costs more than they do.
    pub async fn write_to(&self, socket: &Socket) -> std::io::Result<()> {
        let mut batch = Item::default();
        loop {
            match self.take(&mut batch) {
                0 if self.closed.get() => return socket.finish(),
                0 => self.filled.notified().await,
                count => {
                    let beside = batch.attached.take();
                    socket.write_all(&batch.frame, beside).await?;
                    // Counted until it is written: what is half-way through is memory too.
                    self.bytes.set(self.bytes.get().saturating_sub(count));
                    self.writing_due.set(None);
                    (batch.held, batch.due) = (None, None);
                    batch.frame.clear();
                    batch.frame.shrink_to(BATCH_BYTES);
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
        let mut batch = Item::default();
        while queue.take(&mut batch) > 0 {
            lengths.push(batch.frame.len());
            batch.frame.clear();
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
