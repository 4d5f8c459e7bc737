//! The one table of methods, and the path of a request through it.
//!
//! A row says everything about a method: name, summary, permission class, the types of its
//! parameters and result, and the handler. `kernel.introspect` prints the same rows, so what is
//! documented, checked and done cannot differ. A method without a row does not exist; a row
//! without a permission does not compile.

mod audited;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use kairo_observe::context::Context;
use kairo_wire::message::{self, Message};
use kairo_wire::{ErrorInfo, Id, Limits, Meta, Request, Response, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::audit::Audited;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::large_frames::Share;
use crate::once::{self, Once};
use crate::outgoing::Item;
use crate::permission::{Class, DeviceLimits, Right};
use crate::reasons::Reason;
use crate::service_stream::Opening;
use crate::services::{Beside, Served, Service};
use crate::spans::Kind;
use crate::spelling;

/// Longest that any request may take, whatever deadline its caller allows.
const LONGEST: Duration = Duration::from_secs(60);

/// Room for most results, so that they are not moved while they are encoded.
const USUAL_RESULT_BYTES: usize = 256;

/// Longest text of a request's metadata, bytes; a W3C traceparent has 55.
pub const MAX_META_BYTES: usize = 256;

/// Which classes may call a method where no policy says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Sees, changes nothing but its own connection.
    Observe,
    /// Causes effects. What it may cause them on is a right of its own.
    Actuate,
    /// Tells others something. What about is a right of its own.
    Publish,
    /// Offers methods to others.
    Serve,
    /// Sees or changes what belongs to others.
    Admin,
}

impl Permission {
    /// The classes.
    pub const fn classes(self) -> &'static [Class] {
        match self {
            Self::Observe | Self::Publish => &Class::ALL,
            Self::Actuate => &[Class::Operator, Class::Agent, Class::Skill],
            Self::Serve => &[Class::Operator, Class::Driver, Class::Service],
            Self::Admin => &[Class::Operator],
        }
    }
}

/// How much a caller may rely on a method staying as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// Only ever extended.
    Stable,
    /// May change with a release; the changelog says so.
    Evolving,
}

/// For whom, and how, an idempotency key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// In memory, for the connection: its result, like a claim, is worth nothing on another one.
    OfConnection,
    /// For the caller's identity, written before it is done and with its result.
    Written,
    /// For the caller's identity, written by the handler in one with the effect.
    WithEffect,
}

/// Parameters of a method that takes none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// One request under way.
#[derive(Clone)]
pub struct Call {
    /// The daemon.
    pub daemon: Rc<Daemon>,
    /// Who asks.
    pub connection: Rc<Connection>,
    /// What came beside the parameters.
    pub meta: Meta,
    /// How far the rule goes that allowed it; without effect where the row names no right.
    pub limits: DeviceLimits,
    /// The key that the handler writes together with its effect, for the first who takes it.
    pub once: Rc<Cell<Option<Once>>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connection = self.connection.number;
        formatter
            .debug_struct("Call")
            .field("connection", &connection)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl Call {
    /// The trace that it belongs to; none outside of every trace.
    pub fn trace_id(&self) -> Option<String> {
        let context = Context::parse(self.meta.traceparent.as_deref()?)?;
        Some(context.trace_id.to_string())
    }

    /// How long to wait for something that should take at most `usual`.
    pub fn patience(&self, usual: Duration) -> Duration {
        match self.meta.deadline_ms {
            Some(allowed) => usual.min(Duration::from_millis(allowed)),
            None => usual,
        }
    }
}

/// An encoded result.
#[derive(Debug)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    /// Its share of the large frames, if it is one.
    share: Option<Share>,
}

impl From<Vec<u8>> for Encoded {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, share: None }
    }
}

/// A request being worked on; gives the encoded result.
pub type Work = Pin<Box<dyn Future<Output = Result<Encoded, ErrorInfo>>>>;
type Handler = Box<dyn Fn(Call, Value) -> Result<Work, ErrorInfo>>;

/// What a row's parameters name that the caller needs a right to.
#[derive(Debug)]
pub struct Guard<P> {
    /// The right.
    pub right: Right,
    /// The device, topic or scope that the parameters name.
    pub target: fn(&P) -> &str,
}

/// One row of the table.
pub struct Method {
    /// `namespace.method`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Who may call it where no policy says otherwise.
    pub permission: Permission,
    /// The right that the caller needs to what the parameters name.
    pub right: Option<Right>,
    /// How much a caller may rely on it.
    pub stability: Stability,
    /// The version of kairod that had it first.
    pub since: &'static str,
    /// JSON Schema of the parameters.
    pub params: serde_json::Value,
    /// JSON Schema of the result.
    pub result: serde_json::Value,
    /// For whom, and how, an idempotency key for it is kept.
    pub keeping: Keeping,
    /// How it is audited.
    pub audited: Audited,
    /// Whether it overtakes requests of its connection that wait.
    pub is_urgent: bool,
    handler: Handler,
}

impl std::fmt::Debug for Method {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

impl Method {
    /// A row whose handler takes `P` and gives `R`.
    pub fn new<P, R, F>(
        name: &'static str,
        permission: Permission,
        summary: &'static str,
        handler: impl Fn(Call, P) -> F + 'static,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + 'static,
        R: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<R, ErrorInfo>> + 'static,
    {
        Self::row(name, permission, summary, None, handler)
    }

    /// A row that needs a right to what its parameters name, checked before the handler runs.
    pub fn guarded<P, R, F>(
        name: &'static str,
        permission: Permission,
        guard: Guard<P>,
        summary: &'static str,
        handler: impl Fn(Call, P) -> F + 'static,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + 'static,
        R: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<R, ErrorInfo>> + 'static,
    {
        Self::row(name, permission, summary, Some(guard), handler)
    }

    fn row<P, R, F>(
        name: &'static str,
        permission: Permission,
        summary: &'static str,
        guard: Option<Guard<P>>,
        handler: impl Fn(Call, P) -> F + 'static,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + 'static,
        R: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<R, ErrorInfo>> + 'static,
    {
        let right = guard.as_ref().map(|guard| guard.right);
        let run = move |mut call: Call, params: Value| -> Result<Work, ErrorInfo> {
            let params = message::typed(&params).map_err(|error| {
                let text = format!("{name}: {error}; see kernel.introspect for its parameters");
                invalid(name).error(text)
            })?;
            if let Some(guard) = &guard {
                let target = (guard.target)(&params);
                call.limits = call.daemon.require(&call.connection, guard.right, target)?;
            }
            let work = handler(call, params);
            Ok(Box::pin(async move { encode(name, &work.await?) }))
        };
        Self {
            name,
            summary,
            permission,
            right,
            stability: Stability::Evolving,
            since: "0.1",
            params: schemars::schema_for!(P).into(),
            result: schemars::schema_for!(R).into(),
            keeping: Keeping::OfConnection,
            audited: Audited::No,
            is_urgent: false,
            handler: Box::new(run),
        }
    }

    /// Lets an idempotency key hold for all connections of the caller's identity, and over a
    /// restart.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.keeping = Keeping::Written;
        self
    }

    /// The same where the handler writes the key together with its effect ([`Call::once`]).
    #[must_use]
    pub fn repeatable_with_effect(mut self) -> Self {
        self.keeping = Keeping::WithEffect;
        self
    }

    /// Has it audited.
    #[must_use]
    pub fn audited(mut self, how: Audited) -> Self {
        self.audited = how;
        self
    }

    /// Lets it overtake what waits: for what calls something off and takes hardly any time.
    #[must_use]
    pub fn urgent(mut self) -> Self {
        self.is_urgent = true;
        self
    }

    /// Promises that the method is only ever extended.
    #[must_use]
    pub fn stable(mut self) -> Self {
        self.stability = Stability::Stable;
        self
    }
}

/// Why parameters of `method` are refused where nothing more is to be said.
fn invalid(method: &str) -> Reason {
    Reason::InvalidValue {
        method: Some(method.to_string()),
        part: None,
    }
}

/// Refuses parameters that the schema of `name` does not name, with the nearest name it does.
fn check_keys(name: &str, schema: &serde_json::Value, params: &Value) -> Result<(), ErrorInfo> {
    let refuse = |text: String| invalid(name).error(text);
    let Value::Map(entries) = params else {
        return Err(refuse(format!("params of {name} must be a map")));
    };
    let known = schema["properties"].as_object();
    for (key, _) in entries {
        let Some(key) = key.as_str() else {
            return Err(refuse(format!("{name}: parameter name {key} is no text")));
        };
        if known.is_some_and(|known| known.contains_key(key)) {
            continue;
        }
        let names = known.into_iter().flat_map(|known| known.keys());
        let hint = match spelling::nearest(key, names.map(String::as_str), 2) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "see kernel.introspect for its parameters".into(),
        };
        let shown = spelling::shown(key);
        let text = format!("{name} has no parameter `{shown}`; {hint}");
        let (method, key) = (name.to_string(), shown);
        return Err(Reason::UnknownKey { method, key }.error(text));
    }
    Ok(())
}

/// Refuses metadata that is longer than any tracing scheme needs: it is copied into events, and
/// those are kept.
fn check_meta(meta: &Meta) -> Result<(), ErrorInfo> {
    let texts = [
        ("correlation_id", &meta.correlation_id),
        ("causation_id", &meta.causation_id),
        ("traceparent", &meta.traceparent),
    ];
    for (name, text) in texts {
        let bytes = text.as_ref().map_or(0, String::len);
        if bytes > MAX_META_BYTES {
            let text = format!("meta.{name} has {bytes} bytes, allowed are {MAX_META_BYTES}");
            return Err(Reason::MetaTooLong.error(text));
        }
    }
    Ok(())
}

/// Refuses effects in the name of an intent that was called off or has ended otherwise: what was
/// on its way then must not happen afterwards.
pub fn check_intent(daemon: &Daemon, meta: &Meta) -> Result<(), ErrorInfo> {
    match &meta.correlation_id {
        Some(id) if daemon.intents.borrow().has_ended(id) => {
            Err(daemon.intents.borrow().missing(id))
        }
        _ => Ok(()),
    }
}

/// Refuses a key that is given twice: which one a command means must not depend on the decoder.
/// Recursion is bounded by the depth that the scan allows.
fn check_duplicates(value: &Value) -> Result<(), ErrorInfo> {
    match value {
        Value::Array(items) => items.iter().try_for_each(check_duplicates),
        Value::Map(entries) => {
            let mut seen = BTreeSet::new();
            for (key, value) in entries {
                if let Some(key) = key.as_str()
                    && !seen.insert(key)
                {
                    let shown: String = key.chars().take(64).collect();
                    let text = format!("key `{shown}` is given twice; give it once");
                    return Err(Reason::DuplicateKey { key: shown }.error(text));
                }
                check_duplicates(value)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A result as it travels.
fn encode<R: Serialize>(name: &str, result: &R) -> Result<Encoded, ErrorInfo> {
    let mut bytes = Vec::with_capacity(USUAL_RESULT_BYTES);
    match rmp_serde::encode::write_named(&mut bytes, result) {
        Ok(()) => Ok(bytes.into()),
        Err(error) => {
            let text = format!("the result of {name} cannot be encoded: {error}");
            Err(Reason::Internal.error(text))
        }
    }
}

/// The table, and what passed through it.
#[derive(Debug)]
pub struct Router {
    methods: Vec<Method>,
    requests: Cell<u64>,
    refusals: Cell<u64>,
}

impl Router {
    /// A router over these rows.
    pub fn new(mut methods: Vec<Method>) -> Self {
        methods.sort_by_key(|method| method.name);
        Self {
            methods,
            requests: Cell::new(0),
            refusals: Cell::new(0),
        }
    }

    /// The rows, by name.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Requests taken and refused since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.requests.get(), self.refusals.get())
    }

    /// Whether a request for `name` overtakes those that wait.
    pub fn is_urgent(&self, name: &str) -> bool {
        let found = self
            .methods
            .binary_search_by_key(&name, |method| method.name);
        found.is_ok_and(|index| self.methods.get(index).is_some_and(|row| row.is_urgent))
    }

    /// The row of that name.
    pub fn find(&self, name: &str) -> Result<&Method, ErrorInfo> {
        let found = self
            .methods
            .binary_search_by_key(&name, |method| method.name);
        found
            .ok()
            .and_then(|index| self.methods.get(index))
            .ok_or_else(|| {
                let names = self.methods.iter().map(|method| method.name);
                let hint = spelling::nearest(name, names, 3).map_or_else(
                    || "kernel.introspect lists them".into(),
                    |near| format!("did you mean {near}?"),
                );
                let shown = spelling::shown(name);
                let text = format!("there is no method {shown:?}; {hint}");
                Reason::UnknownMethod { method: shown }.error(text)
            })
    }

    /// Starts another method in the name of a call that is under way, if its caller may call that
    /// one too.
    pub fn ask(&self, call: &Call, name: &str, params: Value) -> Result<Work, ErrorInfo> {
        let method = self.find(name)?;
        let daemon = &call.daemon;
        daemon.require_method(&call.connection, method.name, method.permission)?;
        (method.handler)(call.clone(), params)
    }

    /// Checks a request as far as that is possible without doing it, and starts it.
    pub fn start(
        daemon: &Rc<Daemon>,
        connection: &Rc<Connection>,
        method: &Method,
        meta: Meta,
        params: Value,
        once: Option<Once>,
    ) -> Result<Work, ErrorInfo> {
        let call = Call {
            daemon: Rc::clone(daemon),
            connection: Rc::clone(connection),
            meta,
            limits: DeviceLimits::default(),
            once: Rc::new(Cell::new(once)),
        };
        match method.audited {
            Audited::No => (method.handler)(call, params),
            Audited::After => Ok(audited::after(method, call, params)),
            Audited::Before => Ok(audited::before(method.name, call, params)),
        }
    }

    fn check(
        &self,
        daemon: &Rc<Daemon>,
        connection: &Rc<Connection>,
        request: Request,
        share: Option<Share>,
    ) -> Result<Work, ErrorInfo> {
        if daemon.is_draining() {
            let text = "kairod is stopping; try again";
            return Err(Reason::Draining.error_retried(text, 1000));
        }
        let method = match self.find(&request.method) {
            Ok(method) => method,
            Err(unknown) => {
                return match daemon.services.find(&request.method) {
                    Some((service, method)) => {
                        start_served(daemon, connection, (&service, &method), request, share)
                    }
                    None => Err(unknown),
                };
            }
        };
        if share.is_some() {
            let text = format!("{} takes no large request: only services do", method.name);
            return Err(Reason::TooLarge.error(text));
        }
        daemon.require_method(connection, method.name, method.permission)?;
        let meta = request.meta.unwrap_or_default();
        check_meta(&meta)?;
        if method.permission != Permission::Observe {
            check_intent(daemon, &meta)?;
        }
        let params = request.params.unwrap_or_else(|| Value::Map(Vec::new()));
        check_keys(method.name, &method.params, &params)?;
        check_duplicates(&params)?;
        match meta.idempotency_key.clone() {
            // What changes nothing may simply be done again.
            Some(key) if method.permission != Permission::Observe => {
                once::start(daemon, connection, method, &key, meta, params)
            }
            _ => Self::start(daemon, connection, method, meta, params, None),
        }
    }

    /// Takes a request. Everything up to its first wait happens now, so requests of a connection
    /// begin in the order in which they came; what is left is given back to be awaited.
    pub fn take(
        &self,
        daemon: &Rc<Daemon>,
        connection: &Rc<Connection>,
        mut request: Request,
        share: Option<Share>,
    ) -> impl Future<Output = Item> + 'static {
        self.requests.set(self.requests.get() + 1);
        let span = daemon.tracer.begin(connection, &mut request);
        let id = request.id.clone();
        let name = request.method.clone();
        let deadline = request.meta.as_ref().and_then(|meta| meta.deadline_ms);
        let allowed = deadline.map_or(LONGEST, |ms| Duration::from_millis(ms).min(LONGEST));
        let started = self.check(daemon, connection, request, share);
        let daemon = Rc::clone(daemon);
        let caller = Rc::clone(connection);
        let limits = connection.limits();
        async move {
            let result = match started {
                Ok(work) => tokio::time::timeout(allowed, work)
                    .await
                    .unwrap_or_else(|_| Err(too_late(&name, allowed))),
                Err(error) => Err(error),
            };
            let answered = result.and_then(|result| answer(&name, id.as_ref(), result, limits));
            let trace_id = span.as_ref().map(|span| span.trace_id().to_string());
            if let Some(span) = span {
                span.end(&answered);
            }
            match answered {
                Ok(item) => item,
                Err(error) => {
                    let refusals = &daemon.router.refusals;
                    refusals.set(refusals.get() + 1);
                    if error.code == kairo_wire::ErrorCode::Internal {
                        tracing::error!(
                            caller = %caller.identity.as_subject(),
                            pid = caller.identity.pid(),
                            trace_id,
                            "{name}: {error}"
                        );
                    }
                    refusal(id, error).into()
                }
            }
        }
    }
}

/// Starts a request that another process serves.
fn start_served(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    (service, method): (&Rc<Service>, &Served),
    request: Request,
    share: Option<Share>,
) -> Result<Work, ErrorInfo> {
    daemon.require_method(connection, &method.name, method.permission)?;
    let meta = request.meta.unwrap_or_default();
    check_meta(&meta)?;
    if method.permission != Permission::Observe {
        check_intent(daemon, &meta)?;
    }
    if meta.idempotency_key.is_some() {
        // Only the service knows what "once" means for it.
        let text = format!(
            "{} is served by another process, which keeps no keys",
            method.name
        );
        return Err(Reason::IdempotencyKeyServed.error(text));
    }
    let mut params = request.params.unwrap_or_else(|| Value::Map(Vec::new()));
    check_duplicates(&params)?;
    let begin = |params| Opening::begin(daemon, connection, service, method, params, &meta);
    let mut opening = method.stream.then(|| begin(&mut params)).transpose()?;
    if method.params["additionalProperties"] == false {
        check_keys(&method.name, &method.params, &params)?;
    }
    let caller = connection.identity.view(connection.number);
    let stream = opening.as_ref().and_then(Opening::terms);
    let mut meta = meta;
    let span = daemon.tracer.child(&meta, || &method.name, Kind::Client);
    let span = span.map(|mut span| {
        span.put("service", service.namespace.as_str());
        meta.traceparent = Some(span.traceparent());
        span
    });
    let beside = Beside { stream, share };
    let pending = service.ask(&method.name, params, &meta, &caller, beside);
    if let (Ok(_), Some(opening)) = (&pending, &mut opening) {
        opening.asked();
    }
    let name = method.name.clone();
    Ok(Box::pin(async move {
        let result = match pending {
            Ok(pending) => pending.result().await,
            Err(error) => Err(error),
        };
        if let Some(span) = span {
            span.end(&result);
        }
        let (result, share) = result?;
        let result = match opening {
            Some(opening) => opening.open(result)?,
            None => result,
        };
        let bytes = encode(&name, &result)?.bytes;
        Ok(Encoded { bytes, share })
    }))
}

/// The frame of a result; empty for a notification, which gets no response.
fn answer(
    name: &str,
    id: Option<&Id>,
    result: Encoded,
    mut limits: Limits,
) -> Result<Item, ErrorInfo> {
    let Some(id) = id else {
        return Ok(Item::default());
    };
    if result.share.is_none() {
        // What has no share of the memory for large frames may not become one.
        limits = Limits::default();
    }
    let frame = message::response_frame(id, &result.bytes, &limits).map_err(|error| {
        let text = format!("the result of {name} cannot be sent: {error}");
        Reason::ResultTooLarge.error(text)
    })?;
    Ok(Item::holding(frame, result.share))
}

fn too_late(name: &str, allowed: Duration) -> ErrorInfo {
    let text = format!("{name} did not finish within {} ms", allowed.as_millis());
    Reason::Deadline.error(text)
}

/// The frame that refuses a request; empty where there is no id to answer to.
pub fn refusal(id: Option<Id>, error: ErrorInfo) -> Vec<u8> {
    let Some(id) = id else {
        return Vec::new();
    };
    let limits = Limits::default();
    let whole = Response::refuse(id.clone(), error).encode(&limits);
    whole
        .or_else(|_| {
            // Our own texts are short. Whatever this one is, its caller must not wait for ever.
            let text = "the request failed with an error that is too long to be sent";
            Response::refuse(id, Reason::Internal.error(text)).encode(&limits)
        })
        .unwrap_or_default()
}
