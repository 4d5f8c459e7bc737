//! `[[block]]` of `robot.toml`: controllers, and the wires between them and the devices.
//!
//! setup-only. Every wire is checked here, before anything is armed: names, units, loops, inputs
//! without a wire, joints driven twice, circles. What comes out is indices and the order of
//! execution, so that nothing after this module looks a name up.

mod crossing;
mod plugins;
mod read;
mod source;
mod wires;

use kairo_blocks::graph::Graph;
use kairo_blocks::unit::Unit;

pub use crossing::closes_circle;
pub(super) use plugins::load as load_plugins;
pub(super) use read::{Surroundings, read};

/// Blocks a robot can have. A bound for the loops' budgets, not for anything in memory.
pub const BLOCKS_MAX: usize = 64;

/// What a block can read of a joint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Measured position.
    Position,
    /// Measured velocity.
    Velocity,
    /// Load, part of the stall torque: the effort.
    Load,
    /// Current.
    Current,
    /// Supply voltage.
    Voltage,
    /// Temperature.
    Temperature,
    /// What the agent's accepted command asks for; the setpoint while there is none.
    Target,
    /// The newest setpoint, after all limits.
    Setpoint,
}

impl Signal {
    /// Every signal with its name and unit.
    pub const ALL: [(Self, &'static str, Unit); 8] = [
        (Self::Position, "position", Unit::RAD),
        (Self::Velocity, "velocity", Unit::RAD_PER_S),
        (Self::Load, "load", Unit::ONE),
        (Self::Current, "current", Unit::AMPERE),
        (Self::Voltage, "voltage", Unit::VOLT),
        (Self::Temperature, "temperature", Unit::DEGREE_CELSIUS),
        (Self::Target, "target", Unit::RAD),
        (Self::Setpoint, "setpoint", Unit::RAD),
    ];
}

/// A value that comes from outside the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A signal of a joint.
    Joint {
        /// Index of the device.
        device: usize,
        /// Index of the joint.
        joint: usize,
        /// Which signal.
        signal: Signal,
    },
    /// 1 while the device follows a position command.
    Following {
        /// Index of the device.
        device: usize,
    },
    /// The newest output of a block of another loop.
    Crossing(Crossing),
}

/// A wire from one loop to another: the newest value, with its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The loop it comes from.
    pub from_loop: usize,
    /// The node there.
    pub from_node: usize,
    /// Its output.
    pub from_port: usize,
    /// The node here that reads it.
    pub node: usize,
    /// The value may be this old, ms.
    pub age_max_ms: u64,
}

/// A joint that a block drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// The node.
    pub node: usize,
    /// Its output.
    pub port: usize,
    /// Index of the device.
    pub device: usize,
    /// Index of the joint.
    pub joint: usize,
}

/// The blocks of one loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoopBlocks {
    /// Blocks and wires. `Wire::External(n)` is `reads[n]`.
    pub graph: Graph,
    /// What comes from outside.
    pub reads: Vec<Read>,
    /// What goes to joints.
    pub drives: Vec<Drive>,
    /// The nodes in the order they run.
    pub order: Vec<usize>,
    /// Whether a block comes from a shared object, so that faults must be caught.
    pub has_plugins: bool,
    /// Whether a block comes from Rust that is not of this project.
    pub has_program_blocks: bool,
}

#[cfg(test)]
mod tests;
