//! What a real-time thread must not cause: page faults, preemptions, heap operations.
//!
//! rt-safe: one getrusage(2) of the own thread and five relaxed stores. The kernel counts from the
//! thread's birth; published is what came since the baseline, so set-up does not show.

use std::sync::atomic::Ordering;

use kairo_link::stats::ThreadStats;
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

    /// Publishes what the calling thread did since this baseline. rt-safe.
    pub fn publish(&self, stats: &ThreadStats) {
        let now = Self::of_this_thread();
        let words = [
            (&stats.minor_faults, now.minor_faults, self.minor_faults),
            (&stats.major_faults, now.major_faults, self.major_faults),
            (
                &stats.voluntary_switches,
                now.voluntary_switches,
                self.voluntary_switches,
            ),
            (
                &stats.involuntary_switches,
                now.involuntary_switches,
                self.involuntary_switches,
            ),
            (&stats.allocations, guard::operations(), 0),
        ];
        for (word, now, before) in words {
            word.store(now.saturating_sub(before), Ordering::Relaxed);
        }
    }
}
