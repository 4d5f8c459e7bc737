//! Loops of the whole daemon: overrun policies, phases, purity, and who runs beside them.
//!
//! As in `daemon.rs`, what is asserted is behaviour and the daemon's own account; how late this
//! machine wakes anybody up is not.

#[allow(dead_code, reason = "each test program uses its part of the harness")]
mod harness;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::{Pose, Robot, assert_pure, eventually, has_arrived, hosted_config};
use kairo_link::abi::{Cause, Phase};
use kairo_link::control::BringupCheck;
use kairo_link::stats::{MAX_LOOPS, PeriodStats};
use nix::sys::signal::Signal;

const POSE: Pose = [0.6, -0.4, 0.5, -0.3, 0.7, 0.4];
/// How near the simulated arm comes to a setpoint under its own weight, rad.
const NEAR_RAD: f64 = 0.02;

#[test]
fn a_missed_period_under_the_policy_stop_ends_the_lease_and_makes_the_arm_safe() {
    let config = hosted_config().replace("overrun = \"skip\"", "overrun = \"stop\"");
    let robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect();
    robot.clear_estop();
    // Not `connect_ready`: where the machine stalls just now, the arm is safe before it was seen
    // to hold.
    eventually("the arm is there", || {
        let phase = plane.state().phase;
        (phase == Phase::Holding as u32 || phase == Phase::Safe as u32).then_some(())
    });
    let lease = plane.open_lease();
    // Every period it sleeps through is missed.
    robot.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(50));
    robot.signal(Signal::SIGCONT);
    // A busy machine may have missed one before: the cause is the same.
    assert_eq!(
        plane.wait_for_lease_end(lease.epoch),
        Cause::LoopOverrun.name()
    );
    let stats = plane.stats.clone();
    assert!(stats.block().loops[0].stops.load(Ordering::Relaxed) > 0);
    let periods = &stats.block().loops[0].periods;
    assert!(periods.skipped.load(Ordering::Relaxed) > 0);
    let state = plane.wait_for_phase(Phase::Safe);
    assert_eq!(state.cause, Cause::LoopOverrun as u32);
    plane.open_lease();
    assert_pure(&plane);
}

#[test]
fn every_overrun_policy_keeps_the_account_of_periods_through_a_stopped_process() {
    for policy in ["\"burst\"\nburst_max = 5", "\"realign\"", "\"skip\""] {
        let config = hosted_config().replace("\"skip\"", policy);
        let robot = Robot::start_with(&config, &[]);
        let mut plane = robot.connect_ready();
        for _ in 0..3 {
            robot.signal(Signal::SIGSTOP);
            std::thread::sleep(Duration::from_millis(30));
            robot.signal(Signal::SIGCONT);
            let from = plane.state().tick;
            eventually("it ticks on", || {
                (plane.state().tick > from + 10).then_some(())
            });
        }
        assert_pure(&plane);
    }
}

#[test]
fn a_traced_loop_follows_commands_without_a_system_call() {
    let config = hosted_config().replace("[robot]", "[robot]\npurity = \"trace\"");
    let robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let traced = |check: &&BringupCheck| check.check == "system_call_trace";
    let line = plane.welcome.bringup.iter().find(traced).cloned();
    let line = line.expect("the trace has a line in the table");
    if !line.ok {
        eprintln!("not traced: {}", line.found);
        return;
    }
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    plane.close_lease(&lease, false);
    let thread = &plane.stats.block().loops[0].periods.thread;
    assert_eq!(
        thread.traced_calls.load(Ordering::Relaxed),
        0,
        "{}",
        robot.log()
    );
    assert!(!robot.log().contains("made system call"), "{}", robot.log());
    assert_pure(&plane);
}

#[test]
fn a_traced_plugin_that_calls_the_kernel_is_named_and_a_quiet_one_is_not() {
    const QUIET: u32 = 0;
    const CALLS: u32 = 10;
    for mood in [QUIET, CALLS] {
        let directory = tempfile::tempdir().expect("a directory");
        let config = hosted_config().replace("[robot]", "[robot]\npurity = \"trace\"");
        let blocks = harness::blocks::moody(directory.path(), mood);
        let robot = Robot::start_with(&format!("{config}{blocks}"), &[]);
        let mut plane = robot.connect_ready();
        let traced = |check: &&BringupCheck| check.check == "system_call_trace";
        let line = plane.welcome.bringup.iter().find(traced).cloned();
        let line = line.expect("the trace has a line in the table");
        if !line.ok {
            eprintln!("not traced: {}", line.found);
            return;
        }
        let mut lease = plane.open_lease();
        let until = plane.state().tick + 50;
        plane.stream(&mut lease, POSE, |state| state.tick > until);
        let stats = plane.stats.clone();
        let calls = &stats.block().loops[0].periods.thread.traced_calls;
        if mood == QUIET {
            assert_eq!(calls.load(Ordering::Relaxed), 0, "{}", robot.log());
            continue;
        }
        eventually("the journal names call and block", || {
            let named = "loop arm-loop made system call write (1) at tick ";
            let line = robot.log();
            let line = line.lines().find(|line| line.contains(named))?.to_owned();
            line.contains(" in block \"moody\" from program offset")
                .then_some(())
        });
    }
}

#[test]
fn loops_keep_their_own_periods_phases_and_accounts() {
    let more = "\n[[loop]]\nname = \"fast-loop\"\nperiod_us = 2000\nphase_us = 700\npriority = 85\n\
                overrun = \"burst\"\nburst_max = 4\nbudget_us = 300\n";
    let robot = Robot::start_with(&format!("{}{more}", hosted_config()), &[]);
    let plane = robot.connect_ready();
    let loops = &plane.stats.block().loops;
    let count = |word: &std::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
    eventually("both loops tick", || {
        (count(&loops[0].periods.ticks) > 50 && count(&loops[1].periods.ticks) > 50).then_some(())
    });
    let fast = &loops[1].periods;
    assert_eq!(count(&fast.period_ns), 2_000_000);
    assert_eq!(count(&fast.budget_ns), 300_000);
    assert_eq!(count(&fast.first_planned_ns) % 2_000_000, 700_000);
    assert_eq!(count(&fast.newest_planned_ns) % 2_000_000, 700_000);
    assert_eq!(count(&fast.identity_broken), 0);
    assert_eq!(count(&fast.thread.allocations), 0);
    assert_ne!(count(&fast.thread.tid), count(&loops[0].periods.thread.tid));
    assert_pure(&plane);
}

/// Whether an account of periods adds up at one moment.
fn adds_up(account: &PeriodStats) -> bool {
    let count = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let ticks = count(&account.ticks);
    let elapsed = count(&account.newest_planned_ns) - count(&account.first_planned_ns);
    let shifted = count(&account.shifted_ns);
    let periods = elapsed.wrapping_sub(shifted) / count(&account.period_ns) + 1;
    let sum = ticks + count(&account.skipped);
    ticks == count(&account.ticks) && periods == sum
}

#[test]
fn thirty_two_loops_run_and_each_accounts_for_all_of_its_periods() {
    let policies = ["\"skip\"", "\"burst\"\nburst_max = 3", "\"realign\""];
    let more = (1..MAX_LOOPS).map(|index| {
        let (period_us, policy) = (10_000 + 1000 * index, policies[index % policies.len()]);
        format!(
            "\n[[loop]]\nname = \"loop-{index}\"\nperiod_us = {period_us}\npriority = 60\n\
             overrun = {policy}\nbudget_us = 200\n\
             [[block]]\nname = \"block-{index}\"\nkind = \"constant\"\nloop = \"loop-{index}\"\n\
             value = {index}\n"
        )
    });
    let config = format!("{}{}", hosted_config(), more.collect::<String>());
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    assert_eq!(plane.welcome.loops.len(), MAX_LOOPS);
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    let count = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let mut threads = Vec::new();
    for (index, control_loop) in plane.stats.block().loops.iter().enumerate() {
        let account = &control_loop.periods;
        eventually("every loop ticks, and its account adds up", || {
            (count(&account.ticks) > 20 && adds_up(account)).then_some(())
        });
        assert_eq!(count(&account.identity_broken), 0, "loop {index}");
        assert_eq!(count(&account.thread.allocations), 0, "loop {index}");
        threads.push(count(&account.thread.tid));
    }
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), MAX_LOOPS, "a thread each");
    assert!(robot.terminate().success());
}

#[test]
fn every_ordinary_thread_of_the_daemon_is_proven_to_be_ordinary() {
    let robot = Robot::start();
    let plane = robot.connect();
    let helpers = plane.welcome.bringup.iter();
    let helpers: Vec<&BringupCheck> = helpers.filter(|line| line.scope == "helpers").collect();
    let names: Vec<&str> = helpers.iter().map(|line| line.check.as_str()).collect();
    assert_eq!(names, ["policy", "affinity"]);
    for line in helpers {
        assert!(line.ok, "{line:?}");
        for thread in ["kairo-rt", "arm-bus-port", "link-server"] {
            assert!(
                line.found.contains(thread),
                "{thread} was not looked at: {line:?}"
            );
        }
    }
}
