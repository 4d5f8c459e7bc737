//! A small blocking client for QEMU's machine protocol (QMP).
//!
//! Guarantees: each call has a deadline; answers are matched to their command by id; events that
//! arrive meanwhile are kept, the oldest dropped beyond [`MAX_EVENTS`].

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::QemuError;
use super::json_lines::JsonLines;

/// Events kept for a later [`Qmp::wait_event`].
const MAX_EVENTS: usize = 256;

/// A connection in command mode.
#[derive(Debug)]
pub struct Qmp {
    lines: JsonLines,
    events: VecDeque<Value>,
    next_id: u64,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when QEMU does not answer within `deadline`.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Qmp, QemuError> {
        let end = Instant::now() + deadline;
        let mut lines = JsonLines::connect(path, "QEMU's machine protocol", deadline)?;
        if lines
            .receive(rest(end), |object| object.get("QMP").is_some())?
            .is_none()
        {
            return Err(silent("no greeting"));
        }
        let mut qmp = Qmp {
            lines,
            events: VecDeque::new(),
            next_id: 1,
        };
        qmp.execute("qmp_capabilities", json!({}), rest(end))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it answered.
    ///
    /// # Errors
    /// [`QemuError::Refused`] with QEMU's reason; [`QemuError::Conversation`] after `deadline`.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, QemuError> {
        let end = Instant::now() + deadline;
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({"execute": command, "arguments": arguments, "id": id});
        self.lines.send(&request, deadline)?;
        let events = &mut self.events;
        let answer = self.lines.receive(rest(end), |object| {
            keep_event(events, object);
            object.get("id").and_then(Value::as_u64) == Some(id)
        })?;
        let Some(answer) = answer else {
            return Err(silent(command));
        };
        match answer.get("error") {
            Some(error) => Err(QemuError::Refused {
                command: command.to_owned(),
                reason: error["desc"]
                    .as_str()
                    .unwrap_or("no reason given")
                    .to_owned(),
            }),
            None => Ok(answer.get("return").cloned().unwrap_or(Value::Null)),
        }
    }

    /// Waits for an event of that name whose data `matches`, among the kept ones first.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when it does not come within `deadline`.
    pub fn wait_event(
        &mut self,
        name: &str,
        deadline: Duration,
        matches: impl Fn(&Value) -> bool,
    ) -> Result<Value, QemuError> {
        let wanted = |object: &Value| object["event"] == name && matches(&object["data"]);
        if let Some(at) = self.events.iter().position(wanted) {
            return Ok(self.events.remove(at).unwrap_or_default());
        }
        let events = &mut self.events;
        let event = self.lines.receive(deadline, |object| {
            let found = wanted(object);
            if !found {
                keep_event(events, object);
            }
            found
        })?;
        event.ok_or_else(|| silent(&format!("no event {name}")))
    }
}

fn keep_event(events: &mut VecDeque<Value>, object: &Value) {
    if object.get("event").is_some() {
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(object.clone());
    }
}

fn rest(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

fn silent(what: &str) -> QemuError {
    QemuError::Conversation {
        with: "QEMU's machine protocol",
        reason: format!("{what}: no answer within the deadline"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);

    /// A QEMU that greets, answers each command by `answer`, and sends an event before each.
    fn stand_in(answer: fn(&Value) -> Value) -> (tempfile::TempDir, thread::JoinHandle<()>) {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("qmp")).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            writeln!(stream, "{{\"QMP\": {{}}}}").unwrap();
            let reader = BufReader::new(stream.try_clone().unwrap());
            for line in reader.lines().map_while(Result::ok) {
                let request: Value = serde_json::from_str(&line).unwrap();
                let name = request["execute"].as_str().unwrap();
                writeln!(stream, "{}", json!({"event": "DONE", "data": {"of": name}})).unwrap();
                let mut reply = answer(&request);
                reply["id"] = request["id"].clone();
                writeln!(stream, "{reply}").unwrap();
            }
        });
        (directory, thread)
    }

    #[test]
    fn events_that_came_before_the_answer_are_not_lost() {
        let (directory, thread) = stand_in(|_| json!({"return": {"n": 1}}));
        let mut qmp = Qmp::connect(&directory.path().join("qmp"), LONG).unwrap();
        assert_eq!(
            qmp.execute("stop", json!({}), LONG).unwrap(),
            json!({"n": 1})
        );
        let event = qmp
            .wait_event("DONE", LONG, |data| data["of"] == "stop")
            .unwrap();
        assert_eq!(event["data"]["of"], "stop");
        drop(qmp);
        thread.join().unwrap();
    }

    #[test]
    fn a_refusal_carries_qemus_reason() {
        let (directory, thread) = stand_in(|request| {
            if request["execute"] == "qmp_capabilities" {
                json!({"return": {}})
            } else {
                json!({"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}})
            }
        });
        let mut qmp = Qmp::connect(&directory.path().join("qmp"), LONG).unwrap();
        let error = qmp
            .execute("device_del", json!({"id": "x"}), LONG)
            .unwrap_err();
        assert!(
            error.to_string().contains("Device 'x' not found"),
            "{error}"
        );
        drop(qmp);
        thread.join().unwrap();
    }
}
