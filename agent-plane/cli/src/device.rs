//! `kairo device list`, `info`, `claim`, `release`, `watch`.

use std::process::Command;
use std::time::Duration;

use kairo_wire::endpoint::Endpoint;
use kairo_wire::{ClientError, Incoming};
use serde_json::{Value, json};

use crate::arguments::{ClaimOptions, WatchOptions};
use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, items, number, should_be_zero, status_cell, text};

/// How long to wait for an event or a sample before waiting again; only a bound on one wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// `device list`.
pub fn list(session: &mut Session<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let devices = session.call("device.list", json!({}))?;
    if terminal.json {
        return terminal.json_page(&devices);
    }
    table(terminal, &devices)
}

/// The devices as a table.
pub fn table(terminal: &Terminal, devices: &Value) -> Result<(), Failure> {
    let devices = items(&devices["devices"]);
    if devices.is_empty() {
        return terminal.line("no devices; see `kairo rt status`");
    }
    let mut table = Table::new(&[
        "DEVICE", "KIND", "STATUS", "PHASE", "CAUSE", "BUS", "PATH", "HOLDER",
    ]);
    for device in devices {
        table.row([
            Cell::from(text(&device["id"])),
            text(&device["kind"]).into(),
            status_cell(&device["status"]),
            text(&device["phase"]).into(),
            text(&device["cause"]).into(),
            text(&device["bus"]).into(),
            text(&device["path"]).into(),
            holder(&device["holder"]).into(),
        ]);
    }
    terminal.table(&table)
}

fn holder(holder: &Value) -> String {
    if holder.is_null() {
        return "-".into();
    }
    let process = text(&holder["process"]);
    format!("{process} (pid {})", text(&holder["pid"]))
}

/// `device info`.
pub fn info(session: &mut Session<'_>, terminal: &Terminal, device: &str) -> Result<(), Failure> {
    let info = session.call("device.info", json!({"device": device}))?;
    if terminal.json {
        return terminal.json_page(&info);
    }
    terminal.line(format!(
        "device       {} ({})\nalias        {}\nbus          {} at {}\nloop         {}\n\
         status       {}, phase {}, cause {}\nholder       {}\nsafe action  {}\n\
         torque       {} at start, {} now\nfault        {}\nlongest ttl  {} ms\n",
        text(&info["id"]),
        text(&info["kind"]),
        text(&info["alias"]),
        text(&info["bus"]),
        text(&info["path"]),
        text(&info["control_loop"]),
        text(&info["status"]),
        text(&info["phase"]),
        text(&info["cause"]),
        holder(&info["holder"]),
        text(&info["safe_action"]),
        on_off(&info["torque_at_start"]),
        on_off(&info["state"]["torque"]),
        fault(&info["fault"]),
        text(&info["ttl_max_ms"]),
    ))?;
    let mut table = Table::new(&[
        "JOINT",
        ">SERVO",
        ">POSITION rad",
        ">MIN rad",
        ">MAX rad",
        ">SPEED rad/s",
        ">ACCEL rad/s²",
        ">JERK rad/s³",
        ">FOLLOW rad",
        ">REST rad",
    ]);
    for joint in items(&info["joints"]) {
        let name = text(&joint["name"]);
        let position = &info["state"]["joints"][&name]["position_rad"];
        table.row([
            Cell::from(name),
            text(&joint["servo_id"]).into(),
            number(position, 4).into(),
            number(&joint["position_min_rad"], 4).into(),
            number(&joint["position_max_rad"], 4).into(),
            number(&joint["velocity_max_rad_s"], 2).into(),
            number(&joint["acceleration_max_rad_s2"], 2).into(),
            number(&joint["jerk_max_rad_s3"], 1).into(),
            number(&joint["following_error_max_rad"], 2).into(),
            number(&joint["rest_position_rad"], 4).into(),
        ]);
    }
    terminal.table(&table)
}

fn on_off(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "on",
        Some(false) => "off",
        None => "-",
    }
}

/// A latched fault in one line.
fn fault(fault: &Value) -> String {
    if fault.is_null() {
        return "none".into();
    }
    format!("{}: {}", text(&fault["cause"]), text(&fault["explanation"]))
}

/// `device release`.
pub fn release(
    session: &mut Session<'_>,
    terminal: &Terminal,
    device: &str,
) -> Result<(), Failure> {
    let released = session.call("device.release", json!({"device": device}))?;
    if terminal.json {
        return terminal.json_page(&released);
    }
    terminal.line(format!("released {}", text(&released["device"])))
}

/// `device claim`.
pub fn claim(
    session: &mut Session<'_>,
    terminal: &Terminal,
    endpoint: &Endpoint,
    options: &ClaimOptions,
) -> Result<(), Failure> {
    let claimed = session.call("device.claim", json!({"device": options.device}))?;
    let epoch = claimed["epoch"].as_u64().unwrap_or(0);
    let device = text(&claimed["device"]);
    if !options.command.is_empty() {
        return run_with_claim(session, endpoint, &options.command, &device, epoch);
    }
    if terminal.json {
        terminal.json_line(&claimed)?;
    } else {
        terminal.line(format!(
            "claimed {device}, epoch {epoch}; Ctrl-C gives it back"
        ))?;
    }
    wait_for_end(session, &device, epoch)
}

/// Runs a program that inherits the connection, and with it the claim.
fn run_with_claim(
    session: &Session<'_>,
    endpoint: &Endpoint,
    command: &[String],
    device: &str,
    epoch: u64,
) -> Result<(), Failure> {
    let inherited = session.inheritable(endpoint)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&inherited);
    let [program, rest @ ..] = command else {
        return Ok(());
    };
    let status = Command::new(program)
        .args(rest)
        .env("KAIRO_IPC_FD", number.to_string())
        .env("KAIRO_CLAIM_DEVICE", device)
        .env("KAIRO_CLAIM_EPOCH", epoch.to_string())
        .status()
        .map_err(|error| Failure::Program(format!("cannot run {program:?}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Program(format!("{program:?} ended with {status}")))
}

/// Waits until the claim ends, which is a failure unless the user ends it.
fn wait_for_end(session: &mut Session<'_>, device: &str, epoch: u64) -> Result<(), Failure> {
    let params = json!({"topics": ["kairo.system.device.released"]});
    let timeout = session.timeout;
    let mut events = session
        .client
        .subscribe("event.subscribe", params, timeout)?;
    events.set_patience(PATIENCE);
    loop {
        let event = match events.next() {
            Some(Ok(Incoming::Event(event))) => event,
            Some(Err(ClientError::Deadline(_)) | Ok(Incoming::Chunk(_))) => continue,
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        };
        let data: Value = kairo_wire::message::typed(&event.data).unwrap_or(Value::Null);
        if data["epoch"] == epoch {
            let cause = text(&data["cause"]);
            return Err(Failure::NotDone(format!(
                "the claim on {device} ended: {cause}; see `kairo device info {device}`"
            )));
        }
    }
}

/// `device watch`.
pub fn watch(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &WatchOptions,
) -> Result<(), Failure> {
    // A sample names its joints; their order is that of the device's description.
    let info = session.call("device.info", json!({"device": options.device}))?;
    let order: Vec<String> = items(&info["joints"])
        .iter()
        .map(|j| text(&j["name"]))
        .collect();
    let params = json!({"device": options.device, "rate_hz": options.rate});
    let timeout = session.timeout;
    let mut samples = session
        .client
        .subscribe("device.subscribe", params, timeout)?;
    samples.set_patience(PATIENCE);
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let chunk = match samples.next() {
            Some(Ok(Incoming::Chunk(chunk))) => chunk,
            Some(Err(ClientError::Deadline(_)) | Ok(Incoming::Event(_))) => continue,
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        };
        if chunk.end {
            let text = format!("{} is no device of this robot any more", options.device);
            return Err(Failure::NotDone(text));
        }
        let sample: Value = rmp_serde::from_slice(&chunk.data)
            .map_err(|error| Failure::NotDone(format!("a sample cannot be read: {error}")))?;
        left -= 1;
        if terminal.json {
            terminal.json_line(&sample)?;
        } else {
            terminal.clear()?;
            show_sample(terminal, &sample, &order)?;
        }
    }
    Ok(())
}

fn show_sample(terminal: &Terminal, sample: &Value, order: &[String]) -> Result<(), Failure> {
    terminal.line(format!(
        "{}  {}  phase {}  cause {}  tick {}",
        text(&sample["device"]),
        text(&sample["status"]),
        text(&sample["phase"]),
        text(&sample["cause"]),
        text(&sample["tick"]),
    ))?;
    let mut table = Table::new(&[
        "JOINT",
        ">POSITION rad",
        ">TARGET rad",
        ">SPEED rad/s",
        ">LOAD %",
        ">CURRENT A",
        ">VOLTAGE V",
        ">TEMP °C",
        ">MISSED",
    ]);
    for name in order {
        let joint = &sample["joints"][name];
        let load = joint["load_ratio"].as_f64().map(|ratio| ratio * 100.0);
        table.row([
            Cell::from(name.clone()),
            number(&joint["position_rad"], 4).into(),
            number(&joint["target_rad"], 4).into(),
            number(&joint["velocity_rad_s"], 3).into(),
            number(&json!(load), 1).into(),
            number(&joint["current_a"], 2).into(),
            number(&joint["voltage_v"], 1).into(),
            number(&joint["temperature_c"], 0).into(),
            should_be_zero(&joint["missed"]),
        ]);
    }
    terminal.table(&table)
}
