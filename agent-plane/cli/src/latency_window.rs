//! A window of lateness samples: differences of a cumulative histogram, and cyclictest's result.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Samples by the upper edge of their bucket, ns, and the largest one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    buckets: BTreeMap<u64, u64>,
    max_ns: u64,
}

impl Window {
    /// The answer of `rt.histogram`; edges are whole ns, given in µs.
    pub fn of_histogram(answer: &Value) -> Self {
        let list = answer["buckets"].as_array().into_iter().flatten();
        let pair = |bucket: &Value| {
            let upper_ns = (bucket["upper"].as_f64()? * 1000.0).round() as u64;
            Some((upper_ns, bucket["count"].as_u64()?))
        };
        let max_us = answer["max"].as_f64().unwrap_or(0.0);
        Self {
            buckets: list.filter_map(pair).collect(),
            max_ns: (max_us * 1000.0).round() as u64,
        }
    }

    /// A thread of cyclictest's JSON result, in whole µs. What lies beyond its histogram counts at
    /// its maximum, so that nothing is lost.
    pub fn of_cyclictest(thread: &Value) -> Option<Self> {
        let pair = |(us, count): (&String, &Value)| {
            Some((us.parse::<u64>().ok()?.checked_mul(1000)?, count.as_u64()?))
        };
        let histogram = thread["histogram"].as_object()?;
        let mut buckets: BTreeMap<u64, u64> = histogram.iter().map(pair).collect::<Option<_>>()?;
        let max_ns = thread["max"].as_u64()?.checked_mul(1000)?;
        let inside: u64 = buckets.values().sum();
        let beyond = thread["cycles"].as_u64()?.saturating_sub(inside);
        if beyond > 0 {
            *buckets.entry(max_ns).or_default() += beyond;
        }
        Some(Self { buckets, max_ns })
    }

    /// What came since `earlier`. Its maximum is exact when it is a new one, else the edge of the
    /// last filled bucket, at most 3.2 % above.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let left = self.buckets.iter().map(|(upper, count)| {
            let before = earlier.buckets.get(upper).copied().unwrap_or(0);
            (*upper, count.saturating_sub(before))
        });
        let buckets: BTreeMap<u64, u64> = left.filter(|(_, count)| *count > 0).collect();
        let edge_ns = buckets.keys().last().copied().unwrap_or(0);
        let max_ns = match self.max_ns > earlier.max_ns {
            true => self.max_ns,
            false => edge_ns.min(self.max_ns),
        };
        Self { buckets, max_ns }
    }

    /// Adds another window.
    pub fn add(&mut self, other: &Self) {
        for (upper, count) in &other.buckets {
            *self.buckets.entry(*upper).or_default() += count;
        }
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The value that this fraction does not exceed, µs; none without a sample.
    fn quantile_us(&self, fraction: f64) -> Option<f64> {
        let wanted = ((self.count() as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (upper, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                return Some(microseconds((*upper).min(self.max_ns)));
            }
        }
        None
    }

    /// For the report, in µs.
    pub fn summary(&self) -> Value {
        let each = self.buckets.iter();
        let buckets: Vec<Value> = each
            .map(|(upper, count)| (microseconds((*upper).min(self.max_ns)), count))
            .map(|(upper, count)| json!({"upper": upper, "count": count}))
            .collect();
        json!({
            "count": self.count(),
            "p50": self.quantile_us(0.5),
            "p99": self.quantile_us(0.99),
            "p999": self.quantile_us(0.999),
            "p9999": self.quantile_us(0.9999),
            "max": self.quantile_us(1.0),
            "buckets": buckets,
        })
    }
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(f64, u64)], max: f64) -> Window {
        let each = buckets.iter();
        let buckets: Vec<Value> = each
            .map(|(upper, count)| json!({"upper": upper, "count": count}))
            .collect();
        Window::of_histogram(&json!({"buckets": buckets, "max": max}))
    }

    #[test]
    fn a_window_holds_what_came_between_and_no_maximum_of_before() {
        let before = histogram(&[(5.0, 10), (900.0, 1)], 890.0);
        let after = histogram(&[(5.0, 13), (8.0, 1), (900.0, 1)], 890.0);
        let window = after.since(&before).summary();
        assert_eq!((&window["count"], &window["max"]), (&json!(4), &json!(8.0)));
        let higher = histogram(&[(5.0, 10), (900.0, 2)], 895.0);
        assert_eq!(higher.since(&before).summary()["max"], json!(895.0));
    }

    #[test]
    fn no_sample_of_cyclictest_is_lost() {
        let thread = json!({"histogram": {"3": 2}, "cycles": 3, "max": 70_000});
        let window = Window::of_cyclictest(&thread).unwrap().summary();
        assert_eq!(
            (&window["count"], &window["max"]),
            (&json!(3), &json!(70_000.0))
        );
        assert_eq!(Window::of_cyclictest(&json!({"histogram": {"x": 1}})), None);
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Window::default().summary()["p50"], Value::Null);
    }
}
