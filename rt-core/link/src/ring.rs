//! A wait-free single-producer single-consumer ring in shared memory.
//!
//! - Fixed capacity, a power of two, chosen by the side that makes the segment.
//! - [`Producer::push`] and [`Consumer::pop`] finish in a bounded number of steps whatever the
//!   other side does, dead, stopped or hostile. rt-safe both.
//! - Positions count up for ever in 64 bits; the slot is the position modulo the capacity.
//! - Each side keeps its own position in private memory and only publishes it, so a peer that
//!   scribbles over the shared copy changes nothing here; the peer's position is checked against
//!   the private one, and an impossible value is [`Corrupt`], never an index.
//!
//! It does not wait, wake or overwrite: a full ring refuses, and the caller decides.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::pod::{self, Pod, words_of};
use crate::segment::{HEADER_WORDS, Segment};
use crate::sync::{self, AtomicU64, Ordering};

/// Payload word of the consumer's position. A line pair of its own.
const HEAD: usize = 0;
/// Payload word of the producer's position. A line pair of its own.
const TAIL: usize = 16;
/// Payload word of the first slot.
const SLOTS: usize = 32;
const _: () = assert!(
    HEADER_WORDS.is_multiple_of(16),
    "positions start on a line pair"
);

/// Payload words of a ring of `capacity` slots of `T`.
///
/// # Panics
/// If `capacity` is not a power of two.
pub const fn payload_words<T: Pod>(capacity: u64) -> usize {
    assert!(capacity.is_power_of_two() && capacity <= 4096);
    SLOTS + capacity as usize * words_of::<T>()
}

/// The peer's position is impossible: the segment is corrupt or the peer hostile. Give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ring position {theirs} of the peer is impossible beside ours, {ours}")]
pub struct Corrupt {
    /// Our private position.
    pub ours: u64,
    /// What the shared memory says of the peer's.
    pub theirs: u64,
}

/// Why a value was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No free slot.
    #[error("the ring is full")]
    Full,
    /// See [`Corrupt`].
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// Where the parts of a ring lie.
#[derive(Debug)]
struct Layout {
    /// The consumer's position.
    head: NonNull<AtomicU64>,
    /// The producer's position.
    tail: NonNull<AtomicU64>,
    /// The first word of the first slot.
    slots: NonNull<AtomicU64>,
    capacity: u64,
    /// Keeps the memory behind the pointers.
    _segment: Arc<Segment>,
}

// SAFETY: the pointers lead into the segment, which the layout keeps and which is `Sync`.
unsafe impl Send for Layout {}

impl Layout {
    fn new<T: Pod>(segment: Arc<Segment>, capacity: u64) -> Self {
        let words = segment.payload();
        assert_eq!(words.len(), payload_words::<T>(capacity));
        Self {
            head: NonNull::from(&words[HEAD]),
            tail: NonNull::from(&words[TAIL]),
            slots: NonNull::from(&words[SLOTS..]).cast(),
            capacity,
            _segment: segment,
        }
    }

    fn head(&self) -> &AtomicU64 {
        // SAFETY: leads into the segment that `self` keeps; atomic words tolerate any writer.
        unsafe { self.head.as_ref() }
    }

    fn tail(&self) -> &AtomicU64 {
        // SAFETY: as for `head`.
        unsafe { self.tail.as_ref() }
    }

    /// The slot of a position, whatever the position.
    fn slot<T: Pod>(&self, position: u64) -> &[AtomicU64] {
        let size = words_of::<T>();
        let index = (position & (self.capacity - 1)) as usize;
        // SAFETY: the capacity is a power of two, so the mask keeps `index` below it; `new` has
        // seen that many slots of this size behind `slots`, and `self` keeps them.
        unsafe { std::slice::from_raw_parts(self.slots.as_ptr().add(index * size), size) }
    }
}

/// The writing end. One per ring.
#[derive(Debug)]
pub struct Producer<T> {
    layout: Layout,
    tail: u64,
    cached_head: u64,
    slot_type: std::marker::PhantomData<fn(T)>,
}

/// The reading end. One per ring.
#[derive(Debug)]
pub struct Consumer<T> {
    layout: Layout,
    head: u64,
    cached_tail: u64,
    slot_type: std::marker::PhantomData<fn() -> T>,
}

impl<T: Pod> Producer<T> {
    /// The writing end of a fresh ring in `segment`. setup-only.
    ///
    /// # Panics
    /// If the segment's payload is not that of a ring of `capacity`, a bug of the caller.
    pub fn new(segment: Arc<Segment>, capacity: u64) -> Self {
        Self {
            layout: Layout::new::<T>(segment, capacity),
            tail: 0,
            cached_head: 0,
            slot_type: std::marker::PhantomData,
        }
    }

    /// Appends `value`. rt-safe.
    ///
    /// # Errors
    /// [`PushError::Full`], or [`PushError::Corrupt`] when the peer's position is impossible.
    #[inline]
    pub fn push(&mut self, value: &T) -> Result<(), PushError> {
        if self.tail.wrapping_sub(self.cached_head) >= self.layout.capacity {
            self.look()?;
        }
        pod::store(self.layout.slot::<T>(self.tail), value);
        self.tail = self.tail.wrapping_add(1);
        // Pairs with the acquire load in `Consumer::look`: the slot is whole before it is visible.
        self.layout.tail().store(self.tail, sync::hand_over());
        Ok(())
    }

    /// Looks where the consumer is, because by the last look the ring is full.
    fn look(&mut self) -> Result<(), PushError> {
        // Pairs with the release stores in `Consumer`: the slot was read before it is handed back.
        let head = self.layout.head().load(Ordering::Acquire);
        let used = self.tail.wrapping_sub(head);
        if used > self.layout.capacity {
            return Err(Corrupt {
                ours: self.tail,
                theirs: head,
            }
            .into());
        }
        self.cached_head = head;
        if used == self.layout.capacity {
            return Err(PushError::Full);
        }
        Ok(())
    }
}

impl<T: Pod> Consumer<T> {
    /// The reading end of a fresh ring in `segment`. setup-only.
    ///
    /// # Panics
    /// If the segment's payload is not that of a ring of `capacity`, a bug of the caller.
    pub fn new(segment: Arc<Segment>, capacity: u64) -> Self {
        Self {
            layout: Layout::new::<T>(segment, capacity),
            head: 0,
            cached_tail: 0,
            slot_type: std::marker::PhantomData,
        }
    }

    /// Takes the oldest value, if there is one. The value may be anything a hostile producer
    /// wrote: validate it. rt-safe.
    ///
    /// # Errors
    /// [`Corrupt`] when the peer's position is impossible.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<T>, Corrupt> {
        if self.cached_tail == self.head {
            self.look()?;
            if self.cached_tail == self.head {
                return Ok(None);
            }
        }
        let value = pod::load(self.layout.slot::<T>(self.head));
        self.head = self.head.wrapping_add(1);
        // Pairs with the acquire load in `Producer::look`.
        self.layout.head().store(self.head, sync::hand_over());
        Ok(Some(value))
    }

    /// Skips everything that lies in the ring now, in one step. rt-safe.
    ///
    /// # Errors
    /// [`Corrupt`] when the peer's position is impossible.
    pub fn discard(&mut self) -> Result<(), Corrupt> {
        self.look()?;
        self.head = self.cached_tail;
        // Pairs with the acquire load in `Producer::look`.
        self.layout.head().store(self.head, sync::hand_over());
        Ok(())
    }

    /// Looks where the producer is.
    fn look(&mut self) -> Result<(), Corrupt> {
        // Pairs with the release store in `Producer::push`.
        let tail = self.layout.tail().load(Ordering::Acquire);
        if tail.wrapping_sub(self.head) > self.layout.capacity {
            return Err(Corrupt {
                ours: self.head,
                theirs: tail,
            });
        }
        self.cached_tail = tail;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Kind;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Pair(u64, u64);
    // SAFETY: two u64, repr(C): no padding, every bit pattern valid.
    unsafe impl Pod for Pair {}

    fn ring(capacity: u64) -> (Producer<Pair>, Consumer<Pair>, Arc<Segment>) {
        let segment = Segment::in_heap(Kind::Ring, payload_words::<Pair>(capacity), capacity, 1);
        let producer = Producer::new(Arc::clone(&segment), capacity);
        (
            producer,
            Consumer::new(Arc::clone(&segment), capacity),
            segment,
        )
    }

    #[test]
    fn push_works_until_full_and_again_after_a_pop() {
        let (mut producer, mut consumer, _segment) = ring(4);
        for value in 0..4 {
            producer.push(&Pair(value, !value)).unwrap();
        }
        assert_eq!(producer.push(&Pair(9, 9)), Err(PushError::Full));
        assert_eq!(consumer.pop().unwrap(), Some(Pair(0, !0)));
        producer.push(&Pair(4, !4)).unwrap();
        for value in 1..5 {
            assert_eq!(consumer.pop().unwrap(), Some(Pair(value, !value)));
        }
        assert_eq!(consumer.pop().unwrap(), None);
    }

    #[test]
    fn every_value_arrives_once_and_whole_across_threads() {
        let count: u64 = if cfg!(miri) { 200 } else { 200_000 };
        let (mut producer, mut consumer, _segment) = ring(8);
        let writer = std::thread::spawn(move || {
            let mut value = 0;
            while value < count {
                match producer.push(&Pair(value, !value)) {
                    Ok(()) => value += 1,
                    Err(PushError::Full) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let mut expected = 0;
        while expected < count {
            match consumer.pop().unwrap() {
                Some(pair) => {
                    assert_eq!(pair, Pair(expected, !expected));
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn an_impossible_tail_is_corrupt_and_never_an_index() {
        for hostile in [5, u64::MAX, 1 << 63, 1_000_000] {
            let (_producer, mut consumer, segment) = ring(4);
            segment.payload()[TAIL].store(hostile, Ordering::Release);
            assert_eq!(
                consumer.pop(),
                Err(Corrupt {
                    ours: 0,
                    theirs: hostile
                })
            );
        }
    }

    #[test]
    fn discarding_skips_what_was_sent_and_nothing_that_follows() {
        let (mut producer, mut consumer, segment) = ring(4);
        for value in 0..3 {
            producer.push(&Pair(value, 0)).unwrap();
        }
        assert_eq!(consumer.pop().unwrap(), Some(Pair(0, 0)));
        consumer.discard().unwrap();
        for value in 3..7 {
            producer.push(&Pair(value, 0)).unwrap();
        }
        assert_eq!(consumer.pop().unwrap(), Some(Pair(3, 0)));
        segment.payload()[TAIL].store(u64::MAX, Ordering::Release);
        assert!(consumer.discard().is_err());
    }

    #[test]
    fn a_rewritten_own_position_changes_nothing() {
        let (mut producer, mut consumer, segment) = ring(4);
        producer.push(&Pair(1, 2)).unwrap();
        segment.payload()[HEAD].store(77, Ordering::Release);
        assert_eq!(consumer.pop().unwrap(), Some(Pair(1, 2)));
        producer.push(&Pair(3, 4)).unwrap();
        assert_eq!(consumer.pop().unwrap(), Some(Pair(3, 4)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None, cases: if cfg!(miri) { 4 } else { 256 }, ..Default::default()
        })]

        /// Whatever a hostile peer writes anywhere, between any two operations, both ends return
        /// and stay inside the segment (an index out of range would panic).
        #[test]
        fn a_hostile_peer_cannot_make_an_end_panic(
            writes in proptest::collection::vec(
                (0_usize..payload_words::<Pair>(4), proptest::prelude::any::<u64>()), 0..64),
        ) {
            let (mut producer, mut consumer, segment) = ring(4);
            for (word, value) in writes {
                segment.payload()[word].store(value, Ordering::Relaxed);
                let _ = producer.push(&Pair(1, 1));
                let _ = consumer.pop();
            }
        }
    }
}
