//! Checks across tables: names, servo ids, and whether the wire can carry the traffic in time.
//!
//! setup-only.

use kairo_hal::feetech::registers::PresentState;

use super::diagnostic::Problems;
use super::schema::{LocatedDevice, Section};
use super::{BusConfig, LoopConfig};

/// Bits on the wire for a byte: a start bit, eight data bits, a stop bit.
const BITS_PER_BYTE: u64 = 10;
/// Header (2), id, length, instruction or status, checksum.
const PACKET_OVERHEAD_BYTES: u64 = 6;
/// Start address and length in the parameters of a sync instruction.
const SYNC_PARAMETER_BYTES: u64 = 2;
/// Bytes of a goal position.
const GOAL_BYTES: u64 = 2;

/// What one read-and-write cycle puts on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusTraffic {
    /// Servos on the bus.
    pub servos: u64,
    /// Bytes of the sync-read request.
    pub request_bytes: u64,
    /// Bytes of all replies.
    pub reply_bytes: u64,
    /// Bytes of the sync-write of the goals.
    pub goal_bytes: u64,
    /// Time all of that takes on the wire, without any pause, rounded up.
    pub wire_time_us: u64,
}

/// The traffic of one cycle with `servos` servos at `baud` bits per second.
pub fn traffic_of(servos: u64, baud: u32) -> BusTraffic {
    let request_bytes = PACKET_OVERHEAD_BYTES + SYNC_PARAMETER_BYTES + servos;
    let reply_bytes = servos * (PACKET_OVERHEAD_BYTES + u64::from(PresentState::LEN));
    let goal_bytes = PACKET_OVERHEAD_BYTES + SYNC_PARAMETER_BYTES + servos * (1 + GOAL_BYTES);
    let bits = (request_bytes + reply_bytes + goal_bytes) * BITS_PER_BYTE;
    let wire_time_us = (bits * 1_000_000).div_ceil(u64::from(baud).max(1));
    BusTraffic {
        servos,
        request_bytes,
        reply_bytes,
        goal_bytes,
        wire_time_us,
    }
}

/// No two sections of a kind share a name.
pub(super) fn names<T>(sections: &[Section<T>], problems: &mut Problems<'_>) {
    for (index, section) in sections.iter().enumerate() {
        let earlier = sections.iter().take(index);
        if earlier
            .into_iter()
            .any(|other| other.name.value == section.name.value)
        {
            let message = format!("\"{}\" is used twice", section.name.value);
            problems.add(
                section.name.span.clone(),
                section.key.clone(),
                message,
                "choose another name",
            );
        }
    }
}

/// No servo id is used twice on one bus, by whatever devices.
pub(super) fn servo_ids(
    buses: &[Section<BusConfig>],
    devices: &[Section<LocatedDevice>],
    problems: &mut Problems<'_>,
) {
    for (index, bus) in buses.iter().enumerate() {
        let mut seen: Vec<(u8, String)> = Vec::new();
        let complete = devices.iter().filter_map(|section| section.value.as_ref());
        for located in complete.filter(|located| located.device.bus == index) {
            for (joint, span) in located.device.joints.iter().zip(&located.servo_spans) {
                let user = format!("{}.{}", located.device.name, joint.name);
                if let Some((_, first)) = seen.iter().find(|(id, _)| *id == joint.servo_id) {
                    let message = format!(
                        "servo {} of bus \"{}\" already moves {first}",
                        joint.servo_id, bus.name.value
                    );
                    problems.add(
                        span.clone(),
                        "device.joint.servo_id",
                        message,
                        format!("give {user} another servo"),
                    );
                }
                seen.push((joint.servo_id, user));
            }
        }
        if seen.len() > kairo_link::stats::MAX_SERVOS {
            let message = format!(
                "bus \"{}\" has {} servos, the most is {}",
                bus.name.value,
                seen.len(),
                kairo_link::stats::MAX_SERVOS
            );
            problems.add(
                bus.name.span.clone(),
                bus.key.clone(),
                message,
                "spread the servos over more buses",
            );
        }
    }
}

/// A bus gives way to the loops it serves: a line that babbles keeps its thread busy until the
/// response timeout, and on the loop's core that would be the loop's time.
pub(super) fn priorities(
    buses: &[Section<BusConfig>],
    loops: &[Section<LoopConfig>],
    devices: &[Section<LocatedDevice>],
    problems: &mut Problems<'_>,
) {
    let complete = devices.iter().filter_map(|section| section.value.as_ref());
    let mut found: Vec<(usize, usize)> = complete
        .map(|located| (located.device.bus, located.device.control_loop))
        .collect();
    found.sort_unstable();
    found.dedup();
    for (bus, control_loop) in found {
        let (Some(line), Some(config)) = (&buses[bus].value, &loops[control_loop].value) else {
            continue;
        };
        let apart = line.core.is_some() && config.core.is_some() && line.core != config.core;
        if apart || line.priority < config.priority {
            continue;
        }
        let message = format!(
            "priority {} of bus \"{}\" is not below {} of loop \"{}\", which may share its core",
            line.priority, line.name, config.priority, config.name
        );
        let fix = "give the bus a lower priority, or each a `core` of its own";
        problems.add(buses[bus].name.span.clone(), "bus.priority", message, fix);
    }
}

/// Every loop's period is long enough for one cycle of each bus it uses.
pub(super) fn wire_time(
    buses: &[Section<BusConfig>],
    loops: &[Section<LoopConfig>],
    devices: &[Section<LocatedDevice>],
    problems: &mut Problems<'_>,
) {
    for (bus_index, bus) in buses.iter().enumerate() {
        let Some(line) = &bus.value else { continue };
        let on_bus = || {
            devices
                .iter()
                .filter_map(|section| section.value.as_ref())
                .map(|located| &located.device)
                .filter(|device| device.bus == bus_index)
        };
        let servos = on_bus().map(|device| device.joints.len() as u64).sum();
        let traffic = traffic_of(servos, line.baud);
        for (loop_index, section) in loops.iter().enumerate() {
            let Some(period_us) = section.value.as_ref().map(|value| value.period_us) else {
                continue;
            };
            let uses = on_bus().any(|device| device.control_loop == loop_index);
            if !uses || traffic.wire_time_us <= period_us {
                continue;
            }
            let message = format!(
                "period_us = {period_us} is too short for bus \"{}\": {servos} servos take a {} B \
                 request + {} B of replies + {} B of goals = {} B x {BITS_PER_BYTE} bit / {} baud \
                 = {} us",
                bus.name.value,
                traffic.request_bytes,
                traffic.reply_bytes,
                traffic.goal_bytes,
                traffic.request_bytes + traffic.reply_bytes + traffic.goal_bytes,
                line.baud,
                traffic.wire_time_us
            );
            let fix = format!(
                "write at least {}, or raise the baud rate",
                traffic.wire_time_us.div_ceil(500) * 500
            );
            problems.add(section.name.span.clone(), "loop.period_us", message, fix);
        }
    }
}
