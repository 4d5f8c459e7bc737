//! A joint's angle in terms of its servo's encoder. rt-safe, pure.

use kairo_hal::feetech::registers::{RADIANS_PER_STEP, STEPS_PER_TURN};

use crate::config::JointConfig;

/// How a joint's angle and its servo's steps belong together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServoMap {
    zero_steps: f64,
    direction: f64,
}

impl ServoMap {
    /// The step nearest to `angle_rad`, at most the ends of the servo's one turn. rt-safe.
    pub fn steps(&self, angle_rad: f64) -> i32 {
        let steps = self.zero_steps + self.direction * angle_rad / RADIANS_PER_STEP;
        // `as` saturates, and turns NaN, which no caller has, into the servo's step 0.
        (steps.round() as i32).clamp(0, STEPS_PER_TURN - 1)
    }

    /// The angle at `steps`, rad. rt-safe.
    pub fn angle_rad(&self, steps: i32) -> f64 {
        (f64::from(steps) - self.zero_steps) * self.direction * RADIANS_PER_STEP
    }

    /// The sign of angles, velocities and loads relative to the servo's. rt-safe.
    pub fn direction(&self) -> f64 {
        self.direction
    }
}

impl From<&JointConfig> for ServoMap {
    fn from(joint: &JointConfig) -> Self {
        Self {
            zero_steps: f64::from(joint.zero_steps),
            direction: f64::from(joint.direction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_angles_are_inverse_in_either_direction() {
        for direction in [1.0, -1.0] {
            let map = ServoMap {
                zero_steps: 2000.0,
                direction,
            };
            assert_eq!(map.angle_rad(2000), 0.0);
            for steps in 0..STEPS_PER_TURN {
                assert_eq!(map.steps(map.angle_rad(steps)), steps);
            }
        }
        let mirrored = ServoMap {
            zero_steps: 2048.0,
            direction: -1.0,
        };
        assert!(mirrored.angle_rad(2100) < 0.0);
    }

    #[test]
    fn an_angle_beyond_the_turn_is_its_end() {
        let map = ServoMap {
            zero_steps: 2048.0,
            direction: 1.0,
        };
        assert_eq!((map.steps(100.0), map.steps(-100.0)), (4095, 0));
    }
}
