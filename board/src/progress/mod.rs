//! Long steps on the screen: a bar on a terminal, plain lines in a log.
//!
//! Guarantees: everything goes to standard error, so `--json` output on standard output stays
//! clean; a driven child's complete output is in a log file, is never interleaved with the
//! bar, and is bounded in memory; a child that outlives its deadline is ended.
//! Does not: parse what a child prints beyond counting lines.

mod child;
mod trouble;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use child::ChildError;
pub use trouble::{Trouble, full_disk_hint};

/// One long step, shown from [`Step::start`] until it is done, cached or failed.
///
/// May be shared between threads by reference.
#[derive(Debug)]
pub struct Step {
    title: String,
    started: Instant,
    expected: Option<u64>,
    position: AtomicU64,
    /// Tenths of the whole already reported as plain lines.
    tenths_told: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Begins a step. With `expected_units` the terminal shows a bar and an estimate,
    /// without it a spinner with the time spent.
    pub fn start(title: &str, expected_units: Option<u64>) -> Self {
        let on_terminal = io::stderr().is_terminal();
        if !on_terminal {
            eprintln!("{title} …");
        }
        Self::new(
            title,
            expected_units,
            on_terminal.then(|| terminal_bar(title, expected_units)),
        )
    }

    fn new(title: &str, expected: Option<u64>, bar: Option<ProgressBar>) -> Self {
        Self {
            title: title.to_owned(),
            started: Instant::now(),
            expected: expected.filter(|units| *units > 0),
            position: AtomicU64::new(0),
            tenths_told: AtomicU64::new(0),
            bar,
        }
    }

    /// Records that `units` more are finished.
    pub fn advance(&self, units: u64) {
        let position = self.position.fetch_add(units, Ordering::Relaxed) + units;
        if let Some(bar) = &self.bar {
            // An expectation that was too low must not show 104 %.
            bar.set_position(
                self.expected
                    .map_or(position, |expected| position.min(expected)),
            );
        } else if let Some(tenths) = self.tenth_to_tell(position) {
            eprintln!("{}: {} %", self.title, tenths * 10);
        }
    }

    /// The tenth that `position` has newly completed, for plain output. The tenth tenth is
    /// left to [`Step::done`].
    fn tenth_to_tell(&self, position: u64) -> Option<u64> {
        let tenths = (position.saturating_mul(10) / self.expected?).min(9);
        let told = self.tenths_told.fetch_max(tenths, Ordering::Relaxed);
        (tenths > told).then_some(tenths)
    }

    /// Says what the step is at; a line of its own where there is no bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("{}: {text}", self.title),
        }
    }

    /// Time since the step began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the step well; `result` is what a reader wants to know, such as a size.
    pub fn done(self, result: &str) {
        self.finish("done", result);
    }

    /// Ends the step because its result already existed.
    pub fn cached(self, result: &str) {
        self.finish("cached", result);
    }

    /// Ends the step badly. The caller still returns its error; this only tells the reader
    /// which step it was.
    pub fn failed(self, reason: &str) {
        self.finish("FAILED", reason);
    }

    fn finish(self, verdict: &str, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let separator = if text.is_empty() { "" } else { ": " };
        eprintln!("{:<34} {verdict}{separator}{text}", self.title);
    }
}

fn terminal_bar(title: &str, expected: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let (bar, template) = match expected.filter(|units| *units > 0) {
        Some(units) => (
            ProgressBar::with_draw_target(Some(units), target),
            "{prefix} [{bar:28}] {percent:>3} % {elapsed} (about {eta} left) {wide_msg}",
        ),
        None => (
            ProgressBar::with_draw_target(None, target),
            "{prefix} {spinner} {elapsed} {wide_msg}",
        ),
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A byte count as people read it, in decimal units: `4.1 MB`.
pub fn readable_bytes(bytes: u64) -> String {
    let (value, unit) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (bytes as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => (bytes as f64 / 1e6, "MB"),
        _ => (bytes as f64 / 1e9, "GB"),
    };
    format!("{value:.1} {unit}")
}

/// A duration as people read it: `0.4s`, `5m02s`.
pub fn readable_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1}s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_output_tells_each_tenth_once() {
        let step = Step::new("test", Some(100), None);
        assert_eq!(step.tenth_to_tell(5), None);
        assert_eq!(step.tenth_to_tell(31), Some(3));
        assert_eq!(step.tenth_to_tell(35), None);
        assert_eq!(step.tenth_to_tell(250), Some(9), "never above the whole");
    }

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(readable_bytes(999), "999 B");
        assert_eq!(readable_bytes(4_100_000), "4.1 MB");
        assert_eq!(readable_duration(Duration::from_millis(400)), "0.4s");
        assert_eq!(readable_duration(Duration::from_secs(302)), "5m02s");
    }
}
