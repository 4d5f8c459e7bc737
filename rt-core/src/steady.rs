//! Whether measured positions are good enough to hold an arm by them.
//!
//! Where torque is about to be switched on, the first setpoint is the measured position, and no
//! limit stands between a wrong one and the motor. So one sample is not enough: the protocol's
//! one-byte checksum lets about one damaged packet in 256 through, and the newest sample of a joint
//! with a loose cable may be seconds old. A joint is steady when its two newest samples agree and
//! it was heard just now. Pure, rt-safe, bounded by the number of joints.

use kairo_link::abi::MAX_JOINTS;

use crate::exchange::{Feedback, JointFeedback};

/// How far apart two samples in a row may be, rad: 65 encoder steps. More than a falling arm moves
/// between two samples, less than a jump that could hurt.
const AGREEMENT_RAD: f64 = 0.1;
/// Cycles in a row that a joint may have missed and still count as heard just now.
const MISSED_MAX: u32 = 2;

/// What is remembered of one joint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Newest {
    position_rad: f64,
    sampled_ns: u64,
    agrees: bool,
}

/// The newest samples of a device's joints. See the module documentation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steadiness {
    generation: u64,
    joints: [Newest; MAX_JOINTS],
}

impl Steadiness {
    /// Takes new feedback in. Samples of an earlier connection are forgotten. rt-safe.
    pub fn observe(&mut self, feedback: &Feedback) {
        if feedback.generation != self.generation {
            *self = Self {
                generation: feedback.generation,
                ..Self::default()
            };
        }
        for (newest, joint) in self.joints.iter_mut().zip(&feedback.joints) {
            if joint.sampled_ns == newest.sampled_ns {
                continue;
            }
            let apart_rad = (joint.position_rad - newest.position_rad).abs();
            *newest = Newest {
                position_rad: joint.position_rad,
                sampled_ns: joint.sampled_ns,
                // False for NaN, which no bus gives.
                agrees: newest.sampled_ns > 0 && apart_rad <= AGREEMENT_RAD,
            };
        }
    }

    /// Whether the two newest samples of this joint agree. rt-safe.
    pub const fn agrees(&self, joint: usize) -> bool {
        self.joints[joint].agrees
    }

    /// Whether every one of `joints`, those of the newest feedback, is steady. rt-safe.
    pub fn is_steady(&self, joints: &[JointFeedback]) -> bool {
        let mut pairs = self.joints.iter().zip(joints);
        pairs.all(|(newest, joint)| newest.agrees && joint.missed <= MISSED_MAX)
    }
}

kairo_record::recorded!(Newest { position_rad: f64, sampled_ns: u64, agrees: bool } fixed {});
kairo_record::recorded!(Steadiness { generation: u64, joints: [Newest; MAX_JOINTS] } fixed {});
