//! Faults that latch, what inhibits, declared safe actions, and when torque is switched on.

use super::tests::{Bench, PERIOD_NS, config};
use super::*;
use crate::safe_action::SafeAction;
use kairo_hal::feetech::StatusError;
use kairo_link::abi::Verdict;

/// The second joint stays where it is while the setpoint goes on.
fn run_jammed(bench: &mut Bench, ticks: usize) {
    for _ in 0..ticks {
        let [first, _] = bench.setpoints();
        bench.run_tick_measuring([first, -0.3]);
    }
}

#[test]
fn a_joint_that_does_not_follow_stops_the_device_until_a_reset() {
    let mut bench = Bench::leased(SafeAction::Hold);
    let mut sequence = 0;
    while bench.device.fault().is_none() {
        sequence += 1;
        assert_eq!(bench.send(sequence, [-0.9, 0.9]), Verdict::Accepted);
        run_jammed(&mut bench, 1);
        assert!(sequence < 300, "never tripped");
    }
    let fault = *bench.device.fault().unwrap();
    assert_eq!((fault.cause, fault.joint), (Cause::FollowingError, 1));
    assert!(fault.value < -0.3 && fault.limit == 0.3, "{fault:?}");
    assert_eq!(bench.standing(), (Phase::Safe, Cause::FollowingError));
    let relieved = bench.setpoints()[1];
    assert!((relieved + 0.3).abs() < 1e-9, "it pushes on: {relieved}");
    run_jammed(&mut bench, 80);
    assert!(!bench.device.is_moving());
    assert_eq!(bench.device.goals().torque, 1);

    // Neither the next command nor the next claim does away with it.
    assert_eq!(bench.send(sequence + 1, [0.0, 0.0]), Verdict::Faulted);
    bench.device.end_lease(bench.tick.time, Cause::Released);
    bench.device.open_lease(7);
    assert_eq!(bench.send(1, [0.0, 0.0]), Verdict::Faulted);
    assert_eq!(bench.order(2, Mode::Stop, [0.0, 0.0]), Verdict::Faulted);
    let state = bench.device.state(bench.tick);
    assert_eq!(
        (state.fault, state.fault_joint, state.fault_limit),
        (Cause::FollowingError as u32, 1, 0.3)
    );

    assert_eq!(bench.order(3, Mode::Reset, [0.0, 0.0]), Verdict::Accepted);
    assert_eq!(bench.standing(), (Phase::Holding, Cause::None));
    assert_eq!(bench.device.state(bench.tick).fault, Cause::None as u32);
    run_jammed(&mut bench, 10);
    assert!(!bench.device.is_moving(), "a reset moves nothing");
    assert_eq!(bench.send(4, [0.0, -0.3]), Verdict::Accepted);
}

#[test]
fn a_servo_fault_stops_the_device_and_is_not_reset_while_it_shows() {
    let mut bench = Bench::leased(SafeAction::Ramp);
    bench.send(1, [-0.9, 0.9]);
    bench.run_ticks(10);
    let report = |bench: &mut Bench, status: StatusError| {
        bench.tick.time = bench.tick.time.plus_ns(PERIOD_NS);
        let mut feedback = bench.feedback_at(bench.setpoints());
        feedback.joints[0].status_bits = u32::from(status.bits());
        bench.device.observe(bench.tick.time, &feedback)
    };
    assert_eq!(report(&mut bench, StatusError::OVERLOAD), None);
    assert_eq!(report(&mut bench, StatusError::OVERLOAD), None);
    assert_eq!(
        report(&mut bench, StatusError::OVERLOAD),
        Some(Cause::ServoFault)
    );
    // An arm that met something is not ramped anywhere.
    for _ in 0..80 {
        bench.device.step();
    }
    let held = bench.setpoints();
    assert!(!bench.device.is_moving() && held[0] != 0.2, "{held:?}");
    assert_eq!(bench.order(2, Mode::Reset, [0.0, 0.0]), Verdict::Faulted);
    report(&mut bench, StatusError::NONE);
    assert_eq!(bench.order(3, Mode::Reset, [0.0, 0.0]), Verdict::Accepted);
}

#[test]
fn torque_lost_twice_is_not_switched_on_again_without_a_reset() {
    let mut bench = Bench::leased(SafeAction::Hold);
    for losses in 1..=2 {
        bench.torque_losses = losses;
        let gone = Feedback {
            bus_up: 0,
            ..bench.feedback_at([0.0, 0.0])
        };
        assert_eq!(
            bench.device.observe(bench.tick.time, &gone),
            Some(Cause::BusLost)
        );
        bench.device.end_lease(bench.tick.time, Cause::BusLost);
        assert_eq!(bench.standing(), (Phase::Lost, Cause::BusLost));
        bench.generation += 1;
        bench.settle_at([0.1, -0.6]);
        bench.device.open_lease(7);
        if losses == 1 {
            assert_eq!(bench.standing(), (Phase::Holding, Cause::None));
            assert_eq!(bench.device.goals().torque, 1);
        }
    }
    assert_eq!(bench.standing(), (Phase::Safe, Cause::TorqueLost));
    assert_eq!(bench.device.goals().torque, Goals::LEAVE);
    assert_eq!(bench.send(1, [0.0, 0.0]), Verdict::Faulted);
    assert_eq!(bench.order(2, Mode::Reset, [0.0, 0.0]), Verdict::Accepted);
    assert_eq!(bench.standing(), (Phase::Idle, Cause::None));
    assert_eq!(
        bench.device.goals().torque,
        Goals::OFF,
        "a reset is no command"
    );
    assert_eq!(bench.send(3, [0.1, -0.6]), Verdict::Accepted);
    assert_eq!(bench.device.goals().torque, 1);
    assert_eq!(bench.setpoints(), [0.1, -0.6]);
}

#[test]
fn a_device_that_lets_go_is_not_taken_hold_of_before_its_first_command() {
    let mut bench = Bench::new(SafeAction::TorqueOff);
    bench.device.decide(bench.tick.time, true);
    bench.settle_at([0.3, -0.3]);
    assert_eq!(bench.standing(), (Phase::Idle, Cause::None));
    bench.device.open_lease(7);
    bench.run_ticks(5);
    assert_eq!(bench.device.goals().torque, Goals::OFF);
    // A lease that was never used ends without taking hold either.
    bench.device.end_lease(bench.tick.time, Cause::Released);
    bench.run_ticks(5);
    assert_eq!(
        (bench.standing().0, bench.device.goals().torque),
        (Phase::Idle, Goals::OFF)
    );
    bench.device.open_lease(7);
    assert_eq!(bench.send(1, [0.0, 0.0]), Verdict::Accepted);
    assert_eq!(bench.device.goals().torque, 1);
}

#[test]
fn torque_at_start_is_what_the_file_says() {
    for (safe_action, at_start) in [(SafeAction::TorqueOff, true), (SafeAction::Hold, false)] {
        let config = DeviceConfig {
            torque_at_start: at_start,
            ..config(safe_action)
        };
        let mut bench = Bench::of(&config);
        bench.device.decide(bench.tick.time, true);
        bench.settle_at([0.3, -0.3]);
        let torque = if at_start { Goals::ON } else { Goals::OFF };
        assert_eq!(bench.device.goals().torque, torque);
    }
}

#[test]
fn ramps_to_the_declared_pose_at_the_declared_speed_and_holds() {
    let mut bench = Bench::leased(SafeAction::Ramp);
    assert_eq!(bench.send(1, [-0.9, 0.9]), Verdict::Accepted);
    let expires = bench.tick.time.0 + super::tests::TTL_NS;
    while bench.run_tick().is_none() {}
    assert_eq!(bench.standing(), (Phase::Safe, Cause::CommandExpired));
    let state = bench.device.state(bench.tick);
    assert!(state.phase_since_ns - expires < PERIOD_NS);
    assert_eq!(state.phase_since_tick, bench.tick.number);
    bench.demand_safe_action(Cause::CommandExpired);
    bench.run_ticks(80);
    let mut before = bench.setpoints();
    while bench.device.is_moving() {
        bench.run_tick();
        let now = bench.setpoints();
        for (now, before) in now.iter().zip(before) {
            // A quarter of 2 rad/s.
            assert!((now - before).abs() <= 0.5 * 0.004 + 1e-9);
        }
        before = now;
    }
    assert_eq!(bench.setpoints(), [0.2, 0.2]);
    assert_eq!(bench.device.goals().torque, 1);
}

#[test]
fn what_inhibits_outranks_commands_and_its_action_is_taken_once() {
    let mut bench = Bench::leased(SafeAction::Hold);
    bench.send(1, [-0.9, 0.9]);
    bench.run_ticks(20);
    for _ in 0..100 {
        bench.restrain(Action::TorqueOff, Cause::EmergencyStop, true);
        bench.run_tick();
    }
    assert_eq!(bench.standing(), (Phase::Safe, Cause::EmergencyStop));
    assert_eq!(
        bench.device.goals().torque,
        Goals::OFF,
        "never let go: it began again every tick"
    );
    assert_eq!(bench.send(2, [0.0, 0.0]), Verdict::Inhibited);
    bench.device.release(bench.tick.time);
    bench.run_tick();
    assert_eq!(
        bench.device.goals().torque,
        Goals::OFF,
        "nothing moves by itself"
    );
    bench.settle_at([0.1, 0.1]);
    assert_eq!(bench.send(3, [0.0, 0.0]), Verdict::Accepted);
    assert_eq!(bench.device.goals().torque, 1);
}

#[test]
fn a_velocity_is_reached_kept_and_given_up_at_the_limit_or_when_it_expires() {
    let mut bench = Bench::leased(SafeAction::Hold);
    for sequence in 1..=300 {
        assert_eq!(
            bench.order(sequence, Mode::Velocity, [0.5, -1.0]),
            Verdict::Accepted
        );
        bench.run_tick();
    }
    assert_eq!(bench.setpoints()[1], -1.0, "its limit");
    let moved = bench.setpoints()[0];
    bench.order(301, Mode::Velocity, [0.5, 0.0]);
    bench.run_tick();
    let step = bench.setpoints()[0] - moved;
    assert!(
        step.abs() < 1e-12 || (step - 0.5 * 0.004).abs() < 1e-9,
        "{step}"
    );
    while bench.run_tick().is_none() {}
    bench.run_ticks(80);
    assert!(!bench.device.is_moving());
}

#[test]
fn what_inhibits_can_become_more_drastic_and_no_end_of_a_lease_makes_it_milder() {
    let mut bench = Bench::leased(SafeAction::Hold);
    bench.send(1, [-0.9, 0.9]);
    bench.run_ticks(20);
    bench.restrain(Action::Hold, Cause::EmergencyStop, true);
    bench.run_ticks(80);
    assert_eq!(bench.device.goals().torque, 1);
    let now = bench.tick.time;
    bench.restrain(Action::TorqueOff, Cause::EmergencyStop, true);
    bench.device.end_lease(now, Cause::Released);
    assert_eq!(bench.standing(), (Phase::Safe, Cause::EmergencyStop));
    bench.run_ticks(2);
    assert_eq!(bench.device.goals().torque, Goals::OFF);
}

#[test]
fn a_claim_given_back_does_not_ramp_a_faulted_arm() {
    let mut bench = Bench::leased(SafeAction::Ramp);
    let mut sequence = 0;
    while bench.device.fault().is_none() {
        sequence += 1;
        bench.send(sequence, [-0.9, 0.9]);
        run_jammed(&mut bench, 1);
        assert!(sequence < 300, "never tripped");
    }
    run_jammed(&mut bench, 80);
    let held = bench.setpoints();
    bench.device.open_lease(8);
    bench.device.end_lease(bench.tick.time, Cause::Released);
    run_jammed(&mut bench, 20);
    assert_eq!(bench.setpoints(), held);
    assert_eq!(bench.standing(), (Phase::Safe, Cause::FollowingError));
}

#[test]
fn torque_is_left_alone_until_armed_and_present_and_then_ordered_off() {
    let mut bench = Bench::new(SafeAction::TorqueOff);
    bench.settle_at([0.3, -0.3]);
    assert_eq!(bench.device.goals().torque, Goals::LEAVE, "a rehearsal");
    bench.device.decide(bench.tick.time, true);
    assert_eq!(bench.device.goals().torque, Goals::LEAVE, "not seen yet");
    bench.settle_at([0.3, -0.3]);
    assert_eq!(bench.device.goals().torque, Goals::OFF);
    assert_eq!(bench.device.state(bench.tick).torque, 0);
}

#[test]
fn an_arm_that_ramps_is_held_when_its_bus_comes_back() {
    for action in [Action::Hold, Action::RampToRest] {
        let mut bench = Bench::leased(SafeAction::Ramp);
        let gone = Feedback {
            bus_up: 0,
            ..bench.feedback_at([0.3, -0.3])
        };
        bench.device.observe(bench.tick.time, &gone);
        bench.restrain(action, Cause::BusLost, true);
        bench.generation += 1;
        bench.settle_at([0.3, -0.3]);
        assert_eq!(bench.device.goals().torque, Goals::ON, "{action:?}");
    }
}

#[test]
fn no_later_cause_ramps_a_jammed_arm() {
    for action in [Action::SafeAction, Action::RampToRest] {
        let mut bench = Bench::leased(SafeAction::Ramp);
        for sequence in 1..300 {
            bench.send(sequence, [-0.9, 0.9]);
            run_jammed(&mut bench, 1);
        }
        assert!(bench.device.fault().is_some(), "never tripped");
        let held = bench.setpoints();
        for _ in 0..50 {
            bench.restrain(action, Cause::Failsafe, true);
            run_jammed(&mut bench, 1);
        }
        assert_eq!(bench.setpoints(), held, "{action:?}");
    }
}

#[test]
fn a_state_never_calls_limp_what_may_be_under_torque() {
    let mut bench = Bench::leased(SafeAction::Hold);
    let mut sequence = 0;
    while bench.device.fault().is_none() {
        sequence += 1;
        bench.send(sequence, [-0.9, 0.9]);
        run_jammed(&mut bench, 1);
        assert!(sequence < 300, "never tripped");
    }
    let said = |bench: &Bench| bench.device.state(bench.tick).torque;
    let gone = Feedback {
        bus_up: 0,
        ..bench.feedback_at([0.0, 0.0])
    };
    bench.device.observe(bench.tick.time, &gone);
    assert_eq!(said(&bench), 1, "a pulled cable takes no torque away");
    bench.generation += 1;
    bench.settle_at([0.1, -0.6]);
    assert_eq!(bench.device.goals().torque, Goals::LEAVE, "still latched");
    assert_eq!(said(&bench), 1, "nobody has looked yet");
    for (seen, told) in [(Feedback::SOME_ON, 1), (Feedback::ALL_OFF, 0)] {
        bench.tick.time = bench.tick.time.plus_ns(PERIOD_NS);
        let mut feedback = bench.feedback_at([0.1, -0.6]);
        feedback.torque_seen = seen;
        bench.device.observe(bench.tick.time, &feedback);
        assert_eq!(said(&bench), told, "read back: {seen}");
    }
}
