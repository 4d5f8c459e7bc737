//! What clients are shown of devices and of each other. Names and units here are the public
//! protocol: they change only with a decision record.

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, DeviceState, JointState, Phase};
use kairo_link::control::{DeviceDescription, JointDescription};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// A client, as the kernel of the machine identifies it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Peer {
    /// Number of its connection, never reused while kairod runs.
    pub connection: u64,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; 0 when it lies outside kairod's pid namespace.
    pub pid: i32,
    /// Name of the process when it connected. For people: a process can choose it.
    pub process: Option<String>,
    /// Whether a pidfd pins the process (Linux 6.5 and later).
    pub pinned: bool,
}

/// Whether a device can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It can be claimed and commanded.
    Ready,
    /// Bring-up has not finished or was refused: see `rt.status`.
    Disarmed,
    /// Its bus is lost.
    Lost,
    /// kairo-rt is away.
    Unavailable,
}

impl Status {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Disarmed => "disarmed",
            Self::Lost => "lost",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A device in `device.list`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceSummary {
    /// Its stable id.
    pub id: String,
    /// Its name for agents.
    pub alias: String,
    /// What it is.
    pub kind: String,
    /// Name of its bus.
    pub bus: String,
    /// The device node of the bus; empty while absent.
    pub path: String,
    /// Whether it can be used.
    pub status: Status,
    /// Where it stands in the real-time plane; none while unknown.
    pub phase: Option<&'static str>,
    /// Why it stands there.
    pub cause: Option<&'static str>,
    /// Epoch of the claim; none when nobody has one.
    pub epoch: Option<u64>,
    /// Who has the claim.
    pub holder: Option<Peer>,
}

/// A joint and its limits.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct JointView {
    /// Its name.
    pub name: String,
    /// Id of its servo on the bus.
    pub servo_id: u8,
    /// Lowest position, rad.
    pub position_min_rad: f64,
    /// Highest position, rad.
    pub position_max_rad: f64,
    /// Highest speed, rad/s.
    pub velocity_max_rad_s: f64,
    /// Highest acceleration, rad/s².
    pub acceleration_max_rad_s2: f64,
}

impl From<&JointDescription> for JointView {
    fn from(joint: &JointDescription) -> Self {
        Self {
            name: joint.name.clone(),
            servo_id: joint.servo_id,
            position_min_rad: joint.position_min_rad,
            position_max_rad: joint.position_max_rad,
            velocity_max_rad_s: joint.velocity_max_rad_s,
            acceleration_max_rad_s2: joint.acceleration_max_rad_s2,
        }
    }
}

/// A device in `device.info`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceInfo {
    /// As in `device.list`.
    #[serde(flatten)]
    pub summary: DeviceSummary,
    /// Name of its control loop.
    pub control_loop: String,
    /// What it does when a command expires: `hold` or `torque-off`.
    pub safe_action: String,
    /// Longest time to live of a command, ms.
    pub ttl_max_ms: u64,
    /// Its joints, in command order.
    pub joints: Vec<JointView>,
    /// Its newest state; none while unknown.
    pub state: Option<Sample>,
}

/// A device's state, as `device.subscribe` streams it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Sample {
    /// The device.
    pub device: String,
    /// Whether it can be used.
    pub status: Status,
    /// Where it stands: `disarmed`, `holding`, `following`, `safe`, `lost`.
    pub phase: Option<&'static str>,
    /// Why.
    pub cause: Option<&'static str>,
    /// When this phase began, CLOCK_MONOTONIC ns.
    pub phase_since_ns: u64,
    /// Tick of the control loop.
    pub tick: u64,
    /// When that tick ran, CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// How old the state was when this sample was made, µs.
    pub age_us: u64,
    /// Epoch of the lease in force; zero when there is none.
    pub lease_epoch: u64,
    /// Sequence number of the command in force.
    pub sequence: u64,
    /// When it expires, CLOCK_MONOTONIC ns.
    pub expires_ns: u64,
    /// Whether the setpoint moves.
    pub moving: bool,
    /// The joints by name, in command order.
    pub joints: Joints,
}

/// Joints by name, in command order.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(with = "std::collections::BTreeMap<String, JointSample>")]
pub struct Joints(Vec<(String, JointSample)>);

impl Serialize for Joints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, joint)| (name, joint)))
    }
}

/// One joint of a [`Sample`].
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct JointSample {
    /// Measured position, rad.
    pub position_rad: f64,
    /// Measured velocity, rad/s.
    pub velocity_rad_s: f64,
    /// What the loop commands now, rad.
    pub setpoint_rad: f64,
    /// Where the command in force wants it, rad.
    pub target_rad: f64,
    /// Measured load, fraction of stall torque, signed.
    pub load_ratio: f64,
    /// Supply voltage, V.
    pub voltage_v: f64,
    /// Motor current, A.
    pub current_a: f64,
    /// Temperature, degrees Celsius.
    pub temperature_c: f64,
    /// Age of the measurement, µs; none if never measured.
    pub sample_age_us: Option<u64>,
    /// Status error bits of the servo's newest reply.
    pub status_bits: u32,
    /// Cycles in a row without a good reply.
    pub missed: u32,
}

impl JointSample {
    fn new(joint: &JointState, now: MonoNs) -> Self {
        let measured = joint.sampled_ns != 0;
        Self {
            position_rad: joint.position_rad,
            velocity_rad_s: joint.velocity_rad_s,
            setpoint_rad: joint.setpoint_rad,
            target_rad: joint.target_rad,
            load_ratio: joint.load_ratio,
            voltage_v: joint.voltage_v,
            current_a: joint.current_a,
            temperature_c: joint.temperature_c,
            sample_age_us: measured.then(|| now.since_ns(MonoNs(joint.sampled_ns)) / 1000),
            status_bits: joint.status_bits,
            missed: joint.missed,
        }
    }
}

/// The sample of `state`; without one (kairo-rt away, or nothing published yet) only the status.
pub fn sample(
    description: &DeviceDescription,
    status: Status,
    state: Option<&DeviceState>,
) -> Sample {
    let now = MonoNs::now();
    let joints = state.map(|state| {
        let described = description.joints.iter().zip(&state.joints);
        Joints(
            described
                .map(|(joint, state)| (joint.name.clone(), JointSample::new(state, now)))
                .collect(),
        )
    });
    let state = state.copied();
    let known = state.unwrap_or_default();
    Sample {
        device: description.name.clone(),
        status,
        phase: state.and_then(|state| phase(&state)),
        cause: state.and_then(|state| cause(&state)),
        tick: known.tick,
        time_ns: known.time_ns,
        age_us: state.map_or(0, |state| now.since_ns(MonoNs(state.time_ns)) / 1000),
        lease_epoch: known.lease_epoch,
        sequence: known.sequence,
        expires_ns: known.expires_ns,
        phase_since_ns: known.phase_since_ns,
        moving: known.moving != 0,
        joints: joints.unwrap_or_default(),
    }
}

/// The phase's name, if the number means one.
pub fn phase(state: &DeviceState) -> Option<&'static str> {
    Phase::from_u32(state.phase).map(Phase::name)
}

/// The cause's name, if the number means one.
pub fn cause(state: &DeviceState) -> Option<&'static str> {
    Cause::from_u32(state.cause).map(Cause::name)
}
