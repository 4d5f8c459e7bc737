//! Monotonic time as the real-time plane counts it.
//!
//! rt-safe: reading the clock is a vDSO call, arithmetic saturates and never panics.

use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC`. Never wall-clock time: a clock step must not move a deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MonoNs(pub u64);

impl MonoNs {
    /// The present instant. rt-safe.
    pub fn now() -> Self {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .expect("CLOCK_MONOTONIC exists on every Linux");
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
        Self(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds),
        )
    }

    /// This instant plus `nanoseconds`, at most the end of time. rt-safe.
    #[must_use]
    pub const fn plus_ns(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds since `earlier`, zero if that lies ahead. rt-safe.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Nanoseconds since `earlier` as a `Duration`, for edges of the API. rt-safe.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.since_ns(earlier))
    }
}
