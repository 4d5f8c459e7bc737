//! The hosted form: both planes on the developer's own Linux, the arm on a pseudo-terminal or on
//! a real port. No root needed; what real-time set-up the kernel would not grant is listed by
//! `kairo rt status`, and `--strict` makes kairo-rt refuse to arm without it.

pub mod run;
pub mod service;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::binaries::Binaries;
use crate::hosted::service::{Service, ServiceError};
use crate::paths::Paths;
use crate::qemu::{PrivateDirectory, QemuError};
use crate::simulator::{Line, Simulator};

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A real servo port, such as `/dev/ttyACM0`; the simulator when none.
    pub port: Option<PathBuf>,
    /// Another robot.toml than the SO-101's.
    pub robot: Option<PathBuf>,
    /// Refuse to arm unless every real-time request was granted.
    pub strict: bool,
    /// The simulator's seed.
    pub seed: u64,
}

/// Why the hosted form did not start.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// A directory or link could not be made.
    #[error("cannot prepare {path}: {source}")]
    Prepare {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A daemon could not be started.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The simulator, or a private directory for the sockets, was not to be had.
    #[error(transparent)]
    Simulator(#[from] QemuError),
    /// No directory for the logs.
    #[error(transparent)]
    Paths(#[from] crate::paths::PathsError),
}

/// Both planes, running.
#[derive(Debug)]
pub struct Hosted {
    /// The agent plane; first, so that it is dropped, and leaves, first.
    pub kairod: Service,
    /// The real-time plane.
    pub real_time: Service,
    /// The arm, unless a real one is used.
    pub simulator: Option<Simulator>,
    run: PrivateDirectory,
}

impl Hosted {
    /// Starts simulator, kairo-rt and kairod, in that order. They need a moment to answer.
    ///
    /// # Errors
    /// [`HostedError`].
    pub fn start(
        paths: &Paths,
        binaries: &Binaries,
        options: &Options,
    ) -> Result<Self, HostedError> {
        let logs = paths.out_dir("hosted")?;
        let run = PrivateDirectory::new()?;
        let (port, simulator) = match &options.port {
            Some(port) => (port.clone(), None),
            None => {
                let program = binaries.path("kairo-arm-sim");
                let simulator = Simulator::start(&program, Line::Pty, &logs, options.seed)?;
                (simulator.line_path(), Some(simulator))
            }
        };
        let shipped = paths.workspace().join("board/robots/so101.toml");
        let robot = options.robot.clone().unwrap_or(shipped);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let strictness = if options.strict {
            "--strict"
        } else {
            "--no-strict"
        };
        let arguments = [
            "--config".into(),
            text(&robot),
            "--run-dir".into(),
            text(run.path()),
            strictness.into(),
            "--port".into(),
            format!("arm-bus={}", text(&port)),
            "--record-dir".into(),
            text(&logs.join("records")),
        ];
        let log = fresh(logs.join("kairo-rt.log"))?;
        let real_time = Service::start("kairo-rt", &binaries.path("kairo-rt"), &arguments, &log)?;
        let arguments = [
            "--run-dir".into(),
            text(run.path()),
            "--state-dir".into(),
            text(&run.path().join("state")),
            "--policy".into(),
            text(&run.path().join("policy.toml")),
        ];
        let log = fresh(logs.join("kairod.log"))?;
        let kairod = Service::start("kairod", &binaries.path("kairod"), &arguments, &log)?;
        Ok(Self {
            kairod,
            real_time,
            simulator,
            run,
        })
    }

    /// The directory of the sockets and logs (`KAIRO_RUN_DIR`).
    pub fn run_directory(&self) -> &Path {
        self.run.path()
    }

    /// The IPC socket (`KAIRO_IPC_SOCKET`).
    pub fn ipc_socket(&self) -> PathBuf {
        self.run.path().join("kernel.sock")
    }
}

/// `path`, with what an earlier run left there gone.
fn fresh(path: PathBuf) -> Result<PathBuf, HostedError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(HostedError::Prepare { path, source })
        }
        _ => Ok(path),
    }
}
