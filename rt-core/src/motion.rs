//! The setpoint generator of one joint: from where it is to where it shall be, within the limits.
//!
//! A pure function of state, target, limits and step length; rt-safe, no clock, no memory but the
//! state. It works on the sequence of setpoints itself, because that is all a servo ever sees:
//! velocity is the difference of neighbouring setpoints over the step, acceleration the difference
//! of neighbouring velocities over the step. For this sequence it guarantees, at every step:
//!
//! - speed at most the velocity limit (times the command's scale, once slowed down to it);
//! - change of speed at most the acceleration limit;
//! - with the target inside the position limits and a state this function produced, no setpoint
//!   beyond the limits, even when the target changes every step or [`stop`] is called instead;
//! - it reaches the target exactly, and a joint at rest on its target stays there.
//!
//! It does not limit jerk and does not synchronise joints: each arrives as soon as it can.

use crate::limits::JointLimits;

/// A joint's setpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MotionState {
    /// The newest setpoint, rad.
    pub position_rad: f64,
    /// Its difference to the one before, per second, rad/s.
    pub velocity_rad_s: f64,
}

impl MotionState {
    /// At rest at `position_rad`. rt-safe.
    pub const fn at_rest(position_rad: f64) -> Self {
        Self {
            position_rad,
            velocity_rad_s: 0.0,
        }
    }

    /// Whether the setpoint moves. rt-safe.
    pub fn is_moving(&self) -> bool {
        self.velocity_rad_s != 0.0
    }
}

/// The state one step of `step_s` seconds later on the way to `target_rad`. rt-safe.
///
/// `velocity_scale` in (0, 1] is the fraction of the velocity limit to use.
#[must_use]
pub fn advance(
    state: MotionState,
    target_rad: f64,
    velocity_scale: f64,
    limits: &JointLimits,
    step_s: f64,
) -> MotionState {
    let distance_rad = target_rad - state.position_rad;
    let change_max = limits.acceleration_max_rad_s2 * step_s;
    let allowed = fastest_that_stops_within(distance_rad.abs(), change_max, step_s)
        .min(limits.velocity_max_rad_s * velocity_scale);
    let wanted = allowed.copysign(distance_rad);
    let velocity_rad_s = wanted.clamp(
        state.velocity_rad_s - change_max,
        state.velocity_rad_s + change_max,
    );
    let step_rad = velocity_rad_s * step_s;
    // The last step ends on the target itself instead of a rounding error beside it.
    let arrives = (step_rad - distance_rad).abs() <= f64::EPSILON * 8.0;
    MotionState {
        position_rad: if arrives {
            target_rad
        } else {
            state.position_rad + step_rad
        },
        velocity_rad_s: if velocity_rad_s.abs() < f64::EPSILON {
            0.0
        } else {
            velocity_rad_s
        },
    }
}

/// The state one step later when slowing down to rest as fast as allowed. rt-safe.
#[must_use]
pub fn stop(state: MotionState, limits: &JointLimits, step_s: f64) -> MotionState {
    let change_max = limits.acceleration_max_rad_s2 * step_s;
    let slower = (state.velocity_rad_s.abs() - change_max).max(0.0);
    let velocity_rad_s = if slower == 0.0 {
        0.0
    } else {
        slower.copysign(state.velocity_rad_s)
    };
    MotionState {
        position_rad: state.position_rad + velocity_rad_s * step_s,
        velocity_rad_s,
    }
}

/// The highest speed for the next step from which the joint can still come to rest within
/// `distance_rad`, that step included.
///
/// Going at v now and `change` slower in every later step covers `step * sum(v - k * change)`,
/// which for v between m and m + 1 changes is `step * ((m + 1) v - change * m (m + 1) / 2)`:
/// piecewise linear in v, so it is inverted exactly, piece by piece.
fn fastest_that_stops_within(distance_rad: f64, change: f64, step_s: f64) -> f64 {
    // Distance in units of the shortest braking step.
    let units = distance_rad / (change * step_s);
    let pieces = ((((1.0 + 8.0 * units).sqrt() - 1.0) / 2.0).floor()).max(0.0);
    change * (units + pieces * (pieces + 1.0) / 2.0) / (pieces + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP_S: f64 = 0.004;
    /// Room for rounding in comparisons, rad or rad/s: far below a servo's 1.5 mrad step.
    const ROUNDING: f64 = 1e-9;

    fn limits() -> impl Strategy<Value = JointLimits> {
        (0.1..3.0_f64, 0.05..10.0_f64, 0.1..100.0_f64).prop_map(
            |(range, velocity, acceleration)| JointLimits {
                position_min_rad: -range,
                position_max_rad: range,
                velocity_max_rad_s: velocity,
                acceleration_max_rad_s2: acceleration,
            },
        )
    }

    fn assert_lawful(
        before: MotionState,
        after: MotionState,
        limits: &JointLimits,
    ) -> Result<(), TestCaseError> {
        let step = after.position_rad - before.position_rad;
        prop_assert!(
            (step / STEP_S - after.velocity_rad_s).abs() < 1e-6,
            "velocity is a lie"
        );
        prop_assert!(after.velocity_rad_s.abs() <= limits.velocity_max_rad_s + ROUNDING);
        let change = (after.velocity_rad_s - before.velocity_rad_s).abs();
        prop_assert!(change <= limits.acceleration_max_rad_s2 * STEP_S + ROUNDING);
        prop_assert!(after.position_rad <= limits.position_max_rad + ROUNDING);
        prop_assert!(after.position_rad >= limits.position_min_rad - ROUNDING);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Targets that jump about at any moment, stops in between: no limit is ever exceeded.
        #[test]
        fn no_sequence_of_targets_and_stops_leaves_the_limits(
            limits in limits(),
            start in -1.0..=1.0_f64,
            orders in prop::collection::vec(
                (prop::option::weighted(0.8, -1.0..=1.0_f64), 0.01..=1.0_f64, 1_usize..60), 1..12),
        ) {
            let mut state = MotionState::at_rest(start * limits.position_max_rad);
            for (target, scale, steps) in orders {
                for _ in 0..steps {
                    let next = match target {
                        Some(part) => {
                            let target = part * limits.position_max_rad;
                            advance(state, target, scale, &limits, STEP_S)
                        }
                        None => stop(state, &limits, STEP_S),
                    };
                    assert_lawful(state, next, &limits)?;
                    state = next;
                }
            }
        }

        #[test]
        fn reaches_the_target_and_stays(
            limits in limits(), start in -1.0..=1.0_f64, target in -1.0..=1.0_f64,
        ) {
            let mut state = MotionState::at_rest(start * limits.position_max_rad);
            let target = target * limits.position_max_rad;
            let distance = (target - state.position_rad).abs();
            // Cruise time, plus speeding up and slowing down, plus the steps of rounding up.
            let seconds = distance / limits.velocity_max_rad_s
                + 2.0 * limits.velocity_max_rad_s.min((distance
                    * limits.acceleration_max_rad_s2).sqrt() + 0.01)
                    / limits.acceleration_max_rad_s2
                + 6.0 * STEP_S;
            for _ in 0..(seconds / STEP_S).ceil() as usize {
                state = advance(state, target, 1.0, &limits, STEP_S);
            }
            prop_assert!((state.position_rad - target).abs() < ROUNDING, "{state:?} {target}");
            let settled = advance(state, target, 1.0, &limits, STEP_S);
            let again = advance(settled, target, 1.0, &limits, STEP_S);
            prop_assert!(!again.is_moving() && !settled.is_moving(), "{settled:?} {again:?}");
        }

        #[test]
        fn never_passes_a_target_it_starts_to_at_rest(
            limits in limits(), start in -1.0..=1.0_f64, target in -1.0..=1.0_f64,
        ) {
            let mut state = MotionState::at_rest(start * limits.position_max_rad);
            let target = target * limits.position_max_rad;
            let side = (target - state.position_rad).signum();
            for _ in 0..3000 {
                state = advance(state, target, 1.0, &limits, STEP_S);
                prop_assert!((target - state.position_rad) * side >= -ROUNDING, "{state:?}");
            }
        }

        #[test]
        fn stops_within_velocity_over_acceleration(limits in limits(), part in -1.0..=1.0_f64) {
            let velocity_rad_s = part * limits.velocity_max_rad_s;
            let mut state = MotionState { position_rad: 0.0, velocity_rad_s };
            let steps = (velocity_rad_s.abs() / limits.acceleration_max_rad_s2 / STEP_S).ceil();
            for _ in 0..steps as usize {
                state = stop(state, &limits, STEP_S);
            }
            prop_assert!(!state.is_moving(), "{state:?}");
        }
    }

    #[test]
    fn a_start_beyond_the_limits_comes_back_inside() {
        let limits = JointLimits {
            position_min_rad: -1.0,
            position_max_rad: 1.0,
            velocity_max_rad_s: 2.0,
            acceleration_max_rad_s2: 8.0,
        };
        let mut state = MotionState::at_rest(1.2);
        for _ in 0..500 {
            let next = advance(state, 1.0, 1.0, &limits, STEP_S);
            assert!(next.position_rad <= state.position_rad);
            state = next;
        }
        assert_eq!(state, MotionState::at_rest(1.0));
    }
}
