//! `kairo rt status` and `kairo rt histogram`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::arguments::{HistogramKind, HistogramOptions};
use crate::call::Session;
use crate::cyclictest::{self, Thread};
use crate::failure::Failure;
use crate::plot;
use crate::terminal::{
    Cell, Table, Terminal, Tone, items, number, should_be_zero, status_cell, text, yes_no,
};

/// Rows of a histogram in text.
const TEXT_ROWS: usize = 24;
/// Width of its longest bar.
const BAR_WIDTH: f64 = 40.0;

/// `rt status`.
pub fn status(session: &mut Session<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let status = session.call("rt.status", json!({}))?;
    if terminal.json {
        return terminal.json_page(&status);
    }
    if status["connected"] != true {
        return terminal.line(terminal.paint(
            Tone::Bad,
            "the real-time plane is away: kairo-rt is not running or is restarting",
        ));
    }
    terminal.line(format!(
        "kairo-rt {} on {}, {}, {} MiB locked",
        text(&status["build"]),
        text(&status["robot"]),
        if status["armed"] == true {
            "armed"
        } else {
            "NOT ARMED"
        },
        status["locked_bytes"].as_u64().unwrap_or(0) / (1024 * 1024),
    ))?;
    recorder(terminal, &status["recorder"])?;
    lines(terminal, &status["lines"])?;
    bringup(terminal, &status)?;
    loops(terminal, &status)?;
    overruns(terminal, &status)?;
    threads(terminal, &status)?;
    buses(terminal, &status)?;
    devices(terminal, &status)
}

/// One line, where there is a recorder.
fn recorder(terminal: &Terminal, recorder: &Value) -> Result<(), Failure> {
    if recorder.is_null() {
        return Ok(());
    }
    let (state, tone) = if recorder["writing"] == true {
        ("writing".to_owned(), Tone::Good)
    } else {
        (
            format!("CANNOT WRITE (errno {})", number(&recorder["errno"], 0)),
            Tone::Bad,
        )
    };
    terminal.line(format!(
        "Recorder: {}, {} records, {} lost, {} MB in {} files{}",
        terminal.paint(tone, &state),
        number(&recorder["records"], 0),
        number(&recorder["dropped"], 0),
        recorder["bytes"].as_u64().unwrap_or(0) / 1_000_000,
        number(&recorder["files"], 0),
        if recorder["survives_crash"] == true {
            ""
        } else {
            "; a crash of kairo-rt would lose the newest seconds"
        }
    ))
}

/// The GPIO lines, where there are any.
pub fn lines(terminal: &Terminal, report: &Value) -> Result<(), Failure> {
    if report.is_null() {
        return Ok(());
    }
    terminal.line("")?;
    terminal.heading("GPIO lines")?;
    let mut table = Table::new(&["LINE", "KIND", "PLACE", "LEVEL", "GOOD", "EDGES", "REFUSED"]);
    for line in items(&report["lines"]) {
        table.row([
            Cell::from(text(&line["name"])),
            text(&line["kind"]).into(),
            text(&line["place"]).into(),
            text(&line["level"]).into(),
            yes_no(&line["good"]),
            text(&line["edges"]).into(),
            text(&line["refused"]).into(),
        ]);
    }
    terminal.table(&table)?;
    terminal.line(format!(
        "{} looks by edges, {} storms of them, the pump changed {} times",
        number(&report["edge_looks"], 0),
        number(&report["storms"], 0),
        number(&report["pump_toggles"], 0),
    ))?;
    line_stop(terminal, &report["newest_stop"])
}

fn line_stop(terminal: &Terminal, stop: &Value) -> Result<(), Failure> {
    if stop.is_null() {
        return Ok(());
    }
    let by: Vec<String> = items(&stop["by"]).iter().map(text).collect();
    let loops = items(&stop["loops"]).iter().map(|taken| {
        let (seen, decided) = (&taken["seen_after_tick"], &taken["decided_in_tick"]);
        format!(
            "seen after tick {}, in force in tick {}",
            text(seen),
            text(decided)
        )
    });
    let loops: Vec<String> = loops.collect();
    terminal.line(format!(
        "Newest stop by {}: {}",
        by.join(", "),
        loops.join("; ")
    ))
}

fn bringup(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    terminal.line("")?;
    terminal.heading("Bring-up, read back from the kernel")?;
    bringup_table(terminal, &status["bringup"])
}

/// The lines of bring-up, with what mends those that failed.
pub fn bringup_table(terminal: &Terminal, checks: &Value) -> Result<(), Failure> {
    let mut table = Table::new(&["SCOPE", "CHECK", "WANTED", "FOUND", "OK", "FIX"]);
    for check in items(checks) {
        let ok = match (check["ok"] == true, check["required"] == true) {
            (true, _) => Cell::toned("yes", Tone::Good),
            (false, true) => Cell::toned("NO", Tone::Bad),
            (false, false) => Cell::toned("no", Tone::Warn),
        };
        table.row([
            Cell::from(text(&check["scope"])),
            text(&check["check"]).into(),
            text(&check["wanted"]).into(),
            text(&check["found"]).into(),
            ok,
            text(&check["fix"]).into(),
        ]);
    }
    terminal.table(&table)
}

fn loops(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    terminal.line("")?;
    terminal.heading("Control loops")?;
    let mut table = Table::new(&[
        "LOOP",
        ">PERIOD µs",
        ">PRIO",
        ">CORE",
        ">TICKS",
        ">SKIPPED",
        "ADDS UP",
        ">LATENESS p50 µs",
        ">p99 µs",
        ">p99.9 µs",
        ">max µs",
        ">TICK p99 µs",
        ">max µs",
    ]);
    for each in items(&status["loops"]) {
        let lateness = &each["lateness_us"];
        table.row([
            Cell::from(text(&each["name"])),
            text(&each["period_us"]).into(),
            text(&each["priority"]).into(),
            text(&each["core"]).into(),
            text(&each["ticks"]).into(),
            should_be_zero(&each["skipped"]),
            yes_no(&each["identity_holds"]),
            number(&lateness["p50"], 1).into(),
            number(&lateness["p99"], 1).into(),
            number(&lateness["p999"], 1).into(),
            number(&lateness["max"], 1).into(),
            number(&each["execution_us"]["p99"], 1).into(),
            number(&each["execution_us"]["max"], 1).into(),
        ]);
    }
    terminal.table(&table)
}

/// What overran, and why; only where something did.
fn overruns(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    const COUNTERS: [&str; 6] = [
        "over_budget",
        "overruns_late_wake",
        "overruns_long_execution",
        "overruns_bus",
        "caught_up",
        "stops",
    ];
    let count = |each: &Value, name: &str| each[name].as_u64().unwrap_or(0);
    let overran = |each: &&Value| COUNTERS.iter().any(|name| count(each, name) > 0);
    let loops: Vec<&Value> = items(&status["loops"]).iter().filter(overran).collect();
    if loops.is_empty() {
        return Ok(());
    }
    terminal.line("")?;
    terminal.heading("Overruns, by cause")?;
    let mut table = Table::new(&[
        "LOOP",
        ">BUDGET µs",
        ">OVER BUDGET",
        ">LATE WAKE-UP",
        ">LONG TICK",
        ">SLOW BUS",
        ">CAUGHT UP",
        ">STOPS",
    ]);
    for each in loops {
        let cells = [
            Cell::from(text(&each["name"])),
            number(&each["budget_us"], 0).into(),
        ];
        let counters = COUNTERS
            .iter()
            .map(|name| should_be_zero(&json!(count(each, name))));
        table.row(cells.into_iter().chain(counters));
    }
    terminal.table(&table)
}

/// The first system call of a tick, where it is traced.
fn system_calls(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    for each in items(&status["loops"]) {
        let call = &each["thread"]["first_system_call"];
        if call.is_object() {
            let line = format!(
                "loop {} made system call {} ({}) at tick {}{}, from program offset {:#x}",
                text(&each["name"]),
                text(&call["name"]),
                text(&call["number"]),
                text(&call["tick"]),
                call["block"]
                    .as_str()
                    .map_or_else(String::new, |block| format!(" in block \"{block}\"")),
                call["program_offset"].as_u64().unwrap_or(0),
            );
            terminal.line(terminal.paint(Tone::Bad, &line))?;
        }
    }
    Ok(())
}

fn threads(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    terminal.line("")?;
    terminal.heading("Threads, since arming")?;
    let mut table = Table::new(&[
        "THREAD",
        ">TID",
        ">MINOR FAULTS",
        ">MAJOR FAULTS",
        ">ALLOCATIONS",
        ">PREEMPTIONS",
    ]);
    let all = [("loop", &status["loops"]), ("bus", &status["buses"])];
    for (kind, list) in all {
        for each in items(list) {
            let thread = &each["thread"];
            table.row([
                Cell::from(format!("{kind} {}", text(&each["name"]))),
                text(&thread["tid"]).into(),
                should_be_zero(&thread["minor_faults"]),
                should_be_zero(&thread["major_faults"]),
                should_be_zero(&thread["allocations"]),
                text(&thread["involuntary_switches"]).into(),
            ]);
        }
    }
    terminal.table(&table)?;
    system_calls(terminal, status)
}

fn buses(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    for bus in items(&status["buses"]) {
        terminal.line("")?;
        terminal.heading(&format!(
            "Bus {} at {}: {}, {} cycles, {} losses, {} garbage bytes, round trip p99 {} µs",
            text(&bus["name"]),
            text(&bus["path"]),
            if bus["connected"] == true {
                "up"
            } else {
                "DOWN"
            },
            text(&bus["cycles"]),
            text(&bus["losses"]),
            text(&bus["garbage_bytes"]),
            number(&bus["round_trip_us"]["p99"], 0),
        ))?;
        let mut table = Table::new(&[
            ">SERVO",
            ">REPLIES",
            ">TIMEOUTS",
            ">BAD PACKETS",
            ">STATUS ERRORS",
        ]);
        for servo in items(&bus["servos"]) {
            table.row([
                Cell::from(text(&servo["id"])),
                text(&servo["replies"]).into(),
                should_be_zero(&servo["timeouts"]),
                should_be_zero(&servo["bad_packets"]),
                should_be_zero(&servo["status_errors"]),
            ]);
        }
        terminal.table(&table)?;
    }
    Ok(())
}

fn devices(terminal: &Terminal, status: &Value) -> Result<(), Failure> {
    terminal.line("")?;
    terminal.heading("Devices")?;
    let mut table = Table::new(&["DEVICE", "STATUS", "PHASE", "CAUSE", ">FOR ms", ">LEASE"]);
    for device in items(&status["devices"]) {
        table.row([
            Cell::from(text(&device["id"])),
            status_cell(&device["status"]),
            text(&device["phase"]).into(),
            text(&device["cause"]).into(),
            text(&device["phase_for_ms"]).into(),
            text(&device["lease_epoch"]).into(),
        ]);
    }
    terminal.table(&table)
}

/// `rt histogram`.
pub fn histogram(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &HistogramOptions,
) -> Result<(), Failure> {
    let mut params = Map::new();
    if let Some(name) = &options.control_loop {
        params.insert("loop".into(), json!(name));
    }
    if let Some(name) = &options.bus {
        params.insert("bus".into(), json!(name));
    }
    if options.all {
        params.insert("all".into(), json!(true));
    }
    if let Some(kind) = options.kind {
        params.insert("kind".into(), json!(kind.name()));
    }
    if let Some(path) = &options.cyclictest_json {
        let document = cyclictest_document(session, options)?;
        write(path, &format!("{document:#}\n"))?;
    }
    let histogram = session.call("rt.histogram", Value::Object(params))?;
    if let Some(path) = &options.svg {
        write(path, &plot::svg(&histogram))?;
    }
    if terminal.json {
        return terminal.json_page(&histogram);
    }
    summary(terminal, &histogram)?;
    bars(terminal, &histogram)?;
    match &options.svg {
        Some(path) => terminal.line(format!("\nplot written to {}", path.display())),
        None => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::File {
        path: path.display().to_string(),
        error,
    })
}

/// Every loop, or the one that is named, as a thread of cyclictest.
fn cyclictest_document(
    session: &mut Session<'_>,
    options: &HistogramOptions,
) -> Result<Value, Failure> {
    let kind = options.kind.unwrap_or(HistogramKind::Lateness);
    let system = session.call("system.get_info", json!({}))?;
    let status = session.call("rt.status", json!({}))?;
    let mut threads = Vec::new();
    for each in items(&status["loops"]) {
        let name = text(&each["name"]);
        if options
            .control_loop
            .as_ref()
            .is_some_and(|wanted| *wanted != name)
        {
            continue;
        }
        let params = json!({"loop": name, "kind": kind.name()});
        threads.push(Thread {
            histogram: session.call("rt.histogram", params)?,
            core: each["core"].as_u64(),
        });
    }
    let counted_for = status["counted_for_s"].as_f64().unwrap_or(0.0).max(0.0);
    let counted_for = Duration::try_from_secs_f64(counted_for).unwrap_or_default();
    Ok(cyclictest::document(&threads, &system, counted_for))
}

/// `rt reset`.
pub fn reset(session: &mut Session<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let reset = session.call("rt.reset", json!({}))?;
    if terminal.json {
        return terminal.json_page(&reset);
    }
    terminal.line("counters and histograms begin anew")
}

fn summary(terminal: &Terminal, histogram: &Value) -> Result<(), Failure> {
    let quantiles = &histogram["quantiles"];
    terminal.heading(&format!(
        "{} of {}: {} values",
        text(&histogram["kind"]),
        text(&histogram["source"]),
        text(&histogram["count"]),
    ))?;
    let mut table = Table::new(&[
        ">MEAN µs",
        ">p50 µs",
        ">p90 µs",
        ">p99 µs",
        ">p99.9 µs",
        ">p99.99 µs",
        ">max µs",
    ]);
    table.row([
        Cell::from(number(&histogram["mean"], 1)),
        number(&quantiles["p50"], 1).into(),
        number(&quantiles["p90"], 1).into(),
        number(&quantiles["p99"], 1).into(),
        number(&quantiles["p999"], 1).into(),
        number(&quantiles["p9999"], 1).into(),
        number(&histogram["max"], 1).into(),
    ]);
    terminal.table(&table)?;
    if histogram["skipped"]
        .as_u64()
        .is_some_and(|skipped| skipped > 0)
    {
        let text = format!(
            "{} periods were skipped: no latency stands for them",
            text(&histogram["skipped"])
        );
        terminal.line(terminal.paint(Tone::Warn, &text))?;
    }
    Ok(())
}

/// The buckets as bars, joined into at most [`TEXT_ROWS`] rows; logarithmic, because the rare
/// values are the ones that matter.
fn bars(terminal: &Terminal, histogram: &Value) -> Result<(), Failure> {
    let buckets = plot::buckets(histogram);
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else {
        return terminal.line("nothing was recorded yet");
    };
    terminal.line("")?;
    let (low, high) = (first.0.max(0.001).ln(), last.0.max(0.002).ln());
    let step = ((high - low) / TEXT_ROWS as f64).max(0.01);
    let mut rows: Vec<(f64, u64)> = Vec::new();
    for (upper, count) in &buckets {
        let edge = (low + ((upper.max(0.001).ln() - low) / step).ceil() * step).exp();
        match rows.last_mut() {
            Some(row) if edge - row.0 < row.0 * 1e-9 => row.1 += count,
            _ => rows.push((edge, *count)),
        }
    }
    let most = rows.iter().map(|row| row.1).max().unwrap_or(1);
    let scale = BAR_WIDTH / (most as f64 + 1.0).ln();
    let mut table = Table::new(&[">UP TO µs", ">COUNT", "LOG SCALE"]);
    for (edge, count) in rows {
        let length = ((count as f64 + 1.0).ln() * scale).ceil() as usize;
        table.row([
            Cell::from(format!("{edge:.1}")),
            count.to_string().into(),
            "▇".repeat(length).into(),
        ]);
    }
    terminal.table(&table)
}
