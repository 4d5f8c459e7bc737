//! The guard with its device, without a loop: what a decision does to setpoints and to others.

use super::*;
use crate::device::tests::{PERIOD_NS, config};
use crate::exchange::{Feedback, Goals, JointFeedback};
use crate::safe_action::SafeAction;
use kairo_failsafe::{Action, CauseSet, Rule, Takeover};
use kairo_link::abi::{MAX_JOINTS, Verdict};

const START_RAD: [f64; 2] = [0.3, -0.3];
const EPOCH: u64 = 7;
const TEMPERATURE_MAX_C: f64 = 80.0;

struct Robot {
    guard: Guard,
    device: Device,
    tick: Tick,
}

impl Robot {
    /// An arm that rests and may move, with a lease. It ramps when it is made safe.
    fn leased(rules: Rules) -> Self {
        Self::declared(SafeAction::Ramp, rules)
    }

    /// An arm with a lease that declares this safe action.
    fn declared(safe_action: SafeAction, rules: Rules) -> Self {
        let mut robot = Self {
            guard: Guard::new(&FailsafeConfig {
                rules,
                temperature_max_c: TEMPERATURE_MAX_C,
            }),
            device: Device::new(&config(safe_action), PERIOD_NS),
            tick: Tick {
                number: 1,
                time: MonoNs(1_000_000_000),
            },
        };
        robot.device.decide(robot.tick.time, true);
        robot.guard.begin(robot.tick.time, false);
        robot.run(Flags::default());
        robot.run(Flags::default());
        robot.device.open_lease(EPOCH);
        robot.guard.lease_opened();
        robot
    }

    fn setpoints(&self) -> [f64; 2] {
        [self.device.setpoint_rad(0), self.device.setpoint_rad(1)]
    }

    fn measure(&mut self) {
        let position = match self.device.is_present() {
            true => self.setpoints(),
            false => START_RAD,
        };
        let mut feedback = Feedback {
            generation: 1,
            bus_up: 1,
            ..Feedback::default()
        };
        for (joint, position_rad) in feedback.joints.iter_mut().zip(position) {
            *joint = JointFeedback {
                position_rad,
                sampled_ns: self.tick.time.0,
                ..JointFeedback::default()
            };
        }
        assert_eq!(self.device.observe(self.tick.time, &feedback), None);
    }

    /// A tick, as the seat does it.
    fn run(&mut self, flags: Flags) -> Decision {
        self.run_with(flags, |_| {})
    }

    /// A tick in which something happens after the decision.
    fn run_with(&mut self, flags: Flags, happens: impl FnOnce(&mut Self)) -> Decision {
        self.tick.number += 1;
        self.tick.time = self.tick.time.plus_ns(PERIOD_NS);
        self.device.begin(self.tick);
        self.measure();
        let decision = self.guard.step(self.tick, flags, &self.device);
        let now = self.tick.time;
        match self.guard.tell(&decision) {
            Some(Order::Restrain(restraint)) => self.device.restrain(now, restraint),
            Some(Order::Release) => self.device.release(now),
            None => {}
        }
        happens(self);
        self.device.step();
        decision
    }

    fn is_held(&self) -> bool {
        self.device.goals().torque == Goals::ON
    }

    fn run_ticks(&mut self, ticks: usize, flags: Flags) {
        for _ in 0..ticks {
            self.run(flags);
        }
    }

    fn command(&mut self, sequence: u64) -> u32 {
        self.order(sequence, Mode::Position)
    }

    fn order(&mut self, sequence: u64, mode: Mode) -> u32 {
        let mut target = [0.0; MAX_JOINTS];
        target[..2].copy_from_slice(&[-0.9, 0.9]);
        let command = Command {
            lease_epoch: EPOCH,
            sequence,
            issued_ns: self.tick.time.0,
            ttl_ns: 900_000_000,
            mode: mode as u32,
            joint_count: 2,
            target,
            velocity_scale: 1.0,
            ..Command::default()
        };
        let reply = self.device.command(self.tick.time, self.tick, &command);
        if reply.verdict == Verdict::Accepted as u32 {
            self.guard.commanded(&command);
        }
        reply.verdict
    }

    fn end_lease(&mut self, cause: Cause) {
        self.device.end_lease(self.tick.time, cause);
        self.guard.ended(cause);
    }
}

fn with(cause: failsafe::Cause) -> Flags {
    Flags {
        conditions: CauseSet::EMPTY.with(cause, true),
        ..Flags::default()
    }
}

#[test]
fn a_cleared_estop_does_not_go_on_with_the_ramp_it_stopped() {
    for cause in [Cause::Released, Cause::AgentPlaneGone] {
        let mut robot = Robot::leased(Rules::default());
        robot.end_lease(cause);
        robot.run_ticks(10, Flags::default());
        assert!(robot.device.is_moving(), "{cause:?}: it ramps");
        robot.run_ticks(200, with(failsafe::Cause::Estop));
        assert!(!robot.device.is_moving());
        let held = robot.setpoints();
        let reset = Flags {
            reset: true,
            ..Flags::default()
        };
        let decision = robot.run(reset);
        assert!(decision.live.is_empty(), "{decision:?}");
        robot.run_ticks(200, Flags::default());
        assert_eq!(robot.setpoints(), held, "{cause:?}: a clear moves nothing");
    }
}

#[test]
fn a_ring_that_breaks_after_a_good_command_is_made_safe_all_the_same() {
    let mut robot = Robot::leased(Rules::default());
    robot.end_lease(Cause::Released);
    robot.run(Flags::default());
    robot.device.open_lease(EPOCH);
    robot.run(Flags::default());
    assert_eq!(robot.command(1), Verdict::Accepted as u32);
    robot.end_lease(Cause::RingCorrupt);
    let decision = robot.run(Flags::default());
    assert!(decision.action.stops_motion() && !decision.takeover_granted);
    assert!(decision.stopping.has(failsafe::Cause::LeaseLost));
}

#[test]
fn a_reset_without_a_fault_ends_no_safe_action() {
    let mut robot = Robot::leased(Rules::default());
    robot.guard.ended(Cause::CommandExpired);
    assert!(robot.run(Flags::default()).action.stops_motion());
    assert_eq!(robot.order(1, Mode::Reset), Verdict::Accepted as u32);
    assert!(robot.run(Flags::default()).action.stops_motion());
    assert_eq!(robot.command(2), Verdict::Accepted as u32);
    assert!(!robot.run(Flags::default()).action.stops_motion());
}

#[test]
fn a_cause_anybody_may_take_over_from_still_stops_the_command_before_it() {
    let mut rules = Rules::default();
    let low = failsafe::Cause::LowBattery;
    let rule = Rule {
        takeover: Takeover::Always,
        ..*rules.of(low)
    };
    rules.set(low, rule).unwrap();
    let mut robot = Robot::leased(rules);
    assert_eq!(robot.command(1), Verdict::Accepted as u32);
    robot.run_ticks(5, Flags::default());
    assert!(robot.device.is_following());
    assert_eq!(robot.run(with(low)).action, Action::Hold);
    assert!(!robot.device.is_following(), "the command goes on");
    assert_eq!(robot.command(2), Verdict::Accepted as u32);
    assert_eq!(robot.run(with(low)).action, Action::Warn);
    assert!(robot.device.is_following(), "the next one is a takeover");
}

#[test]
fn a_device_that_stops_for_another_and_only_warns_itself_is_not_in_trouble() {
    let (low, linked) = (failsafe::Cause::LowBattery, failsafe::Cause::DeviceLink);
    let mut rules = Rules::default();
    for (cause, action) in [(low, Action::Warn), (linked, Action::Hold)] {
        let rule = Rule {
            action,
            hold_first_ms: 0,
            ..*rules.of(cause)
        };
        rules.set(cause, rule).unwrap();
    }
    let mut robot = Robot::leased(rules);
    let mut flags = with(low);
    flags.conditions = flags.conditions.with(linked, true);
    assert_eq!(robot.run(flags).action, Action::Hold);
    assert!(!robot.guard.is_in_trouble());
    robot.run(with(failsafe::Cause::OperatorRequest));
    assert!(robot.guard.is_in_trouble());
}

/// Something that ends the command in force.
type End = fn(&mut Robot);

/// What can end a command after the tick's decision, with the cause it is known by.
fn ends_late() -> [(failsafe::Cause, End); 3] {
    [
        (failsafe::Cause::CommandExpired, |robot| {
            let over = robot.tick.time.plus_ns(1_000_000_000);
            let tick = Tick {
                time: over,
                ..robot.tick
            };
            assert!(robot.device.expire(tick).is_some());
            robot.guard.ended(Cause::CommandExpired);
        }),
        (failsafe::Cause::LeaseLost, |robot| {
            robot.end_lease(Cause::RingCorrupt);
        }),
        (failsafe::Cause::PluginFault, |robot| {
            robot.end_lease(Cause::BlockFault);
            robot
                .device
                .take_safe_action(robot.tick.time, Cause::BlockFault);
        }),
    ]
}

/// An arm that lets go when nobody commands it, at rest under torque with a command in force.
fn following_and_letting_go(rules: Rules) -> Robot {
    let mut robot = Robot::declared(SafeAction::TorqueOff, rules);
    assert_eq!(robot.order(1, Mode::Stop), Verdict::Accepted as u32);
    robot.run(Flags::default());
    assert!(robot.is_held() && !robot.device.is_moving());
    robot
}

/// What the loop flags in the ticks after an end of this cause.
fn flags_after(cause: failsafe::Cause) -> Flags {
    match cause {
        failsafe::Cause::PluginFault => with(cause),
        _ => Flags::default(),
    }
}

#[test]
fn an_end_after_the_decision_holds_until_the_machine_has_its_say() {
    for (cause, end) in ends_late() {
        let mut robot = following_and_letting_go(Rules::default());
        robot.run_with(Flags::default(), end);
        assert!(
            robot.is_held(),
            "{cause}: dropped before the machine was asked"
        );
        assert_eq!(robot.device.phase(), Phase::Safe, "{cause}: safe at once");
        let decision = robot.run(flags_after(cause));
        assert_eq!(decision.action, Action::SafeAction, "{cause}");
        assert!(!robot.is_held(), "{cause}: lets go as declared");
    }
}

#[test]
fn an_end_after_the_decision_keeps_the_hold_that_comes_first() {
    for (cause, end) in ends_late() {
        let mut rules = Rules::default();
        let rule = Rule {
            hold_first_ms: 2_000,
            ..*rules.of(cause)
        };
        rules.set(cause, rule).unwrap();
        let mut robot = following_and_letting_go(rules);
        robot.run_with(Flags::default(), end);
        // The cause is live from the next tick on.
        for ticks in 0..2_000 * 1_000_000 / PERIOD_NS {
            robot.run(flags_after(cause));
            assert!(robot.is_held(), "{cause}: dropped after {ticks} ticks");
        }
        robot.run(flags_after(cause));
        assert!(!robot.is_held(), "{cause}: its delay is over");
    }
}

#[test]
fn an_end_after_the_decision_is_held_for_good_under_a_milder_rule() {
    for action in [Action::None, Action::Warn, Action::Hold] {
        for (cause, end) in ends_late() {
            let mut rules = Rules::default();
            let rule = Rule {
                action,
                ..*rules.of(cause)
            };
            rules.set(cause, rule).unwrap();
            let mut robot = following_and_letting_go(rules);
            robot.run_with(Flags::default(), end);
            robot.run_ticks(200, flags_after(cause));
            assert!(robot.is_held(), "{cause} {action}: dropped all the same");
        }
    }
}

/// Rules under which `cause` demands `action` at once, whatever the holder commands.
fn demanding(cause: failsafe::Cause, action: Action) -> Rules {
    let mut rules = Rules::default();
    let rule = Rule {
        action,
        hold_first_ms: 0,
        takeover: Takeover::Never,
        ..*rules.of(cause)
    };
    rules.set(cause, rule).unwrap();
    rules
}

#[test]
fn a_cause_that_outlives_an_estop_moves_nothing_before_the_next_lease() {
    let low = failsafe::Cause::LowBattery;
    for action in [Action::SafeAction, Action::RampToRest] {
        let mut robot = Robot::leased(demanding(low, action));
        assert_eq!(robot.command(1), Verdict::Accepted as u32);
        robot.run_ticks(20, Flags::default());
        let mut both = with(failsafe::Cause::Estop);
        both.conditions = both.conditions.with(low, true);
        robot.run_ticks(200, both);
        assert!(
            !robot.device.is_moving(),
            "{action}: it ramps under an e-stop"
        );
        let held = robot.setpoints();
        let cleared = Flags {
            reset: true,
            ..with(low)
        };
        robot.end_lease(Cause::EmergencyStop);
        robot.run(cleared);
        robot.run_ticks(200, with(low));
        assert_eq!(robot.setpoints(), held, "{action}: a clear began a ramp");
        robot.device.open_lease(EPOCH);
        robot.guard.lease_opened();
        robot.run_ticks(20, with(low));
        assert_ne!(
            robot.setpoints(),
            held,
            "{action}: a new lease is led to rest"
        );
    }
}

#[test]
fn an_agent_that_went_before_the_estop_moves_nothing_after_it() {
    let gone = failsafe::Cause::AgentGone;
    let mut rules = Rules::default();
    let rule = Rule {
        clear: Clear::OnModeChange,
        ..*rules.of(gone)
    };
    rules.set(gone, rule).unwrap();
    let mut robot = Robot::leased(rules);
    robot.end_lease(Cause::AgentPlaneGone);
    robot.run_ticks(10, Flags::default());
    assert!(robot.device.is_moving(), "it ramps");
    robot.run_ticks(200, with(failsafe::Cause::Estop));
    let held = robot.setpoints();
    let reset = Flags {
        reset: true,
        ..Flags::default()
    };
    let decision = robot.run(reset);
    assert!(decision.live.has(gone), "latched until the next lease");
    robot.run_ticks(200, Flags::default());
    assert_eq!(robot.setpoints(), held, "a clear began a ramp");
}

#[test]
fn a_milder_estop_than_what_else_is_live_lets_nothing_ramp() {
    let low = failsafe::Cause::LowBattery;
    let mut rules = demanding(low, Action::RampToRest);
    let hold = Rule {
        action: Action::Hold,
        ..*rules.of(failsafe::Cause::Estop)
    };
    rules.set(failsafe::Cause::Estop, hold).unwrap();
    let mut robot = Robot::leased(rules);
    let held = robot.setpoints();
    let mut both = with(failsafe::Cause::Estop);
    both.conditions = both.conditions.with(low, true);
    robot.run_ticks(200, both);
    assert_eq!(robot.setpoints(), held);
}

#[test]
fn a_reset_of_a_fault_ramps_nothing_through_what_it_met() {
    let low = failsafe::Cause::LowBattery;
    let mut robot = Robot::leased(demanding(low, Action::RampToRest));
    robot.run_ticks(3, with(failsafe::Cause::ServoFault));
    robot.device.open_lease(EPOCH);
    robot.guard.lease_opened();
    robot.run_ticks(3, with(failsafe::Cause::ServoFault));
    let held = robot.setpoints();
    robot.run_ticks(200, with(low));
    assert_eq!(robot.setpoints(), held);
}
