//! The log ring: the newest lines of everything, in bounded memory.
//!
//! Bounded in bytes, counting the text and a fixed overhead per line. When it is full, the oldest
//! line of the service that holds the most goes, and is counted: a flood costs its author's lines
//! and not the others' last words. Nothing here touches a disk: what must survive a power cut is
//! written to the crash log by the supervisor.

use std::collections::VecDeque;

use serde::Serialize;

/// Memory for stored lines.
pub const RING_BYTES_MAX: usize = 512 * 1024;
/// What a line costs besides its text: its struct and the allocator's share, rounded up.
const LINE_OVERHEAD_BYTES: usize = 64;
/// Most lines one reply may carry.
pub const REPLY_LINES_MAX: usize = 1000;

/// One stored line.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Line {
    /// CLOCK_BOOTTIME, milliseconds.
    pub ms: u64,
    /// Who said it.
    pub service: &'static str,
    /// What was said, without line ends.
    pub text: String,
}

/// The ring.
#[derive(Debug, Default)]
pub struct LogRing {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Bytes held per service; as many entries as there are services.
    shares: Vec<(&'static str, usize)>,
    dropped: u64,
}

impl LogRing {
    /// Stores a line, at the cost of the oldest of whoever holds the most.
    pub fn push(&mut self, line: Line) {
        *self.share(line.service) += line.text.len() + LINE_OVERHEAD_BYTES;
        self.bytes += line.text.len() + LINE_OVERHEAD_BYTES;
        self.lines.push_back(line);
        while self.bytes > RING_BYTES_MAX {
            let largest = self.shares.iter().max_by_key(|(_, bytes)| *bytes);
            let largest = largest.map(|(service, _)| *service);
            let mut lines = self.lines.iter();
            let oldest = lines.position(|line| Some(line.service) == largest);
            let Some(line) = oldest.and_then(|index| self.lines.remove(index)) else {
                break;
            };
            let bytes = line.text.len() + LINE_OVERHEAD_BYTES;
            *self.share(line.service) -= bytes;
            self.bytes -= bytes;
            self.dropped += 1;
        }
    }

    fn share(&mut self, service: &'static str) -> &mut usize {
        let known = self.shares.iter().position(|(name, _)| *name == service);
        let index = known.unwrap_or(self.shares.len());
        if known.is_none() {
            self.shares.push((service, 0));
        }
        &mut self.shares[index].1
    }

    /// The newest `count` lines, oldest first, of one service or of all.
    pub fn tail(&self, count: usize, service: Option<&str>) -> Vec<&Line> {
        let wanted = |line: &&Line| service.is_none_or(|name| line.service == name);
        let newest = self.lines.iter().rev().filter(wanted);
        let mut lines: Vec<&Line> = newest.take(count.min(REPLY_LINES_MAX)).collect();
        lines.reverse();
        lines
    }

    /// How many lines the bound has cost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Memory in use, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ms: u64, service: &'static str, bytes: usize) -> Line {
        Line {
            ms,
            service,
            text: "x".repeat(bytes),
        }
    }

    #[test]
    fn memory_stays_bounded_and_losses_are_counted() {
        let mut ring = LogRing::default();
        for ms in 0..100_000 {
            ring.push(line(ms, "flood", 200));
        }
        assert!(ring.bytes() <= RING_BYTES_MAX);
        assert_eq!(ring.dropped() + ring.lines.len() as u64, 100_000);
        assert_eq!(ring.tail(1, None)[0].ms, 99_999);
    }

    #[test]
    fn a_flood_costs_its_author_only() {
        let mut ring = LogRing::default();
        ring.push(line(0, "quiet", 30));
        for ms in 1..50_000 {
            ring.push(line(ms, "flood", 100));
        }
        assert_eq!(ring.tail(1, Some("quiet"))[0].ms, 0);
        assert_eq!(ring.tail(1, None)[0].ms, 49_999);
    }

    #[test]
    fn empty_lines_are_bounded_too() {
        let mut ring = LogRing::default();
        for ms in 0..100_000 {
            ring.push(line(ms, "flood", 0));
        }
        assert!(ring.lines.len() <= RING_BYTES_MAX / LINE_OVERHEAD_BYTES);
    }

    #[test]
    fn the_tail_is_the_newest_in_order_and_can_be_one_service() {
        let mut ring = LogRing::default();
        for ms in 0..10 {
            ring.push(line(ms, if ms % 2 == 0 { "even" } else { "odd" }, 1));
        }
        let times = |lines: Vec<&Line>| lines.iter().map(|line| line.ms).collect::<Vec<_>>();
        assert_eq!(times(ring.tail(3, None)), [7, 8, 9]);
        assert_eq!(times(ring.tail(2, Some("even"))), [6, 8]);
        assert_eq!(times(ring.tail(usize::MAX, Some("nobody"))), [0; 0]);
    }
}
