//! What kairod publishes: one table of topics, and one type for the data of each.
//!
//! A row of the table says everything about a topic: its name, how durable its events are, how
//! much a subscriber may rely on it, and what it means; the type beside it is what `data` holds.
//! The bus publishes these types and nothing else, so a wrong payload does not compile, and
//! `kernel.introspect`, the reference and the conformance suite are held against the same rows.
//! Aliases follow from the name: [`crate::topics::aliases`].

use kairo_events::Class;
use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::Serialize;

use crate::router::Stability;

/// The data of one topic.
pub trait Fact: Serialize {
    /// Its row.
    const TOPIC: &'static Topic;
}

/// A row of the table.
#[derive(Debug)]
pub struct Topic {
    /// The canonical name.
    pub name: &'static str,
    /// How much its events are worth: what others decide by survives a power cut.
    pub class: Class,
    /// How much a subscriber may rely on it.
    pub stability: Stability,
    /// The version that had it first.
    pub since: &'static str,
    /// What an event says, without a full stop.
    pub summary: &'static str,
    /// Makes the JSON Schema of `data`.
    pub data: fn() -> schemars::Schema,
}

/// Declares the topics once, each with the type of its data.
macro_rules! topics {
    ($($fact:ident: $name:literal, $class:ident, $stability:ident, $since:literal,
        $summary:literal;)+) => {
        $(impl Fact for $fact {
            const TOPIC: &'static Topic = &Topic {
                name: $name,
                class: Class::$class,
                stability: Stability::$stability,
                since: $since,
                summary: $summary,
                data: || schemars::schema_for!($fact),
            };
        })+

        /// Every topic that kairod publishes, in the order of the table.
        pub const TOPICS: &[&Topic] = &[$($fact::TOPIC),+];
    };
}

topics! {
    Ready: "kairo.system.ready", Batched, Stable, "0.1",
        "kairod answers on its socket";
    Stopping: "kairo.system.stopping", Batched, Evolving, "0.1",
        "kairod ends: all claims have ended, nothing new is begun";
    RtConnected: "kairo.system.rt.connected", Batched, Stable, "0.1",
        "the link to kairo-rt is up";
    RtFailsafe: "kairo.system.rt.failsafe", Batched, Evolving, "0.1",
        "a device's failsafe machine decided otherwise than before";
    RtLost: "kairo.system.rt.lost", Batched, Stable, "0.1",
        "the link to kairo-rt is down, and all claims have ended";
    DeviceAdded: "kairo.system.device.added", Batched, Stable, "0.1",
        "a device became usable";
    DeviceRemoved: "kairo.system.device.removed", Batched, Stable, "0.1",
        "a device cannot be used any more";
    DeviceDegraded: "kairo.system.device.degraded", Batched, Stable, "0.1",
        "a device is there but impaired";
    DeviceSafe: "kairo.system.device.safe", Batched, Stable, "0.1",
        "a device's safe action came into force";
    DeviceClaimed: "kairo.system.device.claimed", Synchronous, Stable, "0.1",
        "a claim began";
    DeviceReleased: "kairo.system.device.released", Synchronous, Stable, "0.1",
        "a claim ended";
    IntentStarted: "kairo.system.intent.started", Synchronous, Evolving, "0.1",
        "an intent began";
    IntentEnded: "kairo.system.intent.ended", Synchronous, Evolving, "0.1",
        "an intent ended";
    ServiceAdded: "kairo.system.service.added", Batched, Evolving, "0.1",
        "a process serves a namespace";
    ServiceRemoved: "kairo.system.service.removed", Batched, Evolving, "0.1",
        "a namespace is not served any more";
    SessionStarted: "kairo.system.session.started", Batched, Evolving, "0.1",
        "a connection of somebody who is no operator began";
    SessionEnded: "kairo.system.session.ended", Batched, Evolving, "0.1",
        "such a connection ended";
    AuditFinding: "kairo.system.audit.finding", Batched, Evolving, "0.1",
        "opening the audit log found something that an operator should know";
    PermissionDenied: "kairo.system.security.permission.denied", Batched, Evolving, "0.1",
        "a peer asked for what no rule allows";
    PermissionGranted: "kairo.system.security.permission.granted", Synchronous, Evolving, "0.1",
        "a right was given";
    PermissionRevoked: "kairo.system.security.permission.revoked", Synchronous, Evolving, "0.1",
        "a grant was taken away, or is over";
    ConnectionRefused: "kairo.system.connection.refused", Volatile, Evolving, "0.1",
        "this connection is not served, and closes; sent to it alone, without a number";
    PermissionRequested: "kairo.system.security.permission.requested", Batched, Evolving, "0.1",
        "a peer asks an operator for a right";
    PermissionDecided: "kairo.system.security.permission.decided", Batched, Evolving, "0.1",
        "a request for a right was granted or refused, or nobody decided it in time";
    EventGap: "kairo.system.event.gap", Volatile, Stable, "0.1",
        "this subscription missed events; sent to it alone";
    EventReplayed: "kairo.system.event.replayed", Volatile, Evolving, "0.1",
        "a replay is over; sent to its subscription alone";
    MetricsThreshold: "kairo.system.metrics.threshold", Batched, Evolving, "0.1",
        "a measurement of the machine went beyond its bound, came back, or its sensor went away";
    EventStore: "kairo.system.event.store", Batched, Evolving, "0.1",
        "the event log works, or does not";
}

/// Nothing beside the fact itself.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Ready {}

/// Nothing beside the fact itself.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Stopping {}

/// Which real-time plane it is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RtConnected {
    /// Name of the robot.
    pub robot: String,
    /// Build of kairo-rt.
    pub build: String,
    /// Whether bring-up was accepted.
    pub armed: bool,
}

/// What a failsafe machine decided.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RtFailsafe {
    /// The device.
    pub device: String,
    /// What it does now.
    pub action: String,
    /// Why.
    pub cause: String,
    /// Every cause that holds.
    pub live: Vec<String>,
    /// Whether an emergency stop is among them.
    pub estop: bool,
}

/// Why the link is down.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RtLost {
    /// In words.
    pub cause: String,
}

/// The device, and where it is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceAdded {
    /// The device.
    pub device: String,
    /// The device node of its bus.
    pub path: String,
}

/// The device, and why it is gone.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceRemoved {
    /// The device.
    pub device: String,
    /// Why, such as `bus_lost`.
    pub cause: String,
    /// The same in words.
    pub detail: String,
}

/// What is left of the device.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceDegraded {
    /// The device.
    pub device: String,
    /// As in `device.list`.
    pub status: &'static str,
    /// Why, such as `bus_lost`.
    pub cause: String,
    /// The same in words.
    pub detail: String,
}

/// Why the device takes its safe action.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceSafe {
    /// The device.
    pub device: String,
    /// Why, such as `expired`.
    pub cause: String,
}

/// The claim, and who has it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceClaimed {
    /// The device.
    pub device: String,
    /// The claim's epoch.
    pub epoch: u64,
    /// The connection that has it.
    pub connection: u64,
    /// The process; 0 when it lies outside kairod's pid namespace.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// The claim that ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceReleased {
    /// The device.
    pub device: String,
    /// The claim's epoch.
    pub epoch: u64,
    /// Why, such as `released`, `holder_gone`, `canceled`, `revoked`, `rt_lost`,
    /// `kairod_restarted`, `rebooted`.
    pub cause: String,
}

/// An intent as it begins.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct IntentStarted {
    /// Its id.
    pub intent: String,
    /// What it is called.
    pub name: String,
    /// The intent that it serves.
    pub parent: Option<String>,
    /// Who began it.
    pub owner: String,
}

/// An intent as it ends.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct IntentEnded {
    /// Its id.
    pub intent: String,
    /// What it is called; none where the kairod that knew it is gone.
    pub name: Option<String>,
    /// The intent that it served.
    pub parent: Option<String>,
    /// `completed`, `failed`, `canceled`, `expired`, `abandoned` or `interrupted`.
    pub status: &'static str,
    /// Why, in words.
    pub reason: String,
    /// `kairod_restarted` or `rebooted`, where a kairod that was killed did not end it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
}

/// Who serves what.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ServiceAdded {
    /// The namespace.
    pub namespace: String,
    /// The connection that serves it.
    pub connection: u64,
    /// Its process.
    pub pid: i32,
}

/// What is not served any more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ServiceRemoved {
    /// The namespace.
    pub namespace: String,
    /// `unregistered`, `process_gone`, `revoked`, `kairod_restarted` or `rebooted`.
    pub cause: String,
}

/// Whose connection began.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SessionStarted {
    /// Its connection.
    pub connection: u64,
    /// Its class.
    pub class: String,
    /// The name that the policy or its launcher gave it.
    pub name: Option<String>,
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: i32,
}

/// Whose connection ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SessionEnded {
    /// Its connection, by the number of the kairod that it was connected to.
    pub connection: Option<u64>,
    /// Why: `closed` or `kairod_stopped`; `kairod_restarted` or `rebooted` where a kairod that was
    /// killed did not tell it itself.
    pub cause: String,
}

/// What opening the audit log found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AuditFinding {
    /// In words.
    pub finding: String,
}

/// Who asked for what, and which rule said no.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PermissionDenied {
    /// The connection.
    pub connection: u64,
    /// Its class.
    pub class: &'static str,
    /// Its name; none without one.
    pub name: Option<String>,
    /// Its user.
    pub uid: u32,
    /// The right.
    pub right: &'static str,
    /// To what.
    pub target: String,
    /// The rule that decided.
    pub rule: String,
    /// Denials of the same user before this one that no event was made of.
    pub untold: u64,
}

/// A grant, and who gave it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PermissionGranted {
    /// The grant's number.
    pub grant: u64,
    /// Who gave it, in words.
    pub by: String,
    /// The request that asked for it; none where nobody did.
    pub request: Option<u64>,
}

/// A grant that is no more, and who took it away.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PermissionRevoked {
    /// The grant's number.
    pub grant: u64,
    /// Who took it away, in words, or `its end`; none where the kairod that knew is gone.
    pub by: Option<String>,
    /// `kairod_restarted` or `rebooted`, where a kairod that was killed did not tell it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
}

/// Why there is no place, as `error_info` of a response has it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConnectionRefused {
    /// The stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// What else there is to say, with the reason.
    pub details: serde_json::Value,
    /// Whether it is worth trying again.
    pub retryable: bool,
    /// After how many milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl From<ErrorInfo> for ConnectionRefused {
    fn from(error: ErrorInfo) -> Self {
        Self {
            code: error.code.to_string(),
            message: error.message,
            details: serde_json::to_value(&error.details).unwrap_or_default(),
            retryable: error.retryable,
            retry_after_ms: error.retry_after_ms,
        }
    }
}

/// Who asks for what.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PermissionRequested {
    /// The request's number: `permission.grant` and `permission.deny` take it.
    pub request: u64,
    /// The connection.
    pub connection: u64,
    /// Its class.
    pub class: &'static str,
    /// Its name; none without one.
    pub name: Option<String>,
    /// Its user.
    pub uid: u32,
    /// The right.
    pub right: &'static str,
    /// To what.
    pub target: String,
    /// Why, in the asker's words: not to be believed.
    pub reason: String,
    /// For how long, s; none for good.
    pub ttl_s: Option<u64>,
}

/// How a request ended. Everybody may see it, so it says no more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PermissionDecided {
    /// The request's number.
    pub request: u64,
    /// `granted`, `refused` or `expired`.
    pub outcome: &'static str,
    /// The grant's number; none where it was not granted.
    pub grant: Option<u64>,
}

/// What was missed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EventGap {
    /// The first number.
    pub from_seq: u64,
    /// The number after the last.
    pub to_seq: u64,
    /// How many events that is.
    pub lost: u64,
}

/// How a replay ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EventReplayed {
    /// Events that were shown.
    pub events: u64,
    /// Events that could not be read.
    pub damaged: u64,
    /// The number up to which it went.
    pub until_seq: u64,
    /// Why it could not go on; none when it did.
    pub error: Option<String>,
}

/// How the event log is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EventStore {
    /// `ready`, `salvaged`, `failing` or `absent`.
    pub state: &'static str,
    /// Why, in words; empty where all is well.
    pub cause: String,
    /// The newest number in it.
    pub head_seq: u64,
    /// Events that were saved from damage; none where there was none.
    pub salvaged: Option<u64>,
    /// Rows that could not be read.
    pub damaged: u64,
    /// The newest ranges that are lost.
    pub lost: Vec<LostRange>,
}

/// Numbers that are lost.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct LostRange {
    /// The first.
    pub from_seq: u64,
    /// The last.
    pub to_seq: u64,
}

/// A measurement and its bound.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MetricsThreshold {
    /// What is measured.
    pub metric: &'static str,
    /// By which sensor.
    pub sensor: String,
    /// `beyond`, `back` or `gone`.
    pub state: &'static str,
    /// The value; of a sensor that is gone, its last one.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Beyond this it is told.
    pub limit: f64,
    /// Within this it is back.
    pub back: f64,
}
