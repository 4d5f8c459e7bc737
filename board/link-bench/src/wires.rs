//! What the two processes of a measurement share: our rings and words to steer by, and the same
//! over iceoryx2.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{NodeBuilder, ipc};
use kairo_link::offer::{Offer, Tenant};
use kairo_link::ring;
use kairo_link::segment::{Kind, PeerAccess, Segment};

use crate::message::Line;

/// Slots of our rings.
pub const SLOTS: u64 = 1024;
/// A peer that does not answer is dead.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Payload words of the steering segment.
const STEERING_WORDS: usize = 32;

/// What the peer shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    Idle = 1,
    EchoOurs = 2,
    EchoTheirs = 3,
    Quit = 4,
}

/// Two words: what the peer shall do, and what it does.
#[derive(Clone, Debug)]
pub struct Steering(pub Arc<Segment>);

impl Steering {
    fn wanted(&self) -> &AtomicU64 {
        &self.0.payload()[0]
    }

    fn done(&self) -> &AtomicU64 {
        &self.0.payload()[16]
    }

    /// Has the peer do this, and waits until it does.
    pub fn steer(&self, mode: Mode) -> Result<()> {
        self.wanted().store(mode as u64, Ordering::Release);
        let since = Instant::now();
        while self.done().load(Ordering::Acquire) != mode as u64 {
            ensure!(since.elapsed() < PATIENCE, "the peer does not follow");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// What to do; says that it is being done.
    pub fn follow(&self) -> u64 {
        let wanted = self.wanted().load(Ordering::Acquire);
        self.done().store(wanted, Ordering::Release);
        wanted
    }
}

/// Three segments on their way to the peer.
#[derive(Debug)]
pub struct Offers {
    pub there: (Offer, Tenant),
    pub back: (Offer, Tenant),
    pub steering: (Steering, OwnedFd),
}

impl Offers {
    pub fn make() -> Result<Self> {
        let words = ring::payload_words::<Line>(SLOTS);
        let ring = |name| Offer::make(name, Kind::Ring, words, SLOTS, 1);
        let access = PeerAccess::ReadWrite;
        let name = c"bench-steering";
        let (steering, fd) = Segment::create(name, Kind::Stats, STEERING_WORDS, 0, 1, access)?;
        Ok(Self {
            steering: (Steering(Arc::new(steering)), fd),
            there: ring(c"bench-there")?,
            back: ring(c"bench-back")?,
        })
    }

    /// Numbers of the descriptors, for the peer to open: steering, there, back.
    pub fn numbers(&self) -> [String; 3] {
        let rings = [&self.there, &self.back].map(|(offer, _)| offer.descriptor().as_raw_fd());
        [self.steering.1.as_raw_fd(), rings[0], rings[1]].map(|number| number.to_string())
    }
}

/// Opens descriptor `number` of process `pid`.
pub fn open_of(pid: &str, number: &str, write: bool) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{number}");
    let file = File::options().read(true).write(write).open(&path);
    Ok(file.with_context(|| format!("cannot open {path}"))?.into())
}

/// Maps a ring of the other process.
pub fn ring_of(pid: &str, number: &str) -> Result<Arc<Segment>> {
    let words = ring::payload_words::<Line>(SLOTS);
    let fd = open_of(pid, number, true)?;
    Ok(Segment::open(
        &fd,
        Kind::Ring,
        words,
        PeerAccess::ReadWrite,
    )?)
}

/// Maps the steering words of the other process.
pub fn steering_of(pid: &str, number: &str) -> Result<Steering> {
    let fd = open_of(pid, number, true)?;
    let access = PeerAccess::ReadWrite;
    Ok(Steering(Segment::open(
        &fd,
        Kind::Stats,
        STEERING_WORDS,
        access,
    )?))
}

/// iceoryx2's side of a measurement, in either process.
pub struct Theirs {
    pub publisher: Publisher<ipc::Service, [u64; 8], ()>,
    pub subscriber: Subscriber<ipc::Service, [u64; 8], ()>,
    pub notifier: Notifier<ipc::Service>,
    pub listener: Listener<ipc::Service>,
}

impl Theirs {
    /// Joins the services named after process `pid`; `out` and `inn` are the two directions.
    pub fn join(pid: &str, out: &str, inn: &str) -> Result<Self> {
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let name = |direction: &str, kind: &str| -> Result<_> {
            Ok(format!("kairo-bench/{pid}/{direction}/{kind}")
                .as_str()
                .try_into()?)
        };
        let lines = |direction: &str| -> Result<_> {
            let service = node.service_builder(&name(direction, "lines")?);
            Ok(service.publish_subscribe::<[u64; 8]>().open_or_create()?)
        };
        let bells = |direction: &str| -> Result<_> {
            Ok(node
                .service_builder(&name(direction, "bell")?)
                .event()
                .open_or_create()?)
        };
        Ok(Self {
            publisher: lines(out)?.publisher_builder().create()?,
            subscriber: lines(inn)?.subscriber_builder().create()?,
            notifier: bells(out)?.notifier_builder().create()?,
            listener: bells(inn)?.listener_builder().create()?,
        })
    }

    /// Sends one line.
    pub fn send(&self, line: [u64; 8]) -> Result<()> {
        self.publisher.loan_uninit()?.write_payload(line).send()?;
        Ok(())
    }

    /// The next line, if there is one.
    pub fn take(&self) -> Result<Option<[u64; 8]>> {
        Ok(self.subscriber.receive()?.map(|sample| *sample))
    }
}
