//! The whole daemon as a process, against the arm simulator and a fake agent plane.
//!
//! What is asserted is behaviour and the daemon's own account of ticks and times; how late this
//! machine wakes anybody up is not.

mod blocks;
#[path = "daemon/descriptors.rs"]
mod descriptors;
#[path = "daemon/estop.rs"]
mod estop;
#[allow(dead_code, reason = "each test program uses its part of the harness")]
mod harness;
#[path = "daemon/interrupted.rs"]
mod interrupted;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command as Process;
use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::{AgentPlane, PERIOD_NS, Pose, Robot, SO101, TTL_MS};
use harness::{assert_pure, eventually, has_arrived, hosted_config};
use kairo_link::MonoNs;
use kairo_link::abi::{Cause, Phase, Verdict};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

const HOME: Pose = [0.0; 6];
const POSE: Pose = [0.6, -0.4, 0.5, -0.3, 0.7, 0.4];
const FAR: Pose = [1.8, -1.6, 1.6, -1.6, 2.7, 1.7];
/// How near the simulated arm comes to a setpoint under its own weight, rad.
const NEAR_RAD: f64 = 0.02;

#[test]
fn reaches_poses_and_refuses_what_is_wrong_by_name() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    assert!(plane.welcome.armed);
    let mut lease = plane.open_lease();
    for target in [POSE, HOME] {
        // By the simulator's own truth, which the arm may still swing about when it first arrives.
        plane.stream(&mut lease, target, |state| {
            let truth = robot.arm.truth();
            let near = |(is, wanted): (&f64, &f64)| (is - wanted).abs() < NEAR_RAD;
            has_arrived(state, &target, NEAR_RAD) && truth.iter().zip(&target).all(near)
        });
    }
    lease.take_replies();

    let mut outside = lease.command(HOME, TTL_MS);
    outside.target[5] = 2.0;
    let reply = lease.ask(&outside);
    assert_eq!(
        Verdict::from_u32(reply.verdict),
        Some(Verdict::PositionLimit)
    );
    assert_eq!(
        (reply.joint, reply.value, reply.min, reply.max),
        (5, 2.0, -0.174533, 1.74533)
    );

    let mut stale = lease.command(HOME, TTL_MS);
    stale.lease_epoch -= 1;
    assert_eq!(lease.verdict(&stale), Verdict::StaleEpoch);
    let replayed = lease.command(HOME, TTL_MS);
    assert_eq!(lease.verdict(&replayed), Verdict::Accepted);
    assert_eq!(lease.verdict(&replayed), Verdict::StaleSequence);
    let mut late = lease.command(HOME, TTL_MS);
    late.issued_ns -= (TTL_MS + 1) * 1_000_000;
    assert_eq!(lease.verdict(&late), Verdict::Expired);
    let endless = lease.command(HOME, 1001);
    assert_eq!(lease.verdict(&endless), Verdict::TtlOutOfRange);
    assert_pure(&plane);
}

#[test]
fn an_expired_command_takes_the_safe_action_within_one_period() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let command = lease.command(FAR, 200);
    let reply = lease.ask(&command);
    assert_eq!(Verdict::from_u32(reply.verdict), Some(Verdict::Accepted));
    let expires = command.issued_ns + command.ttl_ns;
    assert_eq!(reply.expires_ns, expires);
    let safe = plane.wait_for_phase(Phase::Safe);
    assert_eq!(safe.cause, Cause::CommandExpired as u32);
    // By kairo-rt's own clock, apart from how late this machine woke it and how long it kept it.
    let periods = &plane.stats.block().loops[0].periods;
    let late = periods.lateness.snapshot().max_ns + periods.execution.snapshot().max_ns;
    let after = safe
        .phase_since_ns
        .checked_sub(expires)
        .expect("not before it expired");
    assert!(
        after <= PERIOD_NS + late,
        "{after} ns after expiry, late at most {late} ns"
    );
    assert!(safe.phase_since_tick > reply.tick);
    let held = plane.wait_for_rest();
    for (joint, far) in held.joints.iter().zip(FAR) {
        assert!(
            (joint.setpoint_rad - far).abs() > 0.1,
            "it went on to the target: {joint:?}"
        );
    }
    lease.wait_for_cause(Cause::CommandExpired);
    std::thread::sleep(Duration::from_millis(50));
    let later = plane.state();
    for (before, after) in held.joints.iter().zip(&later.joints) {
        assert_eq!(
            before.setpoint_rad, after.setpoint_rad,
            "the setpoint moved while safe"
        );
    }
    // The lease is still there for whoever was only late.
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
}

#[test]
fn a_dead_agent_plane_ends_its_lease_and_the_next_one_gets_a_newer_epoch() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| {
        state.moving == 1 && state.tick > 50
    });
    let stats = plane.stats.clone();
    let died = MonoNs::now();
    drop(plane);
    let mut plane = robot.connect();
    let safe = plane.wait_for_phase(Phase::Safe);
    assert_eq!(safe.cause, Cause::AgentPlaneGone as u32);
    assert!(safe.phase_since_ns >= died.0);
    // Long before the command in force would have expired by itself.
    assert!(safe.phase_since_ns < died.0 + TTL_MS * 1_000_000 || safe.moving == 0);
    plane.wait_for_rest();
    assert!(robot.arm.is_under_torque());
    let mut next = eventually("the old lease has ended", || plane.try_open_lease().ok());
    assert!(next.epoch > lease.epoch);
    let mut old = next.command(HOME, TTL_MS);
    old.lease_epoch = lease.epoch;
    assert_eq!(next.verdict(&old), Verdict::StaleEpoch);
    plane.stream(&mut next, HOME, |state| has_arrived(state, &HOME, NEAR_RAD));
    // The statistics are one segment for the daemon's life: the loop never restarted.
    assert!(stats.block().loops[0].periods.ticks.load(Ordering::Relaxed) > safe.tick);
    assert_pure(&plane);
}

#[test]
fn a_released_lease_and_a_vanished_holder_stop_the_motion() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    for (holder_gone, cause) in [(false, Cause::Released), (true, Cause::HolderGone)] {
        let mut lease = plane.open_lease();
        assert_eq!(
            plane.try_open_lease().err().map(|(code, _)| code),
            Some("busy".into())
        );
        plane.stream(&mut lease, FAR, |state| state.moving == 1);
        assert_eq!(plane.close_lease(&lease, holder_gone), cause.name());
        lease.wait_for_cause(cause);
        let state = plane.wait_for_phase(Phase::Safe);
        assert_eq!(state.cause, cause as u32);
        plane.wait_for_rest();
    }
}

#[test]
fn a_hostile_ring_costs_its_lease_and_not_a_tick() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
    // The whole segment, positions, slots and header alike, over and over.
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    let ended = std::thread::scope(|scope| {
        let segment = &lease.commands;
        let scribbler = scope.spawn(move || {
            for _ in 0..200 {
                for word in segment.words() {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    word.store(noise, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ended = plane.wait_for_lease_end(lease.epoch);
        scribbler.join().unwrap();
        ended
    });
    assert_eq!(ended, Cause::RingCorrupt.name());
    plane.wait_for_rest();
    let before = plane.state().tick;
    eventually("the loop ticks on", || {
        (plane.state().tick > before + 20).then_some(())
    });
    // The rings last as long as the connection, and so does what was done to them.
    let refused = plane.try_open_lease().err().map(|(code, _)| code);
    assert_eq!(refused, Some("ring_corrupt".into()));
    drop(plane);
    let mut plane = robot.connect();
    let mut next = plane.open_lease();
    plane.stream(&mut next, HOME, |state| has_arrived(state, &HOME, NEAR_RAD));
    assert_pure(&plane);
}

#[test]
fn a_peer_that_does_not_say_it_has_mapped_gets_no_lease_and_no_states() {
    let robot = Robot::start();
    drop(robot.connect_ready());
    let connect = || AgentPlane::connect_without_mapping(&robot.directory).ok();
    let mut plane = eventually("a connection", connect);
    let refused = plane.try_open_lease().err().map(|(code, _)| code);
    assert_eq!(refused, Some("not_mapped".into()));
    // It can still punch holes, and nothing real-time is there to fall into them.
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punch = |fd: &OwnedFd| fallocate(fd, flags, 0, 4096);
    assert!(plane.descriptors[1..].iter().all(|fd| punch(fd).is_ok()));
    assert!(!plane.has_state());
    plane.acknowledge();
    let mut lease = plane.open_lease();
    let kept = |fd: &OwnedFd| punch(fd) == Err(Errno::EPERM);
    assert!(
        plane.descriptors.iter().all(kept),
        "a hole under a real-time thread"
    );
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    assert_pure(&plane);
}

#[test]
fn a_peer_that_keeps_the_memory_of_its_links_is_refused_until_it_lets_go() {
    let robot = Robot::start();
    drop(robot.connect_ready());
    let mut kept = Vec::new();
    let refusal = loop {
        // "busy" until the server has noticed that the one before is gone.
        let connected = eventually("an answer", || {
            match AgentPlane::connect(&robot.directory) {
                Ok(plane) => Some(Ok(plane)),
                Err(refusal) if refusal.contains("busy") => None,
                Err(refusal) => Some(Err(refusal)),
            }
        });
        match connected {
            Ok(plane) => kept.push(plane.descriptors),
            Err(refusal) => break refusal,
        }
        assert!(kept.len() < 100, "a peer may keep as much as it likes");
    };
    assert!(refusal.contains("limit"), "{refusal}");
    kept.pop();
    eventually("the link is given again", || {
        AgentPlane::connect(&robot.directory).ok()
    });
}

#[test]
fn five_percent_bad_replies_are_counted_and_motion_goes_on() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    robot
        .arm
        .ask(r#"{"op":"fault","corrupt":0.05,"drop":0.0,"duration_ms":0}"#);
    for target in [POSE, HOME, POSE] {
        plane.stream(&mut lease, target, |state| {
            has_arrived(state, &target, NEAR_RAD)
        });
    }
    let bus = &plane.stats.block().buses[0];
    let bad: u64 = bus.servos[..6]
        .iter()
        .map(|servo| {
            servo.bad_packets.load(Ordering::Relaxed) + servo.timeouts.load(Ordering::Relaxed)
        })
        .sum();
    assert!(bad > 0, "no bad reply was counted");
    assert!(bus.garbage_bytes.load(Ordering::Relaxed) > 0);
    assert_eq!(
        (
            bus.losses.load(Ordering::Relaxed),
            bus.connected.load(Ordering::Relaxed)
        ),
        (0, 1)
    );
    assert_pure(&plane);
}

#[test]
fn garbage_and_half_packets_are_counted_and_motion_goes_on() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let faults = r#"{"op":"fault","corrupt":0.0,"drop":0.02,"garbage":0.05,"half":0.02,
        "duration_ms":0}"#
        .replace('\n', "");
    robot.arm.ask(&faults);
    for target in [POSE, HOME] {
        plane.stream(&mut lease, target, |state| {
            has_arrived(state, &target, NEAR_RAD)
        });
    }
    let bus = &plane.stats.block().buses[0];
    assert!(bus.garbage_bytes.load(Ordering::Relaxed) > 0);
    let timeouts = bus.servos[..6].iter();
    let timeouts: u64 = timeouts
        .map(|servo| servo.timeouts.load(Ordering::Relaxed))
        .sum();
    assert!(timeouts > 0, "no missing reply was counted");
    assert_eq!(bus.losses.load(Ordering::Relaxed), 0);
    assert_pure(&plane);
}

#[test]
fn a_pulled_cable_is_lost_and_found_and_nothing_jumps() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
    robot.arm.ask(r#"{"op":"unplug"}"#);
    assert_eq!(plane.wait_for_lease_end(lease.epoch), Cause::BusLost.name());
    plane.wait_for_presence(false);
    let lost = plane.wait_for_phase(Phase::Lost);
    assert_eq!(lost.cause, Cause::BusLost as u32);
    assert_eq!(
        plane.try_open_lease().err().map(|(code, _)| code),
        Some("bus_lost".into())
    );

    let resting = robot.arm.truth();
    robot.arm.ask(r#"{"op":"plug"}"#);
    plane.wait_for_presence(true);
    plane.wait_for_phase(Phase::Holding);
    std::thread::sleep(Duration::from_millis(200));
    for (joint, (before, after)) in resting.iter().zip(robot.arm.truth()).enumerate() {
        assert!(
            (before - after).abs() < 0.1,
            "joint {joint} jumped from {before} to {after}"
        );
    }
    let mut next = plane.open_lease();
    plane.stream(&mut next, HOME, |state| has_arrived(state, &HOME, NEAR_RAD));
    assert_eq!(
        plane.stats.block().buses[0].losses.load(Ordering::Relaxed),
        1
    );
    assert_pure(&plane);
}

#[test]
fn a_jammed_joint_stops_the_arm_until_somebody_resets_it() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    robot.arm.ask(r#"{"op":"jam","id":1,"jammed":true}"#);
    let mut away = HOME;
    away[0] = 1.5;
    plane.stream(&mut lease, away, |state| state.fault != 0);
    assert_eq!(plane.wait_for_lease_end(lease.epoch), "following_error");
    let state = plane.wait_for_phase(Phase::Safe);
    assert_eq!(
        (state.cause, state.fault, state.fault_joint),
        (
            Cause::FollowingError as u32,
            Cause::FollowingError as u32,
            0
        )
    );
    assert!(state.fault_value.abs() > state.fault_limit && state.fault_limit == 0.5);
    let rest = plane.wait_for_rest();
    assert!((rest.joints[0].setpoint_rad - rest.joints[0].position_rad).abs() < NEAR_RAD);

    let mut next = plane.open_lease();
    let command = next.command(HOME, TTL_MS);
    let reply = next.ask(&command);
    assert_eq!(
        (reply.verdict, reply.cause, reply.joint),
        (Verdict::Faulted as u32, Cause::FollowingError as u32, 0)
    );
    robot.arm.ask(r#"{"op":"jam","id":1,"jammed":false}"#);
    let reset = next.reset();
    assert_eq!(next.verdict(&reset), Verdict::Accepted);
    plane.stream(&mut next, POSE, |state| has_arrived(state, &POSE, NEAR_RAD));
    assert_pure(&plane);
}

#[test]
fn a_servo_that_loses_its_torque_again_is_not_switched_on_again() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    // Twice, or once where a starved simulator answers so late that it seems limp by itself.
    for _ in 0..2 {
        let held = eventually("it is under torque, or not any more", || {
            let is_faulted = plane.state().fault != 0;
            (is_faulted || robot.arm.is_under_torque()).then_some(!is_faulted)
        });
        if !held {
            break;
        }
        // The switch is sent three times: what the servo answers to comes after the last of them.
        let replies = &plane.stats.block().buses[0].servos[1].replies;
        let seen = replies.load(Ordering::Relaxed);
        eventually("it answers ten times", || {
            (replies.load(Ordering::Relaxed) >= seen + 10).then_some(())
        });
        robot.arm.ask(r#"{"op":"reboot","id":2}"#);
        plane.wait_for_presence(false);
        plane.wait_for_presence(true);
    }
    let state = plane.wait_for_phase(Phase::Safe);
    let latched = Cause::TorqueLost as u32;
    assert_eq!((state.cause, state.fault), (latched, latched));
    let tick = state.tick;
    eventually("many ticks pass", || {
        (plane.state().tick > tick + 50).then_some(())
    });
    assert!(!robot.arm.is_under_torque());
    let mut lease = plane.open_lease();
    // A limp arm that is not heard for some cycles, as on a starved machine, is a lost bus to
    // whoever commands it just then.
    let mut heard = |reset: bool| {
        eventually("the arm is heard", || {
            let command = match reset {
                true => lease.reset(),
                false => lease.command(HOME, TTL_MS),
            };
            let verdict = lease.verdict(&command);
            (verdict != Verdict::BusLost).then_some(verdict)
        })
    };
    assert_eq!(heard(false), Verdict::Faulted);
    assert_eq!(heard(true), Verdict::Accepted);
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    assert!(robot.arm.is_under_torque());
}

#[test]
fn ramps_to_the_rest_pose_when_the_lease_ends() {
    let mut config = hosted_config().replace("safe_action = \"hold\"", "safe_action = \"ramp\"");
    for id in 1..=6 {
        let line = format!("servo_id = {id}\n");
        config = config.replace(&line, &format!("{line}rest_position_rad = 0.2\n"));
    }
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| state.moving == 1);
    assert_eq!(plane.close_lease(&lease, false), "released");
    let rest = [0.2; 6];
    eventually("the arm is in its rest pose", || {
        has_arrived(&plane.state(), &rest, NEAR_RAD).then_some(())
    });
    let state = plane.state();
    assert_eq!(
        (state.phase, state.cause),
        (Phase::Safe as u32, Cause::Released as u32)
    );
    assert!(robot.arm.is_under_torque());
}

#[test]
fn a_second_agent_plane_is_refused_while_the_first_lives() {
    let robot = Robot::start();
    let first = robot.connect();
    let refused = AgentPlane::connect(&robot.directory)
        .err()
        .expect("there can be one");
    assert!(refused.contains("busy"), "{refused}");
    drop(first);
    robot.connect();
}

#[test]
fn a_servo_that_lost_its_supply_for_a_moment_is_noticed_and_held_where_it_sank() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    robot.arm.ask(r#"{"op":"reboot","id":2}"#);
    assert!(!robot.arm.is_under_torque());
    assert_eq!(plane.wait_for_lease_end(lease.epoch), "bus_lost");
    plane.wait_for_presence(true);
    eventually("the arm is under torque again", || {
        robot.arm.is_under_torque().then_some(())
    });
    let state = plane.wait_for_phase(Phase::Holding);
    for joint in &state.joints[..6] {
        assert!((joint.setpoint_rad - joint.position_rad).abs() < 0.1);
    }
    let mut next = plane.open_lease();
    plane.stream(&mut next, HOME, |state| has_arrived(state, &HOME, NEAR_RAD));
    assert_pure(&plane);
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let mut robot = Robot::start();
    drop(robot.connect_ready());
    robot.terminate();
    let (reader, writer) = std::io::pipe().unwrap();
    robot.start_daemon_logging_to(writer.into(), &[]);
    drop(robot.connect_ready());
    drop(reader);
    // Its end is worth a line in the log; the next one finds the same daemon.
    let mut plane = robot.connect();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    drop(plane);
    robot.connect();
    assert_eq!(robot.terminate().code(), Some(0));
}

#[test]
fn the_doorbell_rings_while_states_change() {
    let robot = Robot::start();
    let plane = robot.connect();
    for _ in 0..3 {
        eventually("the bell rings", || {
            let mut buffer = [0; 8];
            (nix::unistd::read(&plane.doorbell, &mut buffer) == Ok(8)).then_some(())
        });
    }
}

#[test]
fn strict_bring_up_that_fails_stays_disarmed_and_says_why() {
    // No test machine has a core 1000.
    let config = SO101.replace("core = 1\n", "core = 1000\n");
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect();
    assert!(!plane.welcome.armed);
    let failed = plane
        .welcome
        .bringup
        .iter()
        .find(|check| check.check == "affinity")
        .unwrap();
    assert!(
        !failed.ok && failed.required && !failed.fix.is_empty(),
        "{failed:?}"
    );
    let state = plane.wait_for_phase(Phase::Disarmed);
    assert_eq!(state.cause, Cause::BringupRefused as u32);
    let (code, reason) = plane.try_open_lease().err().expect("it is not armed");
    assert_eq!(code, "not_armed");
    assert!(
        reason.contains("(required)") && reason.contains("fix:"),
        "{reason}"
    );
    // It reads the arm all the same, and never puts it under torque.
    let tick = eventually("feedback comes", || {
        let state = plane.state();
        (state.joints[5].sampled_ns > 0).then_some(state.tick)
    });
    eventually("many ticks pass", || {
        (plane.state().tick > tick + 50).then_some(())
    });
    assert!(!robot.arm.is_under_torque());
}

#[test]
fn ends_with_the_arm_held_when_asked_to() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
    // What a starved simulator has not read yet dies with the line, so see that it has the torque.
    eventually("the arm is under torque", || {
        robot.arm.is_under_torque().then_some(())
    });
    let status = robot.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    lease.wait_for_cause(Cause::ShuttingDown);
    assert!(robot.arm.is_under_torque(), "an arm that lets go falls");
    let resting = robot.arm.truth();
    std::thread::sleep(Duration::from_millis(100));
    for (before, after) in resting.iter().zip(robot.arm.truth()) {
        assert!(
            (before - after).abs() < NEAR_RAD,
            "it moves without kairo-rt"
        );
    }
    assert!(!robot.directory.join("rt.sock").exists());

    // The next one holds it where it is, and its epochs are newer.
    robot.start_daemon(&[]);
    let mut plane = robot.connect_ready();
    assert!(plane.open_lease().epoch > lease.epoch);
}

#[test]
fn torque_off_lets_go_when_the_lease_ends() {
    let config = hosted_config().replace("safe_action = \"hold\"", "safe_action = \"torque-off\"");
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| state.moving == 1);
    // The torque switch follows the goals by some cycles.
    eventually("the arm is under torque", || {
        robot.arm.is_under_torque().then_some(())
    });
    plane.close_lease(&lease, false);
    eventually("the arm lets go", || {
        (!robot.arm.is_under_torque()).then_some(())
    });
    let mut next = plane.open_lease();
    plane.stream(&mut next, HOME, |state| has_arrived(state, &HOME, NEAR_RAD));
    eventually("the next lease puts it under torque again", || {
        robot.arm.is_under_torque().then_some(())
    });
}

#[test]
fn tells_its_supervisor_that_it_is_ready_and_alive() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    let environment = [
        ("NOTIFY_SOCKET", path.as_path()),
        ("WATCHDOG_USEC", std::path::Path::new("600000")),
    ];
    let _robot = Robot::start_with(&hosted_config(), &environment);
    let next = || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1\nSTATUS=armed");
    assert_eq!(next(), "WATCHDOG=1");
    assert_eq!(next(), "WATCHDOG=1");
}

#[test]
fn a_wrong_file_is_refused_with_status_two_and_every_problem() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("robot.toml");
    let wrong = SO101
        .replace("period_us = 4000", "perid_us = 4000")
        .replace("= 70", "= 700");
    std::fs::write(&path, wrong).unwrap();
    let run = |arguments: &[&str]| {
        Process::new(env!("CARGO_BIN_EXE_kairo-rt"))
            .args(["--run-dir", directory.path().to_str().unwrap(), "--config"])
            .arg(&path)
            .args(arguments)
            .output()
            .unwrap()
    };
    for arguments in [&[][..], &["--check"]] {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains("did you mean `period_us`?"), "{text}");
        assert!(text.contains("write a value from 1 to 94"), "{text}");
    }
    assert!(!directory.path().join("rt.sock").exists());
    std::fs::write(&path, SO101).unwrap();
    assert_eq!(run(&["--check"]).status.code(), Some(0));
    let output = run(&["--check", "--port", "arm=/dev/null"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no bus is named arm"));
}
