//! The conversation on one terminal: bytes in, lines answered, one at a time.
//!
//! JSON answers always begin in column 0 and are one line, however a prompt was left behind, so
//! that a program can read lines and ignore those that do not begin with `{`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::tcdrain;
use serde_json::{Value, json};

use crate::console::command::{self, Command, HELP};
use crate::console::exec::{self, ExecRequest};
use crate::console::line::{LINE_BYTES_MAX, LineEditor, Step};
use crate::console::render;

/// Longest reply of PID 1: above its own bound for a log.
pub const REPLY_BYTES_MAX: u64 = 8 << 20;
/// PID 1 answers at once, except for start and stop, which have deadlines below this.
const REPLY_DEADLINE: Duration = Duration::from_secs(60);
const PROMPT: &[u8] = b"kairo> ";

/// A conversation.
#[derive(Debug)]
pub struct Session<T> {
    terminal: T,
    init_socket: PathBuf,
    editor: LineEditor,
    prompted: bool,
}

impl<T: Read + Write + AsFd> Session<T> {
    /// A conversation over a raw terminal with the PID 1 behind this socket.
    pub fn new(terminal: T, init_socket: &Path) -> Self {
        Self {
            terminal,
            init_socket: init_socket.to_owned(),
            editor: LineEditor::default(),
            prompted: false,
        }
    }

    /// Talks until the terminal hangs up.
    ///
    /// # Errors
    /// The terminal cannot be read or written any more.
    pub fn run(&mut self) -> io::Result<()> {
        // SIGTERM waits while a line is answered: the answer to `poweroff` is to go out first.
        let mut terminate = SigSet::empty();
        terminate.add(Signal::SIGTERM);
        let mut chunk = [0; 4096];
        self.prompt()?;
        loop {
            let count = match self.terminal.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            terminate.thread_block()?;
            for byte in &chunk[..count] {
                self.take(*byte)?;
            }
            terminate.thread_unblock()?;
        }
    }

    fn take(&mut self, byte: u8) -> io::Result<()> {
        match self.editor.push(byte) {
            Step::Show(bytes) => self.terminal.write_all(bytes),
            Step::ShowByte(byte) => self.terminal.write_all(&[byte]),
            Step::TooLong => {
                let error = format!("a line may have at most {LINE_BYTES_MAX} bytes");
                self.answer_raw(&json!({"ok": false, "error": error}))
            }
            Step::Line(line) if line.first() == Some(&b'{') => {
                let answer = self.ask_raw(&line);
                self.answer_raw(&answer)
            }
            Step::Line(line) => {
                self.terminal.write_all(b"\r\n")?;
                let text = self.obey(&String::from_utf8_lossy(&line));
                self.terminal
                    .write_all(text.replace('\n', "\r\n").as_bytes())?;
                self.prompt()
            }
        }
    }

    fn prompt(&mut self) -> io::Result<()> {
        self.prompted = true;
        self.terminal.write_all(PROMPT)
    }

    fn answer_raw(&mut self, answer: &Value) -> io::Result<()> {
        if std::mem::take(&mut self.prompted) {
            self.terminal.write_all(b"\r\n")?;
        }
        self.terminal.write_all(format!("{answer}\n").as_bytes())?;
        // Written to the terminal is not yet on the wire.
        Ok(tcdrain(self.terminal.as_fd())?)
    }

    fn ask_raw(&self, line: &[u8]) -> Value {
        let request: Value = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => return json!({"ok": false, "error": format!("not JSON: {error}")}),
        };
        if request["op"] != "exec" {
            return self.ask(&request);
        }
        match serde_json::from_value::<ExecRequest>(request) {
            Ok(request) => exec::run(&request),
            Err(error) => json!({"ok": false, "error": format!("exec: {error}")}),
        }
    }

    fn obey(&self, line: &str) -> String {
        match command::parse(line) {
            Ok(Command::Nothing) => String::new(),
            Ok(Command::Help) => format!("{HELP}\n"),
            Ok(Command::Ask(request)) => render::reply(&self.ask(&request)),
            Ok(Command::Latency(latency)) => {
                render::latency(&exec::run(&exec::cyclictest(latency)))
            }
            Err(error) => format!("{error}\n"),
        }
    }

    fn ask(&self, request: &Value) -> Value {
        let socket = self.init_socket.display();
        let reply = self.exchange(request);
        reply.unwrap_or_else(|error| {
            let error = format!("kairo-init does not answer on {socket}: {error}");
            json!({"ok": false, "error": error})
        })
    }

    fn exchange(&self, request: &Value) -> io::Result<Value> {
        let mut stream = UnixStream::connect(&self.init_socket)?;
        stream.set_read_timeout(Some(REPLY_DEADLINE))?;
        stream.set_write_timeout(Some(REPLY_DEADLINE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream)
            .take(REPLY_BYTES_MAX)
            .read_line(&mut line)?;
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}
