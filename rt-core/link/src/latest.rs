//! A wait-free latest-value triple buffer in shared memory: one writer, one reader.
//!
//! The writer always has a buffer of its own to fill and the reader one of its own to read; the
//! third is exchanged with one atomic swap. Neither ever retries, so a reader that stops in the
//! middle of a read delays nobody, and a value once read is never torn by an honest peer.
//!
//! Both ends are rt-safe. A hostile peer can rewrite the exchanged index: it is checked and, where
//! impossible, replaced by one of ours; what it can reach that way is the content of values it
//! could have written or read anyway.

use std::sync::Arc;

use crate::pod::{self, Pod, words_of};
use crate::segment::Segment;
use crate::sync::{self, AtomicU64, Ordering};

/// Payload word that holds the index of the buffer in the middle, and [`FRESH`].
const MIDDLE: usize = 0;
/// Payload word of the first buffer.
const BUFFERS: usize = 16;
/// Set while the middle buffer holds a value the reader has not taken.
const FRESH: u64 = 1 << 8;

/// Payload words of a triple buffer of `T`.
pub const fn payload_words<T: Pod>() -> usize {
    BUFFERS + 3 * stride::<T>()
}

/// Words from one buffer to the next: rounded up to a line pair, so the ends share none.
const fn stride<T: Pod>() -> usize {
    words_of::<T>().next_multiple_of(16)
}

/// The writing end. One per buffer.
#[derive(Debug)]
pub struct Writer<T> {
    segment: Arc<Segment>,
    back: u64,
    value_type: std::marker::PhantomData<fn(T)>,
}

/// The reading end. One per buffer.
#[derive(Debug)]
pub struct Reader<T> {
    segment: Arc<Segment>,
    front: u64,
    value_type: std::marker::PhantomData<fn() -> T>,
}

impl<T: Pod> Writer<T> {
    /// The writing end of a fresh buffer in `segment`. It owns buffer 0, the reader buffer 1, and
    /// buffer 2 starts in the middle. setup-only.
    ///
    /// # Panics
    /// If the segment's payload is not that of a triple buffer of `T`, a bug of the caller.
    pub fn new(segment: Arc<Segment>) -> Self {
        assert_eq!(segment.payload().len(), payload_words::<T>());
        segment.payload()[MIDDLE].store(2, Ordering::Release);
        Self {
            segment,
            back: 0,
            value_type: std::marker::PhantomData,
        }
    }

    /// Makes `value` the latest. rt-safe.
    pub fn publish(&mut self, value: &T) {
        let words = self.segment.payload();
        pod::store(buffer::<T>(words, self.back), value);
        // Pairs with the swap in `Reader::take`: release publishes the value just written,
        // acquire makes sure that the reader has finished with the buffer we get.
        let middle = words[MIDDLE].swap(self.back | FRESH, sync::exchange());
        self.back = checked(middle, self.back);
    }
}

impl<T: Pod> Reader<T> {
    /// The reading end. setup-only.
    ///
    /// # Panics
    /// If the segment's payload is not that of a triple buffer of `T`, a bug of the caller.
    pub fn new(segment: Arc<Segment>) -> Self {
        assert_eq!(segment.payload().len(), payload_words::<T>());
        Self {
            segment,
            front: 1,
            value_type: std::marker::PhantomData,
        }
    }

    /// The newest value if there is one that was not taken yet. rt-safe.
    pub fn take(&mut self) -> Option<T> {
        let words = self.segment.payload();
        if words[MIDDLE].load(Ordering::Relaxed) & FRESH == 0 {
            return None;
        }
        // Pairs with the swap in `Writer::publish`.
        let middle = words[MIDDLE].swap(self.front, sync::exchange());
        self.front = checked(middle, self.front);
        Some(pod::load(buffer::<T>(words, self.front)))
    }
}

/// The buffer index in `middle`, or the next one after `given` if a peer wrote nonsense.
fn checked(middle: u64, given: u64) -> u64 {
    let index = middle & !FRESH;
    if index < 3 && index != given {
        index
    } else {
        (given + 1) % 3
    }
}

fn buffer<T: Pod>(words: &[AtomicU64], index: u64) -> &[AtomicU64] {
    let start = BUFFERS + index as usize * stride::<T>();
    &words[start..start + words_of::<T>()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Kind;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Wide([u64; 9]);
    // SAFETY: nine u64, repr(C): no padding, every bit pattern valid.
    unsafe impl Pod for Wide {}

    fn pair() -> (Writer<Wide>, Reader<Wide>, Arc<Segment>) {
        let segment = Segment::in_heap(Kind::Latest, payload_words::<Wide>(), 3, 1);
        let writer = Writer::new(Arc::clone(&segment));
        (writer, Reader::new(Arc::clone(&segment)), segment)
    }

    #[test]
    fn gives_the_newest_value_once() {
        let (mut writer, mut reader, _segment) = pair();
        assert_eq!(reader.take(), None);
        writer.publish(&Wide([1; 9]));
        writer.publish(&Wide([2; 9]));
        assert_eq!(reader.take(), Some(Wide([2; 9])));
        assert_eq!(reader.take(), None);
    }

    #[test]
    fn no_value_is_torn_and_none_goes_back_in_time() {
        let count: u64 = if cfg!(miri) { 200 } else { 200_000 };
        let (mut writer, mut reader, _segment) = pair();
        let thread = std::thread::spawn(move || {
            for value in 1..=count {
                writer.publish(&Wide([value; 9]));
            }
        });
        let mut last = 0;
        while last < count {
            match reader.take() {
                Some(Wide(words)) => {
                    assert!(
                        words.iter().all(|word| *word == words[0]),
                        "torn: {words:?}"
                    );
                    assert!(words[0] > last, "{} after {last}", words[0]);
                    last = words[0];
                }
                None => std::thread::yield_now(),
            }
        }
        thread.join().unwrap();
    }

    #[test]
    fn an_impossible_index_is_never_used() {
        for hostile in [3, 77, u64::MAX, FRESH | 9] {
            let (mut writer, mut reader, segment) = pair();
            segment.payload()[MIDDLE].store(hostile, Ordering::Release);
            writer.publish(&Wide([5; 9]));
            segment.payload()[MIDDLE].store(hostile | FRESH, Ordering::Release);
            let _ = reader.take();
            writer.publish(&Wide([6; 9]));
        }
    }
}
