//! The errors that device methods answer with, one function a cause.
//!
//! `details.reason` names the cause for programs; every message ends in what to do.

use kairo_link::abi::{Cause, Reply, Verdict};
use kairo_link::control::DeviceDescription;
use kairo_wire::ErrorInfo;

use crate::reasons::Reason;
use crate::spelling;
use crate::views::{Peer, fault_text, joint_name};

/// No device of that name.
pub fn unknown_device(name: &str, known: &[String]) -> ErrorInfo {
    let hint = match spelling::nearest(name, known.iter().map(String::as_str), 2) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there are: {}", known.join(", ")),
    };
    let shown = spelling::shown(name);
    let text = format!("there is no device {shown:?}; {hint}");
    Reason::UnknownDevice { device: shown }.error(text)
}

/// kairo-rt is away.
pub fn rt_away() -> ErrorInfo {
    let text = "the real-time plane is away: kairo-rt is not running or is restarting; \
        try again, or see `kairo rt status`";
    Reason::RtAway.error_retried(text, 500)
}

/// An e-stop was not cleared.
pub fn not_cleared(code: &str, reason: &str) -> ErrorInfo {
    let why = match code {
        "not_allowed" => Reason::NotAllowed,
        "still_latched" => Reason::StillLatched,
        other => Reason::RtRefused {
            device: None,
            cause: other.into(),
        },
    };
    why.error(reason)
}

/// Why kairo-rt gives no lease on a device, by its own name for that.
pub fn lease_refused(code: &str, device: String) -> Reason {
    match code {
        "busy" => Reason::Busy { device },
        "no_such_device" => Reason::NoSuchDevice { device },
        "estopped" => Reason::Estopped { device },
        "bus_lost" => Reason::BusLost { device },
        "not_armed" => Reason::NotArmed { device, tick: None },
        "ring_corrupt" => Reason::RingCorrupt { device },
        other => Reason::RtRefused {
            device: Some(device),
            cause: other.into(),
        },
    }
}

/// The device's bus is lost.
pub fn bus_lost(device: &str, detail: &str) -> ErrorInfo {
    let text = format!(
        "the bus of {device:?} is lost{}; check its cable",
        after(detail)
    );
    let device = device.to_string();
    Reason::BusLost { device }.error(text)
}

fn after(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

/// Nobody has claimed the device, and the caller's epoch is none that we know.
pub fn not_claimed(device: &str) -> ErrorInfo {
    let text = format!("{device:?} is not claimed by this connection; call device.claim first");
    let device = device.to_string();
    Reason::NotClaimed { device }.error(text)
}

/// Somebody else has the claim.
pub fn held(device: &str, holder: &Peer) -> ErrorInfo {
    let name = holder.process.as_deref().unwrap_or("a process");
    let text = format!(
        "{device:?} is claimed by {name} (pid {}, uid {}); wait until it releases it",
        holder.pid, holder.uid
    );
    let reason = Reason::Claimed {
        device: device.into(),
        holder: holder.clone(),
    };
    reason.error(text)
}

/// The epoch is not that of the claim in force.
pub fn stale_epoch(device: &str, epoch: u64, in_force: Option<u64>, cause: &str) -> ErrorInfo {
    let why = match (in_force, cause) {
        (Some(now), "") => format!("the claim in force has epoch {now}"),
        (_, cause) => format!("that claim ended: {cause}"),
    };
    let text = format!("epoch {epoch} of {device:?} is stale, {why}; claim the device again");
    let reason = Reason::StaleEpoch {
        device: device.into(),
        epoch,
        epoch_in_force: in_force,
        cause: (!cause.is_empty()).then(|| cause.into()),
    };
    reason.error(text)
}

/// The real-time plane did not answer a command in time.
pub fn no_reply(device: &str, sequence: u64, waited_ms: u128) -> ErrorInfo {
    let text = format!(
        "no answer from the real-time plane to command {sequence} of {device:?} within \
         {waited_ms} ms; it may still have been applied, and expires by itself"
    );
    Reason::NoReply { sequence }.error(text)
}

/// What a verdict other than `accepted` means to the caller.
pub fn verdict(description: &DeviceDescription, reply: &Reply, ttl_ms: u64) -> ErrorInfo {
    let name = &description.name;
    let Some(verdict) = Verdict::from_u32(reply.verdict) else {
        let number = reply.verdict;
        let text = format!("the real-time plane gave the unknown verdict {number}");
        return Reason::Internal.error(text);
    };
    let (device, tick) = (name.clone(), reply.tick);
    match verdict {
        Verdict::PositionLimit
        | Verdict::VelocityLimit
        | Verdict::AccelerationLimit
        | Verdict::JerkLimit
        | Verdict::VelocityScale => limit(description, reply, verdict),
        Verdict::Faulted => faulted(description, reply),
        Verdict::Inhibited => inhibited(description, reply),
        Verdict::BusLost => bus_lost(name, ""),
        Verdict::StaleEpoch => stale_epoch(name, reply.lease_epoch, None, "revoked"),
        Verdict::NotArmed => {
            let text =
                format!("{name:?} is not armed: bring-up was refused; see `kairo rt status`");
            let tick = Some(tick);
            Reason::NotArmed { device, tick }.error(text)
        }
        Verdict::StaleSequence => {
            let number = reply.sequence;
            let text = format!("command {number} of {name:?} came out of order; send it again");
            Reason::StaleSequence { device, tick }.error(text)
        }
        Verdict::Expired | Verdict::TtlOutOfRange | Verdict::IssuedInFuture => {
            untimely(description, reply, verdict, ttl_ms)
        }
        Verdict::UnknownMode => {
            let text = format!(
                "{name:?} has no mode {}; it takes position, velocity, stop and reset",
                reply.value
            );
            Reason::UnknownMode { device, tick }.error(text)
        }
        Verdict::JointCount => {
            let text = format!("{name:?} has {} joints", description.joints.len());
            let tick = Some(tick);
            Reason::JointCount { device, tick }.error(text)
        }
        Verdict::NotFinite => {
            let joint = joint_name(description, reply.joint);
            let value = reply.value;
            let text = format!("{joint} is given {value}, which is no finite number");
            Reason::NotFinite {
                device,
                joint,
                tick,
            }
            .error(text)
        }
        Verdict::Accepted => Reason::Internal.error("accepted is no refusal"),
    }
}

/// The command's times are wrong.
fn untimely(
    description: &DeviceDescription,
    reply: &Reply,
    verdict: Verdict,
    ttl_ms: u64,
) -> ErrorInfo {
    let (device, ttl_max_ms) = (description.name.clone(), description.ttl_max_ms);
    let tick = reply.tick;
    match verdict {
        Verdict::Expired => {
            let age_ms = reply.value * 1e3;
            let text = format!(
                "the command was {age_ms:.1} ms old when it arrived, its ttl is {ttl_ms} ms; use a \
                 longer ttl_ms"
            );
            Reason::Expired {
                device,
                tick,
                ttl_ms,
                age_ms,
            }
            .error(text)
        }
        Verdict::TtlOutOfRange => {
            let text = format!("ttl_ms is {ttl_ms}, {device:?} allows 1 to {ttl_max_ms}");
            Reason::TtlOutOfRange {
                device,
                ttl_ms,
                ttl_max_ms,
                tick,
            }
            .error(text)
        }
        _ => {
            let ahead_s = reply.value;
            let text = format!(
                "the command was issued {ahead_s:.3} s in the future; issue it by CLOCK_MONOTONIC"
            );
            Reason::IssuedInFuture {
                device,
                ahead_s,
                tick,
            }
            .error(text)
        }
    }
}

/// A joint was asked for more than it may do.
fn limit(description: &DeviceDescription, reply: &Reply, verdict: Verdict) -> ErrorInfo {
    let (quantity, unit) = match verdict {
        Verdict::PositionLimit => return position_limit(description, reply),
        Verdict::VelocityScale => return velocity_scale(description, reply),
        Verdict::VelocityLimit => ("velocity", "rad/s"),
        Verdict::AccelerationLimit => ("acceleration", "rad/s²"),
        _ => ("jerk", "rad/s³"),
    };
    let joint = joint_name(description, reply.joint);
    let device = description.name.clone();
    let (value, min, max, tick) = (reply.value, reply.min, reply.max, reply.tick);
    let text = format!(
        "{joint}: {quantity} {value} {unit} is outside its limits, {min} to {max} {unit}; the \
         command was not applied"
    );
    let unit = unit.to_string();
    let reason = match verdict {
        Verdict::VelocityLimit => Reason::VelocityLimit {
            device,
            joint,
            value,
            min,
            max,
            unit,
            tick,
        },
        Verdict::AccelerationLimit => Reason::AccelerationLimit {
            device,
            joint,
            value,
            min,
            max,
            unit,
            tick,
        },
        _ => Reason::JerkLimit {
            device,
            joint,
            value,
            min,
            max,
            unit,
            tick,
        },
    };
    reason.error(text)
}

fn position_limit(description: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let joint = joint_name(description, reply.joint);
    let (value, min, max) = (reply.value, reply.min, reply.max);
    let text = format!(
        "{joint} = {value:.4} rad is outside its limits, {min:.4} to {max:.4} rad; the command \
         was not applied"
    );
    let reason = Reason::PositionLimit {
        device: description.name.clone(),
        joint,
        value,
        min,
        max,
        unit: "rad".into(),
        value_rad: value,
        min_rad: min,
        max_rad: max,
        tick: reply.tick,
    };
    reason.error(text)
}

fn velocity_scale(description: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let value = reply.value;
    let text = format!("velocity_scale is {value}, allowed is above 0 up to 1");
    let reason = Reason::VelocityScale {
        device: description.name.clone(),
        value,
        min: reply.min,
        max: reply.max,
        unit: "1".into(),
        tick: reply.tick,
    };
    reason.error(text)
}

/// A fault is latched.
fn faulted(description: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let name = &description.name;
    let joint = joint_name(description, reply.joint);
    let cause = Cause::from_u32(reply.cause).unwrap_or(Cause::None);
    let (unit, explanation) = fault_text(cause, &joint, reply.value, reply.max);
    let text = format!("{name:?} is faulted: {explanation}, then `kairo device reset {name}`");
    let reason = Reason::Faulted {
        device: name.clone(),
        cause: cause.name().into(),
        joint,
        value: reply.value,
        min: reply.min,
        max: reply.max,
        unit: unit.into(),
        tick: reply.tick,
    };
    reason.error(text)
}

/// Something outside the command path forbids motion.
fn inhibited(description: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let name = &description.name;
    let cause = Cause::from_u32(reply.cause).unwrap_or(Cause::None);
    let text = format!("{name:?} must not move: {cause}; see `kairo rt status`");
    let reason = Reason::Inhibited {
        device: name.clone(),
        cause: cause.name().into(),
        tick: reply.tick,
    };
    reason.error(text)
}

#[cfg(test)]
mod tests {
    use kairo_wire::ErrorCode;

    use super::*;

    #[test]
    fn a_fault_is_explained_with_joint_value_limit_and_what_to_do() {
        use kairo_link::control::JointDescription;
        let device = DeviceDescription {
            name: "arm".into(),
            joints: vec![JointDescription {
                name: "elbow".into(),
                ..JointDescription::default()
            }],
            ..DeviceDescription::default()
        };
        let refused = |cause: Cause, value: f64, max: f64| {
            let reply = Reply {
                verdict: Verdict::Faulted as u32,
                cause: cause as u32,
                value,
                max,
                ..Reply::default()
            };
            verdict(&device, &reply, 100)
        };
        let error = refused(Cause::FollowingError, -0.62, 0.5);
        assert_eq!(error.code, ErrorCode::Conflict);
        for part in [
            "elbow",
            "0.620 rad",
            "0.500 rad",
            "`kairo device reset arm`",
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        let unit = |error: &ErrorInfo| {
            error
                .detail("unit")
                .and_then(|unit| unit.as_str().map(String::from))
        };
        assert_eq!(unit(&error).as_deref(), Some("rad"));
        let error = refused(Cause::ServoFault, 36.0, 0.0);
        assert!(
            error.message.contains("overheating and overload"),
            "{}",
            error.message
        );
        // What no kairo-rt of ours sends.
        refused(Cause::None, f64::NAN, f64::INFINITY);
    }

    #[test]
    fn every_verdict_but_accepted_has_its_own_reason() {
        let device = DeviceDescription::default();
        for expected in (1..).map_while(Verdict::from_u32) {
            let number = expected as u32;
            let reply = Reply {
                verdict: number,
                ..Reply::default()
            };
            let error = verdict(&device, &reply, 100);
            assert_eq!(error.reason_name(), expected.name());
            assert_ne!(error.code, ErrorCode::Internal, "{expected}");
        }
        let unknown = Reply {
            verdict: 99,
            ..Reply::default()
        };
        assert_eq!(verdict(&device, &unknown, 1).code, ErrorCode::Internal);
    }
}
