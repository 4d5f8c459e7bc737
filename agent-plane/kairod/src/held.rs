//! Requests of one connection that wait for their turn, and the few that need not.
//!
//! A connection has so many requests under way and so many bytes unread; what it asks beyond that
//! waits here, in order, as the bytes that came. Reading goes on meanwhile, so that what calls
//! something off (`kernel.cancel`, `rt.estop`, `device.release`: rows that are *urgent*) overtakes
//! what it may well be about. That is bounded too: by what may wait, by the urgent requests under
//! way, and by those that were let through while the peer did not read. Beyond any of them a
//! connection is what it was before: not read until it has room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use kairo_wire::Id;

/// Requests that may wait before the connection is no longer read. As many again as are under way.
pub const MAX_HELD: usize = 64;
/// The same in bytes; one request more may wait, whatever its length.
const MAX_HELD_BYTES: usize = 256 * 1024;
/// Urgent requests under way at once: beside the ordinary ones.
pub const MAX_URGENT: usize = 16;
/// Urgent requests begun while the queue of responses is full. Each may add a short response.
const MAX_OVERTAKING: u32 = 64;

/// One that waits.
#[derive(Debug)]
struct Waiting {
    id: Option<Id>,
    payload: Vec<u8>,
}

/// What waits, and what overtook it.
#[derive(Debug, Default)]
pub struct Held {
    waiting: RefCell<VecDeque<Waiting>>,
    bytes: Cell<usize>,
    urgent: Cell<usize>,
    overtook: Cell<u32>,
}

impl Held {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Whether no more may wait.
    pub fn is_full(&self) -> bool {
        self.waiting.borrow().len() >= MAX_HELD || self.bytes.get() >= MAX_HELD_BYTES
    }

    /// Lets one wait.
    pub fn push(&self, id: Option<Id>, payload: Vec<u8>) {
        self.bytes.set(self.bytes.get() + payload.len());
        self.waiting.borrow_mut().push_back(Waiting { id, payload });
    }

    /// The one that waited longest.
    pub fn pop(&self) -> Option<Vec<u8>> {
        let first = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - first.payload.len());
        Some(first.payload)
    }

    /// Takes one away. False if it does not wait.
    pub fn cancel(&self, id: &Id) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let found = waiting.iter().position(|one| one.id.as_ref() == Some(id));
        let Some(one) = found.and_then(|at| waiting.remove(at)) else {
            return false;
        };
        self.bytes.set(self.bytes.get() - one.payload.len());
        true
    }

    /// Takes all away; gives the ids that wait for an answer.
    pub fn cancel_all(&self) -> Vec<Id> {
        self.bytes.set(0);
        let all = std::mem::take(&mut *self.waiting.borrow_mut());
        all.into_iter().filter_map(|one| one.id).collect()
    }

    /// Whether an urgent request may begin now, where `has_room` says whether responses have room.
    pub fn lets_through(&self, has_room: bool) -> bool {
        if has_room {
            self.overtook.set(0);
        } else if self.overtook.get() >= MAX_OVERTAKING {
            return false;
        } else {
            self.overtook.set(self.overtook.get() + 1);
        }
        self.urgent.get() < MAX_URGENT
    }

    /// Urgent requests under way.
    pub fn urgent(&self) -> usize {
        self.urgent.get()
    }

    /// An urgent request goes on beside the reader.
    pub fn urgent_began(&self) {
        self.urgent.set(self.urgent.get() + 1);
    }

    /// It ended.
    pub fn urgent_ended(&self) {
        self.urgent.set(self.urgent.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let held = Held::default();
        for number in 0..MAX_HELD {
            assert!(!held.is_full());
            held.push(Some(Id::Number(number as i64)), vec![0; 10]);
        }
        assert!(held.is_full());
        assert!(held.cancel(&Id::Number(3)));
        assert!(!held.is_full());
        assert!(!held.cancel(&Id::Number(3)));
        held.push(None, vec![0; MAX_HELD_BYTES]);
        assert!(held.pop().is_some_and(|payload| payload.len() == 10));
        assert!(held.is_full(), "by its bytes");
        assert_eq!(held.cancel_all().len(), MAX_HELD - 2);
        assert!(held.is_empty() && !held.is_full());
    }

    #[test]
    fn urgent_requests_overtake_only_so_often_while_nobody_reads() {
        let held = Held::default();
        let let_through = (0..1000).filter(|_| held.lets_through(false)).count();
        assert_eq!(let_through, MAX_OVERTAKING as usize);
        assert!(held.lets_through(true), "with room it is as before");
        assert!(held.lets_through(false));
        (0..MAX_URGENT).for_each(|_| held.urgent_began());
        assert!(!held.lets_through(true));
    }
}
