//! A Python client under test: a process that performs actions, one line each way.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::driver::Driver;
use crate::support::PATIENCE;

/// The Python package, from this crate.
pub fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python")
}

/// `python3` with the package on its path; none, and said so, where there is no python3.
pub fn python() -> Option<Command> {
    let found = Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no python3 here; `cargo xtask test` installs it");
        return None;
    }
    let mut python = Command::new("python3");
    python
        .env_remove("KAIRO_IPC_FD")
        .env_remove("KAIRO_IPC_SOCKET")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", package().join("src"));
    Some(python)
}

/// A client's driver, running until dropped.
pub struct Client {
    process: Child,
    actions: ChildStdin,
    outcomes: Receiver<String>,
    offers: Vec<&'static str>,
}

impl Client {
    /// Starts the driver for the client called `name`, which offers more than every client does.
    pub fn start(name: &str, offers: &[&'static str]) -> Option<Self> {
        let mut process = python()?
            .arg(package().join("tests/conformance_driver.py"))
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (tell, outcomes) = channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                if line.is_err() || tell.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut offers = offers.to_vec();
        offers.push("top_up");
        Some(Self {
            actions: process.stdin.take().unwrap(),
            process,
            outcomes,
            offers,
        })
    }
}

impl Driver for Client {
    fn offers(&self, need: &str) -> bool {
        self.offers.contains(&need)
    }

    fn perform(&mut self, action: &Value) -> Value {
        writeln!(self.actions, "{action}").expect("the Python driver runs");
        // Its own deadlines are shorter.
        let line = self.outcomes.recv_timeout(2 * PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("the Python driver gave no outcome of {action}"));
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
