//! How often a call site may speak: a burst, then once a second, and what it left out is counted.
//!
//! By call site and not by message: whoever causes lines can vary their words. There are as many
//! as the program has, so the table is bounded by the program.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;

/// Lines that a call site may say at once.
pub const BURST: u32 = 20;
/// How long it takes until it may say one more.
const REFILL: Duration = Duration::from_secs(1);

/// A call site that said more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flooding {
    /// Module and line.
    pub place: String,
    /// Records left out since the start.
    pub left_out: u64,
}

#[derive(Debug)]
struct Site {
    left: u32,
    refilled: Instant,
    untold: u64,
    left_out: u64,
    place: String,
}

/// Every call site that spoke.
#[derive(Debug, Default)]
pub struct Floods(HashMap<Identifier, Site>);

impl Floods {
    /// Whether `site` may speak at `now`, and how many records it left out before.
    pub fn take(
        &mut self,
        site: Identifier,
        now: Instant,
        place: impl FnOnce() -> String,
    ) -> Option<u64> {
        let site = self.0.entry(site).or_insert_with(|| Site {
            left: BURST,
            refilled: now,
            untold: 0,
            left_out: 0,
            place: place(),
        });
        let periods = now.saturating_duration_since(site.refilled).as_millis() / REFILL.as_millis();
        if periods > 0 {
            let periods = u32::try_from(periods).unwrap_or(BURST);
            site.left = site.left.saturating_add(periods).min(BURST);
            site.refilled = now;
        }
        if site.left == 0 {
            site.untold += 1;
            site.left_out += 1;
            return None;
        }
        site.left -= 1;
        Some(std::mem::take(&mut site.untold))
    }

    /// Those that left something out, the worst first.
    pub fn all(&self) -> Vec<Flooding> {
        let sites = self.0.values().filter(|site| site.left_out > 0);
        let mut all: Vec<Flooding> = sites
            .map(|site| Flooding {
                place: site.place.clone(),
                left_out: site.left_out,
            })
            .collect();
        all.sort_by_key(|site| std::cmp::Reverse(site.left_out));
        all
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite;
    use tracing::Level;
    use tracing::callsite::DefaultCallsite;
    use tracing::field::FieldSet;
    use tracing::metadata::{Kind, Metadata};

    use super::*;

    static SITE: DefaultCallsite = DefaultCallsite::new(&META);
    static META: Metadata<'static> = Metadata::new(
        "a site",
        "test",
        Level::INFO,
        None,
        None,
        None,
        FieldSet::new(&[], tracing::callsite::Identifier(&SITE)),
        Kind::EVENT,
    );

    #[test]
    fn a_flood_says_a_burst_and_counts_the_rest() {
        let mut floods = Floods::default();
        let start = Instant::now();
        let site = || SITE.metadata().callsite();
        let said = (0..1000).filter(|_| floods.take(site(), start, || "here".into()).is_some());
        assert_eq!(said.count(), BURST as usize);
        let later = start + REFILL;
        let untold = 1000 - u64::from(BURST);
        assert_eq!(floods.take(site(), later, String::new), Some(untold));
        assert_eq!(floods.take(site(), later, String::new), None);
        let flooding = Flooding {
            place: "here".into(),
            left_out: untold + 1,
        };
        assert_eq!(floods.all(), [flooding]);
    }
}
