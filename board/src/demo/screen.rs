//! What the demo shows: a table a newcomer understands, one row a step, as it happens.

use std::io::{self, IsTerminal, Write};

use super::report::{Report, StepResult};

/// Width of the name column: the longest step name is 20 characters.
const NAME_WIDTH: usize = 22;
/// Width of the verdict column.
const VERDICT_WIDTH: usize = 6;

/// The table.
#[derive(Debug)]
pub struct Screen {
    colour: bool,
}

impl Screen {
    /// Prints the heading.
    pub fn begin(heading: &str) -> Self {
        let screen = Self {
            colour: io::stdout().is_terminal(),
        };
        println!("{heading}");
        println!("{}", "─".repeat(96));
        screen
    }

    /// Says that a step begins and what it is about to show.
    pub fn running(&self, name: &str, shows: &str) {
        if self.colour {
            print!(
                "\r\x1b[2K{name:<NAME_WIDTH$} {:<VERDICT_WIDTH$} {shows}",
                "…"
            );
            // Only the moving line is lost if the terminal is gone.
            let _ = io::stdout().flush();
        }
    }

    /// Prints a finished step's row, its detail wrapped under itself.
    pub fn finished(&self, step: &StepResult) {
        let (word, on, off) = match (step.ok, self.colour) {
            (true, true) => ("ok", "\x1b[32m", "\x1b[0m"),
            (false, true) => ("FAIL", "\x1b[31;1m", "\x1b[0m"),
            (true, false) => ("ok", "", ""),
            (false, false) => ("FAIL", "", ""),
        };
        let clear = if self.colour { "\r\x1b[2K" } else { "" };
        let indent = " ".repeat(NAME_WIDTH + VERDICT_WIDTH + 2);
        let detail = wrapped(&step.detail, 66).join(&format!("\n{indent}"));
        println!(
            "{clear}{:<NAME_WIDTH$} {on}{word:<VERDICT_WIDTH$}{off} {detail}",
            step.name
        );
    }

    /// Prints the latency comparison and the verdict.
    pub fn end(&self, report: &Report) {
        println!("{}", "─".repeat(96));
        let row = |name: &str, q: &super::report::Quantiles, note: String| {
            println!(
                "{name:<22} {:>9.1} {:>9.1} {:>9.1} {:>9.1}   {note}",
                q.p50, q.p99, q.p999, q.max
            );
        };
        if report.cyclictest.cycles > 0 {
            println!(
                "{:<22} {:>9} {:>9} {:>9} {:>9}",
                "lateness, µs", "p50", "p99", "p99.9", "max"
            );
            let rt = &report.rt;
            let account = format!(
                "{} ticks, {} skipped, {} allocations, {} major faults",
                rt.ticks, rt.skipped, rt.allocations, rt.major_faults
            );
            row("kairo-rt", &rt.lateness_us, account);
            let cycles = format!("{} cycles", report.cyclictest.cycles);
            row(
                report.cyclictest.program,
                &report.cyclictest.latency_us,
                cycles,
            );
        }
        let passed = report.steps.iter().filter(|step| step.ok).count();
        println!("{passed} of {} steps passed.", report.steps.len());
    }
}

/// `text` in lines of at most `width` characters, broken at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_details_wrap_at_words() {
        assert_eq!(wrapped("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrapped("abcdefgh ij", 5), ["abcdefgh", "ij"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
