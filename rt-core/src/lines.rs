//! The thread that serves the GPIO lines: e-stop inputs, the reset button, the charge pump.
//!
//! One SCHED_FIFO thread on the runner of loops and buses (`periodic`), rt-safe after its bring-up.
//! Every period of the fastest loop, and [`LEAD_NS`] before that loop is due, it reads every input
//! (one system call each, which is why no loop does it) and tells the loops through the words of
//! [`crate::estop`]. Between two periods an edge of an input wakes it, so that a pull is told at
//! once and not only by the next look. It tells levels with the time of the look: a thread that
//! died or is late is found out by the loops, which take a look that is too old for a stop.
//!
//! - An input that acts stops at once. It is good again after it was at rest for its whole debounce
//!   time; an edge counts as acting even if the wire is back at rest when it is read.
//! - A line that cannot be read, or could not be opened, is a stop, a reset button too.
//! - The charge pump toggles only while the robot is armed, every input is good, and every loop has
//!   run healthy ticks since it toggled last. Else its line is low.
//! - Edges cost at most [`EDGE_LOOKS_MAX`] looks a period, however many there are; a wire that goes
//!   on like that loses its wake-up ([`Storms`]) and is read every period as before.
//!
//! What it does not do: latch, clear, or decide what a stop means. Every loop does.

mod open;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kairo_link::MonoNs;
use kairo_link::lines::{LineStats, MAX_INPUTS, PUMP_BIT, RESET_BIT};
use kairo_link::stats::{MAX_LOOPS, PeriodStats, Stats, add};
use nix::errno::Errno;

use crate::pace::sleep_until;
use crate::periodic::{Period, Periodic};
use crate::shared::Shared;

pub use open::{Prepared, Storms, prepare};

/// How long before the fastest loop the lines are looked at: a look, and what may delay it.
pub const LEAD_NS: u64 = 100_000;
/// Looks a period that edges can cause; what comes after waits for the next period.
pub const EDGE_LOOKS_MAX: u32 = 4;

/// An input as the thread sees it. Every method is rt-safe and does not wait.
pub trait Wire: fmt::Debug + Send {
    /// Whether it is at the level that acts.
    ///
    /// # Errors
    /// When it cannot be read.
    fn is_acting(&mut self) -> Result<bool, Errno>;

    /// Whether there were edges towards the level that acts, which are taken by this.
    ///
    /// # Errors
    /// When it cannot be read.
    fn take_edges(&mut self) -> Result<bool, Errno>;

    /// What becomes readable with an edge, where edges are told.
    fn edges(&self) -> Option<BorrowedFd<'_>>;
}

/// An output as the thread sees it. rt-safe.
pub trait Coil: fmt::Debug + Send {
    /// Drives it.
    ///
    /// # Errors
    /// When it cannot be driven.
    fn drive(&mut self, high: bool) -> Result<(), Errno>;
}

/// An input and what is known of it.
#[derive(Debug)]
pub struct Watched {
    /// None when it could not be opened.
    wire: Option<Box<dyn Wire>>,
    debounce_ns: u64,
    /// When it acted last, or could not be read.
    acted: Option<MonoNs>,
}

impl Watched {
    /// An input that has never acted. setup-only.
    pub fn new(wire: Option<Box<dyn Wire>>, debounce_ns: u64) -> Self {
        Self {
            wire,
            debounce_ns,
            acted: None,
        }
    }

    fn look(&mut self, now: MonoNs, edges: bool) -> Seen {
        let read = match &mut self.wire {
            Some(wire) => wire.is_acting().and_then(|acting| {
                let moved = edges && wire.take_edges()?;
                Ok((acting, moved))
            }),
            None => Err(Errno::ENODEV),
        };
        let (acting, moved) = read.unwrap_or((false, false));
        if acting || moved || read.is_err() {
            self.acted = Some(now);
        }
        // At rest for its whole time, or never anything else.
        let settling = |acted: MonoNs| acted == now || now.since_ns(acted) < self.debounce_ns;
        Seen {
            acting,
            moved,
            good: !self.acted.is_some_and(settling),
            failed: read.err(),
        }
    }
}

/// One look at an input.
#[derive(Clone, Copy, Debug)]
struct Seen {
    acting: bool,
    /// Whether there were edges.
    moved: bool,
    good: bool,
    failed: Option<Errno>,
}

/// The charge pump.
#[derive(Debug)]
pub struct Pump {
    /// None when it could not be opened.
    coil: Option<Box<dyn Coil>>,
    every_ticks: u64,
    /// Healthy ticks of every loop when it toggled last.
    counted: [u64; MAX_LOOPS],
    high: bool,
}

impl Pump {
    /// A pump whose line is low. setup-only.
    pub fn new(coil: Option<Box<dyn Coil>>, every_ticks: u64) -> Self {
        Self {
            coil,
            every_ticks,
            counted: [0; MAX_LOOPS],
            high: false,
        }
    }

    /// Toggles if it is `allowed` and every loop has run its ticks; what failed, if anything did.
    fn run(
        &mut self,
        allowed: bool,
        ticks: &[u64; MAX_LOOPS],
        loops: usize,
    ) -> Option<Result<(), Errno>> {
        let coil = self.coil.as_mut()?;
        if !allowed {
            self.counted = *ticks;
            if !self.high {
                return None;
            }
        } else {
            let pairs = ticks.iter().zip(&self.counted).take(loops);
            let mut since = pairs.map(|(now, before)| now.wrapping_sub(*before));
            if since.any(|since| since < self.every_ticks) {
                return None;
            }
            self.counted = *ticks;
        }
        let high = allowed && !self.high;
        let driven = coil.drive(high);
        if driven.is_ok() {
            self.high = high;
        }
        Some(driven)
    }
}

/// What the thread is made of.
#[derive(Debug)]
pub struct LinesParts {
    /// The e-stop inputs; at most [`MAX_INPUTS`].
    pub inputs: Vec<Watched>,
    /// The reset button.
    pub reset: Option<Watched>,
    /// The charge pump.
    pub pump: Option<Pump>,
    /// How many loops there are.
    pub loops: usize,
    /// Where to count.
    pub stats: Stats,
    /// The words shared with other threads.
    pub shared: Arc<Shared>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Lines {
    parts: LinesParts,
    /// The inputs that were not good at the newest look.
    bad: u64,
    /// Whether stops are counted: from the decision on.
    running: bool,
    armed: bool,
    /// Whom an edge wakes for; descriptors of inputs that failed are -1, which polls as nobody.
    polled: [libc::pollfd; MAX_INPUTS],
    polled_count: usize,
    /// Of the newest look, the lines that had edges.
    moved: u64,
}

impl Lines {
    /// A thread that does not run yet. setup-only.
    pub fn new(parts: LinesParts) -> Self {
        let nobody = libc::pollfd {
            fd: -1,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polled = [nobody; MAX_INPUTS];
        let mut polled_count = 0;
        for (entry, input) in polled.iter_mut().zip(&parts.inputs) {
            if let Some(fd) = input.wire.as_ref().and_then(|wire| wire.edges()) {
                entry.fd = fd.as_raw_fd();
                polled_count += 1;
            }
        }
        Self {
            parts,
            bad: 0,
            running: false,
            armed: false,
            polled,
            polled_count,
            moved: 0,
        }
    }

    fn own_stats(&self) -> &LineStats {
        &self.parts.stats.block().lines
    }

    /// Looks at every input and tells the loops. `edges`: whether some may have had edges.
    fn look(&mut self, now: MonoNs, edges: bool) {
        let mut sets = Sets::default();
        for (bit, input) in (0_u32..).zip(&mut self.parts.inputs) {
            let edges = edges && self.polled[bit as usize].fd >= 0;
            sets.add(bit, input.look(now, edges));
        }
        let mut pressed = false;
        if let Some(reset) = &mut self.parts.reset {
            let seen = reset.look(now, false);
            // One that cannot be read is held down: coming back is no press then.
            pressed = !seen.good;
            sets.add_reset(seen);
        }
        self.moved = sets.moved;
        let fallen = sets.bad & !self.bad;
        self.bad = sets.bad;
        self.count(now, &sets);
        let words = self.parts.shared.estop();
        // The stop before the level: who sees the level sees the stop.
        if self.running && fallen != 0 {
            self.tell_stop(now, fallen);
        }
        words.saw(now, sets.bad, pressed);
    }

    fn count(&self, now: MonoNs, sets: &Sets) {
        let stats = self.own_stats();
        stats.looked_ns.store(now.0, Ordering::Relaxed);
        stats.acting.store(sets.acting, Ordering::Relaxed);
        stats.bad.store(sets.bad, Ordering::Relaxed);
        let pump = stats.unreadable.load(Ordering::Relaxed) & (1 << PUMP_BIT);
        let unreadable = sets.unreadable | pump;
        stats.unreadable.store(unreadable, Ordering::Relaxed);
        if let Some(errno) = sets.errno {
            stats.errno.store(errno as u64, Ordering::Relaxed);
        }
    }

    /// One stop more, for which `by` are to blame.
    fn tell_stop(&self, now: MonoNs, by: u64) {
        let block = self.parts.stats.block();
        let stats = &block.lines;
        for (words, control_loop) in stats.loops.iter().zip(&block.loops) {
            let ticks = control_loop.periods.ticks.load(Ordering::Relaxed);
            words.seen_after_tick.store(ticks, Ordering::Relaxed);
        }
        stats.stopped_by.store(by, Ordering::Relaxed);
        stats.seen_ns.store(now.0, Ordering::Relaxed);
        let number = self.parts.shared.estop().line_stop();
        // Pairs with the load of whoever reports it: the words above are visible.
        stats.stops.store(number, Ordering::Release);
    }

    fn pump(&mut self) {
        let shared = &self.parts.shared;
        let allowed = self.armed && self.bad == 0 && !shared.is_stopping();
        let ticks = shared.estop().pumped();
        let loops = self.parts.loops;
        let driven = match &mut self.parts.pump {
            Some(pump) => pump.run(allowed, &ticks, loops),
            None => None,
        };
        let stats = self.own_stats();
        let others = stats.unreadable.load(Ordering::Relaxed) & !(1 << PUMP_BIT);
        match driven {
            None => {}
            Some(Ok(())) => {
                add(&stats.pump_toggles, 1);
                stats.unreadable.store(others, Ordering::Relaxed);
            }
            Some(Err(errno)) => {
                let failed = others | 1 << PUMP_BIT;
                stats.unreadable.store(failed, Ordering::Relaxed);
                stats.errno.store(errno as u64, Ordering::Relaxed);
            }
        }
    }

    /// Waits for an edge, or until `planned`; true when there was an edge.
    fn wait_for_edge(&mut self, planned: MonoNs) -> bool {
        let left_ns = planned.since_ns(MonoNs::now());
        if left_ns == 0 {
            return false;
        }
        let left = libc::timespec {
            tv_sec: (left_ns / 1_000_000_000).cast_signed(),
            tv_nsec: (left_ns % 1_000_000_000).cast_signed(),
        };
        let (first, count) = (self.polled.as_mut_ptr(), MAX_INPUTS as libc::nfds_t);
        // SAFETY: `polled` has MAX_INPUTS entries, and both pointers live through the call, which
        // reads `left` and writes the entries' `revents` only; no signal mask is given.
        let ready = unsafe { libc::ppoll(first, count, &raw const left, std::ptr::null()) };
        if ready <= 0 {
            return false;
        }
        for entry in &mut self.polled {
            if entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
                // The chip is gone. It must not wake for ever; the level says the rest.
                entry.fd = -1;
                self.polled_count -= 1;
            }
        }
        true
    }
}

/// What one look found.
#[derive(Debug, Default)]
struct Sets {
    acting: u64,
    moved: u64,
    bad: u64,
    unreadable: u64,
    errno: Option<Errno>,
}

impl Sets {
    fn add(&mut self, bit: u32, seen: Seen) {
        self.acting |= u64::from(seen.acting) << bit;
        self.moved |= u64::from(seen.moved) << bit;
        self.bad |= u64::from(!seen.good) << bit;
        self.unreadable |= u64::from(seen.failed.is_some()) << bit;
        self.errno = seen.failed.or(self.errno);
    }

    fn add_reset(&mut self, seen: Seen) {
        // A reset that is pressed is nothing bad; one that cannot be read is.
        let good = seen.failed.is_none();
        self.add(RESET_BIT, Seen { good, ..seen });
    }
}

impl Periodic for Lines {
    fn account(&self) -> &PeriodStats {
        &self.own_stats().periods
    }

    fn wait(&mut self, planned: MonoNs) {
        let mut looks = 0;
        while self.polled_count > 0 && looks < EDGE_LOOKS_MAX && self.wait_for_edge(planned) {
            looks += 1;
            self.look(MonoNs::now(), true);
            if self.running {
                add(&self.own_stats().edge_looks, 1);
                self.pump();
            }
        }
        if looks == EDGE_LOOKS_MAX {
            let stats = self.own_stats();
            stats.storming.store(self.moved, Ordering::Relaxed);
            add(&stats.storms, 1);
        }
        sleep_until(planned);
    }

    /// Lines are read before anything is decided too; nothing is driven.
    fn rehearse(&mut self, period: Period) {
        self.look(period.woke, false);
    }

    fn decided(&mut self, now: MonoNs, armed: bool) {
        (self.armed, self.running) = (armed, true);
        self.look(now, false);
    }

    fn run(&mut self, period: Period) {
        self.look(period.woke, false);
        self.pump();
    }

    /// Whether nobody needs a look any more. The pump's line is low since the stop began.
    fn is_finished(&self) -> bool {
        self.parts.shared.loops_are_done()
    }
}
