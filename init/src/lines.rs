//! From bytes of a service's output to bounded log lines.
//!
//! Bounded twice: a line longer than [`LINE_BYTES_MAX`] is split, and a service that writes more
//! than its budget has the excess read and discarded, counted in lines. It is discarded rather
//! than left in the pipe because a full pipe would block the writer, and the writer may be the
//! real-time plane's helper.

use std::time::Duration;

use crate::sys::BootTime;

/// Longest stored line; a longer one continues on the next.
pub const LINE_BYTES_MAX: usize = 1024;
/// Sustained output of one service that is kept, bytes per second.
pub const BUDGET_BYTES_PER_S: u64 = 32 * 1024;
/// Burst that is kept: a panic with a long backtrace fits several times.
pub const BUDGET_BURST_BYTES: u64 = 64 * 1024;

/// Splits one stream into lines within a budget.
#[derive(Debug)]
pub struct LineSplitter {
    partial: Vec<u8>,
    allowance_bytes: u64,
    refilled_at: BootTime,
    dropped_lines: u64,
}

impl LineSplitter {
    /// A stream that starts at `now` with a full budget.
    pub fn new(now: BootTime) -> Self {
        Self {
            partial: Vec::new(),
            allowance_bytes: BUDGET_BURST_BYTES,
            refilled_at: now,
            dropped_lines: 0,
        }
    }

    /// Takes bytes and calls `line` for each complete line.
    pub fn push(&mut self, now: BootTime, bytes: &[u8], mut line: impl FnMut(String)) {
        let elapsed = now
            .saturating_sub(self.refilled_at)
            .min(Duration::from_secs(60));
        let refill = elapsed.as_millis() as u64 * BUDGET_BYTES_PER_S / 1000;
        if refill > 0 {
            self.allowance_bytes = (self.allowance_bytes + refill).min(BUDGET_BURST_BYTES);
            self.refilled_at = now;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let complete = piece.ends_with(b"\n");
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if self.allowance_bytes < piece.len() as u64 {
                self.dropped_lines += 1;
                self.partial.clear();
                continue;
            }
            self.allowance_bytes -= piece.len() as u64;
            for chunk in text.chunks(LINE_BYTES_MAX) {
                if self.partial.len() + chunk.len() > LINE_BYTES_MAX {
                    self.emit(&mut line);
                }
                self.partial.extend_from_slice(chunk);
            }
            if complete {
                self.emit(&mut line);
            }
        }
    }

    /// Gives up the unfinished last line; the stream has ended.
    pub fn finish(&mut self, mut line: impl FnMut(String)) {
        if !self.partial.is_empty() {
            self.emit(&mut line);
        }
    }

    fn emit(&mut self, line: &mut impl FnMut(String)) {
        if self.dropped_lines > 0 {
            let dropped = std::mem::take(&mut self.dropped_lines);
            line(format!(
                "({dropped} lines over the log budget were dropped)"
            ));
        }
        let text = String::from_utf8_lossy(&self.partial);
        line(text.trim_end_matches('\r').to_owned());
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(splitter: &mut LineSplitter, now: BootTime, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        splitter.push(now, bytes, |line| lines.push(line));
        lines
    }

    #[test]
    fn a_line_arrives_whole_from_pieces() {
        let mut splitter = LineSplitter::new(Duration::ZERO);
        assert!(lines_of(&mut splitter, Duration::ZERO, b"he").is_empty());
        let lines = lines_of(&mut splitter, Duration::ZERO, b"llo\r\n\nnext");
        assert_eq!(lines, ["hello", ""]);
        let mut rest = Vec::new();
        splitter.finish(|line| rest.push(line));
        assert_eq!(rest, ["next"]);
    }

    #[test]
    fn an_endless_line_is_split_and_never_held() {
        let mut splitter = LineSplitter::new(Duration::ZERO);
        let lines = lines_of(&mut splitter, Duration::ZERO, &[b'x'; 5000]);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() == LINE_BYTES_MAX));
        assert_eq!(splitter.partial.len(), 5000 - 4 * LINE_BYTES_MAX);
    }

    #[test]
    fn a_flood_is_cut_to_its_budget_and_counted() {
        let mut splitter = LineSplitter::new(Duration::ZERO);
        let flood = b"0123456789abcde\n".repeat(10_000);
        let kept = lines_of(&mut splitter, Duration::ZERO, &flood);
        assert_eq!(kept.len() as u64, BUDGET_BURST_BYTES / 16);
        let later = lines_of(&mut splitter, Duration::from_secs(1), b"calm\n");
        let dropped = 10_000 - kept.len();
        let notice = format!("({dropped} lines over the log budget were dropped)");
        assert_eq!(later, [notice.as_str(), "calm"]);
    }

    #[test]
    fn bytes_that_are_not_text_are_shown_as_such() {
        let mut splitter = LineSplitter::new(Duration::ZERO);
        let lines = lines_of(&mut splitter, Duration::ZERO, b"\xff\xfe\n");
        assert_eq!(lines, ["\u{fffd}\u{fffd}"]);
    }
}
