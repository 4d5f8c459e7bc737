//! `kairo config check`: reads a robot.toml as kairo-rt would, and says what is wrong with it.
//!
//! Needs no kernel. With `--machine` this machine is held against the file too: whether it has the
//! cores, keeps everything else off them, and has a fine enough timer.

use kairo_rt::config::{self, ConfigError, RobotConfig};
use kairo_rt::doctor;
use serde_json::{Value, json};

use crate::arguments::ConfigCheckOptions;
use crate::doctor::line;
use crate::failure::Failure;
use crate::rt::bringup_table;
use crate::terminal::{Terminal, Tone};

/// `config check`.
pub fn check(terminal: &Terminal, options: &ConfigCheckOptions) -> Result<(), Failure> {
    let robot = match config::load(&options.file) {
        Ok(robot) => robot,
        Err(error) => return refuse(terminal, &error),
    };
    let table = match options.machine {
        true => doctor::table(Some(&robot)),
        false => Vec::new(),
    };
    let missing: Vec<String> = table
        .iter()
        .filter(|check| !check.ok && check.required)
        .map(|check| format!("{} {}", check.scope, check.check))
        .collect();
    let checks = Value::Array(table.iter().map(line).collect());
    if terminal.json {
        terminal.json_page(&json!({
            "ok": missing.is_empty(), "robot": robot.name, "problems": [], "machine": checks,
        }))?;
    } else {
        summary(terminal, &robot)?;
        if options.machine {
            bringup_table(terminal, &checks)?;
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::NotDone(format!(
        "the file is valid, but this machine cannot meet it: {}",
        missing.join(", ")
    )))
}

fn refuse(terminal: &Terminal, error: &ConfigError) -> Result<(), Failure> {
    if terminal.json {
        let problems: Vec<Value> = error
            .diagnostics
            .iter()
            .map(|problem| {
                json!({
                    "file": problem.file, "line": problem.line, "column": problem.column,
                    "key": problem.key, "message": problem.message, "fix": problem.fix,
                })
            })
            .collect();
        terminal.json_page(&json!({"ok": false, "problems": problems}))?;
    }
    Err(Failure::NotDone(error.to_string()))
}

fn summary(terminal: &Terminal, robot: &RobotConfig) -> Result<(), Failure> {
    terminal.line(terminal.paint(Tone::Good, &format!("{} is valid", robot.name)))?;
    for each in &robot.loops {
        let core = each
            .core
            .map_or_else(String::new, |core| format!(" on core {core}"));
        let share = each.budget_us as f64 * 100.0 / each.period_us as f64;
        terminal.line(format!(
            "loop {}: every {} us, priority {}{core}, at most {} us a tick ({share:.0} %)",
            each.name, each.period_us, each.priority, each.budget_us
        ))?;
    }
    for (index, each) in robot.buses.iter().enumerate() {
        let devices = robot.devices.iter().filter(|device| device.bus == index);
        let servos: usize = devices.map(|device| device.joints.len()).sum();
        let wire = config::traffic_of(servos as u64, each.baud).wire_time_us;
        terminal.line(format!(
            "bus {}: {servos} servos, {wire} us of wire time in {} us",
            each.name,
            robot.bus_period_us(index)
        ))?;
    }
    Ok(())
}
