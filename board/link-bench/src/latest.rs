//! Publishing and taking the latest value, beside the usual ways to share one.
//!
//! The others are not equals: a mutex can keep its owner waiting, a seqlock's reader retries while
//! the writer goes on, and arc-swap allocates and frees. That is why none of them is used.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use kairo_link::latest;
use kairo_link::segment::{Kind, Segment};
use serde_json::{Value, json};

use crate::message::{Line, Words};

const ROUNDS: usize = 15;
const VALUES: u64 = 100_000;

/// One writer's sequence number and a line of words.
#[derive(Default)]
struct Seqlock {
    sequence: AtomicU64,
    words: [AtomicU64; 8],
}

impl Seqlock {
    fn publish(&self, value: &Line) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(value.0) {
            word.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    fn take(&self) -> Line {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let value = std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return Words(value);
            }
        }
    }
}

fn time(mut step: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    (0..VALUES).for_each(&mut step);
    began.elapsed().as_nanos() as f64 / VALUES as f64
}

/// Nanoseconds for publishing a value and taking it, on one thread.
pub fn measure() -> Value {
    let segment = Segment::in_heap(Kind::Latest, latest::payload_words::<Line>(), 3, 1);
    let mut writer = latest::Writer::<Line>::new(Arc::clone(&segment));
    let mut reader = latest::Reader::<Line>::new(segment);
    let seqlock = Seqlock::default();
    let mutex = Mutex::new(Words([0; 8]));
    let swap = ArcSwap::from_pointee(Words([0; 8]));
    let mut found = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        found[0].push(time(|value| {
            writer.publish(black_box(&Words([value; 8])));
            black_box(reader.take());
        }));
        found[1].push(time(|value| {
            seqlock.publish(black_box(&Words([value; 8])));
            black_box(seqlock.take());
        }));
        found[2].push(time(|value| {
            let lock = || mutex.lock().unwrap_or_else(PoisonError::into_inner);
            *lock() = black_box(Words([value; 8]));
            black_box(*lock());
        }));
        found[3].push(time(|value| {
            swap.store(Arc::new(black_box(Words([value; 8]))));
            black_box(**swap.load());
        }));
    }
    let [ours, seqlock, mutex, swap] = found;
    json!({"unit": "ns/value", "ours": ours, "seqlock": seqlock, "mutex": mutex, "arc-swap": swap})
}
