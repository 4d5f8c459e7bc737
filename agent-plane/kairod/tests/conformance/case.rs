//! Cases: reading them, and performing one with a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use kairo_wire::message::Message;
use kairo_wire::{Decoder, Limits, Response, Value as Wire};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::driver::Driver;
use crate::pattern::{Bindings, filled, matches};
use crate::peer::{self, Peer};
use crate::schema;
use crate::support::{Order, PATIENCE, System, call};
use crate::wire_json::shown;

/// Items that `until` may pass over.
const PASSED_OVER_MAX: usize = 1000;

/// The kernel that a case runs against.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// A kairod with a real-time plane, shared by the cases: leave it as you found it.
    #[default]
    Shared,
    /// The same, for this case alone.
    Own,
    /// A kairod without a real-time plane.
    Away,
    /// A peer with a script.
    Peer(Vec<Value>),
}

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A claim.
    pub name: String,
    #[serde(default)]
    pub kernel: Kernel,
    /// What not every client can do.
    #[serde(default)]
    pub needs: Vec<String>,
    pub steps: Vec<Step>,
    /// The file it is from.
    #[serde(skip)]
    pub file: String,
}

/// One step: exactly one verb, and what is expected of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    open: Option<String>,
    call: Option<String>,
    notify: Option<String>,
    subscribe: Option<String>,
    next: Option<String>,
    close: Option<String>,
    together: Option<Vec<Step>>,
    cancel: Option<String>,
    order: Option<String>,
    raw: Option<Vec<Value>>,
    client: Option<String>,
    #[serde(rename = "as")]
    known_as: Option<String>,
    params: Option<Value>,
    meta: Option<Value>,
    deadline_ms: Option<u64>,
    after_ms: Option<u64>,
    top_up_bytes: Option<u64>,
    /// Of `next`: items that do not match are passed over.
    until: bool,
    /// Of `raw`: what the kernel answers, and whether it closes.
    answer: Option<Value>,
    closed: Option<bool>,
    result: Option<Value>,
    error: Option<Value>,
    failed: Option<Value>,
    event: Option<Value>,
    chunk: Option<Value>,
    end: Option<bool>,
}

/// The kernel's own description, to hold results, refusals and events against.
pub struct Introspection {
    methods: BTreeMap<String, Value>,
    /// By canonical name.
    topics: BTreeMap<String, Value>,
    /// By code and reason.
    reasons: BTreeMap<(String, String), Value>,
}

impl Introspection {
    /// Asks `system`.
    pub fn of(system: &System) -> Self {
        let all = call(&mut system.client(), "kernel.introspect", json!({})).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let table = |part: &str, key: &str| -> BTreeMap<String, Value> {
            let rows = all[part].as_array().unwrap().iter();
            rows.map(|row| (text(&row[key]), row.clone())).collect()
        };
        let mut reasons = BTreeMap::new();
        for error in all["errors"].as_array().unwrap() {
            for row in error["reasons"].as_array().unwrap() {
                let key = (text(&error["code"]), text(&row["reason"]));
                reasons.insert(key, row.clone());
            }
        }
        Self {
            methods: table("methods", "name"),
            topics: table("topics", "topic"),
            reasons,
        }
    }

    /// The topics' names.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }

    /// The reasons, each as `CODE reason`.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        let keys = self.reasons.keys();
        keys.map(|(code, reason)| format!("{code} {reason}"))
    }

    /// The methods' names.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(String::as_str)
    }

    fn check(&self, method: &str, part: &str, value: &Value) -> Result<(), String> {
        let known = self
            .methods
            .get(method)
            .ok_or(format!("no method {method}"))?;
        let schema = &known[part];
        schema::check(value, schema, schema)
            .map_err(|why| format!("{part} of {method} against its schema: {why}"))
    }

    /// Holds an outcome against the schemas, whatever the case says of it.
    fn judge(&self, method: &str, params: Option<&Value>, outcome: &Value) -> Result<(), String> {
        if let Some(result) = outcome.get("result") {
            self.check(method, "params", params.unwrap_or(&json!({})))?;
            return self.check(method, "result", result);
        }
        match outcome.get("error") {
            // What a service refuses, it refuses for reasons of its own.
            Some(error) if self.methods.contains_key(method) || is_own(method) => {
                self.judge_error(error)
            }
            _ => Ok(()),
        }
    }

    /// Holds a refusal of the kernel's own against its row.
    fn judge_error(&self, error: &Value) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (code, details) = (text(&error["code"]), &error["details"]);
        let reason = text(&details["reason"]);
        let key = (code.clone(), reason.clone());
        let row = self
            .reasons
            .get(&key)
            .ok_or(format!("introspection lists no {code} {reason:?}"))?;
        let schema = &row["details"];
        schema::check(details, schema, schema)
            .map_err(|why| format!("details of {code} {reason} against their schema: {why}"))?;
        if row["retryable"] != error["retryable"] {
            return Err(format!("{code} {reason} is retryable or not: {error}"));
        }
        if error["message"].as_str().is_none_or(str::is_empty) {
            return Err(format!("{code} without words"));
        }
        Ok(())
    }

    /// Holds an event of the kernel's own against its topic's row.
    fn judge_event(&self, event: &Value) -> Result<(), String> {
        let topic = event["type"].as_str().unwrap_or_default();
        if !topic.starts_with("kairo.system.") {
            return Ok(());
        }
        let row = self
            .topics
            .get(topic)
            .ok_or(format!("introspection lists no topic {topic}"))?;
        let schema = &row["data"];
        schema::check(&event["data"], schema, schema)
            .map_err(|why| format!("data of {topic} against its schema: {why}"))
    }
}

/// Whether a method that is not there would be the kernel's: what a case misspells.
fn is_own(method: &str) -> bool {
    !method.contains('.')
        || ["kernel.", "device.", "event."]
            .iter()
            .any(|own| method.starts_with(own))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance")
}

/// A file of the suite.
pub fn read(name: &str) -> Value {
    let path = directory().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Case {
    /// Every case, by file.
    pub fn all() -> Vec<Self> {
        let mut names: Vec<String> = std::fs::read_dir(directory().join("cases"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".json"))
            .collect();
        names.sort();
        let mut all = Vec::new();
        for name in names {
            let cases: Vec<Self> = serde_json::from_value(read(&format!("cases/{name}")))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            all.extend(cases.into_iter().map(|case| Self {
                file: name.clone(),
                ..case
            }));
        }
        all
    }

    /// A case of these steps.
    pub fn from_steps(name: &str, steps: Value) -> Self {
        serde_json::from_value(json!({"name": name, "steps": steps})).unwrap()
    }

    /// Methods of a real kernel that this case sees succeed.
    pub fn methods_that_succeed(&self) -> Vec<String> {
        if matches!(self.kernel, Kernel::Peer(_)) {
            return Vec::new();
        }
        let inner = |step: &Step| step.together.clone().unwrap_or_default();
        let steps = self.steps.iter().flat_map(inner).chain(self.steps.clone());
        steps
            .filter(|step| step.result.is_some())
            .filter_map(|step| step.call.or(step.subscribe))
            .collect()
    }

    /// Every object in what this case expects of a real kernel: refusals and events among them.
    pub fn patterns(&self) -> Vec<Value> {
        if matches!(self.kernel, Kernel::Peer(_)) {
            return Vec::new();
        }
        let inner = |step: &Step| step.together.clone().unwrap_or_default();
        let steps = self.steps.iter().flat_map(inner).chain(self.steps.clone());
        let mut found = Vec::new();
        for step in steps {
            for expected in [step.error, step.event, step.answer, step.result] {
                objects(&expected.unwrap_or_default(), &mut found);
            }
        }
        found
    }

    /// Performs it.
    pub fn run(
        &self,
        driver: &mut dyn Driver,
        shared: &System,
        known: &Introspection,
    ) -> Result<(), String> {
        let (own, peer) = match &self.kernel {
            Kernel::Shared => (None, None),
            Kernel::Own => (Some(System::start()), None),
            Kernel::Away => (Some(System::start_without_rt()), None),
            Kernel::Peer(script) => (None, Some(Peer::start(script))),
        };
        let system = own.as_ref().unwrap_or(shared);
        let mut run = Run {
            driver,
            system,
            socket: peer.as_ref().map_or_else(|| system.socket(), Peer::socket),
            known: peer.is_none().then_some(known),
            open: BTreeSet::new(),
            bound: Bindings::new(),
        };
        for (index, step) in self.steps.iter().enumerate() {
            let done = run.step(step);
            done.map_err(|why| format!("step {}: {why}", index + 1))?;
        }
        // Ends the connection, and with it the peer's script.
        run.driver.perform(&json!({"do": "reset"}));
        peer.map_or(Ok(()), Peer::finish)
    }
}

/// Every object in `value`.
fn objects(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(entries) => {
            found.push(value.clone());
            entries.values().for_each(|inner| objects(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| objects(inner, found)),
        _ => {}
    }
}

struct Run<'a> {
    driver: &'a mut dyn Driver,
    system: &'a System,
    socket: PathBuf,
    /// None where a peer answers, who is bound to no schema.
    known: Option<&'a Introspection>,
    open: BTreeSet<String>,
    bound: Bindings,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Some(order) = &step.order {
            self.order(order);
            return Ok(());
        }
        if let Some(frames) = &step.raw {
            return self.raw(frames, step);
        }
        if let Some(name) = &step.open {
            return self
                .open(name)
                .and_then(|outcome| self.expect(step, &outcome));
        }
        if let Some(name) = &step.next {
            return self.next(name, step);
        }
        let client = step
            .client
            .as_deref()
            .or(step.close.as_deref())
            .unwrap_or("main");
        if !self.open.contains(client) {
            let opened = self.open(client)?;
            if opened != json!({"ok": true}) {
                return Err(format!("cannot connect: {opened}"));
            }
        }
        let action = self.action(step, client)?;
        let outcome = self.driver.perform(&action);
        if step.close.is_some() {
            self.open.remove(client);
        }
        if let Some(steps) = &step.together {
            return self.outcomes(steps, &outcome);
        }
        self.judge(step, &action, &outcome)?;
        self.expect(step, &outcome)
    }

    fn action(&self, step: &Step, client: &str) -> Result<Value, String> {
        let (verb, method) = match step {
            Step {
                call: Some(method), ..
            } => ("call", method.as_str()),
            Step {
                notify: Some(method),
                ..
            } => ("notify", method.as_str()),
            Step {
                subscribe: Some(method),
                ..
            } => ("subscribe", method.as_str()),
            Step {
                cancel: Some(method),
                ..
            } => ("cancel", method.as_str()),
            Step { close: Some(_), .. } => ("close", ""),
            Step {
                together: Some(_), ..
            } => ("together", ""),
            _ => return Err("a step without a verb".into()),
        };
        let mut action = json!({"do": verb, "client": client, "method": method});
        let mut set = |key: &str, value: Value| action[key] = value;
        if let Some(params) = &step.params {
            set("params", filled(params, &self.bound)?);
        }
        if let Some(meta) = &step.meta {
            set("meta", filled(meta, &self.bound)?);
        }
        if let Some(steps) = &step.together {
            let calls: Result<Vec<Value>, String> =
                steps.iter().map(|step| self.action(step, client)).collect();
            set("calls", Value::Array(calls?));
        }
        if let Some(name) = &step.known_as {
            set("as", json!(name));
        }
        if let Some(after_ms) = step.after_ms {
            set("after_ms", json!(after_ms));
        }
        if let Some(bytes) = step.top_up_bytes {
            set("top_up_bytes", json!(bytes));
        }
        let patience_ms = PATIENCE.as_millis() as u64;
        set(
            "deadline_ms",
            json!(step.deadline_ms.unwrap_or(patience_ms)),
        );
        Ok(action)
    }

    fn open(&mut self, client: &str) -> Result<Value, String> {
        self.open.insert(client.into());
        let socket = self
            .socket
            .to_str()
            .ok_or("a socket path that is no text")?;
        let action = json!({"do": "open", "client": client, "socket": socket});
        Ok(self.driver.perform(&action))
    }

    fn judge(&self, step: &Step, action: &Value, outcome: &Value) -> Result<(), String> {
        match (self.known, step.call.as_ref().or(step.subscribe.as_ref())) {
            (Some(known), Some(method)) => known.judge(method, action.get("params"), outcome),
            _ => Ok(()),
        }
    }

    fn expect(&mut self, step: &Step, outcome: &Value) -> Result<(), String> {
        let wanted = [
            ("result", step.result.clone()),
            ("error", step.error.clone()),
            ("failed", step.failed.clone()),
            ("event", step.event.clone()),
            ("chunk", step.chunk.clone()),
            ("end", step.end.map(Value::Bool)),
        ];
        let mut named = false;
        for (key, pattern) in wanted {
            let Some(pattern) = pattern else { continue };
            named = true;
            matches(&json!({key: pattern}), outcome, &mut self.bound)?;
        }
        let bad = outcome.get("error").or(outcome.get("failed"));
        match bad {
            Some(bad) if !named => Err(format!("unexpected {bad}")),
            _ => Ok(()),
        }
    }

    fn outcomes(&mut self, steps: &[Step], outcome: &Value) -> Result<(), String> {
        let mut pairs = steps.iter().enumerate();
        pairs.try_for_each(|(index, step)| {
            let outcome = &outcome["outcomes"][index];
            let params = step.params.clone().unwrap_or(json!({}));
            self.judge(step, &json!({"params": params}), outcome)?;
            self.expect(step, outcome)
        })
    }

    fn next(&mut self, name: &str, step: &Step) -> Result<(), String> {
        let patience_ms = PATIENCE.as_millis() as u64;
        let deadline_ms = step.deadline_ms.unwrap_or(patience_ms);
        let action = json!({"do": "next", "of": name, "deadline_ms": deadline_ms});
        for _ in 0..PASSED_OVER_MAX {
            let outcome = self.driver.perform(&action);
            if let (Some(known), Some(event)) = (self.known, outcome.get("event")) {
                known.judge_event(event)?;
            }
            let met = self.expect(step, &outcome);
            let item = outcome.get("event").or(outcome.get("chunk")).is_some();
            if met.is_ok() || !step.until || !item {
                return met;
            }
        }
        Err(format!(
            "{PASSED_OVER_MAX} items came, and none was the one"
        ))
    }

    fn order(&self, order: &str) {
        let order = match order {
            "mute" => Order::Mute,
            "lose_bus" => Order::LoseBus,
            "find_bus" => Order::FindBus,
            "ignore_claims" => Order::IgnoreClaims,
            other => panic!("no order {other}"),
        };
        self.system.rt().order(order);
    }

    /// Bytes that no client would send, straight to the kernel.
    fn raw(&mut self, frames: &[Value], step: &Step) -> Result<(), String> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        for frame in frames {
            // The kernel may close before it has read all.
            let _ = stream.write_all(&peer::bytes(frame, &[]));
        }
        let mut decoder = Decoder::default();
        if let Some(wanted) = &step.answer {
            let answer = response(&mut stream, &mut decoder)?.ok_or("closed without an answer")?;
            if let (Some(known), Some(error)) = (self.known, answer.get("error_info")) {
                known.judge_error(error)?;
            }
            matches(wanted, &answer, &mut self.bound)?;
        }
        if step.closed == Some(true) {
            return match response(&mut stream, &mut decoder)? {
                None => Ok(()),
                Some(more) => Err(format!("expected the end, got {more}")),
            };
        }
        let ping = json!({"request": {"id": "still there", "method": "kernel.ping"}});
        let _ = stream.write_all(&peer::bytes(&ping, &[]));
        let answer = response(&mut stream, &mut decoder)?.ok_or("the kernel closed")?;
        matches(
            &json!({"id": "still there", "result": {}}),
            &answer,
            &mut self.bound,
        )
    }
}

/// The next response, or none at the end of the connection.
fn response(stream: &mut UnixStream, decoder: &mut Decoder) -> Result<Option<Value>, String> {
    let mut bytes = [0; 4096];
    loop {
        if let Some(frame) = decoder.next_frame().map_err(|error| error.to_string())? {
            Response::<Wire>::decode(&frame.payload, &Limits::default())
                .map_err(|error| error.to_string())?;
            let whole: Wire = rmp_serde::from_slice(&frame.payload).unwrap();
            return Ok(Some(shown(&whole)));
        }
        match stream.read(&mut bytes) {
            // Unread bytes of ours make the kernel's close a reset.
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(format!("no answer: {error}")),
            Ok(count) => decoder.feed(&bytes[..count]),
        }
    }
}
