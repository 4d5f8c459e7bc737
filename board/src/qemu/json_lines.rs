//! JSON objects over a Unix socket, one per line, each way, with deadlines.
//!
//! Guarantees: no call blocks past its deadline; a line longer than [`MAX_LINE_BYTES`] is an error
//! and not more memory; lines that are no JSON object are passed over, because a serial line
//! carries other text too.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::QemuError;

/// The longest line taken.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// A conversation in JSON lines.
#[derive(Debug)]
pub struct JsonLines {
    with: &'static str,
    stream: UnixStream,
    pending: Vec<u8>,
    /// Bytes of `pending` that are known to end no line, so that a long one is searched once.
    searched: usize,
}

impl JsonLines {
    /// Connects to `path`, which may appear a little later; `with` names the other side in errors.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when nobody listens there within `deadline`.
    pub fn connect(
        path: &Path,
        with: &'static str,
        deadline: Duration,
    ) -> Result<JsonLines, QemuError> {
        let end = Instant::now() + deadline;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    return Ok(JsonLines {
                        with,
                        stream,
                        pending: Vec::new(),
                        searched: 0,
                    });
                }
                Err(error) if Instant::now() >= end => {
                    let reason = format!("cannot connect to {}: {error}", path.display());
                    return Err(QemuError::Conversation { with, reason });
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Sends one object as one line.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when the other side is gone or takes nothing for `deadline`.
    pub fn send(&mut self, object: &Value, deadline: Duration) -> Result<(), QemuError> {
        let line = format!("{object}\n");
        self.stream
            .set_write_timeout(Some(at_least_a_moment(deadline)))
            .and_then(|()| self.stream.write_all(line.as_bytes()))
            .map_err(|error| self.failed(format!("cannot send: {error}")))
    }

    /// The next object that `wanted` takes; `None` when none came within `deadline`. Objects it
    /// does not take are passed over.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] when the other side hangs up or sends an endless line.
    pub fn receive(
        &mut self,
        deadline: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Result<Option<Value>, QemuError> {
        let end = Instant::now() + deadline;
        loop {
            while let Some(line) = self.whole_line() {
                match serde_json::from_slice::<Value>(&line) {
                    Ok(value) if value.is_object() && wanted(&value) => return Ok(Some(value)),
                    _ => {}
                }
            }
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(self.failed(format!("a line of more than {MAX_LINE_BYTES} bytes")));
            }
            let now = Instant::now();
            if now >= end {
                return Ok(None);
            }
            self.fill(end - now)?;
        }
    }

    /// Takes the first whole line out of what was read.
    fn whole_line(&mut self) -> Option<Vec<u8>> {
        let unsearched = self.pending.get(self.searched..).unwrap_or_default();
        let found = unsearched.iter().position(|&byte| byte == b'\n');
        match found {
            Some(at) => {
                let end = self.searched + at;
                self.searched = 0;
                Some(self.pending.drain(..=end).collect())
            }
            None => {
                self.searched = self.pending.len();
                None
            }
        }
    }

    /// Reads what is there, waiting for it at most `wait`.
    fn fill(&mut self, wait: Duration) -> Result<(), QemuError> {
        let mut chunk = [0; 16 * 1024];
        let outcome = self
            .stream
            .set_read_timeout(Some(at_least_a_moment(wait)))
            .and_then(|()| self.stream.read(&mut chunk));
        match outcome {
            Ok(0) => Err(self.failed("the other side hung up".to_owned())),
            Ok(count) => {
                self.pending.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
                _ => Err(self.failed(error.to_string())),
            },
        }
    }

    fn failed(&self, reason: String) -> QemuError {
        QemuError::Conversation {
            with: self.with,
            reason,
        }
    }
}

/// A socket timeout of zero would mean none at all.
fn at_least_a_moment(deadline: Duration) -> Duration {
    deadline.max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pair() -> (JsonLines, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (
            JsonLines {
                with: "test",
                stream: near,
                pending: Vec::new(),
                searched: 0,
            },
            far,
        )
    }

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_object_in_pieces_among_other_text_is_found() {
        let (mut lines, mut far) = pair();
        far.write_all(b"kairo login:\r\n[1,2]\n{\"ok\":").unwrap();
        assert_eq!(lines.receive(SOON, |_| true).unwrap(), None);
        far.write_all(b"true}\r\n").unwrap();
        assert_eq!(
            lines.receive(LONG, |_| true).unwrap(),
            Some(json!({"ok": true}))
        );
    }

    #[test]
    fn a_silent_other_side_is_a_timeout_and_a_closed_one_an_error() {
        let (mut lines, far) = pair();
        assert_eq!(lines.receive(SOON, |_| true).unwrap(), None);
        drop(far);
        assert!(lines.receive(LONG, |_| true).is_err());
    }

    #[test]
    fn an_endless_line_is_refused() {
        let (mut lines, mut far) = pair();
        let writer = thread::spawn(move || {
            let chunk = vec![b'x'; 64 * 1024];
            for _ in 0..MAX_LINE_BYTES / chunk.len() + 2 {
                if far.write_all(&chunk).is_err() {
                    break;
                }
            }
        });
        assert!(lines.receive(LONG, |_| true).is_err());
        drop(lines);
        writer.join().unwrap();
    }
}
