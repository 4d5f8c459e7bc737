//! What of a device a keyframe keeps: every field, changing or fixed. See `recording`.

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, Command, MAX_JOINTS, Mode, Phase};
use kairo_record::recorded;
use kairo_record::state::{Malformed, Sink, Source, State, join};

use super::{Device, InForce, Inhibit, Tick};
use crate::exchange::Feedback;
use crate::fault::{Fault, Watch};
use crate::motion::MotionState;
use crate::safe_action::{Landing, SafeAction, SafeSequence};
use crate::steady::Steadiness;

/// The value of a word that says there is none.
impl Default for InForce {
    fn default() -> Self {
        Self {
            expires: MonoNs(0),
            mode: Mode::Stop,
            command: Command::default(),
        }
    }
}

/// The value of a word that says there is none.
impl Default for Inhibit {
    fn default() -> Self {
        Self {
            cause: Cause::None,
            action: SafeAction::Hold,
        }
    }
}

recorded!(InForce { expires: MonoNs, mode: Mode, command: Command } fixed {});
recorded!(Inhibit { cause: Cause, action: SafeAction } fixed {});
recorded!(Tick { number: u64, time: MonoNs } fixed {});

recorded!(MotionState {
    position_rad: f64,
    velocity_rad_s: f64,
    acceleration_rad_s2: f64,
} fixed {});

/// By its number, and how to land, which is zero for the others.
impl State for SafeAction {
    fn save(&self, sink: &mut Sink) {
        let (number, landing): (u64, _) = match *self {
            Self::Hold => (0, Landing::default()),
            Self::Ramp => (1, Landing::default()),
            Self::TorqueOff => (2, Landing::default()),
            Self::Idle => (3, Landing::default()),
            Self::Land(landing) => (4, landing),
        };
        number.save(sink);
        landing.descend_m_s.save(sink);
        landing.time_max_ms.save(sink);
    }

    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        let (found, mut landing) = (source.take(), Landing::default());
        landing.descend_m_s.load(source)?;
        landing.time_max_ms.load(source)?;
        *self = match found {
            0 => Self::Hold,
            1 => Self::Ramp,
            2 => Self::TorqueOff,
            3 => Self::Idle,
            4 => Self::Land(landing),
            found => {
                let wanted = "SafeAction";
                return Err(Malformed { found, wanted });
            }
        };
        Ok(())
    }

    fn describe(name: &str, words: &mut Vec<String>) {
        words.push(format!("{name}:u64"));
        f64::describe(&join(name, "descend_m_s"), words);
        u64::describe(&join(name, "time_max_ms"), words);
    }
}

recorded!(Device {
    armed: bool,
    phase: Phase,
    cause: Cause,
    phase_since: Tick,
    tick: Tick,
    sequence: SafeSequence,
    present: bool,
    torque: bool,
    had_torque: bool,
    watch: Watch,
    fault: Option<Fault>,
    inhibit: Option<Inhibit>,
    feedback: Feedback,
    steadiness: Steadiness,
    motions: [MotionState; MAX_JOINTS],
    target_rad: [f64; MAX_JOINTS],
    driven_rad: [Option<f64>; MAX_JOINTS],
    driven_rad_s: [f64; MAX_JOINTS],
    lease_epoch: u64,
    newest_sequence: u64,
    in_force: Option<InForce>,
} fixed {
    limits, following, rest_rad, joint_count, safe_action, ramp_velocity_scale, torque_at_start,
    ttl_max_ns, stale_ns, step_s,
});
