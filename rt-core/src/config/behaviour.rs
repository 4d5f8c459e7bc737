//! What a device does on its own, in `robot.toml`: its safe action and when torque is switched on.
//!
//! setup-only. The keys, ranges and defaults stand here and nowhere else.

use crate::safe_action::{Actuation, Landing, SafeAction};

use super::JointConfig;
use super::diagnostic::Problems;
use super::table::TableReader;

/// Fraction of the velocity limits of a ramp to rest, where the file does not say.
const DEFAULT_RAMP_SCALE: f64 = 0.25;

/// See the module documentation.
pub(super) struct Behaviour {
    pub(super) safe_action: SafeAction,
    pub(super) ramp_velocity_scale: f64,
    pub(super) torque_at_start: bool,
}

/// Reads the keys of a device whose actuators take positions.
pub(super) fn read(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<Behaviour> {
    let landing = read_landing(table, problems);
    let actions = [
        SafeAction::Hold,
        SafeAction::Ramp,
        SafeAction::TorqueOff,
        SafeAction::Idle,
        SafeAction::Land(landing),
    ]
    .map(|action| (action.name(), action));
    let safe_action = table.choice(problems, "safe_action", &actions);
    let scale = match table.has("ramp_velocity_scale") {
        true => {
            table
                .number(problems, "ramp_velocity_scale", 0.01..=1.0)?
                .value
        }
        false => DEFAULT_RAMP_SCALE,
    };
    // An arm that is declared to let go is not taken hold of unasked.
    let default = safe_action != Some(SafeAction::TorqueOff);
    let torque_at_start = table.boolean(problems, "torque_at_start", default);
    let safe_action = safe_action?;
    if let Err((why, fix)) = safe_action.suits(Actuation::Position) {
        let message = format!("\"{}\": {why}", safe_action.name());
        problems.add(table.span(), table.path_of("safe_action"), message, fix);
    }
    Some(Behaviour {
        safe_action,
        ramp_velocity_scale: scale,
        torque_at_start: torque_at_start?,
    })
}

/// How a device that can land comes down; `land` itself decides whether it may.
fn read_landing(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Landing {
    let mut landing = Landing {
        descend_m_s: 0.5,
        time_max_ms: 30_000,
    };
    if table.has("land_descend_m_s")
        && let Some(rate) = table.number(problems, "land_descend_m_s", 0.05..=5.0)
    {
        landing.descend_m_s = rate.value;
    }
    let time = table.integer(problems, "land_time_max_ms", 100..=600_000, Some(30_000));
    landing.time_max_ms = time.map_or(0, |time| time.value.unsigned_abs());
    landing
}

impl Behaviour {
    /// A rest pose has all joints or none, and a ramp needs one.
    pub(super) fn check_rest_pose(
        &self,
        joints: &[JointConfig],
        table: &TableReader<'_>,
        problems: &mut Problems<'_>,
    ) {
        let missing: Vec<&str> = joints
            .iter()
            .filter(|joint| joint.rest_position_rad.is_none())
            .map(|joint| joint.name.as_str())
            .collect();
        let ramps = self.safe_action == SafeAction::Ramp;
        if missing.is_empty() || (missing.len() == joints.len() && !ramps) {
            return;
        }
        let message = format!("no rest_position_rad for {}", missing.join(", "));
        let fix = "a rest pose has all joints: add `rest_position_rad` to each";
        problems.add(table.span(), table.path_of("joint"), message, fix);
    }
}
