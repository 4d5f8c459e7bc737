//! `kernel.diagnostics`: everything that somebody who was not there needs, in one answer.
//!
//! Sections, each by itself: what is away says so in its own and the others stay. Most of them are
//! what another method answers, asked in the caller's name, so nobody sees here what it could not
//! see there. Every text goes through [`kairo_observe::redact`], because clients choose names,
//! reasons and data. Each section has a budget of values and bytes, the newest first, so that the
//! whole always fits into a frame; what did not fit is told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kairo_observe::redact::{self, Budget};
use kairo_wire::{ErrorInfo, Value};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::audit::Audited;
use crate::daemon::Daemon;
use crate::methods::kernel::HelloLimits;
use crate::reasons::Reason;
use crate::router::{Call, Method, NoParams, Permission};
use crate::spans::{KEPT_BYTES, KEPT_SPANS};
use crate::views::Peer;

/// Version of the answer's shape: changes when a key changes its meaning or goes away.
const VERSION: u32 = 1;
/// What a section may take. Twenty of them, with the connections, are less than a frame holds in
/// bytes and in values.
const SECTION: Budget = Budget {
    values: 2300,
    bytes: 36 * 1024,
};
/// What one event, span or record of a list may take of that.
const ITEM: Budget = Budget {
    values: 64,
    bytes: 2048,
};
/// Events, spans and log records that are looked at.
const NEWEST: usize = 100;
/// How long a section may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Sections that are what another method answers.
const ASKED: [(&str, &str); 7] = [
    ("system", "system.get_info"),
    ("metrics", "system.get_metrics"),
    ("real_time", "rt.status"),
    ("devices", "device.list"),
    ("permissions", "permission.list"),
    ("services", "service.status"),
    ("intents", "intent.list"),
];

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "kernel.diagnostics",
            Permission::Admin,
            "Takes a snapshot of everything, without secrets: for whoever was not there.",
            async |call, NoParams {}| Ok(diagnostics(&call).await),
        )
        .audited(Audited::After),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Diagnostics {
    /// `kairo-diagnostics`.
    format: &'static str,
    /// Version of this shape.
    version: u32,
    /// When it was taken, RFC 3339 in UTC.
    taken: String,
    /// Requests taken since the start.
    requests: u64,
    /// Requests refused since the start.
    refusals: u64,
    /// Connections turned away because there were too many: `refused_full` and `refused_share`.
    refused_connections: u64,
    /// Those for which no place was free.
    refused_full: u64,
    /// Those whose user has its share.
    refused_share: u64,
    /// Connections that never said anything, closed for another of their user.
    closed_silent: u64,
    /// Attempts to connect that the system failed, for want of descriptors or memory.
    failed_accepts: u64,
    /// Places for connections.
    places: usize,
    /// The connections.
    connections: Vec<ConnectionView>,
    /// The rest, by name.
    sections: BTreeMap<&'static str, Section>,
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

/// A part of the snapshot.
#[derive(Serialize, JsonSchema)]
struct Section {
    /// Whether it could be had.
    available: bool,
    /// Why not; none if it could.
    reason: Option<String>,
    /// Whether something did not fit.
    left_out: bool,
    /// What there is; null if nothing.
    data: serde_json::Value,
}

impl Section {
    /// What there is, without secrets and within bounds.
    fn of(data: &serde_json::Value) -> Self {
        let mut budget = SECTION;
        let data = redact::json(data, &mut budget);
        Self::whole(data, budget.is_used_up())
    }

    /// The same of a value as it travels.
    fn of_wire(data: &Value) -> Self {
        let mut budget = SECTION;
        let data = redact::wire(data, &mut budget);
        Self::whole(data, budget.is_used_up())
    }

    /// A list under a name, the newest first: one long item leaves out itself and not the others.
    fn newest(
        name: &str,
        items: impl Iterator<Item = serde_json::Value>,
        mut rest: serde_json::Map<String, serde_json::Value>,
    ) -> Self {
        let (mut shown, mut left_out) = (Vec::new(), false);
        let mut section = SECTION;
        for item in items {
            let before = ITEM;
            let mut budget = ITEM;
            let item = redact::json(&item, &mut budget);
            left_out |= budget.is_used_up();
            let values = before.values - budget.values;
            let bytes = before.bytes - budget.bytes;
            if section.values < values || section.bytes < bytes {
                left_out = true;
                break;
            }
            section.values -= values;
            section.bytes -= bytes;
            shown.push(item);
        }
        rest.insert(name.into(), shown.into());
        Self::whole(rest.into(), left_out)
    }

    fn whole(data: serde_json::Value, left_out: bool) -> Self {
        Self {
            available: true,
            reason: None,
            left_out,
            data,
        }
    }

    fn away(why: &str) -> Self {
        Self {
            available: false,
            reason: Some(redact::text(why).into_owned()),
            left_out: false,
            data: serde_json::Value::Null,
        }
    }
}

async fn diagnostics(call: &Call) -> Diagnostics {
    let daemon = &call.daemon;
    // Before the first wait: this request itself is not among those under way then.
    let connections = connections(daemon);
    let mut sections = BTreeMap::new();
    for (name, method) in ASKED {
        let section = match ask(call, method, Value::Map(Vec::new())).await {
            Ok(answer) => Section::of_wire(&answer),
            Err(error) => Section::away(&error.to_string()),
        };
        sections.insert(name, section);
    }
    if daemon.plane.borrow().stats().is_none() {
        let away = Section::away("kairo-rt is not running or is restarting");
        sections.insert("real_time", away);
    }
    sections.insert("events", events(call).await);
    sections.insert("event_store", event_store(daemon));
    sections.insert("audit", audit(daemon));
    sections.insert("denials", denials(daemon));
    sections.insert("logs", logs());
    sections.insert("traces", traces(daemon));
    sections.insert("configuration", configuration(daemon));
    sections.insert("processes", processes(daemon));
    let (requests, refusals) = daemon.router.counts();
    let counts = daemon.admission.counts();
    Diagnostics {
        format: "kairo-diagnostics",
        version: VERSION,
        taken: time_text(SystemTime::now()),
        requests,
        refusals,
        refused_connections: counts.full + counts.share,
        refused_full: counts.full,
        refused_share: counts.share,
        closed_silent: counts.silent,
        failed_accepts: counts.failures,
        places: counts.places,
        connections,
        sections,
    }
}

/// What another method answers to this caller, within a second.
async fn ask(call: &Call, method: &str, params: Value) -> Result<Value, ErrorInfo> {
    let work = call.daemon.router.ask(call, method, params)?;
    let unknown = |text: String| Reason::Deadline.error(text);
    let answer = tokio::time::timeout(PATIENCE, work).await;
    let answer = answer.map_err(|_| unknown(format!("{method} did not answer in time")))??;
    let mut bytes = answer.bytes.as_slice();
    rmpv::decode::read_value(&mut bytes).map_err(|error| unknown(error.to_string()))
}

fn time_text(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn connections(daemon: &Daemon) -> Vec<ConnectionView> {
    let shown = |text: String| redact::text(&text).into_owned();
    let connections = daemon.connections.borrow();
    let views = connections.values().map(|connection| {
        let mut peer = connection.identity.view(connection.number);
        // A process names itself.
        peer.process = peer.process.map(shown);
        peer.name = peer.name.map(shown);
        ConnectionView {
            peer,
            outgoing_bytes: connection.outgoing.bytes(),
            in_flight: connection.in_flight(),
            subscriptions: connection.subscriptions.borrow().keys().cloned().collect(),
        }
    });
    views.collect()
}

/// The newest events that the caller may see: of the log, or of memory where there is no log.
async fn events(call: &Call) -> Section {
    let bus = &call.daemon.bus;
    let after = bus.next_seq().saturating_sub(1 + NEWEST as u64);
    let params = Value::Map(vec![
        ("after_seq".into(), Value::from(after)),
        ("limit".into(), Value::from(NEWEST as u64)),
    ]);
    let (from, answer) = match ask(call, "event.query", params).await {
        Ok(answer) => {
            let mut entries = answer.as_map().into_iter().flatten();
            let found = entries.find(|(key, _)| key.as_str() == Some("events"));
            ("log", found.map(|(_, events)| events.clone()))
        }
        Err(error) => return events_in_memory(call, &error),
    };
    let events = answer.as_ref().and_then(Value::as_array);
    let newest = events.into_iter().flatten().rev();
    let items = newest.map(|event| redact::wire(event, &mut ITEM.clone()));
    Section::newest("events", items, facts(json!({"from": from})))
}

fn events_in_memory(call: &Call, why: &ErrorInfo) -> Section {
    let bus = &call.daemon.bus;
    let newest = bus.newest(NEWEST).into_iter().filter(|event| {
        let right = crate::permission::Right::TopicSubscribe;
        call.daemon.may(&call.connection, right, &event.topic)
    });
    let items = newest.filter_map(|event| {
        let frame = event.frame("")?;
        let mut payload = frame.get(kairo_wire::frame::HEADER_BYTES..)?;
        let event = rmpv::decode::read_value(&mut payload).ok()?;
        Some(redact::wire(&event, &mut ITEM.clone()))
    });
    let rest = json!({"from": "memory", "log": redact::text(&why.to_string())});
    Section::newest("events", items, facts(rest))
}

fn facts(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    match value {
        serde_json::Value::Object(facts) => facts,
        _ => serde_json::Map::new(),
    }
}

fn event_store(daemon: &Daemon) -> Section {
    match daemon.bus.log() {
        Ok(log) => {
            let status = log.store.status();
            Section::of(&json!({
                "head_seq": status.head,
                "waiting_events": status.waiting.0,
                "waiting_bytes": status.waiting.1,
                "lost": status.lost,
                "used_bytes": status.used_bytes,
                "failure": status.failure.map(|error| error.to_string()),
            }))
        }
        Err(error) => Section::away(&error.to_string()),
    }
}

fn audit(daemon: &Daemon) -> Section {
    let audit = &daemon.audit;
    let findings = audit.findings();
    let Some(status) = audit.status() else {
        return Section::away(&findings.join("; "));
    };
    // Its own hash is 64 digits and no secret.
    Section::of(&json!({
        "directory": audit.directory(),
        "head": status.last.map(|last| json!({
            "number": last.number, "hash": last.hash.to_string(),
        })),
        "refused": status.refused,
        "lost": audit.lost(),
        "trouble": status.trouble,
        "newest_segment_verified_at_start": true,
        "findings_at_start": findings,
        "whole_log": "kairo audit verify",
    }))
}

fn denials(daemon: &Daemon) -> Section {
    let denials = daemon.denials.borrow();
    let items = denials.iter().rev().map(|(time, data)| {
        let denial = serde_json::to_value(data).unwrap_or_default();
        let denial = redact::json(&denial, &mut ITEM.clone());
        json!({"time": time_text(*time), "denial": denial})
    });
    Section::newest("denials", items, serde_json::Map::new())
}

fn logs() -> Section {
    let records = kairo_observe::log::recent();
    let items = records.into_iter().rev().map(|record| {
        let fields: serde_json::Map<_, _> = record
            .fields
            .into_iter()
            .map(|(name, value)| (name.to_string(), value.into()))
            .collect();
        json!({
            "time": time_text(record.time), "level": record.level,
            "component": record.component, "message": record.message, "fields": fields,
            "left_out": record.left_out,
        })
    });
    let floods = kairo_observe::log::floods();
    let floods: Vec<_> = floods
        .into_iter()
        .take(NEWEST)
        .map(|flood| json!({"place": flood.place, "left_out": flood.left_out}))
        .collect();
    Section::newest("records", items, facts(json!({"floods": floods})))
}

fn traces(daemon: &Daemon) -> Section {
    let page = daemon.tracer.newest(NEWEST);
    let spans = page.into_iter().rev();
    let items = spans.filter_map(|span| serde_json::to_value(span).ok());
    Section::newest("spans", items, serde_json::Map::new())
}

fn configuration(daemon: &Daemon) -> Section {
    let plane = daemon.plane.borrow();
    let welcome = plane.welcome();
    Section::of(&json!({
        "settings": daemon.settings,
        "robot": welcome.robot,
        "wire_limits": HelloLimits::own(),
        "spans_max": KEPT_SPANS,
        "spans_bytes_max": KEPT_BYTES,
    }))
}

/// kairod itself and the processes at the other ends. It starts none.
fn processes(daemon: &Daemon) -> Section {
    let connections = daemon.connections.borrow();
    let mut peers: BTreeMap<i32, (Option<String>, u32)> = BTreeMap::new();
    for connection in connections.values() {
        let identity = &connection.identity;
        let name = identity.process().map(str::to_string);
        peers.entry(identity.pid()).or_insert((name, 0)).1 += 1;
    }
    let peers: Vec<_> = peers
        .into_iter()
        .map(|(pid, (process, connections))| {
            json!({"pid": pid, "process": process, "connections": connections})
        })
        .collect();
    Section::of(&json!({
        "kairod": {
            "pid": std::process::id(),
            "uptime_s": daemon.started.elapsed().as_secs_f64(),
        },
        "peers": peers,
    }))
}
