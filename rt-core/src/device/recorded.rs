//! What of a device a keyframe keeps: every field, changing or fixed. See `recording`.

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, MAX_JOINTS, Mode, Phase};
use kairo_record::recorded;

use super::{Device, InForce};
use crate::exchange::Feedback;
use crate::motion::MotionState;
use crate::steady::Steadiness;

/// The value of a word that says there is none.
impl Default for InForce {
    fn default() -> Self {
        Self {
            sequence: 0,
            expires: MonoNs(0),
            mode: Mode::Stop,
            velocity_scale: 0.0,
        }
    }
}

recorded!(InForce {
    sequence: u64,
    expires: MonoNs,
    mode: Mode,
    velocity_scale: f64,
} fixed {});

recorded!(MotionState { position_rad: f64, velocity_rad_s: f64 } fixed {});

recorded!(Device {
    armed: bool,
    phase: Phase,
    cause: Cause,
    phase_since: MonoNs,
    present: bool,
    torque: bool,
    feedback: Feedback,
    steadiness: Steadiness,
    motions: [MotionState; MAX_JOINTS],
    target_rad: [f64; MAX_JOINTS],
    driven_rad: [Option<f64>; MAX_JOINTS],
    lease_epoch: u64,
    newest_sequence: u64,
    in_force: Option<InForce>,
    must_hold: bool,
    must_let_go: bool,
    inhibited: bool,
} fixed { limits, joint_count, safe_action, ttl_max_ns, stale_ns, step_s });
