//! `kernel.*`: is it there, what does it offer, who am I to it.

use kairo_link::MonoNs;
use kairo_wire::frame::LARGE_CONTROL_BYTES;
use kairo_wire::sealed::MAX_SEALED_BYTES;
use kairo_wire::{ErrorCode, ErrorInfo, Id, Limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::Audited;
use crate::connection::{FRAME_TIMEOUT, MAX_IN_FLIGHT};
use crate::daemon::Daemon;
use crate::outgoing;
use crate::permission::{Class, Right};
use crate::router::{Call, Method, NoParams, Permission, Stability};
use crate::services::{Served, Service};
use crate::topics;
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
            "Lists methods with schemas and permissions, topics and error codes.",
            async |call, params| introspect(&call, &params),
        )
        .stable(),
        Method::new(
            "kernel.cancel",
            Permission::Observe,
            "Cancels a request of this connection that is under way; it answers E_CANCELED.",
            async |call, params| Ok(cancel(&call, &params)),
        ),
        Method::new(
            "kernel.confine",
            Permission::Observe,
            "Makes this connection less than it is, for good: before it is handed to a program.",
            async |call, params| confine(&call, params),
        )
        .audited(Audited::After),
        Method::new(
            "kernel.diagnostics",
            Permission::Admin,
            "Shows every connection with its peer, queue and subscriptions.",
            async |call, NoParams {}| Ok(diagnostics(&call)),
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
struct HelloLimits {
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

fn hello(call: &Call, params: &HelloParams) -> Hello {
    let asked = |feature: &&&str| params.features.iter().any(|asked| asked == **feature);
    call.connection.negotiate(&params.features);
    let limits = Limits::default();
    Hello {
        protocol: u32::from(kairo_wire::frame::VERSION),
        server: concat!("kairod ", env!("CARGO_PKG_VERSION")).into(),
        features: FEATURES.iter().filter(asked).copied().collect(),
        features_offered: FEATURES,
        limits: HelloLimits {
            control_bytes: limits.control_bytes,
            chunk_bytes: limits.chunk_bytes,
            depth: limits.depth,
            values: limits.values,
            in_flight: MAX_IN_FLIGHT,
            outgoing_bytes: outgoing::LIMIT_BYTES,
            frame_timeout_ms: FRAME_TIMEOUT.as_millis() as u64,
            large_control_bytes: LARGE_CONTROL_BYTES,
            descriptor_bytes: MAX_SEALED_BYTES,
        },
        identity: call.connection.identity.view(call.connection.number),
    }
}

/// A request's id, as the protocol has it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
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
        return Err(ErrorInfo::new(ErrorCode::InvalidParams, text));
    }
    let identity = &call.connection.identity;
    let before = identity.subject();
    if before.class.may_confine()
        && let Some(what) = call.daemon.in_force_of(&call.connection)
    {
        // It would stay in force, with rights that the connection has no more.
        let text = format!("this connection has {what}; confine it before it does anything else");
        return Err(ErrorInfo::new(ErrorCode::Conflict, text).reason("in_use"));
    }
    if !identity.confine(params.class, params.name) {
        let text = format!("{before} cannot say what it is; only an operator's connection can");
        return Err(ErrorInfo::new(ErrorCode::PermissionDenied, text).reason("more"));
    }
    Ok(identity.view(call.connection.number))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IntrospectParams {
    /// Only this method.
    method: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Introspection {
    /// Version of the wire protocol.
    protocol: u32,
    /// The methods, by name.
    methods: Vec<MethodView>,
    /// Topics that are published.
    topics: Vec<TopicView>,
    /// Error codes.
    errors: Vec<String>,
    /// SHA-256 of the methods, to know whether a cached copy is still good.
    digest: String,
}

#[derive(Serialize, JsonSchema)]
struct MethodView {
    name: String,
    summary: String,
    permission: Permission,
    /// The classes that may call it where no policy says otherwise.
    classes: &'static [Class],
    /// The right that the caller needs to what the parameters name; none where they name nothing.
    right: Option<Right>,
    stability: Stability,
    /// The version that had it first.
    since: &'static str,
    /// The connection of the process that serves it; none where kairod does.
    served_by: Option<u64>,
    /// Whether a call of it opens a stream, and takes `policy` and `credit_bytes` beside its own
    /// parameters. Only of what other processes serve.
    stream: bool,
    /// How it is audited: `no`, `before` (or it does not happen), `after`.
    audited: Audited,
    /// Whether an idempotency key holds for all connections of the caller's identity.
    idempotent_across_connections: bool,
    /// JSON Schema.
    params: serde_json::Value,
    /// JSON Schema.
    result: serde_json::Value,
}

#[derive(Serialize, JsonSchema)]
struct TopicView {
    topic: &'static str,
    aliases: Vec<String>,
    summary: &'static str,
}

fn view(method: &Method) -> MethodView {
    MethodView {
        name: method.name.into(),
        summary: method.summary.into(),
        permission: method.permission,
        classes: method.permission.classes(),
        right: method.right,
        stability: method.stability,
        since: method.since,
        served_by: None,
        stream: false,
        audited: method.audited,
        idempotent_across_connections: method.across_connections,
        params: method.params.clone(),
        result: method.result.clone(),
    }
}

/// A method that another process serves: it may be gone, or other, a moment later.
fn served_view(service: &Service, method: &Served) -> MethodView {
    MethodView {
        name: method.name.clone(),
        summary: method.summary.clone(),
        permission: method.permission,
        classes: method.permission.classes(),
        right: None,
        stability: Stability::Evolving,
        since: "",
        served_by: Some(service.connection.number),
        stream: method.stream,
        audited: Audited::No,
        idempotent_across_connections: false,
        params: method.params.clone(),
        result: method.result.clone(),
    }
}

/// Every method, by name, or the one that is asked for.
fn methods_view(daemon: &Daemon, wanted: Option<&str>) -> Result<Vec<MethodView>, ErrorInfo> {
    let router = &daemon.router;
    if let Some(name) = wanted {
        let served = daemon.services.find(name);
        return Ok(vec![match served {
            Some((service, method)) => served_view(&service, &method),
            None => view(router.find(name)?),
        }]);
    }
    let mut all: Vec<MethodView> = router.methods().iter().map(view).collect();
    for service in daemon.services.all() {
        let methods = service.methods.values();
        all.extend(methods.map(|method| served_view(&service, method)));
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn introspect(call: &Call, params: &IntrospectParams) -> Result<Introspection, ErrorInfo> {
    let methods = methods_view(&call.daemon, params.method.as_deref())?;
    let text = serde_json::to_vec(&methods)
        .map_err(|error| ErrorInfo::new(ErrorCode::Internal, error.to_string()))?;
    let digest = Sha256::digest(&text);
    Ok(Introspection {
        protocol: u32::from(kairo_wire::frame::VERSION),
        methods,
        topics: topics::TOPICS
            .iter()
            .map(|(topic, summary)| TopicView {
                topic,
                aliases: topics::aliases(topic),
                summary,
            })
            .collect(),
        errors: ErrorCode::ALL.iter().map(ToString::to_string).collect(),
        digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

#[derive(Serialize, JsonSchema)]
struct Diagnostics {
    /// Requests taken since the start.
    requests: u64,
    /// Requests refused since the start.
    refusals: u64,
    /// Connections turned away because there were too many.
    refused_connections: u64,
    /// The connections.
    connections: Vec<ConnectionView>,
}

#[derive(Serialize, JsonSchema)]
struct ConnectionView {
    peer: Peer,
    /// Bytes that wait to be written.
    outgoing_bytes: usize,
    /// Requests under way.
    in_flight: usize,
    /// Names of its subscriptions.
    subscriptions: Vec<String>,
}

fn diagnostics(call: &Call) -> Diagnostics {
    let (requests, refusals) = call.daemon.router.counts();
    let connections = call.daemon.connections.borrow();
    let connections = connections.values().map(|connection| ConnectionView {
        peer: connection.identity.view(connection.number),
        outgoing_bytes: connection.outgoing.bytes(),
        in_flight: connection.in_flight(),
        subscriptions: connection.subscriptions.borrow().keys().cloned().collect(),
    });
    Diagnostics {
        requests,
        refusals,
        refused_connections: call.daemon.refused_connections.get(),
        connections: connections.collect(),
    }
}
