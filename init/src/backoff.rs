//! When a crashed service is started again. Pure: time comes in, a delay goes out.
//!
//! Level 1 is an exponential delay that forgets after a stable run. Level 2 is reached by
//! [`CRASHES_MAX`] crashes within [`WINDOW`]: the delay stays at its maximum, the status says
//! `crash-loop`, and a critical line is written. Level 3, the reboot, is not decided here: a
//! voter that stays away longer than its grace loses the watchdog its vote (see `votes`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::sys::BootTime;

/// First delay: short enough that a killed kairod is back well within a lease's lifetime.
pub const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay: a broken service costs six starts a minute, no more.
pub const DELAY_MAX: Duration = Duration::from_secs(10);
/// A run of this length is a success and forgets the history.
pub const STABLE_RUN: Duration = Duration::from_secs(30);
/// The window in which crashes are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// This many crashes within the window make a crash loop.
pub const CRASHES_MAX: usize = 5;

/// The crash history of one service; bounded by [`CRASHES_MAX`] entries.
#[derive(Debug, Default, Clone)]
pub struct BackOff {
    crashes: VecDeque<BootTime>,
    consecutive: u32,
}

/// What to do about a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Wait this long.
    pub delay: Duration,
    /// 1: ordinary restart. 2: crash loop.
    pub level: u8,
}

impl BackOff {
    /// Records a crash at `now` after a run of `ran_for`.
    pub fn crashed(&mut self, now: BootTime, ran_for: Duration) -> Restart {
        if ran_for >= STABLE_RUN {
            *self = Self::default();
        }
        while self.crashes.len() >= CRASHES_MAX
            || self
                .crashes
                .front()
                .is_some_and(|crash| *crash + WINDOW < now)
        {
            self.crashes.pop_front();
        }
        self.crashes.push_back(now);
        // 100 ms << 7 is already beyond the maximum: the shift is bounded, not the exponent.
        let delay = DELAY_MIN * (1 << self.consecutive.min(7));
        self.consecutive = self.consecutive.saturating_add(1);
        if self.crashes.len() >= CRASHES_MAX {
            return Restart {
                delay: DELAY_MAX,
                level: 2,
            };
        }
        Restart {
            delay: delay.min(DELAY_MAX),
            level: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let mut back_off = BackOff::default();
        // Spread over more than the window, so that level 2 does not hide the doubling.
        let delays: Vec<u128> = (0..9)
            .map(|i| {
                let restart = back_off.crashed(seconds(i * 20), seconds(1));
                assert_eq!(restart.level, 1);
                restart.delay.as_millis()
            })
            .collect();
        assert_eq!(
            delays,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
    }

    #[test]
    fn a_stable_run_forgets_the_history() {
        let mut back_off = BackOff::default();
        for i in 0..4 {
            back_off.crashed(seconds(i), seconds(0));
        }
        let restart = back_off.crashed(seconds(40), STABLE_RUN);
        assert_eq!(
            restart,
            Restart {
                delay: DELAY_MIN,
                level: 1
            }
        );
    }

    #[test]
    fn five_crashes_in_a_minute_are_a_crash_loop() {
        let mut back_off = BackOff::default();
        let levels: Vec<u8> = (0..6)
            .map(|i| back_off.crashed(seconds(i * 10), seconds(1)).level)
            .collect();
        assert_eq!(levels, [1, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_crash_loop_ends_when_the_window_has_passed() {
        let mut back_off = BackOff::default();
        for i in 0..5 {
            back_off.crashed(seconds(i), seconds(0));
        }
        assert_eq!(back_off.crashed(seconds(100), seconds(20)).level, 1);
    }
}
