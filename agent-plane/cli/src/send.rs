//! `kairo device send`: claims a device, commands it until it is there, gives it back.
//!
//! Each command lives for `--ttl` and is renewed three times as often, so that killing this
//! program stops the device within the time to live, whatever else happens.

use std::time::{Duration, Instant};

use kairo_wire::{ClientError, ErrorCode};
use serde_json::{Map, Value, json};

use crate::arguments::SendOptions;
use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, Tone, number, text, yes_no};

/// Shortest pause between two commands: below it, a longer ttl is no burden to anybody.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Where the motion stands.
struct Progress {
    accepted: Value,
    state: Value,
    renewals: u64,
    there: bool,
}

/// Does it.
pub fn send(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &SendOptions,
) -> Result<(), Failure> {
    refuse_duplicates(&options.position, "--position")?;
    refuse_duplicates(&options.velocity, "--velocity")?;
    let claimed = session.call("device.claim", json!({"device": options.device}))?;
    let started = Instant::now();
    let progress = drive(session, options, &claimed["epoch"], started);
    // A refusal is worth more than a failure to release after it; the end of this program
    // releases the claim in any case.
    let released = session.call("device.release", json!({"device": options.device}));
    let progress = progress?;
    released?;
    show(terminal, options, &progress, started.elapsed())?;
    if progress.there {
        return Ok(());
    }
    Err(Failure::NotDone(format!(
        "{} did not get there within {}; give it more time with --hold, or see `kairo device \
         watch {}`",
        options.device,
        humantime::format_duration(options.hold),
        options.device
    )))
}

/// `device reset`.
pub fn reset(session: &mut Session<'_>, terminal: &Terminal, device: &str) -> Result<(), Failure> {
    /// Long enough for a slow moment of the machine; a reset is over in a tick.
    const TTL_MS: u64 = 500;
    let info = session.call("device.info", json!({"device": device}))?;
    let ttl_ms = info["ttl_max_ms"].as_u64().unwrap_or(TTL_MS).min(TTL_MS);
    let claimed = session.call("device.claim", json!({"device": device}))?;
    let params = json!({
        "device": device,
        "epoch": claimed["epoch"],
        "ttl_ms": ttl_ms,
        "command": {"mode": "reset"},
    });
    let reset = session.call("device.send", params);
    let released = session.call("device.release", json!({"device": device}));
    let reset = reset?;
    released?;
    let fault = &info["fault"];
    if terminal.json {
        let page = json!({"device": device, "fault": fault, "tick": reset["tick"]});
        return terminal.json_page(&page);
    }
    terminal.line(match fault.is_null() {
        true => format!("{device} had no fault"),
        false => format!("reset {device}: {}", text(&fault["cause"])),
    })
}

/// Refuses a joint with two targets: the command could hold only one of them.
fn refuse_duplicates(targets: &[(String, f64)], option: &str) -> Result<(), Failure> {
    for (index, (name, _)) in targets.iter().enumerate() {
        if targets[..index].iter().any(|(before, _)| before == name) {
            let text = format!("{option} names {name} twice; give each joint one target");
            return Err(Failure::Usage(text));
        }
    }
    Ok(())
}

/// Commands until the device is there or the time is over.
fn drive(
    session: &mut Session<'_>,
    options: &SendOptions,
    epoch: &Value,
    started: Instant,
) -> Result<Progress, Failure> {
    let params = json!({
        "device": options.device,
        "epoch": epoch,
        "ttl_ms": u64::try_from(options.ttl.as_millis()).unwrap_or(u64::MAX),
        "command": command(options),
    });
    let pause = (options.ttl / 3).max(SHORTEST_PAUSE);
    let mut renewals = 0;
    loop {
        let accepted = match session.call("device.send", params.clone()) {
            Ok(accepted) => accepted,
            // Too old when it arrived: a slow moment of this machine. The next may be in time.
            Err(Failure::Client(ClientError::Refused(info)))
                if info.code == ErrorCode::Timeout && started.elapsed() < options.hold =>
            {
                continue;
            }
            Err(failure) => return Err(failure),
        };
        renewals += 1;
        std::thread::sleep(pause.min(options.hold));
        let info = session.call("device.info", json!({"device": options.device}))?;
        let state = info["state"].clone();
        let over = started.elapsed() >= options.hold;
        let there = is_there(options, &state, &accepted["sequence"], over);
        if there || over {
            return Ok(Progress {
                accepted,
                state,
                renewals,
                there,
            });
        }
    }
}

fn command(options: &SendOptions) -> Value {
    if options.stop {
        return json!({"mode": "stop"});
    }
    let turns = !options.velocity.is_empty();
    let (mode, key, targets) = match turns {
        true => ("velocity", "velocities", &options.velocity),
        false => ("position", "positions", &options.position),
    };
    let targets: Map<String, Value> = targets
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let mut command = json!({
        "mode": mode,
        key: targets,
        "velocity_scale": options.velocity_scale,
    });
    if let Some(acceleration) = options.acceleration {
        command["acceleration_rad_s2"] = json!(acceleration);
    }
    if let Some(jerk) = options.jerk {
        command["jerk_rad_s3"] = json!(jerk);
    }
    command
}

/// Whether every joint that was sent somewhere is near enough; for a stop, whether nothing moves;
/// for velocities, whether the time is over.
fn is_there(options: &SendOptions, state: &Value, sequence: &Value, over: bool) -> bool {
    // The state may be older than the command.
    let seen = state["sequence"].as_u64() >= sequence.as_u64();
    if options.stop {
        return seen && state["moving"] == false;
    }
    if !options.velocity.is_empty() {
        return seen && over;
    }
    seen && options.position.iter().all(|(name, target)| {
        let position = state["joints"][name]["position_rad"].as_f64();
        position.is_some_and(|position| (position - target).abs() <= options.tolerance)
    })
}

fn show(
    terminal: &Terminal,
    options: &SendOptions,
    progress: &Progress,
    took: Duration,
) -> Result<(), Failure> {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if terminal.json {
        return terminal.json_page(&json!({
            "reached": progress.there,
            "took_ms": took_ms,
            "commands": progress.renewals,
            "last": progress.accepted,
            "state": progress.state,
        }));
    }
    let verdict = if progress.there {
        terminal.paint(Tone::Good, "reached")
    } else {
        terminal.paint(Tone::Bad, "not reached")
    };
    terminal.line(format!(
        "{verdict} after {took_ms} ms, {} commands, last one in force from tick {}",
        progress.renewals,
        text(&progress.accepted["tick"])
    ))?;
    let mut table = Table::new(&[
        "JOINT",
        ">TARGET rad",
        ">POSITION rad",
        ">ERROR rad",
        "THERE",
    ]);
    for (name, target) in &options.position {
        let position = &progress.state["joints"][name]["position_rad"];
        let error = position.as_f64().map(|position| position - target);
        let there = error.is_some_and(|error| error.abs() <= options.tolerance);
        table.row([
            Cell::from(name.clone()),
            format!("{target:.4}").into(),
            number(position, 4).into(),
            number(&json!(error), 4).into(),
            yes_no(&Value::Bool(there)),
        ]);
    }
    if options.position.is_empty() {
        return Ok(());
    }
    terminal.table(&table)
}
