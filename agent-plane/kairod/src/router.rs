//! The one table of methods, and the path of a request through it.
//!
//! A row says everything about a method: name, summary, permission class, the types of its
//! parameters and result, and the handler. `kernel.introspect` prints the same rows, so what is
//! documented, checked and done cannot differ. A method without a row does not exist; a row
//! without a permission does not compile.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::message::{self, Message};
use kairo_wire::{ErrorCode, ErrorInfo, Id, Limits, Meta, Request, Response, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::spelling;

/// Longest that any request may take, whatever deadline its caller allows.
const LONGEST: Duration = Duration::from_secs(60);

/// Longest text of a request's metadata, bytes; a W3C traceparent has 55.
const MAX_META_BYTES: usize = 256;

/// What a caller needs to be allowed. Decided in [`crate::identity::Identity::may`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Sees, changes nothing.
    Observe,
    /// Moves things.
    Actuate,
    /// Sees or changes what belongs to others.
    Admin,
}

impl Permission {
    const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Actuate => "actuate",
            Self::Admin => "admin",
        }
    }
}

/// Parameters of a method that takes none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// One request under way.
#[derive(Clone, Debug)]
pub struct Call {
    /// The daemon.
    pub daemon: Rc<Daemon>,
    /// Who asks.
    pub connection: Rc<Connection>,
    /// What came beside the parameters.
    pub meta: Meta,
    id: Option<Id>,
}

impl Call {
    /// How long to wait for something that should take at most `usual`.
    pub fn patience(&self, usual: Duration) -> Duration {
        match self.meta.deadline_ms {
            Some(allowed) => usual.min(Duration::from_millis(allowed)),
            None => usual,
        }
    }
}

/// A request being worked on; gives the response's frame, empty for a notification.
type Work = Pin<Box<dyn Future<Output = Result<Vec<u8>, ErrorInfo>>>>;
type Handler = Box<dyn Fn(Call, Value) -> Result<Work, ErrorInfo>>;

/// One row of the table.
pub struct Method {
    /// `namespace.method`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// What a caller needs.
    pub permission: Permission,
    /// JSON Schema of the parameters.
    pub params: serde_json::Value,
    /// JSON Schema of the result.
    pub result: serde_json::Value,
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
        let run = move |call: Call, params: Value| -> Result<Work, ErrorInfo> {
            let params = message::typed(&params).map_err(|error| {
                let text = format!("{name}: {error}; see kernel.introspect for its parameters");
                ErrorInfo::new(ErrorCode::InvalidParams, text).with("method", name)
            })?;
            let id = call.id.clone();
            let work = handler(call, params);
            Ok(Box::pin(async move { encode(name, id, work.await?) }))
        };
        Self {
            name,
            summary,
            permission,
            params: schemars::schema_for!(P).into(),
            result: schemars::schema_for!(R).into(),
            handler: Box::new(run),
        }
    }

    /// Refuses parameters that the schema does not name, with the nearest name it does.
    fn check_keys(&self, params: &Value) -> Result<(), ErrorInfo> {
        let name = self.name;
        let refuse =
            |text: String| ErrorInfo::new(ErrorCode::InvalidParams, text).with("method", name);
        let Value::Map(entries) = params else {
            return Err(refuse(format!("params of {name} must be a map")));
        };
        let known = self.params["properties"].as_object();
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
            return Err(refuse(format!("{name} has no parameter `{shown}`; {hint}"))
                .reason("unknown_key")
                .with("key", shown));
        }
        Ok(())
    }
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
            return Err(ErrorInfo::new(ErrorCode::Limit, text).reason("meta_too_long"));
        }
    }
    Ok(())
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
                    return Err(ErrorInfo::new(ErrorCode::InvalidParams, text)
                        .reason("duplicate_key")
                        .with("key", shown));
                }
                check_duplicates(value)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The frame of a result.
fn encode<R: Serialize>(name: &str, id: Option<Id>, result: R) -> Result<Vec<u8>, ErrorInfo> {
    let Some(id) = id else {
        return Ok(Vec::new());
    };
    let response = Response {
        id,
        result: Some(result),
        error: None,
        error_info: None,
    };
    response.encode(&Limits::default()).map_err(|error| {
        let text = format!("the result of {name} cannot be sent: {error}");
        ErrorInfo::new(ErrorCode::Limit, text).reason("result_too_large")
    })
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
                ErrorInfo::new(
                    ErrorCode::NotFound,
                    format!("there is no method {shown:?}; {hint}"),
                )
                .reason("unknown_method")
            })
    }

    /// Checks a request as far as that is possible without doing it, and starts it.
    fn start(
        &self,
        daemon: &Rc<Daemon>,
        connection: &Rc<Connection>,
        request: Request,
    ) -> Result<Work, ErrorInfo> {
        let method = self.find(&request.method)?;
        if !connection.identity.may(method.permission) {
            let text = format!(
                "{} needs the class {:?}, which this process does not have",
                method.name,
                method.permission.name()
            );
            return Err(ErrorInfo::new(ErrorCode::PermissionDenied, text).reason("class"));
        }
        let meta = request.meta.unwrap_or_default();
        check_meta(&meta)?;
        if meta.idempotency_key.is_some() {
            // Accepting it without keeping it would make retries look safe.
            let text = "idempotency_key is not supported by this kairod; leave it out";
            return Err(ErrorInfo::new(ErrorCode::Unsupported, text).reason("idempotency_key"));
        }
        let params = request.params.unwrap_or_else(|| Value::Map(Vec::new()));
        method.check_keys(&params)?;
        check_duplicates(&params)?;
        let call = Call {
            daemon: Rc::clone(daemon),
            connection: Rc::clone(connection),
            meta,
            id: request.id,
        };
        (method.handler)(call, params)
    }

    /// Takes a request. Everything up to its first wait happens now, so requests of a connection
    /// begin in the order in which they came; what is left is given back to be awaited.
    pub fn take(
        &self,
        daemon: &Rc<Daemon>,
        connection: &Rc<Connection>,
        request: Request,
    ) -> impl Future<Output = Vec<u8>> + 'static {
        self.requests.set(self.requests.get() + 1);
        let id = request.id.clone();
        let name = request.method.clone();
        let deadline = request.meta.as_ref().and_then(|meta| meta.deadline_ms);
        let allowed = deadline.map_or(LONGEST, |ms| Duration::from_millis(ms).min(LONGEST));
        let started = self.start(daemon, connection, request);
        let daemon = Rc::clone(daemon);
        async move {
            let result = match started {
                Ok(work) => tokio::time::timeout(allowed, work)
                    .await
                    .unwrap_or_else(|_| Err(too_late(&name, allowed))),
                Err(error) => Err(error),
            };
            match result {
                Ok(frame) => frame,
                Err(error) => {
                    let refusals = &daemon.router.refusals;
                    refusals.set(refusals.get() + 1);
                    refusal(id, error)
                }
            }
        }
    }
}

fn too_late(name: &str, allowed: Duration) -> ErrorInfo {
    let text = format!("{name} did not finish within {} ms", allowed.as_millis());
    ErrorInfo::new(ErrorCode::Timeout, text)
        .reason("deadline")
        .retry(None)
}

/// The frame that refuses a request; empty where there is no id to answer to.
pub fn refusal(id: Option<Id>, error: ErrorInfo) -> Vec<u8> {
    let response = id.map(|id| Response::refuse(id, error));
    // Error texts and details are short, so this is never beyond the limit.
    response
        .and_then(|response| response.encode(&Limits::default()).ok())
        .unwrap_or_default()
}
