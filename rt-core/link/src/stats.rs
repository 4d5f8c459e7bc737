//! The statistics segment: everything the real-time plane counts, for anyone to read.
//!
//! One per kairo-rt, mapped read-only by the agent plane (`F_SEAL_FUTURE_WRITE`), so reading needs
//! no protocol and can disturb nothing. Every field is an atomic word with one writing thread.
//! rt-safe to write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;
use crate::lines::LineStats;
use crate::segment::{Kind, Segment};

/// Control loops a kairo-rt can have. Each takes 25 KB of the statistics, and so does each bus, of
/// which there is half of the largest segment's 4 MiB: room for 40 of each, so 32.
pub const MAX_LOOPS: usize = 32;
/// Buses a kairo-rt can have; see [`MAX_LOOPS`].
pub const MAX_BUSES: usize = 32;
/// Servos on one bus.
pub const MAX_SERVOS: usize = 16;

/// One thread's purity: what a real-time thread must not cause after arming.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ThreadStats {
    /// Minor page faults since arming.
    pub minor_faults: AtomicU64,
    /// Major page faults since arming.
    pub major_faults: AtomicU64,
    /// Voluntary context switches since arming: one a sleep.
    pub voluntary_switches: AtomicU64,
    /// Involuntary context switches since arming.
    pub involuntary_switches: AtomicU64,
    /// Heap allocations since arming.
    pub allocations: AtomicU64,
    /// Kernel thread id; zero until the thread runs.
    pub tid: AtomicU64,
    /// Periods during which a page fault came.
    pub faulted_periods: AtomicU64,
    /// Periods during which somebody else was run instead.
    pub preempted_periods: AtomicU64,
    /// Periods that waited for something besides their planned time.
    pub blocked_periods: AtomicU64,
    /// System calls made within a period although it is traced; zero when it is not.
    pub traced_calls: AtomicU64,
    /// Number of the first of them.
    pub first_call_number: AtomicU64,
    /// The instruction that made it, as an offset into the program.
    pub first_call_offset: AtomicU64,
    /// The period that made it.
    pub first_call_tick: AtomicU64,
    /// The block of the loop that made it, counted from one; zero when it was none.
    pub first_call_block: AtomicU64,
}

/// The account of one periodic thread, the same for loops and buses.
#[derive(Debug, Default)]
#[repr(C)]
pub struct PeriodStats {
    /// Configured period, ns; zero in an unused entry.
    pub period_ns: AtomicU64,
    /// What one period may cost, ns.
    pub budget_ns: AtomicU64,
    /// Periods run since arming.
    pub ticks: AtomicU64,
    /// Periods skipped since arming.
    pub skipped: AtomicU64,
    /// Of the ticks, those run back to back to catch up.
    pub caught_up: AtomicU64,
    /// By how much the planned times were moved, ns.
    pub shifted_ns: AtomicU64,
    /// First planned time, CLOCK_MONOTONIC ns.
    /// `(newest - first - shifted) / period + 1 = ticks + skipped`.
    pub first_planned_ns: AtomicU64,
    /// Newest planned time, CLOCK_MONOTONIC ns.
    pub newest_planned_ns: AtomicU64,
    /// Times the identity above did not hold. Always zero, or our bug.
    pub identity_broken: AtomicU64,
    /// Overruns because the wake-up came late.
    pub overruns_late_wake: AtomicU64,
    /// Overruns because the period itself ran longer than its budget.
    pub overruns_long_execution: AtomicU64,
    /// Periods that cost more than their budget, overrun or not.
    pub over_budget: AtomicU64,
    /// The thread.
    pub thread: ThreadStats,
    /// Wake-up time minus planned time.
    pub lateness: Histogram,
    /// Duration of the period's work.
    pub execution: Histogram,
}

/// One control loop.
#[derive(Debug, Default)]
#[repr(C)]
pub struct LoopStats {
    /// Its periods.
    pub periods: PeriodStats,
    /// Periods in a row beyond the first in which a bus that is up brought nothing new: it is
    /// slower than the loop.
    pub overruns_bus: AtomicU64,
    /// Times the overrun policy `stop` made the devices safe.
    pub stops: AtomicU64,
    /// The block that failed, as a [`crate::block_fault::BlockFaultReport`]; zero while none has.
    pub block_fault: AtomicU64,
    /// Age of a command when it was accepted.
    pub command_age: Histogram,
}

/// One servo on a bus.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ServoStats {
    /// Good replies.
    pub replies: AtomicU64,
    /// Replies that never came, or not in time.
    pub timeouts: AtomicU64,
    /// Replies with a wrong checksum or shape.
    pub bad_packets: AtomicU64,
    /// Replies that carried status error bits.
    pub status_errors: AtomicU64,
}

/// One bus.
#[derive(Debug, Default)]
#[repr(C)]
pub struct BusStats {
    /// Read-and-write cycles completed since arming; zero `servos` marks an unused entry.
    pub cycles: AtomicU64,
    /// Servos on the bus.
    pub servos_in_use: AtomicU64,
    /// 1 while the bus is up.
    pub connected: AtomicU64,
    /// Times the bus was lost.
    pub losses: AtomicU64,
    /// Received bytes that belonged to no packet.
    pub garbage_bytes: AtomicU64,
    /// Its periods.
    pub periods: PeriodStats,
    /// From the first byte sent to the last reply of a cycle.
    pub round_trip: Histogram,
    /// The servos, in configuration order.
    pub servos: [ServoStats; MAX_SERVOS],
}

/// The flight recorder. One writing thread, an ordinary one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RecorderStats {
    /// 1 while there is a recorder.
    pub enabled: AtomicU64,
    /// 1 if the newest seconds survive a crash of kairo-rt.
    pub survives: AtomicU64,
    /// 1 while the disk does not take what is recorded.
    pub failing: AtomicU64,
    /// The error number of the newest failure; zero if none ever was.
    pub errno: AtomicU64,
    /// Failures to write.
    pub write_errors: AtomicU64,
    /// Records handed to a file.
    pub records: AtomicU64,
    /// Records lost because the disk did not take them in time.
    pub dropped: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Files begun.
    pub files: AtomicU64,
}

/// Everything. All zero is a valid, empty block.
#[derive(Debug, Default)]
#[repr(C)]
pub struct StatsBlock {
    /// When the loops were armed, CLOCK_MONOTONIC ns; zero before.
    pub armed_ns: AtomicU64,
    /// Bytes of locked memory read back at arming.
    pub locked_bytes: AtomicU64,
    /// The loops, in configuration order.
    pub loops: [LoopStats; MAX_LOOPS],
    /// The buses, in configuration order.
    pub buses: [BusStats; MAX_BUSES],
    /// The flight recorder.
    pub recorder: RecorderStats,
    /// The GPIO lines.
    pub lines: LineStats,
}

/// Payload words of the statistics segment.
pub const PAYLOAD_WORDS: usize = size_of::<StatsBlock>() / 8;
const _: () = assert!(size_of::<StatsBlock>().is_multiple_of(8));
const _: () = assert!(PAYLOAD_WORDS < crate::segment::MAX_WORDS / 2);

/// A mapped statistics segment.
#[derive(Clone, Debug)]
pub struct Stats {
    segment: Arc<Segment>,
}

impl Stats {
    /// The statistics in `segment`. setup-only.
    ///
    /// # Panics
    /// If the segment's payload is not that of a statistics block, a bug of the caller.
    pub fn new(segment: Arc<Segment>) -> Self {
        assert_eq!(segment.payload().len(), PAYLOAD_WORDS);
        Self { segment }
    }

    /// A copy of what is counted now, in memory of its own. agent-only (allocates).
    #[must_use]
    pub fn copied(&self) -> Self {
        let copy = Segment::in_heap(Kind::Stats, PAYLOAD_WORDS, 0, 0);
        for (to, from) in copy.payload().iter().zip(self.segment.payload()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Self { segment: copy }
    }

    /// An empty block, in memory of its own. agent-only (allocates).
    #[must_use]
    pub fn empty() -> Self {
        Self {
            segment: Segment::in_heap(Kind::Stats, PAYLOAD_WORDS, 0, 0),
        }
    }

    /// The block. rt-safe.
    pub fn block(&self) -> &StatsBlock {
        let start = self.segment.payload().as_ptr().cast::<StatsBlock>();
        // SAFETY: the payload is exactly as long as the block, aligned to 8 like it, stays mapped
        // while `self` lives, and consists of atomic words, valid with any content.
        unsafe { &*start }
    }
}

/// Adds to a word that has one writer. rt-safe.
pub fn add(word: &AtomicU64, by: u64) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::PeerAccess;

    #[test]
    fn a_copy_stays_as_it_was() {
        let stats = Stats::empty();
        stats.block().loops[1].periods.execution.record(40);
        let copy = stats.copied();
        stats.block().loops[1].periods.execution.record(50);
        let count = |stats: &Stats| stats.block().loops[1].periods.execution.snapshot().count;
        assert_eq!((count(&stats), count(&copy)), (2, 1));
    }

    #[test]
    fn what_the_owner_records_the_reader_sees() {
        let segment = Segment::in_heap(Kind::Stats, PAYLOAD_WORDS, 0, 1);
        let stats = Stats::new(segment);
        stats.block().loops[MAX_LOOPS - 1]
            .periods
            .lateness
            .record(1500);
        add(&stats.block().buses[3].servos[15].timeouts, 4);
        let other = stats.clone();
        let newest = &other.block().loops[MAX_LOOPS - 1];
        assert_eq!(newest.periods.lateness.snapshot().count, 1);
        assert_eq!(
            other.block().buses[3].servos[15]
                .timeouts
                .load(Ordering::Relaxed),
            4
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd is not available under Miri")]
    fn a_reader_in_another_mapping_sees_it_too() {
        let (ours, fd) = Segment::create(
            c"kairo-stats",
            Kind::Stats,
            PAYLOAD_WORDS,
            0,
            1,
            PeerAccess::ReadOnly,
        )
        .unwrap();
        let theirs = Segment::open(&fd, Kind::Stats, PAYLOAD_WORDS, PeerAccess::ReadOnly).unwrap();
        Stats::new(Arc::new(ours))
            .block()
            .armed_ns
            .store(77, Ordering::Relaxed);
        assert_eq!(
            Stats::new(theirs).block().armed_ns.load(Ordering::Relaxed),
            77
        );
    }
}
