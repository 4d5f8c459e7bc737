//! Whether a servo of a device is too hot: not for one wrong reading, and not on and off at the
//! limit. rt-safe; bounded by the number of joints. It has no clock and decides no action.

use kairo_link::abi::MAX_JOINTS;
use kairo_record::recorded;

use crate::exchange::JointFeedback;

/// New samples in a row of one joint, at the limit or above, that make a device hot.
const SAMPLES_TO_RAISE: u32 = 3;
/// So far below the limit must every joint be before a hot device is hot no more.
const HYSTERESIS_C: f64 = 5.0;

/// What is remembered of the temperatures of a device.
#[derive(Debug, Default)]
pub(super) struct Heat {
    hot: bool,
    /// When the newest sample of each joint was taken.
    sampled_ns: [u64; MAX_JOINTS],
    /// New samples in a row at the limit or above, of each joint.
    above: [u32; MAX_JOINTS],
}

impl Heat {
    /// Looks at the newest samples. rt-safe.
    pub(super) fn look(&mut self, joints: &[JointFeedback], max_c: f64) {
        let memory = self.sampled_ns.iter_mut().zip(&mut self.above);
        for (joint, (sampled_ns, above)) in joints.iter().zip(memory) {
            if joint.sampled_ns != *sampled_ns {
                *sampled_ns = joint.sampled_ns;
                *above = match joint.temperature_c >= max_c {
                    true => above.saturating_add(1),
                    false => 0,
                };
            }
            self.hot |= *above >= SAMPLES_TO_RAISE;
        }
        // A joint that was not sampled on this connection says nothing about its temperature.
        let cool = |joint: &JointFeedback| {
            joint.sampled_ns > 0 && joint.temperature_c < max_c - HYSTERESIS_C
        };
        self.hot &= !joints.iter().all(cool);
    }

    /// Whether it is too hot. rt-safe.
    pub(super) const fn is_hot(&self) -> bool {
        self.hot
    }
}

recorded!(Heat {
    hot: bool,
    sampled_ns: [u64; MAX_JOINTS],
    above: [u32; MAX_JOINTS],
} fixed {});

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is hot after these samples of one joint.
    fn hot_after(temperatures_c: &[f64]) -> bool {
        let mut heat = Heat::default();
        for (index, temperature_c) in temperatures_c.iter().enumerate() {
            let joint = JointFeedback {
                sampled_ns: 1 + index as u64,
                temperature_c: *temperature_c,
                ..JointFeedback::default()
            };
            // More ticks than samples.
            for _ in 0..5 {
                heat.look(&[joint], 80.0);
            }
        }
        heat.is_hot()
    }

    #[test]
    fn three_samples_in_a_row_make_it_hot_and_one_old_sample_seen_often_does_not() {
        assert!(!hot_after(&[255.0]));
        assert!(!hot_after(&[80.0, 80.0, 79.0, 80.0, 80.0]));
        assert!(hot_after(&[80.0, 80.0, 80.0]));
    }

    #[test]
    fn it_stays_hot_until_five_degrees_below_the_limit() {
        assert!(hot_after(&[80.0, 80.0, 80.0, 79.0, 75.0]));
        assert!(hot_after(&[80.0, 80.0, 80.0, f64::NAN]));
        assert!(!hot_after(&[80.0, 80.0, 80.0, 74.9]));
    }
}
