//! The daemon: bring-up, threads, supervision, and an end with safe outputs.
//!
//! The main thread is an ordinary one. It prepares the process, starts the real-time threads with
//! outputs disabled, reads their bring-up back, decides whether to arm, and from then on only
//! watches: it beats the service watchdog while every control loop ticks, and turns SIGTERM or
//! SIGINT into an orderly stop (leases end, motions slow down, torque stays as declared).
//!
//! A panic anywhere aborts the process. Servos then keep the newest goal they were sent, which is
//! a setpoint on the way, not a target: the stream ending is a stop. kairo-init starts kairo-rt
//! again, which holds the arm where it finds it. Nothing cleverer is tried from a panicking
//! thread, because it would have to trust the state that just failed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use kairo_blocks::containment;
use kairo_link::MonoNs;
use kairo_link::block_fault::BlockFaultReport;
use kairo_link::control::BringupCheck;
use kairo_link::lines::LineDescription;
use kairo_link::operator;
use kairo_link::segment::{Kind, PeerAccess, Segment, SegmentError};
use kairo_link::stats::{self, Stats};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, OwnedFd};

use crate::assembly::{assemble, describe};
use crate::bringup::cores::CoreSplit;
use crate::bringup::machine::Machine;
use crate::bringup::thread::{STACK_BYTES, enter_ordinary};
use crate::bringup::{Need, check, failures, may_arm, ordinary_threads, process};
use crate::bus_loop::BusLoop;
use crate::bus_supervisor::BusSupervisor;
pub use crate::command::run_with;
use crate::config::{EstopConfig, RobotConfig};
use crate::control_loop::ControlLoop;
use crate::estop_memory::EstopMemory;
use crate::journal::note;
use crate::lines::{self, Lines, Storms};
use crate::link_server::{EpochCounter, LinkServer, ListenError, Listener, Safety};
use crate::operator::{Desk, OperatorServer};
use crate::periodic::{self, Periodic, Terms};
use crate::recorder::{self, Recorder};
use crate::sd_notify::Notifier;
use crate::shared::{Decision, Shared};
use crate::system_call_trace;
use crate::wake::Wake;

/// Longest bring-up of one thread: 50 warm-up periods of at most 100 ms, and then some.
const REPORT_PATIENCE: Duration = Duration::from_secs(20);
/// Longest shutdown: the slowest motion allowed needs v / a to stop, and threads a period each.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often a helper looks for the decision.
const DECISION_POLL: Duration = Duration::from_millis(5);
/// Longest wait for the recorder to bring its rest to disk.
const RECORDER_PATIENCE: Duration = Duration::from_secs(1);
/// How often the main thread looks.
const WATCH_INTERVAL_MS: u16 = 50;
/// A loop that has not ticked for this long stops the watchdog's beat: ten of the longest periods.
const LOOP_PATIENCE: Duration = Duration::from_secs(1);

/// Why the daemon could not start or end as it should.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The link's segments or socket could not be made.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The socket could not be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A system call failed.
    #[error("{call} failed: {errno}")]
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// A thread could not be made.
    #[error("thread {name} could not be started: {source}; is there memory, and a process left?")]
    Spawn {
        /// Its name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread did not report its bring-up.
    #[error("a real-time thread did not finish its warm-up within {0:?}; is its core overloaded?")]
    NoReport(Duration),
    /// A thread did not end.
    #[error("thread {name} did not end within {STOP_PATIENCE:?} of the stop")]
    Stuck {
        /// Its name.
        name: String,
    },
}

/// Where and for whom to run.
#[derive(Clone, Debug)]
pub struct Options<'p> {
    /// Directory of the sockets.
    pub run_dir: &'p Path,
    /// Who may open `rt.sock` besides root and the own user.
    pub agent_uid: u32,
}

/// A thread and what it gives back: real-time threads give themselves back, to be dropped here.
type Worker<T> = (String, JoinHandle<T>);
/// The real-time threads.
struct RealTimeThreads {
    buses: Vec<Worker<BusLoop>>,
    loops: Vec<Worker<ControlLoop>>,
    lines: Vec<Worker<Lines>>,
}

/// Runs the robot until SIGTERM or SIGINT.
///
/// # Errors
/// See [`DaemonError`]. A bring-up that is refused is not an error: the daemon runs disarmed.
pub fn run(robot: &RobotConfig, options: &Options<'_>) -> Result<(), DaemonError> {
    let signals = prepare_signals()?;
    let notifier = Notifier::from_environment();
    // Held until the end of this function, which is the end of the real-time threads.
    let (_holds, mut bringup, helper_mask) = prepare(robot);
    bringup.extend(block_panics(robot));
    let (stats, stats_fd) = make_stats()?;
    let memory = EstopMemory::new(options.run_dir);
    let shared = Arc::new(Shared::new(&EstopConfig {
        latched_at_start: robot.estop.latched_at_start || memory.is_set(),
        ..robot.estop.clone()
    }));
    let bell = Wake::new().map_err(|errno| DaemonError::System {
        call: "eventfd",
        errno,
    })?;
    let listener = Listener::bind(&options.run_dir.join("rt.sock"), options.agent_uid)?;
    let (recorder, taps) = recorder::prepare(robot, options.run_dir, &stats);
    let made = assemble(robot, &stats, &bell, &shared, taps);
    let (lines, described, mut storms) = prepare_lines(robot, &stats, &shared, &mut bringup);
    let (mut helpers, open) = start_helpers(made.supervisors, &helper_mask, &shared)?;
    let desk = desk(robot, &described, &stats, &shared, memory);
    helpers.push(start_operators(&desk, options.run_dir, &helper_mask)?);
    // Not one of the helpers: its disk may hang, and nobody waits for that.
    let recording = start_recorder(recorder, &helper_mask, &shared)?;
    let (threads, checks) =
        start_real_time(made.buses, made.loops, lines).inspect_err(|_| shared.stop())?;
    bringup.extend(checks);
    bringup.extend(ordinary_threads::check_all(
        &real_time_threads(&stats),
        &helper_mask,
    ));

    let armed = decide(&bringup, robot.strict, &stats, &shared);
    let not_armed_because = match armed {
        true => String::new(),
        false => first_required(&bringup),
    };
    let mut welcome = describe(robot);
    (welcome.armed, welcome.bringup, welcome.lines) = (armed, bringup, described);
    let server = LinkServer {
        safety: Safety::new(Arc::clone(&desk), robot.estop.clear_over_ipc),
        listener,
        welcome,
        not_armed_because: not_armed_because.clone(),
        stats: stats_fd,
        ports: made.paths,
        devices: made.routes,
        loops: made.ports,
        epochs: EpochCounter::since_boot(),
        bell,
        shared: Arc::clone(&shared),
        connection: None,
        pending: Vec::new(),
        retired: Vec::new(),
    };
    // There is room for it, and the thread waits for it.
    let _ = open.send(server);

    announce(robot, armed, &not_armed_because, &notifier);
    watch(&signals, &notifier, &desk, robot, &mut storms);
    notifier.send("STOPPING=1");
    note(format_args!(
        "kairo-rt: stopping: leases end, motions come to rest"
    ));
    shared.stop();
    let stopped = stop_all(&shared, threads, helpers);
    end_recorder(recording);
    stopped
}

fn announce(robot: &RobotConfig, armed: bool, not_armed_because: &str, notifier: &Notifier) {
    let status = if armed {
        "armed".to_owned()
    } else {
        format!("disarmed: {not_armed_because}")
    };
    note(format_args!("kairo-rt: {} runs {status}", robot.name));
    notifier.send(&format!("READY=1\nSTATUS={status}"));
}

/// Opens the GPIO lines and puts what became of it into the table.
fn prepare_lines(
    robot: &RobotConfig,
    stats: &Stats,
    shared: &Arc<Shared>,
    bringup: &mut Vec<BringupCheck>,
) -> (Option<(Lines, Terms)>, Vec<LineDescription>, Option<Storms>) {
    let Some(prepared) = lines::prepare(robot, stats, shared) else {
        return (None, Vec::new(), None);
    };
    bringup.extend(prepared.checks);
    let (work, storms) = (Some(prepared.work), Some(prepared.storms));
    (work, prepared.described, storms)
}

fn desk(
    robot: &RobotConfig,
    lines: &[LineDescription],
    stats: &Stats,
    shared: &Arc<Shared>,
    memory: EstopMemory,
) -> Arc<Desk> {
    let devices = robot.devices.iter().map(|device| device.name.clone());
    Arc::new(Desk {
        shared: Arc::clone(shared),
        memory,
        devices: devices.collect(),
        lines: lines.to_vec(),
        loops: robot.loops.len(),
        stats: stats.clone(),
    })
}

/// Serves `operator.sock`. For nobody of the agent plane, whoever that is: only root and the own
/// user.
fn start_operators(
    desk: &Arc<Desk>,
    run_dir: &Path,
    mask: &BTreeSet<usize>,
) -> Result<Worker<()>, DaemonError> {
    let own = nix::unistd::geteuid().as_raw();
    let server = OperatorServer {
        listener: Listener::bind(&run_dir.join(operator::SOCKET_NAME), own)?,
        desk: Arc::clone(desk),
    };
    ordinary("operators", mask, move || server.run())
}

fn end_recorder(recording: Vec<Worker<()>>) {
    if join(recording, Instant::now() + RECORDER_PATIENCE).is_err() {
        note(format_args!(
            "recorder: the disk does not answer; what it has not taken stays in memory, and goes \
             to disk at the next start"
        ));
    }
}

fn start_recorder(
    recorder: Option<Recorder>,
    mask: &BTreeSet<usize>,
    shared: &Arc<Shared>,
) -> Result<Vec<Worker<()>>, DaemonError> {
    let start = |recorder: Recorder| {
        let shared = Arc::clone(shared);
        ordinary("recorder", mask, move || recorder.run(&shared))
    };
    recorder.map(start).into_iter().collect()
}

/// Prepares process and machine, and makes the main thread an ordinary one: what must be held, the
/// table so far, and the cores of ordinary threads.
fn prepare(robot: &RobotConfig) -> (process::Holds, Vec<BringupCheck>, BTreeSet<usize>) {
    let demands = robot.demands();
    let split = CoreSplit::of_this_machine(demands.iter().filter_map(|demand| demand.core));
    let (holds, mut table) = process::prepare(&demands);
    table.extend(Machine::here(robot.strict && split.separates()).table(&demands, &split));
    let mask = helper_mask(&split);
    // A refusal shows in what is read back of all helpers.
    let _ = enter_ordinary(&mask);
    (holds, table, mask)
}

/// The cores of threads that are not real-time; empty where there is no core to spare.
fn helper_mask(split: &CoreSplit) -> BTreeSet<usize> {
    if split.separates() {
        split.housekeeping.clone()
    } else {
        BTreeSet::new()
    }
}

/// The first failed check that strict mode insists on, as text.
fn first_required(bringup: &[BringupCheck]) -> String {
    let required = bringup.iter().filter(|check| check.required);
    let required: Vec<_> = required.cloned().collect();
    failures(&required).into_iter().next().unwrap_or_default()
}

/// The statistics segment, and the descriptor that the agent plane may map read-only.
fn make_stats() -> Result<(Stats, OwnedFd), SegmentError> {
    let words = stats::PAYLOAD_WORDS;
    let peer = PeerAccess::ReadOnly;
    let (segment, fd) = Segment::create(c"kairo-stats", Kind::Stats, words, 0, 0, peer)?;
    Ok((Stats::new(Arc::new(segment)), fd))
}

fn prepare_signals() -> Result<SignalFd, DaemonError> {
    abort_on_panic();
    ignore_file_size_signal();
    block_signals()
}

/// A write beyond a size limit shall fail, as on a full disk, and not end the daemon.
fn ignore_file_size_signal() {
    // SAFETY: no handler is installed, and nobody else in this process decides about the signal.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// A panic ends the process, unless a control block panics in a build that unwinds: that one ends
/// its loop's motion (decision 081), and nothing is written from the real-time thread it ran on.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if containment::CONTAINS_PANICS && containment::is_inside() {
            return;
        }
        report(panic);
        std::process::abort();
    }));
}

/// Blocks the signals that end the daemon, before any thread exists, so that all inherit it.
fn block_signals() -> Result<SignalFd, DaemonError> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().map_err(|errno| DaemonError::System {
        call: "sigprocmask",
        errno,
    })?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(|errno| {
        DaemonError::System {
            call: "signalfd",
            errno,
        }
    })
}

/// Starts the helper threads, before the real-time ones and with nothing to do before the decision:
/// the port supervisors, and the link server, which waits for what it serves.
fn start_helpers(
    supervisors: Vec<BusSupervisor>,
    mask: &BTreeSet<usize>,
    shared: &Arc<Shared>,
) -> Result<(Vec<Worker<()>>, SyncSender<LinkServer>), DaemonError> {
    let mut helpers = Vec::new();
    for supervisor in supervisors {
        let name = format!("{}-port", supervisor.config.name);
        let shared = Arc::clone(shared);
        let body = move || {
            while shared.decision() == Decision::Pending && !shared.is_stopping() {
                std::thread::park_timeout(DECISION_POLL);
            }
            supervisor.run();
        };
        helpers.push(ordinary(&name, mask, body)?);
    }
    let (open, opened) = sync_channel::<LinkServer>(1);
    let body = move || {
        // The daemon ended before there was anything to serve, where nothing comes.
        if let Ok(server) = opened.recv() {
            server.run();
        }
    };
    helpers.push(ordinary("link-server", mask, body)?);
    Ok((helpers, open))
}

/// The kernel's numbers of the real-time threads, which have reported.
fn real_time_threads(stats: &Stats) -> Vec<u64> {
    let block = stats.block();
    let loops = block.loops.iter().map(|each| &each.periods.thread);
    let buses = block.buses.iter().map(|each| &each.periods.thread);
    let lines = std::iter::once(&block.lines.periods.thread);
    let threads = loops.chain(buses).chain(lines);
    threads
        .map(|thread| thread.tid.load(Ordering::Relaxed))
        .collect()
}

/// Whether a panic of a block that is not of this project stays in its loop; no line without one.
fn block_panics(robot: &RobotConfig) -> Option<BringupCheck> {
    let found = |contained| if contained { "unwind" } else { "abort" };
    let has_any = robot.blocks.iter().any(|inside| inside.has_program_blocks);
    has_any.then(|| {
        check(
            "process",
            "block_panics",
            found(true),
            found(containment::CONTAINS_PANICS),
            containment::CONTAINS_PANICS,
            Need::Required,
            "build the program with `panic = \"unwind\"` in its profile, the default of cargo",
        )
    })
}

/// Starts the real-time threads and waits for what they read back of themselves.
fn start_real_time(
    buses: Vec<(BusLoop, Terms)>,
    loops: Vec<(ControlLoop, Terms)>,
    lines: Option<(Lines, Terms)>,
) -> Result<(RealTimeThreads, Vec<BringupCheck>), DaemonError> {
    let count = loops.len() + buses.len() + usize::from(lines.is_some());
    let (report, reports) = sync_channel(count);
    let mut threads = RealTimeThreads {
        buses: Vec::new(),
        loops: Vec::new(),
        lines: Vec::new(),
    };
    for (bus, terms) in buses {
        threads.buses.push(real_time(bus, terms, &report)?);
    }
    for (control_loop, terms) in loops {
        threads.loops.push(real_time(control_loop, terms, &report)?);
    }
    if let Some((lines, terms)) = lines {
        threads.lines.push(real_time(lines, terms, &report)?);
    }
    Ok((threads, collect(&reports, count)?))
}

fn real_time<P: Periodic + Send + 'static>(
    work: P,
    terms: Terms,
    report: &SyncSender<Vec<BringupCheck>>,
) -> Result<Worker<P>, DaemonError> {
    let report = report.clone();
    let name = terms.plan.name.clone();
    let builder = Builder::new().name(name.clone()).stack_size(STACK_BYTES);
    let thread = builder.spawn(move || periodic::run(work, &terms, &report));
    let thread = thread.map_err(|source| DaemonError::Spawn {
        name: name.clone(),
        source,
    })?;
    Ok((name, thread))
}

fn ordinary(
    name: &str,
    mask: &BTreeSet<usize>,
    body: impl FnOnce() + Send + 'static,
) -> Result<Worker<()>, DaemonError> {
    let mask = mask.clone();
    let (enter, entered) = sync_channel(1);
    let builder = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    let thread = builder.spawn(move || {
        // A refusal shows in what is read back of all helpers.
        let _ = enter_ordinary(&mask);
        let _ = enter.send(());
        body();
    });
    let thread = thread.map_err(|source| DaemonError::Spawn {
        name: name.to_owned(),
        source,
    })?;
    // So that nobody looks at it before it is what it shall be.
    let _ = entered.recv_timeout(REPORT_PATIENCE);
    Ok((name.to_owned(), thread))
}

fn collect(
    reports: &Receiver<Vec<BringupCheck>>,
    count: usize,
) -> Result<Vec<BringupCheck>, DaemonError> {
    let mut all = Vec::new();
    for _ in 0..count {
        match reports.recv_timeout(REPORT_PATIENCE) {
            Ok(checks) => all.extend(checks),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(DaemonError::NoReport(REPORT_PATIENCE));
            }
        }
    }
    Ok(all)
}

fn decide(bringup: &[BringupCheck], strict: bool, stats: &Stats, shared: &Shared) -> bool {
    let armed = may_arm(bringup, strict);
    for failure in failures(bringup) {
        note(format_args!("kairo-rt: bring-up: {failure}"));
    }
    let block = stats.block();
    block
        .locked_bytes
        .store(process::locked_bytes(), Ordering::Relaxed);
    if armed {
        block.armed_ns.store(MonoNs::now().0, Ordering::Relaxed);
    }
    shared.decide(armed);
    armed
}

/// Beats the watchdog while every loop ticks; returns when a signal asks for the end.
fn watch(
    signals: &SignalFd,
    notifier: &Notifier,
    desk: &Desk,
    robot: &RobotConfig,
    storms: &mut Option<Storms>,
) {
    let (shared, stats) = (&desk.shared, &desk.stats);
    let mut told = vec![false; robot.loops.len()];
    let mut failed = vec![false; robot.loops.len()];
    let interval = notifier.beat_interval();
    let mut beaten = Instant::now();
    let mut ticked = vec![(0_u64, Instant::now()); robot.loops.len()];
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(WATCH_INTERVAL_MS));
        if matches!(signals.read_signal(), Ok(Some(_))) {
            return;
        }
        tell_traced_calls(robot, stats, &mut told);
        tell_block_faults(robot, stats, &mut failed);
        if let Some(storms) = storms {
            storms.calm();
        }
        // What was latched by a line or at the start, and what a reset button cleared.
        let words = shared.estop();
        desk.memory.look(words, desk.loops, desk.devices.len());
        for (count, (seen, since)) in shared.heartbeats().iter().zip(&mut ticked) {
            if count != seen {
                (*seen, *since) = (*count, Instant::now());
            }
        }
        let all_tick = ticked
            .iter()
            .all(|(_, since)| since.elapsed() < LOOP_PATIENCE);
        if interval.is_some_and(|interval| beaten.elapsed() >= interval) && all_tick {
            notifier.send("WATCHDOG=1");
            beaten = Instant::now();
        }
    }
}

/// Names a block that failed, once.
fn tell_block_faults(robot: &RobotConfig, stats: &Stats, told: &mut [bool]) {
    for (index, told) in told.iter_mut().enumerate().filter(|(_, told)| !**told) {
        let word = &stats.block().loops[index].block_fault;
        let Some(report) = BlockFaultReport::from_word(word.load(Ordering::Relaxed)) else {
            continue;
        };
        let node = robot.blocks[index].graph.nodes.get(report.block as usize);
        note(format_args!(
            "kairo-rt: loop {}: block \"{}\" of kind \"{}\" {}: its devices take their safe action \
             and obey nobody until kairo-rt is started again",
            robot.loops[index].name,
            node.map_or("?", |node| &node.name),
            node.map_or("?", |node| &node.kind),
            report.describe()
        ));
        *told = true;
    }
}

/// Logs the first system call that each loop's ticks made, once.
fn tell_traced_calls(robot: &RobotConfig, stats: &Stats, told: &mut [bool]) {
    let loops = robot.loops.iter().zip(&robot.blocks);
    let loops = loops.zip(&stats.block().loops).zip(told);
    for (((config, inside), stats), told) in loops.filter(|(_, told)| !**told) {
        let blocks = inside.graph.nodes.iter().map(|node| node.name.as_str());
        if let Some(call) = system_call_trace::first_call(&stats.periods.thread, blocks) {
            note(format_args!("kairo-rt: loop {} made {call}", config.name));
            *told = true;
        }
    }
}

fn stop_all(
    shared: &Shared,
    threads: RealTimeThreads,
    helpers: Vec<Worker<()>>,
) -> Result<(), DaemonError> {
    let deadline = Instant::now() + STOP_PATIENCE;
    join(threads.loops, deadline)?;
    shared.set_loops_done();
    join(threads.buses, deadline)?;
    join(threads.lines, deadline)?;
    join(helpers, deadline)
}

/// Waits for threads to end and drops what they gave back.
fn join<T>(workers: Vec<Worker<T>>, deadline: Instant) -> Result<(), DaemonError> {
    for (name, thread) in workers {
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return Err(DaemonError::Stuck { name });
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        // A panic aborts, so a finished thread has returned.
        let _ = thread.join();
    }
    Ok(())
}
