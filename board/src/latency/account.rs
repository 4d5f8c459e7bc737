//! What the guest found under one load, read from its JSON: pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// A side's lateness, all windows together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Samples.
    pub count: u64,
    /// Largest, exact, ns.
    pub max_ns: u64,
    /// Samples by the upper edge of their bucket, ns.
    buckets: BTreeMap<u64, u64>,
}

impl Load {
    /// Adds a window.
    fn add(&mut self, window: &Value) -> Option<()> {
        self.count += window["count"].as_u64()?;
        self.max_ns = self.max_ns.max(window["max_ns"].as_u64()?);
        for pair in window["buckets"].as_array()? {
            let (upper, count) = (pair[0].as_u64()?, pair[1].as_u64()?);
            *self.buckets.entry(upper).or_default() += count;
        }
        Some(())
    }

    /// The value that this fraction of the samples does not exceed, to the bucket's edge, µs.
    #[must_use]
    pub fn quantile_us(&self, fraction: f64) -> f64 {
        let wanted = ((self.count as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (upper, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                return (*upper).min(self.max_ns) as f64 / 1000.0;
            }
        }
        f64::NAN
    }

    /// Largest, exact, µs; not a number when there is no sample.
    #[must_use]
    pub fn max_us(&self) -> f64 {
        match self.count {
            0 => f64::NAN,
            _ => self.max_ns as f64 / 1000.0,
        }
    }

    /// For a plot: (upper edge in µs, samples).
    #[must_use]
    pub fn in_microseconds(&self) -> Vec<(f64, u64)> {
        let each = self.buckets.iter();
        each.map(|(upper, count)| ((*upper).min(self.max_ns) as f64 / 1000.0, *count))
            .collect()
    }
}

/// Everything about one load.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name.
    pub load: String,
    /// kairo-rt's lateness.
    pub ours: Load,
    /// cyclictest's; absent where it did not run.
    pub theirs: Option<Load>,
    /// Periods run.
    pub ticks: u64,
    /// Periods skipped.
    pub skipped: u64,
    /// Page faults of the loop's thread since arming.
    pub faults: u64,
    /// Its heap operations since arming.
    pub allocations: u64,
    /// Times its account of periods did not add up.
    pub identity_broken: u64,
    /// What the guest printed.
    pub raw: Value,
}

impl Account {
    /// Reads what `kairo-lab measure` printed; nothing if it is not that.
    #[must_use]
    pub fn read(found: &Value) -> Option<Self> {
        let mut account = Self {
            load: found["load"].as_str()?.to_owned(),
            ours: Load::default(),
            theirs: None,
            ticks: 0,
            skipped: 0,
            faults: 0,
            allocations: 0,
            identity_broken: 0,
            raw: found.clone(),
        };
        for round in found["rounds"].as_array()? {
            let ours = &round["ours"]["loops"][0];
            account.ours.add(&ours["lateness"])?;
            account.ticks += ours["ticks"].as_u64()?;
            account.skipped += ours["skipped"].as_u64()?;
            account.identity_broken += ours["identity_broken"].as_u64()?;
            let thread = &ours["thread"];
            account.faults += thread["minor_faults"].as_u64()? + thread["major_faults"].as_u64()?;
            account.allocations += thread["allocations"].as_u64()?;
            if !round["theirs"].is_null() {
                let theirs = account.theirs.get_or_insert_default();
                theirs.add(&round["theirs"]["lateness"])?;
            }
        }
        Some(account)
    }

    /// One line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let side = |name: &str, side: &Load| {
            format!(
                "{name} p50 {:.2} p99 {:.2} max {:.2} µs",
                side.quantile_us(0.5),
                side.quantile_us(0.99),
                side.max_us()
            )
        };
        let mut text = side("kairo-rt", &self.ours);
        if let Some(theirs) = &self.theirs {
            text.push_str("; ");
            text.push_str(&side("cyclictest", theirs));
        }
        format!("{text}; {} skipped of {}", self.skipped, self.ticks)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// What a guest prints that saw these lateness values, ns, in every window.
    pub fn printed(load: &str, ours: &[u64], theirs: &[u64]) -> Value {
        let distribution = |values: &[u64]| {
            let buckets: Vec<_> = values.iter().map(|value| json!([value, 1])).collect();
            let max = values.iter().max().copied().unwrap_or(0);
            json!({"count": values.len(), "max_ns": max, "buckets": buckets})
        };
        let thread = json!({"minor_faults": 0, "major_faults": 0, "allocations": 0});
        let ours = json!({"loops": [{"lateness": distribution(ours), "ticks": ours.len(),
            "skipped": 0, "identity_broken": 0, "thread": thread}]});
        let round = json!({"ours": ours, "theirs": {"lateness": distribution(theirs)}});
        json!({"load": load, "rounds": [round, round]})
    }

    #[test]
    fn windows_are_added_up() {
        let account = Account::read(&printed("cpu", &[2000, 3000], &[4000])).unwrap();
        assert_eq!((account.ours.count, account.ticks), (4, 4));
        assert_eq!(account.ours.quantile_us(0.5), 2.0);
        assert_eq!(account.ours.max_us(), 3.0);
        assert_eq!(account.theirs.unwrap().count, 2);
    }

    #[test]
    fn a_number_that_is_missing_refuses_the_whole() {
        let mut found = printed("cpu", &[2000], &[2000]);
        found["rounds"][1]["ours"]["loops"][0]["skipped"] = Value::Null;
        assert!(Account::read(&found).is_none());
    }

    #[test]
    fn no_sample_is_no_number() {
        let account = Account::read(&printed("cpu", &[], &[])).unwrap();
        assert!(account.ours.max_us().is_nan() && account.ours.quantile_us(0.5).is_nan());
    }
}
