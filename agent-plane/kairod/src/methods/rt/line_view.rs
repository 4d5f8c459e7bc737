//! The GPIO lines in `rt.status`. agent-only: it reads what kairo-rt counts, and disturbs nothing
//! there.

use kairo_link::MonoNs;
use kairo_link::control::Welcome;
use kairo_link::lines::{self, LineReport, LineStopReport};
use kairo_link::stats::StatsBlock;
use schemars::JsonSchema;
use serde::Serialize;

use super::{PeriodView, count, period_view};

/// The GPIO lines and the thread that serves them.
#[derive(Serialize, JsonSchema)]
pub(super) struct LinesView {
    /// Inputs, reset, charge pump.
    lines: Vec<LineView>,
    /// Age of the newest look at them, ms; none before the first.
    looked_ms_ago: Option<f64>,
    /// Looks before their time, because an edge woke the thread.
    edge_looks: u64,
    /// Periods in which edges came faster than they are looked at.
    storms: u64,
    /// Times the charge pump's line changed.
    pump_toggles: u64,
    /// What the kernel said when a line failed the last time; empty if none did.
    error: String,
    /// Times an input stopped the robot.
    line_stops: u64,
    /// The newest of them.
    newest_stop: Option<LineStopView>,
    period_us: u64,
    #[serde(flatten)]
    periods: PeriodView,
}

#[derive(Serialize, JsonSchema)]
struct LineView {
    name: String,
    /// `input`, `reset` or `charge_pump`.
    kind: String,
    /// Its name or its chip and offset.
    place: String,
    /// `rest`, `acting`, `unreadable`; of a charge pump `driven` or `unreadable`.
    level: String,
    /// Whether it is as it must be for a robot that moves.
    good: bool,
    /// Whether an edge of it wakes the thread.
    edges: bool,
    /// Why it could not be opened; empty when it was.
    refused: String,
}

/// A stop by an input.
#[derive(Serialize, JsonSchema)]
struct LineStopView {
    /// The inputs that did it.
    by: Vec<String>,
    /// When it was seen, CLOCK_MONOTONIC ns.
    seen_ns: u64,
    /// What each loop did about it, in the order of the file.
    loops: Vec<LineStopTakenView>,
}

#[derive(Serialize, JsonSchema)]
struct LineStopTakenView {
    /// The newest tick that had begun when the stop was seen.
    seen_after_tick: u64,
    /// The tick from which on it is in force; none while no tick has come since.
    decided_in_tick: Option<u64>,
    /// When that tick began, CLOCK_MONOTONIC ns.
    decided_ns: Option<u64>,
}

impl LinesView {
    pub(super) fn of(welcome: &Welcome, base: &StatsBlock, now: &StatsBlock) -> Option<Self> {
        if welcome.lines.is_empty() {
            return None;
        }
        let report = lines::report(&welcome.lines, &now.lines, welcome.loops.len());
        let age = MonoNs::now().duration_since(MonoNs(report.looked_ns));
        let looked_ms_ago = (report.looked_ns != 0).then_some(age.as_secs_f64() * 1e3);
        Some(Self {
            lines: report.lines.into_iter().map(LineView::from).collect(),
            looked_ms_ago,
            edge_looks: report.edge_looks,
            storms: report.storms,
            pump_toggles: report.pump_toggles,
            error: report.error,
            line_stops: report.stop.as_ref().map_or(0, |stop| stop.number),
            newest_stop: report.stop.map(LineStopView::from),
            period_us: count(&now.lines.periods.period_ns) / 1000,
            periods: period_view(&[], &base.lines.periods, &now.lines.periods),
        })
    }
}

impl From<LineReport> for LineView {
    fn from(line: LineReport) -> Self {
        Self {
            name: line.name,
            kind: line.kind,
            place: line.place,
            level: line.level,
            good: line.good,
            edges: line.edges,
            refused: line.refused,
        }
    }
}

impl From<LineStopReport> for LineStopView {
    fn from(stop: LineStopReport) -> Self {
        let taken = stop.loops.into_iter().map(|taken| LineStopTakenView {
            seen_after_tick: taken.seen_after_tick,
            decided_in_tick: taken.decided_in_tick,
            decided_ns: taken.decided_ns,
        });
        Self {
            by: stop.by,
            seen_ns: stop.seen_ns,
            loops: taken.collect(),
        }
    }
}
