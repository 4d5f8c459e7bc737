//! How far a rule lets a command go. Narrower than the real-time plane's limits or without effect:
//! those are checked there in any case.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits on commands to a device. What is absent is not limited here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceLimits {
    /// Highest fraction of the velocity limits that a command may ask for, above 0 up to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub velocity_scale_max: Option<f64>,
    /// Longest time to live of a command, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_max_ms: Option<u64>,
    /// The joints that may be commanded; a command that names another is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joints: Option<Vec<String>>,
}

impl DeviceLimits {
    /// Why these limits make no sense; none when they do.
    pub fn trouble(&self) -> Option<String> {
        if let Some(scale) = self.velocity_scale_max
            && !(scale > 0.0 && scale <= 1.0)
        {
            return Some(format!(
                "velocity_scale_max is {scale}, it must be above 0 and at most 1"
            ));
        }
        if self.ttl_max_ms == Some(0) {
            return Some("ttl_max_ms is 0, so every command would be expired".into());
        }
        if self.joints.as_ref().is_some_and(Vec::is_empty) {
            return Some("joints is empty, so no command could move anything".into());
        }
        None
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
