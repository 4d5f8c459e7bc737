//! Every verdict, their order, and any bit pattern.

use super::*;
use proptest::prelude::*;

const NOW: MonoNs = MonoNs(10_000_000_000);
const LIMITS: [JointLimits; 2] = [
    JointLimits {
        position_min_rad: -1.0,
        position_max_rad: 1.0,
        velocity_max_rad_s: 2.0,
        acceleration_max_rad_s2: 8.0,
        jerk_max_rad_s3: 160.0,
    },
    JointLimits {
        position_min_rad: -0.2,
        position_max_rad: 1.5,
        velocity_max_rad_s: 2.0,
        acceleration_max_rad_s2: 8.0,
        jerk_max_rad_s3: 160.0,
    },
];

const FAULT: Fault = Fault {
    cause: Cause::FollowingError,
    joint: 1,
    value: 0.7,
    limit: 0.5,
    since: MonoNs(9_000_000_000),
};

fn standing() -> Standing<'static> {
    Standing {
        armed: true,
        bus_up: true,
        lease_epoch: 7,
        newest_sequence: 4,
        ttl_max_ns: 1_000_000_000,
        limits: &LIMITS,
        fault: None,
        fault_shows: false,
        inhibited: None,
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
        acceleration_rad_s2: 0.0,
        jerk_rad_s3: 0.0,
        target: [0.5, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
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
        verdict_of(|command, _| command.target = [1.0, -0.2, 9.0, f64::NAN, 0., 0., 0., 0.]),
        Verdict::Accepted,
        "limits are inclusive and unused joints do not matter"
    );
}

#[test]
fn each_fault_has_its_verdict() {
    type Change = fn(&mut Command, &mut Standing<'static>);
    let table: [(Change, Verdict); 30] = [
        (|_, s| s.armed = false, Verdict::NotArmed),
        (|_, s| s.bus_up = false, Verdict::BusLost),
        (|c, _| c.lease_epoch = 6, Verdict::StaleEpoch),
        (
            |c, s| (c.lease_epoch, s.lease_epoch) = (0, 0),
            Verdict::StaleEpoch,
        ),
        (|c, _| c.sequence = 4, Verdict::StaleSequence),
        (|c, _| c.ttl_ns = 0, Verdict::TtlOutOfRange),
        (|c, _| c.ttl_ns = 1_000_000_001, Verdict::TtlOutOfRange),
        (|c, _| c.issued_ns = NOW.0 - 100_000_000, Verdict::Expired),
        (|c, _| c.issued_ns = 0, Verdict::Expired),
        (|c, _| c.issued_ns = NOW.0 + 1, Verdict::IssuedInFuture),
        (|c, _| c.issued_ns = u64::MAX, Verdict::IssuedInFuture),
        (|c, _| c.ttl_ns = u64::MAX, Verdict::TtlOutOfRange),
        (
            |_, s| s.inhibited = Some(Cause::EmergencyStop),
            Verdict::Inhibited,
        ),
        (|_, s| s.fault = Some(FAULT), Verdict::Faulted),
        (|c, _| c.mode = 0, Verdict::UnknownMode),
        (|c, _| c.joint_count = 3, Verdict::JointCount),
        (|c, _| c.joint_count = u32::MAX, Verdict::JointCount),
        (|c, _| c.target[1] = f64::NAN, Verdict::NotFinite),
        (|c, _| c.velocity_scale = f64::INFINITY, Verdict::NotFinite),
        (|c, _| c.target[1] = -0.21, Verdict::PositionLimit),
        (|c, _| c.velocity_scale = 0.0, Verdict::VelocityScale),
        (|c, _| c.velocity_scale = -0.0, Verdict::VelocityScale),
        (|c, _| c.velocity_scale = 1.01, Verdict::VelocityScale),
        (
            |c, _| c.acceleration_rad_s2 = 8.01,
            Verdict::AccelerationLimit,
        ),
        (
            |c, _| c.acceleration_rad_s2 = -1.0,
            Verdict::AccelerationLimit,
        ),
        (|c, _| c.acceleration_rad_s2 = f64::NAN, Verdict::NotFinite),
        (|c, _| c.jerk_rad_s3 = 160.1, Verdict::JerkLimit),
        (|c, _| c.jerk_rad_s3 = f64::INFINITY, Verdict::NotFinite),
        (
            |c, _| (c.mode, c.target[1]) = (Mode::Velocity as u32, 2.01),
            Verdict::VelocityLimit,
        ),
        (
            |c, _| (c.mode, c.target[0]) = (Mode::Velocity as u32, -2.01),
            Verdict::VelocityLimit,
        ),
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
        acceleration_rad_s2: 99.0,
        jerk_rad_s3: 999.0,
        target: [f64::NAN; MAX_JOINTS],
    };
    let mut standing = Standing {
        armed: false,
        bus_up: false,
        fault: Some(FAULT),
        inhibited: Some(Cause::EmergencyStop),
        ..standing()
    };
    let mut seen = Vec::new();
    loop {
        let verdict = judge(NOW, &command, &standing).verdict;
        seen.push(verdict);
        match verdict {
            Verdict::NotArmed => standing.armed = true,
            Verdict::BusLost => standing.bus_up = true,
            Verdict::StaleEpoch => command.lease_epoch = 7,
            Verdict::StaleSequence => command.sequence = 5,
            Verdict::TtlOutOfRange => command.ttl_ns = 1000,
            Verdict::IssuedInFuture => command.issued_ns = 0,
            Verdict::Expired => command.issued_ns = NOW.0,
            Verdict::UnknownMode => command.mode = Mode::Position as u32,
            Verdict::Inhibited => standing.inhibited = None,
            Verdict::Faulted => standing.fault = None,
            Verdict::JointCount => command.joint_count = 2,
            Verdict::NotFinite => command.target = [50.0; MAX_JOINTS],
            Verdict::PositionLimit => command.target = [0.0; MAX_JOINTS],
            Verdict::VelocityScale => command.velocity_scale = 0.5,
            Verdict::AccelerationLimit => command.acceleration_rad_s2 = 8.0,
            Verdict::JerkLimit => command.jerk_rad_s3 = 160.0,
            Verdict::VelocityLimit => panic!("it is a position command"),
            Verdict::Accepted => break,
        }
    }
    let documented = [
        Verdict::NotArmed,
        Verdict::BusLost,
        Verdict::StaleEpoch,
        Verdict::StaleSequence,
        Verdict::TtlOutOfRange,
        Verdict::IssuedInFuture,
        Verdict::Expired,
        Verdict::UnknownMode,
        Verdict::Inhibited,
        Verdict::Faulted,
        Verdict::JointCount,
        Verdict::NotFinite,
        Verdict::PositionLimit,
        Verdict::VelocityScale,
        Verdict::AccelerationLimit,
        Verdict::JerkLimit,
        Verdict::Accepted,
    ];
    assert_eq!(seen, documented);
}

#[test]
fn a_limit_verdict_names_joint_value_and_range() {
    let mut command = good();
    command.target[1] = 1.75;
    let judged = judge(NOW, &command, &standing());
    assert_eq!(
        (judged.joint, judged.value, judged.min, judged.max),
        (1, 1.75, -0.2, 1.5)
    );
}

#[test]
fn a_stop_needs_no_numbers() {
    let verdict = verdict_of(|command, _| {
        command.mode = Mode::Stop as u32;
        command.velocity_scale = 0.0;
        command.target = [f64::NAN; MAX_JOINTS];
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
        ttl_ns in word(999_999_999), mode in prop_oneof![any::<u32>(), 1_u32..5],
        joint_count in prop_oneof![any::<u32>(), 2_u32..3],
        scale in prop_oneof![any::<u64>(), (0.0..=1.0_f64).prop_map(f64::to_bits)],
        bits in prop::array::uniform8(
            prop_oneof![any::<u64>(), (-0.2..=1.0_f64).prop_map(f64::to_bits)]),
    ) {
        let command = Command {
            sequence, lease_epoch, issued_ns, ttl_ns, mode, joint_count,
            velocity_scale: f64::from_bits(scale),
            acceleration_rad_s2: 0.0,
            jerk_rad_s3: 0.0,
            target: bits.map(f64::from_bits),
        };
        let accepted = judge(NOW, &command, &standing()).verdict == Verdict::Accepted;
        let in_time = ttl_ns > 0 && ttl_ns <= 1_000_000_000 && issued_ns <= NOW.0
            && NOW.0 - issued_ns < ttl_ns;
        let moves = mode == 1
            && command.velocity_scale > 0.0 && command.velocity_scale <= 1.0
            && (-1.0..=1.0).contains(&command.target[0])
            && (-0.2..=1.5).contains(&command.target[1]);
        let turns = mode == 3
            && command.velocity_scale > 0.0 && command.velocity_scale <= 1.0
            && command.target[..2].iter().all(|value| (-2.0..=2.0).contains(value));
        let stops = mode == 2 || mode == 4;
        let valid = sequence > 4 && lease_epoch == 7 && in_time && joint_count == 2
            && (moves || turns || stops);
        prop_assert_eq!(accepted, valid);
    }
}

#[test]
fn a_latched_fault_refuses_everything_but_a_reset_and_says_what_it_is() {
    let mut standing = Standing {
        fault: Some(FAULT),
        ..standing()
    };
    for mode in [Mode::Position, Mode::Velocity, Mode::Stop] {
        let mode = mode as u32;
        let judged = judge(NOW, &Command { mode, ..good() }, &standing);
        assert_eq!(
            (judged.verdict, judged.cause, judged.joint),
            (Verdict::Faulted, Cause::FollowingError, 1)
        );
        assert_eq!((judged.value, judged.max), (0.7, 0.5));
    }
    let reset = Command {
        mode: Mode::Reset as u32,
        ..good()
    };
    assert_eq!(judge(NOW, &reset, &standing).verdict, Verdict::Accepted);
    standing.fault_shows = true;
    assert_eq!(judge(NOW, &reset, &standing).verdict, Verdict::Faulted);
    let replayed = Command {
        sequence: 4,
        ..reset
    };
    assert_eq!(
        judge(NOW, &replayed, &standing).verdict,
        Verdict::StaleSequence
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 4096, ..Default::default()
    })]

    /// However the sender sets its clock, an accepted command ends within its time to live from
    /// now, and that within the device's.
    #[test]
    fn no_clock_of_the_sender_prolongs_a_command(
        issued_ns in word(NOW.0), ttl_ns in word(1_000_000_000),
    ) {
        let command = Command { issued_ns, ttl_ns, ..good() };
        if judge(NOW, &command, &standing()).verdict == Verdict::Accepted {
            let expires = MonoNs(issued_ns).plus_ns(ttl_ns);
            prop_assert!(expires > NOW && expires <= NOW.plus_ns(ttl_ns));
            prop_assert!(ttl_ns <= standing().ttl_max_ns);
        }
    }
}
