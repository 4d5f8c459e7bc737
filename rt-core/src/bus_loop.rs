//! A bus: one SCHED_FIFO thread that sends the newest goals and reads the newest samples.
//!
//! rt-safe after its bring-up has been reported (`periodic`). One cycle is one sync-write and one
//! sync-read, bounded by the response timeout. A missing or damaged reply costs that servo's
//! sample and a count; nothing stops the loop. The cycle keeps the period of the fastest control
//! loop it serves as long as the wire is fast enough, and skips like it when it is not.
//!
//! When the line is gone, or nobody answers for a while, the thread says so to its devices, hands
//! the line back to the supervisor (closing a port may block, so it never happens here), and idles
//! at its period until it is given another. A servo that lost its supply for a moment answers again
//! and is limp, so the torque switch is read back several times a second; a servo found limp that
//! should not be is a lost line too, because what heals that heals this: it is configured again,
//! and its setpoint is taken from where it sank to. Whatever the goals were, nothing of an earlier
//! connection is ever sent on a new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kairo_hal::SerialBus;
use kairo_hal::feetech::registers::{
    AMPERES_PER_CURRENT, FRACTION_PER_LOAD, PresentState, STEPS_PER_TURN,
};
use kairo_hal::feetech::{
    MAX_SERVOS, ServoBus, ServoBusError, ServoCounters, ServoOutcome, ServoSample,
};
use kairo_hal::line::BusError;
use kairo_link::MonoNs;
use kairo_link::abi::MAX_JOINTS;
use kairo_link::stats::{BusStats, PeriodStats, Stats, add};

use crate::exchange::{BusSide, Feedback, Goals};
use crate::periodic::{Period, Periodic};
use crate::servo_map::ServoMap;
use crate::shared::Shared;

/// A connected bus, on its way between the supervisor and the bus thread.
pub type Line = Box<ServoBus<SerialBus>>;

/// A torque switch is a sync-write, which nobody acknowledges: it is sent this often.
const TORQUE_REPEATS: u8 = 3;
/// Goals are not acknowledged either, and a servo switched on with an old goal jumps to it: this
/// many are sent before.
const GOALS_BEFORE_TORQUE: u8 = 3;
/// The torque switches are read back every this many cycles: 10 times a second at 4 ms. It costs a
/// longer reply, not a transaction more.
const TORQUE_CHECK_CYCLES: u32 = 25;
/// Read-backs in a row that must find a servo limp: a damaged packet can look right once.
const LIMP_READS: u8 = 2;
/// Cycles in a row in which a servo must have answered in time before a read-back counts against
/// it. A reply says nothing of which request it answers: where the wire, its adapter or we were
/// late, one from before the switch may come now, and a late thread is no lost torque. Each request
/// discards what came before it, so a few cycles in step leave none behind.
const IN_STEP_CYCLES: u8 = 10;
const _: () = assert!(MAX_SERVOS == kairo_link::stats::MAX_SERVOS);

/// What is known of a servo's torque switch from its replies.
#[derive(Clone, Copy, Debug, Default)]
struct LimpWatch {
    /// Read-backs in a row that found it limp against its orders.
    reads: u8,
    /// Cycles in a row with a reply in time, damaged or not; as many as matter.
    in_step: u8,
}

impl LimpWatch {
    /// Takes a cycle's reply in, and how it says the switch stands if it was asked. `ordered`: on,
    /// a while ago. Returns how often in a row the servo was found limp. rt-safe.
    fn look(&mut self, outcome: ServoOutcome, on: Option<bool>, ordered: bool) -> u8 {
        self.in_step = match outcome {
            ServoOutcome::Timeout => 0,
            _ => self.in_step.saturating_add(1).min(IN_STEP_CYCLES),
        };
        self.reads = match on {
            Some(false) if ordered && self.in_step < IN_STEP_CYCLES => self.reads,
            Some(false) if ordered => self.reads.saturating_add(1),
            Some(_) => 0,
            None => self.reads,
        };
        self.reads
    }
}

/// A device's part of a bus.
#[derive(Debug)]
pub struct BusSeat {
    link: BusSide,
    first: usize,
    maps: Vec<ServoMap>,
    feedback: Feedback,
    goals: Goals,
    /// Cycles in a row whose goals went out for a device that shall be under torque.
    goals_sent: u8,
    /// What was ordered on this connection, if anything was.
    torque_sent: Option<bool>,
    torque_repeats: u8,
}

impl BusSeat {
    /// A device whose servos are `maps.len()` of the bus's, from position `first` on. setup-only.
    pub fn new(link: BusSide, first: usize, maps: Vec<ServoMap>) -> Self {
        Self {
            link,
            first,
            maps,
            feedback: Feedback::default(),
            goals: Goals::default(),
            goals_sent: 0,
            torque_sent: None,
            torque_repeats: 0,
        }
    }

    /// The torque switch to send after this cycle's goals, if one is due.
    fn torque_order(&mut self) -> Option<bool> {
        let wanted = match self.goals.torque {
            Goals::ON => true,
            Goals::OFF => false,
            _ => {
                self.goals_sent = 0;
                return None;
            }
        };
        self.goals_sent = match wanted {
            true => self.goals_sent.saturating_add(1),
            false => 0,
        };
        if wanted && self.goals_sent < GOALS_BEFORE_TORQUE {
            return None;
        }
        if self.torque_sent != Some(wanted) {
            // The first order of a connection too: a servo may be as an earlier kairo-rt left it.
            self.torque_sent = Some(wanted);
            self.torque_repeats = TORQUE_REPEATS;
        }
        (self.torque_repeats > 0).then_some(wanted)
    }

    /// A servo was read back under torque. If all were ordered limp, the order was lost or
    /// countermanded: it is sent again.
    fn found_under_torque(&mut self) {
        if self.torque_sent == Some(false) && self.torque_repeats == 0 {
            self.torque_repeats = TORQUE_REPEATS;
        }
    }
}

/// What a bus thread is made of.
#[derive(Debug)]
pub struct BusParts {
    /// Its index in the statistics.
    pub index: usize,
    /// How long a read may take.
    pub response_timeout_ns: u64,
    /// Cycles without any reply after which the bus is lost.
    pub lost_after_cycles: u32,
    /// Servo ids, device after device; at most [`MAX_SERVOS`].
    pub ids: Vec<u8>,
    /// The devices.
    pub seats: Vec<BusSeat>,
    /// Connected lines from the supervisor.
    pub incoming: rtrb::Consumer<Line>,
    /// Lost lines for it; with room for every line there can be.
    pub outgoing: rtrb::Producer<Line>,
    /// Where to count.
    pub stats: Stats,
    /// The words shared with other threads.
    pub shared: Arc<Shared>,
}

/// A bus thread. See the module documentation.
#[derive(Debug)]
pub struct BusLoop {
    parts: BusParts,
    line: Option<Line>,
    generation: u64,
    silent_cycles: u32,
    /// Cycles until the next read-back of the torque switches.
    torque_check_in: u32,
    limp: [LimpWatch; MAX_SERVOS],
    samples: [ServoSample; MAX_SERVOS],
    counted: [ServoCounters; MAX_SERVOS],
    counted_garbage: u64,
    /// Cycles run since the loops have ended.
    last_cycles: u8,
}

impl BusLoop {
    /// A bus that does not run yet. setup-only.
    pub fn new(parts: BusParts) -> Self {
        Self {
            parts,
            line: None,
            generation: 0,
            silent_cycles: 0,
            torque_check_in: TORQUE_CHECK_CYCLES,
            limp: [LimpWatch::default(); MAX_SERVOS],
            samples: [ServoSample::default(); MAX_SERVOS],
            counted: [ServoCounters::default(); MAX_SERVOS],
            counted_garbage: 0,
            last_cycles: 0,
        }
    }

    fn own_stats(&self) -> &BusStats {
        &self.parts.stats.block().buses[self.parts.index]
    }

    /// One cycle, if there is a line.
    fn period(&mut self) {
        if self.line.is_none()
            && let Ok(line) = self.parts.incoming.pop()
        {
            self.adopt(line);
        }
        if let Some(mut line) = self.line.take() {
            match self.cycle(&mut line) {
                Ok(()) => self.line = Some(line),
                Err(Lost) => self.lose(line),
            }
        }
    }

    fn adopt(&mut self, line: Line) {
        self.generation += 1;
        self.silent_cycles = 0;
        self.torque_check_in = TORQUE_CHECK_CYCLES;
        self.limp = [LimpWatch::default(); MAX_SERVOS];
        for (counted, id) in self.counted.iter_mut().zip(&self.parts.ids) {
            *counted = line.servo_counters(*id).unwrap_or_default();
        }
        self.counted_garbage = line.counters().garbage_bytes;
        for seat in &mut self.parts.seats {
            seat.feedback = Feedback {
                generation: self.generation,
                bus_up: 1,
                torque_losses: seat.feedback.torque_losses,
                limp_joint: seat.feedback.limp_joint,
                ..Feedback::default()
            };
            seat.goals_sent = 0;
            seat.torque_sent = None;
            seat.torque_repeats = 0;
            seat.link.feedback.publish(&seat.feedback);
        }
        self.own_stats().connected.store(1, Ordering::Relaxed);
        self.line = Some(line);
    }

    fn lose(&mut self, line: Line) {
        for seat in &mut self.parts.seats {
            seat.feedback.bus_up = 0;
            seat.link.feedback.publish(&seat.feedback);
        }
        self.own_stats().connected.store(0, Ordering::Relaxed);
        add(&self.own_stats().losses, 1);
        if let Err(rtrb::PushError::Full(line)) = self.parts.outgoing.push(line) {
            // There is one line at a time and room for it, so this is our bug; keeping the line
            // open for ever is better than closing it here.
            std::mem::forget(line);
        }
    }

    /// Sends goals, reads samples, publishes feedback.
    fn cycle(&mut self, line: &mut Line) -> Result<(), Lost> {
        let started = MonoNs::now();
        let deadline = started.plus_ns(self.parts.response_timeout_ns);
        let written = self.send_goals(line, deadline);
        if written.is_err_and(is_final) {
            return Err(Lost);
        }
        let count = self.parts.ids.len();
        let samples = &mut self.samples[..count];
        let read = if self.torque_check_in == 0 {
            line.sync_read_present_and_torque(&self.parts.ids, samples, deadline)
        } else {
            line.sync_read_present(&self.parts.ids, samples, deadline)
        };
        let replies = match read {
            Ok(summary) => summary.replies,
            Err(error) if is_final(error) => return Err(Lost),
            Err(_) => 0,
        };
        let stats = self.own_stats();
        add(&stats.cycles, 1);
        stats.round_trip.record(MonoNs::now().since_ns(started));
        self.count(line);
        self.publish();
        self.silent_cycles = if replies == 0 {
            self.silent_cycles + 1
        } else {
            0
        };
        if self.silent_cycles >= self.parts.lost_after_cycles || self.is_limp() {
            Err(Lost)
        } else {
            Ok(())
        }
    }

    /// One sync-write with the goals of every device that has some for this connection, and torque
    /// switches where they changed: goals first, so that nothing jumps.
    fn send_goals(&mut self, line: &mut Line, deadline: MonoNs) -> Result<(), ServoBusError> {
        let (mut ids, mut steps, mut count) = ([0_u8; MAX_SERVOS], [0_i32; MAX_SERVOS], 0);
        for seat in &mut self.parts.seats {
            if let Some(goals) = seat.link.goals.take() {
                seat.goals = goals;
            }
            if seat.goals.generation != self.generation || seat.goals.torque != Goals::ON {
                continue;
            }
            for (joint, map) in seat.maps.iter().enumerate() {
                ids[count] = self.parts.ids[seat.first + joint];
                steps[count] = map.steps(seat.goals.setpoint_rad[joint]);
                count += 1;
            }
        }
        if count > 0 {
            line.sync_write_goals(&ids[..count], &steps[..count], deadline)?;
        }
        for seat in &mut self.parts.seats {
            if seat.goals.generation != self.generation {
                continue;
            }
            if let Some(wanted) = seat.torque_order() {
                let servos = &self.parts.ids[seat.first..seat.first + seat.maps.len()];
                line.sync_write_torque(servos, wanted, deadline)?;
                seat.torque_repeats -= 1;
            }
        }
        Ok(())
    }

    /// Whether a servo that shall be under torque is not, going by the read-backs so far.
    fn is_limp(&mut self) -> bool {
        let mut most = 0;
        for seat in &mut self.parts.seats {
            let all = seat.first..seat.first + seat.maps.len();
            let ordered = seat.torque_sent == Some(true) && seat.torque_repeats == 0;
            let (mut any_on, mut any_off) = (false, false);
            let samples = self.samples[all.clone()].iter();
            for (joint, (sample, watch)) in samples.zip(&mut self.limp[all]).enumerate() {
                any_on |= sample.is_torque_enabled() == Some(true);
                any_off |= sample.is_torque_enabled() == Some(false);
                let reads = watch.look(sample.outcome, sample.is_torque_enabled(), ordered);
                if reads >= LIMP_READS && most < LIMP_READS {
                    // Once a connection, which ends by it.
                    seat.feedback.torque_losses += 1;
                    seat.feedback.limp_joint = joint as u64;
                }
                most = most.max(reads);
            }
            if any_on {
                seat.feedback.torque_seen = Feedback::SOME_ON;
                seat.found_under_torque();
            } else if any_off {
                seat.feedback.torque_seen = Feedback::ALL_OFF;
            }
        }
        // A first suspicion is checked at once.
        self.torque_check_in = match self.torque_check_in {
            0 if most > 0 => 0,
            0 => TORQUE_CHECK_CYCLES,
            cycles => cycles - 1,
        };
        most >= LIMP_READS
    }

    /// Adds what the line counted since the last cycle to the statistics.
    fn count(&mut self, line: &Line) {
        let stats = &self.parts.stats.block().buses[self.parts.index];
        for ((id, servo), counted) in self
            .parts
            .ids
            .iter()
            .zip(&stats.servos)
            .zip(&mut self.counted)
        {
            let now = line.servo_counters(*id).unwrap_or_default();
            add(&servo.replies, now.replies - counted.replies);
            add(&servo.timeouts, now.timeouts - counted.timeouts);
            add(&servo.bad_packets, now.bad_checksum - counted.bad_checksum);
            add(
                &servo.status_errors,
                now.status_errors - counted.status_errors,
            );
            *counted = now;
        }
        let garbage = line.counters().garbage_bytes;
        add(&stats.garbage_bytes, garbage - self.counted_garbage);
        self.counted_garbage = garbage;
    }

    fn publish(&mut self) {
        for seat in &mut self.parts.seats {
            for (joint, map) in seat.maps.iter().enumerate().take(MAX_JOINTS) {
                let sample = &self.samples[seat.first + joint];
                let feedback = &mut seat.feedback.joints[joint];
                let Some(present) = sample
                    .present()
                    .filter(|present| is_plausible(sample, present))
                else {
                    feedback.missed = feedback.missed.saturating_add(1);
                    continue;
                };
                let direction = map.direction();
                feedback.position_rad = map.angle_rad(present.position_steps);
                feedback.velocity_rad_s = present.velocity_rad_s() * direction;
                feedback.load_ratio =
                    f64::from(present.load_permille) * FRACTION_PER_LOAD * direction;
                feedback.voltage_v = f64::from(present.voltage_v);
                feedback.current_a = f64::from(present.current_a);
                feedback.temperature_c = f64::from(present.temperature_c);
                feedback.sampled_ns = sample.received_at.0;
                feedback.status_bits = u32::from(sample.status.bits());
                feedback.missed = 0;
            }
            seat.link.feedback.publish(&seat.feedback);
        }
    }
}

impl Periodic for BusLoop {
    fn account(&self) -> &PeriodStats {
        &self.own_stats().periods
    }

    /// A bus is read before anything is decided too; it writes only what a loop that is armed
    /// wants written.
    fn rehearse(&mut self, _period: Period) {
        self.period();
    }

    fn decided(&mut self, _now: MonoNs, _armed: bool) {
        self.own_stats().cycles.store(0, Ordering::Relaxed);
    }

    fn run(&mut self, _period: Period) {
        // Asked before the cycle: what the loops wanted last is there, and goes out with it.
        if self.parts.shared.loops_are_done() {
            self.last_cycles += 1;
        }
        self.period();
    }

    /// Whether the loops' last goals are out: rest, and torque off where that is the safe action.
    fn is_finished(&self) -> bool {
        self.last_cycles >= TORQUE_REPEATS
    }
}

/// The line is gone, or nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost;

/// Whether the line itself is finished, rather than a transaction on it.
fn is_final(error: ServoBusError) -> bool {
    matches!(
        error,
        ServoBusError::Line(BusError::Disconnected { .. } | BusError::Io { .. })
    )
}

/// The protocol's checksum has one byte: about one in 256 damaged packets looks right. A position
/// outside the servo's turn or a current no STS3215 survives gives such a sample away. A position
/// outside the turn could not be held either: the nearest goal is its end, and torque would throw
/// the joint there.
fn is_plausible(sample: &ServoSample, present: &PresentState) -> bool {
    /// Twice the stall current of an STS3215 at 12 V, in register units.
    const CURRENT_MAX_A: f64 = 850.0 * AMPERES_PER_CURRENT;
    /// What an end stop gives way, and the encoder's noise.
    const TURN_MARGIN_STEPS: i32 = 16;
    matches!(sample.outcome, ServoOutcome::Ok | ServoOutcome::StatusError)
        && (-TURN_MARGIN_STEPS..STEPS_PER_TURN + TURN_MARGIN_STEPS)
            .contains(&present.position_steps)
        && f64::from(present.current_a.abs()) <= CURRENT_MAX_A
}

#[cfg(test)]
mod tests;
