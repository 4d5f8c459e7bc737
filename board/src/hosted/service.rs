//! A daemon kept running on the developer's machine: started, restarted when it dies, stopped.
//!
//! What kairo-init does on the image and systemd on a robot that runs another Linux, for a run
//! from a checkout. Guarantees: it ends the process it started and no other; a crash loop is
//! slowed down to one start a second. Does not judge readiness: the caller asks the daemon.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a dead process is noticed.
const WATCH: Duration = Duration::from_millis(20);
/// A process that lived less than this is restarted only after as long a pause.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long a process may take to leave after SIGTERM.
const LEAVE: Duration = Duration::from_secs(3);

/// Why a daemon could not be started or signalled.
#[derive(Debug, thiserror::Error)]
#[error("{name}: cannot {action} {program}: {source}")]
pub struct ServiceError {
    name: &'static str,
    action: &'static str,
    program: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    /// False once it shall stay down.
    wanted: bool,
    /// False once the watching thread shall leave.
    watching: bool,
    started: Instant,
    restarts: u32,
}

/// One daemon.
#[derive(Debug)]
pub struct Service {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    state: Arc<Mutex<State>>,
    watcher: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts `program` with `arguments`; its output is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self, ServiceError> {
        let state = State {
            child: None,
            wanted: true,
            watching: true,
            started: Instant::now(),
            restarts: 0,
        };
        let mut service = Self {
            name,
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            log: log.to_owned(),
            state: Arc::new(Mutex::new(state)),
            watcher: None,
        };
        if !program.is_file() {
            return Err(service.error("start", io::ErrorKind::NotFound.into()));
        }
        service.resume()?;
        let (state, launch) = (Arc::clone(&service.state), service.launcher());
        service.watcher = Some(std::thread::spawn(move || watch(&state, &launch)));
        Ok(service)
    }

    /// Starts it again after [`Service::stop`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn resume(&self) -> Result<(), ServiceError> {
        let child = self.launcher()().map_err(|source| self.error("start", source))?;
        let mut state = lock(&self.state);
        state.wanted = true;
        state.started = Instant::now();
        state.child = Some(child);
        Ok(())
    }

    /// Asks it to leave, makes it after three seconds, and keeps it down. Returns true if it left
    /// by itself with status 0.
    pub fn stop(&self) -> bool {
        let child = {
            let mut state = lock(&self.state);
            state.wanted = false;
            state.child.take()
        };
        child.is_some_and(end)
    }

    /// Sends SIGKILL, as a crash would; the watcher starts it again.
    ///
    /// # Errors
    /// When there is no process.
    pub fn crash(&self) -> Result<(), ServiceError> {
        let mut state = lock(&self.state);
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let child = state
            .child
            .as_mut()
            .ok_or_else(|| self.error("kill", gone()))?;
        child.kill().map_err(|source| self.error("kill", source))
    }

    /// The number of its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.state).child.as_ref().map(Child::id)
    }

    /// How often it was started again after dying.
    pub fn restarts(&self) -> u32 {
        lock(&self.state).restarts
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn launcher(&self) -> impl Fn() -> io::Result<Child> + Send + use<> {
        let (program, arguments, log) = (
            self.program.clone(),
            self.arguments.clone(),
            self.log.clone(),
        );
        move || {
            let output = File::options().create(true).append(true).open(&log)?;
            // It dies with us, however we die: nobody else would stop it.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "TERM", "--"]).arg(&program);
            command.args(&arguments).stdin(Stdio::null());
            command.env_remove("NOTIFY_SOCKET");
            command.stdout(output.try_clone()?).stderr(output).spawn()
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> ServiceError {
        ServiceError {
            name: self.name,
            action,
            program: self.program.clone(),
            source,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        lock(&self.state).watching = false;
        self.stop();
        if let Some(watcher) = self.watcher.take() {
            // It holds nothing that a panic could have broken for us.
            let _ = watcher.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Restarts the process whenever it is gone and wanted.
fn watch(state: &Mutex<State>, launch: &impl Fn() -> io::Result<Child>) {
    loop {
        std::thread::sleep(WATCH);
        let mut state = lock(state);
        if !state.watching {
            return;
        }
        let gone = match state.child.as_mut() {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => true,
        };
        let crash_loop = state.restarts > 0 && state.started.elapsed() < RESTART_PAUSE;
        if state.wanted && gone && !crash_loop {
            state.child = launch().ok();
            state.started = Instant::now();
            state.restarts += 1;
        }
    }
}

/// SIGTERM, then SIGKILL. True if it left with status 0.
fn end(mut child: Child) -> bool {
    if let Ok(pid) = i32::try_from(child.id()) {
        // A failure means that it has already left.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let end = Instant::now() + LEAVE;
    while Instant::now() < end {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        std::thread::sleep(WATCH);
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Service {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Service::start("test", Path::new("/bin/sh"), &arguments, log).expect("starts")
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(WATCH);
        }
    }

    #[test]
    fn a_crashed_daemon_comes_back_and_a_stopped_one_does_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let service = shell(
            "trap 'exit 0' TERM; while :; do sleep 0.05; done",
            &dir.path().join("l"),
        );
        service.crash().expect("killed");
        eventually("restarted", || service.restarts() == 1);
        std::thread::sleep(Duration::from_millis(200));
        assert!(service.stop(), "left by itself");
        std::thread::sleep(3 * WATCH);
        assert_eq!(service.restarts(), 1);
        assert!(service.crash().is_err(), "nothing runs");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let missing = Path::new("/no/such/daemon");
        let error = Service::start("kairod", missing, &[], &dir.path().join("l")).expect_err("no");
        assert!(error.to_string().contains("/no/such/daemon"), "{error}");
    }
}
