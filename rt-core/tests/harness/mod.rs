//! A robot for tests: the arm simulator on a pseudo-terminal, the real daemon, and an agent plane
//! of our own that speaks the link. Every wait is bounded; robots run one at a time, because the
//! machines tests run on have two cores.

#![allow(
    clippy::unwrap_used,
    reason = "test support: a failed step is a failed test"
)]

pub mod blocks;
mod orphan;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kairo_arm_sim::arm::Cradle;
use kairo_arm_sim::control::ControlServer;
use kairo_arm_sim::transport::{Endpoint, Transport};
use kairo_arm_sim::{Simulator, SimulatorConfig};
use kairo_link::abi::{
    COMMAND_SLOTS, Cause, Command, DeviceState, Mode, Phase, REPLY_SLOTS, Reply, Verdict,
};
use kairo_link::control::{ControlSocket, Notice, Request, Welcome};
use kairo_link::operator::{OperatorReply, OperatorRequest, SOCKET_NAME};
use kairo_link::segment::{Kind, PeerAccess, Segment, VERSION};
use kairo_link::stats::{PAYLOAD_WORDS, Stats};
use kairo_link::{MonoNs, latest, ring};

/// Longest wait for anything. Generous: it only matters when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The robot file of the image.
pub const SO101: &str = include_str!("../../../board/robots/so101.toml");
/// Its period.
pub const PERIOD_NS: u64 = 4_000_000;
/// How long commands live that are not there to expire: the longest that the robot allows, so that
/// a machine that stands still for a moment does not decide a test.
pub const TTL_MS: u64 = 1000;
/// The six angles of a pose.
pub type Pose = [f64; 6];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Asks `look` again and again until it has an answer.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The SO-101 file for a machine that grants what it grants, on whatever core there is. A busy
/// machine does not run the simulator, an ordinary thread, for whole seconds: that is no bus that
/// was lost.
pub fn hosted_config() -> String {
    SO101
        .replace("strict = true", "strict = false")
        .replace("core = 1\n", "")
        .replace("feedback_stale_ms = 500", "feedback_stale_ms = 10000")
        .replace("lost_after_cycles = 25", "lost_after_cycles = 2500")
}

/// The simulator in a thread, with its control socket.
pub struct Arm {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    control: BufReader<UnixStream>,
}

impl Arm {
    fn start(directory: &Path) -> Self {
        let (stopped, stop) = nix::unistd::pipe().unwrap();
        let path = directory.join("sim.sock");
        let mut transport = Transport::open(Endpoint::Pty(directory.join("arm"))).unwrap();
        let mut control = Some(ControlServer::open(&path).unwrap());
        let thread = std::thread::spawn(move || {
            let config = SimulatorConfig {
                seed: 1,
                pose_rad: [0.0; 6],
                cradle: Cradle::UntilTorque,
            };
            let mut simulator = Simulator::new(&config, kairo_hal::MonoNs::now());
            let stop = stopped.as_fd();
            kairo_arm_sim::run::run(&mut simulator, &mut transport, &mut control, stop).unwrap();
        });
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
            control: BufReader::new(stream),
        }
    }

    /// One control request.
    pub fn ask(&mut self, request: &str) -> serde_json::Value {
        writeln!(self.control.get_mut(), "{request}").unwrap();
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        let reply: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(reply["ok"], true, "{request}: {reply}");
        reply
    }

    /// Where the joints truly are, rad.
    pub fn truth(&mut self) -> Pose {
        let reply = self.ask(r#"{"op":"truth"}"#);
        std::array::from_fn(|joint| reply["joints"][joint]["position_rad"].as_f64().unwrap())
    }

    /// Where the servos were told to be last, rad.
    pub fn goals(&mut self) -> Pose {
        let reply = self.ask(r#"{"op":"truth"}"#);
        std::array::from_fn(|joint| reply["joints"][joint]["goal_rad"].as_f64().unwrap())
    }

    /// Whether every servo is under torque.
    pub fn is_under_torque(&mut self) -> bool {
        let reply = self.ask(r#"{"op":"truth"}"#);
        (0..6).all(|joint| reply["joints"][joint]["torque_enabled"] == true)
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Marks the simulator's end of every pseudo-terminal close-on-exec. As a program of its own the
/// simulator starts nothing; here it shares a process with a test that starts the daemon, which
/// would otherwise hold the far end of its own line open and never see it hang up.
fn keep_pseudo_terminals_here() {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap();
        if target.ends_with("ptmx") {
            // SAFETY: nobody closes a descriptor of the running simulator before the call ends.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
    }
}

/// The arm and the daemon.
pub struct Robot {
    pub arm: Arm,
    pub directory: PathBuf,
    program: PathBuf,
    daemon: Option<Child>,
    _temporary: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Robot {
    /// Starts both, with the hosted configuration.
    pub fn start() -> Self {
        Self::start_with(&hosted_config(), &[])
    }

    /// Starts both with this configuration and environment.
    pub fn start_with(config: &str, environment: &[(&str, &Path)]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_kairo-rt"), config, environment)
    }

    /// Starts both, with this program as the daemon.
    pub fn start_program(program: &str, config: &str, environment: &[(&str, &Path)]) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        std::fs::write(directory.join("robot.toml"), config).unwrap();
        let arm = Arm::start(&directory);
        let mut robot = Self {
            arm,
            directory,
            program: program.into(),
            daemon: None,
            _temporary: temporary,
            _turn: turn,
        };
        robot.start_daemon(environment);
        robot
    }

    /// Starts the daemon, which must not run.
    pub fn start_daemon(&mut self, environment: &[(&str, &Path)]) {
        let mut log = std::fs::File::options();
        let log = log.create(true).append(true).open(self.log_path()).unwrap();
        self.start_daemon_logging_to(log.into(), environment);
    }

    /// Starts the daemon, which must not run, with this as its stderr.
    pub fn start_daemon_logging_to(&mut self, log: Stdio, environment: &[(&str, &Path)]) {
        keep_pseudo_terminals_here();
        let mut process = Process::new(&self.program);
        process
            .arg("--config")
            .arg(self.directory.join("robot.toml"));
        process.arg("--run-dir").arg(&self.directory);
        process
            .arg("--port")
            .arg(format!("arm-bus={}", self.directory.join("arm").display()));
        process
            .env("KAIRO_RECORD_DIR", self.directory.join("records"))
            .envs(environment.iter().copied())
            .stderr(log)
            .stdout(Stdio::null());
        // A robot does not leave its thread, because of its turn.
        orphan::ends_with_its_parent(&mut process);
        self.daemon = Some(process.spawn().unwrap());
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("rt.log")
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Connects an agent plane as soon as the daemon answers.
    pub fn connect(&self) -> AgentPlane {
        eventually("the daemon answers", || {
            AgentPlane::connect(&self.directory).ok()
        })
    }

    /// Asks the operator socket.
    pub fn operator(&self, request: &OperatorRequest) -> Option<OperatorReply> {
        let socket = ControlSocket::connect(&self.directory.join(SOCKET_NAME)).ok()?;
        socket.send(request, &[]).ok()?;
        socket.receive().ok().map(|(reply, _)| reply)
    }

    /// Clears the e-stop that the daemon starts with, as an operator does.
    pub fn clear_estop(&self) {
        eventually("the e-stop is cleared", || {
            let reply = self.operator(&OperatorRequest::ClearEstop)?;
            reply.done.then_some(())
        });
    }

    /// Connects, clears the e-stop, and waits until the arm is there.
    pub fn connect_ready(&self) -> AgentPlane {
        let mut plane = self.connect();
        self.clear_estop();
        eventually("the arm is there and nothing is wrong", || {
            let phase = Phase::from_u32(plane.state().phase);
            matches!(phase, Some(Phase::Holding | Phase::Idle)).then_some(())
        });
        plane
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let daemon = self.daemon.as_ref().expect("the daemon runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// The daemon's process.
    pub fn pid(&self) -> nix::unistd::Pid {
        let daemon = self.daemon.as_ref().expect("the daemon runs");
        nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap())
    }

    /// Ends the daemon as kill -9 does.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Asks the daemon to end and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        eventually("the daemon ends", || daemon.try_wait().unwrap())
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
    }
}

/// A fake agent plane.
pub struct AgentPlane {
    socket: ControlSocket,
    pub welcome: Welcome,
    pub stats: Stats,
    pub doorbell: OwnedFd,
    state: latest::Reader<DeviceState>,
    newest: Option<DeviceState>,
    notices: VecDeque<Notice>,
    requests: u64,
    commands: Arc<Segment>,
    rings: Arc<Mutex<Rings>>,
    /// Every descriptor of the welcome but the doorbell: what a hoarding peer would keep.
    pub descriptors: Vec<OwnedFd>,
}

/// Our ends of the arm's rings. They last as long as the connection.
#[derive(Debug)]
struct Rings {
    producer: ring::Producer<Command>,
    replies: ring::Consumer<Reply>,
}

impl AgentPlane {
    /// Connects once; an error is the daemon's refusal, or that there is none.
    pub fn connect(directory: &Path) -> Result<Self, String> {
        let plane = Self::connect_without_mapping(directory)?;
        plane.acknowledge();
        Ok(plane)
    }

    /// Says that everything is mapped.
    pub fn acknowledge(&self) {
        self.socket.send(&Request::Mapped, &[]).unwrap();
    }

    /// Connects, and does not say that it has mapped what it got.
    pub fn connect_without_mapping(directory: &Path) -> Result<Self, String> {
        let socket = ControlSocket::connect(&directory.join("rt.sock"))
            .map_err(|error| error.to_string())?;
        let timeout = nix::sys::time::TimeVal::new(30, 0);
        nix::sys::socket::setsockopt(
            &socket.as_fd(),
            nix::sys::socket::sockopt::ReceiveTimeout,
            &timeout,
        )
        .unwrap();
        socket
            .send(&Request::Hello { version: VERSION }, &[])
            .map_err(|error| error.to_string())?;
        let (notice, mut fds) = socket
            .receive::<Notice>()
            .map_err(|error| error.to_string())?;
        let welcome = match notice {
            Notice::Welcome(welcome) => *welcome,
            other => return Err(format!("{other:?}")),
        };
        assert_eq!(fds.len(), 2 + 3 * welcome.devices.len());
        let state_words = latest::payload_words::<DeviceState>();
        let state = Segment::open(&fds[2], Kind::Latest, state_words, PeerAccess::ReadWrite);
        let ring = |fd, words| Segment::open(fd, Kind::Ring, words, PeerAccess::ReadWrite).unwrap();
        let commands = ring(&fds[3], ring::payload_words::<Command>(COMMAND_SLOTS));
        let replies = ring(&fds[4], ring::payload_words::<Reply>(REPLY_SLOTS));
        let rings = Rings {
            producer: ring::Producer::new(Arc::clone(&commands), COMMAND_SLOTS),
            replies: ring::Consumer::new(replies, REPLY_SLOTS),
        };
        let stats = Segment::open(&fds[0], Kind::Stats, PAYLOAD_WORDS, PeerAccess::ReadOnly);
        Ok(Self {
            socket,
            welcome,
            stats: Stats::new(stats.unwrap()),
            doorbell: fds.remove(1),
            state: latest::Reader::new(state.unwrap()),
            newest: None,
            notices: VecDeque::new(),
            requests: 0,
            commands,
            rings: Arc::new(Mutex::new(rings)),
            descriptors: fds,
        })
    }

    /// Whether a state has come since the last look.
    pub fn has_state(&mut self) -> bool {
        self.state.take().is_some()
    }

    /// The newest state of the arm.
    pub fn state(&mut self) -> DeviceState {
        eventually("a state is published", || {
            self.newest = self.state.take().or(self.newest);
            self.newest
        })
    }

    /// Waits for a phase and returns the first state seen in it.
    pub fn wait_for_phase(&mut self, phase: Phase) -> DeviceState {
        eventually(&format!("the arm is {phase}"), || {
            let state = self.state();
            (state.phase == phase as u32).then_some(state)
        })
    }

    /// Waits until the setpoint rests and returns that state.
    pub fn wait_for_rest(&mut self) -> DeviceState {
        let from = self.state().tick;
        eventually("the setpoint rests", || {
            let state = self.state();
            (state.tick > from && state.moving == 0).then_some(state)
        })
    }

    /// Waits for a notice that `wanted` recognises; others stay for later.
    pub fn wait_for_notice<T>(&mut self, what: &str, wanted: impl Fn(&Notice) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self
                .notices
                .iter()
                .position(|notice| wanted(notice).is_some());
            if let Some(notice) = found.and_then(|index| self.notices.remove(index)) {
                return wanted(&notice).unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "no notice that {what}: {:?}",
                self.notices
            );
            let received = self
                .socket
                .receive()
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            self.notices.push_back(received.0);
        }
    }

    /// Asks for a lease on the arm.
    pub fn try_open_lease(&mut self) -> Result<Lease, (String, String)> {
        self.requests += 1;
        let mine = self.requests;
        self.socket
            .send(
                &Request::OpenLease {
                    request: mine,
                    device: 0,
                },
                &[],
            )
            .unwrap();
        let answer = self.wait_for_notice("answers a lease request", |notice| match notice {
            Notice::LeaseOpened { request, epoch } if *request == mine => Some(Ok(*epoch)),
            Notice::LeaseRefused {
                request,
                code,
                reason,
            } if *request == mine => Some(Err((code.clone(), reason.clone()))),
            _ => None,
        });
        answer.map(|epoch| Lease {
            epoch,
            commands: Arc::clone(&self.commands),
            rings: Arc::clone(&self.rings),
            sequence: 0,
        })
    }

    /// Asks for a lease that must be given.
    pub fn open_lease(&mut self) -> Lease {
        self.try_open_lease()
            .unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// Asks for an e-stop, or for its end, as kairod does, and returns the answer's code; empty
    /// when it was done.
    pub fn ask_stop(&mut self, clear: bool) -> String {
        self.requests += 1;
        let mine = self.requests;
        let request = match clear {
            true => Request::ClearEstop { request: mine },
            false => Request::Estop { request: mine },
        };
        self.socket.send(&request, &[]).unwrap();
        self.wait_for_notice("answers a stop", |notice| match notice {
            Notice::EstopAnswered { request, code, .. } if *request == mine => Some(code.clone()),
            _ => None,
        })
    }

    /// Waits until the failsafe machine of the arm has decided this action because of this cause.
    pub fn wait_for_failsafe(&mut self, action: &str, cause: &str) {
        let decided = |notice: &Notice| match notice {
            Notice::FailsafeChanged { failsafe, .. } => {
                (failsafe.action == action && failsafe.cause == cause).then_some(())
            }
            _ => None,
        };
        self.wait_for_notice(&format!("the failsafe is {action} by {cause}"), decided);
    }

    /// Gives a lease up.
    pub fn close_lease(&mut self, lease: &Lease, holder_gone: bool) -> String {
        let request = Request::CloseLease {
            epoch: lease.epoch,
            holder_gone,
        };
        self.socket.send(&request, &[]).unwrap();
        self.wait_for_lease_end(lease.epoch)
    }

    /// Waits until a lease has ended and returns why.
    pub fn wait_for_lease_end(&mut self, wanted: u64) -> String {
        let ended = |notice: &Notice| match notice {
            Notice::LeaseClosed { epoch, cause } if *epoch == wanted => Some(cause.clone()),
            _ => None,
        };
        self.wait_for_notice("the lease ended", ended)
    }

    /// Waits until the arm was lost or found.
    pub fn wait_for_presence(&mut self, wanted: bool) {
        let changed = |notice: &Notice| match notice {
            Notice::DeviceChanged { present, .. } if *present == wanted => Some(()),
            _ => None,
        };
        self.wait_for_notice("the device changed", changed);
    }

    /// Streams a target until `done`, a command every 10 ms.
    pub fn stream(
        &mut self,
        lease: &mut Lease,
        target: Pose,
        mut done: impl FnMut(&DeviceState) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            lease.send(target, TTL_MS);
            std::thread::sleep(Duration::from_millis(10));
            lease.take_replies();
            let state = self.state();
            if done(&state) {
                return;
            }
            assert!(Instant::now() < deadline, "never done: {state:?}");
        }
    }
}

/// A lease as its holder sees it.
pub struct Lease {
    pub epoch: u64,
    pub commands: Arc<Segment>,
    rings: Arc<Mutex<Rings>>,
    sequence: u64,
}

impl Lease {
    fn pop(&self) -> Option<Reply> {
        self.rings.lock().unwrap().replies.pop().unwrap()
    }

    /// Puts `command` into the ring.
    pub fn push(&self, command: &Command) -> Result<(), ring::PushError> {
        self.rings.lock().unwrap().producer.push(command)
    }

    /// A good command for `target`.
    pub fn command(&mut self, target: Pose, ttl_ms: u64) -> Command {
        self.sequence += 1;
        let mut command = Command {
            sequence: self.sequence,
            lease_epoch: self.epoch,
            issued_ns: MonoNs::now().0,
            ttl_ns: ttl_ms * 1_000_000,
            mode: Mode::Position as u32,
            joint_count: 6,
            velocity_scale: 1.0,
            ..Command::default()
        };
        command.target[..6].copy_from_slice(&target);
        command
    }

    /// A good reset.
    pub fn reset(&mut self) -> Command {
        Command {
            mode: Mode::Reset as u32,
            ..self.command([0.0; 6], TTL_MS)
        }
    }

    /// Sends a good command, or drops it when the ring is full.
    pub fn send(&mut self, target: Pose, ttl_ms: u64) -> u64 {
        let command = self.command(target, ttl_ms);
        let _ = self.push(&command);
        command.sequence
    }

    /// Sends `command` and waits for its reply.
    pub fn ask(&mut self, command: &Command) -> Reply {
        self.push(command).unwrap();
        let asked = (command.lease_epoch, command.sequence);
        self.wait_for_reply(|reply| (reply.lease_epoch, reply.sequence) == asked)
    }

    /// Sends `command` and waits for its verdict.
    pub fn verdict(&mut self, command: &Command) -> Verdict {
        Verdict::from_u32(self.ask(command).verdict).unwrap()
    }

    /// Waits for the notice that `wanted` happened to the lease. A command may expire before: a
    /// machine that stands still for a second makes it late, which is not what a test is about.
    pub fn wait_for_cause(&mut self, wanted: Cause) {
        let about = (self.epoch, 0);
        let notice = self.wait_for_reply(|reply| {
            let expired = reply.cause == Cause::CommandExpired as u32;
            (reply.lease_epoch, reply.sequence) == about
                && (!expired || wanted == Cause::CommandExpired)
        });
        assert_eq!(Cause::from_u32(notice.cause), Some(wanted));
    }

    fn wait_for_reply(&mut self, wanted: impl Fn(&Reply) -> bool) -> Reply {
        eventually("a reply comes", || self.pop().filter(|reply| wanted(reply)))
    }

    /// Takes all replies there are.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.pop()).collect()
    }
}

/// Whether every joint of `state` has arrived at `target`: setpoint exactly, arm within `by` rad.
pub fn has_arrived(state: &DeviceState, target: &Pose, by: f64) -> bool {
    let joints = state.joints.iter().zip(target);
    joints.take(6).all(|(joint, target)| {
        joint.setpoint_rad == *target && (joint.position_rad - target).abs() < by
    })
}

/// After arming, no real-time thread touched the heap, and the account of periods is exact.
pub fn assert_pure(plane: &AgentPlane) {
    let block = plane.stats.block();
    let control_loop = &block.loops[0].periods;
    eventually("a consistent look at the account of periods", || {
        let ticks = control_loop.ticks.load(Ordering::Relaxed);
        let newest = control_loop.newest_planned_ns.load(Ordering::Relaxed);
        let skipped = control_loop.skipped.load(Ordering::Relaxed);
        let first = control_loop.first_planned_ns.load(Ordering::Relaxed);
        let shifted = control_loop.shifted_ns.load(Ordering::Relaxed);
        (ticks == control_loop.ticks.load(Ordering::Relaxed)
            && (newest - first).wrapping_sub(shifted) / PERIOD_NS + 1 == ticks + skipped)
            .then_some(())
    });
    assert_eq!(control_loop.identity_broken.load(Ordering::Relaxed), 0);
    assert_eq!(
        control_loop.thread.allocations.load(Ordering::Relaxed),
        0,
        "the loop allocated"
    );
    assert_eq!(
        block.buses[0]
            .periods
            .thread
            .allocations
            .load(Ordering::Relaxed),
        0,
        "the bus allocated"
    );
}
