//! Every interleaving of the ring and of the triple buffer, within a bound on preemptions.
//!
//! The code under test is the crate's own, over loom's atomics (feature `model`). Each model also
//! runs with its publishing orderings broken, and must then fail: it can see the bug it is for.
//! Run by `cargo xtask test`, or: `cargo test -p kairo-link --features model --test model`.

use std::sync::Arc;

use kairo_link::pod::Pod;
use kairo_link::segment::{Kind, Segment};
use kairo_link::{latest, ring, sync};

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Pair(u64, u64);
// SAFETY: two u64, repr(C): no padding, every bit pattern valid.
unsafe impl Pod for Pair {}

/// Enough to see every bug of two threads in practice, and seconds instead of hours.
const PREEMPTIONS_MAX: usize = 3;

/// Explores `model`; the panic of a failed execution is the answer of a broken one.
fn explore(broken: bool, model: fn()) -> std::thread::Result<()> {
    sync::break_orderings(broken);
    let result = std::panic::catch_unwind(|| {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS_MAX);
        builder.check(model);
    });
    sync::break_orderings(false);
    result
}

fn holds_and_sees_its_bug(model: fn()) {
    explore(false, model).expect("the model holds");
    let broken = explore(true, model);
    assert!(broken.is_err(), "the model does not see broken orderings");
}

/// Three values through two slots: the ring is full once, and wraps around.
fn every_value_arrives_once_and_whole() {
    const CAPACITY: u64 = 2;
    const VALUES: u64 = 3;
    let words = ring::payload_words::<Pair>(CAPACITY);
    let segment = Segment::in_heap(Kind::Ring, words, CAPACITY, 1);
    let mut producer = ring::Producer::new(Arc::clone(&segment), CAPACITY);
    let mut consumer = ring::Consumer::<Pair>::new(segment, CAPACITY);
    let writer = loom::thread::spawn(move || {
        for value in 1..=VALUES {
            while let Err(error) = producer.push(&Pair(value, !value)) {
                assert_eq!(error, ring::PushError::Full);
                loom::thread::yield_now();
            }
        }
    });
    for expected in 1..=VALUES {
        let pair = loop {
            match consumer.pop().expect("nobody is hostile") {
                Some(pair) => break pair,
                None => loom::thread::yield_now(),
            }
        };
        assert_eq!(pair, Pair(expected, !expected));
    }
    writer.join().expect("the writer holds");
}

/// Three values published while the reader looks three times.
fn no_value_is_torn_and_none_goes_back_in_time() {
    let words = latest::payload_words::<Pair>();
    let segment = Segment::in_heap(Kind::Latest, words, 3, 1);
    let mut writer = latest::Writer::new(Arc::clone(&segment));
    let mut reader = latest::Reader::<Pair>::new(segment);
    let publishing = loom::thread::spawn(move || {
        for value in 1..=3 {
            writer.publish(&Pair(value, !value));
        }
    });
    let mut last = 0;
    for _ in 0..3 {
        if let Some(Pair(value, check)) = reader.take() {
            assert_eq!(check, !value, "torn");
            assert!(value > last, "{value} after {last}");
            last = value;
        }
    }
    publishing.join().expect("the writer holds");
    if last < 3 {
        assert_eq!(reader.take(), Some(Pair(3, !3)), "the newest is there");
    }
}

#[test]
fn the_ring_holds_under_every_interleaving_and_fails_when_broken() {
    holds_and_sees_its_bug(every_value_arrives_once_and_whole);
}

#[test]
fn the_triple_buffer_holds_under_every_interleaving_and_fails_when_broken() {
    holds_and_sees_its_bug(no_value_is_torn_and_none_goes_back_in_time);
}
