//! `kairo latency`: the running kairo-rt's wake-up lateness beside cyclictest's, in turns.
//!
//! Ours are windows of the loop's own histogram, which is always on; nothing is started or changed
//! in the real-time plane. cyclictest runs between them with the loop's period, priority and core,
//! half a period away from the loop's ticks, so that the two do not meet. It needs root; without
//! it, or without cyclictest, the loop's windows are shown alone and the reason is said.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::arguments::LatencyOptions;
use crate::call::Session;
use crate::failure::Failure;
use crate::latency_window::Window;
use crate::plot;
use crate::terminal::{Cell, Table, Terminal, Tone, items, number, should_be_zero, text};

/// The two take turns of at most this length.
const SLICE_S: u64 = 10;
/// cyclictest's histogram reaches this far, µs; what lies above is counted at its maximum.
const HISTOGRAM_US: u64 = 20_000;
/// Where distributions put it.
const CYCLICTEST: [&str; 3] = [
    "/usr/bin/cyclictest",
    "/usr/sbin/cyclictest",
    "/usr/local/bin/cyclictest",
];

/// What the two have in common.
#[derive(Debug)]
struct Terms {
    name: String,
    period_us: u64,
    phase_us: u64,
    priority: u64,
    core: Option<u64>,
}

/// `latency`.
pub fn compare(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &LatencyOptions,
) -> Result<(), Failure> {
    let terms = terms(session, options.control_loop.as_deref())?;
    let program = reference(options.alone);
    let mut ours = Window::default();
    let mut theirs = Window::default();
    let mut note = program.as_ref().err().cloned();
    let mut left_s = options.seconds;
    while left_s > 0 {
        let slice_s = left_s.min(SLICE_S);
        left_s -= slice_s;
        let before = histogram(session, &terms)?;
        thread::sleep(Duration::from_secs(slice_s));
        ours.add(&histogram(session, &terms)?.since(&before));
        if let (Ok(program), None) = (&program, &note) {
            match run(program, &terms, slice_s) {
                Ok(window) => theirs.add(&window),
                Err(reason) => note = Some(reason),
            }
        }
    }
    // Half a comparison is none.
    let theirs = note.is_none().then_some(theirs);
    let status = session.call("rt.status", json!({}))?;
    let report = report(&terms, options, &status, &ours, theirs.as_ref(), note);
    if let Some(path) = &options.svg {
        let written = std::fs::write(path, plot::both(&report));
        written.map_err(|error| Failure::File {
            path: path.display().to_string(),
            error,
        })?;
    }
    if terminal.json {
        return terminal.json_page(&report);
    }
    show(terminal, &report)
}

/// The loop that is asked for, or the only one.
fn terms(session: &mut Session<'_>, wanted: Option<&str>) -> Result<Terms, Failure> {
    let status = session.call("rt.status", json!({}))?;
    let loops = items(&status["loops"]);
    let names: Vec<String> = loops.iter().map(|each| text(&each["name"])).collect();
    let index = match wanted {
        Some(wanted) => names.iter().position(|name| name == wanted),
        None => (names.len() == 1).then_some(0),
    };
    let Some(index) = index else {
        let names = names.join(", ");
        return Err(Failure::Usage(format!("name one loop of: {names}")));
    };
    let of_loop = |key: &str| loops[index][key].as_u64();
    let (Some(period_us), Some(priority)) = (of_loop("period_us"), of_loop("priority")) else {
        let text = "the kernel does not say the loop's period and priority".to_owned();
        return Err(Failure::Program(text));
    };
    Ok(Terms {
        name: names[index].clone(),
        period_us,
        phase_us: of_loop("phase_us").unwrap_or(0),
        priority,
        core: of_loop("core"),
    })
}

fn histogram(session: &mut Session<'_>, terms: &Terms) -> Result<Window, Failure> {
    let params = json!({"loop": terms.name, "kind": "lateness"});
    let answer = session.call("rt.histogram", params)?;
    Ok(Window::of_histogram(&answer))
}

/// cyclictest, or why there is none to compare with.
fn reference(alone: bool) -> Result<&'static str, String> {
    if alone {
        return Err("cyclictest was left out with --alone".to_owned());
    }
    let found = CYCLICTEST.iter().find(|path| Path::new(path).exists());
    let Some(path) = found else {
        return Err("cyclictest is not installed (Debian: apt install rt-tests)".to_owned());
    };
    if !nix::unistd::geteuid().is_root() {
        return Err("cyclictest needs root: run this with sudo to compare".to_owned());
    }
    Ok(path)
}

/// One turn of cyclictest; or why it failed.
fn run(program: &str, terms: &Terms, seconds: u64) -> Result<Window, String> {
    let mut command = Command::new(program);
    command
        .args(arguments(terms, seconds))
        .arg("--json=/dev/stderr")
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| format!("{program} does not start: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let result = said.find("{\n").and_then(|from| {
        let mut values = serde_json::Deserializer::from_str(&said[from..]).into_iter::<Value>();
        values.next()?.ok()
    });
    result
        .and_then(|result| Window::of_cyclictest(&result["thread"]["0"]))
        .ok_or_else(|| format!("cyclictest gave no result ({}): {said}", output.status))
}

fn arguments(terms: &Terms, seconds: u64) -> Vec<String> {
    let Terms {
        period_us,
        phase_us,
        priority,
        ..
    } = terms;
    // Wake-ups lie at this offset from whole seconds: half a period after the loop's.
    let offset_us = (phase_us + period_us / 2) % period_us;
    let text = format!(
        "--quiet --threads=1 --mlockall --priority={priority} --interval={period_us} \
         --secaligned={offset_us} --duration={seconds} --histogram={HISTOGRAM_US}"
    );
    let mut arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if let Some(core) = terms.core {
        arguments.push(format!("--affinity={core}"));
    }
    arguments
}

fn report(
    terms: &Terms,
    options: &LatencyOptions,
    status: &Value,
    ours: &Window,
    theirs: Option<&Window>,
    note: Option<String>,
) -> Value {
    let mut loops = items(&status["loops"]).iter();
    let of_loop = loops.find(|each| text(&each["name"]) == terms.name);
    let thread = of_loop.map_or(Value::Null, |each| each["thread"].clone());
    let skipped = of_loop.map_or(Value::Null, |each| each["skipped"].clone());
    let kernel = nix::sys::utsname::uname()
        .map(|name| format!("{} {}", name.release().display(), name.version().display()))
        .unwrap_or_default();
    let command = theirs.map(|_| arguments(terms, SLICE_S.min(options.seconds)).join(" "));
    json!({
        "loop": terms.name,
        "period_us": terms.period_us,
        "priority": terms.priority,
        "core": terms.core,
        "seconds": options.seconds,
        "kernel": kernel,
        "kairo_rt": ours.summary(),
        "since_arming": {
            "skipped": skipped,
            "minor_faults": thread["minor_faults"],
            "major_faults": thread["major_faults"],
            "allocations": thread["allocations"],
        },
        "cyclictest": theirs.map(Window::summary),
        "cyclictest_arguments": command,
        "note": note,
    })
}

fn show(terminal: &Terminal, report: &Value) -> Result<(), Failure> {
    terminal.heading(&format!(
        "Wake-up lateness of {} over {} s: period {} µs, priority {}, core {}",
        text(&report["loop"]),
        text(&report["seconds"]),
        text(&report["period_us"]),
        text(&report["priority"]),
        text(&report["core"]),
    ))?;
    let mut table = Table::new(&[
        "WHAT",
        ">SAMPLES",
        ">p50 µs",
        ">p99 µs",
        ">p99.9 µs",
        ">p99.99 µs",
        ">max µs",
    ]);
    for (name, key) in [("kairo-rt", "kairo_rt"), ("cyclictest", "cyclictest")] {
        let side = &report[key];
        if side.is_null() {
            continue;
        }
        let cell = |key: &str| Cell::from(number(&side[key], 1));
        table.row([
            Cell::from(name),
            text(&side["count"]).into(),
            cell("p50"),
            cell("p99"),
            cell("p999"),
            cell("p9999"),
            cell("max"),
        ]);
    }
    terminal.table(&table)?;
    let since = &report["since_arming"];
    let mut table = Table::new(&[
        "SINCE ARMING",
        ">SKIPPED",
        ">FAULTS",
        ">MAJOR",
        ">ALLOCATIONS",
    ]);
    table.row([
        Cell::from("kairo-rt"),
        should_be_zero(&since["skipped"]),
        should_be_zero(&since["minor_faults"]),
        should_be_zero(&since["major_faults"]),
        should_be_zero(&since["allocations"]),
    ]);
    terminal.line("")?;
    terminal.table(&table)?;
    match report["note"].as_str() {
        Some(note) => terminal.line(terminal.paint(Tone::Warn, &format!("\nalone: {note}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cyclictest_wakes_half_a_period_from_the_loop() {
        let terms = Terms {
            name: "arm-loop".into(),
            period_us: 4000,
            phase_us: 2250,
            priority: 80,
            core: Some(3),
        };
        let arguments = arguments(&terms, 10);
        for wanted in [
            "--secaligned=250",
            "--affinity=3",
            "--interval=4000",
            "--priority=80",
        ] {
            assert!(arguments.iter().any(|word| word == wanted), "{arguments:?}");
        }
    }
}
