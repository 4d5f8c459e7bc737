//! Arithmetic on histogram buckets as they come over IPC and from cyclictest.
//!
//! A distribution is a map from a bucket's upper edge to its count; windows are differences of
//! cumulative ones.

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::Quantiles;

/// Samples by the upper edge of their bucket, ns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets(BTreeMap<u64, u64>);

impl Buckets {
    /// From (upper edge in ns, count) pairs.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// From a thread of cyclictest's result: `{"histogram": {"12": 340, …}, "cycles": …, "max":
    /// …}`, in µs. Samples beyond its histogram are put at the maximum, so none is lost.
    pub fn of_cyclictest(thread: &Value) -> Option<Self> {
        let entry = |(us, count): (&String, &Value)| {
            Some((us.parse::<u64>().ok()?.checked_mul(1000)?, count.as_u64()?))
        };
        let histogram = thread["histogram"].as_object()?;
        let mut found: Self = Self(histogram.iter().map(entry).collect::<Option<_>>()?);
        let beyond = thread["cycles"].as_u64()?.saturating_sub(found.count());
        if beyond > 0 {
            *found
                .0
                .entry(thread["max"].as_u64()?.checked_mul(1000)?)
                .or_default() += beyond;
        }
        Some(found)
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let left = self.0.iter().map(|(edge, count)| {
            (
                *edge,
                count.saturating_sub(earlier.0.get(edge).copied().unwrap_or(0)),
            )
        });
        Self(left.filter(|(_, count)| *count > 0).collect())
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (edge, count) in &other.0 {
            *self.0.entry(*edge).or_default() += count;
        }
        self
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The value that this fraction of the samples does not exceed, µs.
    pub fn quantile_us(&self, fraction: f64) -> f64 {
        let total = self.count();
        let wanted = ((total as f64 * fraction).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (edge, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return *edge as f64 / 1000.0;
            }
        }
        0.0
    }

    /// The four points reports show.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile_us(0.5),
            p99: self.quantile_us(0.99),
            p999: self.quantile_us(0.999),
            max: self.quantile_us(1.0),
        }
    }

    /// For a plot: (upper edge in µs, samples).
    pub fn in_microseconds(&self) -> Vec<(f64, u64)> {
        self.0
            .iter()
            .map(|(edge, count)| (*edge as f64 / 1000.0, *count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_window_is_the_difference_of_two_snapshots() {
        let before = Buckets::from_pairs([(1000, 5), (2000, 1)]);
        let after = Buckets::from_pairs([(1000, 7), (2000, 1), (9000, 1)]);
        let window = after.since(&before);
        assert_eq!(window.count(), 3);
        assert_eq!(window.quantiles().max, 9.0);
        assert_eq!(window.quantiles().p50, 1.0);
    }

    #[test]
    fn malformed_histograms_are_refused() {
        let thread = json!({"histogram": {"x": 3}, "cycles": 3, "max": 4});
        assert_eq!(Buckets::of_cyclictest(&thread), None);
    }

    #[test]
    fn samples_beyond_cyclictests_histogram_count_at_its_maximum() {
        let thread = json!({"histogram": {"3": 2}, "cycles": 3, "max": 7000});
        let found = Buckets::of_cyclictest(&thread).expect("good");
        assert_eq!((found.count(), found.quantiles().max), (3, 7000.0));
        assert_eq!(found.quantiles().p50, 3.0);
    }
}
