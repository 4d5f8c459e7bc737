//! The real-time plane's timing in instruction time: the guest's clock counts instructions on one
//! CPU, so the host's load cannot make a period late, and nothing but the guest's own code can.
//!
//! What is asserted is what does not depend on when the host's disk answers: no period is skipped,
//! no page faults, no heap operation, and kairo-rt's latest wake-up is within a margin of
//! cyclictest's of the same boot, and within a bound that the kernel keeps. The full comparison,
//! with the tight marks, is `cargo xtask latency`.

use anyhow::{Context as _, ensure};
use board::kernel::{self, Arch};
use board::latency::account::Account;
use board::latency::guest::{Guest, build_image};
use board::latency::{Mode, Options};
use kairo_tests::{out, paths};

/// How much later than cyclictest's latest wake-up kairo-rt's may be, instruction-µs. Measured:
/// less than one, see docs/reference/latency.md; a tick of the kernel on the way costs three to
/// five, an interrupt handler that was not threaded tens.
const MARGIN_US: f64 = 10.0;

/// How late a wake-up may be at all, instruction-µs. Measured: at most 12. The report of an
/// out-of-memory kill took 148 before the kernel was patched (decision 096).
const LATEST_US: f64 = 40.0;

/// Short windows: a second under a busy load is some ten seconds of the host.
fn options() -> Options {
    Options {
        mode: Mode::Instruction,
        loads: Vec::new(),
        seconds: 1,
        rounds: 1,
        period_us: 1000,
        kills: 3,
        arm: true,
        plots: None,
    }
}

fn measured(guest: &mut Guest, load: &str, robot: &str) -> anyhow::Result<Account> {
    let found = guest.measure(&options(), load, robot)?;
    let account = Account::read(&found).with_context(|| format!("not understood: {found}"))?;
    eprintln!("{robot} under {load}: {}", account.summary());
    ensure!(
        account.ticks > 200,
        "{robot}, {load}: it hardly ran: {found}"
    );
    let counts = [
        ("skipped periods", account.skipped),
        ("page faults", account.faults),
        ("heap operations", account.allocations),
        ("broken accounts", account.identity_broken),
    ];
    for (what, count) in counts {
        ensure!(count == 0, "{robot}, {load}: {count} {what}: {found}");
    }
    let latest = account.ours.max_us();
    ensure!(
        latest <= LATEST_US,
        "{robot}, {load}: latest wake-up after {latest} instruction-µs"
    );
    if let Some(theirs) = &account.theirs {
        let (ours, theirs) = (account.ours.max_us(), theirs.max_us());
        ensure!(
            ours <= theirs + MARGIN_US,
            "{robot}, {load}: latest wake-up after {ours} instruction-µs, cyclictest's {theirs}"
        );
    }
    Ok(account)
}

#[test]
fn neither_a_busy_agent_nor_kairods_death_makes_a_loop_late() -> anyhow::Result<()> {
    let kernel = kernel::build(&paths(), Arch::X86_64)?.image;
    let image = build_image(&paths(), &kernel)?;
    let mut guest = Guest::boot(&image, &out("latency"), Mode::Instruction)?;
    measured(&mut guest, "idle", "bare")?;
    let busy = measured(&mut guest, "cpu", "bare")?;
    let worked_us = busy.raw["rounds"][0]["work"]["cpu_us"].as_u64();
    ensure!(
        worked_us.is_some_and(|us| us > 500_000),
        "the load was none: {worked_us:?} µs of CPU"
    );
    let dying = measured(&mut guest, "oom", "bare")?;
    let killed = dying.raw["rounds"][0]["work"]["oom_kills"].as_u64();
    ensure!(
        killed.is_some_and(|kills| kills > 0),
        "{killed:?} OOM kills"
    );
    for trouble in ["fork", "kairod-stop", "clock-step", "disk-full"] {
        let arm = measured(&mut guest, trouble, "arm")?;
        let proof = &arm.raw["rounds"][0]["ours"]["trouble"];
        ensure!(proof.is_string() || trouble == "fork", "{trouble}: {proof}");
    }
    let killed = measured(&mut guest, "kairod-kill", "arm")?;
    let kills = &killed.raw["rounds"][0]["ours"]["kills"]["skipped_around_each"];
    ensure!(
        kills.as_array().is_some_and(|each| each.len() == 3),
        "{kills}"
    );
    Ok(())
}
