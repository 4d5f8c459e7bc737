//! `service.*`: processes that serve methods of their own, and how they do.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Audited;
use crate::facts::ServiceAdded;
use crate::permission::Right;
use crate::reasons::Reason;
use crate::router::{Call, Method, NoParams, Permission};
use crate::service_stream::TAKEN;
use crate::services::{MAX_METHODS, RESERVED, Served, Service};
use crate::views::Peer;

/// Longest name of a namespace or method, bytes.
const MAX_NAME_BYTES: usize = 48;
/// Longest summary, bytes.
const MAX_SUMMARY_BYTES: usize = 200;
/// All schemas of a service together, bytes of their JSON: those of every service and kairod's own
/// fit into one answer of kernel.introspect.
const MAX_SCHEMAS_BYTES: usize = 16 * 1024;
/// How long a call may take at most, ms, and if the service does not say.
const MAX_TIMEOUT_MS: u64 = 60_000;
const USUAL_TIMEOUT_MS: u64 = 5_000;

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "service.register",
            Permission::Serve,
            "Serves a namespace over this connection: kairod sends it the requests of others.",
            async |call, params| register(&call, params),
        )
        .audited(Audited::Before),
        Method::new(
            "service.unregister",
            Permission::Serve,
            "Stops serving; calls under way are answered with E_UNAVAILABLE.",
            async |call, NoParams {}| Ok(unregister(&call)),
        )
        .audited(Audited::After),
        Method::new(
            "service.status",
            Permission::Observe,
            "Lists the services with their processes and how they answer.",
            async |call, NoParams {}| Ok(status(&call)),
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegisterParams {
    /// The namespace: lower-case letters, digits, `_`. The name of this connection's session, or
    /// one that a rule gives the right service.register to.
    namespace: String,
    /// What it offers.
    methods: Vec<MethodParams>,
    /// How long a call may take, ms; 5000 if absent, at most 60000.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MethodParams {
    /// Its name, without the namespace.
    name: String,
    /// One sentence, ending in a full stop.
    summary: String,
    /// Who may call it where no policy says otherwise; `actuate` if absent.
    permission: Option<Permission>,
    /// JSON Schema of the parameters, an object's. Keys that it does not name are refused before
    /// the service sees them when it says `additionalProperties: false`.
    params: serde_json::Value,
    /// JSON Schema of the result.
    result: serde_json::Value,
    /// Whether a call of it opens a stream. Then `policy` and `credit_bytes` are parameters of
    /// every call, for kairod, and the service answers with a map.
    #[serde(default)]
    stream: bool,
}

#[derive(Serialize, JsonSchema)]
struct Registered {
    /// The namespace.
    namespace: String,
    /// The whole names of the methods.
    methods: Vec<String>,
}

fn register(call: &Call, params: RegisterParams) -> Result<Registered, ErrorInfo> {
    let namespace = params.namespace;
    check_name("namespace", &namespace)?;
    if RESERVED.contains(&namespace.as_str()) {
        let text = format!("{namespace} is a namespace of the kernel; choose another");
        return Err(Reason::NamespaceReserved.error(text));
    }
    if !call.daemon.may_serve(&call.connection, &namespace) {
        let right = Right::ServiceRegister;
        call.daemon.require(&call.connection, right, &namespace)?;
    }
    let timeout_ms = params.timeout_ms.unwrap_or(USUAL_TIMEOUT_MS);
    if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS {
        let text = format!("timeout_ms is {timeout_ms}, allowed is 1 to {MAX_TIMEOUT_MS}");
        return Err(Reason::TimeoutMs.error(text));
    }
    let methods = served(&namespace, params.methods)?;
    let names: Vec<String> = methods.keys().cloned().collect();
    call.connection.has_served.set(true);
    call.daemon.services.add(Service::new(
        namespace.clone(),
        Rc::clone(&call.connection),
        methods,
        Duration::from_millis(timeout_ms),
    ))?;
    let peer = call.connection.identity.view(call.connection.number);
    let added = ServiceAdded {
        namespace: namespace.clone(),
        connection: peer.connection,
        pid: peer.pid,
    };
    call.daemon.bus.publish(&added, Some(&call.meta));
    Ok(Registered {
        namespace,
        methods: names,
    })
}

/// The methods by their whole names.
fn served(
    namespace: &str,
    methods: Vec<MethodParams>,
) -> Result<BTreeMap<String, Served>, ErrorInfo> {
    let invalid = |text: String| Reason::invalid().error(text);
    if methods.is_empty() || methods.len() > MAX_METHODS {
        let text = format!("{} methods, allowed is 1 to {MAX_METHODS}", methods.len());
        return Err(invalid(text));
    }
    let mut all = BTreeMap::new();
    let mut schema_bytes = 0;
    for method in methods {
        check_name("method", &method.name)?;
        let name = format!("{namespace}.{}", method.name);
        let summary = &method.summary;
        if !summary.ends_with('.') || summary.len() > MAX_SUMMARY_BYTES {
            let text = format!("the summary of {name} is to be one sentence of at most");
            return Err(invalid(format!("{text} {MAX_SUMMARY_BYTES} bytes")));
        }
        for (what, schema) in [("params", &method.params), ("result", &method.result)] {
            schema_bytes += schema.to_string().len();
            if !schema.is_object() || schema_bytes > MAX_SCHEMAS_BYTES {
                let text = format!("{what} of {name} is to be a JSON Schema, all schemas of a");
                let text = format!("{text} service together of at most {MAX_SCHEMAS_BYTES} bytes");
                return Err(invalid(text));
            }
        }
        let row = Served {
            name: name.clone(),
            summary: method.summary,
            permission: method.permission.unwrap_or(Permission::Actuate),
            params: method.params,
            result: method.result,
            stream: method.stream,
        };
        let properties = &row.params["properties"];
        if let Some(key) = TAKEN
            .iter()
            .find(|key| row.stream && !properties[**key].is_null())
        {
            let text = format!("{name} opens a stream: its parameter `{key}` is for kairod");
            return Err(invalid(text));
        }
        if all.insert(name.clone(), row).is_some() {
            return Err(invalid(format!("{name} is given twice")));
        }
    }
    Ok(all)
}

fn check_name(what: &str, name: &str) -> Result<(), ErrorInfo> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    let text =
        format!("{shown:?} is no {what}: 1 to {MAX_NAME_BYTES} lower-case letters, digits or `_`");
    Err(Reason::invalid().error(text))
}

#[derive(Serialize, JsonSchema)]
struct Unregistered {
    /// What it served; none when it served nothing.
    namespace: Option<String>,
}

fn unregister(call: &Call) -> Unregistered {
    let namespace = call.daemon.service_gone(&call.connection, "unregistered");
    Unregistered { namespace }
}

#[derive(Serialize, JsonSchema)]
struct Services {
    services: Vec<ServiceView>,
}

#[derive(Serialize, JsonSchema)]
struct ServiceView {
    namespace: String,
    /// The process that serves it.
    peer: Peer,
    methods: Vec<String>,
    /// How long a call may take, ms.
    timeout_ms: u64,
    /// False after three calls in a row that were not answered in time.
    well: bool,
    /// Calls under way.
    under_way: usize,
    /// Streams open.
    streams: usize,
    /// Calls answered.
    answered: u64,
    /// Calls not answered in time.
    late: u64,
}

fn status(call: &Call) -> Services {
    let all = call.daemon.services.all();
    let services = all.iter().map(|service| {
        let health = service.health();
        let connection = &service.connection;
        ServiceView {
            namespace: service.namespace.clone(),
            peer: connection.identity.view(connection.number),
            methods: service.methods.keys().cloned().collect(),
            timeout_ms: service.timeout.as_millis() as u64,
            well: health.well,
            under_way: health.under_way,
            streams: connection.streams.borrow().len(),
            answered: health.answered,
            late: health.late,
        }
    });
    Services {
        services: services.collect(),
    }
}
