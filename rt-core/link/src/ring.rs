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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pod::{self, Pod, words_of};
use crate::segment::{HEADER_WORDS, Segment};

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

/// The writing end. One per ring.
#[derive(Debug)]
pub struct Producer<T> {
    segment: Arc<Segment>,
    capacity: u64,
    tail: u64,
    cached_head: u64,
    slot_type: std::marker::PhantomData<fn(T)>,
}

/// The reading end. One per ring.
#[derive(Debug)]
pub struct Consumer<T> {
    segment: Arc<Segment>,
    capacity: u64,
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
        assert_eq!(segment.payload().len(), payload_words::<T>(capacity));
        Self {
            segment,
            capacity,
            tail: 0,
            cached_head: 0,
            slot_type: std::marker::PhantomData,
        }
    }

    /// Appends `value`. rt-safe.
    ///
    /// # Errors
    /// [`PushError::Full`], or [`PushError::Corrupt`] when the peer's position is impossible.
    pub fn push(&mut self, value: &T) -> Result<(), PushError> {
        let words = self.segment.payload();
        if self.tail.wrapping_sub(self.cached_head) >= self.capacity {
            // Pairs with the release store in `Consumer::pop`: the slot was read before it is
            // handed back.
            let head = words[HEAD].load(Ordering::Acquire);
            if self.tail.wrapping_sub(head) > self.capacity {
                return Err(Corrupt {
                    ours: self.tail,
                    theirs: head,
                }
                .into());
            }
            self.cached_head = head;
            if self.tail.wrapping_sub(head) == self.capacity {
                return Err(PushError::Full);
            }
        }
        pod::store(slot::<T>(words, self.tail, self.capacity), value);
        self.tail = self.tail.wrapping_add(1);
        // Pairs with the acquire load in `Consumer::pop`: the slot is whole before it is visible.
        words[TAIL].store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T: Pod> Consumer<T> {
    /// The reading end of a fresh ring in `segment`. setup-only.
    ///
    /// # Panics
    /// If the segment's payload is not that of a ring of `capacity`, a bug of the caller.
    pub fn new(segment: Arc<Segment>, capacity: u64) -> Self {
        assert_eq!(segment.payload().len(), payload_words::<T>(capacity));
        Self {
            segment,
            capacity,
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
    pub fn pop(&mut self) -> Result<Option<T>, Corrupt> {
        let words = self.segment.payload();
        if self.cached_tail == self.head {
            // Pairs with the release store in `Producer::push`.
            let tail = words[TAIL].load(Ordering::Acquire);
            if tail.wrapping_sub(self.head) > self.capacity {
                return Err(Corrupt {
                    ours: self.head,
                    theirs: tail,
                });
            }
            self.cached_tail = tail;
            if tail == self.head {
                return Ok(None);
            }
        }
        let value = pod::load(slot::<T>(words, self.head, self.capacity));
        self.head = self.head.wrapping_add(1);
        // Pairs with the acquire load in `Producer::push`.
        words[HEAD].store(self.head, Ordering::Release);
        Ok(Some(value))
    }
}

impl<T: Pod> Consumer<T> {
    /// Skips everything that lies in the ring now, in one step. rt-safe.
    ///
    /// # Errors
    /// [`Corrupt`] when the peer's position is impossible.
    pub fn discard(&mut self) -> Result<(), Corrupt> {
        // Pairs with the release store in `Producer::push`.
        let tail = self.segment.payload()[TAIL].load(Ordering::Acquire);
        if tail.wrapping_sub(self.head) > self.capacity {
            return Err(Corrupt {
                ours: self.head,
                theirs: tail,
            });
        }
        (self.head, self.cached_tail) = (tail, tail);
        // Pairs with the acquire load in `Producer::push`.
        self.segment.payload()[HEAD].store(tail, Ordering::Release);
        Ok(())
    }
}

fn slot<T: Pod>(words: &[AtomicU64], position: u64, capacity: u64) -> &[AtomicU64] {
    let size = words_of::<T>();
    let index = (position & (capacity - 1)) as usize;
    let start = SLOTS + index * size;
    &words[start..start + size]
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
