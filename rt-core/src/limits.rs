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
    /// Highest change of acceleration, rad/s³.
    pub jerk_max_rad_s3: f64,
}

impl From<&JointConfig> for JointLimits {
    fn from(joint: &JointConfig) -> Self {
        Self {
            position_min_rad: joint.position_min_rad,
            position_max_rad: joint.position_max_rad,
            velocity_max_rad_s: joint.velocity_max_rad_s,
            acceleration_max_rad_s2: joint.acceleration_max_rad_s2,
            jerk_max_rad_s3: joint.jerk_max_rad_s3,
        }
    }
}
