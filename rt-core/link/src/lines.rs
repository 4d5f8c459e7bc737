//! GPIO lines: what the thread that serves them counts, and that in words.
//!
//! [`LineStats`] is part of the statistics segment: atomic words with one writing thread each,
//! rt-safe to write. [`report`] turns them into names for operators and for the agent plane;
//! agent-only, it allocates. What it does not do: decide. Whether a robot stops is up to the
//! loops, which never read these words.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::stats::{MAX_LOOPS, PeriodStats};

/// E-stop inputs a robot can have: bits 0 to 7 of every set of lines.
pub const MAX_INPUTS: usize = 8;
/// The reset button's bit.
pub const RESET_BIT: u32 = 8;
/// The charge pump's bit.
pub const PUMP_BIT: u32 = 9;

/// What is counted about lines. Sets of lines are words with a bit a line.
#[derive(Debug, Default)]
#[repr(C)]
pub struct LineStats {
    /// The thread's periods; unused while its period is zero.
    pub periods: PeriodStats,
    /// Time of the newest look, CLOCK_MONOTONIC ns.
    pub looked_ns: AtomicU64,
    /// Inputs at the level that stops, and the reset at the level that resets.
    pub acting: AtomicU64,
    /// Lines that could not be read or driven when it was tried last.
    pub unreadable: AtomicU64,
    /// Inputs that are not good: acting, unreadable, or not at rest for long enough.
    pub bad: AtomicU64,
    /// Error number of the newest failure of a line; zero if there was none.
    pub errno: AtomicU64,
    /// Looks before their time, because an edge woke the thread.
    pub edge_looks: AtomicU64,
    /// Periods in which edges came faster than they are looked at.
    pub storms: AtomicU64,
    /// Lines that had edges at the end of the newest of those periods.
    pub storming: AtomicU64,
    /// Lines whose edges wake the thread. Written by the main thread.
    pub edges_on: AtomicU64,
    /// Times the charge pump's line changed.
    pub pump_toggles: AtomicU64,
    /// Times an input stopped the robot.
    pub stops: AtomicU64,
    /// Who did it the last time.
    pub stopped_by: AtomicU64,
    /// When it was seen the last time, CLOCK_MONOTONIC ns.
    pub seen_ns: AtomicU64,
    /// What became of it in every loop.
    pub loops: [LineStopStats; MAX_LOOPS],
}

/// The newest stop by an input, as one loop took it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct LineStopStats {
    /// The newest tick that had begun when the stop was seen. Written by the lines' thread.
    pub seen_after_tick: AtomicU64,
    /// The tick that took the newest stop it knows of, and what that tick decided is in force in
    /// it. Written by the loop.
    pub decided_in_tick: AtomicU64,
    /// When that tick began, CLOCK_MONOTONIC ns.
    pub decided_ns: AtomicU64,
    /// Which stop that was, by its number; written last.
    pub decided_stop: AtomicU64,
}

/// What a line is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// An input that must be good.
    #[default]
    Input,
    /// The reset button.
    Reset,
    /// The output that toggles while all is well.
    ChargePump,
}

impl LineKind {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Reset => "reset",
            Self::ChargePump => "charge_pump",
        }
    }
}

/// A line, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineDescription {
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub kind: LineKind,
    /// Where it is.
    pub place: String,
    /// Its bit in a set of lines.
    pub bit: u32,
    /// Why it could not be opened; empty when it was.
    pub refused: String,
}

/// How a line stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineReport {
    /// What people call it.
    pub name: String,
    /// `input`, `reset` or `charge_pump`.
    pub kind: String,
    /// Where it is.
    pub place: String,
    /// `rest`, `acting`, `unreadable`; of a charge pump `driven` or `unreadable`.
    pub level: String,
    /// Whether it is as it must be for a robot that moves. A reset button is good while it can be
    /// read.
    pub good: bool,
    /// Whether an edge of it wakes the thread.
    pub edges: bool,
    /// Why it could not be opened; empty when it was.
    pub refused: String,
}

/// What a loop did about the newest stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStopTaken {
    /// The newest tick that had begun when the stop was seen.
    pub seen_after_tick: u64,
    /// The tick from which on it is in force; none while no tick has come since.
    pub decided_in_tick: Option<u64>,
    /// When that tick began, CLOCK_MONOTONIC ns.
    pub decided_ns: Option<u64>,
}

/// The newest stop by an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStopReport {
    /// Its number, from 1.
    pub number: u64,
    /// The inputs that did it.
    pub by: Vec<String>,
    /// When it was seen, CLOCK_MONOTONIC ns.
    pub seen_ns: u64,
    /// What each loop did about it, in the order of the file.
    pub loops: Vec<LineStopTaken>,
}

/// How all lines stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesReport {
    /// The lines: inputs, reset, charge pump.
    pub lines: Vec<LineReport>,
    /// Time of the newest look, CLOCK_MONOTONIC ns; zero before the first.
    pub looked_ns: u64,
    /// Looks before their time, because an edge woke the thread.
    pub edge_looks: u64,
    /// Periods in which edges came faster than they are looked at.
    pub storms: u64,
    /// Times the charge pump's line changed.
    pub pump_toggles: u64,
    /// What the kernel said when a line failed the last time; empty if none did.
    pub error: String,
    /// The newest stop by an input; none before the first.
    pub stop: Option<LineStopReport>,
}

/// How the lines stand, for `loops` control loops. agent-only (allocates).
pub fn report(described: &[LineDescription], stats: &LineStats, loops: usize) -> LinesReport {
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let sets = Sets {
        acting: load(&stats.acting),
        unreadable: load(&stats.unreadable),
        bad: load(&stats.bad),
        edges_on: load(&stats.edges_on),
    };
    let errno = i32::try_from(load(&stats.errno)).unwrap_or(0);
    LinesReport {
        lines: described.iter().map(|line| sets.line(line)).collect(),
        looked_ns: load(&stats.looked_ns),
        edge_looks: load(&stats.edge_looks),
        storms: load(&stats.storms),
        pump_toggles: load(&stats.pump_toggles),
        error: match errno {
            0 => String::new(),
            errno => Errno::from_raw(errno).to_string(),
        },
        stop: stop(described, stats, loops),
    }
}

fn stop(described: &[LineDescription], stats: &LineStats, loops: usize) -> Option<LineStopReport> {
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    // Pairs with the store of the lines' thread: the words of that stop are visible.
    let number = stats.stops.load(Ordering::Acquire);
    let by = load(&stats.stopped_by);
    let named = described.iter().filter(|line| by & (1 << line.bit) != 0);
    let taken = |words: &LineStopStats| {
        // Pairs with the store of the loop: the tick and its time are visible.
        let decided = words.decided_stop.load(Ordering::Acquire) == number;
        LineStopTaken {
            seen_after_tick: load(&words.seen_after_tick),
            decided_in_tick: decided.then(|| load(&words.decided_in_tick)),
            decided_ns: decided.then(|| load(&words.decided_ns)),
        }
    };
    (number > 0).then(|| LineStopReport {
        number,
        by: named.map(|line| line.name.clone()).collect(),
        seen_ns: load(&stats.seen_ns),
        loops: stats.loops.iter().take(loops).map(taken).collect(),
    })
}

/// Sets of lines.
struct Sets {
    acting: u64,
    unreadable: u64,
    bad: u64,
    edges_on: u64,
}

impl Sets {
    fn line(&self, line: &LineDescription) -> LineReport {
        let has = |set: u64| set & (1 << line.bit) != 0;
        let level = match line.kind {
            _ if has(self.unreadable) => "unreadable",
            LineKind::ChargePump => "driven",
            _ if has(self.acting) => "acting",
            _ => "rest",
        };
        LineReport {
            name: line.name.clone(),
            kind: line.kind.name().to_owned(),
            place: line.place.clone(),
            level: level.to_owned(),
            good: !has(self.bad) && !has(self.unreadable),
            edges: has(self.edges_on),
            refused: line.refused.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str, kind: LineKind, bit: u32) -> LineDescription {
        LineDescription {
            name: name.into(),
            kind,
            bit,
            ..LineDescription::default()
        }
    }

    #[test]
    fn a_report_names_every_line_and_who_stopped_the_robot() {
        let lines = [
            described("front", LineKind::Input, 0),
            described("back", LineKind::Input, 1),
            described("button", LineKind::Reset, RESET_BIT),
            described("relay", LineKind::ChargePump, PUMP_BIT),
        ];
        let stats = LineStats::default();
        assert_eq!(report(&lines, &stats, 2).stop, None);
        stats.acting.store(0b10, Ordering::Relaxed);
        stats.bad.store(0b10, Ordering::Relaxed);
        stats.unreadable.store(1 << PUMP_BIT, Ordering::Relaxed);
        stats.stopped_by.store(0b10, Ordering::Relaxed);
        stats.stops.store(3, Ordering::Release);
        stats.loops[1].decided_in_tick.store(40, Ordering::Relaxed);
        stats.loops[1].decided_stop.store(3, Ordering::Release);
        let report = report(&lines, &stats, 2);
        let levels: Vec<(&str, bool)> = report
            .lines
            .iter()
            .map(|line| (line.level.as_str(), line.good))
            .collect();
        let expected = [
            ("rest", true),
            ("acting", false),
            ("rest", true),
            ("unreadable", false),
        ];
        assert_eq!(levels, expected);
        let stop = report.stop.unwrap();
        assert_eq!((stop.number, stop.by), (3, vec!["back".to_owned()]));
        let ticks: Vec<Option<u64>> = stop.loops.iter().map(|each| each.decided_in_tick).collect();
        assert_eq!(ticks, [None, Some(40)], "one loop has not ticked since");
    }
}
