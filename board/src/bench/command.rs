//! `bench command`: from an agent's `device.send` to the servo bus, and from expiry to safety.
//!
//! Runs the hosted form, with the arm simulator on a pseudo-terminal, so that every clock read is
//! the same CLOCK_MONOTONIC: the agent's, the control loop's (in the answer) and the simulator's
//! (when a frame was on the wire). The control is a bare ping-pong of one small message over a
//! Unix socket to a thread that does nothing else, in turns with the commands.
//!
//! Commands come at irregular times, so that they meet every phase of the loop's period.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::mark::{Bound, Control, Mark};
use super::quantile::quantile;
use super::report::{Report, Run};
use crate::binaries::Binaries;
use crate::demo::hosted_world::HostedWorld;
use crate::demo::ipc::Ipc;
use crate::demo::stage::{DEVICE, Stage};
use crate::hosted::{Hosted, Options};
use crate::monotonic::now_ns;
use crate::needs::{self, Work};
use crate::paths::Paths;

/// Commands sent.
const COMMANDS: usize = 1000;
/// Commands left to expire.
const EXPIRIES: usize = 20;
/// What a command and its answer weigh on the socket, about.
const MESSAGE_BYTES: usize = 256;
/// Commands between two questions to the simulator, which keeps a bounded number of frames.
const BATCH: usize = 50;
/// The allowance over floor and tick, µs.
const ALLOWANCE_US: f64 = 30.0;
/// Bytes of a sync-write of two bytes to `n` servos, less `3 * n`: header, id, length, instruction,
/// address, size, checksum.
const FRAME_BYTES: usize = 8;
/// A byte on the wire at 1 Mbaud, ns.
const BYTE_NS: u64 = 10_000;

/// One command's way, CLOCK_MONOTONIC ns.
#[derive(Clone, Copy, Debug)]
struct Way {
    sent_ns: u64,
    applied_ns: u64,
    answered_ns: u64,
    written_ns: u64,
}

/// Measures.
///
/// # Errors
/// When the hosted form does not run, or the arm cannot be commanded.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    needs::ensure(paths, Work::HostedDemo)?;
    let binaries = Binaries::build(paths)?;
    let run = Run::begin("command", paths, "none");
    let hosted = Hosted::start(paths, &binaries, &Options::default())?;
    let mut stage = Stage::enter(Box::new(HostedWorld::new(hosted)?))?;
    let mut ipc = stage.connect()?;
    let status = ipc.call("rt.status", &json!({}))?;
    let first = &status["loops"][0];
    let period_us = first["period_us"].as_f64().context("no period_us")?;
    let (ways, floor) = command_ways(&mut stage, &mut ipc)?;
    let expiries = expiries(&stage, &mut ipc)?;
    let marks = marks(&ways, &floor, &expiries, period_us);
    let raw = json!({
        "period_us": period_us,
        "loop": first,
        "ping_pong_us": distribution(&floor),
        "send_to_applied_us": distribution(&column(&ways, |way| (way.sent_ns, way.applied_ns))),
        "send_to_write_us": distribution(&column(&ways, |way| (way.sent_ns, way.written_ns))),
        "send_to_answer_us": distribution(&column(&ways, |way| (way.sent_ns, way.answered_ns))),
        "expiry_to_safe_us": distribution(&expiries),
        "commands": COMMANDS,
    });
    stage.world.power_off()?;
    Ok(run.end(marks, raw))
}

fn marks(ways: &[Way], floor: &[f64], expiries: &[f64], period_us: f64) -> Vec<Mark> {
    let write = column(ways, |way| (way.sent_ns, way.written_ns));
    let applied = column(ways, |way| (way.sent_ns, way.applied_ns));
    let answered = column(ways, |way| (way.applied_ns, way.answered_ns));
    let against = |name: &str, values: &[f64], share: f64| {
        let control = Control::new("socket ping-pong", quantile(floor, share));
        let bound = Bound::AtMostControlPlus(period_us + ALLOWANCE_US);
        Mark::new(name, quantile(values, share), "µs", Some(control), bound)
    };
    let reported = |name: &str, value: f64| Mark::new(name, value, "µs", None, Bound::Reported);
    let late = quantile(expiries, 1.0);
    vec![
        against("send to bus write, p50", &write, 0.5),
        against("send to bus write, p99", &write, 0.99),
        against("send to tick, p50", &applied, 0.5),
        against("send to tick, p99", &applied, 0.99),
        reported("send to tick, max", quantile(&applied, 1.0)),
        reported("tick to answer, p50", quantile(&answered, 0.5)),
        reported("tick to answer, p99", quantile(&answered, 0.99)),
        Mark::new(
            "expiry to safe action, max",
            late,
            "µs",
            None,
            Bound::AtMost(period_us),
        ),
    ]
}

/// Sends [`COMMANDS`] commands and as many pings, in turns.
fn command_ways(stage: &mut Stage, ipc: &mut Ipc) -> anyhow::Result<(Vec<Way>, Vec<f64>)> {
    let mut echo = Echo::start()?;
    let epoch = stage.claim(ipc)?;
    let frame_bytes = FRAME_BYTES + 3 * stage.joints.len();
    let wire_ns = frame_bytes as u64 * BYTE_NS;
    let (mut ways, mut floor) = (Vec::new(), Vec::new());
    let mut batch: Vec<Way> = Vec::new();
    let mut random = 1_u64;
    for number in 0..COMMANDS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        thread::sleep(Duration::from_micros(5_000 + (random >> 33) % 8_000));
        floor.push(echo.round_trip_us()?);
        // Small steps around the middle: every command moves something, and none goes far.
        let angle = if number % 2 == 0 { 0.05 } else { -0.05 };
        let command = stage.command(epoch, &[angle, 0.0, 0.0, 0.0, 0.0, 0.2]);
        let sent_ns = now_ns()?;
        let answer = ipc.call("device.send", &command)?;
        batch.push(Way {
            sent_ns,
            applied_ns: number_in(&answer, "applied_ns")?,
            answered_ns: now_ns()?,
            written_ns: 0,
        });
        if batch.len() == BATCH {
            thread::sleep(Duration::from_millis(50));
            ways.extend(written(stage, &batch, wire_ns)?);
            batch.clear();
        }
    }
    ipc.call("device.release", &json!({"device": DEVICE, "epoch": epoch}))?;
    Ok((ways, floor))
}

/// The batch with the start of the first goal frame behind the tick that took each command.
fn written(stage: &mut Stage, batch: &[Way], wire_ns: u64) -> anyhow::Result<Vec<Way>> {
    let since = batch.first().map_or(0, |way| way.sent_ns);
    let frames = stage.world.simulator().goals(since)?;
    let mut found = Vec::new();
    for way in batch {
        let frame = frames
            .iter()
            .map(|frame| frame.t_ns.saturating_sub(wire_ns))
            .find(|began_ns| *began_ns >= way.applied_ns);
        let written_ns = frame.context("no goal frame behind a command")?;
        found.push(Way { written_ns, ..*way });
    }
    Ok(found)
}

/// From the instant a command expires to the tick that took the safe action, µs.
fn expiries(stage: &Stage, ipc: &mut Ipc) -> anyhow::Result<Vec<f64>> {
    let mut reactions = Vec::new();
    for number in 0..EXPIRIES {
        let epoch = stage.claim(ipc)?;
        let mut command = stage.command(epoch, &[0.1, 0.0, 0.0, 0.0, 0.0, 0.2]);
        command["ttl_ms"] = json!(20 + number);
        let answer = ipc.call("device.send", &command)?;
        let expires_ns = number_in(&answer, "expires_ns")?;
        let end = Instant::now() + Duration::from_secs(5);
        let since_ns = loop {
            let info = ipc.call("device.info", &json!({"device": DEVICE}))?;
            if info["state"]["cause"] == "command_expired" {
                break number_in(&info["state"], "phase_since_ns")?;
            }
            ensure!(Instant::now() < end, "the command never expired: {info}");
            thread::sleep(Duration::from_millis(1));
        };
        ensure!(since_ns >= expires_ns, "safe before the command expired");
        reactions.push((since_ns - expires_ns) as f64 / 1e3);
        ipc.call("device.release", &json!({"device": DEVICE, "epoch": epoch}))?;
    }
    Ok(reactions)
}

fn number_in(value: &Value, key: &str) -> anyhow::Result<u64> {
    let number = value[key].as_u64();
    number.with_context(|| format!("the answer has no `{key}`: {value}"))
}

fn column(ways: &[Way], of: impl Fn(&Way) -> (u64, u64)) -> Vec<f64> {
    let micros = |way| {
        let (from_ns, to_ns) = of(way);
        to_ns as f64 / 1e3 - from_ns as f64 / 1e3
    };
    ways.iter().map(micros).collect()
}

fn distribution(values: &[f64]) -> Value {
    json!({
        "p50": quantile(values, 0.5),
        "p99": quantile(values, 0.99),
        "p999": quantile(values, 0.999),
        "max": quantile(values, 1.0),
    })
}

/// A thread that gives back what it is sent.
#[derive(Debug)]
struct Echo {
    stream: UnixStream,
}

impl Echo {
    fn start() -> anyhow::Result<Self> {
        let (stream, mut far) = UnixStream::pair()?;
        thread::spawn(move || {
            let mut message = [0_u8; MESSAGE_BYTES];
            // Ends when this side is dropped.
            while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
        });
        Ok(Self { stream })
    }

    fn round_trip_us(&mut self) -> anyhow::Result<f64> {
        let mut message = [7_u8; MESSAGE_BYTES];
        let started = Instant::now();
        self.stream.write_all(&message)?;
        self.stream.read_exact(&mut message)?;
        Ok(started.elapsed().as_nanos() as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_takes_longer_than_a_tick_misses_its_mark() {
        let way = |us: u64| Way {
            sent_ns: 1_000,
            applied_ns: 1_000 + us * 1_000,
            answered_ns: 1_000 + us * 1_000,
            written_ns: 1_000 + us * 1_000,
        };
        let kept = |us| marks(&[way(us)], &[10.0], &[100.0], 4_000.0)[0].ok;
        assert!(kept(4_040));
        assert!(!kept(4_041));
        let late = |us| {
            marks(&[way(1)], &[10.0], &[us], 4_000.0)
                .pop()
                .map(|m| m.ok)
        };
        assert_eq!((late(4_000.0), late(4_001.0)), (Some(true), Some(false)));
    }
}
