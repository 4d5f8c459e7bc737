//! Whether a command may be followed: the judgement every command passes, in one place.
//!
//! A pure function of the time, the command and the device's standing; rt-safe, bounded by the
//! number of joints. The command is hostile: any bit pattern gets a verdict, and only one whose
//! every field is valid is accepted. Checks run in the order of [`judge`], and the first that fails
//! names the verdict, so an agent that is told `position_limit` knows that lease, time and mode
//! were fine.

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, Command, MAX_JOINTS, Mode, Verdict};

use crate::fault::Fault;
use crate::limits::JointLimits;

/// What a command is judged against.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'d> {
    /// Whether bring-up armed the device.
    pub armed: bool,
    /// Whether its bus is up and every joint's feedback is fresh.
    pub bus_up: bool,
    /// The epoch of the lease in force; zero when there is none, which no lease has.
    pub lease_epoch: u64,
    /// The sequence number of the newest accepted command of this lease; zero before the first.
    pub newest_sequence: u64,
    /// Longest time to live allowed, ns.
    pub ttl_max_ns: u64,
    /// The latched fault, if any.
    pub fault: Option<Fault>,
    /// Whether that fault shows at this moment, so that a reset would be undone at once.
    pub fault_shows: bool,
    /// What inhibits motion, if anything.
    pub inhibited: Option<Cause>,
    /// The joints; at most [`MAX_JOINTS`].
    pub limits: &'d [JointLimits],
}

/// A verdict and, for a limit, what was exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The joint it speaks of; zero otherwise.
    pub joint: u32,
    /// The refused value.
    pub value: f64,
    /// Its lower limit.
    pub min: f64,
    /// Its upper limit.
    pub max: f64,
    /// What the device stands on, for [`Verdict::Faulted`] and [`Verdict::Inhibited`].
    pub cause: Cause,
}

impl Judgement {
    const fn plain(verdict: Verdict) -> Self {
        Self::bounded(verdict, 0, 0.0, 0.0, 0.0)
    }

    const fn bounded(verdict: Verdict, joint: u32, value: f64, min: f64, max: f64) -> Self {
        Self {
            verdict,
            joint,
            value,
            min,
            max,
            cause: Cause::None,
        }
    }
}

/// Judges `command` at `now`, which must not lie before the moment it was taken from its ring.
/// rt-safe.
pub fn judge(now: MonoNs, command: &Command, standing: &Standing<'_>) -> Judgement {
    if let Some(verdict) = standing_fault(command, standing) {
        return Judgement::plain(verdict);
    }
    if let Some(refused) = time_fault(now, command, standing) {
        return refused;
    }
    let Some(mode) = Mode::from_u32(command.mode) else {
        let mode = f64::from(command.mode);
        return Judgement::bounded(Verdict::UnknownMode, 0, mode, 0.0, 0.0);
    };
    if let Some(refused) = latch_fault(mode, standing) {
        return refused;
    }
    let joints = standing.limits.len().min(MAX_JOINTS);
    if command.joint_count as usize != joints {
        let (count, wanted) = (f64::from(command.joint_count), joints as f64);
        return Judgement::bounded(Verdict::JointCount, 0, count, wanted, wanted);
    }
    if matches!(mode, Mode::Stop | Mode::Reset) {
        // Their numbers mean nothing; stopping must not fail for their sake.
        return Judgement::plain(Verdict::Accepted);
    }
    let targets = &command.target[..joints];
    if let Some(refused) = number_fault(command, targets) {
        return refused;
    }
    for (joint, (value, limits)) in targets.iter().zip(standing.limits).enumerate() {
        let (verdict, low, high) = match mode {
            Mode::Velocity => {
                let most = limits.velocity_max_rad_s;
                (Verdict::VelocityLimit, -most, most)
            }
            _ => {
                let (low, high) = (limits.position_min_rad, limits.position_max_rad);
                (Verdict::PositionLimit, low, high)
            }
        };
        if !(low..=high).contains(value) {
            return Judgement::bounded(verdict, joint as u32, *value, low, high);
        }
    }
    brisk_fault(command, standing).unwrap_or(Judgement::plain(Verdict::Accepted))
}

/// What an inhibited or faulted device refuses: everything but the reset of a fault that is over.
fn latch_fault(mode: Mode, standing: &Standing<'_>) -> Option<Judgement> {
    let fault = standing.fault;
    let faulted = |fault: Fault| Judgement {
        cause: fault.cause,
        ..Judgement::bounded(
            Verdict::Faulted,
            fault.joint as u32,
            fault.value,
            0.0,
            fault.limit,
        )
    };
    if mode == Mode::Reset {
        return fault.filter(|_| standing.fault_shows).map(faulted);
    }
    if let Some(cause) = standing.inhibited {
        let plain = Judgement::plain(Verdict::Inhibited);
        return Some(Judgement { cause, ..plain });
    }
    fault.map(faulted)
}

fn number_fault(command: &Command, targets: &[f64]) -> Option<Judgement> {
    let found = |joint: usize, value| {
        Some(Judgement::bounded(
            Verdict::NotFinite,
            joint as u32,
            value,
            0.0,
            0.0,
        ))
    };
    if let Some(joint) = targets.iter().position(|value| !value.is_finite()) {
        return found(joint, targets[joint]);
    }
    let others = [
        command.velocity_scale,
        command.acceleration_rad_s2,
        command.jerk_rad_s3,
    ];
    let broken = others.into_iter().find(|value| !value.is_finite());
    broken.and_then(|value| found(MAX_JOINTS, value))
}

/// Whether the command asks to be carried out more briskly than allowed.
fn brisk_fault(command: &Command, standing: &Standing<'_>) -> Option<Judgement> {
    let scale = command.velocity_scale;
    if scale <= 0.0 || scale > 1.0 {
        return Some(Judgement::bounded(
            Verdict::VelocityScale,
            0,
            scale,
            0.0,
            1.0,
        ));
    }
    let (acceleration, jerk) = (command.acceleration_rad_s2, command.jerk_rad_s3);
    for (joint, limits) in standing.limits.iter().enumerate() {
        let most = limits.acceleration_max_rad_s2;
        if !(0.0..=most).contains(&acceleration) {
            let verdict = Verdict::AccelerationLimit;
            return Some(Judgement::bounded(
                verdict,
                joint as u32,
                acceleration,
                0.0,
                most,
            ));
        }
        let most = limits.jerk_max_rad_s3;
        if !(0.0..=most).contains(&jerk) {
            let verdict = Verdict::JerkLimit;
            return Some(Judgement::bounded(verdict, joint as u32, jerk, 0.0, most));
        }
    }
    None
}

fn standing_fault(command: &Command, standing: &Standing<'_>) -> Option<Verdict> {
    if !standing.armed {
        Some(Verdict::NotArmed)
    } else if !standing.bus_up {
        Some(Verdict::BusLost)
    } else if standing.lease_epoch == 0 || command.lease_epoch != standing.lease_epoch {
        Some(Verdict::StaleEpoch)
    } else if command.sequence <= standing.newest_sequence {
        Some(Verdict::StaleSequence)
    } else {
        None
    }
}

fn time_fault(now: MonoNs, command: &Command, standing: &Standing<'_>) -> Option<Judgement> {
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    if command.ttl_ns == 0 || command.ttl_ns > standing.ttl_max_ns {
        return Some(Judgement::bounded(
            Verdict::TtlOutOfRange,
            0,
            seconds(command.ttl_ns),
            0.0,
            seconds(standing.ttl_max_ns),
        ));
    }
    let issued = MonoNs(command.issued_ns);
    if issued > now {
        let ahead = seconds(issued.since_ns(now));
        return Some(Judgement::bounded(
            Verdict::IssuedInFuture,
            0,
            ahead,
            0.0,
            0.0,
        ));
    }
    let age_ns = now.since_ns(issued);
    (age_ns >= command.ttl_ns).then(|| {
        let (age, ttl) = (seconds(age_ns), seconds(command.ttl_ns));
        Judgement::bounded(Verdict::Expired, 0, age, 0.0, ttl)
    })
}

#[cfg(test)]
mod tests;
