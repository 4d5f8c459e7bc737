//! The arm behind its line in virtual time: published examples, timing, faults, determinism.
#![expect(
    clippy::unwrap_used,
    reason = "functions around the tests fail like the tests do"
)]

use kairo_arm_sim::arm::Cradle;
use kairo_arm_sim::fault::FaultRates;
use kairo_arm_sim::simulator::{BYTE_NS, TURNAROUND_NS};
use kairo_arm_sim::{Simulator, SimulatorConfig, VirtualLine};
use kairo_hal::feetech::registers::{self, PresentState, steps_from_radians};
use kairo_hal::feetech::{PacketBuffer, ServoBus, ServoBusError, ServoOutcome, ServoSample};
use kairo_hal::{BusError, ByteLine, MonoNs};

const IDS: [u8; 6] = [1, 2, 3, 4, 5, 6];
const PERIOD_NS: u64 = 4_000_000;

fn line() -> VirtualLine {
    VirtualLine::new(&SimulatorConfig::default())
}

fn bus() -> ServoBus<VirtualLine> {
    ServoBus::new(line(), &IDS).unwrap()
}

/// Sends `request` to a fresh simulator and returns everything it answers, and when the last of it
/// had arrived, counted from the request's first bit.
fn exchange(config: &SimulatorConfig, request: &[u8]) -> (Vec<u8>, u64) {
    let start = MonoNs(1_000_000_000);
    let mut simulator = Simulator::new(config, start);
    simulator.receive(start, request);
    let (mut output, mut end) = (Vec::new(), start);
    while let Some(at) = simulator.next_event_at() {
        simulator.take_output(at, &mut output);
        end = at;
    }
    (output, end.since_ns(start))
}

// The examples of the next two tests are those of Feetech's "SMS/STS communication protocol
// manual", with register contents that this arm has.

#[test]
fn answers_the_manuals_ping_and_read() {
    let config = SimulatorConfig::default();
    let (answer, _) = exchange(&config, &[0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB]);
    assert_eq!(answer, [0xFF, 0xFF, 0x01, 0x02, 0x00, 0xFC]);
    // The manual reads position 0x0518 = 1304; put the joint there.
    let mut pose_rad = [0.0; 6];
    pose_rad[0] = registers::radians_from_steps(0x0518);
    let config = SimulatorConfig { pose_rad, ..config };
    let (answer, _) = exchange(&config, &[0xFF, 0xFF, 0x01, 0x04, 0x02, 0x38, 0x02, 0xBE]);
    assert_eq!(answer, [0xFF, 0xFF, 0x01, 0x04, 0x00, 0x18, 0x05, 0xDD]);
}

#[test]
fn takes_the_manuals_writes() {
    let start = MonoNs(0);
    let mut simulator = Simulator::new(&SimulatorConfig::default(), start);
    let mut output = Vec::new();
    let mut send = |simulator: &mut Simulator, at: u64, bytes: &[u8]| {
        output.clear();
        simulator.receive(MonoNs(at), bytes);
        simulator.take_output(MonoNs(at + 1_000_000), &mut output);
        output.clone()
    };
    // Write: goal 2048, time 0, speed 1000; acknowledged.
    let write = [
        0xFF, 0xFF, 0x01, 0x09, 0x03, 0x2A, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03, 0xD5,
    ];
    let acknowledgement = [0xFF, 0xFF, 0x01, 0x02, 0x00, 0xFC];
    assert_eq!(send(&mut simulator, 1_000_000, &write), acknowledgement);
    // The same as a stored write, and the action, which nobody acknowledges.
    let stored = [
        0xFF, 0xFF, 0x01, 0x09, 0x04, 0x2A, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03, 0xD4,
    ];
    assert_eq!(send(&mut simulator, 3_000_000, &stored), acknowledgement);
    let action = [0xFF, 0xFF, 0xFE, 0x02, 0x05, 0xFA];
    assert!(send(&mut simulator, 5_000_000, &action).is_empty());
    // Sync write to servos 1 to 4; nobody answers.
    let one = [0x00, 0x08, 0x00, 0x00, 0xE8, 0x03];
    let data = [one, one, one, one].concat();
    let sync_write = PacketBuffer::sync_write(&[1, 2, 3, 4], 0x2A, 6, &data).unwrap();
    assert_eq!(sync_write.as_bytes().last(), Some(&0x58));
    assert!(send(&mut simulator, 7_000_000, sync_write.as_bytes()).is_empty());
    let speed = PacketBuffer::read(4, registers::GOAL_SPEED.address, 2);
    let answer = send(&mut simulator, 9_000_000, speed.as_bytes());
    assert_eq!(&answer[5..7], [0xE8, 0x03]);
    let (goals, lost) = simulator.goals_since(MonoNs(2_000_000));
    let ids: Vec<Vec<u8>> = goals.map(|goal| goal.ids.clone()).collect();
    assert_eq!((ids, lost), (vec![vec![1, 2, 3, 4]], 0));
}

#[test]
fn a_sync_read_takes_the_time_of_its_bits() {
    let request = PacketBuffer::sync_read(&IDS, PresentState::ADDRESS, PresentState::LEN).unwrap();
    assert_eq!(request.as_bytes().len(), 14);
    let (answer, took_ns) = exchange(&SimulatorConfig::default(), request.as_bytes());
    let reply_bytes = 6 + u64::from(PresentState::LEN);
    assert_eq!(answer.len() as u64, 6 * reply_bytes);
    assert_eq!(
        took_ns,
        14 * BYTE_NS + 6 * (TURNAROUND_NS + reply_bytes * BYTE_NS)
    );
}

#[test]
fn the_return_delay_register_is_honoured() {
    let mut bus = bus();
    let deadline = |bus: &ServoBus<VirtualLine>| bus.line().now().plus_ns(PERIOD_NS);
    for (register, value) in [(&registers::LOCK, 0), (&registers::RETURN_DELAY, 250)] {
        let until = deadline(&bus);
        bus.write_register(1, register, value, until).unwrap();
    }
    let before = bus.line().now();
    let until = deadline(&bus);
    bus.ping(1, until).unwrap();
    let took_ns = bus.line().now().since_ns(before);
    assert_eq!(took_ns, 12 * BYTE_NS + TURNAROUND_NS + 500_000);
}

#[test]
fn an_absent_servo_costs_only_its_own_sample() {
    let ids = [1, 2, 9, 4, 5, 6];
    let mut bus = ServoBus::new(line(), &ids).unwrap();
    let mut samples = [ServoSample::default(); 6];
    let until = bus.line().now().plus_ns(PERIOD_NS);
    let summary = bus.sync_read_present(&ids, &mut samples, until).unwrap();
    assert_eq!((summary.replies, summary.missing), (5, 1));
    assert_eq!(samples[2].outcome, ServoOutcome::Timeout);
    assert!(
        samples
            .iter()
            .filter(|sample| sample.id != 9)
            .all(|sample| sample.present().is_some())
    );
    // The last servo answered, so nobody had to wait for the deadline.
    assert!(bus.line().now() < until);
    assert!(matches!(
        bus.ping(9, until.plus_ns(PERIOD_NS)),
        Err(ServoBusError::NoAnswer {
            id: 9,
            outcome: ServoOutcome::Timeout
        })
    ));
}

/// Runs `cycles` control cycles of a moving arm; returns the samples' fingerprint.
fn drive(bus: &mut ServoBus<VirtualLine>, cycles: u32) -> Vec<(u8, ServoOutcome, Vec<u8>)> {
    let mut seen = Vec::new();
    let start = bus.line().now();
    for cycle in 0..cycles {
        let begin = start.plus_ns(u64::from(cycle) * PERIOD_NS);
        let deadline = begin.plus_ns(PERIOD_NS * 3 / 4);
        let mut samples = [ServoSample::default(); 6];
        bus.sync_read_present(&IDS, &mut samples, deadline).unwrap();
        seen.extend(samples.map(|sample| (sample.id, sample.outcome, sample.data().to_vec())));
        let goal = steps_from_radians(0.3 * (f64::from(cycle) * 0.004).sin());
        bus.sync_write_goals(&IDS, &[goal; 6], deadline.plus_ns(PERIOD_NS))
            .unwrap();
        bus.line_mut().sleep_until(begin.plus_ns(PERIOD_NS));
    }
    seen
}

/// Every kind of fault alone, and all together.
fn fault_kinds() -> [(&'static str, FaultRates); 5] {
    let none = FaultRates::default();
    let all = FaultRates {
        corrupt: 0.1,
        drop: 0.1,
        garbage: 0.2,
        half: 0.1,
    };
    [
        (
            "corrupt",
            FaultRates {
                corrupt: 0.05,
                ..none
            },
        ),
        ("drop", FaultRates { drop: 0.05, ..none }),
        (
            "garbage",
            FaultRates {
                garbage: 0.05,
                ..none
            },
        ),
        ("half", FaultRates { half: 0.05, ..none }),
        ("all", all),
    ]
}

#[test]
fn every_kind_of_fault_costs_samples_and_never_a_cycle() {
    for (name, rates) in fault_kinds() {
        let mut bus = bus();
        let now = bus.line().now();
        bus.line_mut().simulator.set_faults(now, rates, 0);
        let seen = drive(&mut bus, 1000);
        let sim = bus.line().simulator.counters();
        let faults = sim.faults;
        let lost = seen
            .iter()
            .filter(|(_, outcome, _)| !outcome.has_data())
            .count() as u64;
        println!(
            "{name}: {faults:?}, {lost} samples lost, {:?}",
            bus.counters()
        );
        // Exactly the replies that were spoilt are missing, and every sample is counted once.
        // A half packet may swallow the beginning of nothing else, since the length is known.
        assert_eq!(
            lost,
            faults.corrupted + faults.dropped + faults.halved,
            "{name}"
        );
        let counted = IDS.map(|id| bus.servo_counters(id).unwrap());
        let replies: u64 = counted.iter().map(|servo| servo.replies).sum();
        let failed: u64 = counted
            .iter()
            .map(|servo| servo.timeouts + servo.bad_checksum)
            .sum();
        assert_eq!((replies + failed, failed), (6000, lost), "{name}");
        assert_eq!(sim.collisions, 0, "{name}");
    }
}

#[test]
fn equal_seeds_give_equal_runs_and_others_do_not() {
    let run = |seed| {
        let config = SimulatorConfig {
            seed,
            cradle: Cradle::Absent,
            ..SimulatorConfig::default()
        };
        let mut bus = ServoBus::new(VirtualLine::new(&config), &IDS).unwrap();
        let now = bus.line().now();
        bus.sync_write_torque(&IDS, true, now).unwrap();
        let rates = FaultRates {
            corrupt: 0.05,
            drop: 0.02,
            garbage: 0.05,
            half: 0.02,
        };
        bus.line_mut().simulator.set_faults(now, rates, 0);
        drive(&mut bus, 500)
    };
    let first = run(42);
    assert_eq!(first, run(42));
    assert_ne!(first, run(43));
}

#[test]
fn poses_are_reached_within_a_fiftieth_of_a_radian() {
    let mut bus = bus();
    let now = bus.line().now();
    bus.sync_write_torque(&IDS, true, now).unwrap();
    let poses = [
        [0.5, -0.6, 0.4, 0.5, -0.5, 0.8],
        [-0.8, 0.4, -0.6, -0.4, 1.0, 0.1],
        [0.0; 6],
    ];
    for pose in poses {
        let start = bus
            .line_mut()
            .simulator
            .truth(now)
            .map(|joint| joint.position_rad);
        for cycle in 1..=750_u32 {
            let share = f64::from(cycle.min(375)) / 375.0;
            let goals: Vec<i32> = (0..6)
                .map(|joint| {
                    steps_from_radians(start[joint] + share * (pose[joint] - start[joint]))
                })
                .collect();
            let begin = bus.line().now();
            bus.sync_write_goals(&IDS, &goals, begin).unwrap();
            bus.line_mut().sleep_until(begin.plus_ns(PERIOD_NS));
        }
        let now = bus.line().now();
        for (joint, goal) in bus.line_mut().simulator.truth(now).iter().zip(pose) {
            assert!(
                (joint.position_rad - goal).abs() < 0.006,
                "{joint:?} instead of {goal}"
            );
        }
    }
}

#[test]
fn a_host_that_talks_into_replies_destroys_them() {
    let mut line = line();
    let request = PacketBuffer::sync_read(&IDS, 56, 15).unwrap();
    line.write_all(request.as_bytes(), MonoNs(u64::MAX))
        .unwrap();
    line.sleep_until(line.now().plus_ns(500_000));
    line.write_all(PacketBuffer::ping(1).as_bytes(), MonoNs(u64::MAX))
        .unwrap();
    assert!(line.simulator.counters().collisions > 0);
}

#[test]
fn an_unplugged_line_says_so_and_works_again() {
    let mut bus = bus();
    bus.line_mut().set_unplugged(true);
    let until = bus.line().now().plus_ns(PERIOD_NS);
    let mut samples = [ServoSample::default(); 6];
    assert!(matches!(
        bus.sync_read_present(&IDS, &mut samples, until),
        Err(ServoBusError::Line(BusError::Disconnected { .. }))
    ));
    bus.line_mut().set_unplugged(false);
    assert!(bus.ping(3, until.plus_ns(PERIOD_NS)).is_ok());
}

#[test]
fn a_stopped_simulator_skips_time_instead_of_racing() {
    let mut simulator = Simulator::new(&SimulatorConfig::default(), MonoNs(0));
    simulator.truth(MonoNs(60_000_000_000));
    assert_eq!(simulator.counters().skipped_ns, 59_000_000_000);
}
