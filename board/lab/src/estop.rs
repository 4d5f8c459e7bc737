//! The e-stop by real GPIO lines of the kernel, from the wire to the servos' bus.
//!
//! `check` goes through what the reference promises (docs/reference/estop.md), in the order in
//! which a person would, and fails with the first promise that does not hold. `measure` pulls the
//! input again and again and says how long each took. Ticks are counted from kairo-rt's own
//! statistics, so nothing here depends on when this ordinary process is run.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use kairo_link::MonoNs;
use kairo_link::operator::OperatorRequest;
use serde_json::{Value, json};

use crate::gpio_sim::Line;
use crate::plane::Plane;
use crate::robot_lines::{
    Bench, agent, clear, end_well, info, operate, send, set_moving, wait, wait_ticks,
};

/// Ticks after which what has not happened does not.
const A_WHILE: u64 = 25;
/// Where the shipped robot records.
const RECORDS: &str = "/var/lib/kairo/records";
/// Pulls of a storm, at most: it ends when kairo-rt has had enough.
const STORM_MAX: usize = 50_000;

/// What to measure.
#[derive(Debug, Args)]
pub struct Plan {
    /// How often to pull.
    #[arg(long, default_value_t = 200)]
    pulls: usize,
}

/// One pull, in the words of kairo-rt's statistics.
#[derive(Clone, Copy, Debug)]
struct Pull {
    /// Before the wire moved, CLOCK_MONOTONIC ns.
    pulled_ns: u64,
    /// Ticks begun before the wire moved, and when it had.
    begun: (u64, u64),
    seen_ns: u64,
    seen_after_tick: u64,
    decided_in_tick: u64,
    decided_ns: u64,
}

impl Pull {
    /// Ticks that began after the wire had moved, up to the one that stopped the robot.
    const fn ticks(&self) -> u64 {
        self.decided_in_tick.saturating_sub(self.begun.1)
    }

    fn report(&self) -> Value {
        json!({
            "ticks": self.ticks(),
            "ticks_from_seen": self.decided_in_tick - self.seen_after_tick,
            "to_seen_ns": self.seen_ns - self.pulled_ns,
            "to_decided_ns": self.decided_ns - self.pulled_ns,
        })
    }
}

/// Opens an input's circuit and waits for what follows.
fn pull(bench: &Bench, plane: &Plane, line: Line) -> anyhow::Result<Pull> {
    let before = stops(plane)?.0;
    let (begun, pulled_ns) = (plane.ticks(), MonoNs::now().0);
    bench.chip.open(line)?;
    let begun = (begun, plane.ticks());
    let mut found = None;
    wait("the pull is a stop", || {
        let (number, stop) = stops(plane)?;
        found = stop.filter(|_| number > before);
        Ok(found.is_some())
    })?;
    let stop = found.context("a stop has ticks")?;
    Ok(Pull {
        pulled_ns,
        begun,
        ..stop
    })
}

/// The number of the newest stop, and what became of it, if a tick has come since.
fn stops(plane: &Plane) -> anyhow::Result<(u64, Option<Pull>)> {
    let report = plane.lines();
    let Some(stop) = report.stop else {
        return Ok((0, None));
    };
    let taken = stop.loops.first().context("no loop")?;
    let pull = taken
        .decided_in_tick
        .zip(taken.decided_ns)
        .map(|decided| Pull {
            pulled_ns: 0,
            begun: (0, 0),
            seen_ns: stop.seen_ns,
            seen_after_tick: taken.seen_after_tick,
            decided_in_tick: decided.0,
            decided_ns: decided.1,
        });
    Ok((stop.number, pull))
}

/// Goes through all promises.
///
/// # Errors
/// The first one that does not hold.
pub fn check() -> anyhow::Result<Value> {
    let mut bench = Bench::make()?;
    // Held down from before the start.
    bench.chip.close(Line::Reset)?;
    let plane = bench.start()?;
    starts_latched_and_only_an_edge_clears(&bench, &plane)?;
    let moving = a_pull_stops_a_moving_arm(&bench, &plane)?;
    both_inputs_must_be_good(&bench, &plane)?;
    let storm = a_storm_is_bounded(&bench, &plane)?;
    end_well(plane)?;
    ensure!(
        !bench.chip.is_high(Line::Relay)?,
        "the relay's line is left high"
    );
    a_replay_stops_in_the_same_tick()?;
    let plane = bench.start()?;
    a_chip_that_goes_away_is_a_stop(&mut bench, &plane)?;
    plane.stop()?;
    a_killed_plane_does_not_pump(&bench)?;
    Ok(json!({"moving": moving.report(), "storm": storm}))
}

fn is_latched() -> anyhow::Result<bool> {
    Ok(operate(&OperatorRequest::Status)?.estop)
}

fn starts_latched_and_only_an_edge_clears(bench: &Bench, plane: &Plane) -> anyhow::Result<()> {
    let status = operate(&OperatorRequest::Status)?;
    let lines = status.lines.context("no lines in the status")?;
    let levels: Vec<&str> = lines.lines.iter().map(|line| line.level.as_str()).collect();
    ensure!(levels == ["rest", "rest", "acting", "driven"], "{levels:?}");
    ensure!(lines.lines.iter().all(|line| line.good), "{lines:?}");
    ensure!(lines.lines[0].edges && lines.lines[1].edges, "{lines:?}");
    wait_ticks(plane, A_WHILE)?;
    ensure!(
        is_latched()?,
        "a reset held from before the start cleared it"
    );
    ensure!(plane.lines().pump_toggles == 0, "it pumps while stopped");
    bench.chip.open(Line::Reset)?;
    // Longer than its debounce.
    wait_ticks(plane, A_WHILE)?;
    ensure!(is_latched()?, "letting the reset go cleared it");
    bench.chip.close(Line::Reset)?;
    wait("the edge of the reset clears", || Ok(!is_latched()?))?;
    bench.chip.open(Line::Reset)?;
    wait("it pumps", || Ok(plane.lines().pump_toggles > A_WHILE))
}

fn a_pull_stops_a_moving_arm(bench: &Bench, plane: &Plane) -> anyhow::Result<Pull> {
    let mut agent = agent()?;
    let epoch = set_moving(&mut agent, 0.8)?;
    let pull = pull(bench, plane, Line::Front)?;
    let toggles = plane.lines().pump_toggles;
    ensure!(pull.ticks() <= 1, "the next tick did not stop it: {pull:?}");
    ensure!(
        pull.decided_in_tick - pull.seen_after_tick <= 1 && pull.decided_in_tick >= pull.begun.0,
        "{pull:?}"
    );
    let mut state = Value::Null;
    wait("the lease has ended", || {
        state = info(&mut agent)?["state"].clone();
        Ok(state["lease_epoch"] == 0 && state["tick"].as_u64() >= Some(pull.decided_in_tick))
    })?;
    ensure!(state["cause"] == "emergency_stop", "{state}");
    ensure!(
        state["phase_since_tick"] == pull.decided_in_tick,
        "safe in another tick than {pull:?}: {state}"
    );
    let refused = send(&mut agent, epoch, 0.0)
        .err()
        .context("it was obeyed")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("emergency_stop"), "{refused}");
    wait_ticks(plane, A_WHILE)?;
    ensure!(plane.lines().pump_toggles == toggles, "it goes on pumping");
    ensure!(
        !bench.chip.is_high(Line::Relay)?,
        "the relay's line is high"
    );
    bench.chip.close(Line::Front)?;
    wait_ticks(plane, 4 * A_WHILE)?;
    ensure!(is_latched()?, "letting go resumed it");
    let after = info(&mut agent)?["state"].clone();
    ensure!(after["moving"] == false, "it moves again: {after}");
    ensure!(plane.lines().pump_toggles == toggles, "it pumps again");
    Ok(pull)
}

fn both_inputs_must_be_good(bench: &Bench, plane: &Plane) -> anyhow::Result<()> {
    bench.chip.open(Line::Back)?;
    wait_ticks(plane, A_WHILE)?;
    let refused = operate(&OperatorRequest::ClearEstop)?;
    ensure!(
        !refused.done && refused.text.contains("stop-back must be closed first"),
        "{refused:?}"
    );
    bench.chip.close(Line::Reset)?;
    wait_ticks(plane, A_WHILE)?;
    ensure!(is_latched()?, "a reset with an open input cleared it");
    bench.chip.close(Line::Back)?;
    wait_ticks(plane, A_WHILE)?;
    ensure!(is_latched()?, "a reset that is still held cleared it");
    bench.chip.open(Line::Reset)?;
    clear()?;
    set_moving(&mut agent()?, -0.4).map(drop)
}

/// A wire that makes edges as fast as it can stops the robot, and moves no tick.
fn a_storm_is_bounded(bench: &Bench, plane: &Plane) -> anyhow::Result<Value> {
    let mut pulls = 0;
    while plane.lines().lines[0].edges && pulls < STORM_MAX {
        bench.chip.open(Line::Front)?;
        bench.chip.close(Line::Front)?;
        pulls += 1;
    }
    let report = plane.lines();
    ensure!(!report.lines[0].edges, "the edges stay on: {report:?}");
    ensure!(is_latched()?, "{pulls} pulls stopped nothing");
    clear()?;
    // Without edges it is the look before the tick that counts.
    let by_level = pull(bench, plane, Line::Front)?;
    ensure!(by_level.ticks() <= 2, "not read any more: {by_level:?}");
    bench.chip.close(Line::Front)?;
    clear()?;
    let by_edge = pull(bench, plane, Line::Back)?;
    ensure!(by_edge.ticks() <= 1, "the other one was lost: {by_edge:?}");
    bench.chip.close(Line::Back)?;
    Ok(json!({"pulls": pulls, "storms": report.storms, "edge_looks": report.edge_looks}))
}

/// The record of all of this gives the same outputs again, bit for bit.
fn a_replay_stops_in_the_same_tick() -> anyhow::Result<()> {
    let entries = fs::read_dir(RECORDS).context(RECORDS)?.flatten();
    // Numbered upwards, so the last by name is the newest; what a crash left is named otherwise.
    let newest = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "krec"))
        .filter(|path| !path.to_string_lossy().contains("crash"))
        .max();
    let newest = newest.context("nothing was recorded")?;
    let output = Command::new("/usr/bin/kairo-rt")
        .arg("--replay")
        .arg(&newest)
        .arg("--json")
        .output()?;
    ensure!(
        output.status.success(),
        "{} replays otherwise: {}{}",
        newest.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn a_chip_that_goes_away_is_a_stop(bench: &mut Bench, plane: &Plane) -> anyhow::Result<()> {
    clear()?;
    let before = stops(plane)?.0;
    bench.chip.unplug()?;
    wait("a lost chip is a stop", || Ok(stops(plane)?.0 > before))?;
    wait("it is latched", is_latched)?;
    let refused = operate(&OperatorRequest::ClearEstop)?;
    ensure!(
        !refused.done && refused.text.contains("cannot be read"),
        "{refused:?}"
    );
    let toggles = plane.lines().pump_toggles;
    bench.chip.plug()?;
    wait_ticks(plane, A_WHILE)?;
    ensure!(is_latched()?, "a chip that came back cleared it");
    ensure!(plane.lines().pump_toggles == toggles, "it pumps");
    Ok(())
}

fn a_killed_plane_does_not_pump(bench: &Bench) -> anyhow::Result<()> {
    let plane = bench.start()?;
    ensure!(is_latched()?, "a start forgot the e-stop");
    clear()?;
    wait("it pumps", || Ok(plane.lines().pump_toggles > A_WHILE))?;
    plane.kill()?;
    let level = bench.chip.is_high(Line::Relay)?;
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(1));
        ensure!(bench.chip.is_high(Line::Relay)? == level, "it goes on");
    }
    Ok(())
}

/// Pulls again and again, at every phase of the period.
///
/// # Errors
/// When anything could not be run.
pub fn measure(plan: &Plan) -> anyhow::Result<Value> {
    let bench = Bench::make()?;
    let plane = bench.start()?;
    let mut pulls = Vec::new();
    let mut random = 1_u64;
    for number in 0..plan.pulls {
        clear()?;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        std::thread::sleep(Duration::from_micros(2_000 + (random >> 33) % 8_000));
        let line = [Line::Front, Line::Back][number % 2];
        let pull = pull(&bench, &plane, line)?;
        // The goals of that tick, on the wire.
        let mut written_ns = None;
        wait("the servos have the tick's goals", || {
            let frames = bench.frames(pull.decided_ns)?;
            written_ns = frames.into_iter().find(|t_ns| *t_ns > pull.decided_ns);
            Ok(written_ns.is_some())
        })?;
        let mut report = pull.report();
        report["to_servos_ns"] = json!(written_ns.map(|t_ns| t_ns - pull.pulled_ns));
        pulls.push(report);
        bench.chip.close(line)?;
    }
    let account = plane.account();
    end_well(plane)?;
    Ok(json!({"pulls": pulls, "account": account}))
}
