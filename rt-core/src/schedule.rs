//! The planned times of a periodic loop, and the account of periods run and skipped.
//!
//! Pure and rt-safe: times go in, times come out. Planned times lie on a grid fixed by the first
//! one, so lateness never accumulates. A period that cannot begin before the next one is planned
//! is skipped and counted, and at every tick `(newest - first) / period + 1 = ticks + skipped`.

use kairo_link::MonoNs;

/// The planned times of one loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    period_ns: u64,
    first: MonoNs,
    newest: MonoNs,
    ticks: u64,
    skipped: u64,
}

/// What one tick cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// When the next tick is planned.
    pub next: MonoNs,
    /// Periods that had to be left out before it.
    pub skipped: u64,
}

impl Schedule {
    /// A schedule whose first tick is on the first whole period after `now`. rt-safe.
    pub const fn starting_after(now: MonoNs, period_ns: u64) -> Self {
        let first = MonoNs((now.0 / period_ns + 1) * period_ns);
        Self {
            period_ns,
            first,
            newest: first,
            ticks: 0,
            skipped: 0,
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

    /// The planned tick begins. rt-safe.
    pub const fn begin(&mut self) {
        self.ticks += 1;
    }

    /// Whether elapsed periods are exactly those run and those skipped; ask between
    /// [`Schedule::begin`] and [`Schedule::finish`]. rt-safe.
    pub const fn identity_holds(&self) -> bool {
        let elapsed = self.newest.since_ns(self.first);
        elapsed.is_multiple_of(self.period_ns)
            && elapsed / self.period_ns + 1 == self.ticks + self.skipped
    }

    /// The tick ended at `now`: plans the next one, strictly after `now`. rt-safe.
    pub const fn finish(&mut self, now: MonoNs) -> Finished {
        let periods = now.since_ns(self.newest) / self.period_ns + 1;
        self.newest = self.newest.plus_ns(periods * self.period_ns);
        self.skipped += periods - 1;
        Finished {
            next: self.newest,
            skipped: periods - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tick_in_time_skips_nothing_and_a_late_one_lands_on_the_grid() {
        let mut schedule = Schedule::starting_after(MonoNs(1_001), 1_000);
        assert_eq!(schedule.planned(), MonoNs(2_000));
        schedule.begin();
        assert_eq!(
            schedule.finish(MonoNs(2_999)),
            Finished {
                next: MonoNs(3_000),
                skipped: 0
            }
        );
        schedule.begin();
        // Woke or ran until 5.5 periods: 4 and 5 are gone, 6 is next.
        assert_eq!(
            schedule.finish(MonoNs(5_500)),
            Finished {
                next: MonoNs(6_000),
                skipped: 2
            }
        );
        schedule.begin();
        // Ended exactly when the next was planned: that one is not in the future any more.
        assert_eq!(
            schedule.finish(MonoNs(7_000)),
            Finished {
                next: MonoNs(8_000),
                skipped: 1
            }
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn elapsed_periods_are_those_run_and_those_skipped(
            start in 0_u64..1 << 50, period in 1_u64..1 << 30,
            delays in prop::collection::vec(0_u64..1 << 34, 1..100),
        ) {
            let mut schedule = Schedule::starting_after(MonoNs(start), period);
            for delay in delays {
                schedule.begin();
                prop_assert!(schedule.identity_holds());
                let now = schedule.planned().plus_ns(delay);
                let next = schedule.finish(now).next;
                prop_assert!(next > now && next.since_ns(now) <= period);
            }
        }
    }
}
