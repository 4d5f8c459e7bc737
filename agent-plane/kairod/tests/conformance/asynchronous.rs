//! The asynchronous Rust client as a client under test.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kairo_wire::message::Meta;
use kairo_wire::{AsyncClient, AsyncSubscription, ClientError, Value as Wire};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::driver::{Driver, deadline, delivered, failure, params};
use crate::support::PATIENCE;
use crate::wire_json::shown;

/// The client, and a runtime for it.
pub struct Asynchronous {
    runtime: Runtime,
    clients: BTreeMap<String, AsyncClient>,
    subscriptions: BTreeMap<String, AsyncSubscription>,
}

impl Asynchronous {
    /// Nothing connected.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self {
            runtime: runtime.unwrap(),
            clients: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        }
    }

    fn client(&self, action: &Value) -> AsyncClient {
        self.clients[action["client"].as_str().unwrap()].clone()
    }

    fn attempt(&mut self, action: &Value) -> Result<Value, ClientError> {
        let name = action["client"].as_str().unwrap_or_default();
        let method = action["method"].as_str().unwrap_or_default();
        match action["do"].as_str().unwrap() {
            "open" => {
                let path = Path::new(action["socket"].as_str().unwrap());
                let opened = self.runtime.block_on(AsyncClient::connect_path(path))?;
                self.clients.insert(name.into(), opened);
            }
            "close" => drop(self.clients.remove(name)),
            "reset" => {
                self.subscriptions.clear();
                self.clients.clear();
            }
            "call" => {
                let client = self.client(action);
                return self.runtime.block_on(call(client, action.clone()));
            }
            "together" => return Ok(self.together(action)),
            "cancel" => {
                let after = Duration::from_millis(action["after_ms"].as_u64().unwrap());
                let client = self.client(action);
                return self.runtime.block_on(async {
                    let call = call(client, action.clone());
                    // The call is dropped when its time is up: that is how one is given up.
                    match tokio::time::timeout(after, call).await {
                        Ok(outcome) => outcome,
                        Err(_) => Ok(json!({"cancelled": true})),
                    }
                });
            }
            "subscribe" => {
                let client = self.client(action);
                let subscribing = client.subscribe(method, params(action), deadline(action));
                let subscription = self.runtime.block_on(subscribing)?;
                let reply = shown(&subscription.reply);
                let key = action["as"].as_str().unwrap();
                self.subscriptions.insert(key.into(), subscription);
                return Ok(json!({"result": reply}));
            }
            "notify" => {
                let client = self.client(action);
                self.runtime
                    .block_on(client.notify(method, params(action)))?;
            }
            "next" => {
                let patience = deadline(action);
                let of = action["of"].as_str().unwrap();
                let subscription = self.subscriptions.get_mut(of).unwrap();
                let next = async { tokio::time::timeout(patience, subscription.next()).await };
                return match self.runtime.block_on(next) {
                    Ok(Some(item)) => Ok(delivered(&item?)),
                    Ok(None) => Err(ClientError::Closed),
                    Err(_) => Err(ClientError::Deadline(patience)),
                };
            }
            other => panic!("no verb {other}"),
        }
        Ok(json!({"ok": true}))
    }

    fn together(&self, action: &Value) -> Value {
        let calls = action["calls"].as_array().unwrap();
        let under_way: Vec<_> = calls
            .iter()
            .map(|action| {
                self.runtime
                    .spawn(call(self.client(action), action.clone()))
            })
            .collect();
        let outcomes: Vec<Value> = under_way
            .into_iter()
            .map(|call| {
                let outcome = self.runtime.block_on(call).unwrap();
                outcome.unwrap_or_else(|error| failure(&error))
            })
            .collect();
        json!({"outcomes": outcomes})
    }
}

impl Driver for Asynchronous {
    fn offers(&self, need: &str) -> bool {
        ["together", "cancel"].contains(&need)
    }

    fn perform(&mut self, action: &Value) -> Value {
        self.attempt(action).unwrap_or_else(|error| failure(&error))
    }
}

async fn call(client: AsyncClient, action: Value) -> Result<Value, ClientError> {
    let method = action["method"].as_str().unwrap();
    let meta = action.get("meta").filter(|meta| !meta.is_null());
    let meta = meta.map(|meta| serde_json::from_value::<Meta>(meta.clone()).unwrap());
    let patience = action["deadline_ms"]
        .as_u64()
        .map_or(PATIENCE, Duration::from_millis);
    let result: Wire = client
        .call_with_meta(method, params(&action), meta, patience)
        .await?;
    Ok(json!({"result": shown(&result)}))
}
