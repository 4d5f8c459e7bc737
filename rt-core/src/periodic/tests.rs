//! The life of a periodic thread, with work that does what a test says.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use kairo_link::segment::{Kind, Segment};
use kairo_link::stats::{PAYLOAD_WORDS, Stats};

use super::*;
use crate::bringup::thread::STACK_BYTES;
use crate::config::OverrunPolicy;

const PERIOD_NS: u64 = 2_000_000;
/// Longest wait. It only matters when a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts what is asked of it, and dawdles in one period.
struct Script {
    stats: Stats,
    last: u64,
    dawdles_in: u64,
    /// Where it writes in every period from `dawdles_in` on.
    writes_to: Option<std::fs::File>,
    rehearsals: u64,
    decided: Option<bool>,
    ended: u64,
    overran_in: Vec<u64>,
    seen: Vec<Period>,
}

impl Periodic for Script {
    fn account(&self) -> &PeriodStats {
        &self.stats.block().loops[0].periods
    }
    fn rehearse(&mut self, period: Period) {
        assert_eq!((period.number, self.decided), (0, None));
        self.rehearsals += 1;
    }
    fn decided(&mut self, _now: MonoNs, armed: bool) {
        assert_eq!(self.decided.replace(armed), None, "decided twice");
    }
    fn run(&mut self, period: Period) {
        self.seen.push(period);
        if let Some(file) = &mut self.writes_to {
            if period.number >= self.dawdles_in {
                std::io::Write::write_all(file, b"x").unwrap();
            }
        } else if period.number == self.dawdles_in {
            sleep_until(period.woke.plus_ns(5 * PERIOD_NS));
        }
    }
    fn overran(&mut self, period: Period) {
        self.overran_in.push(period.number);
    }
    fn ended(&mut self) {
        self.ended += 1;
    }
    fn is_finished(&self) -> bool {
        self.seen.len() as u64 == self.last
    }
}

/// Lives through `last` periods, dawdling for five in one of them.
fn live(overrun: OverrunPolicy, dawdles_in: u64, last: u64) -> Script {
    live_writing(overrun, dawdles_in, last, None)
}

fn live_writing(
    overrun: OverrunPolicy,
    dawdles_in: u64,
    last: u64,
    writes_to: Option<std::fs::File>,
) -> Script {
    let shared = Arc::new(Shared::default());
    let terms = Terms {
        plan: ThreadPlan {
            name: "script".into(),
            priority: 5,
            core: None,
        },
        timing: Timing {
            period_ns: PERIOD_NS,
            phase_ns: 0,
            overrun,
        },
        budget_ns: PERIOD_NS / 4,
        trace_system_calls: writes_to.is_some(),
        shared: Arc::clone(&shared),
    };
    let script = Script {
        stats: Stats::new(Segment::in_heap(Kind::Stats, PAYLOAD_WORDS, 0, 1)),
        last,
        dawdles_in,
        writes_to,
        rehearsals: 0,
        decided: None,
        ended: 0,
        overran_in: Vec::new(),
        seen: Vec::with_capacity(64),
    };
    let (report, reports) = sync_channel(1);
    let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
    let thread = builder.spawn(move || run(script, &terms, &report)).unwrap();
    let table = reports.recv_timeout(PATIENCE).unwrap();
    assert!(table.iter().any(|line| line.check == "policy"), "{table:?}");
    shared.decide(true);
    thread.join().unwrap()
}

#[test]
fn a_thread_rehearses_until_it_is_decided_and_then_counts_every_period() {
    let script = live(OverrunPolicy::Skip, 0, 20);
    assert!(script.rehearsals >= WARM_UP_PERIODS);
    assert_eq!(script.decided, Some(true));
    assert_eq!(script.ended, script.rehearsals + 20);
    let numbers: Vec<u64> = script.seen.iter().map(|period| period.number).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<u64>>());
    let account = script.account();
    let count = |word: &AtomicU64| word.load(Ordering::Relaxed);
    assert_eq!(count(&account.ticks), 20);
    assert_eq!(count(&account.identity_broken), 0);
    assert_eq!(account.lateness.snapshot().count, 20);
    assert_eq!(account.execution.snapshot().count, 20);
    for period in &script.seen {
        assert!(period.woke >= period.planned, "woke early: {period:?}");
    }
}

#[test]
fn a_period_that_dawdles_is_over_budget_and_an_overrun_and_the_work_is_told() {
    let script = live(OverrunPolicy::Stop, 3, 6);
    assert!(script.overran_in.contains(&3), "{:?}", script.overran_in);
    let account = script.account();
    let count = |word: &AtomicU64| word.load(Ordering::Relaxed);
    assert!(count(&account.over_budget) >= 1);
    assert!(count(&account.skipped) >= 4, "five periods were missed");
    let overruns = count(&account.overruns_late_wake) + count(&account.overruns_long_execution);
    assert_eq!(overruns, script.overran_in.len() as u64);
    assert_eq!(count(&account.identity_broken), 0);
}

#[test]
fn a_burst_is_run_on_the_planned_times_that_were_missed() {
    let script = live(OverrunPolicy::Burst { most: 3 }, 3, 8);
    let late = &script.seen[3];
    assert!(late.catches_up && late.planned < late.woke, "{late:?}");
    let account = script.account();
    assert!(account.caught_up.load(Ordering::Relaxed) >= 3);
    assert_eq!(account.identity_broken.load(Ordering::Relaxed), 0);
}

#[test]
fn an_overrun_is_blamed_on_what_was_larger() {
    let stats = PeriodStats::default();
    let budget_ns = 1_000;
    let is_long = |execution_ns, lateness_ns| {
        let found = cause_of(&stats, execution_ns, budget_ns, lateness_ns);
        std::ptr::eq(found, &raw const stats.overruns_long_execution)
    };
    assert!(!is_long(900, 0), "within its budget it cannot be the work");
    assert!(is_long(5_000, 300));
    assert!(!is_long(1_200, 4_000));
}

/// Whether this kernel can tell; a test cannot ask for more than there is.
fn can_trace() -> bool {
    let probe = std::thread::spawn(system_call_trace::enable);
    probe.join().unwrap().is_ok()
}

#[test]
fn a_write_within_a_period_is_told_with_number_and_period() {
    if !can_trace() {
        return;
    }
    let written = tempfile::tempfile().unwrap();
    let script = live_writing(OverrunPolicy::Skip, 7, 10, Some(written));
    let thread = &script.account().thread;
    assert_eq!(
        thread.traced_calls.load(Ordering::Relaxed),
        4,
        "one a period from 7 to 10"
    );
    let told = system_call_trace::first_call(thread, []).unwrap();
    assert!(
        told.starts_with("system call write (1) at tick 7 from"),
        "{told}"
    );
    let length = script.writes_to.unwrap().metadata().unwrap().len();
    assert_eq!(length, 4, "the calls were made all the same");
}

#[test]
fn a_traced_thread_whose_periods_call_nothing_is_told_nothing() {
    let never = u64::MAX;
    let file = tempfile::tempfile().unwrap();
    let script = live_writing(OverrunPolicy::Skip, never, 10, Some(file));
    assert_eq!(
        system_call_trace::first_call(&script.account().thread, []),
        None
    );
}
