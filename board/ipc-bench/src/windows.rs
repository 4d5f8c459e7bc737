//! How long calls took: quantiles of each window, nothing trimmed.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use crate::placement::Placement;

/// Every window, by placement and who was called.
#[derive(Debug, Default)]
pub struct Windows(BTreeMap<&'static str, BTreeMap<&'static str, Vec<Value>>>);

impl Windows {
    /// Adds a window.
    pub fn add(&mut self, placement: Placement, who: &'static str, nanoseconds: &[u64]) {
        let placed = self.0.entry(placement.name()).or_default();
        placed.entry(who).or_default().push(quantiles(nanoseconds));
    }

    /// All of them.
    pub fn json(&self) -> Value {
        json!(self.0)
    }
}

/// The quantiles of what was measured in one window.
pub fn quantiles(nanoseconds: &[u64]) -> Value {
    let mut sorted = nanoseconds.to_vec();
    sorted.sort_unstable();
    let of = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
    };
    json!({"p50": of(0.5), "p99": of(0.99), "p999": of(0.999), "max": of(1.0)})
}

/// Times `count` calls one after another, ns each; some go before, untimed.
pub fn calls(count: usize, mut call: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
    for _ in 0..count / 10 {
        call()?;
    }
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        call()?;
        all.push(began.elapsed().as_nanos() as u64);
    }
    Ok(all)
}
