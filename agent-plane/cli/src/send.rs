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
    refuse_duplicates(&options.position)?;
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

/// Refuses a joint with two targets: the command could hold only one of them.
fn refuse_duplicates(positions: &[(String, f64)]) -> Result<(), Failure> {
    for (index, (name, _)) in positions.iter().enumerate() {
        if positions[..index].iter().any(|(before, _)| before == name) {
            let text = format!("--position names {name} twice; give each joint one target");
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
        let there = is_there(options, &state, &accepted["sequence"]);
        if there || started.elapsed() >= options.hold {
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
    let positions: Map<String, Value> = options
        .position
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    json!({
        "mode": "position",
        "positions": positions,
        "velocity_scale": options.velocity_scale,
    })
}

/// Whether every joint that was sent somewhere is near enough; for a stop, whether nothing moves.
fn is_there(options: &SendOptions, state: &Value, sequence: &Value) -> bool {
    // The state may be older than the command.
    let seen = state["sequence"].as_u64() >= sequence.as_u64();
    if options.stop {
        return seen && state["moving"] == false;
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
