//! The latency reference where cyclictest may not run: a thread that does nothing but sleep.
//!
//! cyclictest tries SCHED_FIFO before it looks at its arguments, and leaves if this user may not
//! have it. kairo-rt then runs as an ordinary thread too, so the fair reference is an ordinary
//! thread: absolute sleeps on CLOCK_MONOTONIC, no timer slack, lateness = woken - planned.
//! Periods that it misses are skipped, as cyclictest skips them, and not counted.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use serde_json::{Value, json};

/// What reports and plots call it.
pub const NAME: &str = "plain sleeper";

/// Sleeps from period to period for `duration`; answers in the shape of cyclictest's result.
///
/// # Errors
/// When the clock cannot be read or slept on.
pub fn measure(period: Duration, duration: Duration) -> anyhow::Result<Value> {
    ensure!(!period.is_zero(), "a period of 0 µs");
    // A thread of its own: the timer slack is a property of the thread.
    let lateness = thread::spawn(move || sleep(period, duration))
        .join()
        .map_err(|_| anyhow!("the sleeper panicked"))??;
    let cycles: u64 = lateness.values().sum();
    let max = lateness.keys().last().copied().unwrap_or(0);
    let histogram: BTreeMap<String, u64> = lateness
        .into_iter()
        .map(|(us, count)| (us.to_string(), count))
        .collect();
    Ok(json!({"thread": {"0": {"histogram": histogram, "cycles": cycles, "max": max}}}))
}

/// How often each lateness was seen, in whole µs.
fn sleep(period: Duration, duration: Duration) -> anyhow::Result<BTreeMap<u64, u64>> {
    set_timerslack(1).context("cannot set the timer slack")?;
    let now = || clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    let mut seen = BTreeMap::new();
    let mut planned = now()?;
    let end = planned + duration;
    while planned < end {
        planned += period;
        let woken = loop {
            let flags = ClockNanosleepFlags::TIMER_ABSTIME;
            match clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &TimeSpec::from(planned)) {
                Err(nix::Error::EINTR) => {}
                outcome => {
                    outcome.context("cannot sleep")?;
                    break now()?;
                }
            }
        };
        let lateness = woken.saturating_sub(planned);
        let lateness_us = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
        *seen.entry(lateness_us).or_default() += 1;
        while planned + period < woken {
            planned += period;
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::buckets::Buckets;

    #[test]
    fn its_answer_is_read_like_cyclictests() {
        let period = Duration::from_millis(1);
        let result = measure(period, Duration::from_millis(50)).expect("sleeps");
        let thread = &result["thread"]["0"];
        let buckets = Buckets::of_cyclictest(thread).expect("understood");
        assert!((1..=50).contains(&buckets.count()), "{result}");
        assert_eq!(thread["cycles"], buckets.count());
    }

    #[test]
    fn a_period_of_nothing_is_refused() {
        assert!(measure(Duration::ZERO, Duration::from_millis(1)).is_err());
    }
}
