//! What becomes of a motion when kairo-rt or the cable goes away in the middle of it, and when it
//! comes back. By the simulator's own truth.

use kairo_link::abi::{Cause, Phase};
use kairo_link::operator::OperatorRequest;

use crate::harness::{
    AgentPlane, Lease, Pose, Robot, TTL_MS, eventually, has_arrived, hosted_config,
};
use crate::{FAR, HOME, NEAR_RAD};

/// So slow that the longest time to live does not take the arm anywhere near [`FAR`], however late
/// this machine runs the test.
const SLOW: f64 = 0.05;
/// Setpoints of the joints that have moved this far, rad.
const UNDER_WAY_RAD: f64 = 0.02;

/// Commands [`FAR`] slowly until every joint is under way.
fn move_slowly(plane: &mut AgentPlane, lease: &mut Lease) {
    eventually("every joint is under way", || {
        let mut command = lease.command(FAR, TTL_MS);
        command.velocity_scale = SLOW;
        lease.push(&command).ok()?;
        std::thread::sleep(std::time::Duration::from_millis(10));
        lease.take_replies();
        let joints = plane.state().joints;
        let moved = joints.iter().zip(HOME).all(|(joint, home)| {
            let moved = (joint.setpoint_rad - home).abs();
            moved > UNDER_WAY_RAD
        });
        moved.then_some(())
    });
}

/// Waits until the arm rests, and returns where.
fn wait_until_it_rests(robot: &mut Robot) -> Pose {
    let mut before = robot.arm.truth();
    eventually("the arm rests", || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = robot.arm.truth();
        let rests = now
            .iter()
            .zip(before)
            .all(|(now, before)| (now - before).abs() < 1e-4);
        before = now;
        rests.then_some(now)
    })
}

fn assert_near(robot: &mut Robot, resting: &Pose, what: &str) {
    for (joint, (before, now)) in resting.iter().zip(robot.arm.truth()).enumerate() {
        let moved = (before - now).abs();
        assert!(
            moved < 2.0 * NEAR_RAD,
            "{what}: joint {joint} went from {before} to {now}"
        );
    }
}

fn wait_ticks(plane: &mut AgentPlane, ticks: u64) {
    let from = plane.state().tick;
    eventually("some ticks pass", || {
        (plane.state().tick > from + ticks).then_some(())
    });
}

#[test]
fn a_kill_in_motion_stops_the_arm_at_its_last_setpoint_and_the_next_start_holds_it_there() {
    let mut robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    move_slowly(&mut plane, &mut lease);
    robot.kill();

    let resting = wait_until_it_rests(&mut robot);
    assert!(robot.arm.is_under_torque(), "an arm that lets go falls");
    let goals = robot.arm.goals();
    for joint in 0..6 {
        let (goal, rests, far) = (goals[joint], resting[joint], FAR[joint]);
        assert!(
            (goal - rests).abs() < NEAR_RAD,
            "joint {joint} rests at {rests}, not {goal}"
        );
        assert!(
            (goal - far).abs() > 0.5,
            "joint {joint} has a target as its goal, not a setpoint"
        );
    }

    robot.start_daemon(&[]);
    let mut plane = robot.connect();
    let safe = plane.wait_for_phase(Phase::Safe);
    assert_eq!(safe.cause, Cause::EmergencyStop as u32, "latched");
    wait_ticks(&mut plane, 50);
    assert!(robot.arm.is_under_torque());
    assert_near(&mut robot, &resting, "the new kairo-rt");
    let refused = plane.try_open_lease().err().map(|(code, _)| code);
    assert_eq!(refused, Some("estopped".into()));
    robot.clear_estop();
    plane.wait_for_phase(Phase::Holding);
    wait_ticks(&mut plane, 50);
    assert!(robot.arm.is_under_torque());
    assert_near(&mut robot, &resting, "a clear");
}

#[test]
fn a_cable_pulled_in_a_ramp_to_rest_ends_the_ramp_for_good() {
    let mut config = hosted_config().replace(
        "safe_action = \"hold\"",
        "safe_action = \"ramp\"\nramp_velocity_scale = 0.05",
    );
    for id in 1..=6 {
        let line = format!("servo_id = {id}\n");
        config = config.replace(&line, &format!("{line}rest_position_rad = 1.2\n"));
    }
    config += "[failsafe.low_battery]\naction = \"ramp-to-rest\"\nhold_first_ms = 0\n";
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    let cause = "low_battery".to_owned();
    let raised = robot.operator(&OperatorRequest::Raise { cause });
    assert!(raised.expect("it answers").done);
    plane.wait_for_failsafe("ramp-to-rest", "low_battery");
    eventually("it ramps", || {
        let joints = plane.state().joints;
        let moved = joints
            .iter()
            .take(6)
            .all(|joint| joint.setpoint_rad > UNDER_WAY_RAD);
        moved.then_some(())
    });
    robot.arm.ask(r#"{"op":"unplug"}"#);
    plane.wait_for_phase(Phase::Lost);
    let resting = wait_until_it_rests(&mut robot);
    assert!(robot.arm.is_under_torque());

    robot.arm.ask(r#"{"op":"plug"}"#);
    plane.wait_for_presence(true);
    let found = plane.wait_for_phase(Phase::Safe);
    wait_ticks(&mut plane, 100);
    let later = plane.state();
    for (joint, (found, later)) in found.joints.iter().zip(&later.joints).enumerate() {
        assert_eq!(
            found.setpoint_rad, later.setpoint_rad,
            "joint {joint} ramps on by itself"
        );
    }
    assert!(robot.arm.is_under_torque());
    assert_near(&mut robot, &resting, "the plug");

    // Somebody who claims it leads it on: the battery is still low.
    plane.open_lease();
    eventually("it is led to rest", || {
        let joints = plane.state().joints;
        (joints[0].setpoint_rad > later.joints[0].setpoint_rad + UNDER_WAY_RAD).then_some(())
    });
}
