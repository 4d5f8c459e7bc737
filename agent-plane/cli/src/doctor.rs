//! `kairo doctor --rt`: is this machine fit for real time, line by line, with what mends it.
//!
//! Where kairo-rt runs, the table is its own, read back at bring-up. Where nobody answers, the
//! machine is looked at from here, with the same checks as far as an ordinary program can make
//! them: that is how a machine is prepared before a robot runs on it. Nothing is changed.

use std::path::Path;

use kairo_rt::config::{self, RobotConfig};
use kairo_rt::doctor;
use kairo_wire::Client;
use kairo_wire::endpoint::Endpoint;
use serde_json::{Value, json};

use crate::arguments::{Arguments, DoctorOptions};
use crate::call::Session;
use crate::failure::Failure;
use crate::rt::bringup_table;
use crate::terminal::{Terminal, Tone, items, text};

/// The robot's file on the image.
const ROBOT_FILE: &str = "/config/robot.toml";

/// `doctor`.
pub fn rt(
    arguments: &Arguments,
    terminal: &Terminal,
    options: &DoctorOptions,
) -> Result<(), Failure> {
    // A file that is named is about a robot to come, not about the one that runs.
    let running = match options.config {
        Some(_) => None,
        None => of_running_plane(arguments),
    };
    let report = match running {
        Some(status) => json!({
            "source": "kairo-rt", "armed": status["armed"], "checks": status["bringup"],
        }),
        None => of_machine(options.config.as_deref())?,
    };
    let failed = |required: bool| {
        let checks = items(&report["checks"]).iter();
        checks
            .filter(|check| check["ok"] == false && (check["required"] == true) == required)
            .map(|check| format!("{} {}", text(&check["scope"]), text(&check["check"])))
            .collect::<Vec<_>>()
    };
    let (required, helpful) = (failed(true), failed(false));
    if terminal.json {
        let mut page = report.clone();
        page["ok"] = json!(required.is_empty());
        page["failed_required"] = json!(required);
        page["failed_helpful"] = json!(helpful);
        terminal.json_page(&page)?;
    } else {
        show(terminal, &report, &required, &helpful)?;
    }
    if required.is_empty() {
        return Ok(());
    }
    Err(Failure::NotDone(format!(
        "{} required checks failed: {}; run the commands in the column FIX",
        required.len(),
        required.join(", ")
    )))
}

/// What a kairo-rt that runs says of itself; none when nobody answers.
fn of_running_plane(arguments: &Arguments) -> Option<Value> {
    let endpoint = match &arguments.socket {
        Some(text) => Endpoint::parse(text).ok()?,
        None => Endpoint::from_environment().ok()?,
    };
    let mut client = Client::connect_to(&endpoint).ok()?;
    let mut session = Session::new(&mut client, arguments.timeout);
    let status = session.call("rt.status", json!({})).ok()?;
    (status["connected"] == true).then_some(status)
}

fn of_machine(file: Option<&Path>) -> Result<Value, Failure> {
    let robot = match file {
        Some(file) => {
            Some(config::load(file).map_err(|error| Failure::NotDone(error.to_string()))?)
        }
        None => config::load(Path::new(ROBOT_FILE)).ok(),
    };
    let checks: Vec<Value> = doctor::table(robot.as_ref()).iter().map(line).collect();
    let robot = robot.as_ref();
    Ok(json!({
        "source": "machine", "robot": robot.map(|robot: &RobotConfig| robot.name.clone()),
        "checks": checks,
    }))
}

/// One line of the table, with the keys of `rt.status`.
pub fn line(check: &kairo_rt::BringupCheck) -> Value {
    json!({
        "scope": check.scope, "check": check.check, "wanted": check.wanted, "found": check.found,
        "ok": check.ok, "required": check.required, "fix": check.fix,
    })
}

fn show(
    terminal: &Terminal,
    report: &Value,
    required: &[String],
    helpful: &[String],
) -> Result<(), Failure> {
    let heading = match text(&report["source"]).as_str() {
        "kairo-rt" if report["armed"] == true => "kairo-rt runs armed; what it read back",
        "kairo-rt" => "kairo-rt runs DISARMED; what it read back",
        _ => "kairo-rt does not answer; what this machine says by itself",
    };
    terminal.heading(heading)?;
    bringup_table(terminal, &report["checks"])?;
    terminal.line("")?;
    let (tone, verdict) = match (required.is_empty(), helpful.is_empty()) {
        (true, true) => (Tone::Good, "fit for real time".to_owned()),
        (true, false) => {
            let text = format!("fit for real time; could be better: {}", helpful.join(", "));
            (Tone::Warn, text)
        }
        _ => (Tone::Bad, "NOT fit for real time".to_owned()),
    };
    terminal.line(terminal.paint(tone, &verdict))
}
