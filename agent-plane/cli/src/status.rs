//! `kairo status`: the system on one page.

use serde_json::{Value, json};

use crate::call::Session;
use crate::device;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, Tone, items, number, should_be_zero, text};

/// Shows it.
pub fn show(session: &mut Session<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let info = session.call("system.get_info", json!({}))?;
    let rt = session.call("rt.status", json!({}))?;
    let devices = session.call("device.list", json!({}))?;
    if terminal.json {
        let whole = json!({"system": info, "rt": rt, "devices": devices["devices"]});
        return terminal.json_page(&whole);
    }
    system(terminal, &info)?;
    terminal.line("")?;
    plane(terminal, &rt)?;
    terminal.line("")?;
    device::table(terminal, &devices)
}

fn system(terminal: &Terminal, info: &Value) -> Result<(), Failure> {
    let kernel = &info["kernel"];
    let preempt = if kernel["preempt_rt"] == true {
        terminal.paint(Tone::Good, "PREEMPT_RT")
    } else {
        terminal.paint(Tone::Warn, "not PREEMPT_RT")
    };
    terminal.line(format!(
        "robot    {}\nsystem   {} {}, kairod {}, commit {}\nkernel   {} on {}, {preempt}, {} CPUs\n\
         uptime   {} s",
        text(&info["robot"]),
        text(&info["os"]["name"]),
        text(&info["os"]["version"]),
        text(&info["version"]),
        info["commit"].as_str().unwrap_or("unknown"),
        text(&kernel["release"]),
        text(&info["machine"]),
        text(&info["cpus"]),
        number(&info["uptime_s"], 0),
    ))
}

fn plane(terminal: &Terminal, rt: &Value) -> Result<(), Failure> {
    if rt["connected"] != true {
        let away = terminal.paint(Tone::Bad, "away: kairo-rt is not running or is restarting");
        return terminal.line(format!("real-time plane  {away}"));
    }
    let armed = if rt["armed"] == true {
        terminal.paint(Tone::Good, "armed")
    } else {
        terminal.paint(Tone::Bad, "not armed")
    };
    let checks = items(&rt["bringup"]);
    let passed = checks.iter().filter(|check| check["ok"] == true).count();
    terminal.line(format!(
        "real-time plane  {armed}, {passed} of {} bring-up checks passed",
        checks.len()
    ))?;
    let mut table = Table::new(&[
        "LOOP",
        ">PERIOD µs",
        ">TICKS",
        ">SKIPPED",
        ">LATENESS p99 µs",
        ">max µs",
    ]);
    for each in items(&rt["loops"]) {
        table.row([
            Cell::from(text(&each["name"])),
            text(&each["period_us"]).into(),
            text(&each["ticks"]).into(),
            should_be_zero(&each["skipped"]),
            number(&each["lateness_us"]["p99"], 1).into(),
            number(&each["lateness_us"]["max"], 1).into(),
        ]);
    }
    terminal.table(&table)
}
