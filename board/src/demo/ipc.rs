//! The kernel IPC as the demo's agent uses it: calls with JSON in and out.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use kairo_wire::{Client, ClientError, ErrorInfo, Incoming};
use serde_json::Value;

/// Longest a call may take. A software-emulated guest on a busy host answers in milliseconds.
const CALL: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub struct Ipc {
    client: Client,
}

impl Ipc {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(path: &Path) -> anyhow::Result<Self> {
        let client = Client::connect_path(path)?;
        Ok(Self { client })
    }

    /// Calls `method`. A refusal is a [`ClientError::Refused`] inside the error; see [`refusal`].
    ///
    /// # Errors
    /// What the client says.
    pub fn call(&mut self, method: &str, params: &Value) -> anyhow::Result<Value> {
        let called = self.client.call::<Value>(method, params, CALL);
        called.with_context(|| format!("{method} failed"))
    }

    /// Waits for an event of `topic` on this connection's subscriptions; others are passed over.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn wait_for_event(&mut self, topic: &str, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.client.next_incoming(left)? {
                Some(Incoming::Event(event)) if event.topic == topic => return Ok(()),
                Some(_) => {}
                None => bail!("no event `{topic}` within {patience:?}"),
            }
        }
    }
}

/// The kernel's refusal inside `error`, if that is what it is.
pub fn refusal_in(error: &anyhow::Error) -> Option<&ErrorInfo> {
    error
        .downcast_ref::<ClientError>()
        .and_then(ClientError::refusal)
}

/// The refusal in `result`; anything else, success included, is an error here.
///
/// # Errors
/// When the call was not refused.
pub fn refusal(result: anyhow::Result<Value>) -> anyhow::Result<ErrorInfo> {
    let error = match result {
        Ok(answer) => bail!("not refused: {answer}"),
        Err(error) => error,
    };
    match refusal_in(&error) {
        Some(refusal) => Ok(refusal.clone()),
        None => Err(anyhow!(error).context("not refused, but failed")),
    }
}
