//! Sleeping until a planned time. rt-safe: one absolute clock_nanosleep(2), resumed after signals.

use kairo_link::MonoNs;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

/// Sleeps until `time`; returns at once when it has passed. rt-safe.
pub fn sleep_until(time: MonoNs) {
    let seconds = i64::try_from(time.0 / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = i64::try_from(time.0 % 1_000_000_000).unwrap_or(0);
    let request = TimeSpec::new(seconds, nanoseconds);
    let flags = ClockNanosleepFlags::TIMER_ABSTIME;
    // Bounded: every round ends at the absolute time, however many signals come.
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &request) == Err(Errno::EINTR) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_return_before_the_time_and_not_at_all_late_for_the_past() {
        let planned = MonoNs::now().plus_ns(3_000_000);
        sleep_until(planned);
        assert!(MonoNs::now() >= planned);
        sleep_until(MonoNs(1));
    }
}
