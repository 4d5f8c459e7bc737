//! `robot.toml`: what a robot is made of, and what it may do.
//!
//! setup-only. A file is accepted whole or refused whole: [`load`] reports every problem with
//! file, line, column and remedy, and there is no partly valid robot. Unknown keys are errors,
//! units stand in the keys, and references between tables go by name and are resolved here to
//! indices, so that nothing after this module looks a name up.
//!
//! Not here: anything the machine must be asked (does the port exist, does the core). That is
//! found at bring-up, because a configuration is checked on another machine than it runs on.

mod behaviour;
pub mod blocks;
mod check;
mod diagnostic;
mod feasibility;
mod joint;
mod recorder;
mod safety;
mod schema;
mod table;

use std::path::{Path, PathBuf};

use kairo_blocks::registry::Registry;

use crate::bringup::machine::Demand;
pub use crate::safe_action::{Landing, SafeAction};
pub use blocks::LoopBlocks;
pub use check::{BusTraffic, traffic_of};
pub use diagnostic::{ConfigError, Diagnostic};
pub use recorder::RecorderConfig;
pub use safety::{
    Bias, ChargePumpConfig, ESTOP_INPUTS_MAX, EstopConfig, FailsafeConfig, LineAddress, LineConfig,
};

/// A whole robot.
#[derive(Clone, Debug, PartialEq)]
pub struct RobotConfig {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// Whether a bring-up check that fails refuses to arm.
    pub strict: bool,
    /// Whether the system calls of ticks are traced, for debugging.
    pub trace_system_calls: bool,
    /// The buses.
    pub buses: Vec<BusConfig>,
    /// The control loops.
    pub loops: Vec<LoopConfig>,
    /// The devices.
    pub devices: Vec<DeviceConfig>,
    /// What to do when things go wrong.
    pub failsafe: FailsafeConfig,
    /// Where e-stops come from.
    pub estop: EstopConfig,
    /// The blocks of each loop, by the loop's index.
    pub blocks: Vec<LoopBlocks>,
    /// The flight recorder, if there shall be one.
    pub recorder: Option<RecorderConfig>,
    /// The file it was read from, word for word: goes into records, so that they can be replayed.
    pub text: String,
}

impl RobotConfig {
    /// What the robot's real-time threads ask of the machine.
    pub fn demands(&self) -> Vec<Demand> {
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        let place = |line: usize| format!("{file}:{line}");
        let loops = self.loops.iter().map(|config| Demand {
            name: config.name.clone(),
            core: config.core,
            period_us: config.period_us,
            place: place(config.line),
        });
        let buses = self.buses.iter().enumerate().map(|(index, bus)| Demand {
            name: bus.name.clone(),
            core: bus.core,
            period_us: self.bus_period_us(index),
            place: place(bus.line),
        });
        let lines = self.estop.has_lines().then(|| Demand {
            name: Self::LINES_THREAD.to_owned(),
            core: self.estop.core,
            period_us: self.lines_period_us(),
            place: place(self.estop.line),
        });
        loops.chain(buses).chain(lines).collect()
    }

    /// The name of the thread that serves the GPIO lines.
    pub const LINES_THREAD: &'static str = "estop-lines";

    /// The period of the thread that serves the GPIO lines: that of the fastest loop, µs.
    pub fn lines_period_us(&self) -> u64 {
        let periods = self.loops.iter().map(|each| each.period_us);
        // A robot has a loop; see `schema`.
        periods.min().unwrap_or(1_000)
    }

    /// The phase of that thread, ns: a little before the fastest loop is due, so that what the loop
    /// finds is fresh.
    pub fn lines_phase_ns(&self) -> u64 {
        let period_ns = self.lines_period_us() * 1000;
        let fastest = self.loops.iter().min_by_key(|each| each.period_us);
        let due_ns = fastest.map_or(0, |fastest| fastest.phase_us * 1000);
        let lead_ns = crate::lines::LEAD_NS.min(period_ns / 4);
        (due_ns + period_ns - lead_ns) % period_ns
    }

    /// What a period of that thread may cost, µs.
    pub fn lines_budget_us(&self) -> u64 {
        feasibility::lines_budget_us(&self.estop, self.lines_period_us())
    }

    /// The period of a bus's thread: that of the fastest loop it serves, µs.
    pub fn bus_period_us(&self, bus: usize) -> u64 {
        /// A bus without devices has nothing to do; it idles at 100 Hz.
        const IDLE_US: u64 = 10_000;
        self.fastest_loop(bus)
            .map_or(IDLE_US, |fastest| fastest.period_us)
    }

    /// The phase of a bus's thread, µs: that of the fastest loop it serves. Both are due at the
    /// same time, the loop goes first by its priority, and its goals are on the wire at once
    /// instead of a period later.
    pub fn bus_phase_us(&self, bus: usize) -> u64 {
        self.fastest_loop(bus).map_or(0, |fastest| fastest.phase_us)
    }

    fn fastest_loop(&self, bus: usize) -> Option<&LoopConfig> {
        let served = self.devices.iter().filter(|device| device.bus == bus);
        let loops = served.map(|device| &self.loops[device.control_loop]);
        loops.min_by_key(|control_loop| control_loop.period_us)
    }
}

/// A servo bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusConfig {
    /// The line of the file that names it.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// A device path, or a stable id such as `serial:usb-1-1`.
    pub port: String,
    /// Line speed, bits per second.
    pub baud: u32,
    /// SCHED_FIFO priority of its thread.
    pub priority: u8,
    /// The core its thread is pinned to, or not.
    pub core: Option<usize>,
    /// How long one transaction may take until all its replies are in.
    pub response_timeout_us: u64,
    /// Cycles in a row without any reply after which the bus counts as lost.
    pub lost_after_cycles: u32,
    /// What one cycle may cost the core, waiting for the wire not counted; a tenth of the period
    /// when absent.
    pub budget_us: Option<u64>,
}

/// A control loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopConfig {
    /// The line of the file that names it.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Its period.
    pub period_us: u64,
    /// SCHED_FIFO priority of its thread.
    pub priority: u8,
    /// The core its thread is pinned to, or not.
    pub core: Option<usize>,
    /// What happens to periods that were missed.
    pub overrun: OverrunPolicy,
    /// Where in the period the planned times lie: `planned mod period`.
    pub phase_us: u64,
    /// What one tick may cost.
    pub budget_us: u64,
}

/// What a loop does about periods it could not run in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrunPolicy {
    /// Leave them out and count them; go on at the next planned time.
    Skip,
    /// Make up for them back to back, at most so many in a row; leave the rest out.
    Burst {
        /// Most periods in a row that are made up for.
        most: u32,
    },
    /// Leave them out, and move all planned times so that the next tick is a whole period after
    /// the late one.
    Realign,
    /// Leave them out, and take the safe action of every device of the loop.
    Stop,
}

/// A device: joints on one bus, driven by one loop.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// Its name.
    pub name: String,
    /// Index of its bus.
    pub bus: usize,
    /// Index of its loop.
    pub control_loop: usize,
    /// What it does when commands stop.
    pub safe_action: SafeAction,
    /// Fraction of the velocity limits at which it moves to its rest pose.
    pub ramp_velocity_scale: f64,
    /// Whether it is put under torque as soon as it answers, without a command.
    pub torque_at_start: bool,
    /// Longest time to live a command may ask for.
    pub ttl_max_ms: u64,
    /// Age of feedback from which on it is too old to move by.
    pub feedback_stale_ms: u64,
    /// Its joints, in command order.
    pub joints: Vec<JointConfig>,
}

impl DeviceConfig {
    /// Whether it has a pose to rest in: of all joints, or of none.
    pub fn has_rest_pose(&self) -> bool {
        let mut joints = self.joints.iter();
        joints.all(|joint| joint.rest_position_rad.is_some())
    }
}

/// One joint and the servo that moves it.
#[derive(Clone, Debug, PartialEq)]
pub struct JointConfig {
    /// Its name.
    pub name: String,
    /// Id of the servo on the bus.
    pub servo_id: u8,
    /// Encoder step at 0 rad.
    pub zero_steps: i32,
    /// +1 when steps grow with the angle, -1 when they fall.
    pub direction: i32,
    /// Lowest position.
    pub position_min_rad: f64,
    /// Highest position.
    pub position_max_rad: f64,
    /// Highest speed.
    pub velocity_max_rad_s: f64,
    /// Highest acceleration and deceleration.
    pub acceleration_max_rad_s2: f64,
    /// Highest change of acceleration.
    pub jerk_max_rad_s3: f64,
    /// Distance to the setpoint from which on it counts as not following.
    pub following_error_max_rad: f64,
    /// How long it may be that far away.
    pub following_error_time_ms: u64,
    /// Where it is in the rest pose, if the device has one.
    pub rest_position_rad: Option<f64>,
    /// Position loop gains to write into the servo, if any.
    pub gains: Option<ServoGains>,
}

/// Gains of a servo's own position loop, in the servo's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServoGains {
    /// Proportional.
    pub p: u8,
    /// Integral.
    pub i: u8,
    /// Derivative.
    pub d: u8,
}

/// Reads and checks the file at `path`, whose blocks are of the library's kinds.
///
/// # Errors
/// Every problem of the file; see [`ConfigError`].
pub fn load(path: &Path) -> Result<RobotConfig, ConfigError> {
    load_with(path, &Registry::standard())
}

/// Reads and checks the file at `path`, whose blocks may be of the kinds of `registry`.
///
/// # Errors
/// Every problem of the file; see [`ConfigError`].
pub fn load_with(path: &Path, registry: &Registry) -> Result<RobotConfig, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_with(path, &text, registry),
        Err(error) => Err(ConfigError {
            diagnostics: vec![Diagnostic {
                file: path.to_path_buf(),
                line: 0,
                column: 0,
                key: String::new(),
                message: format!("cannot be read: {error}"),
                fix: "give the robot's configuration with --config FILE".into(),
            }],
        }),
    }
}

/// Checks `text`, whose blocks are of the library's kinds; `path` is only named in messages.
///
/// # Errors
/// Every problem of the text; see [`ConfigError`].
pub fn parse(path: &Path, text: &str) -> Result<RobotConfig, ConfigError> {
    parse_with(path, text, &Registry::standard())
}

/// Checks `text`, whose blocks may be of the kinds of `registry`; `path` is only named in messages.
///
/// # Errors
/// Every problem of the text; see [`ConfigError`].
pub fn parse_with(
    path: &Path,
    text: &str,
    registry: &Registry,
) -> Result<RobotConfig, ConfigError> {
    let mut problems = diagnostic::Problems::new(path, text);
    let robot = schema::read(text, registry, &mut problems);
    problems.finish(robot)
}

#[cfg(test)]
mod tests;
