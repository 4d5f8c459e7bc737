//! Calling methods.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use kairo_wire::endpoint::Endpoint;
use kairo_wire::{Client, Meta};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;

use crate::arguments::CallOptions;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// A client and how long to wait for its answers.
#[derive(Debug)]
pub struct Session<'client> {
    /// The client, for subscriptions.
    pub client: &'client mut Client,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl<'client> Session<'client> {
    /// A session over `client`.
    pub fn new(client: &'client mut Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// Calls a method and gives its result.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        Ok(self.client.call(method, params, self.timeout)?)
    }

    /// The connection, as a descriptor that a program started or become from here finds open.
    pub fn inheritable(&self, endpoint: &Endpoint) -> Result<OwnedFd, Failure> {
        let inherited = self.client.share().map_err(|error| {
            Failure::Program(format!(
                "the connection to {endpoint} cannot be inherited ({error}); connect to a Unix \
                 socket"
            ))
        })?;
        // Without this the program would find the descriptor closed.
        fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|errno| Failure::Program(format!("cannot pass the connection on: {errno}")))?;
        Ok(inherited)
    }
}

/// Longest parameters that are read from standard input, bytes. The protocol's limit is a mebibyte
/// of MsgPack, which is never longer than twice that as JSON but for escapes.
const STDIN_BYTES_MAX: u64 = 4 << 20;

/// `kairo call`.
pub fn raw(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &CallOptions,
) -> Result<(), Failure> {
    let text = match options.params.as_str() {
        "-" => standard_input()?,
        text => text.to_string(),
    };
    let params: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("the parameters are not JSON: {error}")))?;
    if !params.is_object() {
        let text = "the parameters must be a JSON object, such as '{\"device\": \"arm\"}'";
        return Err(Failure::Usage(text.into()));
    }
    let meta = Meta {
        // The kernel need not go on once nobody waits any more.
        deadline_ms: u64::try_from(session.timeout.as_millis()).ok(),
        idempotency_key: options.idempotency_key.clone(),
        ..Meta::default()
    };
    let timeout = session.timeout;
    let client = &mut session.client;
    let result: Value = client.call_with_meta(&options.method, params, Some(meta), timeout)?;
    terminal.json_page(&result)
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("standard input cannot be read: {error}")))?;
    if text.len() as u64 > STDIN_BYTES_MAX {
        let text = format!("standard input has more than {STDIN_BYTES_MAX} bytes of parameters");
        return Err(Failure::Usage(text));
    }
    Ok(text)
}
