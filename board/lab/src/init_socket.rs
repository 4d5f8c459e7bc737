//! Requests to kairo-init over its control socket, one JSON object a line each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::robot::RUN_DIR;

/// Longest answer: a stop that has to wait for SIGKILL, and some.
const ANSWER: Duration = Duration::from_secs(20);

/// Asks and waits for the answer.
///
/// # Errors
/// When kairo-init does not answer, or refuses.
pub fn request(request: &Value) -> anyhow::Result<Value> {
    let path = format!("{RUN_DIR}/init.sock");
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("no kairo-init: {path}"))?;
    stream.set_read_timeout(Some(ANSWER))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value =
        serde_json::from_str(&line).with_context(|| format!("{request}: answered {line:?}"))?;
    ensure!(answer["ok"] == true, "{request} was refused: {answer}");
    Ok(answer)
}

/// Stops a service and waits until it is gone.
///
/// # Errors
/// As [`request`].
pub fn stop(service: &str) -> anyhow::Result<()> {
    request(&json!({"op": "stop", "service": service})).map(drop)
}

/// Process id of a running service.
///
/// # Errors
/// As [`request`].
pub fn pid_of(service: &str) -> anyhow::Result<Option<i64>> {
    let status = request(&json!({"op": "status"}))?;
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let found = services.iter().find(|entry| entry["name"] == service);
    Ok(found
        .filter(|entry| entry["state"] == "running")
        .and_then(|entry| entry["pid"].as_i64()))
}
