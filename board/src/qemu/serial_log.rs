//! The kernel console of a machine: kept in a file, and searchable while the machine runs.
//!
//! QEMU connects to a socket of this module; one thread reads it until QEMU ends. Memory and file
//! are bounded ([`MAX_LINES`], [`MAX_FILE_BYTES`]): a guest that floods its console costs neither.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::QemuError;

/// Lines kept in memory for searching; a boot prints about five hundred.
pub const MAX_LINES: usize = 20_000;

/// Bytes written to the file.
pub const MAX_FILE_BYTES: u64 = 32 << 20;

/// Bytes of one line; longer ones are cut into several.
const MAX_LINE_BYTES: usize = 4096;

/// Lines shown in an error.
const TAIL_LINES: usize = 20;

/// One line of the kernel console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its number, from 0, counting those no longer kept.
    pub index: u64,
    /// When it was complete, since QEMU was started, by the host's clock.
    pub since_start: Duration,
    /// The text, without its line end.
    pub text: String,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<LogLine>,
    partial: Vec<u8>,
    next_index: u64,
    closed: bool,
}

/// The console's log.
#[derive(Debug, Clone)]
pub struct SerialLog {
    file: PathBuf,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl SerialLog {
    /// Listens at `socket` for QEMU and writes what comes to the new file `file`.
    ///
    /// # Errors
    /// [`QemuError::File`].
    pub fn listen(socket: &Path, file: &Path, deadline: Duration) -> Result<SerialLog, QemuError> {
        let listener = UnixListener::bind(socket).map_err(QemuError::file("listen at", socket))?;
        listener
            .set_nonblocking(true)
            .map_err(QemuError::file("listen at", socket))?;
        let output = File::create(file).map_err(QemuError::file("create", file))?;
        let log = SerialLog {
            file: file.to_path_buf(),
            shared: Arc::default(),
        };
        let shared = log.clone();
        let start = Instant::now();
        thread::spawn(move || {
            if let Some(stream) = accept(&listener, start + deadline) {
                shared.read(stream, output, start);
            }
            shared.state().closed = true;
            shared.shared.1.notify_all();
        });
        Ok(log)
    }

    /// A log that is only a file, written by QEMU itself; nothing can be waited for.
    #[must_use]
    pub fn of_file(file: &Path) -> SerialLog {
        let log = SerialLog {
            file: file.to_path_buf(),
            shared: Arc::default(),
        };
        log.state().closed = true;
        log
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Number of the line that will come next: what is searched from there is new.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.state().next_index
    }

    /// Waits for a line, from number `from` on, that contains `text`; `None` when none came in
    /// time or none can come any more.
    #[must_use]
    pub fn wait_for(&self, text: &str, from: u64, deadline: Duration) -> Option<LogLine> {
        let end = Instant::now() + deadline;
        let mut state = self.state();
        let mut seen = from;
        loop {
            let found = state
                .lines
                .iter()
                .find(|l| l.index >= seen && l.text.contains(text));
            if let Some(line) = found {
                return Some(line.clone());
            }
            seen = state.next_index.max(seen);
            let left = end.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            state = match self.shared.1.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Every kept line.
    #[must_use]
    pub fn lines(&self) -> Vec<LogLine> {
        self.state().lines.iter().cloned().collect()
    }

    /// The last lines, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let state = self.state();
        let skip = state.lines.len().saturating_sub(TAIL_LINES);
        let lines: Vec<&str> = state
            .lines
            .iter()
            .skip(skip)
            .map(|l| l.text.as_str())
            .collect();
        match lines.is_empty() {
            true => "(nothing was printed)".to_owned(),
            false => lines.join("\n"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while holding the lock leaves whole lines behind; they are still good.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut stream: UnixStream, mut output: File, start: Instant) {
        let mut written = 0;
        let mut chunk = [0; 8192];
        loop {
            let count = match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            written += count as u64;
            if written <= MAX_FILE_BYTES {
                // A full disk must not stop the machine: the lines are still in memory.
                let _ = output.write_all(&chunk[..count]);
            }
            self.state().take(&chunk[..count], start.elapsed());
            self.shared.1.notify_all();
        }
    }
}

impl State {
    fn take(&mut self, bytes: &[u8], since_start: Duration) {
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
            }
            if byte != b'\n' && self.partial.len() < MAX_LINE_BYTES {
                continue;
            }
            let text = String::from_utf8_lossy(&self.partial)
                .trim_end_matches('\r')
                .to_owned();
            self.partial.clear();
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(LogLine {
                index: self.next_index,
                since_start,
                text,
            });
            self.next_index += 1;
        }
    }
}

fn accept(listener: &UnixListener, end: Instant) -> Option<UnixStream> {
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).ok()?;
                return Some(stream);
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn log() -> (tempfile::TempDir, SerialLog, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("serial");
        let log = SerialLog::listen(&socket, &directory.path().join("log"), LONG).unwrap();
        let stream = UnixStream::connect(&socket).unwrap();
        (directory, log, stream)
    }

    #[test]
    fn a_line_is_found_when_it_comes_and_only_when_it_is_new() {
        let (_directory, log, mut stream) = log();
        stream.write_all(b"one\r\nready ").unwrap();
        assert_eq!(log.wait_for("one", 0, LONG).unwrap().text, "one");
        stream.write_all(b"1\nready 2\n").unwrap();
        let first = log.wait_for("ready", 0, LONG).unwrap();
        let second = log.wait_for("ready", first.index + 1, LONG).unwrap();
        assert_eq!(
            (first.text.as_str(), second.text.as_str()),
            ("ready 1", "ready 2")
        );
    }

    #[test]
    fn waiting_ends_when_the_machine_does() {
        let (_directory, log, mut stream) = log();
        stream.write_all(b"last words\n").unwrap();
        drop(stream);
        assert_eq!(log.wait_for("never", 0, Duration::from_secs(3600)), None);
        assert_eq!(log.tail(), "last words");
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut state = State::default();
        state.take(&b"x\n".repeat(MAX_LINES + 10), Duration::ZERO);
        state.take(&vec![b'y'; 3 * MAX_LINE_BYTES], Duration::ZERO);
        assert_eq!(state.lines.len(), MAX_LINES);
        assert!(state.partial.len() < MAX_LINE_BYTES);
        assert_eq!(state.next_index, MAX_LINES as u64 + 13);
    }
}
