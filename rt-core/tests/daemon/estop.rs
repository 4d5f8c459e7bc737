//! E-stops and the failsafe machine in the real daemon, over its real sockets.

use kairo_link::abi::{Cause, Phase, Verdict};
use kairo_link::operator::OperatorRequest;

use crate::harness::{Robot, TTL_MS, eventually, has_arrived, hosted_config};
use crate::{FAR, HOME, NEAR_RAD};

#[test]
fn nothing_moves_from_the_start_until_an_operator_clears() {
    let robot = Robot::start();
    let mut plane = robot.connect();
    let safe = plane.wait_for_phase(Phase::Safe);
    assert_eq!(safe.cause, Cause::EmergencyStop as u32);
    let (code, reason) = plane.try_open_lease().err().expect("it is latched");
    assert_eq!(code, "estopped");
    assert!(reason.contains("kairo rt clear-estop"), "{reason}");
    robot.clear_estop();
    plane.wait_for_phase(Phase::Holding);
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
}

#[test]
fn an_estop_in_motion_ends_the_lease_and_its_stream_moves_nothing_ever_after() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
    assert!(
        robot
            .operator(&OperatorRequest::Estop)
            .expect("it answers")
            .done
    );
    assert_eq!(
        plane.wait_for_lease_end(lease.epoch),
        Cause::EmergencyStop.name()
    );
    plane.wait_for_failsafe("safe-action", "estop");
    let stopped = plane.wait_for_rest();
    assert_eq!(
        (stopped.phase, stopped.cause),
        (Phase::Safe as u32, Cause::EmergencyStop as u32)
    );
    robot.clear_estop();
    lease.send(HOME, TTL_MS);
    let held = plane.wait_for_phase(Phase::Holding);
    let later = eventually("some ticks pass", || {
        lease.send(HOME, TTL_MS);
        let state = plane.state();
        (state.tick > held.tick + 20).then_some(state)
    });
    assert_eq!(later.joints[0].setpoint_rad, stopped.joints[0].setpoint_rad);
}

#[test]
fn the_agent_plane_can_stop_and_cannot_clear() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    assert_eq!(plane.ask_stop(false), "");
    plane.wait_for_phase(Phase::Safe);
    assert_eq!(plane.ask_stop(true), "not_allowed");
    let status = robot
        .operator(&OperatorRequest::Status)
        .expect("it answers");
    assert!(status.estop);
    drop(plane);
    let cleared = robot
        .operator(&OperatorRequest::ClearEstop)
        .expect("it answers");
    assert!(
        cleared.done && !cleared.estop,
        "without any agent plane: {cleared:?}"
    );
}

#[test]
fn a_robot_may_take_clears_over_ipc_and_may_start_unlatched() {
    let config = hosted_config()
        + "[estop]\nclear_over_ipc = true\nlatched_at_start = false\n\
           not_latched_because = \"a test\"\n";
    let robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect();
    plane.wait_for_phase(Phase::Holding);
    assert_eq!(plane.ask_stop(false), "");
    plane.wait_for_phase(Phase::Safe);
    assert_eq!(plane.ask_stop(true), "");
    plane.wait_for_phase(Phase::Holding);
}

#[test]
fn a_restart_forgets_no_press_on_a_robot_that_starts_unlatched() {
    let config =
        hosted_config() + "[estop]\nlatched_at_start = false\nnot_latched_because = \"a test\"\n";
    let mut robot = Robot::start_with(&config, &[]);
    for over_ipc in [false, true] {
        let mut plane = robot.connect();
        plane.wait_for_phase(Phase::Holding);
        match over_ipc {
            true => assert_eq!(plane.ask_stop(false), ""),
            false => {
                let answer = robot.operator(&OperatorRequest::Estop);
                assert!(answer.expect("it answers").done);
            }
        }
        // Acknowledged, so it lasts, whatever comes now.
        robot.kill();
        drop(plane);
        robot.start_daemon(&[]);
        let mut plane = robot.connect();
        let state = plane.wait_for_phase(Phase::Safe);
        assert_eq!(state.cause, Cause::EmergencyStop as u32);
        let refused = plane.try_open_lease().err().map(|(code, _)| code);
        assert_eq!(refused, Some("estopped".into()), "over IPC: {over_ipc}");
        robot.clear_estop();
        // Cleared, so the next start is as robot.toml says.
        robot.kill();
        drop(plane);
        robot.start_daemon(&[]);
    }
    robot.connect().wait_for_phase(Phase::Holding);
}

#[test]
fn a_cause_does_what_the_robot_says_and_lasts_until_its_clear_condition() {
    let config = hosted_config()
        + "[failsafe.agent_gone]\naction = \"torque-off\"\nclear = \"on-reset\"\n\
           takeover = \"never\"\n";
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    eventually("the arm is under torque", || {
        robot.arm.is_under_torque().then_some(())
    });
    drop(plane);
    eventually("the arm lets go", || {
        (!robot.arm.is_under_torque()).then_some(())
    });
    // The next agent plane is there, and still nobody moves it.
    let mut plane = robot.connect();
    let mut lease = plane.open_lease();
    let command = lease.command(HOME, TTL_MS);
    assert_eq!(lease.verdict(&command), Verdict::Inhibited);
    robot.clear_estop();
    plane.wait_for_phase(Phase::Idle);
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
}

#[test]
fn an_operator_s_hold_stops_a_stream_for_as_long_as_it_lasts() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
    let cause = "operator_request".to_owned();
    let raise = OperatorRequest::Raise {
        cause: cause.clone(),
    };
    assert!(robot.operator(&raise).expect("it answers").done);
    plane.wait_for_failsafe("hold", "operator_request");
    plane.wait_for_rest();
    let command = lease.command(FAR, TTL_MS);
    assert_eq!(
        lease.verdict(&command),
        Verdict::Inhibited,
        "the lease is still there"
    );
    assert!(
        robot
            .operator(&OperatorRequest::Lower { cause })
            .expect("it answers")
            .done
    );
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
}

#[test]
fn a_stop_button_that_this_machine_does_not_have_is_a_stop_that_nobody_can_clear() {
    let config = hosted_config()
        + "[[estop.input]]\nline = \"no-such-line\"\n[estop.charge_pump]\nline = \"nor-this\"\n";
    let robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect();
    let safe = plane.wait_for_phase(Phase::Safe);
    assert_eq!(safe.cause, Cause::EmergencyStop as u32);
    let refused = robot
        .operator(&OperatorRequest::ClearEstop)
        .expect("it answers");
    assert!(
        !refused.done
            && refused
                .text
                .contains("there is no GPIO line \"no-such-line\""),
        "{refused:?}"
    );
    let (code, _) = plane.try_open_lease().err().expect("it is latched");
    assert_eq!(code, "estopped");
    let lines = refused.lines.expect("a robot with lines reports them");
    let levels: Vec<(&str, bool)> = lines
        .lines
        .iter()
        .map(|line| (line.level.as_str(), line.good))
        .collect();
    assert_eq!(levels[0], ("unreadable", false), "{lines:?}");
    assert_eq!(lines.pump_toggles, 0);
    let table = &plane.welcome.bringup;
    for (check, required) in [
        ("input no-such-line", true),
        ("charge_pump charge-pump", true),
    ] {
        let row = table.iter().find(|row| row.check == check);
        let row = row.unwrap_or_else(|| panic!("no {check} in {table:?}"));
        assert_eq!((row.ok, row.required), (false, required), "{row:?}");
        assert!(!row.fix.is_empty());
    }
    assert!(
        table
            .iter()
            .any(|row| row.scope == "estop-lines" && row.check == "policy"),
        "the thread that serves the lines is read back as every other: {table:?}"
    );
}
