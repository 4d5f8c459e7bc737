//! Child processes that never outlive this one.
//!
//! Guarantees: a child is killed and reaped when its handle is dropped, and killed by the kernel
//! when this process dies without dropping anything. Only the own child is ever signalled.
//!
//! How: the child is started under `setpriv --pdeathsig`, which is bound to the *thread* that
//! starts it; so each child has a keeper thread that lives exactly as long as the child, and a
//! handle may be made in one thread and used in another.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::QemuError;
use crate::host::program_path;

/// How often a keeper looks whether its child has ended.
const POLL: Duration = Duration::from_millis(10);

/// A running child.
#[derive(Debug)]
pub struct KeptChild {
    program: String,
    id: u32,
    status: Arc<Mutex<Option<ExitStatus>>>,
    /// Dropping it tells the keeper to kill the child.
    kill: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    said: PathBuf,
}

/// What a child has for standard input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Nothing in, output to the log.
    None,
    /// The terminal of this process; standard error goes to the log.
    Shared,
}

impl KeptChild {
    /// Starts `program` with `arguments`; what it says on standard error goes to the file `said`.
    ///
    /// # Errors
    /// [`QemuError::Program`] when it cannot be started.
    pub fn start(
        program: &Path,
        arguments: &[String],
        terminal: Terminal,
        said: &Path,
    ) -> Result<KeptChild, QemuError> {
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let log = File::create(said).map_err(QemuError::file("create", said))?;
        let mut command = Command::new(program_path("setpriv").unwrap_or("setpriv".into()));
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments);
        if terminal == Terminal::None {
            let copy = log.try_clone().map_err(QemuError::file("open", said))?;
            command.stdin(Stdio::null()).stdout(copy);
        }
        command.stderr(log);
        let (kill, killed) = mpsc::channel();
        let (started, outcome) = mpsc::channel();
        let status = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&status);
        let keeper = thread::spawn(move || match command.spawn() {
            Ok(child) => {
                let _ = started.send(Ok(child.id()));
                let ended = keep(child, &killed);
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = ended;
            }
            Err(error) => {
                let _ = started.send(Err(error.to_string()));
            }
        });
        let refused = |reason| QemuError::Program {
            program: name.clone(),
            reason,
        };
        let id = outcome
            .recv()
            .map_err(|error| refused(error.to_string()))?
            .map_err(refused)?;
        let said = said.to_path_buf();
        Ok(KeptChild {
            program: name,
            id,
            status,
            kill: Some(kill),
            keeper: Some(keeper),
            said,
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The program's name.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Its exit status, once it has ended.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its end; `None` when it still runs after `deadline`.
    #[must_use]
    pub fn wait(&self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            let status = self.exit_status();
            if status.is_some() || Instant::now() >= end {
                return status;
            }
            thread::sleep(POLL);
        }
    }

    /// What it said, at most the last 2000 characters.
    #[must_use]
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.said).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let skip = text.chars().count().saturating_sub(2000);
        let text: String = text.chars().skip(skip).collect();
        text.trim().to_owned()
    }
}

impl Drop for KeptChild {
    fn drop(&mut self) {
        self.kill = None;
        if let Some(keeper) = self.keeper.take() {
            // The keeper ends at once: it kills its child and reaps it.
            let _ = keeper.join();
        }
    }
}

/// Waits until the child ends or the handle is dropped, whichever is first.
fn keep(mut child: Child, killed: &Receiver<()>) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        match killed.recv_timeout(POLL) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                // It may have ended in between; then there is nothing left to kill.
                let _ = child.kill();
                return child.wait().ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, said: &Path) -> KeptChild {
        let arguments = ["-c".to_owned(), script.to_owned()];
        KeptChild::start(Path::new("/bin/sh"), &arguments, Terminal::None, said).unwrap()
    }

    fn alive(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let said = tempfile::NamedTempFile::new().unwrap();
        let child = shell("exec sleep 600", said.path());
        let id = child.id();
        assert!(alive(id));
        drop(child);
        assert!(!alive(id));
    }

    #[test]
    fn a_child_survives_the_thread_that_made_it() {
        let said = tempfile::NamedTempFile::new().unwrap();
        let path = said.path().to_path_buf();
        let child = thread::spawn(move || shell("exec sleep 600", &path))
            .join()
            .unwrap();
        assert_eq!(
            child.wait(Duration::from_millis(200)),
            None,
            "it died with the thread"
        );
    }

    #[test]
    fn what_it_said_and_how_it_ended_is_known() {
        let said = tempfile::NamedTempFile::new().unwrap();
        let child = shell("echo trouble >&2; exit 3", said.path());
        let status = child.wait(Duration::from_secs(20)).unwrap();
        assert_eq!((status.code(), child.said().as_str()), (Some(3), "trouble"));
    }
}
