//! `cargo xtask bench link`: the link's rings, buffers and histograms beside rtrb and iceoryx2.
//!
//! A program outside the workspace (`board/link-bench`) measures, both sides in turns in one
//! process; it is started several times, because where memory and threads land differs from start
//! to start. Throughput is the least disturbed round of a start, since whatever else a shared
//! machine does only makes a round longer; latency is the median of a start's windows. A mark's
//! value is the median over the starts. Everything measured is in `raw`, untrimmed.

use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use serde_json::{Value, json};

use super::mark::{Bound, Control, Mark};
use super::outside;
use super::report::{Report, Run};
use crate::host::{self, Need};
use crate::paths::Paths;
use crate::progress::Step;

/// Starts of the program.
const STARTS: usize = 7;
/// What iceoryx2's build reads the system's headers with.
const LIBCLANG: Need = Need {
    program_or_file: "/usr/share/doc/libclang-dev",
    debian_package: "libclang-dev",
    why: "building iceoryx2, the control of the benchmark",
};

/// Builds the program, runs it, judges what it found.
///
/// # Errors
/// When it cannot be built or run.
pub fn run(paths: &Paths) -> anyhow::Result<Report> {
    if !has_libclang() {
        host::ensure(&[LIBCLANG], &paths.cache_dir("log")?)?;
    }
    let program = outside::build(paths, "link-bench")?;
    let run = Run::begin("link", paths, "none");
    let step = Step::start("Measuring", None);
    let measure = |what: &str| -> anyhow::Result<Value> {
        let output = Command::new(&program).arg(what).output()?;
        ensure!(
            output.status.success(),
            "{} {what} ended with {}: {}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let mut inside = Vec::new();
    let mut crossing = Vec::new();
    for _ in 0..STARTS {
        inside.push(measure("in-process")?);
        crossing.push(measure("crossing")?);
    }
    let paced = measure("paced")?;
    step.done(&format!("{STARTS} starts"));
    let marks = [
        ring_marks(&inside),
        crossing_marks(&crossing),
        paced_marks(&paced),
    ]
    .concat();
    let marks = [marks, part_marks(&inside)].concat();
    let raw = json!({"in_process": inside, "crossing": crossing, "paced": paced});
    Ok(run.end(marks, raw))
}

/// Whether bindgen will find its library without our help.
fn has_libclang() -> bool {
    let below = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name())
            .any(|name| name.to_string_lossy().starts_with("libclang.so"))
    };
    let versions = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    std::env::var_os("LIBCLANG_PATH").is_some()
        || ["/usr/lib", "/usr/lib64"]
            .iter()
            .any(|path| below(Path::new(path)))
        || versions
            .map(|entry| entry.path().join("lib"))
            .any(|path| below(&path))
}

/// Millions of values a second, for each way the ring was used.
fn ring_marks(starts: &[Value]) -> Vec<Mark> {
    let cases = starts[0]["rings"].as_object().into_iter().flatten();
    cases
        .map(|(case, _)| {
            let throughput = |side: &str| {
                let of = |start: &Value| 1000.0 / least(&start["rings"][case][side]);
                median(starts.iter().map(of))
            };
            let control = Some(Control::new("rtrb", throughput("rtrb")));
            let name = format!("ring, {case}");
            // With two slots either ring only passes cache lines back and forth: luck decides.
            let bound = match case.ends_with(", 2 slots") {
                true => Bound::Reported,
                false => Bound::AtLeastControl,
            };
            Mark::new(name, throughput("ours"), "M/s", control, bound)
        })
        .collect()
}

/// One way between two busy processes.
fn crossing_marks(starts: &[Value]) -> Vec<Mark> {
    let quantiles = ["p50", "p99", "p999", "max"];
    quantiles
        .map(|quantile| {
            let of = |side: &str| {
                let of_start = |start: &Value| {
                    let windows = start["windows"][side].as_array().into_iter().flatten();
                    let values = windows.map(|window| number(&window[quantile]));
                    if quantile == "max" {
                        values.fold(0.0, f64::max)
                    } else {
                        median(values)
                    }
                };
                median(starts.iter().map(of_start))
            };
            let bound = match quantile {
                "p50" | "p99" => Bound::AtMostControlPlus(0.0),
                _ => Bound::Reported,
            };
            let control = Some(Control::new("iceoryx2", of("iceoryx2")));
            Mark::new(
                format!("process to process, busy, {quantile}"),
                of("ours"),
                "ns",
                control,
                bound,
            )
        })
        .to_vec()
}

/// One way to a process that sleeps.
fn paced_marks(paced: &Value) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (pace, sides) in paced["paces"].as_object().into_iter().flatten() {
        for quantile in ["p50", "p99"] {
            let of = |side: &str| number(&sides[side][quantile]) / 1000.0;
            let control = Some(Control::new("iceoryx2", of("iceoryx2")));
            // A p99 of a few lines a second is one sample of a shared machine.
            let bound = match quantile {
                "p50" => Bound::AtMostControlPlus(0.0),
                _ => Bound::Reported,
            };
            let name = format!("process to process, {pace}, asleep, {quantile}");
            marks.push(Mark::new(name, of("ours"), "µs", control, bound));
        }
    }
    marks
}

/// The triple buffer and the histogram.
fn part_marks(starts: &[Value]) -> Vec<Mark> {
    let of = |what: &str, side: &str| median(starts.iter().map(|start| least(&start[what][side])));
    let ours = of("latest", "ours");
    let beside = |other: &str| {
        let control = Some(Control::new(other, of("latest", other)));
        let name = format!("latest value, 64 B, beside {other}");
        Mark::new(name, ours, "ns", control, Bound::Reported)
    };
    let mut marks = ["seqlock", "mutex", "arc-swap"].map(beside).to_vec();
    let record = of("histogram", "ours");
    marks.push(Mark::new(
        "histogram, a record",
        record,
        "ns",
        None,
        Bound::Below(15.0),
    ));
    marks
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn least(values: &Value) -> f64 {
    let values = values.as_array().into_iter().flatten().map(number);
    values.reduce(f64::min).unwrap_or(f64::NAN)
}

/// The middle value; the lower of two; not a number if there is none, or one that is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    if all.is_empty() || all.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    all.sort_unstable_by(f64::total_cmp);
    all[(all.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_median_over_starts_of_the_least_disturbed_round() {
        let start = |ours: [f64; 2]| json!({"rings": {"8 B": {"ours": ours, "rtrb": [5.0, 4.0]}}});
        let starts = [start([9.0, 2.0]), start([100.0, 8.0]), start([2.5, 3.0])];
        let marks = ring_marks(&starts);
        assert_eq!(marks[0].value, 400.0);
        assert_eq!(marks[0].ratio, Some(1.6));
        assert!(marks[0].ok);
    }

    #[test]
    fn what_is_missing_is_missed() {
        assert!(median([].into_iter()).is_nan());
        assert!(median([1.0, f64::NAN].into_iter()).is_nan());
        let marks = part_marks(&[json!({})]);
        assert!(marks.iter().all(|mark| !mark.ok));
        assert!(
            crossing_marks(&[json!({})])
                .iter()
                .all(|mark| !mark.ok || mark.value == 0.0)
        );
    }
}
