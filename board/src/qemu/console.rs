//! Talks to `kairo-console` on the machine's second serial port: one JSON request, one reply.
//!
//! Guarantees: a reply is never taken for that of another request. The protocol has no ids, but it
//! promises exactly one reply to each request, in order; so a reply that came too late for its
//! request is owed, and passed over before the next one is read.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::QemuError;
use super::json_lines::JsonLines;

/// How long a serial line is silent when nothing is on its way.
const SILENCE: Duration = Duration::from_millis(300);

/// A conversation with the machine's console.
#[derive(Debug)]
pub struct Console {
    lines: JsonLines,
    /// Replies still to come to requests that were given up.
    owed: u32,
}

impl Console {
    /// Connects to QEMU's end of the serial line. Whether anybody is at the guest's end shows with
    /// the first request.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when QEMU does not listen within `deadline`.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Console, QemuError> {
        let lines = JsonLines::connect(path, "the machine's console", deadline)?;
        Ok(Console { lines, owed: 0 })
    }

    /// Sends a request and waits for its reply, whatever it says.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when no reply comes within `deadline`.
    pub fn request(&mut self, request: &Value, deadline: Duration) -> Result<Value, QemuError> {
        let end = Instant::now() + deadline;
        self.lines.send(request, deadline)?;
        let owed = &mut self.owed;
        let reply =
            self.lines
                .receive(end.saturating_duration_since(Instant::now()), |object| {
                    // The line may echo what is typed: only replies have this key.
                    if object.get("ok").and_then(Value::as_bool).is_none() {
                        return false;
                    }
                    let mine = *owed == 0;
                    *owed = owed.saturating_sub(1);
                    mine
                })?;
        reply.ok_or_else(|| {
            self.owed = self.owed.saturating_add(1);
            QemuError::Conversation {
                with: "the machine's console",
                reason: format!("no reply to {request} within {deadline:?}"),
            }
        })
    }

    /// Reads until the line has been silent for a moment, so that replies to requests of an
    /// earlier conversation are out of the way.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when QEMU hangs up.
    pub fn settle(&mut self) -> Result<(), QemuError> {
        while self.lines.receive(SILENCE, |_| true)?.is_some() {}
        self.owed = 0;
        Ok(())
    }

    /// As [`Console::request`], and a reply that says `"ok": false` is an error.
    ///
    /// # Errors
    /// [`QemuError::Conversation`], also with the guest's own reason.
    pub fn demand(&mut self, request: &Value, deadline: Duration) -> Result<Value, QemuError> {
        let reply = self.request(request, deadline)?;
        if reply["ok"] == true {
            return Ok(reply);
        }
        let reason = reply["error"].as_str().unwrap_or("no reason given");
        Err(QemuError::Conversation {
            with: "the machine's console",
            reason: format!("{request} was refused: {reason}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_late_reply_is_not_taken_for_the_next_one_and_echo_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            let second = lines.next().unwrap().unwrap();
            // The first reply comes only now, behind the second request.
            writeln!(stream, "{first}\n{{\"ok\":true,\"n\":1}}").unwrap();
            writeln!(stream, "{second}\n{{\"ok\":false,\"error\":\"n 2\"}}").unwrap();
            lines.next();
        });
        let mut console = Console::connect(&path, LONG).unwrap();
        let short = Duration::from_millis(30);
        assert!(console.request(&json!({"op": "one"}), short).is_err());
        let error = console.demand(&json!({"op": "two"}), LONG).unwrap_err();
        assert!(error.to_string().contains("n 2"), "{error}");
        drop(console);
        guest.join().unwrap();
    }
}
