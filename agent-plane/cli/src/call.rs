//! Calling methods.

use std::os::fd::OwnedFd;
use std::time::Duration;

use kairo_wire::Client;
use kairo_wire::endpoint::Endpoint;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;

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

/// `kairo call`.
pub fn raw(
    session: &mut Session<'_>,
    terminal: &Terminal,
    method: &str,
    params: &str,
) -> Result<(), Failure> {
    let params: Value = serde_json::from_str(params)
        .map_err(|error| Failure::Usage(format!("the parameters are not JSON: {error}")))?;
    if !params.is_object() {
        let text = "the parameters must be a JSON object, such as '{\"device\": \"arm\"}'";
        return Err(Failure::Usage(text.into()));
    }
    let result = session.call(method, params)?;
    terminal.json_page(&result)
}
