//! The errors that device methods answer with, one function a cause.
//!
//! `details.reason` names the cause for programs; every message ends in what to do.

use kairo_link::abi::{Cause, Reply, Verdict};
use kairo_link::control::DeviceDescription;
use kairo_wire::{ErrorCode, ErrorInfo, Value};

use crate::events::map;
use crate::spelling;
use crate::views::{Peer, fault_text, joint_name};

/// No device of that name.
pub fn unknown_device(name: &str, known: &[String]) -> ErrorInfo {
    let hint = match spelling::nearest(name, known.iter().map(String::as_str), 2) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there are: {}", known.join(", ")),
    };
    let shown = spelling::shown(name);
    ErrorInfo::new(
        ErrorCode::NotFound,
        format!("there is no device {shown:?}; {hint}"),
    )
    .reason("unknown_device")
    .with("device", shown)
}

/// kairo-rt is away.
pub fn rt_away() -> ErrorInfo {
    let text = "the real-time plane is away: kairo-rt is not running or is restarting; \
        try again, or see `kairo rt status`";
    ErrorInfo::new(ErrorCode::Unavailable, text)
        .reason("rt_away")
        .retry(Some(500))
}

/// An e-stop was not cleared.
pub fn not_cleared(code: &str, reason: &str) -> ErrorInfo {
    let known = match code {
        "not_allowed" => ErrorCode::PermissionDenied,
        _ => ErrorCode::Conflict,
    };
    ErrorInfo::new(known, reason).reason(code)
}

/// The device's bus is lost.
pub fn bus_lost(device: &str, detail: &str) -> ErrorInfo {
    let text = format!(
        "the bus of {device:?} is lost{}; check its cable",
        after(detail)
    );
    ErrorInfo::new(ErrorCode::Unavailable, text)
        .reason("bus_lost")
        .with("device", device)
        .retry(None)
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
    ErrorInfo::new(ErrorCode::PermissionDenied, text)
        .reason("not_claimed")
        .with("device", device)
}

/// Somebody else has the claim.
pub fn held(device: &str, holder: &Peer) -> ErrorInfo {
    let name = holder.process.as_deref().unwrap_or("a process");
    let text = format!(
        "{device:?} is claimed by {name} (pid {}, uid {}); wait until it releases it",
        holder.pid, holder.uid
    );
    let who = map([
        ("connection", Value::from(holder.connection)),
        ("class", Value::from(holder.class.name())),
        ("name", holder.name.clone().map_or(Value::Nil, Value::from)),
        ("pid", Value::from(holder.pid)),
        ("uid", Value::from(holder.uid)),
        ("gid", Value::from(holder.gid)),
        (
            "process",
            holder.process.clone().map_or(Value::Nil, Value::from),
        ),
    ]);
    ErrorInfo::new(ErrorCode::Busy, text)
        .reason("claimed")
        .with("device", device)
        .with("holder", who)
        .retry(None)
}

/// The epoch is not that of the claim in force.
pub fn stale_epoch(device: &str, epoch: u64, in_force: Option<u64>, cause: &str) -> ErrorInfo {
    let why = match (in_force, cause) {
        (Some(now), "") => format!("the claim in force has epoch {now}"),
        (_, cause) => format!("that claim ended: {cause}"),
    };
    let text = format!("epoch {epoch} of {device:?} is stale, {why}; claim the device again");
    let mut error = ErrorInfo::new(ErrorCode::Conflict, text)
        .reason("stale_epoch")
        .with("device", device)
        .with("epoch", epoch);
    if let Some(now) = in_force {
        error = error.with("epoch_in_force", now);
    }
    if cause.is_empty() {
        error
    } else {
        error.with("cause", cause)
    }
}

/// The real-time plane did not answer a command in time.
pub fn no_reply(device: &str, sequence: u64, waited_ms: u128) -> ErrorInfo {
    let text = format!(
        "no answer from the real-time plane to command {sequence} of {device:?} within \
         {waited_ms} ms; it may still have been applied, and expires by itself"
    );
    ErrorInfo::new(ErrorCode::Timeout, text)
        .reason("no_reply")
        .with("sequence", sequence)
        .retry(None)
}

/// What a verdict other than `accepted` means to the caller.
pub fn verdict(device: &DeviceDescription, reply: &Reply, ttl_ms: u64) -> ErrorInfo {
    let name = &device.name;
    let Some(verdict) = Verdict::from_u32(reply.verdict) else {
        let text = format!(
            "the real-time plane gave the unknown verdict {}",
            reply.verdict
        );
        return ErrorInfo::new(ErrorCode::Internal, text);
    };
    let new = |code, text: String| {
        ErrorInfo::new(code, text)
            .reason(verdict.name())
            .with("device", name.as_str())
            .with("tick", reply.tick)
    };
    match verdict {
        Verdict::PositionLimit => position_limit(device, reply),
        Verdict::VelocityLimit => limit(device, reply, verdict, "velocity", "rad/s"),
        Verdict::AccelerationLimit => limit(device, reply, verdict, "acceleration", "rad/s²"),
        Verdict::JerkLimit => limit(device, reply, verdict, "jerk", "rad/s³"),
        Verdict::VelocityScale => bounds(
            new(
                ErrorCode::Limit,
                format!(
                    "velocity_scale is {}, allowed is above 0 up to 1",
                    reply.value
                ),
            ),
            reply,
            "1",
        ),
        Verdict::Faulted => faulted(device, reply),
        Verdict::Inhibited => inhibited(device, reply),
        Verdict::BusLost => bus_lost(name, ""),
        Verdict::StaleEpoch => stale_epoch(name, reply.lease_epoch, None, "revoked"),
        Verdict::NotArmed => new(
            ErrorCode::Unavailable,
            format!("{name:?} is not armed: bring-up was refused; see `kairo rt status`"),
        ),
        Verdict::StaleSequence => {
            let number = reply.sequence;
            let text = format!("command {number} of {name:?} came out of order; send it again");
            new(ErrorCode::Conflict, text).retry(None)
        }
        Verdict::Expired | Verdict::TtlOutOfRange | Verdict::IssuedInFuture => {
            untimely(device, reply, verdict, ttl_ms)
        }
        Verdict::UnknownMode => new(
            ErrorCode::Unsupported,
            format!(
                "{name:?} has no mode {}; it takes position, velocity, stop and reset",
                reply.value
            ),
        ),
        Verdict::JointCount => new(
            ErrorCode::InvalidParams,
            format!("{name:?} has {} joints", device.joints.len()),
        ),
        Verdict::NotFinite => {
            let joint = joint_name(device, reply.joint);
            let text = format!(
                "{joint} is given {}, which is no finite number",
                reply.value
            );
            new(ErrorCode::InvalidParams, text).with("joint", joint)
        }
        Verdict::Accepted => new(ErrorCode::Internal, "accepted is no refusal".into()),
    }
}

/// The command's times are wrong.
fn untimely(device: &DeviceDescription, reply: &Reply, verdict: Verdict, ttl_ms: u64) -> ErrorInfo {
    let (name, most) = (&device.name, device.ttl_max_ms);
    let error = match verdict {
        Verdict::Expired => {
            let age_ms = reply.value * 1e3;
            let text = format!(
                "the command was {age_ms:.1} ms old when it arrived, its ttl is {ttl_ms} ms; use a \
                 longer ttl_ms"
            );
            ErrorInfo::new(ErrorCode::Timeout, text)
                .with("ttl_ms", ttl_ms)
                .with("age_ms", age_ms)
                .retry(None)
        }
        Verdict::TtlOutOfRange => {
            let text = format!("ttl_ms is {ttl_ms}, {name:?} allows 1 to {most}");
            ErrorInfo::new(ErrorCode::Limit, text)
                .with("ttl_ms", ttl_ms)
                .with("ttl_max_ms", most)
        }
        _ => {
            let text = format!(
                "the command was issued {:.3} s in the future; issue it by CLOCK_MONOTONIC",
                reply.value
            );
            ErrorInfo::new(ErrorCode::Conflict, text).with("ahead_s", reply.value)
        }
    };
    error
        .reason(verdict.name())
        .with("device", name.as_str())
        .with("tick", reply.tick)
}

/// A joint was asked for more than it may do.
fn limit(
    device: &DeviceDescription,
    reply: &Reply,
    verdict: Verdict,
    quantity: &str,
    unit: &str,
) -> ErrorInfo {
    let joint = joint_name(device, reply.joint);
    let text = format!(
        "{joint}: {quantity} {} {unit} is outside its limits, {} to {} {unit}; the command was \
         not applied",
        reply.value, reply.min, reply.max
    );
    bounds(ErrorInfo::new(ErrorCode::Limit, text), reply, unit)
        .reason(verdict.name())
        .with("device", device.name.as_str())
        .with("joint", joint)
        .with("tick", reply.tick)
}

fn bounds(error: ErrorInfo, reply: &Reply, unit: &str) -> ErrorInfo {
    error
        .with("value", reply.value)
        .with("min", reply.min)
        .with("max", reply.max)
        .with("unit", unit)
}

/// A fault is latched.
fn faulted(device: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let name = &device.name;
    let joint = joint_name(device, reply.joint);
    let cause = Cause::from_u32(reply.cause).unwrap_or(Cause::None);
    let (unit, explanation) = fault_text(cause, &joint, reply.value, reply.max);
    let text = format!("{name:?} is faulted: {explanation}, then `kairo device reset {name}`");
    bounds(ErrorInfo::new(ErrorCode::Conflict, text), reply, unit)
        .reason(Verdict::Faulted.name())
        .with("device", name.as_str())
        .with("cause", cause.name())
        .with("joint", joint)
        .with("tick", reply.tick)
}

/// Something outside the command path forbids motion.
fn inhibited(device: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let name = &device.name;
    let cause = Cause::from_u32(reply.cause).unwrap_or(Cause::None);
    let text = format!("{name:?} must not move: {cause}; see `kairo rt status`");
    ErrorInfo::new(ErrorCode::Conflict, text)
        .reason(Verdict::Inhibited.name())
        .with("device", name.as_str())
        .with("cause", cause.name())
        .with("tick", reply.tick)
}

fn position_limit(device: &DeviceDescription, reply: &Reply) -> ErrorInfo {
    let joint = joint_name(device, reply.joint);
    let text = format!(
        "{joint} = {:.4} rad is outside its limits, {:.4} to {:.4} rad; the command was not \
         applied",
        reply.value, reply.min, reply.max
    );
    bounds(ErrorInfo::new(ErrorCode::Limit, text), reply, "rad")
        .reason("position_limit")
        .with("device", device.name.as_str())
        .with("joint", joint)
        .with("value_rad", reply.value)
        .with("min_rad", reply.min)
        .with("max_rad", reply.max)
        .with("tick", reply.tick)
}

#[cfg(test)]
mod tests {
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
