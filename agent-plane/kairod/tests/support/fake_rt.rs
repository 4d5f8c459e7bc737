//! A test double of kairo-rt: the other process of the link, on a real socket with real memfds.
//!
//! It speaks kairo-link honestly: one control connection at a time, leases with rings, one
//! control tick every 2 ms that pops commands, judges them (epoch, time to live, joint count,
//! position limits), answers, publishes the state and rings the doorbell. It models no dynamics:
//! setpoints jump to their targets.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kairo_link::MonoNs;
use kairo_link::abi::{
    COMMAND_SLOTS, Cause, Command, DeviceState, Mode, Phase, REPLY_SLOTS, Reply, Verdict,
};
use kairo_link::control::{
    BringupCheck, BusDescription, ControlSocket, DeviceDescription, JointDescription,
    LoopDescription, Notice, Request, Welcome,
};
use kairo_link::lines::{LineDescription, LineKind};
use kairo_link::offer::Offer;
use kairo_link::operator::DeviceFailsafe;
use kairo_link::ring::{self, Consumer, Producer};
use kairo_link::segment::{Kind, PeerAccess, Segment};
use kairo_link::stats::{PAYLOAD_WORDS, Stats, add};
use kairo_link::{latest, segment};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};

const TICK: Duration = Duration::from_millis(2);
/// Joints of the arm, as a SO-101 has them.
pub const JOINTS: [&str; 6] = [
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
];

/// What a test tells the double to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// The cable is pulled.
    LoseBus,
    /// The cable is back.
    FindBus,
    /// Take commands and answer none.
    Mute,
    /// Answer no request for a lease.
    IgnoreClaims,
}

/// The double, running until dropped.
pub struct FakeRt {
    orders: Sender<Order>,
    /// The control requests it got, in order.
    pub requests: Receiver<Request>,
    thread: Option<JoinHandle<()>>,
    doorbell: OwnedFd,
}

impl FakeRt {
    /// Starts in `run_dir`, giving leases with epochs above `epoch`.
    pub fn start(run_dir: &Path, epoch: u64) -> Self {
        let path = run_dir.join("rt.sock");
        let _ = std::fs::remove_file(&path);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(4).unwrap()).unwrap();
        let (orders, inbox) = channel();
        let (told, requests) = channel();
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
        let doorbell = bell.as_fd().try_clone_to_owned().unwrap();
        let thread = std::thread::spawn(move || {
            let mut plane = Plane::new(inbox, told, epoch, bell);
            plane.run(&listener, path);
        });
        Self {
            orders,
            requests,
            thread: Some(thread),
            doorbell,
        }
    }

    /// How often it rang since anybody answered.
    pub fn unanswered_rings(&self) -> u64 {
        let number = self.doorbell.as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix("eventfd-count:"));
        u64::from_str_radix(count.unwrap().trim(), 16).unwrap()
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// Waits for a control request that `wanted` accepts.
    pub fn wait_for(&self, wanted: impl Fn(&Request) -> bool) -> Request {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let request = self.requests.recv_timeout(left).expect("a control request");
            if wanted(&request) {
                return request;
            }
        }
    }
}

impl Drop for FakeRt {
    fn drop(&mut self) {
        let (orders, _) = channel();
        // Closing the channel of orders ends the thread.
        drop(std::mem::replace(&mut self.orders, orders));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// The rings of the one device, as long as the connection.
struct Rings {
    commands: Consumer<Command>,
    replies: Producer<Reply>,
}

/// A connection, once its segments are mapped.
struct Peer {
    socket: ControlSocket,
    states: latest::Writer<DeviceState>,
}

struct Lease {
    epoch: u64,
    sequence: u64,
    expires: MonoNs,
}

struct Plane {
    orders: Receiver<Order>,
    told: Sender<Request>,
    epoch: u64,
    stats: Stats,
    stats_fd: OwnedFd,
    doorbell: EventFd,
    state: DeviceState,
    rings: Option<Rings>,
    lease: Option<Lease>,
    present: bool,
    mute: bool,
    ignore_claims: bool,
    estopped: bool,
}

impl Plane {
    fn new(orders: Receiver<Order>, told: Sender<Request>, epoch: u64, doorbell: EventFd) -> Self {
        let access = PeerAccess::ReadOnly;
        let (stats, stats_fd) =
            Segment::create(c"stats", Kind::Stats, PAYLOAD_WORDS, 0, 1, access).unwrap();
        let stats = Stats::new(stats.into());
        let block = stats.block();
        add(&block.armed_ns, MonoNs::now().0);
        add(&block.loops[0].periods.period_ns, 2_000_000);
        add(&block.buses[0].connected, 1);
        for value in [10_000, 20_000, 90_000] {
            block.loops[0].periods.lateness.record(value);
            block.buses[0].round_trip.record(value * 10);
        }
        Self {
            orders,
            told,
            epoch,
            stats,
            stats_fd,
            doorbell,
            state: DeviceState {
                phase: Phase::Holding as u32,
                joint_count: JOINTS.len() as u32,
                ..DeviceState::default()
            },
            rings: None,
            lease: None,
            present: true,
            mute: false,
            ignore_claims: false,
            estopped: false,
        }
    }

    fn run(&mut self, listener: &OwnedFd, path: PathBuf) {
        let mut peer: Option<Peer> = None;
        loop {
            let order = match self.orders.recv_timeout(TICK) {
                Ok(order) => Some(order),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => None,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    let _ = std::fs::remove_file(path);
                    return;
                }
            };
            if peer.is_none()
                && let Ok(fd) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            {
                // SAFETY: the kernel just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                peer = self.welcome(ControlSocket::from_fd(fd));
            }
            let Some(Peer { socket, states }) = &mut peer else {
                continue;
            };
            if let Some(order) = order {
                self.obey(order, socket);
            }
            let alive = self.control(socket);
            self.tick(states);
            let _ = self.doorbell.write(1);
            if !alive {
                self.end_lease(Cause::AgentPlaneGone);
                peer = None;
            }
        }
    }

    fn welcome(&mut self, socket: ControlSocket) -> Option<Peer> {
        let (Request::Hello { version }, _) = socket.receive().ok()? else {
            return None;
        };
        assert_eq!(version, segment::VERSION);
        let (states, _) = Offer::make(
            c"state",
            Kind::Latest,
            latest::payload_words::<DeviceState>(),
            3,
            1,
        )
        .unwrap();
        let ring = |name, words, slots| Offer::make(name, Kind::Ring, words, slots, 1).unwrap().0;
        let words = ring::payload_words::<Command>(COMMAND_SLOTS);
        let commands = ring(c"commands", words, COMMAND_SLOTS);
        let replies = ring(
            c"replies",
            ring::payload_words::<Reply>(REPLY_SLOTS),
            REPLY_SLOTS,
        );
        let welcome = Notice::Welcome(Box::new(welcome(self.present)));
        let descriptors = [
            self.stats_fd.as_fd(),
            self.doorbell.as_fd(),
            states.descriptor(),
            commands.descriptor(),
            replies.descriptor(),
        ];
        socket.send(&welcome, &descriptors).ok()?;
        let (Request::Mapped, _) = socket.receive().ok()? else {
            return None;
        };
        self.rings = Some(Rings {
            commands: Consumer::new(commands.settle().unwrap(), COMMAND_SLOTS),
            replies: Producer::new(replies.settle().unwrap(), REPLY_SLOTS),
        });
        let mut states = latest::Writer::new(states.settle().unwrap());
        states.publish(&self.state);
        let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&socket, flags).unwrap();
        Some(Peer { socket, states })
    }

    fn obey(&mut self, order: Order, socket: &ControlSocket) {
        match order {
            Order::Mute => self.mute = true,
            Order::IgnoreClaims => self.ignore_claims = true,
            Order::LoseBus | Order::FindBus => {
                self.present = matches!(order, Order::FindBus);
                if !self.present
                    && let Some(epoch) = self.end_lease(Cause::BusLost)
                {
                    let cause = Cause::BusLost.to_string();
                    let _ = socket.send(&Notice::LeaseClosed { epoch, cause }, &[]);
                }
                let (phase, cause) = if self.present {
                    (Phase::Holding, Cause::None)
                } else {
                    (Phase::Lost, Cause::BusLost)
                };
                self.state.phase = phase as u32;
                self.state.cause = cause as u32;
                let changed = Notice::DeviceChanged {
                    device: 0,
                    present: self.present,
                    path: if self.present { "/dev/ttyFAKE1" } else { "" }.into(),
                    cause: cause.to_string(),
                    detail: if self.present { "" } else { "unplugged" }.into(),
                };
                let _ = socket.send(&changed, &[]);
            }
        }
    }

    /// Serves the control connection. False when the peer is gone.
    fn control(&mut self, socket: &ControlSocket) -> bool {
        loop {
            let request = match socket.receive::<Request>() {
                Ok((request, _)) => request,
                Err(error) => return error.is_would_block(),
            };
            let _ = self.told.send(request.clone());
            match request {
                Request::Hello { .. } | Request::Mapped => return false,
                Request::Estop { request } => self.estop(socket, request, true),
                Request::ClearEstop { request } => self.estop(socket, request, false),
                Request::OpenLease { .. } if self.ignore_claims => {}
                Request::OpenLease { request, device } => {
                    self.open_lease(socket, request, device);
                }
                Request::CloseLease { epoch, holder_gone } => {
                    let cause = match holder_gone {
                        true => Cause::HolderGone,
                        false => Cause::Released,
                    };
                    if self
                        .lease
                        .as_ref()
                        .is_some_and(|lease| lease.epoch == epoch)
                    {
                        self.end_lease(cause);
                    }
                    let cause = cause.to_string();
                    let _ = socket.send(&Notice::LeaseClosed { epoch, cause }, &[]);
                }
            }
        }
    }

    /// Latches or clears, and says so in the order that kairo-rt does.
    fn estop(&mut self, socket: &ControlSocket, request: u64, latched: bool) {
        self.estopped = latched;
        let (code, reason) = (String::new(), String::new());
        let answered = Notice::EstopAnswered {
            request,
            done: true,
            code,
            reason,
        };
        let _ = socket.send(&answered, &[]);
        let names = |yes, no| if latched { yes } else { no };
        let failsafe = DeviceFailsafe {
            device: "arm".into(),
            action: String::from(names("safe-action", "none")),
            cause: String::from(names("estop", "none")),
            live: if latched {
                vec!["estop".into()]
            } else {
                Vec::new()
            },
        };
        let changed = Notice::FailsafeChanged {
            device: 0,
            failsafe,
        };
        let _ = socket.send(&changed, &[]);
    }

    fn open_lease(&mut self, socket: &ControlSocket, request: u64, device: u32) {
        let refusal = match () {
            () if device != 0 => Some("no_such_device"),
            () if !self.present => Some("bus_lost"),
            () if self.estopped => Some("estopped"),
            () if self.lease.is_some() => Some("busy"),
            () => None,
        };
        if let Some(code) = refusal {
            let (code, reason) = (code.into(), code.into());
            let refused = Notice::LeaseRefused {
                request,
                code,
                reason,
            };
            let _ = socket.send(&refused, &[]);
            return;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        let rings = self.rings.as_mut().unwrap();
        rings.commands.discard().unwrap();
        self.lease = Some(Lease {
            epoch,
            sequence: 0,
            expires: MonoNs(0),
        });
        let opened = Notice::LeaseOpened { request, epoch };
        let _ = socket.send(&opened, &[]);
    }

    fn end_lease(&mut self, cause: Cause) -> Option<u64> {
        let lease = self.lease.take()?;
        self.state.phase = Phase::Safe as u32;
        self.state.cause = cause as u32;
        self.state.lease_epoch = 0;
        Some(lease.epoch)
    }

    fn tick(&mut self, states: &mut latest::Writer<DeviceState>) {
        let now = MonoNs::now();
        add(&self.stats.block().loops[0].periods.ticks, 1);
        self.state.tick += 1;
        self.state.time_ns = now.0;
        if let (Some(lease), Some(rings)) = (&mut self.lease, &mut self.rings) {
            while let Ok(Some(command)) = rings.commands.pop() {
                if self.mute {
                    continue;
                }
                let reply = judge(&command, lease, &mut self.state, now);
                rings.replies.push(&reply).unwrap();
            }
            if lease.sequence > 0 && now > lease.expires && self.state.phase == 2 {
                self.state.phase = Phase::Safe as u32;
                self.state.cause = Cause::CommandExpired as u32;
            }
        }
        for joint in &mut self.state.joints {
            joint.sampled_ns = now.0;
            joint.position_rad = joint.setpoint_rad;
        }
        states.publish(&self.state);
    }
}

/// Decides on a command as kairo-rt does, as far as tests of kairod need it.
fn judge(command: &Command, lease: &mut Lease, state: &mut DeviceState, now: MonoNs) -> Reply {
    let joints = JOINTS.len();
    let expires = MonoNs(command.issued_ns).plus_ns(command.ttl_ns);
    let mut reply = Reply {
        sequence: command.sequence,
        lease_epoch: command.lease_epoch,
        tick: state.tick,
        time_ns: now.0,
        expires_ns: expires.0,
        ..Reply::default()
    };
    let mode = Mode::from_u32(command.mode);
    let outside = command.target[..joints]
        .iter()
        .position(|position| position.abs() > 1.5);
    let verdict = match () {
        () if command.lease_epoch != lease.epoch => Verdict::StaleEpoch,
        () if command.sequence <= lease.sequence => Verdict::StaleSequence,
        () if command.ttl_ns == 0 || command.ttl_ns > 1_000_000_000 => Verdict::TtlOutOfRange,
        () if now > expires => Verdict::Expired,
        () if mode.is_none() => Verdict::UnknownMode,
        () if command.joint_count as usize != joints => Verdict::JointCount,
        () if command.target.iter().any(|p| !p.is_finite()) => Verdict::NotFinite,
        () if mode == Some(Mode::Position) && outside.is_some() => Verdict::PositionLimit,
        () if mode == Some(Mode::Velocity) && outside.is_some() => Verdict::VelocityLimit,
        () if command.jerk_rad_s3 > 160.0 => Verdict::JerkLimit,
        () => Verdict::Accepted,
    };
    reply.verdict = verdict as u32;
    if verdict == Verdict::JerkLimit {
        (reply.joint, reply.value, reply.max) = (1, command.jerk_rad_s3, 160.0);
    }
    let limit = matches!(verdict, Verdict::PositionLimit | Verdict::VelocityLimit);
    if let Some(joint) = outside.filter(|_| limit) {
        reply.joint = joint as u32;
        (reply.value, reply.min, reply.max) = (command.target[joint], -1.5, 1.5);
    }
    if verdict == Verdict::Accepted {
        lease.sequence = command.sequence;
        lease.expires = expires;
        state.phase = Phase::Following as u32;
        state.cause = Cause::None as u32;
        state.phase_since_ns = now.0;
        state.lease_epoch = lease.epoch;
        state.sequence = command.sequence;
        state.expires_ns = expires.0;
        if mode == Some(Mode::Position) {
            for (joint, target) in state.joints.iter_mut().zip(command.target) {
                joint.setpoint_rad = target;
                joint.target_rad = target;
            }
        }
    }
    reply
}

fn welcome(present: bool) -> Welcome {
    let joint = |(index, name): (usize, &&str)| JointDescription {
        name: (*name).into(),
        servo_id: index as u8 + 1,
        position_min_rad: -1.5,
        position_max_rad: 1.5,
        velocity_max_rad_s: 2.0,
        acceleration_max_rad_s2: 8.0,
        jerk_max_rad_s3: 160.0,
        ..JointDescription::default()
    };
    Welcome {
        version: segment::VERSION,
        build: "fake 1.0".into(),
        robot: "so101".into(),
        armed: true,
        lines: vec![LineDescription {
            name: "front".into(),
            kind: LineKind::Input,
            place: "\"estop\"".into(),
            ..LineDescription::default()
        }],
        loops: vec![LoopDescription {
            name: "arm".into(),
            period_us: 2000,
            phase_us: 250,
            priority: 80,
            core: Some(1),
            blocks: vec!["pan".into()],
        }],
        buses: vec![BusDescription {
            name: "servo".into(),
            port: "usb".into(),
            path: "/dev/ttyUSB0".into(),
            servo_ids: (1..=6).collect(),
        }],
        devices: vec![DeviceDescription {
            name: "arm".into(),
            kind: "servo-arm".into(),
            bus: "servo".into(),
            control_loop: "arm".into(),
            safe_action: "hold".into(),
            torque_at_start: true,
            ttl_max_ms: 1000,
            joints: JOINTS.iter().enumerate().map(joint).collect(),
            present,
        }],
        bringup: vec![BringupCheck {
            scope: "arm".into(),
            check: "policy".into(),
            wanted: "SCHED_FIFO 80".into(),
            found: "SCHED_FIFO 80".into(),
            ok: true,
            required: true,
            fix: String::new(),
        }],
    }
}
