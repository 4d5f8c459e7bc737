//! A fixed-size log-linear histogram of nanoseconds with one writer and any number of readers.
//!
//! Values below 32 ns have a bucket each; above, every octave is cut into 32 equal buckets, so a
//! reported value is at most 1/32 (3.2 %) above a recorded one. The largest value is 2^36 ns
//! (68 s); larger ones land in the last bucket and in `max`. rt-safe to record: two or three
//! relaxed stores, no read-modify-write instruction, because there is one writer.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per octave.
const SUB_BUCKETS: u64 = 32;
/// log2 of [`SUB_BUCKETS`].
const SUB_BITS: u32 = 5;
/// Values from 2^36 ns on share the last bucket.
const MAX_BITS: u32 = 36;
/// Number of buckets: 32 below 2^5, then 32 for each of the octaves 2^5 to 2^36.
pub const BUCKETS: usize = (SUB_BUCKETS as usize) * ((MAX_BITS - SUB_BITS) as usize + 1);

/// The histogram as it lies in shared memory. Every field is an atomic word.
#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    /// Number of recorded values.
    pub count: AtomicU64,
    /// Sum of recorded values, ns; wraps after 584 years.
    pub sum_ns: AtomicU64,
    /// Largest recorded value, ns, exact.
    pub max_ns: AtomicU64,
    /// Spare, keeps the buckets 16-byte aligned.
    reserved: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Histogram {
    /// Counts `value_ns`. Only the one writer may call it. rt-safe.
    pub fn record(&self, value_ns: u64) {
        bump(&self.buckets[bucket_of(value_ns)], 1);
        bump(&self.sum_ns, value_ns);
        if value_ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.store(value_ns, Ordering::Relaxed);
        }
        // Last, and released, so that a reader that acquires `count` finds that many in buckets.
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count.wrapping_add(1), Ordering::Release);
    }

    /// Copies the present content. agent-only (allocates).
    pub fn snapshot(&self) -> Snapshot {
        // Pairs with the release store in `record`.
        let count = self.count.load(Ordering::Acquire);
        Snapshot {
            count,
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
            buckets: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
        }
    }
}

/// Adds to a word that has one writer, without a locked instruction. rt-safe.
fn bump(word: &AtomicU64, by: u64) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

/// The bucket that `value_ns` falls into.
const fn bucket_of(value_ns: u64) -> usize {
    if value_ns < SUB_BUCKETS {
        return value_ns as usize;
    }
    let bits = 63 - value_ns.leading_zeros();
    if bits >= MAX_BITS {
        return BUCKETS - 1;
    }
    let octave = bits - SUB_BITS;
    // The leading one is bit `bits`; the next SUB_BITS bits choose the bucket in the octave.
    let within = (value_ns >> octave) - SUB_BUCKETS;
    (SUB_BUCKETS as usize) * (octave as usize + 1) + within as usize
}

/// The largest value that falls into `bucket`, ns.
pub const fn bucket_upper_ns(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB_BUCKETS {
        return bucket;
    }
    let octave = bucket / SUB_BUCKETS - 1;
    let within = bucket % SUB_BUCKETS;
    ((SUB_BUCKETS + within + 1) << octave) - 1
}

/// A copy of a histogram, to compute with. agent-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of recorded values.
    pub count: u64,
    /// Sum of recorded values, ns.
    pub sum_ns: u64,
    /// Largest recorded value, ns. Of a difference: the upper edge of its last filled bucket.
    pub max_ns: u64,
    buckets: Vec<u64>,
}

impl Snapshot {
    /// The value that `quantile` (0 to 1) of the recorded values do not exceed, ns, rounded up to
    /// its bucket's edge but never above the maximum. Zero if nothing was recorded.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return 0;
        }
        let wanted = ((total as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return bucket_upper_ns(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The mean, ns; zero if nothing was recorded.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// What was recorded since `earlier`, a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets: Vec<u64> = self
            .buckets
            .iter()
            .zip(&earlier.buckets)
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        let last = buckets.iter().rposition(|count| *count > 0);
        Self {
            count: self.count.saturating_sub(earlier.count),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
            max_ns: last.map_or(0, bucket_upper_ns).min(self.max_ns),
            buckets,
        }
    }

    /// What both hold together, of two histograms.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&other.buckets);
        Self {
            count: self.count.wrapping_add(other.count),
            sum_ns: self.sum_ns.wrapping_add(other.sum_ns),
            max_ns: self.max_ns.max(other.max_ns),
            buckets: buckets.map(|(mine, yours)| mine + yours).collect(),
        }
    }

    /// The filled buckets as (largest value in ns, count), ascending.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (bucket_upper_ns(bucket), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_within_three_percent() {
        for bucket in 1..BUCKETS {
            let lower = bucket_upper_ns(bucket - 1) + 1;
            let upper = bucket_upper_ns(bucket);
            assert_eq!(bucket_of(lower), bucket, "lower edge of {bucket}");
            assert_eq!(bucket_of(upper), bucket, "upper edge of {bucket}");
            assert!(
                upper - lower <= lower / SUB_BUCKETS,
                "bucket {bucket} is too wide"
            );
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_bound_the_recorded_values() {
        let histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count, snapshot.max_ns), (1000, 1_000_000));
        for (quantile, exact) in [(0.5, 500_000_u64), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = snapshot.quantile_ns(quantile);
            assert!(
                found >= exact && found <= exact + exact / 32,
                "{quantile}: {found}"
            );
        }
        assert_eq!(snapshot.mean_ns(), 500_500);
    }

    #[test]
    fn two_histograms_together_hold_the_values_of_both() {
        let (first, second) = (Histogram::default(), Histogram::default());
        first.record(100);
        second.record(100);
        second.record(9_000);
        let both = first.snapshot().and(&second.snapshot());
        assert_eq!((both.count, both.sum_ns, both.max_ns), (3, 9_200, 9_000));
        assert_eq!(
            both.filled().map(|(_, count)| count).collect::<Vec<_>>(),
            [2, 1]
        );
    }

    #[test]
    fn a_difference_holds_only_what_came_between() {
        let histogram = Histogram::default();
        histogram.record(5_000_000);
        let before = histogram.snapshot();
        histogram.record(100);
        histogram.record(200);
        let between = histogram.snapshot().since(&before);
        assert_eq!(between.count, 2);
        assert!(between.max_ns >= 200 && between.max_ns < 210);
    }
}
