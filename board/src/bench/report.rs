//! The report of one benchmark: its JSON, its table on the screen, and whether it passed.
//!
//! ```text
//! let run = Run::begin("link", &paths, "none");
//! …measure…
//! let report = run.end(marks, raw);
//! report.finish(json_file)
//! ```

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

use super::host::Host;
use super::mark::Mark;
use crate::image::source::Source;
use crate::paths::Paths;

/// What a benchmark found. Its JSON has exactly these fields, in this order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The benchmark.
    pub bench: String,
    /// The commit, with `-dirty` where files differ from it.
    pub commit: String,
    /// The machine.
    pub host: Host,
    /// The marks.
    pub marks: Vec<Mark>,
    /// Everything measured, untrimmed; its shape is the benchmark's own.
    pub raw: Value,
}

/// A benchmark that has begun: remembers what the machine was like.
#[derive(Debug)]
pub struct Run {
    bench: String,
    commit: String,
    host: Host,
}

impl Run {
    /// Begins `bench`; `accel` is `none` unless what is measured runs in a guest.
    pub fn begin(bench: &str, paths: &Paths, accel: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            commit: Source::of(paths.workspace()).commit,
            host: Host::now(accel),
        }
    }

    /// The kernel that the measured programs ran on, where it is not this machine's.
    #[must_use]
    pub fn on_kernel(mut self, kernel: &str) -> Self {
        kernel.clone_into(&mut self.host.kernel);
        self
    }

    /// Ends it.
    pub fn end(mut self, marks: Vec<Mark>, raw: Value) -> Report {
        let stolen = Host::now(&self.host.accel).steal_ms;
        self.host.steal_ms = stolen.saturating_sub(self.host.steal_ms);
        Report {
            bench: self.bench,
            commit: self.commit,
            host: self.host,
            marks,
            raw,
        }
    }
}

impl Report {
    /// True only if there are marks and every one is kept.
    pub fn passed(&self) -> bool {
        !self.marks.is_empty() && self.marks.iter().all(|mark| mark.ok)
    }

    /// Prints the table, writes `json` if it is given, and says how to exit: 1 when a mark is
    /// missed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&self, json: Option<&Path>) -> anyhow::Result<ExitCode> {
        print!("{}", self.table());
        if let Some(file) = json {
            let text = serde_json::to_string_pretty(self)? + "\n";
            std::fs::write(file, text)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(if self.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The marks, one a line, and a line about the machine.
    pub fn table(&self) -> String {
        let width = |cells: &dyn Fn(&Mark) -> String| {
            let longest = self.marks.iter().map(|mark| cells(mark).chars().count());
            longest.max().unwrap_or(0).max(7)
        };
        let value = |mark: &Mark| format!("{} {}", number(mark.value), mark.unit);
        let control = |mark: &Mark| match &mark.control {
            Some(control) => format!("{} {}", control.name, number(control.value)),
            None => "-".to_owned(),
        };
        let (names, values, controls) = (
            width(&|mark| mark.name.clone()),
            width(&value),
            width(&control),
        );
        let host = &self.host;
        let mut text = format!(
            "{} at {}: {} × {}, {}, accel {}, load {:.2}, stolen {} ms\n",
            self.bench,
            self.commit,
            host.cpus,
            host.cpu,
            host.kernel,
            host.accel,
            host.load,
            host.steal_ms
        );
        let _ = writeln!(
            text,
            "{:names$}  {:>values$}  {:>controls$}  RATIO  OK  MARK",
            "WHAT", "OURS", "CONTROL"
        );
        for mark in &self.marks {
            let ratio = mark.ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
            let ok = if mark.ok { "ok" } else { "NO" };
            let _ = writeln!(
                text,
                "{:names$}  {:>values$}  {:>controls$}  {ratio:>5}  {ok}  {}",
                mark.name,
                value(mark),
                control(mark),
                mark.mark
            );
        }
        let missed = self.marks.iter().filter(|mark| !mark.ok).count();
        let _ = writeln!(text, "{} marks, {missed} missed", self.marks.len());
        text
    }
}

/// Three significant places are all that a shared machine gives.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mark::{Bound, Control};
    use super::*;

    fn report(values: &[f64]) -> Report {
        let directory = tempfile::tempdir().unwrap();
        let run = Run::begin(
            "ring",
            &Paths::at(directory.path(), directory.path()),
            "none",
        );
        let marks = values.iter().map(|value| {
            let control = Some(Control::new("rtrb", 4.0));
            Mark::new("8 B", *value, "ns", control, Bound::AtMostControlPlus(0.0))
        });
        run.end(marks.collect(), serde_json::json!({"samples": [1, 2]}))
    }

    #[test]
    fn one_missed_mark_or_none_at_all_fails_the_run() {
        let status = |report: &Report| format!("{:?}", report.finish(None).unwrap());
        let failure = format!("{:?}", ExitCode::FAILURE);
        assert_eq!(status(&report(&[3.0, 5.0])), failure);
        assert_eq!(status(&report(&[])), failure);
        assert_ne!(status(&report(&[3.0, 4.0])), failure);
    }

    #[test]
    fn the_file_has_the_agreed_shape() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ring.json");
        report(&[2.0]).finish(Some(&file)).unwrap();
        let read: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let keys =
            |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(
            keys(&read),
            sorted(["bench", "commit", "host", "marks", "raw"])
        );
        let host = ["accel", "cpu", "cpus", "kernel", "load", "steal_ms"];
        assert_eq!(keys(&read["host"]), sorted(host));
        let mark = ["control", "mark", "name", "ok", "ratio", "unit", "value"];
        assert_eq!(keys(&read["marks"][0]), sorted(mark));
        assert_eq!(
            keys(&read["marks"][0]["control"]),
            sorted(["name", "value"])
        );
        assert_eq!(read["marks"][0]["ratio"], 0.5);
        assert_eq!(read["marks"][0]["ok"], true);
    }

    fn sorted<const N: usize>(mut names: [&str; N]) -> Vec<String> {
        names.sort_unstable();
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_table_shows_both_sides_and_the_verdict() {
        let table = report(&[5.0]).table();
        assert!(table.contains("rtrb 4.00"), "{table}");
        assert!(table.contains(" NO  at most rtrb's"), "{table}");
        assert!(table.ends_with("1 marks, 1 missed\n"), "{table}");
    }
}
