//! The limits of one joint, as the loop uses them. rt-safe, `Copy`, no behaviour of its own.

use crate::config::JointConfig;

/// What a joint may do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JointLimits {
    /// Lowest position, rad.
    pub position_min_rad: f64,
    /// Highest position, rad.
    pub position_max_rad: f64,
    /// Highest speed, rad/s.
    pub velocity_max_rad_s: f64,
    /// Highest acceleration and deceleration, rad/s².
    pub acceleration_max_rad_s2: f64,
}

impl JointLimits {
    /// The position nearest to `position_rad` that may be commanded. rt-safe.
    pub fn nearest_allowed(&self, position_rad: f64) -> f64 {
        position_rad.clamp(self.position_min_rad, self.position_max_rad)
    }

    /// Whether `position_rad` may be commanded. False for NaN. rt-safe.
    pub fn allows(&self, position_rad: f64) -> bool {
        (self.position_min_rad..=self.position_max_rad).contains(&position_rad)
    }
}

impl From<&JointConfig> for JointLimits {
    fn from(joint: &JointConfig) -> Self {
        Self {
            position_min_rad: joint.position_min_rad,
            position_max_rad: joint.position_max_rad,
            velocity_max_rad_s: joint.velocity_max_rad_s,
            acceleration_max_rad_s2: joint.acceleration_max_rad_s2,
        }
    }
}
