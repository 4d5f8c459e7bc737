//! What clients are shown of devices and of each other. Names and units here are the public
//! protocol: they change only with a decision record.

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, DeviceState, JointState, Phase};
use kairo_link::control::{DeviceDescription, JointDescription};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::permission::Class;

/// A client, as the kernel of the machine identifies it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Peer {
    /// Number of its connection, never reused while kairod runs.
    pub connection: u64,
    /// What it is to the kernel.
    pub class: Class,
    /// The name that its session or the policy gave it; none without one.
    pub name: Option<String>,
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
    /// A fault is latched: it can be claimed, and obeys nothing but a reset.
    Faulted,
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
            Self::Faulted => "faulted",
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
    /// Highest jerk, rad/s³.
    pub jerk_max_rad_s3: f64,
    /// Distance to the setpoint from which on it counts as not following, rad.
    pub following_error_max_rad: f64,
    /// How long it may be that far away, ms. Then the device is faulted.
    pub following_error_time_ms: u64,
    /// Where it is in the rest pose, rad; none without one.
    pub rest_position_rad: Option<f64>,
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
            jerk_max_rad_s3: joint.jerk_max_rad_s3,
            following_error_max_rad: joint.following_error_max_rad,
            following_error_time_ms: joint.following_error_time_ms,
            rest_position_rad: joint.rest_position_rad,
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
    /// What it does when a command expires: `hold`, `ramp`, `torque-off`, `idle` or `land`.
    pub safe_action: String,
    /// Whether it is put under torque as soon as it answers, without a command.
    pub torque_at_start: bool,
    /// Longest time to live of a command, ms.
    pub ttl_max_ms: u64,
    /// Its joints, in command order.
    pub joints: Vec<JointView>,
    /// The fault that is latched; none without one.
    pub fault: Option<FaultView>,
    /// Its newest state; none while unknown.
    pub state: Option<Sample>,
}

/// A fault that is latched until a reset.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FaultView {
    /// `following_error`, `servo_fault` or `torque_lost`.
    pub cause: &'static str,
    /// The joint it was found on.
    pub joint: String,
    /// What tripped it.
    pub value: f64,
    /// What it may be at most.
    pub limit: f64,
    /// What both count: `rad`, `status_bits` or `losses`.
    pub unit: &'static str,
    /// When it was found, CLOCK_MONOTONIC ns.
    pub since_ns: u64,
    /// What it means and what to do, for people.
    pub explanation: String,
}

/// A device's state, as `device.subscribe` streams it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Sample {
    /// The device.
    pub device: String,
    /// Whether it can be used.
    pub status: Status,
    /// Where it stands: `disarmed`, `idle`, `holding`, `following`, `safe`, `lost`.
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
    /// The tick in which the present phase began.
    pub phase_since_tick: u64,
    /// Whether the setpoint moves.
    pub moving: bool,
    /// Whether the servos are under torque, or may be: told to be, or left as they are and not
    /// found limp, or they were when their bus was lost.
    pub torque: bool,
    /// The latched fault's cause; none without one.
    pub fault: Option<&'static str>,
    /// What inhibits motion, such as `emergency_stop`; none while nothing does.
    pub inhibited: Option<&'static str>,
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
        phase_since_tick: known.phase_since_tick,
        phase_since_ns: known.phase_since_ns,
        moving: known.moving != 0,
        torque: known.torque != 0,
        fault: present(known.fault),
        inhibited: present(known.inhibited),
        joints: joints.unwrap_or_default(),
    }
}

/// The name of a cause other than `none`.
fn present(cause: u32) -> Option<&'static str> {
    let cause = Cause::from_u32(cause).filter(|cause| *cause != Cause::None);
    cause.map(Cause::name)
}

/// The fault that `state` shows, in words.
pub fn fault(description: &DeviceDescription, state: &DeviceState) -> Option<FaultView> {
    let cause = Cause::from_u32(state.fault).filter(|cause| *cause != Cause::None)?;
    let joint = joint_name(description, state.fault_joint);
    let (value, limit) = (state.fault_value, state.fault_limit);
    let (unit, explanation) = fault_text(cause, &joint, value, limit);
    let device = &description.name;
    Some(FaultView {
        cause: cause.name(),
        joint,
        value,
        limit,
        unit,
        since_ns: state.fault_since_ns,
        explanation: format!("{explanation}, then `kairo device reset {device}`"),
    })
}

/// The name of a joint; a number that means none says that the whole command is meant.
pub fn joint_name(description: &DeviceDescription, joint: u32) -> String {
    let named = description.joints.get(joint as usize);
    named.map_or_else(|| "the command".into(), |joint| joint.name.clone())
}

/// The unit of a latched fault's numbers, and what it means.
pub fn fault_text(cause: Cause, joint: &str, value: f64, limit: f64) -> (&'static str, String) {
    match cause {
        Cause::FollowingError => (
            "rad",
            format!(
                "{joint} was {:.3} rad from its setpoint, {limit:.3} rad is allowed: something \
                 is in its way, or the load is too heavy; clear the way",
                value.abs()
            ),
        ),
        Cause::ServoFault => (
            "status_bits",
            format!(
                "the servo of {joint} reports {}; relieve it or let it cool",
                status_names(value)
            ),
        ),
        Cause::TorqueLost => (
            "losses",
            format!(
                "the servo of {joint} switched its torque off {value} times; check its supply, \
                 load and temperature"
            ),
        ),
        other => ("", format!("{other}; see the log of kairo-rt")),
    }
}

/// The faults a servo protects itself from, by the bits of its status (docs/reference/sts3215.md).
fn status_names(bits: f64) -> String {
    const NAMES: [(u32, &str); 4] = [
        (1, "a broken sensor"),
        (2, "overheating"),
        (3, "overcurrent"),
        (5, "overload"),
    ];
    // `as` saturates, and turns NaN into no bit at all.
    let bits = bits as u32;
    let set = NAMES.iter().filter(|(bit, _)| bits >> bit & 1 == 1);
    let named: Vec<&str> = set.map(|(_, name)| *name).collect();
    named.join(" and ")
}

/// The phase's name, if the number means one.
pub fn phase(state: &DeviceState) -> Option<&'static str> {
    Phase::from_u32(state.phase).map(Phase::name)
}

/// The cause's name, if the number means one.
pub fn cause(state: &DeviceState) -> Option<&'static str> {
    Cause::from_u32(state.cause).map(Cause::name)
}
