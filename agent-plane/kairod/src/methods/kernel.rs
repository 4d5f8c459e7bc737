//! `kernel.*`: is it there, what does it offer, who am I to it.

use kairo_link::MonoNs;
use kairo_wire::frame::LARGE_CONTROL_BYTES;
use kairo_wire::sealed::MAX_SEALED_BYTES;
use kairo_wire::{ErrorInfo, Id, Limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::introspection;
use crate::audit::Audited;
use crate::connection::{FRAME_TIMEOUT, MAX_IN_FLIGHT};
use crate::outgoing;
use crate::permission::Class;
use crate::reasons::Reason;
use crate::router::{Call, Method, NoParams, Permission};
use crate::views::Peer;

/// Optional features that a client can ask for.
const FEATURES: &[&str] = &["cancel", "credit", "large_frames", "descriptors"];

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "kernel.ping",
            Permission::Observe,
            "Answers at once, with the machine's monotonic time.",
            async |_, NoParams {}| Ok(ping()),
        )
        .stable(),
        Method::new(
            "kernel.hello",
            Permission::Observe,
            "Negotiates features and says the limits and who the caller is to the kernel.",
            async |call, params| Ok(hello(&call, &params)),
        )
        .stable(),
        Method::new(
            "kernel.introspect",
            Permission::Observe,
            "Lists methods, topics and errors with their schemas, or says that nothing changed.",
            async |call, params| introspection::introspect(&call, &params),
        )
        .stable(),
        Method::new(
            "kernel.cancel",
            Permission::Observe,
            "Cancels a request of this connection that is under way; it answers E_CANCELED.",
            async |call, params| Ok(cancel(&call, &params)),
        )
        .urgent(),
        Method::new(
            "kernel.confine",
            Permission::Observe,
            "Makes this connection less than it is, for good: before it is handed to a program.",
            async |call, params| confine(&call, params),
        )
        .audited(Audited::After),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Pong {
    /// CLOCK_MONOTONIC, ns.
    monotonic_ns: u64,
}

fn ping() -> Pong {
    Pong {
        monotonic_ns: MonoNs::now().0,
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HelloParams {
    /// Features the client would like.
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Hello {
    /// Version of the wire protocol.
    protocol: u32,
    /// Name and version of this kernel.
    server: String,
    /// What was asked for and is granted.
    features: Vec<&'static str>,
    /// What could be asked for.
    features_offered: &'static [&'static str],
    /// What a client must keep within.
    limits: HelloLimits,
    /// The caller, as the machine's kernel identifies it.
    identity: Peer,
}

#[derive(Serialize, JsonSchema)]
pub struct HelloLimits {
    /// Longest request, response and event, bytes.
    control_bytes: usize,
    /// Longest stream chunk, bytes.
    chunk_bytes: usize,
    /// Deepest nesting.
    depth: usize,
    /// Most values in a message.
    values: usize,
    /// Requests of a connection under way at once.
    in_flight: usize,
    /// Bytes that may wait for a slow reader before pushes are held back.
    outgoing_bytes: usize,
    /// How long a frame may take from first to last byte, ms.
    frame_timeout_ms: u64,
    /// Longest request to a service and its response with `large_frames`, bytes.
    large_control_bytes: usize,
    /// Longest payload in a descriptor with `descriptors`, bytes.
    descriptor_bytes: u64,
}

impl HelloLimits {
    /// Those of this kairod.
    pub fn own() -> Self {
        let limits = Limits::default();
        Self {
            control_bytes: limits.control_bytes,
            chunk_bytes: limits.chunk_bytes,
            depth: limits.depth,
            values: limits.values,
            in_flight: MAX_IN_FLIGHT,
            outgoing_bytes: outgoing::LIMIT_BYTES,
            frame_timeout_ms: FRAME_TIMEOUT.as_millis() as u64,
            large_control_bytes: LARGE_CONTROL_BYTES,
            descriptor_bytes: MAX_SEALED_BYTES,
        }
    }
}

fn hello(call: &Call, params: &HelloParams) -> Hello {
    let asked = |feature: &&&str| params.features.iter().any(|asked| asked == **feature);
    call.connection.negotiate(&params.features);
    Hello {
        protocol: u32::from(kairo_wire::frame::VERSION),
        server: concat!("kairod ", env!("CARGO_PKG_VERSION")).into(),
        features: FEATURES.iter().filter(asked).copied().collect(),
        features_offered: FEATURES,
        limits: HelloLimits::own(),
        identity: call.connection.identity.view(call.connection.number),
    }
}

/// A request's id, as the protocol has it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an id: a whole number or a text")]
enum IdParam {
    Number(i64),
    Text(String),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelParams {
    /// The id that the request was sent with.
    id: IdParam,
}

#[derive(Serialize, JsonSchema)]
struct Canceled {
    /// Whether it was under way. Otherwise it has been answered, or was never sent.
    canceled: bool,
}

fn cancel(call: &Call, params: &CancelParams) -> Canceled {
    let id = match &params.id {
        IdParam::Number(number) => Id::Number(*number),
        IdParam::Text(text) => Id::Text(text.clone()),
    };
    Canceled {
        canceled: call.connection.cancel(&id),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConfineParams {
    /// What it becomes.
    class: Class,
    /// The name that rules can mean it by: letters, digits, `_`, `-`, at most 64. It stays.
    name: Option<String>,
}

fn confine(call: &Call, params: ConfineParams) -> Result<Peer, ErrorInfo> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if let Some(name) = &params.name
        && !((1..=64).contains(&name.len()) && name.bytes().all(plain))
    {
        let shown: String = name.chars().take(64).collect();
        let text = format!("{shown:?} is no name: 1 to 64 letters, digits, `_`, `-`");
        return Err(Reason::invalid().error(text));
    }
    let identity = &call.connection.identity;
    let before = identity.subject();
    if before.class.may_confine()
        && let Some(what) = call.daemon.in_force_of(&call.connection)
    {
        // It would stay in force, with rights that the connection has no more.
        let text = format!("this connection has {what}; confine it before it does anything else");
        return Err(Reason::InUse.error(text));
    }
    if !identity.confine(params.class, params.name) {
        let text = format!("{before} cannot say what it is; only an operator's connection can");
        return Err(Reason::More.error(text));
    }
    call.daemon.session_started(&call.connection);
    Ok(identity.view(call.connection.number))
}
