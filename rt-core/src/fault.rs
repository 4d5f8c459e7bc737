//! Finds a device that does not do what it is told: joints that do not follow, servos that report
//! faults, torque that is lost again and again.
//!
//! Pure and rt-safe: feedback and setpoints go in, the first [`Fault`] comes out; bounded by the
//! number of joints. A fault is latched by its device until it is reset, because a servo that
//! trips and is switched on again by itself trips again, at the place where something is in the
//! way. Time is counted in sample times: a bus that is silent for a while trips nothing here.

use kairo_hal::feetech::StatusError;
use kairo_link::MonoNs;
use kairo_link::abi::{Cause, MAX_JOINTS};

use crate::config::JointConfig;
use crate::exchange::JointFeedback;

/// Samples in a row that must report a fault: a damaged packet can look right once.
const FAULTY_SAMPLES: u8 = 3;
/// Torque lost twice within this time is a fault; once may have been the supply, ns: 10 minutes.
const TORQUE_LOSS_WINDOW_NS: u64 = 600_000_000_000;
/// Faults by which a servo protects itself. Not the supply voltage, which many healthy arms leave
/// the servo's own limits with, and not the angle limits, which kairo-rt does not use.
pub const SERVO_FAULTS: u32 = (StatusError::SENSOR.bits()
    | StatusError::OVERHEAT.bits()
    | StatusError::OVERCURRENT.bits()
    | StatusError::OVERLOAD.bits()) as u32;

/// Why a device is latched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// [`Cause::FollowingError`], [`Cause::ServoFault`] or [`Cause::TorqueLost`].
    pub cause: Cause,
    /// The joint it was found on.
    pub joint: usize,
    /// What tripped it; see [`Cause`] for the unit.
    pub value: f64,
    /// What it may be at most.
    pub limit: f64,
    /// When it was found.
    pub since: MonoNs,
}

/// How far and how long a joint may be away from its setpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FollowingLimit {
    /// Distance, rad.
    pub error_max_rad: f64,
    /// Time, ns.
    pub time_ns: u64,
}

impl From<&JointConfig> for FollowingLimit {
    fn from(joint: &JointConfig) -> Self {
        Self {
            error_max_rad: joint.following_error_max_rad,
            time_ns: joint.following_error_time_ms * 1_000_000,
        }
    }
}

/// What is remembered of one joint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct JointWatch {
    newest_sample_ns: u64,
    /// The first sample in a row that was too far away; zero when the newest was not.
    away_since_ns: u64,
    faulty_samples: u8,
}

/// The watch over one device. See the module documentation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watch {
    joints: [JointWatch; MAX_JOINTS],
    torque_losses: u64,
    newest_loss: Option<MonoNs>,
}

impl Watch {
    /// Takes a sample of `joint` in, which shall be at `setpoint_rad` if it is under `torque`.
    /// rt-safe.
    pub fn sample(
        &mut self,
        joint: usize,
        sample: &JointFeedback,
        setpoint_rad: Option<f64>,
        limit: &FollowingLimit,
    ) -> Option<Fault> {
        let watch = &mut self.joints[joint];
        if sample.sampled_ns == watch.newest_sample_ns {
            return None;
        }
        watch.newest_sample_ns = sample.sampled_ns;
        let error_rad = setpoint_rad.map_or(0.0, |setpoint| sample.position_rad - setpoint);
        let away = error_rad.abs() > limit.error_max_rad;
        watch.away_since_ns = match (away, watch.away_since_ns) {
            (false, _) => 0,
            (true, 0) => sample.sampled_ns,
            (true, since) => since,
        };
        let faults = sample.status_bits & SERVO_FAULTS;
        watch.faulty_samples = match faults {
            0 => 0,
            _ => watch.faulty_samples.saturating_add(1),
        };
        let since = MonoNs(sample.sampled_ns);
        let fault = |cause, value, limit| Fault {
            cause,
            joint,
            value,
            limit,
            since,
        };
        if watch.faulty_samples >= FAULTY_SAMPLES {
            return Some(fault(Cause::ServoFault, f64::from(faults), 0.0));
        }
        (away && since.since_ns(MonoNs(watch.away_since_ns)) >= limit.time_ns)
            .then(|| fault(Cause::FollowingError, error_rad, limit.error_max_rad))
    }

    /// Takes in how often the bus found a servo of this device limp against its orders, ever, and
    /// which joint it was. rt-safe.
    pub fn torque_losses(&mut self, now: MonoNs, losses: u64, joint: usize) -> Option<Fault> {
        if losses == self.torque_losses {
            return None;
        }
        self.torque_losses = losses;
        let before = self.newest_loss.replace(now)?;
        (now.since_ns(before) <= TORQUE_LOSS_WINDOW_NS).then_some(Fault {
            cause: Cause::TorqueLost,
            joint,
            value: 2.0,
            limit: 1.0,
            since: now,
        })
    }

    /// Forgets what led to a fault. rt-safe.
    pub fn reset(&mut self) {
        *self = Self {
            torque_losses: self.torque_losses,
            ..Self::default()
        };
    }
}

/// The value of a word that says there is none.
impl Default for Fault {
    fn default() -> Self {
        Self {
            cause: Cause::None,
            joint: 0,
            value: 0.0,
            limit: 0.0,
            since: MonoNs(0),
        }
    }
}

kairo_record::recorded!(Fault {
    cause: Cause,
    joint: usize,
    value: f64,
    limit: f64,
    since: MonoNs,
} fixed {});
kairo_record::recorded!(JointWatch {
    newest_sample_ns: u64,
    away_since_ns: u64,
    faulty_samples: u8,
} fixed {});
kairo_record::recorded!(Watch {
    joints: [JointWatch; MAX_JOINTS],
    torque_losses: u64,
    newest_loss: Option<MonoNs>,
} fixed {});

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: FollowingLimit = FollowingLimit {
        error_max_rad: 0.3,
        time_ns: 100,
    };

    fn sample(sampled_ns: u64, position_rad: f64, status: StatusError) -> JointFeedback {
        JointFeedback {
            sampled_ns,
            position_rad,
            status_bits: u32::from(status.bits()),
            ..JointFeedback::default()
        }
    }

    #[test]
    fn a_joint_that_stays_away_trips_by_sample_time_and_one_that_comes_back_does_not() {
        let mut watch = Watch::default();
        let mut look = |at, position| {
            watch.sample(
                0,
                &sample(at, position, StatusError::NONE),
                Some(0.0),
                &LIMIT,
            )
        };
        assert_eq!(look(1000, 0.4), None);
        assert_eq!(look(1099, -0.5), None);
        assert_eq!(look(1099, 9.9), None, "the same sample again");
        assert_eq!(look(1100, 0.3), None, "as far as allowed");
        assert_eq!(look(1200, 0.4), None);
        let fault = look(1300, 0.5).expect("away for long enough");
        assert_eq!(
            (fault.cause, fault.joint, fault.value, fault.limit),
            (Cause::FollowingError, 0, 0.5, 0.3)
        );
    }

    #[test]
    fn a_joint_without_torque_follows_nothing() {
        let mut watch = Watch::default();
        for at in 1..1000 {
            let sample = sample(at * 1000, 2.0, StatusError::NONE);
            assert_eq!(watch.sample(0, &sample, None, &LIMIT), None);
        }
    }

    #[test]
    fn a_servo_fault_counts_when_it_was_seen_three_times_in_a_row() {
        let mut watch = Watch::default();
        let overload = StatusError::OVERLOAD.union(StatusError::VOLTAGE);
        let mut look = |at, status| watch.sample(1, &sample(at, 0.0, status), Some(0.0), &LIMIT);
        for at in 1..100 {
            assert_eq!(
                look(at, StatusError::VOLTAGE),
                None,
                "a weak supply is no fault"
            );
        }
        assert_eq!(look(200, overload), None);
        assert_eq!(look(201, overload), None);
        assert_eq!(look(202, StatusError::NONE), None);
        assert_eq!(look(203, overload), None);
        assert_eq!(look(204, overload), None);
        let fault = look(205, overload).expect("three in a row");
        assert_eq!(
            (fault.cause, fault.joint, fault.value),
            (
                Cause::ServoFault,
                1,
                f64::from(StatusError::OVERLOAD.bits())
            )
        );
    }

    #[test]
    fn torque_lost_once_is_the_supply_and_twice_a_fault() {
        let mut watch = Watch::default();
        let second = 1_000_000_000;
        assert_eq!(watch.torque_losses(MonoNs(second), 0, 0), None);
        assert_eq!(watch.torque_losses(MonoNs(second), 1, 0), None);
        assert_eq!(watch.torque_losses(MonoNs(2 * second), 1, 0), None);
        let later = MonoNs(second + TORQUE_LOSS_WINDOW_NS + 1);
        assert_eq!(watch.torque_losses(later, 2, 0), None, "long ago");
        let fault = watch.torque_losses(later.plus_ns(second), 3, 2);
        assert_eq!(
            fault.map(|fault| (fault.cause, fault.joint)),
            Some((Cause::TorqueLost, 2))
        );
        watch.reset();
        assert_eq!(watch.torque_losses(later.plus_ns(2 * second), 4, 2), None);
    }
}
