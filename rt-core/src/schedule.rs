//! The planned times of a periodic thread, and the account of periods run and skipped.
//!
//! Pure and rt-safe: times go in, times come out. Planned times lie on a grid fixed by the first
//! one, so lateness never accumulates. What happens to periods that cannot begin in time is the
//! overrun policy:
//!
//! | policy | a missed period | the next one |
//! |---|---|---|
//! | skip, stop | is left out | on the grid, strictly in the future |
//! | burst | is run late, back to back, at most `most` in a row; more are left out | on the grid |
//! | realign | is left out | a whole number of periods after the late wake-up: the grid moves |
//!
//! With every one of them, at every tick,
//! `(newest - first - shifted) / period + 1 = ticks + skipped`: a period is run once, on time or
//! late, or it is counted as skipped, or the grid was moved over a part of one. A tick that is run
//! late stays on its own planned time, so its lateness is told as it is.

use kairo_link::MonoNs;

use crate::config::OverrunPolicy;

/// When a thread shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Its period; not zero.
    pub period_ns: u64,
    /// Where in the period the first planned time lies.
    pub phase_ns: u64,
    /// What happens to missed periods.
    pub overrun: OverrunPolicy,
}

/// The planned times of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    timing: Timing,
    first: MonoNs,
    newest: MonoNs,
    woke: MonoNs,
    ticks: u64,
    skipped: u64,
    shifted_ns: u64,
    /// Ticks run back to back so far; zero while none is late.
    in_a_row: u32,
}

/// What one tick cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// When the next tick is planned; not after the present with the policy burst.
    pub next: MonoNs,
    /// Periods that are left out before it.
    pub skipped: u64,
    /// Whether the next planned time had come before the tick ended. Ticks that only catch up are
    /// part of the overrun that made them late.
    pub is_overrun: bool,
}

impl Schedule {
    /// A schedule whose first tick is on the first planned time after `now`. rt-safe.
    pub const fn starting_after(now: MonoNs, timing: Timing) -> Self {
        let (period_ns, phase_ns) = (timing.period_ns, timing.phase_ns % timing.period_ns);
        let first = MonoNs((now.0.saturating_sub(phase_ns) / period_ns + 1) * period_ns + phase_ns);
        Self {
            timing,
            first,
            newest: first,
            woke: first,
            ticks: 0,
            skipped: 0,
            shifted_ns: 0,
            in_a_row: 0,
        }
    }

    /// When the coming tick is planned. rt-safe.
    pub const fn planned(&self) -> MonoNs {
        self.newest
    }

    /// When the first tick was planned. rt-safe.
    pub const fn first(&self) -> MonoNs {
        self.first
    }

    /// Ticks run, the present one included. rt-safe.
    pub const fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Periods skipped. rt-safe.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// By how much the grid was moved, ns. rt-safe.
    pub const fn shifted_ns(&self) -> u64 {
        self.shifted_ns
    }

    /// Whether the present tick makes up for a missed period. rt-safe.
    pub const fn is_catching_up(&self) -> bool {
        self.in_a_row > 0
    }

    /// The planned tick begins, at `woke`. rt-safe.
    pub const fn begin(&mut self, woke: MonoNs) {
        self.ticks += 1;
        self.woke = woke;
    }

    /// Whether elapsed periods are exactly those run and those skipped; ask between
    /// [`Schedule::begin`] and [`Schedule::finish`]. rt-safe.
    pub const fn identity_holds(&self) -> bool {
        let elapsed = self.newest.since_ns(self.first);
        let Some(on_the_grid) = elapsed.checked_sub(self.shifted_ns) else {
            return false;
        };
        on_the_grid.is_multiple_of(self.timing.period_ns)
            && on_the_grid / self.timing.period_ns + 1 == self.ticks + self.skipped
    }

    /// The tick ended at `now`: plans the next one. rt-safe.
    pub const fn finish(&mut self, now: MonoNs) -> Finished {
        let period_ns = self.timing.period_ns;
        // Planned times that have come since the present one.
        let due = now.since_ns(self.newest) / period_ns;
        let is_overrun = due > 0 && self.in_a_row == 0;
        let skipped = match self.timing.overrun {
            _ if due == 0 => self.on_time(),
            OverrunPolicy::Burst { most } => self.catch_up(due, most),
            OverrunPolicy::Realign => self.realign(now),
            OverrunPolicy::Skip | OverrunPolicy::Stop => self.leave_out(due),
        };
        self.skipped += skipped;
        Finished {
            next: self.newest,
            skipped,
            is_overrun,
        }
    }

    const fn on_time(&mut self) -> u64 {
        self.in_a_row = 0;
        self.newest = self.newest.plus_ns(self.timing.period_ns);
        0
    }

    const fn leave_out(&mut self, due: u64) -> u64 {
        self.in_a_row = 0;
        self.newest = self.newest.plus_ns((due + 1) * self.timing.period_ns);
        due
    }

    const fn catch_up(&mut self, due: u64, most: u32) -> u64 {
        let room = most.saturating_sub(self.in_a_row) as u64;
        if room == 0 {
            return self.leave_out(due);
        }
        // The oldest are left out: a late tick is worth the more, the less late it is.
        let left_out = due.saturating_sub(room);
        self.in_a_row += 1;
        self.newest = self.newest.plus_ns((left_out + 1) * self.timing.period_ns);
        left_out
    }

    const fn realign(&mut self, now: MonoNs) -> u64 {
        let period_ns = self.timing.period_ns;
        let periods = now.since_ns(self.woke) / period_ns + 1;
        let next = self.woke.plus_ns(periods * period_ns);
        // Later than `now`, so at least one period after the newest planned time.
        let moved_ns = next.since_ns(self.newest);
        self.shifted_ns += moved_ns % period_ns;
        self.newest = next;
        moved_ns / period_ns - 1
    }
}

#[cfg(test)]
mod tests;
