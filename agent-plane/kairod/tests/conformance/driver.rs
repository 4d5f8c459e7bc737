//! What a client under test must be able to do, and the blocking Rust client doing it.
//!
//! An action is `{"do": VERB, …}`, its outcome `{"result"}`, `{"error"}`, `{"failed"}`,
//! `{"event"}`, `{"chunk"}` or `{"ok"}`; `agent-plane/conformance/README.md` lists them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use kairo_wire::message::{Message, MessageError, Meta};
use kairo_wire::{Client, ClientError, Incoming, Limits, Value as Wire};
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::wire_json::{shown, wire};

/// A client under test.
pub trait Driver {
    /// Whether it can do what not every client can: `together`, `cancel`, `top_up`.
    fn offers(&self, need: &str) -> bool;
    /// Performs one action.
    fn perform(&mut self, action: &Value) -> Value;
}

/// The blocking client of `kairo-wire`.
#[derive(Default)]
pub struct Blocking {
    clients: BTreeMap<String, Connection>,
    /// Name in the case: client, and name on its connection.
    subscriptions: BTreeMap<String, (String, String)>,
}

struct Connection {
    client: Client,
    /// What arrived for other subscriptions than the one that was asked for.
    waiting: VecDeque<Incoming>,
}

impl Driver for Blocking {
    fn offers(&self, _: &str) -> bool {
        false
    }

    fn perform(&mut self, action: &Value) -> Value {
        self.attempt(action).unwrap_or_else(|error| failure(&error))
    }
}

impl Blocking {
    fn attempt(&mut self, action: &Value) -> Result<Value, ClientError> {
        let name = action["client"].as_str().unwrap_or_default();
        match action["do"].as_str().unwrap() {
            "open" => {
                let path = Path::new(action["socket"].as_str().unwrap());
                let connection = Connection {
                    client: Client::connect_path(path)?,
                    waiting: VecDeque::new(),
                };
                self.clients.insert(name.into(), connection);
            }
            "close" => drop(self.clients.remove(name)),
            "reset" => {
                self.clients.clear();
                self.subscriptions.clear();
            }
            "call" => return Ok(json!({"result": self.call(action)?})),
            "subscribe" => {
                let reply = self.call(action)?;
                let own = reply["subscription"].as_str().unwrap_or_default();
                let key = action["as"].as_str().unwrap();
                self.subscriptions
                    .insert(key.into(), (name.into(), own.into()));
                return Ok(json!({"result": reply}));
            }
            "notify" => {
                let client = &mut self.clients.get_mut(name).unwrap().client;
                client.notify(action["method"].as_str().unwrap(), params(action))?;
            }
            "next" => return self.next(action),
            other => panic!("no verb {other}"),
        }
        Ok(json!({"ok": true}))
    }

    fn call(&mut self, action: &Value) -> Result<Value, ClientError> {
        let client = &mut self
            .clients
            .get_mut(action["client"].as_str().unwrap())
            .unwrap()
            .client;
        let method = action["method"].as_str().unwrap();
        let meta = action.get("meta").filter(|meta| !meta.is_null());
        let meta = meta.map(|meta| serde_json::from_value::<Meta>(meta.clone()).unwrap());
        let deadline = deadline(action);
        let result: Wire = client.call_with_meta(method, params(action), meta, deadline)?;
        Ok(shown(&result))
    }

    fn next(&mut self, action: &Value) -> Result<Value, ClientError> {
        let (client, name) = &self.subscriptions[action["of"].as_str().unwrap()];
        let connection = self.clients.get_mut(client).unwrap();
        let mine = |item: &Incoming| match item {
            Incoming::Event(event) => event.subscription.as_deref() == Some(name),
            Incoming::Chunk(chunk) => chunk.subscription == *name,
        };
        if let Some(index) = connection.waiting.iter().position(mine) {
            return Ok(delivered(&connection.waiting.remove(index).unwrap()));
        }
        let until = Instant::now() + deadline(action);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match connection.client.next_incoming(left)? {
                Some(item) if mine(&item) => return Ok(delivered(&item)),
                Some(item) => connection.waiting.push_back(item),
                None => return Err(ClientError::Deadline(left)),
            }
        }
    }
}

pub fn params(action: &Value) -> Wire {
    match action.get("params") {
        None | Some(Value::Null) => Wire::Map(Vec::new()),
        Some(params) => wire(params, &[]),
    }
}

pub fn deadline(action: &Value) -> Duration {
    action["deadline_ms"]
        .as_u64()
        .map_or(PATIENCE, Duration::from_millis)
}

pub fn delivered(item: &Incoming) -> Value {
    let limits = Limits::default();
    let (key, frame) = match item {
        Incoming::Event(event) => ("event", event.encode(&limits)),
        Incoming::Chunk(chunk) => ("chunk", chunk.encode(&limits)),
    };
    let whole: Wire = rmp_serde::from_slice(&frame.unwrap()[8..]).unwrap();
    json!({key: shown(&whole)})
}

/// An error as an outcome.
pub fn failure(error: &ClientError) -> Value {
    let name = match error {
        ClientError::Refused(info) => {
            let bytes = rmp_serde::to_vec_named(&**info).unwrap();
            let whole: Wire = rmp_serde::from_slice(&bytes).unwrap();
            return json!({"error": shown(&whole)});
        }
        ClientError::Deadline(_) => "deadline",
        ClientError::Closed | ClientError::Broken(_) => "closed",
        ClientError::Connect { .. } => "unreachable",
        ClientError::Message(MessageError::TooLong { .. }) => "too_long",
        ClientError::Backlog => "backlog",
        _ => "protocol",
    };
    json!({"failed": name, "message": error.to_string()})
}
