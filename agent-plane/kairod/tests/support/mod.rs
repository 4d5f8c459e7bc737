//! A kairod in a directory of its own, with a real-time plane to talk to.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.
#![allow(dead_code, unused_imports)] // Each test file uses its part.

pub mod camera;
pub mod fake_rt;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kairo_wire::{Client, ErrorInfo};
use serde_json::Value;
use tempfile::TempDir;

pub use fake_rt::{FakeRt, Order};

/// Longest that anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running kairod.
pub struct System {
    pub directory: TempDir,
    pub rt: Option<FakeRt>,
    kairod: Child,
}

impl System {
    /// kairod with a real-time plane, linked.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rt = FakeRt::start(directory.path(), 0);
        let system = Self::around(directory, Some(rt));
        system.wait_until_linked();
        system
    }

    /// kairod with a real-time plane and this policy.
    pub fn start_with_policy(policy: &str) -> Self {
        Self::start_with_file("policy.toml", policy)
    }

    /// kairod with a real-time plane and a file in its directory.
    pub fn start_with_file(name: &str, content: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).unwrap();
        let rt = FakeRt::start(directory.path(), 0);
        let system = Self::around(directory, Some(rt));
        system.wait_until_linked();
        system
    }

    /// kairod alone, with these settings.
    pub fn start_observed(settings: &str) -> Self {
        Self::start_alone_with(|directory| {
            std::fs::write(directory.join("observe.toml"), settings).unwrap();
        })
    }

    /// A client that has become `class`, and is called `name`.
    pub fn confined(&self, class: &str, name: &str) -> Client {
        let mut client = self.client();
        let params = serde_json::json!({"class": class, "name": name});
        call(&mut client, "kernel.confine", params).unwrap();
        client
    }

    /// kairod with a real-time plane, in a directory that was prepared.
    pub fn start_with(prepare: impl FnOnce(&std::path::Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let rt = FakeRt::start(directory.path(), 0);
        let system = Self::around(directory, Some(rt));
        system.wait_until_linked();
        system
    }

    /// kairod alone, in a directory that was prepared.
    pub fn start_alone_with(prepare: impl FnOnce(&std::path::Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        Self::around(directory, None)
    }

    pub fn kairod_pid(&self) -> u32 {
        self.kairod.id()
    }

    /// kairod alone.
    pub fn start_without_rt() -> Self {
        Self::around(tempfile::tempdir().unwrap(), None)
    }

    /// kairod alone, which may have so many descriptors.
    pub fn start_with_descriptors(count: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(&directory);
        let limit = libc::rlimit {
            rlim_cur: count,
            rlim_max: count,
        };
        // SAFETY: setrlimit is one system call and touches nothing of the parent.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(
                &mut command,
                move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        let kairod = command.spawn().unwrap();
        let system = Self {
            directory,
            rt: None,
            kairod,
        };
        system.client();
        system
    }

    fn around(directory: TempDir, rt: Option<FakeRt>) -> Self {
        let kairod = spawn(&directory);
        let system = Self {
            directory,
            rt,
            kairod,
        };
        system.client();
        system
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("kernel.sock")
    }

    pub fn rt(&self) -> &FakeRt {
        self.rt.as_ref().unwrap()
    }

    /// A new client, as soon as kairod answers.
    pub fn client(&self) -> Client {
        let mut client = eventually("kairod answers", || {
            Client::connect_path(&self.socket()).ok()
        });
        call(&mut client, "kernel.ping", serde_json::json!({})).unwrap();
        client
    }

    /// A plain connection, for bytes that no client would send.
    pub fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn wait_until_linked(&self) {
        let mut client = self.client();
        eventually("the link is up", || {
            let status = call(&mut client, "rt.status", serde_json::json!({})).unwrap();
            (status["connected"] == true).then_some(())
        });
    }

    /// Kills kairod and starts another in its place.
    pub fn restart_kairod(&mut self) {
        self.kill_kairod();
        self.begin_kairod();
    }

    /// Kills kairod.
    pub fn kill_kairod(&mut self) {
        self.kairod.kill().unwrap();
        self.kairod.wait().unwrap();
    }

    /// Starts another kairod where one was.
    pub fn begin_kairod(&mut self) {
        self.kairod = spawn(&self.directory);
        if self.rt.is_some() {
            self.wait_until_linked();
        } else {
            self.client();
        }
    }

    /// Asks kairod to stop, and waits for it.
    pub fn stop_kairod(&mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.kairod.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = eventually("kairod ends", || self.kairod.try_wait().unwrap());
        status.success()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.kairod.kill();
        let _ = self.kairod.wait();
    }
}

fn spawn(directory: &TempDir) -> Child {
    command(directory).spawn().unwrap()
}

fn command(directory: &TempDir) -> Command {
    let settings = directory.path().join("observe.toml");
    if !settings.exists() {
        // How busy the machine is that runs the tests must not make events in them.
        std::fs::write(&settings, "[metrics]\ninterval_s = 0\n").unwrap();
    }
    let sensors = directory.path().join("sensors");
    let sensors = if sensors.exists() {
        sensors
    } else {
        "/".into()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairod"));
    command
        .arg("--run-dir")
        .arg(directory.path())
        .arg("--policy")
        .arg(directory.path().join("policy.toml"))
        .arg("--observe")
        .arg(settings)
        .arg("--sensor-root")
        .arg(sensors)
        .arg("--state-dir")
        .arg(directory.path().join("state"))
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null());
    command
}

/// Tries until it succeeds.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Calls a method; a refusal is the error.
pub fn call(client: &mut Client, method: &str, params: Value) -> Result<Value, ErrorInfo> {
    client
        .call(method, params, PATIENCE)
        .map_err(|error| match error {
            kairo_wire::ClientError::Refused(info) => *info,
            other => panic!("{method}: {other}"),
        })
}

/// Claims the arm and gives the epoch.
pub fn claim(client: &mut Client) -> u64 {
    let claimed = call(client, "device.claim", serde_json::json!({"device": "arm"})).unwrap();
    claimed["epoch"].as_u64().unwrap()
}

/// Sends the arm somewhere.
pub fn send(client: &mut Client, epoch: u64, positions: Value) -> Result<Value, ErrorInfo> {
    let command = serde_json::json!({"mode": "position", "positions": positions});
    let params = serde_json::json!({
        "device": "arm", "epoch": epoch, "command": command, "ttl_ms": 500,
    });
    call(client, "device.send", params)
}

/// Lets a process write no file beyond `bytes` any more, as a full disk would.
pub fn limit_files(pid: u32, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    let pid = i32::try_from(pid).unwrap();
    // SAFETY: the limit is read by the kernel during the call; no old limit is asked for.
    let status = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(status, 0);
}

/// Descriptors that a process has open.
pub fn descriptors(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.count()
}

/// Memory of a process that is its own, KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let words = line.unwrap().split_whitespace();
    words.flat_map(str::parse).next().unwrap()
}
