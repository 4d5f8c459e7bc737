//! The connection to kairo-rt: connects, keeps, and reconnects for ever.
//!
//! One task on kairod's thread. It waits for three things: a control message, the doorbell (a
//! state or an answer is in shared memory), and [`Session::broken`]. While kairo-rt is away it
//! tries again when the socket appears, and after 0.1 s, doubling: up to 1 s while somebody is
//! there, and up to 10 s while nobody is, because a robot that waits for its real-time plane should
//! sleep. Whatever is wrong with a link, the cure is the same: drop it with all claims, and connect
//! anew.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use kairo_link::abi::{COMMAND_SLOTS, Command, DeviceState, REPLY_SLOTS, Reply};
use kairo_link::control::{
    COMMON_DESCRIPTORS, ControlError, ControlSocket, DEVICE_DESCRIPTORS, MAX_DEVICES, Notice,
    Request, Welcome,
};
use kairo_link::ring::{self, Consumer, Producer};
use kairo_link::segment::{Kind, PeerAccess, Segment, SegmentError, VERSION};
use kairo_link::stats::{self, Stats};
use kairo_link::{latest, segment};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::rc::Rc;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::appearance::Appearance;
use crate::attention::GLANCE;
use crate::claim::Rings;
use crate::device::Device;
use crate::plane::SharedPlane;
use crate::readiness::{Watched, watch};

/// First pause between attempts, and the one between the appearance of the socket and an attempt:
/// a socket is made before it listens.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause while somebody is there and refuses or is silent, or the directory of the socket
/// cannot be watched.
const RETRY_PRESENT: Duration = Duration::from_secs(1);
/// Longest pause while nobody is there: its appearance ends the pause.
const RETRY_ABSENT: Duration = Duration::from_secs(10);
/// How long kairo-rt may take to answer the connection and the hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no link, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The control connection.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// kairo-rt does not want us.
    #[error("kairo-rt refuses the link: {0}")]
    Refused(String),
    /// It does not keep to the protocol.
    #[error("kairo-rt broke the link protocol: {0}")]
    Protocol(&'static str),
    /// It does not answer.
    #[error("kairo-rt did not answer within {} s", WELCOME_TIMEOUT.as_secs())]
    Silent,
    /// A call to the kernel of the machine.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl LinkError {
    /// Whether nobody is there: no socket, or one that nobody listens at any more.
    fn is_absent(&self) -> bool {
        let absent = Errno::ENOENT;
        let left = Errno::ECONNREFUSED;
        matches!(
            self,
            Self::Control(ControlError::System { errno, .. }) if [absent, left].contains(errno)
        )
    }
}

/// The control socket as the event loop watches it.
type Control = AsyncFd<Watched<ControlSocket>>;

/// A link that is up, as the rest of kairod uses it.
#[derive(Debug)]
pub struct Session {
    control: Rc<Control>,
    /// What kairo-rt counts.
    pub stats: Stats,
    /// Rung by whoever finds that the link is of no use any more.
    pub broken: Rc<Notify>,
}

impl Session {
    /// Sends a control message without waiting.
    pub fn send(&self, request: &Request) -> Result<(), ControlError> {
        self.control.get_ref().inner().send(request, &[])
    }
}

/// What the link task itself keeps.
struct Wires {
    control: Rc<Control>,
    doorbell: AsyncFd<Watched<OwnedFd>>,
    broken: Rc<Notify>,
}

/// Keeps the link to the kairo-rt at `path` up, for ever.
pub async fn keep(plane: SharedPlane, path: &Path) {
    let appearance = Appearance::of(path).inspect_err(|error| {
        tracing::warn!("{} is looked for every second: {error}", path.display());
    });
    let mut pause = RETRY_FIRST;
    let mut said = String::new();
    loop {
        let why = match connect(&plane, path).await {
            Ok(wires) => {
                tracing::info!("the link to kairo-rt is up");
                pause = RETRY_FIRST;
                let why = match serve(&plane, &wires).await {
                    Ok(()) => LinkError::Protocol("it left a request unanswered"),
                    Err(why) => why,
                };
                plane.borrow_mut().disconnected(&why.to_string());
                why
            }
            Err(why) => why,
        };
        let text = why.to_string();
        // Once a cause, not once an attempt: the log is bounded.
        if text != said {
            tracing::warn!("no link to kairo-rt at {}: {text}", path.display());
            said = text;
        }
        let longest = match &appearance {
            Ok(_) if why.is_absent() => RETRY_ABSENT,
            _ => RETRY_PRESENT,
        };
        pause = pause.min(longest);
        tokio::select! {
            () = tokio::time::sleep(pause) => pause *= 2,
            () = appeared(&appearance) => {
                pause = RETRY_FIRST;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Returns when the socket appears; never where that cannot be watched.
async fn appeared<E>(appearance: &Result<Appearance, E>) {
    match appearance {
        Ok(appearance) => appearance.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// Connects, introduces ourselves, maps what we are given, and tells the plane.
async fn connect(plane: &SharedPlane, path: &Path) -> Result<Wires, LinkError> {
    let path = path.to_path_buf();
    // A full backlog makes connect wait, and the router's thread must not.
    let connecting = tokio::task::spawn_blocking(move || ControlSocket::connect(&path));
    let control = tokio::time::timeout(WELCOME_TIMEOUT, connecting)
        .await
        .map_err(|_| LinkError::Silent)?
        .map_err(|_| LinkError::Protocol("connecting was cut short"))??;
    set_nonblocking(control.as_fd())?;
    let control = Rc::new(watch(control)?);
    let hello = Request::Hello { version: VERSION };
    control.get_ref().inner().send(&hello, &[])?;
    let answer = tokio::time::timeout(WELCOME_TIMEOUT, receive(&control));
    let (notice, descriptors) = answer.await.map_err(|_| LinkError::Silent)??;
    let welcome = match notice {
        Notice::Welcome(welcome) => *welcome,
        Notice::Refused { reason } => return Err(LinkError::Refused(reason)),
        _ => return Err(LinkError::Protocol("its first message is no welcome")),
    };
    adopt(plane, control, welcome, descriptors)
}

/// Maps the segments of a welcome.
fn adopt(
    plane: &SharedPlane,
    control: Rc<Control>,
    welcome: Welcome,
    descriptors: Vec<OwnedFd>,
) -> Result<Wires, LinkError> {
    let count = welcome.devices.len();
    if welcome.version != segment::VERSION {
        return Err(LinkError::Protocol("another version of the link"));
    }
    if count > MAX_DEVICES || descriptors.len() != COMMON_DESCRIPTORS + count * DEVICE_DESCRIPTORS {
        return Err(LinkError::Protocol("a welcome with the wrong descriptors"));
    }
    if welcome.loops.len() > stats::MAX_LOOPS || welcome.buses.len() > stats::MAX_BUSES {
        return Err(LinkError::Protocol(
            "a welcome with too many loops or buses",
        ));
    }
    let mut descriptors = descriptors.into_iter();
    let mut next = || {
        descriptors
            .next()
            .ok_or(LinkError::Protocol("a welcome with too few descriptors"))
    };
    let words = stats::PAYLOAD_WORDS;
    let stats = Segment::open(&next()?, Kind::Stats, words, PeerAccess::ReadOnly)?;
    let doorbell = next()?;
    set_nonblocking(doorbell.as_fd())?;
    let mut devices = Vec::with_capacity(count);
    for description in &welcome.devices {
        let words = latest::payload_words::<DeviceState>();
        let states = Segment::open(&next()?, Kind::Latest, words, PeerAccess::ReadWrite)?;
        let words = ring::payload_words::<Command>(COMMAND_SLOTS);
        let commands = Segment::open(&next()?, Kind::Ring, words, PeerAccess::ReadWrite)?;
        let words = ring::payload_words::<Reply>(REPLY_SLOTS);
        let replies = Segment::open(&next()?, Kind::Ring, words, PeerAccess::ReadWrite)?;
        let rings = Rings {
            commands: Producer::new(commands, COMMAND_SLOTS),
            replies: Consumer::new(replies, REPLY_SLOTS),
        };
        let bus = welcome.buses.iter().find(|bus| bus.name == description.bus);
        let path = bus.map(|bus| bus.path.clone()).unwrap_or_default();
        let states = latest::Reader::new(states);
        devices.push(Device::new(description.clone(), path, states, rings));
    }
    // From here on kairo-rt uses them.
    control.get_ref().inner().send(&Request::Mapped, &[])?;
    let broken = Rc::new(Notify::new());
    let session = Session {
        control: Rc::clone(&control),
        stats: Stats::new(stats),
        broken: Rc::clone(&broken),
    };
    let wires = Wires {
        control,
        doorbell: watch(doorbell)?,
        broken,
    };
    let mut plane = plane.borrow_mut();
    plane.connected(session, welcome, devices);
    plane.collect();
    Ok(wires)
}

/// Serves a link until it breaks.
async fn serve(plane: &SharedPlane, wires: &Wires) -> Result<(), LinkError> {
    let attention = Rc::clone(&plane.borrow().attention);
    attention.pay();
    loop {
        let is_watched = plane.borrow().is_watched();
        tokio::select! {
            message = receive(&wires.control) => {
                let (notice, _) = message?;
                hear(plane, notice)?;
                attention.pay();
            }
            () = attention.called(), if !is_watched => {}
            () = tokio::time::sleep(GLANCE), if !is_watched => plane.borrow_mut().collect(),
            rung = wires.doorbell.readable(), if is_watched => {
                let mut rung = rung?;
                // Emptied before the memory is read: what is written later rings again.
                let mut count = [0; 8];
                match nix::unistd::read(wires.doorbell.get_ref(), &mut count) {
                    Ok(0) => return Err(ControlError::Closed.into()),
                    Ok(_) => {}
                    Err(nix::errno::Errno::EAGAIN) => rung.clear_ready(),
                    Err(errno) => return Err(std::io::Error::from(errno).into()),
                }
                plane.borrow_mut().collect();
            }
            () = wires.broken.notified() => return Ok(()),
        }
    }
}

/// Takes in one message of kairo-rt.
fn hear(plane: &SharedPlane, notice: Notice) -> Result<(), LinkError> {
    let mut plane = plane.borrow_mut();
    match notice {
        Notice::LeaseOpened { request, epoch } => plane.opened(request, epoch),
        Notice::LeaseRefused {
            request,
            code,
            reason,
        } => plane.refused(request, &code, &reason),
        Notice::LeaseClosed { epoch, cause } => plane.lease_closed(epoch, &cause),
        Notice::DeviceChanged {
            device,
            present,
            path,
            cause,
            detail,
        } => {
            plane.bus_moved(device as usize, path);
            plane.device_changed(device as usize, present, &cause, &detail);
        }
        Notice::FailsafeChanged { device, failsafe } => {
            plane.failsafe_changed(device as usize, failsafe);
        }
        Notice::EstopAnswered {
            request,
            done,
            code,
            reason,
        } => plane.stop_answered(request, if done { Ok(()) } else { Err((code, reason)) }),
        Notice::Refused { reason } => return Err(LinkError::Refused(reason)),
        Notice::Welcome(_) => return Err(LinkError::Protocol("a second welcome")),
    }
    Ok(())
}

/// The next control message.
async fn receive(control: &Control) -> Result<(Notice, Vec<OwnedFd>), LinkError> {
    loop {
        let mut ready = control.readable().await?;
        match control.get_ref().inner().receive() {
            Err(error) if error.is_would_block() => ready.clear_ready(),
            result => return Ok(result?),
        }
    }
}

/// The event loop must never wait in a read. The doorbell is the reading end of a pipe and the
/// connection a socket, so the flag is ours alone.
fn set_nonblocking(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL)?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
