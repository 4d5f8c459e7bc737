//! Opening the GPIO lines of a robot, before anything is armed, and what becomes of a wire whose
//! edges come without end. Ordinary threads only.
//!
//! A line that cannot be opened does not end the daemon: it is a failed line of the bring-up table,
//! and a stop that nobody can clear. So `kairo rt status` and `kairo rt safety` say what is wrong.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kairo_hal::gpio::{self, Chip, EdgeSwitch, GpioError, Input, Output};
use kairo_link::control::BringupCheck;
use kairo_link::lines::{LineDescription, LineKind, PUMP_BIT, RESET_BIT};
use kairo_link::stats::Stats;
use nix::errno::Errno;

use super::{Coil, Lines, LinesParts, Pump, Watched, Wire};
use crate::bringup::thread::ThreadPlan;
use crate::bringup::{Need, check};
use crate::config::{LineAddress, LineConfig, OverrunPolicy, RobotConfig};
use crate::journal::note;
use crate::periodic::Terms;
use crate::schedule::Timing;
use crate::shared::Shared;

/// Periods with a storm, between two looks of the main thread, that cost a line its edges. A
/// bouncing switch makes one or two.
const STORMS_MAX: u64 = 5;

impl Wire for Input {
    fn is_acting(&mut self) -> Result<bool, Errno> {
        self.is_active()
    }

    fn take_edges(&mut self) -> Result<bool, Errno> {
        Self::take_edges(self)
    }

    fn edges(&self) -> Option<BorrowedFd<'_>> {
        self.wakes().then(|| self.as_fd())
    }
}

impl Coil for Output {
    fn drive(&mut self, high: bool) -> Result<(), Errno> {
        self.set(high)
    }
}

/// The lines of a robot, opened as far as they could be.
#[derive(Debug)]
pub struct Prepared {
    /// The thread's work and its terms.
    pub work: (Lines, Terms),
    /// What bring-up says about the lines.
    pub checks: Vec<BringupCheck>,
    /// The lines, for whoever shows them.
    pub described: Vec<LineDescription>,
    /// Keeps edges from coming without end.
    pub storms: Storms,
}

/// Opens the lines of `robot`; none when it has none. setup-only.
pub fn prepare(robot: &RobotConfig, stats: &Stats, shared: &Arc<Shared>) -> Option<Prepared> {
    let estop = &robot.estop;
    if !estop.has_lines() {
        return None;
    }
    let mut opener = Opener {
        chips: gpio::chips(),
        checks: Vec::new(),
        described: Vec::new(),
        switches: Vec::new(),
    };
    let inputs = (0_u32..).zip(&estop.inputs);
    let inputs = inputs.map(|(bit, line)| opener.input(line, LineKind::Input, bit));
    let inputs = inputs.collect();
    let reset = estop.reset.as_ref();
    let reset = reset.map(|line| opener.input(line, LineKind::Reset, RESET_BIT));
    let pump = estop.charge_pump.as_ref();
    let pump = pump.map(|pump| Pump::new(opener.output(&pump.line), pump.every_ticks));
    let edges_on = opener.switches.iter();
    let edges_on = edges_on.fold(0, |set, (bit, _, _)| set | 1_u64 << bit);
    let words = &stats.block().lines;
    words.edges_on.store(edges_on, Ordering::Relaxed);
    let lines = Lines::new(LinesParts {
        inputs,
        reset,
        pump,
        loops: robot.loops.len(),
        stats: stats.clone(),
        shared: Arc::clone(shared),
    });
    Some(Prepared {
        work: (lines, terms(robot, shared)),
        checks: opener.checks,
        described: opener.described,
        storms: Storms {
            switches: opener.switches,
            stats: stats.clone(),
            seen: 0,
        },
    })
}

fn terms(robot: &RobotConfig, shared: &Arc<Shared>) -> Terms {
    Terms {
        plan: ThreadPlan {
            name: RobotConfig::LINES_THREAD.to_owned(),
            priority: robot.estop.priority,
            core: robot.estop.core,
        },
        timing: Timing {
            period_ns: robot.lines_period_us() * 1000,
            phase_ns: robot.lines_phase_ns(),
            overrun: OverrunPolicy::Skip,
        },
        budget_ns: robot.lines_budget_us() * 1000,
        // A look is made of system calls.
        trace_system_calls: false,
        shared: Arc::clone(shared),
    }
}

struct Opener {
    chips: Vec<Chip>,
    checks: Vec<BringupCheck>,
    described: Vec<LineDescription>,
    switches: Vec<(u32, String, EdgeSwitch)>,
}

impl Opener {
    fn input(&mut self, line: &LineConfig, kind: LineKind, bit: u32) -> Watched {
        // A reset a period later harms nobody.
        let wakes = kind == LineKind::Input;
        let (address, bias) = (&line.line, line.bias);
        let opened = Input::open(&self.chips, address, bias, line.acts_when_high, wakes);
        let found = match &opened {
            Ok(input) if input.wakes() => "open, an edge wakes",
            Ok(_) => "open, read once a period",
            Err(_) => "",
        };
        self.tell(
            &line.name,
            address,
            (kind, bit),
            found,
            opened.as_ref().err(),
        );
        let input = opened.ok();
        if let Some(switch) = input.as_ref().and_then(Input::edge_switch) {
            self.switches.push((bit, line.name.clone(), switch));
        }
        let wire = input.map(|input| Box::new(input) as Box<dyn Wire>);
        Watched::new(wire, line.debounce_us * 1000)
    }

    fn output(&mut self, address: &LineAddress) -> Option<Box<dyn Coil>> {
        let opened = Output::open_low(&self.chips, address);
        let kind = (LineKind::ChargePump, PUMP_BIT);
        let refused = opened.as_ref().err();
        self.tell("charge-pump", address, kind, "open, low", refused);
        let output = opened.ok();
        output.map(|output| Box::new(output) as Box<dyn Coil>)
    }

    fn tell(
        &mut self,
        name: &str,
        address: &LineAddress,
        (kind, bit): (LineKind, u32),
        found: &str,
        refused: Option<&GpioError>,
    ) {
        let refused = refused.map(ToString::to_string).unwrap_or_default();
        self.checks.push(check(
            RobotConfig::LINES_THREAD,
            &format!("{} {name}", kind.name()),
            format!("GPIO line {address} is open"),
            if refused.is_empty() { found } else { &refused },
            refused.is_empty(),
            Need::Required,
            "mend the wiring, robot.toml or the permissions of /dev/gpiochip*, then start kairo-rt \
             again",
        ));
        self.described.push(LineDescription {
            name: name.to_owned(),
            kind,
            place: address.to_string(),
            bit,
            refused,
        });
    }
}

/// Switches off the edges of a wire that makes them without end: every edge is an interrupt, which
/// the line's thread does not have to look at, but the machine has to take. Main thread.
#[derive(Debug)]
pub struct Storms {
    switches: Vec<(u32, String, EdgeSwitch)>,
    stats: Stats,
    seen: u64,
}

impl Storms {
    /// Looks at what has been counted since the last time.
    pub fn calm(&mut self) {
        let stats = &self.stats.block().lines;
        let storms = stats.storms.load(Ordering::Relaxed);
        let new = storms.saturating_sub(std::mem::replace(&mut self.seen, storms));
        if new < STORMS_MAX {
            return;
        }
        let storming = stats.storming.load(Ordering::Relaxed);
        self.switches.retain(|(bit, name, switch)| {
            if storming & (1 << bit) == 0 {
                return true;
            }
            let off = switch.switch_off();
            let left = stats.edges_on.load(Ordering::Relaxed) & !(1 << bit);
            stats.edges_on.store(left, Ordering::Relaxed);
            note(format_args!(
                "kairo-rt: input {name} makes edges without end: {}; its level is read every \
                 period as before. Look at its wire, then start kairo-rt again",
                match off {
                    Ok(()) => "they wake nobody any more".to_owned(),
                    Err(errno) => format!("they cannot be switched off ({errno})"),
                }
            ));
            false
        });
    }
}
