//! The demo's steps: each is a claim of the product, tried from outside.
//!
//! A step returns what it saw, for the table; an error says what was not as claimed. Whatever can
//! be judged from the far side of the cable is judged there, by the simulator's own state.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kairo_wire::ErrorInfo;
use serde_json::{Value, json};

use super::ipc::{Ipc, refusal};
use super::stage::{DEVICE, Stage, TTL};
use crate::monotonic::now_ns;
use crate::simulator::GoalWrite;

/// Three poses inside the SO-101's limits, in joint order, rad.
pub const POSES: [[f64; 6]; 3] = [
    [0.5, -0.4, 0.5, 0.3, -0.6, 0.3],
    [-0.6, 0.3, -0.3, -0.4, 0.5, 0.8],
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.2],
];
/// How long the corruption lasts.
const CORRUPTION: Duration = Duration::from_secs(5);
/// The fraction of replies that are corrupted.
const CORRUPTED: f64 = 0.05;
/// How long kairod may be away.
const KAIROD_BACK: Duration = Duration::from_secs(3);
/// Watched after kairod's death, and without it, for skipped periods.
const KAIROD_WATCH: Duration = Duration::from_millis(1500);
/// A shared host can stop the whole machine for longer than a period. If kairod's death were the
/// reason for a skipped period, it would be so every time; a few tries tell the two apart. More
/// would be a crash loop to kairo-init.
const KAIROD_TRIES: usize = 4;
/// Unrelated programs started in a window without a kill: the work that a restart makes for the
/// machine (two processes end, one starts, files are read, lines are logged).
const PROGRAMS_BESIDE: usize = 2;
/// How long a cable event may take: ten polls of the port at 10 Hz, and USB enumeration.
const CABLE: Duration = Duration::from_secs(15);

/// Three poses are reached, by the simulator's own truth.
pub fn moves(stage: &mut Stage) -> anyhow::Result<String> {
    let mut ipc = stage.connect()?;
    let epoch = stage.claim(&mut ipc)?;
    let mut worst = 0.0_f64;
    for pose in POSES {
        worst = worst.max(stage.move_to(&mut ipc, epoch, &pose)?);
    }
    Ok(format!(
        "3 poses reached, largest remaining error {worst:.4} rad by the simulator's truth"
    ))
}

/// A pose outside a joint's limits is refused by name, and nothing moves.
pub fn refused_out_of_limit(stage: &mut Stage) -> anyhow::Result<String> {
    let mut ipc = stage.connect()?;
    let epoch = stage.claim(&mut ipc)?;
    let before = stage.truth()?;
    let mut pose = POSES[2];
    pose[0] = stage.joints[0].position_max_rad + 0.5;
    let error = refusal(ipc.call("device.send", &stage.command(epoch, &pose)))?;
    ensure!(error.code.name() == "E_LIMIT", "wrong code: {error}");
    ensure!(
        error.reason_name() == "position_limit",
        "wrong reason: {error}"
    );
    let named = error.detail("joint").and_then(|joint| joint.as_str());
    ensure!(
        named == Some(&stage.joints[0].name),
        "joint not named: {error}"
    );
    std::thread::sleep(Duration::from_millis(300));
    let moved = stage
        .truth()?
        .iter()
        .zip(&before)
        .map(|(now, then)| (now.goal_rad - then.goal_rad).abs())
        .fold(0.0, f64::max);
    ensure!(
        moved < 0.005,
        "a goal moved by {moved} rad although the command was refused"
    );
    Ok(error.message)
}

/// Without a claim, and with somebody else's, nothing can be commanded.
pub fn refused_without_claim(stage: &mut Stage) -> anyhow::Result<String> {
    let mut stranger = stage.connect()?;
    let without = refusal(stranger.call("device.send", &stage.command(1, &POSES[0])))?;
    ensure!(
        without.code.name() == "E_PERMISSION_DENIED",
        "wrong code: {without}"
    );
    let mut holder = stage.connect()?;
    let epoch = stage.claim(&mut holder)?;
    let stolen = refusal(stranger.call("device.send", &stage.command(epoch, &POSES[0])))?;
    let second = refusal(stranger.call("device.claim", &json!({"device": DEVICE})))?;
    ensure!(second.code.name() == "E_BUSY", "a second claim: {second}");
    Ok(format!(
        "no claim: {}; another's epoch: {}; second claim: {}",
        without.code, stolen.code, second.code
    ))
}

/// With 5 % of the replies corrupted for 5 s, motion goes on and the counters say so.
pub fn corrupted_packets(stage: &mut Stage) -> anyhow::Result<String> {
    let mut ipc = stage.connect()?;
    let epoch = stage.claim(&mut ipc)?;
    let injected = |stage: &mut Stage| -> anyhow::Result<u64> {
        stage.world.simulator().counters()?["corrupted"]
            .as_u64()
            .context("no `corrupted` counter")
    };
    let before = (
        injected(stage)?,
        packet_errors(&mut ipc)?,
        loop_account(&mut ipc)?,
    );
    stage.world.simulator().corrupt(CORRUPTED, CORRUPTION)?;
    let end = Instant::now() + CORRUPTION;
    let mut reached = 0;
    while Instant::now() < end {
        let pose = POSES[reached % 2].map(|position| position * 0.5);
        stage.move_to(&mut ipc, epoch, &pose)?;
        reached += 1;
    }
    let sent = injected(stage)? - before.0;
    let counted = packet_errors(&mut ipc)? - before.1;
    let ticks = loop_account(&mut ipc)?.ticks - before.2.ticks;
    ensure!(sent > 0, "the simulator corrupted nothing");
    // A flipped bit in an id or a length can spoil the following reply too, never more than that.
    ensure!(
        counted >= sent / 2,
        "{sent} replies corrupted, only {counted} counted as errors"
    );
    Ok(format!(
        "{reached} poses reached, {ticks} ticks; {sent} replies corrupted, {counted} errors counted"
    ))
}

/// An agent killed in mid-motion: the declared safe action within TTL + 2 periods, seen from the
/// far side of the cable.
pub fn agent_killed_holds(stage: &mut Stage, cli: &std::path::Path) -> anyhow::Result<String> {
    let mut ipc = stage.connect()?;
    let epoch = stage.claim(&mut ipc)?;
    let start = [-0.8, 0.0, 0.0, 0.0, 0.0, 0.2];
    stage.move_to(&mut ipc, epoch, &start)?;
    let period = Duration::from_micros(loop_account(&mut ipc)?.period_us);
    drop(ipc);
    let target = stage.joints[0].position_max_rad - 0.1;
    let agent = spawn_agent(stage, cli, target)?;
    let killed = kill_in_motion(stage, agent, start[0])?;
    // Until the safe action is over by any account, and half a second in which nothing may move.
    let joint = &stage.joints[0];
    let ramp = Duration::from_secs_f64(joint.velocity_max_rad_s / joint.acceleration_max_rad_s2);
    let bound = TTL + 2 * period;
    std::thread::sleep(bound + ramp + Duration::from_millis(500));
    let goals = stage
        .world
        .simulator()
        .goals(killed.saturating_sub(1_000_000_000))?;
    let onset = slow_down_after(&goals, killed).context("the goals never slowed down")?;
    ensure!(
        onset <= bound,
        "safe action after {onset:?}, bound {bound:?}"
    );
    let last = last_change(&goals).map_or(Duration::ZERO, |t| {
        Duration::from_nanos(t.saturating_sub(killed))
    });
    ensure!(
        last <= bound + ramp,
        "goals still moved {last:?} after the kill"
    );
    let truth = stage.truth()?;
    let speed = truth
        .iter()
        .map(|joint| joint.velocity_rad_s.abs())
        .fold(0.0, f64::max);
    ensure!(speed < 0.05, "a joint still moves at {speed:.3} rad/s");
    let short = target - truth[0].position_rad;
    ensure!(short > 0.05, "the arm went on to the dead agent's target");
    let (phase, cause) = stage.phase()?;
    ensure!(
        phase == "safe" || phase == "holding",
        "phase `{phase}` ({cause})"
    );
    Ok(format!(
        "killed {short:.2} rad before its target; safe action {} ms after the kill \
         (bound {} ms), standing still {} ms after; {phase}, {cause}",
        onset.as_millis(),
        bound.as_millis(),
        last.as_millis()
    ))
}

/// kairod killed: the real-time plane ticks on, kairod returns, old claims are refused.
pub fn kairod_killed(stage: &mut Stage) -> anyhow::Result<String> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let mut said = String::new();
    for _ in 0..KAIROD_TRIES {
        let mut ipc = stage.connect()?;
        let before = loop_account(&mut ipc)?;
        let began = Instant::now();
        for _ in 0..PROGRAMS_BESIDE {
            stage.world.run_unrelated_program()?;
        }
        std::thread::sleep(KAIROD_WATCH.saturating_sub(began.elapsed()));
        without.push(loop_account(&mut ipc)?.skipped - before.skipped);
        let (skipped, seen) = kill_kairod_once(stage, ipc)?;
        with.push(skipped);
        said = seen;
        if skipped == 0 {
            break;
        }
    }
    let host = skips_are_the_hosts(&with, &without).with_context(|| {
        format!(
            "periods skipped: {with:?} with a kill, {without:?} in equal windows in which other \
             programs started; {said}"
        )
    })?;
    Ok(format!("{host}; {said}"))
}

/// Whether the skipped periods of windows with a kill are no more than the host's own doing, in
/// words; `None` if they are not.
fn skips_are_the_hosts(with: &[u64], without: &[u64]) -> Option<String> {
    if with.last() == Some(&0) {
        let tries = with.len();
        let before = if tries == 1 {
            String::new()
        } else {
            format!(" in try {tries}")
        };
        return Some(format!("0 periods skipped{before}"));
    }
    // A host that stops the machine in every window hides what a kill does; it says so.
    without.iter().all(|skipped| *skipped > 0).then(|| {
        format!(
            "the host stood still in every window: {with:?} periods skipped with a kill, \
             {without:?} without"
        )
    })
}

/// Kills kairod while `ipc` holds the arm; returns the periods skipped in the window that begins
/// there, and what else was seen.
fn kill_kairod_once(stage: &mut Stage, mut ipc: Ipc) -> anyhow::Result<(u64, String)> {
    let old_epoch = stage.claim(&mut ipc)?;
    let before = loop_account(&mut ipc)?;
    stage.world.kill_kairod()?;
    let killed = Instant::now();
    let mut ipc = reconnect(stage, killed)?;
    let back = killed.elapsed();
    ensure!(back <= KAIROD_BACK, "kairod was away for {back:?}");
    stage.wait_for_phase(&["safe", "holding"], KAIROD_BACK)?;
    let unclaimed = refusal(ipc.call("device.send", &stage.command(old_epoch, &POSES[2])))?;
    let new_epoch = stage.claim(&mut ipc)?;
    ensure!(
        new_epoch > old_epoch,
        "epoch {new_epoch} does not follow {old_epoch}"
    );
    let stale = refusal(ipc.call("device.send", &stage.command(old_epoch, &POSES[2])))?;
    ensure!(
        stale.reason_name() == "stale_epoch",
        "the old epoch: {stale}"
    );
    std::thread::sleep(KAIROD_WATCH.saturating_sub(killed.elapsed()));
    let after = loop_account(&mut ipc)?;
    ensure!(
        after.ticks > before.ticks,
        "the control loop stopped ticking"
    );
    ensure!(
        after.identity_holds,
        "elapsed / period is not run + skipped"
    );
    let seen = format!(
        "{} ticks meanwhile (overruns: {} late wake-ups, {} long ticks); kairod back after {} ms; \
         the old claim is refused: {}, then {}",
        after.ticks - before.ticks,
        after.late_wakes - before.late_wakes,
        after.long_ticks - before.long_ticks,
        back.as_millis(),
        reason(&unclaimed),
        reason(&stale)
    );
    Ok((after.skipped - before.skipped, seen))
}

/// The cable pulled and plugged: events, a typed degraded state, and work after a new claim.
pub fn cable_pulled(stage: &mut Stage) -> anyhow::Result<String> {
    let mut events = stage.connect()?;
    events.call("event.subscribe", &json!({"topics": ["kairo.device.*"]}))?;
    let mut ipc = stage.connect()?;
    let epoch = stage.claim(&mut ipc)?;
    stage.world.pull_cable()?;
    let pulled = Instant::now();
    events.wait_for_event("kairo.system.device.removed", CABLE)?;
    let removed = pulled.elapsed();
    let refused = refusal(ipc.call("device.send", &stage.command(epoch, &POSES[2])))?;
    let (phase, cause) = stage.phase()?;
    ensure!(
        phase == "lost",
        "phase `{phase}` ({cause}) while the cable is out"
    );
    stage.world.plug_cable()?;
    let plugged = Instant::now();
    events.wait_for_event("kairo.system.device.added", CABLE)?;
    let added = plugged.elapsed();
    let stale = refusal(ipc.call("device.send", &stage.command(epoch, &POSES[2])))?;
    let mut ipc = stage.connect()?;
    let epoch = stage.claim(&mut ipc)?;
    let error = stage.move_to(&mut ipc, epoch, &POSES[2])?;
    Ok(format!(
        "removed after {} ms ({phase}, commands {}), added {} ms after plugging (old claim {}); \
         new claim moves, error {error:.4} rad",
        removed.as_millis(),
        reason(&refused),
        added.as_millis(),
        reason(&stale)
    ))
}

fn reason(error: &ErrorInfo) -> String {
    format!("{} {}", error.code, error.reason_name())
        .trim_end()
        .to_owned()
}

/// What the control loop says of itself.
#[derive(Clone, Copy, Debug)]
pub struct LoopAccount {
    /// Its period.
    pub period_us: u64,
    /// Ticks run.
    pub ticks: u64,
    /// Periods skipped.
    pub skipped: u64,
    /// Overruns because the wake-up came late.
    pub late_wakes: u64,
    /// Overruns because a tick ran long.
    pub long_ticks: u64,
    /// Whether elapsed / period = run + skipped held at every tick.
    pub identity_holds: bool,
}

/// The first loop's account.
///
/// # Errors
/// When `rt.status` does not have it.
pub fn loop_account(ipc: &mut Ipc) -> anyhow::Result<LoopAccount> {
    let status = ipc.call("rt.status", &json!({}))?;
    let first = &status["loops"][0];
    let number = |key: &str| {
        first[key]
            .as_u64()
            .with_context(|| format!("rt.status: no `{key}`"))
    };
    Ok(LoopAccount {
        period_us: number("period_us")?,
        ticks: number("ticks")?,
        skipped: number("skipped")?,
        late_wakes: number("overruns_late_wake")?,
        long_ticks: number("overruns_long_execution")?,
        identity_holds: first["identity_holds"] == Value::Bool(true),
    })
}

/// All packet errors of all servos.
fn packet_errors(ipc: &mut Ipc) -> anyhow::Result<u64> {
    let status = ipc.call("rt.status", &json!({}))?;
    let servos = status["buses"][0]["servos"]
        .as_array()
        .context("rt.status: no servos")?;
    let of = |servo: &Value, key: &str| servo[key].as_u64().unwrap_or(0);
    Ok(servos
        .iter()
        .map(|servo| of(servo, "bad_packets") + of(servo, "timeouts"))
        .sum())
}

/// Tries until the returned kairod answers and has found the real-time plane.
fn reconnect(stage: &Stage, since: Instant) -> anyhow::Result<Ipc> {
    loop {
        let answered = stage.connect().and_then(|mut ipc| {
            let status = ipc.call("rt.status", &json!({}))?;
            ensure!(status["connected"] == Value::Bool(true), "not linked yet");
            Ok(ipc)
        });
        match answered {
            Ok(ipc) => return Ok(ipc),
            Err(error) if since.elapsed() > 3 * KAIROD_BACK => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The agent: the `kairo` command, sending one joint to `target` and refreshing its command.
fn spawn_agent(
    stage: &Stage,
    cli: &std::path::Path,
    target: f64,
) -> anyhow::Result<std::process::Child> {
    let mut command = Command::new(cli);
    command.args(["device", "send", DEVICE, "--position"]);
    command.arg(format!("{}={target}", stage.joints[0].name));
    command.args(["--ttl", &format!("{}ms", TTL.as_millis()), "--hold", "30s"]);
    command.env("KAIRO_IPC_SOCKET", stage.world.ipc_socket());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .with_context(|| format!("cannot start the agent {}", cli.display()))
}

/// Waits until the agent's motion is well under way, kills it, and returns the instant
/// (CLOCK_MONOTONIC ns).
fn kill_in_motion(
    stage: &mut Stage,
    mut agent: std::process::Child,
    from: f64,
) -> anyhow::Result<u64> {
    // Past its acceleration, the joint follows a setpoint at the velocity limit.
    let cruise_rad_s = 0.8 * stage.joints[0].velocity_max_rad_s;
    let end = Instant::now() + Duration::from_secs(10);
    let moving = loop {
        let joint = stage.truth()?[0].clone();
        if joint.position_rad - from > 0.4 && joint.velocity_rad_s > cruise_rad_s {
            break true;
        }
        if Instant::now() > end || !matches!(agent.try_wait(), Ok(None)) {
            break false;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let killed = now_ns()?;
    agent.kill().context("cannot kill the agent")?;
    agent.wait()?;
    ensure!(moving, "the agent did not get the arm moving");
    Ok(killed)
}

/// Time from `killed_ns` to the first goal write from which on joint 0's goal is always slower
/// than 95 % of its cruise before the kill: the start of the safe action.
fn slow_down_after(goals: &[GoalWrite], killed_ns: u64) -> Option<Duration> {
    let speed = |pair: &[GoalWrite]| {
        let seconds = pair[1].t_ns.saturating_sub(pair[0].t_ns).max(1) as f64 / 1e9;
        (pair[1].goal_rad[0] - pair[0].goal_rad[0]).abs() / seconds
    };
    let (before, after): (Vec<_>, Vec<_>) =
        goals.windows(2).partition(|pair| pair[1].t_ns <= killed_ns);
    // The wire's cycles jitter, so the cruise is the mean over the last tenth of a second.
    let recent: Vec<_> = before
        .iter()
        .filter(|pair| pair[1].t_ns + 100_000_000 > killed_ns)
        .collect();
    let (first, last) = (recent.first()?, recent.last()?);
    let cruise = speed(&[first[0].clone(), last[1].clone()]);
    let fast = after.iter().rposition(|pair| speed(pair) > 0.95 * cruise);
    let onset = match fast {
        Some(index) => after[index][1].t_ns,
        None => after.first()?[0].t_ns,
    };
    Some(Duration::from_nanos(onset.saturating_sub(killed_ns)))
}

/// When a goal last changed.
fn last_change(goals: &[GoalWrite]) -> Option<u64> {
    goals
        .windows(2)
        .rev()
        .find(|pair| pair[0].goal_rad != pair[1].goal_rad)
        .map(|pair| pair[1].t_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goals every 4 ms: cruise at 1 rad/s, then a ramp of 100 ms to a stop from `brake_ms` on.
    fn run_with_brake_at(brake_ms: u64) -> Vec<GoalWrite> {
        let mut position = 0.0;
        (0..500)
            .map(|index: u64| {
                let t_ms = index * 4;
                let braking = t_ms.saturating_sub(brake_ms) as f64 / 100.0;
                position += (1.0 - braking).max(0.0) * 0.004;
                GoalWrite {
                    t_ns: t_ms * 1_000_000,
                    goal_rad: vec![position],
                }
            })
            .collect()
    }

    #[test]
    fn the_slow_down_is_found_where_it_begins() {
        let goals = run_with_brake_at(800);
        let onset = slow_down_after(&goals, 500_000_000)
            .expect("found")
            .as_millis();
        assert!((300..=312).contains(&onset), "{onset}");
        assert!(last_change(&goals).expect("moved") <= 904_000_000);
    }

    #[test]
    fn skips_that_only_a_kill_brings_are_not_blamed_on_the_host() {
        assert_eq!(
            skips_are_the_hosts(&[0], &[3]).as_deref(),
            Some("0 periods skipped")
        );
        assert!(
            skips_are_the_hosts(&[2, 0], &[0, 0])
                .expect("ok")
                .contains("try 2")
        );
        assert!(
            skips_are_the_hosts(&[2, 2, 1], &[1, 4, 2])
                .expect("noise")
                .contains("host")
        );
        assert_eq!(skips_are_the_hosts(&[2, 2, 1], &[1, 0, 2]), None);
    }

    #[test]
    fn motion_that_never_stops_is_not_taken_for_a_safe_action() {
        let goals = run_with_brake_at(u64::MAX / 2);
        let onset = slow_down_after(&goals, 500_000_000).expect("the end of the record");
        assert!(onset > Duration::from_millis(1400), "{onset:?}");
    }
}
