//! The overrun policies by example, and what all of them promise, by property.

use proptest::prelude::*;

use super::*;

const SKIP: OverrunPolicy = OverrunPolicy::Skip;
const REALIGN: OverrunPolicy = OverrunPolicy::Realign;

fn schedule(overrun: OverrunPolicy) -> Schedule {
    let timing = Timing {
        period_ns: 1_000,
        phase_ns: 0,
        overrun,
    };
    Schedule::starting_after(MonoNs(1_001), timing)
}

/// Runs a tick that wakes and ends at these times, and returns (next, skipped, overrun).
fn tick(schedule: &mut Schedule, woke: u64, ended: u64) -> (u64, u64, bool) {
    schedule.begin(MonoNs(woke));
    assert!(schedule.identity_holds(), "{schedule:?}");
    let finished = schedule.finish(MonoNs(ended));
    (finished.next.0, finished.skipped, finished.is_overrun)
}

#[test]
fn a_tick_in_time_skips_nothing_and_a_late_one_lands_on_the_grid() {
    let mut schedule = schedule(SKIP);
    assert_eq!(schedule.planned(), MonoNs(2_000));
    assert_eq!(tick(&mut schedule, 2_000, 2_999), (3_000, 0, false));
    // Woke or ran until 5.5 periods: 4 and 5 are gone, 6 is next.
    assert_eq!(tick(&mut schedule, 3_000, 5_500), (6_000, 2, true));
    // Ended exactly when the next was planned: that one is not in the future any more.
    assert_eq!(tick(&mut schedule, 6_000, 7_000), (8_000, 1, true));
}

#[test]
fn a_phase_moves_the_grid_and_nothing_else() {
    let timing = Timing {
        period_ns: 1_000,
        phase_ns: 250,
        overrun: SKIP,
    };
    for (now, first) in [(0, 1_250), (1_249, 1_250), (1_250, 2_250), (5_400, 6_250)] {
        let schedule = Schedule::starting_after(MonoNs(now), timing);
        assert_eq!(schedule.first(), MonoNs(first));
    }
}

#[test]
fn a_burst_makes_up_for_missed_periods_and_the_cap_leaves_the_oldest_out() {
    let mut schedule = schedule(OverrunPolicy::Burst { most: 2 });
    // Five planned times have come: 3, 4, 5 are left out, 6 and 7 are made up for.
    assert_eq!(tick(&mut schedule, 2_000, 7_100), (6_000, 3, true));
    assert!(schedule.is_catching_up());
    assert_eq!(tick(&mut schedule, 7_100, 7_200), (7_000, 0, false));
    assert_eq!(tick(&mut schedule, 7_200, 7_300), (8_000, 0, false));
    assert!(!schedule.is_catching_up());
    assert_eq!(tick(&mut schedule, 8_000, 8_100), (9_000, 0, false));
}

#[test]
fn a_loop_that_is_always_too_slow_never_bursts_for_ever() {
    let mut schedule = schedule(OverrunPolicy::Burst { most: 3 });
    let (mut now, mut in_a_row, mut slept) = (2_000, 0, false);
    for _ in 0..40 {
        let planned = schedule.planned().0;
        if planned > now {
            (now, in_a_row, slept) = (planned, 0, true);
        }
        in_a_row += 1;
        assert!(in_a_row <= 4, "one tick and three made up for");
        tick(&mut schedule, now, now + 1_700);
        now += 1_700;
    }
    assert!(slept, "the core was never left to anybody else");
}

#[test]
fn realigned_ticks_are_never_closer_than_a_period() {
    let mut schedule = schedule(REALIGN);
    assert_eq!(tick(&mut schedule, 2_100, 2_200), (3_000, 0, false));
    // Woke 1.3 periods late: the grid moves by 0.3, and 4 is left out.
    assert_eq!(tick(&mut schedule, 4_300, 4_400), (5_300, 1, true));
    assert_eq!(schedule.shifted_ns(), 300);
    assert_eq!(tick(&mut schedule, 5_300, 5_400), (6_300, 0, false));
    // Ran for 2.5 periods: two are left out, and the grid stays.
    assert_eq!(tick(&mut schedule, 6_300, 8_800), (9_300, 2, true));
    assert_eq!(schedule.shifted_ns(), 300);
}

#[test]
fn an_account_that_does_not_add_up_is_found_out() {
    for damage in [
        |schedule: &mut Schedule| schedule.skipped += 1,
        |schedule: &mut Schedule| schedule.ticks += 1,
        |schedule: &mut Schedule| schedule.shifted_ns += 1,
        |schedule: &mut Schedule| schedule.newest = schedule.newest.plus_ns(7),
    ] {
        let mut schedule = schedule(SKIP);
        tick(&mut schedule, 2_000, 2_100);
        schedule.begin(MonoNs(3_000));
        assert!(schedule.identity_holds());
        damage(&mut schedule);
        assert!(!schedule.identity_holds(), "{schedule:?}");
    }
}

fn policies() -> impl Strategy<Value = OverrunPolicy> {
    prop_oneof![
        Just(SKIP),
        Just(REALIGN),
        Just(OverrunPolicy::Stop),
        (1_u32..20).prop_map(|most| OverrunPolicy::Burst { most }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn elapsed_periods_are_those_run_and_those_skipped_whatever_the_policy(
        start in 0_u64..1 << 50, period_ns in 1_u64..1 << 30, phase_ns in 0_u64..1 << 30,
        overrun in policies(),
        delays in prop::collection::vec((0_u64..1 << 33, 0_u64..1 << 33), 1..100),
    ) {
        let timing = Timing { period_ns, phase_ns, overrun };
        let mut schedule = Schedule::starting_after(MonoNs(start), timing);
        prop_assert!(schedule.first().0 > start);
        prop_assert_eq!(schedule.first().0 % period_ns, phase_ns % period_ns);
        let (mut now, mut in_a_row) = (MonoNs(start), 0);
        for (late, execution) in delays {
            in_a_row = if schedule.planned() <= now { in_a_row + 1 } else { 0 };
            // What the clock does: sleeping ends at the planned time or later.
            let woke = schedule.planned().max(now).plus_ns(late);
            schedule.begin(woke);
            prop_assert!(schedule.identity_holds());
            let planned = schedule.planned();
            now = woke.plus_ns(execution);
            let finished = schedule.finish(now);
            prop_assert!(finished.next > planned, "planned times only grow");
            match overrun {
                OverrunPolicy::Burst { most } => prop_assert!(in_a_row <= most),
                _ => prop_assert!(finished.next > now, "no tick follows another at once"),
            }
            prop_assert!(finished.next.since_ns(now) <= period_ns);
            if overrun == REALIGN && finished.is_overrun {
                prop_assert!(finished.next.since_ns(woke) >= period_ns);
            } else if overrun != REALIGN {
                let since_ns = finished.next.since_ns(schedule.first());
                prop_assert!(since_ns.is_multiple_of(period_ns), "next is not on the grid");
            }
        }
    }
}
