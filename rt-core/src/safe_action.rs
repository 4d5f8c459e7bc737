//! What a device does when nobody commands it any more: the declared safe action, as a pure
//! machine.
//!
//! rt-safe, `Copy`, no clock: the time and what is known of the device go in, what to do this tick
//! comes out. It decides and never moves anything; setpoints are moved by `motion`, whose limits
//! hold for a safe action as for a command.
//!
//! A declared action fits what the actuators take ([`SafeAction::suits`]), which the
//! configuration checks. For some causes it is narrowed to holding ([`SafeAction::because_of`]):
//! an arm that has met something must not be ramped through it.

use kairo_link::MonoNs;
use kairo_link::abi::Cause;

/// What a device's actuators take, which decides what it can do to be safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actuation {
    /// Positions: servos that hold a place.
    Position,
    /// Velocities or efforts: motors that zero brings to rest.
    Motor,
    /// Thrust: rotors whose zero is a fall.
    Thrust,
}

/// How a flying device comes down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Landing {
    /// Rate of descent, attitude held level, m/s.
    pub descend_m_s: f64,
    /// The longest descent; then the motors stop, wherever it is.
    pub time_max_ms: u64,
}

/// What a device does when nobody commands it any more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SafeAction {
    /// Slow down within the limits and hold that position under torque.
    Hold,
    /// Move to the rest pose at the declared speed, within the limits, and hold it.
    Ramp,
    /// Slow down within the limits, then switch the torque off.
    TorqueOff,
    /// Command zero velocity or effort.
    Idle,
    /// Hold the attitude, descend, then stop the motors.
    Land(Landing),
}

impl SafeAction {
    /// As spelled in the configuration and on the link.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Ramp => "ramp",
            Self::TorqueOff => "torque-off",
            Self::Idle => "idle",
            Self::Land(_) => "land",
        }
    }

    /// Whether a device of such actuators can do it; otherwise why not, and what to write.
    ///
    /// # Errors
    /// The reason and the remedy.
    pub const fn suits(self, actuation: Actuation) -> Result<(), (&'static str, &'static str)> {
        use Actuation::{Motor, Position, Thrust};
        match (self, actuation) {
            (Self::Hold | Self::Ramp | Self::TorqueOff, Position)
            | (Self::Idle, Motor)
            | (Self::Land(_), Thrust) => Ok(()),
            (Self::Land(_), Position) => Err((
                "a servo arm has no thrust to land with",
                "write \"hold\", \"ramp\" or \"torque-off\"",
            )),
            (Self::Idle, Position) => Err((
                "a position servo has no idle command; without torque it lets go",
                "write \"hold\", \"ramp\" or \"torque-off\"",
            )),
            (_, Motor) => Err((
                "cannot be done by motors without position",
                "write \"idle\"",
            )),
            (_, Thrust) => Err((
                "a flying device that stops its motors or keeps its thrust is not safe",
                "write \"land\"",
            )),
        }
    }

    /// The action for a cause: `ramp` becomes `hold` where moving on would be wrong or too slow,
    /// which is after a fault of the device itself, without news of where it is, in an emergency
    /// stop, and at shutdown.
    #[must_use]
    pub const fn because_of(self, cause: Cause) -> Self {
        match (self, cause) {
            (
                Self::Ramp,
                Cause::FollowingError
                | Cause::ServoFault
                | Cause::TorqueLost
                | Cause::FeedbackStale
                | Cause::EmergencyStop
                | Cause::ShuttingDown,
            ) => Self::Hold,
            (action, _) => action,
        }
    }
}

/// What is known of the device in the tick that asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// Whether every setpoint rests.
    pub at_rest: bool,
    /// Whether it stands on the ground, for a device that can tell.
    pub landed: bool,
}

/// What to do this tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SafeStep {
    /// Slow down, and hold the place where that ends.
    SlowDown,
    /// Move towards the rest pose at the declared speed, and hold it.
    ToRest,
    /// Switch the torque off.
    LetGo,
    /// Command zero velocity or effort.
    Zero,
    /// Keep the attitude level and descend at this rate, m/s.
    Descend(f64),
    /// Stop the motors.
    MotorsOff,
}

/// One safe action on its way. See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SafeSequence {
    action: SafeAction,
    began: MonoNs,
    finished: bool,
}

impl SafeSequence {
    /// `action` begins at `now`. rt-safe.
    pub const fn begin(action: SafeAction, now: MonoNs) -> Self {
        Self {
            action,
            began: now,
            finished: false,
        }
    }

    /// The action. rt-safe.
    pub const fn action(&self) -> SafeAction {
        self.action
    }

    /// What to do at `now`. What was let go or switched off stays so. rt-safe.
    pub fn step(&mut self, now: MonoNs, situation: Situation) -> SafeStep {
        match self.action {
            SafeAction::Hold => SafeStep::SlowDown,
            SafeAction::Ramp => SafeStep::ToRest,
            SafeAction::Idle => SafeStep::Zero,
            SafeAction::TorqueOff => {
                self.finished |= situation.at_rest;
                match self.finished {
                    true => SafeStep::LetGo,
                    false => SafeStep::SlowDown,
                }
            }
            SafeAction::Land(landing) => {
                let overdue = now.since_ns(self.began) / 1_000_000 >= landing.time_max_ms;
                self.finished |= situation.landed || overdue;
                match self.finished {
                    true => SafeStep::MotorsOff,
                    false => SafeStep::Descend(landing.descend_m_s),
                }
            }
        }
    }
}

kairo_record::recorded!(SafeSequence {
    action: SafeAction,
    began: MonoNs,
    finished: bool,
} fixed {});

#[cfg(test)]
mod tests {
    use super::*;

    const LANDING: Landing = Landing {
        descend_m_s: 0.5,
        time_max_ms: 20_000,
    };
    const ACTIONS: [SafeAction; 5] = [
        SafeAction::Hold,
        SafeAction::Ramp,
        SafeAction::TorqueOff,
        SafeAction::Idle,
        SafeAction::Land(LANDING),
    ];

    fn at(milliseconds: u64) -> MonoNs {
        MonoNs(5_000_000_000 + milliseconds * 1_000_000)
    }

    #[test]
    fn lands_by_descending_until_the_ground_or_the_time_and_never_starts_the_motors_again() {
        let flying = Situation::default();
        let landed = Situation {
            landed: true,
            ..flying
        };
        let mut landing = SafeSequence::begin(SafeAction::Land(LANDING), at(0));
        for time in 0..8_000 {
            assert_eq!(landing.step(at(time), flying), SafeStep::Descend(0.5));
        }
        assert_eq!(landing.step(at(8_000), landed), SafeStep::MotorsOff);
        // A bounce, or a sensor that changes its mind.
        assert_eq!(landing.step(at(8_001), flying), SafeStep::MotorsOff);

        let mut blind = SafeSequence::begin(SafeAction::Land(LANDING), at(0));
        assert_eq!(blind.step(at(19_999), flying), SafeStep::Descend(0.5));
        assert_eq!(blind.step(at(20_000), flying), SafeStep::MotorsOff);
        // Time that goes back, which CLOCK_MONOTONIC does not, changes nothing.
        assert_eq!(blind.step(at(0), flying), SafeStep::MotorsOff);
    }

    #[test]
    fn lets_go_only_at_rest_and_for_good() {
        let mut sequence = SafeSequence::begin(SafeAction::TorqueOff, at(0));
        let rest = Situation {
            at_rest: true,
            landed: false,
        };
        assert_eq!(
            sequence.step(at(1), Situation::default()),
            SafeStep::SlowDown
        );
        assert_eq!(sequence.step(at(2), rest), SafeStep::LetGo);
        assert_eq!(sequence.step(at(3), Situation::default()), SafeStep::LetGo);
    }

    #[test]
    fn every_action_suits_one_kind_of_actuator_and_is_refused_by_the_others_with_a_remedy() {
        let all = [Actuation::Position, Actuation::Motor, Actuation::Thrust];
        for action in ACTIONS {
            let fitting = all.iter().filter(|one| action.suits(**one).is_ok());
            assert_eq!(fitting.count(), 1, "{action:?}");
            for (why, fix) in all.iter().filter_map(|one| action.suits(*one).err()) {
                assert!(
                    !why.is_empty() && fix.starts_with("write \""),
                    "{why}; {fix}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_ramped_through_an_obstacle_or_in_an_emergency() {
        for cause in (0..).map_while(Cause::from_u32) {
            let narrowed = SafeAction::Ramp.because_of(cause) == SafeAction::Hold;
            let expected = matches!(
                cause,
                Cause::FollowingError
                    | Cause::ServoFault
                    | Cause::TorqueLost
                    | Cause::FeedbackStale
                    | Cause::EmergencyStop
                    | Cause::ShuttingDown
            );
            assert_eq!(narrowed, expected, "{cause}");
            for action in ACTIONS {
                assert!(action == SafeAction::Ramp || action.because_of(cause) == action);
            }
        }
    }
}
