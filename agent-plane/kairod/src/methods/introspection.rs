//! `kernel.introspect`: the tables of methods, topics and errors as they are told to others.
//!
//! The order is that of the names, and for errors that of the tables, so the same kairod always
//! gives the same bytes. `digest` covers everything of kairod's own: a client that keeps a copy
//! sends it and is told `unchanged` in a few bytes. What other processes serve comes and goes; it
//! is listed among the methods, always, and has a digest of its own.

use kairo_wire::{ErrorCode, ErrorInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::Audited;
use crate::daemon::Daemon;
use crate::facts::{self, Topic};
use crate::permission::{Class, Right};
use crate::reasons::{self, Reason, Row};
use crate::router::{Call, Keeping, Method, Permission, Stability};
use crate::services::{Served, Service};
use crate::topics;

/// Served methods in one answer, bytes of their JSON: with the names of the rest and everything of
/// kairod's own it stays below the 1 MiB of a frame.
const SERVED_BYTES: usize = 256 * 1024;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectParams {
    /// Only this method; no topics, no errors.
    method: Option<String>,
    /// Only the methods and topics of this namespace, such as `device`; no errors.
    namespace: Option<String>,
    /// Only these.
    kind: Option<Kind>,
    /// The `digest` of a copy: while it is still good, what it covers is left out.
    digest: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Methods,
    Topics,
    Errors,
}

#[derive(Serialize, JsonSchema)]
pub struct Introspection {
    /// Version of the wire protocol.
    protocol: u32,
    /// The `digest` that was sent is still good: `methods` has the served ones only, `topics` and
    /// `errors` are empty.
    unchanged: bool,
    /// The methods, by name.
    methods: Vec<MethodView>,
    /// Topics that kairod publishes, by name.
    topics: Vec<TopicView>,
    /// Error codes with their reasons.
    errors: Vec<ErrorView>,
    /// SHA-256 of all methods, topics and errors of kairod's own, whatever was asked for.
    digest: String,
    /// SHA-256 of the methods that other processes serve.
    served_digest: String,
    /// Served methods that would have made the answer too long: ask for them by `namespace` or
    /// `method`.
    left_out: Vec<String>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
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
    /// Whether it overtakes requests of its connection that wait.
    urgent: bool,
    /// JSON Schema.
    params: serde_json::Value,
    /// JSON Schema.
    result: serde_json::Value,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct TopicView {
    topic: &'static str,
    /// Other names of the same events.
    aliases: Vec<String>,
    summary: &'static str,
    /// `volatile`, `batched` or `synchronous`: what a crash and a power cut leave of it.
    class: &'static str,
    /// The right that a subscriber needs to it.
    right: Right,
    stability: Stability,
    /// The version that had it first.
    since: &'static str,
    /// JSON Schema of `data`.
    data: serde_json::Value,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ErrorView {
    code: &'static str,
    /// What it means.
    summary: &'static str,
    /// Only ever added to.
    stability: Stability,
    /// The version that had it first.
    since: &'static str,
    /// What `details.reason` can say beside it. A served method has reasons of its own.
    reasons: Vec<ReasonView>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ReasonView {
    reason: &'static str,
    /// What it means.
    summary: &'static str,
    /// Whether the same request can succeed later without anything being changed.
    retryable: bool,
    /// What to do.
    remedy: &'static str,
    /// JSON Schema of `details`.
    details: serde_json::Value,
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
        idempotent_across_connections: method.keeping != Keeping::OfConnection,
        urgent: method.is_urgent,
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
        urgent: false,
        params: method.params.clone(),
        result: method.result.clone(),
    }
}

fn topic_view(topic: &Topic) -> TopicView {
    TopicView {
        topic: topic.name,
        aliases: topics::aliases(topic.name),
        summary: topic.summary,
        class: topic.class.name(),
        right: Right::TopicSubscribe,
        stability: topic.stability,
        since: topic.since,
        data: (topic.data)().into(),
    }
}

fn reason_view(row: &Row) -> ReasonView {
    ReasonView {
        reason: row.name,
        summary: row.meaning,
        retryable: row.retryable,
        remedy: row.remedy,
        details: row.details_schema(),
    }
}

fn error_view(code: &'static ErrorCode) -> ErrorView {
    let rows = reasons::ROWS.iter().filter(|row| row.code == *code);
    ErrorView {
        code: code.name(),
        summary: code.meaning(),
        stability: Stability::Stable,
        since: "0.1",
        reasons: rows.map(reason_view).collect(),
    }
}

/// Everything that kairod itself has, in order. It does not change while kairod runs.
#[derive(Debug, Serialize)]
pub struct Own {
    methods: Vec<MethodView>,
    topics: Vec<TopicView>,
    errors: Vec<ErrorView>,
    #[serde(skip)]
    digest: String,
}

fn own(daemon: &Daemon) -> Result<&Own, ErrorInfo> {
    if let Some(own) = daemon.introspected.get() {
        return Ok(own);
    }
    let methods = daemon.router.methods().iter().map(view).collect();
    let mut topics: Vec<TopicView> = facts::TOPICS
        .iter()
        .map(|topic| topic_view(topic))
        .collect();
    topics.sort_by_key(|topic| topic.topic);
    let mut own = Own {
        methods,
        topics,
        errors: ErrorCode::ALL.iter().map(error_view).collect(),
        digest: String::new(),
    };
    own.digest = digest(&own)?;
    Ok(daemon.introspected.get_or_init(|| own))
}

/// What other processes serve, by name.
fn served(daemon: &Daemon) -> Vec<MethodView> {
    let mut all = Vec::new();
    for service in daemon.services.all() {
        let methods = service.methods.values();
        all.extend(methods.map(|method| served_view(&service, method)));
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn digest<T: Serialize>(what: &T) -> Result<String, ErrorInfo> {
    let text =
        serde_json::to_vec(what).map_err(|error| Reason::Internal.error(error.to_string()))?;
    let digest = Sha256::digest(&text);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The namespace of a method or of a topic.
fn namespace(name: &str) -> &str {
    let name = name.strip_prefix("kairo.system.").unwrap_or(name);
    name.split('.').next().unwrap_or_default()
}

pub fn introspect(call: &Call, params: &IntrospectParams) -> Result<Introspection, ErrorInfo> {
    let daemon = &call.daemon;
    if let Some(name) = &params.method
        && daemon.services.find(name).is_none()
    {
        daemon.router.find(name)?;
    }
    let own = own(daemon)?;
    let served = served(daemon);
    let served_digest = digest(&served)?;
    let unchanged = params.digest.as_ref() == Some(&own.digest);
    let wants = |kind: Kind| params.kind.is_none_or(|wanted| wanted == kind);
    let within = |name: &str| {
        let wanted = params.namespace.as_deref();
        wanted.is_none_or(|wanted| namespace(name) == wanted)
    };
    let wanted = |name: &str| {
        let one = params.method.as_deref();
        within(name) && one.is_none_or(|one| one == name)
    };
    let mut methods = Vec::new();
    let mut left_out = Vec::new();
    if wants(Kind::Methods) {
        let mut bytes = 0;
        for method in served.into_iter().filter(|method| wanted(&method.name)) {
            bytes += serde_json::to_vec(&method).map_or(usize::MAX, |text| text.len());
            match bytes <= SERVED_BYTES {
                true => methods.push(method),
                false => left_out.push(method.name),
            }
        }
    }
    let (mut topics, mut errors) = (Vec::new(), Vec::new());
    if !unchanged && wants(Kind::Methods) {
        let own = own.methods.iter().filter(|method| wanted(&method.name));
        methods.extend(own.cloned());
        methods.sort_by(|one, other| one.name.cmp(&other.name));
    }
    if !unchanged && wants(Kind::Topics) && params.method.is_none() {
        let own = own.topics.iter().filter(|topic| within(topic.topic));
        topics.extend(own.cloned());
    }
    if !unchanged && wants(Kind::Errors) && params.method.is_none() && params.namespace.is_none() {
        errors.extend(own.errors.iter().cloned());
    }
    Ok(Introspection {
        protocol: u32::from(kairo_wire::frame::VERSION),
        unchanged,
        methods,
        topics,
        errors,
        digest: own.digest.clone(),
        served_digest,
        left_out,
    })
}
