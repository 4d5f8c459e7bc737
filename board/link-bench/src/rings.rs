//! Throughput of the command ring beside rtrb's.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use anyhow::Result;
use kairo_link::ring;
use kairo_link::segment::{Kind, Segment};
use serde_json::{Map, Value, json};

use crate::message::Words;
use crate::{Patience, pin};

/// Rounds of each side a case.
const ROUNDS: usize = 9;

/// One way to put a value in and get it out.
trait Ring<const N: usize>: Sized {
    type In: Send + 'static;
    type Out: Send + 'static;
    fn make(capacity: usize) -> (Self::In, Self::Out);
    fn push(end: &mut Self::In, value: Words<N>) -> bool;
    fn pop(end: &mut Self::Out) -> Option<Words<N>>;
}

struct Ours;
struct Rtrb;

impl<const N: usize> Ring<N> for Ours {
    type In = ring::Producer<Words<N>>;
    type Out = ring::Consumer<Words<N>>;
    fn make(capacity: usize) -> (Self::In, Self::Out) {
        let slots = capacity as u64;
        let words = ring::payload_words::<Words<N>>(slots);
        let segment = Segment::in_heap(Kind::Ring, words, slots, 1);
        let producer = ring::Producer::new(Arc::clone(&segment), slots);
        (producer, ring::Consumer::new(segment, slots))
    }
    #[inline]
    fn push(end: &mut Self::In, value: Words<N>) -> bool {
        end.push(&value).is_ok()
    }
    #[inline]
    fn pop(end: &mut Self::Out) -> Option<Words<N>> {
        end.pop().ok().flatten()
    }
}

impl<const N: usize> Ring<N> for Rtrb {
    type In = rtrb::Producer<Words<N>>;
    type Out = rtrb::Consumer<Words<N>>;
    fn make(capacity: usize) -> (Self::In, Self::Out) {
        rtrb::RingBuffer::new(capacity)
    }
    #[inline]
    fn push(end: &mut Self::In, value: Words<N>) -> bool {
        end.push(value).is_ok()
    }
    #[inline]
    fn pop(end: &mut Self::Out) -> Option<Words<N>> {
        end.pop().ok()
    }
}

/// Nanoseconds an item, one thread putting it in and taking it out.
fn same_thread<const N: usize, R: Ring<N>>(items: u64) -> f64 {
    let (mut producer, mut consumer) = R::make(4096);
    let began = Instant::now();
    for item in 0..items {
        R::push(&mut producer, black_box(Words([item; N])));
        black_box(R::pop(&mut consumer));
    }
    began.elapsed().as_nanos() as f64 / items as f64
}

/// Nanoseconds an item, from one thread to another on another core.
fn two_threads<const N: usize, R: Ring<N>>(capacity: usize, items: u64) -> Result<f64> {
    let (mut producer, mut consumer) = R::make(capacity);
    let start = Arc::new(Barrier::new(2));
    let theirs = Arc::clone(&start);
    let writer = std::thread::spawn(move || -> Result<()> {
        pin(1)?;
        theirs.wait();
        let mut patience = Patience::default();
        for item in 0..items {
            while !R::push(&mut producer, black_box(Words([item; N]))) {
                patience.wait();
            }
        }
        Ok(())
    });
    pin(0)?;
    start.wait();
    let began = Instant::now();
    let mut patience = Patience::default();
    for _ in 0..items {
        while black_box(R::pop(&mut consumer)).is_none() {
            patience.wait();
        }
    }
    let took = began.elapsed().as_nanos() as f64 / items as f64;
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writing thread panicked"))??;
    Ok(took)
}

/// Both sides in turns.
fn turns(
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<Value> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.push(ours()?);
        b.push(theirs()?);
    }
    Ok(json!({"unit": "ns/item", "ours": a, "rtrb": b}))
}

fn of_size<const N: usize>(cases: &mut Map<String, Value>) -> Result<()> {
    let bytes = N * 8;
    let case = turns(
        || Ok(same_thread::<N, Ours>(100_000)),
        || Ok(same_thread::<N, Rtrb>(100_000)),
    )?;
    cases.insert(format!("{bytes} B, one thread"), case);
    for (capacity, items) in [(4096, 100_000), (2, 5_000)] {
        let case = turns(
            || two_threads::<N, Ours>(capacity, items),
            || two_threads::<N, Rtrb>(capacity, items),
        )?;
        cases.insert(format!("{bytes} B, two threads, {capacity} slots"), case);
    }
    Ok(())
}

/// All cases.
pub fn measure() -> Result<Value> {
    let mut cases = Map::new();
    of_size::<1>(&mut cases)?;
    of_size::<8>(&mut cases)?;
    Ok(Value::Object(cases))
}
