//! The cost of one record in a histogram.

use std::hint::black_box;
use std::time::Instant;

use kairo_link::histogram::Histogram;
use serde_json::{Value, json};

const ROUNDS: usize = 15;
const RECORDS: usize = 200_000;

/// Nanoseconds a record, over values from 1 µs to 1 ms in no order.
pub fn measure() -> Value {
    let histogram = Box::<Histogram>::default();
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    let values: Vec<u64> = (0..4096)
        .map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            1_000 + noise % 1_000_000
        })
        .collect();
    let round = |_| {
        let began = Instant::now();
        for index in 0..RECORDS {
            histogram.record(black_box(values[index % values.len()]));
        }
        began.elapsed().as_nanos() as f64 / RECORDS as f64
    };
    let ours: Vec<f64> = (0..ROUNDS).map(round).collect();
    json!({"unit": "ns/record", "ours": ours})
}
