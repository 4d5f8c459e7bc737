//! Two processes over the real link, either of them killed with SIGKILL at any instant, a thousand
//! times over; and one of them writing anything anywhere.
//!
//! One process runs the link server and a thread in the role of a control loop; the other is an
//! agent plane that claims, commands and reads. Whatever one reads of the other carries a proof
//! that it is whole and of this lease. After each kill the survivor must go on, the killed one is
//! started again, and commands must be answered anew. No memory is corrupt after any of it.
//!
//! The instants come from a seed, which is printed; `KAIRO_KILLS_SEED` repeats a run as far as the
//! machine lets it, `KAIRO_KILLS` changes the number.

#![allow(
    clippy::unwrap_used,
    reason = "test support: a failed step is a failed test"
)]

#[path = "harness/orphan.rs"]
mod orphan;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kairo_link::abi::{COMMAND_SLOTS, Cause, Command, DeviceState, MAX_JOINTS, REPLY_SLOTS, Reply};
use kairo_link::control::{ControlSocket, DeviceDescription, Notice, Request, Welcome};
use kairo_link::segment::{Kind, PeerAccess, Segment, VERSION};
use kairo_link::{latest, ring};
use kairo_rt::estop_memory::EstopMemory;
use kairo_rt::link_server::{DeviceRoute, EpochCounter, LinkServer, Listener, LoopPort, Safety};
use kairo_rt::operator::Desk;
use kairo_rt::order::{EVENTS_MAX, Event, LeaseChannel, ORDERS_MAX, Order};
use kairo_rt::shared::Shared;
use kairo_rt::wake::Wake;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Kills in a run.
const KILLS: u64 = 1000;
/// Longest wait for anything. Generous: it only matters when the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time that a pair lives after it works, µs.
const LIFE_MAX_US: u64 = 2000;
/// Which process this is to be; unset in the test itself.
const ROLE: &str = "KAIRO_KILLS_ROLE";
/// Where the socket is, and process and descriptor number of the board.
const PLACE: &str = "KAIRO_KILLS_PLACE";
const BOARD_WORDS: usize = 64;

/// What the processes tell the test, in memory that outlives each of them.
#[derive(Clone)]
struct Board(Arc<Segment>);

impl Board {
    /// Ticks of the real-time side.
    fn ticks(&self) -> &AtomicU64 {
        &self.0.payload()[0]
    }

    /// Turns of the agent side.
    fn turns(&self) -> &AtomicU64 {
        &self.0.payload()[16]
    }

    /// Commands that were answered.
    fn answers(&self) -> &AtomicU64 {
        &self.0.payload()[32]
    }

    /// Whatever was read that cannot have been written.
    fn corrupt(&self) -> &AtomicU64 {
        &self.0.payload()[48]
    }

    /// Process id of the child of a child.
    fn grandchild(&self) -> &AtomicU64 {
        &self.0.payload()[56]
    }

    fn check(&self, whole: bool) {
        if !whole {
            self.corrupt().fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn value_of(number: u64, epoch: u64) -> f64 {
    // Below 2^53: exact.
    ((number ^ epoch.rotate_left(17)) & 0xF_FFFF_FFFF_FFFF) as f64
}

/// The loop's part: takes orders, commands, answers, publishes.
struct Loop {
    orders: rtrb::Consumer<Order>,
    events: rtrb::Producer<Event>,
    bell: Wake,
    board: Board,
    lease: Option<LeaseChannel>,
    states: Option<latest::Writer<DeviceState>>,
    newest: u64,
}

impl Loop {
    fn run(mut self) {
        loop {
            let tick = self.board.ticks().fetch_add(1, Ordering::Relaxed);
            while let Ok(order) = self.orders.pop() {
                self.obey(order);
            }
            self.answer();
            if let Some(states) = &mut self.states {
                let mut state = DeviceState {
                    tick,
                    time_ns: !tick,
                    ..DeviceState::default()
                };
                state
                    .joints
                    .iter_mut()
                    .for_each(|joint| joint.sampled_ns = tick);
                states.publish(&state);
            }
            self.bell.ring();
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::OpenState { writer, .. } => {
                if let Some(writer) = self.states.replace(writer) {
                    self.events.push(Event::StateRetired { writer }).unwrap();
                }
            }
            Order::CloseState { .. } => {
                if let Some(writer) = self.states.take() {
                    self.events.push(Event::StateRetired { writer }).unwrap();
                }
            }
            Order::OpenLease { channel, .. } => {
                assert!(self.lease.is_none(), "two leases at a time");
                (self.lease, self.newest) = (Some(channel), 0);
            }
            Order::CloseLease { epoch, cause, .. } => self.end(epoch, cause),
        }
    }

    fn end(&mut self, epoch: u64, cause: Cause) {
        if let Some(channel) = self.lease.take_if(|lease| lease.epoch == epoch) {
            let ended = Event::LeaseEnded {
                device: 0,
                channel,
                cause,
            };
            self.events.push(ended).unwrap();
        }
    }

    fn answer(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        for _ in 0..64 {
            let command = match lease.commands.pop() {
                Ok(Some(command)) => command,
                Ok(None) => return,
                Err(_) => {
                    self.board.check(false);
                    let epoch = lease.epoch;
                    return self.end(epoch, Cause::RingCorrupt);
                }
            };
            let expected = value_of(command.sequence, lease.epoch);
            let whole = command.target.iter().all(|value| *value == expected);
            let next = command.lease_epoch == lease.epoch && command.sequence == self.newest + 1;
            self.board.check(whole && next);
            self.newest = command.sequence;
            let reply = Reply {
                sequence: command.sequence,
                lease_epoch: lease.epoch,
                value: expected,
                min: expected,
                max: expected,
                ..Reply::default()
            };
            // A full ring loses answers.
            let _ = lease.replies.push(&reply);
        }
    }
}

fn run_real_time(directory: &Path, board: Board) {
    let (orders, orders_end) = rtrb::RingBuffer::new(ORDERS_MAX);
    let (events_end, events) = rtrb::RingBuffer::new(EVENTS_MAX);
    let bell = Wake::new().unwrap();
    let control_loop = Loop {
        orders: orders_end,
        events: events_end,
        bell: bell.clone(),
        board,
        lease: None,
        states: None,
        newest: 0,
    };
    std::thread::spawn(move || control_loop.run());
    let own = nix::unistd::geteuid().as_raw();
    let shared = Arc::new(Shared::default());
    // No device has a failsafe machine here, so none is stopped.
    let desk = Arc::new(Desk {
        shared: Arc::clone(&shared),
        memory: EstopMemory::new(directory),
        devices: Vec::new(),
        lines: Vec::new(),
        loops: 1,
        stats: kairo_link::stats::Stats::empty(),
    });
    let server = LinkServer {
        safety: Safety::new(desk, false),
        listener: Listener::bind(&directory.join("rt.sock"), own).unwrap(),
        welcome: Welcome {
            version: VERSION,
            armed: true,
            devices: vec![DeviceDescription::default()],
            ..Welcome::default()
        },
        not_armed_because: String::new(),
        stats: File::open("/dev/null").unwrap().into(),
        ports: Vec::new(),
        devices: vec![DeviceRoute {
            present: true,
            ..DeviceRoute::default()
        }],
        loops: vec![LoopPort::new(orders, events)],
        epochs: EpochCounter::since_boot(),
        bell,
        shared,
        connection: None,
        pending: Vec::new(),
        retired: Vec::new(),
    };
    server.run();
}

/// Our ends of a link with a lease.
struct Claim {
    socket: ControlSocket,
    segments: [Arc<Segment>; 3],
    epoch: u64,
    states: latest::Reader<DeviceState>,
    commands: ring::Producer<Command>,
    replies: ring::Consumer<Reply>,
}

/// Connects and claims; none when the other side is not there, busy, or dies meanwhile.
fn claim(directory: &Path) -> Option<Claim> {
    let socket = ControlSocket::connect(&directory.join("rt.sock")).ok()?;
    socket
        .send(&Request::Hello { version: VERSION }, &[])
        .ok()?;
    let (Notice::Welcome(_), fds) = socket.receive().ok()? else {
        return None;
    };
    let open = |fd, kind, words| Segment::open(fd, kind, words, PeerAccess::ReadWrite).unwrap();
    let states = open(
        &fds[2],
        Kind::Latest,
        latest::payload_words::<DeviceState>(),
    );
    let command_words = ring::payload_words::<Command>(COMMAND_SLOTS);
    let commands = open(&fds[3], Kind::Ring, command_words);
    let replies = open(
        &fds[4],
        Kind::Ring,
        ring::payload_words::<Reply>(REPLY_SLOTS),
    );
    socket.send(&Request::Mapped, &[]).ok()?;
    let open_lease = Request::OpenLease {
        request: 1,
        device: 0,
    };
    socket.send(&open_lease, &[]).ok()?;
    loop {
        match socket.receive().ok()?.0 {
            Notice::LeaseOpened { epoch, .. } => {
                return Some(Claim {
                    socket,
                    segments: [states.clone(), commands.clone(), replies.clone()],
                    epoch,
                    states: latest::Reader::new(states),
                    commands: ring::Producer::new(commands, COMMAND_SLOTS),
                    replies: ring::Consumer::new(replies, REPLY_SLOTS),
                });
            }
            Notice::LeaseRefused { .. } => return None,
            _ => {}
        }
    }
}

fn run_agent(directory: &Path, board: &Board) {
    loop {
        board.turns().fetch_add(1, Ordering::Relaxed);
        match claim(directory) {
            Some(claim) => command(claim, board),
            None => std::thread::sleep(Duration::from_micros(300)),
        }
    }
}

/// Commands and reads until the other side is gone.
fn command(mut claim: Claim, board: &Board) {
    let (mut sent, mut answered, mut tick) = (0, 0, 0);
    loop {
        board.turns().fetch_add(1, Ordering::Relaxed);
        let sequence = sent + 1;
        let next = Command {
            sequence,
            lease_epoch: claim.epoch,
            target: [value_of(sequence, claim.epoch); MAX_JOINTS],
            ..Command::default()
        };
        match claim.commands.push(&next) {
            Ok(()) => sent = sequence,
            Err(ring::PushError::Full) => {}
            Err(ring::PushError::Corrupt(_)) => board.check(false),
        }
        while let Some(reply) = claim.replies.pop().unwrap_or_else(|_| {
            board.check(false);
            None
        }) {
            let expected = value_of(reply.sequence, claim.epoch);
            let whole = [reply.value, reply.min, reply.max] == [expected; 3];
            let ours = reply.lease_epoch == claim.epoch && reply.sequence <= sent;
            board.check(whole && ours && reply.sequence > answered);
            answered = reply.sequence;
            board.answers().fetch_add(1, Ordering::Relaxed);
        }
        if let Some(state) = claim.states.take() {
            let joints = state
                .joints
                .iter()
                .all(|joint| joint.sampled_ns == state.tick);
            board.check(joints && state.time_ns == !state.tick && state.tick >= tick);
            tick = state.tick;
        }
        let mut fds = [PollFd::new(claim.socket.as_fd(), PollFlags::empty())];
        let gone = poll(&mut fds, PollTimeout::ZERO).unwrap_or(0) > 0;
        if gone {
            return;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Claims, and scribbles over everything it was given: now a word, now all of them, now only
/// positions; each time with a lease that is in force at first.
fn run_hostile(directory: &Path, board: &Board) {
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    loop {
        let Some(claim) = claim(directory) else {
            std::thread::sleep(Duration::from_micros(300));
            continue;
        };
        let mode = random() % 4;
        let words = claim.segments.iter().flat_map(|segment| segment.words());
        let words: Vec<&AtomicU64> = words.collect();
        let positions = claim.segments.iter().map(|segment| segment.payload());
        let positions: Vec<_> = positions
            .flat_map(|words| [&words[0], &words[16]])
            .collect();
        for _ in 0..200 {
            let near = random() % 600;
            match mode {
                0 => words
                    .iter()
                    .for_each(|word| word.store(random(), Ordering::Relaxed)),
                1 => words[(random() % words.len() as u64) as usize]
                    .store(random(), Ordering::Relaxed),
                // Possible positions, so that slots of nonsense are taken for commands.
                2 => positions[(random() % 6) as usize].store(near, Ordering::Relaxed),
                _ => positions[(random() % 6) as usize].store(random(), Ordering::Relaxed),
            }
            board.turns().fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

/// Starts an agent plane, as a test does, and says which process it is.
fn run_parent(place: &str, board: &Board) {
    let agent = Side::start("agent", place);
    let id = u64::from(agent.0.id());
    board.grandchild().store(id, Ordering::Relaxed);
    loop {
        std::thread::sleep(PATIENCE);
    }
}

/// Not a test by itself: what the other tests' child processes run.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let place = std::env::var(PLACE).unwrap();
    let (directory, board) = place.split_once('|').unwrap();
    let file = File::options().read(true).write(true).open(board).unwrap();
    let access = PeerAccess::ReadWrite;
    let board = Segment::open(&OwnedFd::from(file), Kind::Stats, BOARD_WORDS, access).unwrap();
    let (directory, board) = (PathBuf::from(directory), Board(board));
    match role.as_str() {
        "rt" => run_real_time(&directory, board),
        "hostile" => run_hostile(&directory, &board),
        "parent" => run_parent(&place, &board),
        _ => run_agent(&directory, &board),
    }
}

/// One of the two processes; killed when dropped.
struct Side(Child);

impl Side {
    fn start(role: &str, place: &str) -> Self {
        let mut process = Process::new(std::env::current_exe().unwrap());
        process.args(["--exact", "role", "--nocapture", "--test-threads=1"]);
        process
            .env(ROLE, role)
            .env(PLACE, place)
            .stdout(Stdio::null());
        orphan::ends_with_its_parent(&mut process);
        Self(process.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `counter` has grown by `more`.
fn grows(what: &str, counter: &AtomicU64, more: u64) {
    let from = counter.load(Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    while counter.load(Ordering::Relaxed).wrapping_sub(from) < more {
        assert!(Instant::now() < until, "{what} stands still");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A directory for the socket, a board, and what tells the children of both.
fn place() -> (tempfile::TempDir, (Board, OwnedFd), String) {
    let directory = tempfile::tempdir().unwrap();
    let access = PeerAccess::ReadWrite;
    let (segment, fd) =
        Segment::create(c"kairo-board", Kind::Stats, BOARD_WORDS, 0, 1, access).unwrap();
    let place = format!(
        "{}|/proc/{}/fd/{}",
        directory.path().display(),
        std::process::id(),
        fd.as_raw_fd()
    );
    (directory, (Board(Arc::new(segment)), fd), place)
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().unwrap())
}

/// Whether this process runs; one that waits for its parent to take notice does not.
fn is_running(id: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name before it may hold anything, a parenthesis too.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state.is_some_and(|state| !b"ZX".contains(&state))
}

#[test]
fn a_killed_test_leaves_no_process_behind() {
    let (_directory, (board, _fd), place) = place();
    let mut parent = Side::start("parent", &place);
    grows("the child of the child", board.grandchild(), 1);
    let id = board.grandchild().load(Ordering::Relaxed);
    grows("the agent plane", board.turns(), 2);
    parent.kill();
    let until = Instant::now() + PATIENCE;
    while is_running(id) {
        if Instant::now() > until {
            let id = nix::unistd::Pid::from_raw(i32::try_from(id).unwrap());
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).unwrap();
            panic!("process {id} outlives the one that started it");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_thousand_kills_of_either_side_corrupt_nothing_and_stop_nobody() {
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = from_environment("KAIRO_KILLS_SEED", clock) | 1;
    let kills = from_environment("KAIRO_KILLS", KILLS);
    println!("KAIRO_KILLS_SEED={seed} KAIRO_KILLS={kills}");
    let mut noise = seed;
    let mut random = |below: u64| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise >> 11) % below
    };
    let (_directory, (board, _fd), place) = place();
    let mut real_time = Side::start("rt", &place);
    let mut agent = Side::start("agent", &place);
    let began = Instant::now();
    for kill in 0..kills {
        grows("the pair", board.answers(), 3);
        std::thread::sleep(Duration::from_micros(random(LIFE_MAX_US)));
        if random(2) == 0 {
            agent.kill();
            grows(
                "the real-time side without its agent plane",
                board.ticks(),
                3,
            );
            agent = Side::start("agent", &place);
        } else {
            real_time.kill();
            grows(
                "the agent plane without its real-time side",
                board.turns(),
                2,
            );
            real_time = Side::start("rt", &place);
        }
        let corrupt = board.corrupt().load(Ordering::Relaxed);
        assert_eq!(corrupt, 0, "corrupt reads by kill {kill}, seed {seed}");
    }
    grows("the pair", board.answers(), 100);
    assert_eq!(board.corrupt().load(Ordering::Relaxed), 0, "seed {seed}");
    println!("{kills} kills in {:?}", began.elapsed());
}

#[test]
fn a_process_that_writes_anything_anywhere_stops_nobody() {
    let (_directory, (board, _fd), place) = place();
    let mut real_time = Side::start("rt", &place);
    let mut hostile = Side::start("hostile", &place);
    for _ in 0..20 {
        grows("the hostile process", board.turns(), 200);
        grows("the real-time side", board.ticks(), 20);
        let ended = real_time.0.try_wait().unwrap();
        assert!(ended.is_none(), "the real-time side: {ended:?}");
    }
    // It did get through: otherwise nothing was tried.
    assert!(board.corrupt().load(Ordering::Relaxed) > 0);
    hostile.kill();
    grows("the real-time side", board.ticks(), 20);
    // Whoever comes next shares nothing with it.
    let agent = Side::start("agent", &place);
    grows("the pair", board.answers(), 1);
    board.corrupt().store(0, Ordering::Relaxed);
    grows("the pair", board.answers(), 100);
    assert_eq!(board.corrupt().load(Ordering::Relaxed), 0);
    drop(agent);
}
