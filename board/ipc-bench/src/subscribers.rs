//! A hundred subscribers, with and without one that does not read: how long the others wait for
//! each event, and what the one that stalled is told.
//!
//! Every subscriber is a connection of its own. Events are published at a fixed rate, and a
//! delivery is timed from the moment its event was due, so that a kairod that stands still is
//! counted for every event it holds up. The same 99 are timed in both kinds of window; they check
//! that no event is missing. kairod runs on a core of its own, and the caller never sleeps.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kairo_wire::message::Message;
use kairo_wire::{Decoder, Event, FrameKind, Id, Limits, Request, Response, Value};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;
use serde_json::json;

use crate::windows::quantiles;

/// Subscribers; the last one is the one that stalls.
const SUBSCRIBERS: usize = 100;
/// Windows of each kind, in turns.
const WINDOWS: usize = 9;
/// Events at the beginning of a window that are not timed: they fill the queue of the one that
/// does not read, its 256 KiB and what its socket takes.
const FILLING: u64 = 500;
/// Timed events of a window. With [`FILLING`] more than the bus keeps and the queue takes, so that
/// one that waits loses some as well.
const TIMED: u64 = 1_000;
/// Bytes of an event's data.
const BYTES: usize = 1_000;
/// From one event to the next: kairod needs about half of it for a hundred deliveries.
const PERIOD: Duration = Duration::from_millis(2);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
const TOPIC: &str = "bench.subscribers";

/// One connection that is given events.
struct Subscriber {
    stream: UnixStream,
    decoder: Decoder,
    /// Number of the event that comes next.
    next: u64,
    /// Events that kairod said are lost.
    told_lost: u64,
    /// Events that came.
    received: u64,
}

/// All of them, and who publishes.
struct Audience {
    subscribers: Vec<Subscriber>,
    epoll: Epoll,
    publisher: UnixStream,
    /// Events published; the number of the newest.
    published: u64,
    began: Instant,
    buffer: Vec<u8>,
}

/// Measures both policies; `kairod` is the process whose memory is looked at.
pub fn measure(kernel: &str, kairod: Pid) -> Result<serde_json::Value> {
    let mut all = serde_json::Map::new();
    for policy in ["drop", "block"] {
        let mut audience = Audience::subscribe(kernel, policy)?;
        let (mut free, mut stalled) = (Vec::new(), Vec::new());
        for _ in 0..WINDOWS {
            free.push(audience.window(false, kairod)?);
            stalled.push(audience.window(true, kairod)?);
        }
        all.insert(policy.into(), json!({"free": free, "stalled": stalled}));
    }
    Ok(all.into())
}

impl Audience {
    fn subscribe(kernel: &str, policy: &str) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut subscribers = Vec::with_capacity(SUBSCRIBERS);
        for number in 0..SUBSCRIBERS {
            let subscriber = Subscriber::new(kernel, policy)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            epoll.add(subscriber.stream.as_fd(), event)?;
            subscribers.push(subscriber);
        }
        Ok(Self {
            subscribers,
            epoll,
            publisher: UnixStream::connect(kernel)?,
            published: 0,
            began: Instant::now(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// One window. With `stall`, the last subscriber reads nothing until all is over; then it has
    /// to be given or told of every event.
    fn window(&mut self, stall: bool, kairod: Pid) -> Result<serde_json::Value> {
        let mut times = Vec::with_capacity(SUBSCRIBERS * TIMED as usize);
        let before = self.last().counts();
        let first = self.published;
        if stall {
            self.epoll.delete(self.last().stream.as_fd())?;
        }
        let start = Instant::now() + PERIOD;
        for step in 0..FILLING + TIMED {
            let due = start + PERIOD * u32::try_from(step)?;
            while Instant::now() < due {
                self.read(first + FILLING, &mut times)?;
            }
            self.publish(due)?;
        }
        let reading = SUBSCRIBERS - usize::from(stall);
        self.read_to_the_end(reading, first + FILLING, &mut times)?;
        let resident = resident_bytes(kairod)?;
        if stall {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, (SUBSCRIBERS - 1) as u64);
            self.epoll.add(self.last().stream.as_fd(), event)?;
        }
        self.catch_up()?;
        let (received, told) = self.last().counts();
        let (received, told) = (received - before.0, told - before.1);
        let untold = (self.published - first).saturating_sub(received + told);
        let mut window = quantiles(&times);
        window["resident_bytes"] = resident.into();
        window["last_one"] = json!({"received": received, "told_lost": told, "untold": untold});
        Ok(window)
    }

    fn last(&self) -> &Subscriber {
        &self.subscribers[SUBSCRIBERS - 1]
    }

    /// Publishes the next event, which was due at `due`.
    fn publish(&mut self, due: Instant) -> Result<()> {
        self.published += 1;
        let due_ns = u64::try_from(due.duration_since(self.began).as_nanos())?;
        let data = Value::Map(vec![
            ("number".into(), self.published.into()),
            ("due_ns".into(), due_ns.into()),
            ("bytes".into(), Value::Binary(vec![7; BYTES])),
        ]);
        let params = Value::Map(vec![
            ("topic".into(), TOPIC.into()),
            ("class".into(), "volatile".into()),
            ("data".into(), data),
        ]);
        // A notification: what it would be answered is what the subscribers see.
        let request: Request = Request {
            id: None,
            method: "event.publish".into(),
            params: Some(params),
            meta: None,
        };
        let frame = request.encode(&Limits::default())?;
        self.publisher.write_all(&frame)?;
        Ok(())
    }

    /// Reads what has arrived. Times, from when they were due, the events behind number `after`
    /// that others than the last one are given.
    fn read(&mut self, after: u64, times: &mut Vec<u64>) -> Result<()> {
        let mut ready = [EpollEvent::empty(); SUBSCRIBERS];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO)?;
        for event in &ready[..count] {
            let number = usize::try_from(event.data())?;
            let subscriber = &mut self.subscribers[number];
            let arrived = subscriber.fill(&mut self.buffer)?;
            let arrived_ns = u64::try_from(arrived.duration_since(self.began).as_nanos())?;
            while let Some((number_of_event, due_ns)) = subscriber.next_event()? {
                if number_of_event > after && number < SUBSCRIBERS - 1 {
                    times.push(arrived_ns.saturating_sub(due_ns));
                }
            }
            let whole = subscriber.told_lost == 0 || number == SUBSCRIBERS - 1;
            ensure!(whole, "subscriber {number}, which reads, lost events");
        }
        Ok(())
    }

    /// Publishes until every subscriber has the newest event: the first one that finds room in the
    /// queue of the last subscriber says what was lost before it.
    fn catch_up(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.last().next <= self.published {
            ensure!(
                Instant::now() < until,
                "the last subscriber is told nothing"
            );
            self.publish(Instant::now())?;
            let step = Instant::now() + 10 * PERIOD;
            while self.last().next <= self.published && Instant::now() < step {
                self.read(u64::MAX, &mut Vec::new())?;
            }
        }
        self.read_to_the_end(SUBSCRIBERS, u64::MAX, &mut Vec::new())
    }

    /// Reads until the first `reading` subscribers have the newest event.
    fn read_to_the_end(&mut self, reading: usize, after: u64, times: &mut Vec<u64>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let newest = self.published;
        loop {
            let mut reading = self.subscribers.iter().take(reading);
            if reading.all(|subscriber| subscriber.next > newest) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "event {newest} does not arrive");
            self.read(after, times)?;
        }
    }
}

impl Subscriber {
    fn new(kernel: &str, policy: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(kernel)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let params = Value::Map(vec![
            ("topics".into(), Value::Array(vec![TOPIC.into()])),
            ("policy".into(), policy.into()),
        ]);
        let request: Request = Request {
            id: Some(Id::Number(1)),
            method: "event.subscribe".into(),
            params: Some(params),
            meta: None,
        };
        stream.write_all(&request.encode(&Limits::default())?)?;
        let mut subscriber = Self {
            stream,
            decoder: Decoder::default(),
            next: 1,
            told_lost: 0,
            received: 0,
        };
        let mut buffer = [0; 4096];
        let frame = loop {
            if let Some(frame) = subscriber.decoder.next_frame()? {
                break frame;
            }
            let count = subscriber.stream.read(&mut buffer)?;
            ensure!(count > 0, "kairod closed the connection");
            subscriber.decoder.feed(&buffer[..count]);
        };
        let response: Response<Value> = Response::decode(&frame.payload, &Limits::default())?;
        response.into_result()?;
        subscriber.stream.set_nonblocking(true)?;
        Ok(subscriber)
    }

    /// Events received, and told to be lost.
    fn counts(&self) -> (u64, u64) {
        (self.received, self.told_lost)
    }

    /// Reads once; gives when.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<Instant> {
        match self.stream.read(buffer) {
            Ok(0) => bail!("kairod closed the connection of a subscriber"),
            Ok(count) => self.decoder.feed(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Instant::now())
    }

    /// The next event that was published here: its number, and when it was due. What kairod says
    /// is lost before it is counted.
    fn next_event(&mut self) -> Result<Option<(u64, u64)>> {
        while let Some(frame) = self.decoder.next_frame()? {
            ensure!(frame.kind == FrameKind::Event, "a frame that is no event");
            let event = Event::decode(&frame.payload, &Limits::default())?;
            let fact = |name: &str| {
                let facts = event.data.as_map().into_iter().flatten();
                let mut found = facts.filter(|(key, _)| key.as_str() == Some(name));
                found.next().and_then(|(_, value)| value.as_u64())
            };
            if event.topic == "kairo.system.event.gap" {
                self.told_lost += fact("lost").context("a gap without a number")?;
                continue;
            }
            let number = fact("number").context("an event that nobody here published")?;
            ensure!(number >= self.next, "event {number} came again");
            self.next = number + 1;
            self.received += 1;
            return Ok(Some((number, fact("due_ns").unwrap_or(0))));
        }
        Ok(None)
    }
}

fn resident_bytes(process: Pid) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
    let kibibytes: u64 = kibibytes.context("no VmRSS in its status")?.parse()?;
    Ok(kibibytes * 1024)
}
