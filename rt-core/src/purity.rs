//! What a real-time thread must not cause: page faults, preemptions, heap operations.
//!
//! rt-safe: one getrusage(2) of the own thread and some relaxed stores a period. The kernel counts
//! from the thread's birth; published is what came since the watch began, so set-up does not show.

use std::sync::atomic::Ordering;

use kairo_link::stats::{ThreadStats, add};
use nix::sys::resource::{UsageWho, getrusage};

use crate::guard;

/// The kernel's counters of one thread at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purity {
    /// Page faults served without input or output.
    pub minor_faults: u64,
    /// Page faults that had to wait for a disk.
    pub major_faults: u64,
    /// Switches because the thread waited.
    pub voluntary_switches: u64,
    /// Switches because somebody else was to run.
    pub involuntary_switches: u64,
}

impl Purity {
    /// The calling thread's counters now; zeros if the kernel refuses. rt-safe.
    pub fn of_this_thread() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else {
            return Self::default();
        };
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        Self {
            minor_faults: count(usage.minor_page_faults()),
            major_faults: count(usage.major_page_faults()),
            voluntary_switches: count(usage.voluntary_context_switches()),
            involuntary_switches: count(usage.involuntary_context_switches()),
        }
    }

    /// Page faults of either kind since `earlier`. rt-safe.
    pub const fn faults_since(&self, earlier: &Self) -> u64 {
        let now = self.minor_faults + self.major_faults;
        now.saturating_sub(earlier.minor_faults + earlier.major_faults)
    }
}

/// Counts what the calling thread causes, period by period.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    baseline: Purity,
    newest: Purity,
}

impl Watch {
    /// Begins to watch the calling thread. rt-safe.
    pub fn begin() -> Self {
        let baseline = Purity::of_this_thread();
        Self {
            baseline,
            newest: baseline,
        }
    }

    /// Counts the period that just ended, its sleep included. rt-safe.
    pub fn count(&mut self, stats: &ThreadStats) {
        let now = Purity::of_this_thread();
        self.count_to(now, stats);
    }

    fn count_to(&mut self, now: Purity, stats: &ThreadStats) {
        /// A period sleeps once until its planned time; what waits more often blocked.
        const SLEEPS: u64 = 1;
        let (before, base) = (self.newest, self.baseline);
        self.newest = now;
        if now.faults_since(&before) > 0 {
            add(&stats.faulted_periods, 1);
        }
        if now.involuntary_switches > before.involuntary_switches {
            add(&stats.preempted_periods, 1);
        }
        if now.voluntary_switches > before.voluntary_switches + SLEEPS {
            add(&stats.blocked_periods, 1);
        }
        let words = [
            (&stats.minor_faults, now.minor_faults, base.minor_faults),
            (&stats.major_faults, now.major_faults, base.major_faults),
            (
                &stats.voluntary_switches,
                now.voluntary_switches,
                base.voluntary_switches,
            ),
            (
                &stats.involuntary_switches,
                now.involuntary_switches,
                base.involuntary_switches,
            ),
            (&stats.allocations, guard::operations(), 0),
        ];
        for (word, now, before) in words {
            word.store(now.saturating_sub(before), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_period_is_charged_with_what_came_since_the_one_before() {
        let stats = ThreadStats::default();
        let start = Purity {
            minor_faults: 100,
            voluntary_switches: 50,
            ..Purity::default()
        };
        let mut watch = Watch {
            baseline: start,
            newest: start,
        };
        let mut now = start;
        let mut period = |faults, waits, preempted| {
            now.minor_faults += faults;
            now.voluntary_switches += waits;
            now.involuntary_switches += preempted;
            watch.count_to(now, &stats);
        };
        period(0, 1, 0);
        period(3, 1, 0);
        period(0, 2, 5);
        period(0, 1, 0);
        let count = |word: &std::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
        assert_eq!(
            (count(&stats.minor_faults), count(&stats.voluntary_switches)),
            (3, 5)
        );
        let periods = [
            &stats.faulted_periods,
            &stats.preempted_periods,
            &stats.blocked_periods,
        ];
        assert_eq!(periods.map(count), [1, 1, 1]);
    }

    #[test]
    fn the_kernel_is_asked_about_this_thread() {
        let before = Purity::of_this_thread();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let after = Purity::of_this_thread();
        assert!(after.voluntary_switches > before.voluntary_switches);
    }
}
