//! Whether a command may be followed: the judgement every command passes, in one place.
//!
//! A pure function of the time, the command and the device's standing; rt-safe, bounded by the
//! number of joints. The command is hostile: any bit pattern gets a verdict, and only one whose
//! every field is valid is accepted. Checks run in the order of [`judge`], and the first that fails
//! names the verdict, so an agent that is told `position_limit` knows that lease, time and mode
//! were fine.

use kairo_link::MonoNs;
use kairo_link::abi::{Command, MAX_JOINTS, Mode, Verdict};

use crate::limits::JointLimits;

/// What a command is judged against.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'d> {
    /// Whether bring-up armed the device.
    pub armed: bool,
    /// Whether its bus is up and every joint's feedback is fresh.
    pub bus_up: bool,
    /// Whether the failsafe machine lets nobody command it.
    pub inhibited: bool,
    /// The epoch of the lease in force; zero when there is none, which no lease has.
    pub lease_epoch: u64,
    /// The sequence number of the newest accepted command of this lease; zero before the first.
    pub newest_sequence: u64,
    /// Longest time to live allowed, ns.
    pub ttl_max_ns: u64,
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
        return Judgement::plain(Verdict::UnknownMode);
    };
    let joints = standing.limits.len().min(MAX_JOINTS);
    if command.joint_count as usize != joints {
        let (count, wanted) = (f64::from(command.joint_count), joints as f64);
        return Judgement::bounded(Verdict::JointCount, 0, count, wanted, wanted);
    }
    let positions = &command.position_rad[..joints];
    if let Some(joint) = positions.iter().position(|value| !value.is_finite()) {
        return Judgement::bounded(Verdict::NotFinite, joint as u32, positions[joint], 0.0, 0.0);
    }
    if !command.velocity_scale.is_finite() {
        return Judgement::bounded(Verdict::NotFinite, 0, command.velocity_scale, 0.0, 1.0);
    }
    if mode == Mode::Stop {
        // Positions and scale of a stop mean nothing; stopping must not fail for their sake.
        return Judgement::plain(Verdict::Accepted);
    }
    for (joint, (value, limits)) in positions.iter().zip(standing.limits).enumerate() {
        if !limits.allows(*value) {
            return Judgement::bounded(
                Verdict::PositionLimit,
                joint as u32,
                *value,
                limits.position_min_rad,
                limits.position_max_rad,
            );
        }
    }
    if command.velocity_scale <= 0.0 || command.velocity_scale > 1.0 {
        return Judgement::bounded(Verdict::VelocityScale, 0, command.velocity_scale, 0.0, 1.0);
    }
    Judgement::plain(Verdict::Accepted)
}

fn standing_fault(command: &Command, standing: &Standing<'_>) -> Option<Verdict> {
    if !standing.armed {
        Some(Verdict::NotArmed)
    } else if !standing.bus_up {
        Some(Verdict::BusLost)
    } else if standing.inhibited {
        Some(Verdict::Inhibited)
    } else if standing.lease_epoch == 0 || command.lease_epoch != standing.lease_epoch {
        Some(Verdict::StaleEpoch)
    } else if command.sequence <= standing.newest_sequence {
        Some(Verdict::StaleSequence)
    } else {
        None
    }
}

fn time_fault(now: MonoNs, command: &Command, standing: &Standing<'_>) -> Option<Judgement> {
    if command.ttl_ns == 0 || command.ttl_ns > standing.ttl_max_ns {
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        return Some(Judgement::bounded(
            Verdict::TtlOutOfRange,
            0,
            seconds(command.ttl_ns),
            0.0,
            seconds(standing.ttl_max_ns),
        ));
    }
    let issued = MonoNs(command.issued_ns);
    let in_the_future = issued > now;
    if in_the_future || now.since_ns(issued) >= command.ttl_ns {
        return Some(Judgement::plain(Verdict::Expired));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: MonoNs = MonoNs(10_000_000_000);
    const LIMITS: [JointLimits; 2] = [
        JointLimits {
            position_min_rad: -1.0,
            position_max_rad: 1.0,
            velocity_max_rad_s: 2.0,
            acceleration_max_rad_s2: 8.0,
        },
        JointLimits {
            position_min_rad: -0.2,
            position_max_rad: 1.5,
            velocity_max_rad_s: 2.0,
            acceleration_max_rad_s2: 8.0,
        },
    ];

    fn standing() -> Standing<'static> {
        Standing {
            armed: true,
            bus_up: true,
            inhibited: false,
            lease_epoch: 7,
            newest_sequence: 4,
            ttl_max_ns: 1_000_000_000,
            limits: &LIMITS,
        }
    }

    fn good() -> Command {
        Command {
            sequence: 5,
            lease_epoch: 7,
            issued_ns: NOW.0 - 1_000_000,
            ttl_ns: 100_000_000,
            mode: Mode::Position as u32,
            joint_count: 2,
            velocity_scale: 1.0,
            position_rad: [0.5, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        }
    }

    fn verdict_of(change: impl FnOnce(&mut Command, &mut Standing<'static>)) -> Verdict {
        let (mut command, mut standing) = (good(), standing());
        change(&mut command, &mut standing);
        judge(NOW, &command, &standing).verdict
    }

    #[test]
    fn a_good_command_is_accepted() {
        assert_eq!(verdict_of(|_, _| ()), Verdict::Accepted);
        assert_eq!(
            verdict_of(
                |command, _| command.position_rad = [1.0, -0.2, 9.0, f64::NAN, 0., 0., 0., 0.]
            ),
            Verdict::Accepted,
            "limits are inclusive and unused joints do not matter"
        );
    }

    #[test]
    fn each_fault_has_its_verdict() {
        type Change = fn(&mut Command, &mut Standing<'static>);
        let table: [(Change, Verdict); 19] = [
            (|_, s| s.armed = false, Verdict::NotArmed),
            (|_, s| s.bus_up = false, Verdict::BusLost),
            (|_, s| s.inhibited = true, Verdict::Inhibited),
            (|c, _| c.lease_epoch = 6, Verdict::StaleEpoch),
            (
                |c, s| (c.lease_epoch, s.lease_epoch) = (0, 0),
                Verdict::StaleEpoch,
            ),
            (|c, _| c.sequence = 4, Verdict::StaleSequence),
            (|c, _| c.ttl_ns = 0, Verdict::TtlOutOfRange),
            (|c, _| c.ttl_ns = 1_000_000_001, Verdict::TtlOutOfRange),
            (|c, _| c.issued_ns = NOW.0 - 100_000_000, Verdict::Expired),
            (|c, _| c.issued_ns = NOW.0 + 1, Verdict::Expired),
            (|c, _| c.mode = 0, Verdict::UnknownMode),
            (|c, _| c.joint_count = 3, Verdict::JointCount),
            (|c, _| c.joint_count = u32::MAX, Verdict::JointCount),
            (|c, _| c.position_rad[1] = f64::NAN, Verdict::NotFinite),
            (|c, _| c.velocity_scale = f64::INFINITY, Verdict::NotFinite),
            (|c, _| c.position_rad[1] = -0.21, Verdict::PositionLimit),
            (|c, _| c.velocity_scale = 0.0, Verdict::VelocityScale),
            (|c, _| c.velocity_scale = -0.0, Verdict::VelocityScale),
            (|c, _| c.velocity_scale = 1.01, Verdict::VelocityScale),
        ];
        for (index, (change, expected)) in table.into_iter().enumerate() {
            assert_eq!(verdict_of(change), expected, "case {index}");
        }
    }

    #[test]
    fn the_first_fault_in_order_names_the_verdict() {
        // Everything is wrong; mending faults in the documented order uncovers the next one.
        let mut command = Command {
            sequence: 0,
            lease_epoch: 1,
            issued_ns: u64::MAX,
            ttl_ns: u64::MAX,
            mode: 99,
            joint_count: 99,
            velocity_scale: 5.0,
            position_rad: [f64::NAN; MAX_JOINTS],
        };
        let mut standing = Standing {
            armed: false,
            bus_up: false,
            inhibited: true,
            ..standing()
        };
        let mut seen = Vec::new();
        loop {
            let verdict = judge(NOW, &command, &standing).verdict;
            seen.push(verdict);
            match verdict {
                Verdict::NotArmed => standing.armed = true,
                Verdict::BusLost => standing.bus_up = true,
                Verdict::Inhibited => standing.inhibited = false,
                Verdict::StaleEpoch => command.lease_epoch = 7,
                Verdict::StaleSequence => command.sequence = 5,
                Verdict::TtlOutOfRange => command.ttl_ns = 1000,
                Verdict::Expired => command.issued_ns = NOW.0,
                Verdict::UnknownMode => command.mode = Mode::Position as u32,
                Verdict::JointCount => command.joint_count = 2,
                Verdict::NotFinite => command.position_rad = [50.0; MAX_JOINTS],
                Verdict::PositionLimit => command.position_rad = [0.0; MAX_JOINTS],
                Verdict::VelocityScale => command.velocity_scale = 0.5,
                Verdict::Accepted => break,
            }
        }
        let documented = [
            Verdict::NotArmed,
            Verdict::BusLost,
            Verdict::Inhibited,
            Verdict::StaleEpoch,
            Verdict::StaleSequence,
            Verdict::TtlOutOfRange,
            Verdict::Expired,
            Verdict::UnknownMode,
            Verdict::JointCount,
            Verdict::NotFinite,
            Verdict::PositionLimit,
            Verdict::VelocityScale,
            Verdict::Accepted,
        ];
        assert_eq!(seen, documented);
    }

    #[test]
    fn a_limit_verdict_names_joint_value_and_range() {
        let mut command = good();
        command.position_rad[1] = 1.75;
        let judged = judge(NOW, &command, &standing());
        assert_eq!(
            (judged.joint, judged.value, judged.min, judged.max),
            (1, 1.75, -0.2, 1.5)
        );
    }

    #[test]
    fn a_stop_needs_no_positions() {
        let verdict = verdict_of(|command, _| {
            command.mode = Mode::Stop as u32;
            command.velocity_scale = 0.0;
            command.position_rad = [99.0; MAX_JOINTS];
        });
        assert_eq!(verdict, Verdict::Accepted);
    }

    /// Values that are interesting to a field about as often as any bit pattern.
    fn word(near: u64) -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            Just(near),
            (0_u64..4).prop_map(move |by| near.wrapping_add(by))
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, cases: 4096, ..Default::default()
        })]

        #[test]
        fn any_bit_pattern_gets_a_verdict_and_only_a_valid_command_is_accepted(
            sequence in word(5), lease_epoch in word(7), issued_ns in word(NOW.0 - 1),
            ttl_ns in word(999_999_999), mode in prop_oneof![any::<u32>(), 1_u32..3],
            joint_count in prop_oneof![any::<u32>(), 2_u32..3],
            scale in prop_oneof![any::<u64>(), (0.0..=1.0_f64).prop_map(f64::to_bits)],
            bits in prop::array::uniform8(
                prop_oneof![any::<u64>(), (-0.2..=1.0_f64).prop_map(f64::to_bits)]),
        ) {
            let command = Command {
                sequence, lease_epoch, issued_ns, ttl_ns, mode, joint_count,
                velocity_scale: f64::from_bits(scale),
                position_rad: bits.map(f64::from_bits),
            };
            let accepted = judge(NOW, &command, &standing()).verdict == Verdict::Accepted;
            let in_time = ttl_ns > 0 && ttl_ns <= 1_000_000_000 && issued_ns <= NOW.0
                && NOW.0 - issued_ns < ttl_ns;
            let moves = mode == 1
                && command.velocity_scale > 0.0 && command.velocity_scale <= 1.0
                && (-1.0..=1.0).contains(&command.position_rad[0])
                && (-0.2..=1.5).contains(&command.position_rad[1]);
            let stops = mode == 2 && command.velocity_scale.is_finite()
                && command.position_rad[..2].iter().all(|value| value.is_finite());
            let valid = sequence > 4 && lease_epoch == 7 && in_time && joint_count == 2
                && (moves || stops);
            prop_assert_eq!(accepted, valid);
        }
    }
}
