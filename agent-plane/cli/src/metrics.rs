//! `kairo metrics`: how the machine is: load, memory, temperatures, batteries, disk.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, items, number, text};

/// Options of `metrics`.
#[derive(Debug, Args)]
pub struct MetricsOptions {
    /// Show them anew every so often, until Ctrl-C.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s",
          value_parser = humantime::parse_duration)]
    pub watch: Option<Duration>,
}

/// Shows them.
pub fn show(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &MetricsOptions,
) -> Result<(), Failure> {
    let mut before = Value::Null;
    loop {
        let metrics = session.call("system.get_metrics", json!({}))?;
        match (terminal.json, options.watch) {
            (true, None) => terminal.json_page(&metrics)?,
            (true, Some(_)) => terminal.json_line(&metrics)?,
            (false, _) => {
                if options.watch.is_some() {
                    terminal.clear()?;
                }
                terminal.table(&table(&metrics, &before))?;
            }
        }
        let Some(interval) = options.watch else {
            return Ok(());
        };
        before = metrics;
        std::thread::sleep(interval);
    }
}

fn table(metrics: &Value, before: &Value) -> Table {
    let mut table = Table::new(&["WHAT", ">VALUE", "UNIT", "DETAIL"]);
    let mut row = |what: &str, value: String, unit: &str, detail: String| {
        table.row([Cell::from(what), value.into(), unit.into(), detail.into()]);
    };
    let load: Vec<String> = items(&metrics["load"])
        .iter()
        .map(|load| number(load, 2))
        .collect();
    let cpus = items(&metrics["cpus"]).len();
    if let [one, rest @ ..] = load.as_slice() {
        row(
            "load",
            one.clone(),
            "",
            format!("{}; {cpus} CPUs", rest.join(" ")),
        );
    }
    if let Some(busy) = busy_percent(metrics, before) {
        row(
            "cpu busy",
            format!("{busy:.1}"),
            "%",
            "since the last look".into(),
        );
    }
    let memory = &metrics["memory"];
    let available = share(&memory["available_bytes"], &memory["total_bytes"]);
    row(
        "memory available",
        available,
        "%",
        mebibytes(&memory["available_bytes"]),
    );
    let disk = &metrics["disk"];
    if !disk.is_null() {
        let free = share(&disk["free_bytes"], &disk["total_bytes"]);
        row("disk free", free, "%", text(&disk["path"]));
    }
    for zone in items(&metrics["temperatures"]) {
        row(
            "temperature",
            number(&zone["celsius"], 1),
            "°C",
            text(&zone["zone"]),
        );
    }
    for battery in items(&metrics["batteries"]) {
        let detail = format!("{} {}", text(&battery["sensor"]), text(&battery["status"]));
        row("battery", number(&battery["percent"], 1), "%", detail);
    }
    for pressure in items(&metrics["pressure"]) {
        let what = format!("pressure {}", text(&pressure["resource"]));
        row(
            &what,
            number(&pressure["some_10s_percent"], 1),
            "%",
            "of the last 10 s".into(),
        );
    }
    row(
        "kairod",
        mebibytes(&metrics["kairod"]["resident_bytes"]),
        "",
        "resident".into(),
    );
    table
}

fn mebibytes(bytes: &Value) -> String {
    match bytes.as_f64() {
        Some(bytes) => format!("{:.1} MiB", bytes / 1_048_576.0),
        None => "-".into(),
    }
}

fn share(part: &Value, whole: &Value) -> String {
    match (part.as_f64(), whole.as_f64()) {
        (Some(part), Some(whole)) if whole > 0.0 => format!("{:.1}", 100.0 * part / whole),
        _ => "-".into(),
    }
}

/// How busy the CPUs were between two looks, percent of all.
fn busy_percent(now: &Value, before: &Value) -> Option<f64> {
    let sums = |metrics: &Value| {
        let mut sums = (0.0, 0.0);
        for cpu in items(&metrics["cpus"]) {
            let time = |name: &str| cpu[name].as_f64().unwrap_or(0.0);
            let busy = time("user_s") + time("system_s") + time("irq_s") + time("steal_s");
            sums = (
                sums.0 + busy,
                sums.1 + busy + time("idle_s") + time("iowait_s"),
            );
        }
        sums
    };
    let (now, before) = (sums(now), sums(before));
    let all = now.1 - before.1;
    (before.1 > 0.0 && all > 0.0).then(|| 100.0 * (now.0 - before.0) / all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_busy_the_cpus_were_is_a_difference_of_two_looks() {
        let look = |user: f64, idle: f64| json!({"cpus": [{"user_s": user, "idle_s": idle}]});
        assert_eq!(busy_percent(&look(1.0, 1.0), &Value::Null), None);
        let busy = busy_percent(&look(2.0, 4.0), &look(1.0, 1.0)).unwrap();
        assert!((busy - 25.0).abs() < 1e-9);
    }
}
