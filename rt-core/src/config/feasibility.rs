//! Whether the threads of a core can all do their work in time, by arithmetic.
//!
//! setup-only, pure. Costs are budgets: what the file says a period may cost, held against reality
//! by the counter `over_budget`. Two questions are asked of every core that threads are pinned to:
//! does the work of all of them fit into the time there is, and does each loop end its tick within
//! its period when everything that may preempt it comes at the worst moment (response-time
//! analysis: the smallest R with R = own cost + sum of ceil(R / period) x cost over the others)?
//!
//! What it does not know: threads that are not pinned, interrupts, and time the kernel takes. So a
//! file that passes can still overrun; one that does not pass will.

use std::ops::Range;

use super::diagnostic::Problems;
use super::schema::{LocatedDevice, Section};
use super::{BusConfig, EstopConfig, LoopConfig, RobotConfig};

/// Of every second, the time that Linux lets real-time threads have a core
/// (`kernel.sched_rt_runtime_us`); beyond it they are stopped.
const SHARE_MAX_PERCENT: u64 = 95;
/// A cycle of a bus may cost this part of its period where the file does not say how much: most of
/// it waits for the wire, which costs nothing.
pub(super) const BUS_BUDGET_PARTS: u64 = 10;
/// A period of the thread that serves the GPIO lines may cost this part of it where the file does
/// not say how much. With the looks that edges can cause in one period, it is a handful of reads.
const LINES_BUDGET_PARTS: u64 = 20;

/// What a period of the thread that serves the GPIO lines may cost, µs.
pub(super) fn lines_budget_us(estop: &EstopConfig, period_us: u64) -> u64 {
    let share = (period_us / LINES_BUDGET_PARTS).max(1);
    estop.budget_us.unwrap_or(share)
}

/// One thread's claim to a core.
struct Load<'c> {
    /// `loop`, `bus` or `thread`.
    kind: &'static str,
    name: &'c str,
    core: usize,
    priority: u8,
    period_us: u64,
    cost_us: u64,
    span: Range<usize>,
}

impl Load<'_> {
    fn text(&self) -> String {
        let percent = self.cost_us as f64 * 100.0 / self.period_us as f64;
        format!(
            "{} \"{}\" {} / {} us = {percent:.1} %",
            self.kind, self.name, self.cost_us, self.period_us
        )
    }
}

/// Reports every core whose threads cannot be served.
pub(super) fn cores(
    buses: &[Section<BusConfig>],
    loops: &[Section<LoopConfig>],
    devices: &[Section<LocatedDevice>],
    estop: Option<&EstopConfig>,
    problems: &mut Problems<'_>,
) {
    let mut loads = loads(buses, loops, devices);
    loads.extend(estop.and_then(|estop| lines(estop, loops)));
    let mut cores: Vec<usize> = loads.iter().map(|load| load.core).collect();
    cores.sort_unstable();
    cores.dedup();
    for core in cores {
        let here: Vec<&Load<'_>> = loads.iter().filter(|load| load.core == core).collect();
        if !fits(core, &here, problems) {
            continue;
        }
        for load in here.iter().filter(|load| load.kind == "loop") {
            responds(core, load, &here, problems);
        }
    }
}

fn loads<'c>(
    buses: &'c [Section<BusConfig>],
    loops: &'c [Section<LoopConfig>],
    devices: &[Section<LocatedDevice>],
) -> Vec<Load<'c>> {
    let mut loads = Vec::new();
    for section in loops {
        let Some(config) = &section.value else {
            continue;
        };
        let Some(core) = config.core else { continue };
        loads.push(Load {
            kind: "loop",
            name: &config.name,
            core,
            priority: config.priority,
            period_us: config.period_us,
            cost_us: config.budget_us,
            span: section.name.span.clone(),
        });
    }
    for (index, section) in buses.iter().enumerate() {
        let Some(config) = &section.value else {
            continue;
        };
        let Some(core) = config.core else { continue };
        let complete = devices.iter().filter_map(|device| device.value.as_ref());
        let served = complete.filter(|located| located.device.bus == index);
        let periods = served.filter_map(|located| {
            let served = loops[located.device.control_loop].value.as_ref();
            served.map(|config| config.period_us)
        });
        let Some(period_us) = periods.min() else {
            continue;
        };
        loads.push(Load {
            kind: "bus",
            name: &config.name,
            core,
            priority: config.priority,
            period_us,
            cost_us: config.budget_us.unwrap_or(period_us / BUS_BUDGET_PARTS),
            span: section.name.span.clone(),
        });
    }
    loads
}

/// The thread that serves the GPIO lines, if it has a core.
fn lines<'c>(estop: &EstopConfig, loops: &'c [Section<LoopConfig>]) -> Option<Load<'c>> {
    let core = estop.core.filter(|_| estop.has_lines())?;
    let complete = loops.iter().filter_map(|section| section.value.as_ref());
    let period_us = complete.map(|config| config.period_us).min()?;
    Some(Load {
        kind: "thread",
        name: RobotConfig::LINES_THREAD,
        core,
        priority: estop.priority,
        period_us,
        cost_us: lines_budget_us(estop, period_us),
        span: estop.span.clone(),
    })
}

/// Whether the work fits into the time there is.
fn fits(core: usize, here: &[&Load<'_>], problems: &mut Problems<'_>) -> bool {
    // In millionths, rounded up: exact enough, and no sum of floats decides.
    let share = |load: &Load<'_>| (load.cost_us * 1_000_000).div_ceil(load.period_us);
    let total: u64 = here.iter().map(|load| share(load)).sum();
    if total <= SHARE_MAX_PERCENT * 10_000 {
        return true;
    }
    let parts: Vec<String> = here.iter().map(|load| load.text()).collect();
    let message = format!(
        "core {core} has more to do than there is time: {} = {:.1} % together, and Linux gives \
         real-time threads at most {SHARE_MAX_PERCENT} %",
        parts.join(" + "),
        total as f64 / 10_000.0
    );
    // One is as good as another to point at; the message names them all.
    let last_loop = here.iter().rfind(|load| load.kind == "loop");
    if let Some(load) = last_loop.or(here.last()) {
        let fix = "lower a budget_us to what a period really costs (`kairo rt status` shows it), \
                   lengthen a period_us, or move a thread to another core";
        let key = match load.kind {
            "thread" => "estop.budget_us".to_owned(),
            kind => format!("{kind}.budget_us"),
        };
        problems.add(load.span.clone(), key, message, fix);
    }
    false
}

/// Reports a loop that may end after its period.
fn responds(core: usize, load: &Load<'_>, here: &[&Load<'_>], problems: &mut Problems<'_>) {
    let is_other = |other: &&&Load<'_>| !std::ptr::eq(**other, load);
    // FIFO threads of equal priority wait for each other.
    let ahead = |other: &&&Load<'_>| other.priority >= load.priority;
    let others: Vec<&&Load<'_>> = here.iter().filter(is_other).filter(ahead).collect();
    let cost = |other: &Load<'_>, within_us: u64| within_us.div_ceil(other.period_us);
    let mut response_us = load.cost_us;
    // Grows with every round that is not the last, and ends beyond the period.
    while response_us <= load.period_us {
        let ahead_us: u64 = others
            .iter()
            .map(|other| cost(other, response_us) * other.cost_us)
            .sum();
        if load.cost_us + ahead_us == response_us {
            return;
        }
        response_us = load.cost_us + ahead_us;
    }
    let parts: Vec<String> = others
        .iter()
        .map(|other| {
            format!(
                " + {} x {} us of {} \"{}\" (priority {}, every {} us)",
                cost(other, load.period_us),
                other.cost_us,
                other.kind,
                other.name,
                other.priority,
                other.period_us
            )
        })
        .collect();
    let message = format!(
        "loop \"{}\" can miss its period of {} us on core {core} (priority {}): its own {} us{} \
         come to {response_us} us",
        load.name,
        load.period_us,
        load.priority,
        load.cost_us,
        parts.concat()
    );
    let fix = "give the loop with the shorter period the higher priority, lower a budget_us, or \
               move one to another core";
    problems.add(load.span.clone(), "loop.budget_us", message, fix);
}
