//! Every way a device starts, moves, and stops, without a bus or a clock.

use super::*;
use crate::config::JointConfig;
use crate::exchange::JointFeedback;
use kairo_link::abi::{Reply, Verdict};

pub(crate) const PERIOD_NS: u64 = 4_000_000;
pub(super) const TTL_NS: u64 = 100_000_000;

pub(crate) fn config(safe_action: SafeAction) -> DeviceConfig {
    let joint = |name: &str, servo_id| JointConfig {
        name: name.into(),
        servo_id,
        zero_steps: 2048,
        direction: 1,
        position_min_rad: -1.0,
        position_max_rad: 1.0,
        velocity_max_rad_s: 2.0,
        acceleration_max_rad_s2: 8.0,
        jerk_max_rad_s3: 160.0,
        following_error_max_rad: 0.3,
        following_error_time_ms: 200,
        rest_position_rad: Some(0.2),
        gains: None,
    };
    DeviceConfig {
        name: "arm".into(),
        bus: 0,
        control_loop: 0,
        safe_action,
        ramp_velocity_scale: 0.25,
        torque_at_start: safe_action != SafeAction::TorqueOff,
        ttl_max_ms: 1000,
        feedback_stale_ms: 200,
        joints: vec![joint("one", 1), joint("two", 2)],
    }
}

/// A device with a clock and an ideal arm.
pub(super) struct Bench {
    pub(super) device: Device,
    pub(super) tick: Tick,
    pub(super) generation: u64,
    pub(super) torque_losses: u64,
}

impl Bench {
    pub(super) fn new(safe_action: SafeAction) -> Self {
        Self::of(&config(safe_action))
    }

    pub(super) fn of(config: &DeviceConfig) -> Self {
        let tick = Tick {
            number: 0,
            time: MonoNs(1_000_000_000),
        };
        let device = Device::new(config, PERIOD_NS);
        Self {
            device,
            tick,
            generation: 1,
            torque_losses: 0,
        }
    }

    /// Armed, connected at (0.3, -0.3), with a lease of epoch 7.
    pub(super) fn leased(safe_action: SafeAction) -> Self {
        let mut bench = Self::new(safe_action);
        bench.device.decide(bench.tick.time, true);
        bench.settle_at([0.3, -0.3]);
        bench.device.open_lease(7);
        bench
    }

    /// As many looks at an arm that rests there as it takes to believe it.
    pub(super) fn settle_at(&mut self, position_rad: [f64; 2]) {
        for _ in 0..2 {
            self.tick.time = self.tick.time.plus_ns(PERIOD_NS);
            let feedback = self.feedback_at(position_rad);
            assert_eq!(self.device.observe(self.tick.time, &feedback), None);
        }
    }

    pub(super) fn feedback_at(&self, position_rad: [f64; 2]) -> Feedback {
        let mut feedback = Feedback {
            generation: self.generation,
            bus_up: 1,
            torque_losses: self.torque_losses,
            ..Feedback::default()
        };
        for (joint, position_rad) in feedback.joints.iter_mut().zip(position_rad) {
            let sampled_ns = self.tick.time.0;
            *joint = JointFeedback {
                position_rad,
                sampled_ns,
                ..JointFeedback::default()
            };
        }
        feedback
    }

    pub(super) fn setpoints(&self) -> [f64; 2] {
        let goals = self.device.goals();
        [goals.setpoint_rad[0], goals.setpoint_rad[1]]
    }

    /// One period of the control loop, with an arm that follows its setpoints.
    pub(super) fn run_tick(&mut self) -> Option<Reply> {
        self.run_tick_measuring(self.setpoints())
    }

    /// The failsafe machine demands the declared safe action for `cause`, as its default rule says
    /// of every end of a lease or a command.
    pub(super) fn demand_safe_action(&mut self, cause: Cause) {
        self.restrain(Action::SafeAction, cause, false);
    }

    /// The failsafe machine demands `action`, from now on if it does not refuse commands.
    pub(super) fn restrain(&mut self, action: Action, cause: Cause, refuses: bool) {
        let restraint = Restraint {
            action,
            cause,
            refuses,
            begins: !refuses,
            stands_still: false,
        };
        self.device.restrain(self.tick.time, restraint);
    }

    /// One period with an arm that is found at `position_rad`.
    pub(super) fn run_tick_measuring(&mut self, position_rad: [f64; 2]) -> Option<Reply> {
        self.tick.number += 1;
        self.tick.time = self.tick.time.plus_ns(PERIOD_NS);
        self.device.begin(self.tick);
        let feedback = self.feedback_at(position_rad);
        self.device.observe(self.tick.time, &feedback);
        let notice = self.device.expire(self.tick);
        self.device.step();
        notice
    }

    pub(super) fn run_ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.run_tick();
        }
    }

    pub(super) fn send(&mut self, sequence: u64, position_rad: [f64; 2]) -> Verdict {
        self.order(sequence, Mode::Position, position_rad)
    }

    pub(super) fn order(&mut self, sequence: u64, mode: Mode, target: [f64; 2]) -> Verdict {
        let mut command = Command {
            sequence,
            lease_epoch: 7,
            issued_ns: self.tick.time.0,
            ttl_ns: TTL_NS,
            mode: mode as u32,
            joint_count: 2,
            velocity_scale: 1.0,
            ..Command::default()
        };
        command.target[..2].copy_from_slice(&target);
        let reply = self.device.command(self.tick.time, self.tick, &command);
        Verdict::from_u32(reply.verdict).unwrap()
    }

    pub(super) fn standing(&self) -> (Phase, Cause) {
        let state = self.device.state(self.tick);
        (
            Phase::from_u32(state.phase).unwrap(),
            Cause::from_u32(state.cause).unwrap(),
        )
    }
}

#[test]
fn holds_where_it_is_from_the_first_feedback_on() {
    let mut bench = Bench::leased(SafeAction::Hold);
    assert_eq!(bench.standing(), (Phase::Holding, Cause::None));
    for _ in 0..10 {
        bench.run_tick();
        assert_eq!(bench.setpoints(), [0.3, -0.3]);
        assert_eq!(bench.device.goals().torque, 1);
    }
}

#[test]
fn is_not_held_by_a_position_that_was_measured_once() {
    let mut bench = Bench::new(SafeAction::Hold);
    bench.device.decide(bench.tick.time, true);
    // A damaged packet whose checksum is right, then the truth.
    let damaged = bench.feedback_at([1.4, -0.3]);
    bench.device.observe(bench.tick.time, &damaged);
    assert_eq!(bench.device.goals().torque, Goals::LEAVE);
    bench.settle_at([0.3, -0.3]);
    assert_eq!(bench.standing(), (Phase::Holding, Cause::None));
    assert_eq!(bench.setpoints(), [0.3, -0.3]);
}

#[test]
fn is_not_held_by_a_position_from_a_while_ago() {
    let mut bench = Bench::new(SafeAction::Hold);
    bench.device.decide(bench.tick.time, true);
    // The first joint answers and goes silent; its arm sinks before the second one answers.
    let mut feedback = bench.feedback_at([0.3, 0.0]);
    feedback.joints[1] = JointFeedback::default();
    for missed in 0..500 {
        bench.tick.time = bench.tick.time.plus_ns(PERIOD_NS);
        if missed < 2 {
            feedback.joints[0].sampled_ns = bench.tick.time.0;
        } else {
            feedback.joints[0].missed = missed;
        }
        bench.device.observe(bench.tick.time, &feedback);
    }
    for _ in 0..3 {
        bench.tick.time = bench.tick.time.plus_ns(PERIOD_NS);
        feedback.joints[1].sampled_ns = bench.tick.time.0;
        bench.device.observe(bench.tick.time, &feedback);
        assert_eq!(
            bench.device.goals().torque,
            Goals::LEAVE,
            "held where it was 2 s ago"
        );
    }
    bench.settle_at([-0.4, 0.0]);
    assert_eq!(bench.setpoints(), [-0.4, 0.0]);
    assert_eq!(bench.device.goals().torque, 1);
}

#[test]
fn an_arm_that_answered_before_bring_up_decided_is_held_from_then_on() {
    let mut bench = Bench::new(SafeAction::Hold);
    bench.settle_at([0.3, -0.3]);
    bench.device.decide(bench.tick.time, true);
    bench.settle_at([0.3, -0.3]);
    assert_eq!(bench.standing(), (Phase::Holding, Cause::None));
    assert_eq!(bench.device.goals().torque, 1);
}

#[test]
fn is_never_under_torque_when_bring_up_was_refused() {
    let mut bench = Bench::new(SafeAction::Hold);
    bench.device.decide(bench.tick.time, false);
    bench.settle_at([0.3, -0.3]);
    bench.device.open_lease(7);
    assert_eq!(bench.send(1, [0.0, 0.0]), Verdict::NotArmed);
    bench.run_tick();
    assert_eq!(bench.device.goals().torque, Goals::LEAVE);
    assert_eq!(bench.standing(), (Phase::Disarmed, Cause::BringupRefused));
}

#[test]
fn follows_commands_to_the_pose() {
    let mut bench = Bench::leased(SafeAction::Hold);
    let mut sequence = 0;
    for _ in 0..200 {
        sequence += 1;
        assert_eq!(bench.send(sequence, [-0.5, 0.5]), Verdict::Accepted);
        assert_eq!(bench.run_tick(), None);
    }
    assert_eq!(bench.setpoints(), [-0.5, 0.5]);
    assert_eq!(bench.standing(), (Phase::Following, Cause::None));
}

#[test]
fn slows_down_and_holds_when_the_command_expires_and_moves_on_with_the_next() {
    let mut bench = Bench::leased(SafeAction::Hold);
    assert_eq!(bench.send(1, [-0.9, 0.9]), Verdict::Accepted);
    let expires = bench.tick.time.plus_ns(TTL_NS);
    let notice = loop {
        if let Some(notice) = bench.run_tick() {
            break notice;
        }
    };
    assert!(bench.tick.time >= expires && bench.tick.time.since_ns(expires) < PERIOD_NS);
    assert_eq!(
        (notice.sequence, notice.cause),
        (0, Cause::CommandExpired as u32)
    );
    assert_eq!(bench.standing(), (Phase::Safe, Cause::CommandExpired));
    for _ in 0..80 {
        bench.run_tick();
    }
    let held = bench.setpoints();
    assert!(
        held[0] > -0.9 && held[1] < 0.9,
        "went on to the target: {held:?}"
    );
    bench.run_tick();
    assert_eq!(bench.setpoints(), held);
    assert_eq!(bench.device.goals().torque, 1);
    assert_eq!(
        bench.device.lease_epoch(),
        7,
        "a late stream need not claim again"
    );
    assert_eq!(bench.send(2, [-0.9, 0.9]), Verdict::Accepted);
    assert_eq!(bench.standing(), (Phase::Following, Cause::None));
}

#[test]
fn every_end_of_a_lease_stops_the_motion_and_forgets_the_epoch() {
    for cause in [
        Cause::Released,
        Cause::HolderGone,
        Cause::AgentPlaneGone,
        Cause::RingCorrupt,
    ] {
        let mut bench = Bench::leased(SafeAction::Hold);
        bench.send(1, [-0.9, 0.9]);
        bench.run_ticks(20);
        assert!(bench.device.is_moving());
        bench.device.end_lease(bench.tick.time, cause);
        assert_eq!(bench.standing(), (Phase::Safe, cause));
        bench.run_ticks(80);
        assert!(!bench.device.is_moving());
        assert_eq!(bench.send(2, [0.0, 0.0]), Verdict::StaleEpoch);
    }
}

#[test]
fn torque_off_lets_go_only_after_slowing_down_and_takes_hold_where_the_arm_fell() {
    let mut bench = Bench::leased(SafeAction::TorqueOff);
    bench.send(1, [-0.9, 0.9]);
    bench.run_ticks(20);
    bench.device.end_lease(bench.tick.time, Cause::Released);
    bench.demand_safe_action(Cause::Released);
    while bench.device.is_moving() {
        assert_eq!(bench.device.goals().torque, 1);
        bench.run_tick();
    }
    assert_eq!(bench.device.goals().torque, Goals::OFF);
    bench.device.open_lease(7);
    bench.settle_at([-0.7, -0.7]);
    // One look that disagrees with the one before is not what torque is switched on by.
    bench.tick.time = bench.tick.time.plus_ns(PERIOD_NS);
    let damaged = bench.feedback_at([0.9, -0.7]);
    bench.device.observe(bench.tick.time, &damaged);
    assert_eq!(bench.send(1, [0.0, 0.0]), Verdict::BusLost);
    assert_eq!(bench.device.goals().torque, Goals::OFF);
    bench.settle_at([-0.7, -0.7]);
    assert_eq!(bench.send(1, [0.0, 0.0]), Verdict::Accepted);
    assert_eq!(bench.device.goals().torque, 1);
    assert_eq!(bench.setpoints(), [-0.7, -0.7]);
}

#[test]
fn a_lost_bus_ends_the_lease_and_the_arm_that_returns_is_held_where_it_is() {
    let mut bench = Bench::leased(SafeAction::Hold);
    bench.send(1, [-0.9, 0.9]);
    bench.run_ticks(20);
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
    assert_eq!(
        (bench.device.goals().torque, bench.device.is_moving()),
        (0, false)
    );
    bench.device.open_lease(7);
    assert_eq!(bench.send(2, [0.0, 0.0]), Verdict::BusLost);

    bench.generation += 1;
    let mut half = bench.feedback_at([0.8, 0.8]);
    half.joints[1].sampled_ns = 0;
    bench.device.observe(bench.tick.time, &half);
    assert!(!bench.device.is_present(), "one joint has not answered yet");
    bench.settle_at([0.8, 0.8]);
    assert_eq!(bench.standing(), (Phase::Holding, Cause::None));
    assert_eq!(bench.setpoints(), [0.8, 0.8]);
    assert_eq!(bench.device.goals().generation, 2);
}

#[test]
fn a_reconnection_between_two_looks_is_a_loss_too() {
    let mut bench = Bench::leased(SafeAction::Hold);
    bench.send(1, [-0.9, 0.9]);
    bench.run_tick();
    bench.generation += 1;
    let other = bench.feedback_at([0.5, 0.5]);
    assert_eq!(
        bench.device.observe(bench.tick.time, &other),
        Some(Cause::BusLost)
    );
    assert_eq!(bench.setpoints(), [0.5, 0.5]);
    assert!(!bench.device.is_moving());
}

#[test]
fn old_feedback_of_any_joint_is_overdue() {
    let mut bench = Bench::leased(SafeAction::Hold);
    let mut feedback = bench.feedback_at([0.3, -0.3]);
    feedback.joints[0].sampled_ns -= 150_000_000;
    bench.device.observe(bench.tick.time, &feedback);
    assert_eq!(bench.device.overdue(bench.tick.time), None);
    let later = bench.tick.time.plus_ns(60_000_000);
    assert_eq!(bench.device.overdue(later), Some(Cause::FeedbackStale));
}

#[test]
fn a_stop_command_slows_down_and_holds() {
    let mut bench = Bench::leased(SafeAction::Hold);
    bench.send(1, [-0.9, 0.9]);
    bench.run_ticks(20);
    let stop = Command {
        sequence: 2,
        lease_epoch: 7,
        issued_ns: bench.tick.time.0,
        ttl_ns: 1_000_000_000,
        mode: Mode::Stop as u32,
        joint_count: 2,
        ..Command::default()
    };
    let reply = bench.device.command(bench.tick.time, bench.tick, &stop);
    assert_eq!(reply.verdict, Verdict::Accepted as u32);
    // 2 rad/s at 8 rad/s² and 160 rad/s³ takes at most 0.3 s, 75 ticks.
    bench.run_ticks(75);
    assert!(!bench.device.is_moving());
    assert!(bench.setpoints()[0] > -0.9);
}
