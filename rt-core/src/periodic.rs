//! The life of a real-time thread: bring-up, rehearsal, decision, then one period after another.
//!
//! Control loops and buses differ in what a period does ([`Periodic`]) and in nothing else, so
//! everything else stands here once: entering the real-time world, the warm-up with outputs
//! disabled and its read-back, the wait for the decision to arm, the planned times and the account
//! of them, the budget and the cause of an overrun, and the purity counters. rt-safe after the
//! report: no allocation, no lock, no file, no log; per period one sleep, one getrusage(2), and
//! what the work itself does.
//!
//! A thread returns its work when it ends, so that an ordinary thread drops it. What it does not
//! do: decide what an overrun means for a device ([`Periodic::overran`] is told), or stop a period
//! that runs too long. Nothing can, from inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use kairo_link::MonoNs;
use kairo_link::control::BringupCheck;
use kairo_link::stats::{PeriodStats, add};

use crate::bringup::thread::{ThreadPlan, enter, read_back};
use crate::bringup::{Need, check};
use crate::guard;
use crate::pace::sleep_until;
use crate::purity::{Purity, Watch};
use crate::schedule::{Schedule, Timing};
use crate::shared::{Decision, Shared};
use crate::system_call_trace::{self, Trace};

/// Periods with outputs disabled before the read-back: caches, page tables and branch predictors
/// settle, and the second half must run without a page fault.
const WARM_UP_PERIODS: u64 = 50;

/// One period, as its work sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Counts the periods run since arming, from 1; 0 in a rehearsal.
    pub number: u64,
    /// When it was planned. Ticks that catch up have planned times of the past.
    pub planned: MonoNs,
    /// When it began.
    pub woke: MonoNs,
    /// Whether it makes up for a missed period, back to back with the one before.
    pub catches_up: bool,
}

/// What a periodic thread does. Every method but [`Periodic::decided`] runs once a period, and all
/// must be rt-safe.
pub trait Periodic {
    /// Where its periods are counted. One writer: the thread that runs it.
    fn account(&self) -> &PeriodStats;

    /// Waits until a period is due. What it does meanwhile must leave it on time.
    fn wait(&mut self, planned: MonoNs) {
        sleep_until(planned);
    }

    /// A period with outputs disabled: everything a period touches, without an effect.
    fn rehearse(&mut self, period: Period);

    /// Bring-up has decided. The first period comes next.
    fn decided(&mut self, now: MonoNs, armed: bool);

    /// One period.
    fn run(&mut self, period: Period);

    /// The period just run did not end before the next one was planned.
    fn overran(&mut self, _period: Period) {}

    /// The period just run, and all of its account, are over.
    fn ended(&mut self) {}

    /// Whether the period just run was the last one.
    fn is_finished(&self) -> bool;
}

/// The terms under which a thread runs.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What the thread shall be.
    pub plan: ThreadPlan,
    /// When it runs.
    pub timing: Timing,
    /// What a period may cost.
    pub budget_ns: u64,
    /// Whether to find out the system calls of a period; see `system_call_trace`.
    pub trace_system_calls: bool,
    /// The words shared with other threads.
    pub shared: Arc<Shared>,
}

/// Runs `work` in the calling thread until it is finished, and gives it back. The thread's bring-up
/// is sent through `report` once.
pub fn run<P: Periodic>(mut work: P, terms: &Terms, report: &SyncSender<Vec<BringupCheck>>) -> P {
    enter(&terms.plan);
    let (trace, line) = trace(terms);
    let mut table = warm_up(&mut work, terms);
    table.extend(line);
    // The receiver waits for exactly one report from each thread, or is gone with the daemon.
    let _ = report.send(table);
    wait_for_decision(&mut work, terms);
    let armed = terms.shared.decision() == Decision::Armed;
    work.decided(MonoNs::now(), armed);
    let mut watch = Watch::begin();
    let mut schedule = Schedule::starting_after(MonoNs::now(), terms.timing);
    let first = schedule.first().0;
    let account = work.account();
    account.first_planned_ns.store(first, Ordering::Relaxed);
    guard::count_this_thread();
    loop {
        run_period(&mut work, terms, &mut schedule, trace);
        watch.count(&work.account().thread);
        work.ended();
        if work.is_finished() {
            return work;
        }
    }
}

/// Turns the trace on, if it is wanted, with a line that says whether that worked.
fn trace(terms: &Terms) -> (Trace, Option<BringupCheck>) {
    if !terms.trace_system_calls {
        return (Trace::OFF, None);
    }
    let result = system_call_trace::enable();
    let ok = result.is_ok();
    let wanted = "system calls of a tick are traced";
    let found = result.as_ref().err().cloned();
    let line = check(
        &terms.plan.name,
        "system_call_trace",
        wanted,
        found.unwrap_or_else(|| wanted.into()),
        ok,
        Need::Helpful,
        "trace on an x86-64 machine, or write purity = \"count\" in robot.toml",
    );
    (result.unwrap_or(Trace::OFF), Some(line))
}

fn warm_up<P: Periodic>(work: &mut P, terms: &Terms) -> Vec<BringupCheck> {
    let account = work.account();
    let thread = u64::try_from(nix::unistd::gettid().as_raw()).unwrap_or(0);
    account.thread.tid.store(thread, Ordering::Relaxed);
    let timing = &terms.timing;
    account.period_ns.store(timing.period_ns, Ordering::Relaxed);
    account.budget_ns.store(terms.budget_ns, Ordering::Relaxed);
    let mut schedule = Schedule::starting_after(MonoNs::now(), *timing);
    let mut halfway = Purity::default();
    for number in 0..WARM_UP_PERIODS {
        if number == WARM_UP_PERIODS / 2 {
            halfway = Purity::of_this_thread();
        }
        rehearse(work, &mut schedule);
    }
    let faults = Purity::of_this_thread().faults_since(&halfway);
    read_back(&terms.plan, faults)
}

fn wait_for_decision<P: Periodic>(work: &mut P, terms: &Terms) {
    let mut schedule = Schedule::starting_after(MonoNs::now(), terms.timing);
    // Bounded by the main thread, which decides as soon as every thread has reported.
    while terms.shared.decision() == Decision::Pending && !terms.shared.is_stopping() {
        rehearse(work, &mut schedule);
    }
}

fn rehearse<P: Periodic>(work: &mut P, schedule: &mut Schedule) {
    let planned = schedule.planned();
    work.wait(planned);
    let woke = MonoNs::now();
    schedule.begin(woke);
    work.rehearse(Period {
        number: 0,
        planned,
        woke,
        catches_up: schedule.is_catching_up(),
    });
    schedule.finish(MonoNs::now());
    work.ended();
}

fn run_period<P: Periodic>(work: &mut P, terms: &Terms, schedule: &mut Schedule, trace: Trace) {
    let planned = schedule.planned();
    work.wait(planned);
    let woke = MonoNs::now();
    schedule.begin(woke);
    let lateness_ns = woke.since_ns(planned);
    let period = Period {
        number: schedule.ticks(),
        planned,
        woke,
        catches_up: schedule.is_catching_up(),
    };
    begin(work.account(), period, schedule, lateness_ns);
    trace.begin();
    work.run(period);
    trace.end(period.number, &work.account().thread);
    let ended = MonoNs::now();
    let execution_ns = ended.since_ns(woke);
    let finished = schedule.finish(ended);
    let account = work.account();
    account.execution.record(execution_ns);
    if execution_ns > terms.budget_ns {
        add(&account.over_budget, 1);
    }
    if finished.is_overrun {
        add(
            cause_of(account, execution_ns, terms.budget_ns, lateness_ns),
            1,
        );
        work.overran(period);
    }
}

/// The counter of what overran a period. Work within its budget cannot be; beyond it, the larger
/// part is: a tick can begin late and run long.
const fn cause_of(
    account: &PeriodStats,
    execution_ns: u64,
    budget_ns: u64,
    lateness_ns: u64,
) -> &AtomicU64 {
    if execution_ns.saturating_sub(budget_ns) > lateness_ns {
        &account.overruns_long_execution
    } else {
        &account.overruns_late_wake
    }
}

fn begin(account: &PeriodStats, period: Period, schedule: &Schedule, lateness_ns: u64) {
    let planned = period.planned.0;
    account.newest_planned_ns.store(planned, Ordering::Relaxed);
    // All four as of this moment, so that a reader who sees the new count of ticks can add up.
    let (skipped, shifted_ns) = (schedule.skipped(), schedule.shifted_ns());
    account.skipped.store(skipped, Ordering::Relaxed);
    account.shifted_ns.store(shifted_ns, Ordering::Relaxed);
    account.ticks.store(schedule.ticks(), Ordering::Relaxed);
    account.lateness.record(lateness_ns);
    if period.catches_up {
        add(&account.caught_up, 1);
    }
    if !schedule.identity_holds() {
        add(&account.identity_broken, 1);
    }
}

#[cfg(test)]
mod tests;
