//! What a bus thread decides by itself, without a bus.

use super::*;

#[test]
fn torque_is_switched_on_behind_several_goals_and_off_at_once() {
    let (_loop_side, bus_side) = crate::exchange::pair();
    let mut seat = BusSeat::new(bus_side, 0, Vec::new());
    let mut orders = |torque, cycles: usize| {
        seat.goals.torque = torque;
        let mut cycle = || {
            let order = seat.torque_order()?;
            seat.torque_repeats -= 1;
            Some(order)
        };
        (0..cycles).map(|_| cycle()).collect::<Vec<_>>()
    };
    assert_eq!(orders(Goals::LEAVE, 2), [None, None]);
    let on = Some(true);
    assert_eq!(orders(Goals::ON, 6), [None, None, on, on, on, None]);
    assert_eq!(orders(Goals::LEAVE, 2), [None, None]);
    let off = Some(false);
    assert_eq!(orders(Goals::OFF, 4), [off, off, off, None]);
    assert_eq!(orders(Goals::ON, 3), [None, None, on]);
}

#[test]
fn torque_off_is_ordered_on_a_new_connection_and_again_when_a_servo_is_found_holding() {
    let (_loop_side, bus_side) = crate::exchange::pair();
    let mut seat = BusSeat::new(bus_side, 0, Vec::new());
    seat.goals.torque = Goals::OFF;
    let orders = |seat: &mut BusSeat| {
        let mut count = 0;
        for _ in 0..6 {
            if let Some(order) = seat.torque_order() {
                assert!(!order);
                seat.torque_repeats -= 1;
                count += 1;
            }
        }
        count
    };
    assert_eq!(orders(&mut seat), TORQUE_REPEATS);
    assert_eq!(orders(&mut seat), 0);
    seat.found_under_torque();
    assert_eq!(orders(&mut seat), TORQUE_REPEATS);
    // Being found under torque is no reason to let go of what shall hold, or is nobody's yet.
    for torque in [Goals::ON, Goals::LEAVE] {
        seat.torque_sent = (torque == Goals::ON).then_some(true);
        seat.goals.torque = torque;
        seat.found_under_torque();
        assert_eq!(seat.torque_repeats, 0);
    }
}

#[test]
fn a_position_that_no_goal_can_hold_is_no_sample() {
    let mut sample = ServoSample::default();
    sample.outcome = ServoOutcome::Ok;
    let at = |position_steps| PresentState {
        position_steps,
        ..PresentState::default()
    };
    for steps in [0, 2048, 4095, -16, 4111] {
        assert!(is_plausible(&sample, &at(steps)), "{steps}");
    }
    for steps in [-17, 4112, 8192, -4096, -32_767] {
        assert!(!is_plausible(&sample, &at(steps)), "{steps}");
    }
}

#[test]
fn a_late_reply_is_no_evidence_of_lost_torque_and_replies_in_step_are() {
    let mut watch = LimpWatch::default();
    let (answered, late) = (ServoOutcome::Ok, ServoOutcome::Timeout);
    for _ in 0..100 {
        assert_eq!(watch.look(answered, None, true), 0);
    }
    // Everybody stands still for a while; then what was asked before the switch is answered.
    for _ in 0..50 {
        assert_eq!(watch.look(late, None, true), 0);
    }
    for _ in 1..IN_STEP_CYCLES {
        assert_eq!(
            watch.look(answered, Some(false), true),
            0,
            "a late reply counts"
        );
    }
    // In step again, it is what the servo says now.
    assert_eq!(watch.look(answered, Some(false), true), 1);
    assert_eq!(
        watch.look(ServoOutcome::BadChecksum, None, true),
        1,
        "damaged, not late"
    );
    assert_eq!(watch.look(answered, Some(false), true), LIMP_READS);
    assert_eq!(watch.look(answered, Some(true), true), 0);
    assert_eq!(
        watch.look(answered, Some(false), false),
        0,
        "not ordered on"
    );
}
