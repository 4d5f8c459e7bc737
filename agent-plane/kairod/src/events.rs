//! The event bus: what was published lately, in memory, in one order, and the log behind it.
//!
//! A ring of the newest [`KEPT_EVENTS`] or [`KEPT_BYTES`], encoded; every subscription reads it at
//! its own pace with a cursor of its own, so publishing never waits and costs the same however many
//! listen. A subscriber that falls off the ring is told what it missed, or reads on in the log.
//!
//! Events are numbered by the log ([`kairo_events`]), which keeps all but the volatile ones. What
//! kairod itself publishes is delivered at once and written after that; what a client publishes in
//! a durable class is delivered once it is in the log. So live delivery says nothing about
//! durability, and is in the order of publication: a number may come after a larger one.

pub mod allowance;
pub mod encoded;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use allowance::Allowances;
use encoded::Encoded;
use kairo_events::{Appended, Class, Expected, NewEvent, OpenReport, Salvage, Stamp, StoreError};
use kairo_wire::{ErrorInfo, Event, Meta, Value};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::event_log::{OpenLog, refusal};
use crate::facts::{EventGap, EventStore, Fact, LostRange};
use crate::once::Once;
use crate::reasons::Reason;
use crate::spans::{Kind, Open, Tracer};
use crate::topics;

/// Events that stay readable for slow subscribers.
pub const KEPT_EVENTS: usize = 1024;
/// What they may take together. The newest event stays, however long it is.
pub const KEPT_BYTES: usize = 8 * 1024 * 1024;
/// How long the acknowledgement of something that happened waits for the disk.
const SETTLE_PATIENCE: Duration = Duration::from_millis(500);

/// The bus.
#[derive(Debug)]
pub struct EventBus {
    /// Tells the events of this run from those of another in their ids, without a log.
    run: String,
    kept: RefCell<VecDeque<Rc<Encoded>>>,
    /// What they cost.
    kept_bytes: Cell<usize>,
    /// Where the ring begins, counted in events that were ever in it.
    oldest: Cell<u64>,
    /// The largest number that has fallen out of the ring.
    dropped_seq: Cell<u64>,
    /// The newest number given out.
    newest_seq: Cell<u64>,
    newest: watch::Sender<u64>,
    /// Nobody else keeps it over a wait, so that it can be closed at any time.
    log: RefCell<Option<Rc<OpenLog>>>,
    /// How many logs were attached.
    logs: watch::Sender<u64>,
    /// Why there is none.
    absent: RefCell<String>,
    /// Whether the log refused what was written last.
    failing: Cell<bool>,
    /// Whether this kairod had a log before: what is open in a later one is its own.
    had_log: Cell<bool>,
    /// Rung when the log is damaged and has to be opened anew.
    pub broken: Notify,
    /// Durable consumers that a subscription reads for.
    pub consumers: RefCell<BTreeSet<String>>,
    /// What is published in a trace has a span.
    pub tracer: Rc<Tracer>,
    /// How fast clients may publish.
    pub allowances: RefCell<Allowances>,
}

/// What lies at a place in the ring.
#[derive(Debug)]
pub enum Found {
    /// This event; the next one is at the place plus one.
    Event(Rc<Encoded>),
    /// The events from there up to this one are gone.
    Gone {
        /// The oldest one that is kept.
        oldest: u64,
    },
    /// Nothing yet.
    End,
}

/// What became of an event that a client published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "PublishResult")]
pub struct Published {
    /// Its number.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// Its version in its stream.
    #[serde(rename = "stream_version", skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// True when the same event was in the log already; `seq` is then the first one's.
    pub duplicate: bool,
}

impl Published {
    /// It was appended so.
    fn appended(&mut self, appended: &Appended) {
        self.version = appended.version;
        if appended.duplicate {
            // Only an event with an id can be one, so the id is right.
            (self.seq, self.duplicate) = (appended.seq, true);
        }
    }
}

impl EventBus {
    /// An empty bus without a log.
    pub fn new() -> Self {
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
        // Without /proc the process id has to do; it repeats only after a restart.
        let run = uuid.map_or_else(
            |_| std::process::id().to_string(),
            |uuid| uuid.chars().take(8).collect(),
        );
        Self {
            run,
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            oldest: Cell::new(1),
            dropped_seq: Cell::new(0),
            newest_seq: Cell::new(0),
            newest: watch::Sender::new(0),
            log: RefCell::default(),
            logs: watch::Sender::new(0),
            absent: RefCell::new("kairod has no state directory".into()),
            failing: Cell::new(false),
            had_log: Cell::new(false),
            broken: Notify::new(),
            consumers: RefCell::default(),
            tracer: Rc::default(),
            allowances: RefCell::default(),
        }
    }

    /// Publishes a fact of kairod's own. `cause` is the metadata of the request that led to it.
    pub fn publish<F: Fact>(&self, fact: &F, cause: Option<&Meta>) {
        self.publish_as(F::TOPIC.class, fact, cause);
        self.watch_health();
    }

    fn publish_as<F: Fact>(&self, class: Class, fact: &F, cause: Option<&Meta>) {
        let mut cause = cause.cloned().unwrap_or_default();
        let span = self.span(F::TOPIC.name, &mut cause);
        let mut event = new_event(fact).class(class);
        event.aliases = topics::aliases(F::TOPIC.name).into();
        event.correlation_id = cause.correlation_id;
        event.causation_id = cause.causation_id;
        event.traceparent = cause.traceparent;
        let log = self.log.borrow().clone();
        let stamp = log.as_ref().and_then(|log| {
            // What the log does not take is still a fact; its status counts what it lost.
            let posted = log.store.post(event.clone());
            posted.or_else(|_| log.store.number(&event)).ok()
        });
        let stamp = stamp.unwrap_or_else(|| self.own_stamp());
        let told = self.told(&event, stamp, None);
        self.show(Encoded::new(&event, stamp.time_ns, &told));
        published(span, &Ok(told));
    }

    /// The span of an event that a request causes. The event carries it on.
    fn span(&self, topic: &str, cause: &mut Meta) -> Option<Open> {
        let name = || format!("publish {topic}");
        let span = self.tracer.child(cause, name, Kind::Producer)?;
        cause.traceparent = Some(span.traceparent());
        Some(span)
    }

    /// Publishes what a client says. A durable event is delivered, and this returns, when it is in
    /// the log as its class promises; that goes on when the caller is gone. Under a key, its result
    /// is in the log with it.
    ///
    /// # Errors
    /// It breaks a rule, there is no log, or the log refuses it.
    pub async fn publish_for(
        self: &Rc<Self>,
        mut event: NewEvent,
        cause: &Meta,
        once: Option<Once>,
    ) -> Result<Published, ErrorInfo> {
        let mut cause = cause.clone();
        let span = self.span(&event.topic, &mut cause);
        event.correlation_id = cause.correlation_id;
        event.causation_id = cause.causation_id;
        event.traceparent = cause.traceparent;
        let result = self.publish_whole(event, once).await;
        published(span, &result);
        result
    }

    async fn publish_whole(
        self: &Rc<Self>,
        event: NewEvent,
        once: Option<Once>,
    ) -> Result<Published, ErrorInfo> {
        if event.class == Class::Volatile && once.is_none() {
            let log = self.log.borrow().clone();
            let stamp = match log {
                Some(log) => log.store.number(&event).map_err(|error| refusal(&error))?,
                None => self.own_stamp(),
            };
            let told = self.told(&event, stamp, None);
            self.show(Encoded::new(&event, stamp.time_ns, &told));
            return Ok(told);
        }
        let log = self.log()?;
        let appended = match &once {
            None => log.store.append(event.clone()),
            Some(once) => log
                .store
                .append_keyed(event.clone(), once.keyed(result_of(event.id.clone()))),
        };
        drop(log);
        let appended = appended.map_err(|error| refusal(&error));
        let (stamp, ticket) = appended.inspect_err(|error| {
            once.iter().for_each(|once| once.failed(error));
        })?;
        let mut told = self.told(&event, stamp, None);
        let bus = Rc::clone(self);
        let shown = tokio::task::spawn_local(async move {
            let appended = ticket.await;
            bus.watch_health();
            let appended = appended.map_err(|error| refusal(&error));
            told.appended(&appended.inspect_err(|error| {
                once.iter().for_each(|once| once.failed(error));
            })?);
            if let Some(once) = &once {
                once.done(&result(&told));
            }
            if !told.duplicate {
                bus.show(Encoded::new(&event, stamp.time_ns, &told));
            }
            Ok(told)
        });
        shown.await.unwrap_or_else(|error| {
            let text = format!("publishing was given up: {error}");
            Err(Reason::Internal.error(text))
        })
    }

    /// The log. Not to be kept over a wait: it may have to be closed meanwhile.
    ///
    /// # Errors
    /// There is none.
    pub fn log(&self) -> Result<Rc<OpenLog>, ErrorInfo> {
        self.log.borrow().clone().ok_or_else(|| {
            let text = format!("the event log is not there: {}", self.absent.borrow());
            let cause = Some("absent".to_string());
            Reason::NoStore { cause }.error_retried(text, 1000)
        })
    }

    /// Tells how many logs there were, and when there is another.
    pub fn logs(&self) -> watch::Receiver<u64> {
        self.logs.subscribe()
    }

    /// From now on events are numbered and kept by this log. True for the first one: what is open
    /// in a later one is our own.
    pub fn attach(&self, log: OpenLog, report: &OpenReport) -> bool {
        *self.log.borrow_mut() = Some(Rc::new(log));
        self.logs.send_modify(|count| *count += 1);
        self.failing.set(false);
        if let Some((backup, schema)) = &report.backup {
            let backup = backup.display();
            tracing::warn!("the event log had schema {schema}; a copy is {backup}");
        }
        if let Some(salvage) = &report.salvage {
            let aside = salvage.quarantined.display();
            let why = &salvage.damage;
            tracing::error!("the event log was damaged ({why}); it is now {aside}");
        }
        let state = if report.salvage.is_some() {
            "salvaged"
        } else {
            "ready"
        };
        let facts = store_facts(state, "", report.head, report.salvage.as_ref());
        self.publish(&facts, None);
        !self.had_log.replace(true)
    }

    /// Returns when everything that was published so far is in the log and on the disk, when that
    /// fails or takes longer than [`SETTLE_PATIENCE`], or at once without a log: what is waited for
    /// has happened, and the wait only keeps its acknowledgement from outliving it.
    pub async fn settled(&self) {
        let log = self.log.borrow().clone();
        let settled = log.map(|log| log.store.settled());
        if let Some(Ok(settled)) = settled {
            let _ = tokio::time::timeout(SETTLE_PATIENCE, settled).await;
        }
    }

    /// There is no log, and why.
    pub fn say_absent(&self, cause: &str) {
        if *self.absent.borrow() == cause {
            return;
        }
        *self.absent.borrow_mut() = cause.to_string();
        tracing::error!("no event log, what needs one is refused: {cause}");
        let facts = store_facts("absent", cause, 0, None);
        self.publish_as(Class::Volatile, &facts, None);
    }

    /// Takes the log away.
    pub fn detach(&self) -> Option<Rc<OpenLog>> {
        *self.absent.borrow_mut() = "it is being closed, and opened anew".into();
        self.log.borrow_mut().take()
    }

    /// Writes what is queued, for so long. False when the disk did not finish.
    pub fn close(&self, patience: Duration) -> bool {
        match self.detach().map(Rc::try_unwrap) {
            Some(Ok(log)) => log.store.close(patience),
            // Somebody holds it over a wait against the rule: what was acknowledged is in the log.
            Some(Err(_)) => false,
            None => true,
        }
    }

    /// Tells when the log begins to fail, and when it works again.
    fn watch_health(&self) {
        let log = self.log.borrow().clone();
        let Some(log) = log else { return };
        let failure = log.store.status().failure;
        if failure.is_some() == self.failing.get() {
            return;
        }
        self.failing.set(failure.is_some());
        let head = log.store.status().head;
        let facts = match &failure {
            Some(error) => {
                tracing::error!("{error}");
                store_facts("failing", &error.to_string(), head, None)
            }
            None => store_facts("ready", "", head, None),
        };
        if matches!(failure, Some(StoreError::Corrupt { .. })) {
            self.broken.notify_one();
        }
        self.publish_as(Class::Volatile, &facts, None);
    }

    /// A number where no log gives one.
    fn own_stamp(&self) -> Stamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time_ns = now.unwrap_or_default().as_nanos();
        Stamp {
            seq: self.newest_seq.get() + 1,
            time_ns: i64::try_from(time_ns).unwrap_or(i64::MAX),
            monotonic_ns: 0,
        }
    }

    /// Puts an event into the ring.
    fn show(&self, event: Encoded) {
        self.newest_seq.set(self.newest_seq.get().max(event.seq));
        let mut kept = self.kept.borrow_mut();
        let mut bytes = self.kept_bytes.get() + event.cost_bytes();
        while (kept.len() >= KEPT_EVENTS || bytes > KEPT_BYTES)
            && let Some(gone) = kept.pop_front()
        {
            bytes -= gone.cost_bytes();
            self.oldest.set(self.oldest.get() + 1);
            self.dropped_seq.set(self.dropped_seq.get().max(gone.seq));
        }
        self.kept_bytes.set(bytes);
        kept.push_back(Rc::new(event));
        drop(kept);
        self.newest.send_replace(self.next_place());
    }

    /// The newest events that are in memory, the newest first.
    pub fn newest(&self, count: usize) -> Vec<Rc<Encoded>> {
        self.kept
            .borrow()
            .iter()
            .rev()
            .take(count)
            .cloned()
            .collect()
    }

    /// The notice that a subscription missed the events `from_seq` up to, not with, `to_seq`.
    pub fn gap(&self, from_seq: u64, to_seq: u64, lost: u64) -> Encoded {
        let gap = EventGap {
            from_seq,
            to_seq,
            lost,
        };
        self.notice(&gap, from_seq)
    }

    /// An event for one subscription alone.
    pub fn notice<F: Fact>(&self, fact: &F, seq: u64) -> Encoded {
        let event = new_event(fact);
        // The number is that of another event, so the id must not be its id.
        let action = F::TOPIC.name.rsplit('.').next().unwrap_or_default();
        let told = Published {
            seq,
            id: format!("{}-{action}-{seq}", self.run),
            version: None,
            duplicate: false,
        };
        Encoded::new(&event, self.own_stamp().time_ns, &told)
    }

    /// What is told of an event with this stamp.
    fn told(&self, event: &NewEvent, stamp: Stamp, version: Option<u64>) -> Published {
        let made = || match &*self.log.borrow() {
            Some(log) => log.store.id_of(stamp.seq),
            None => format!("{}-{}", self.run, stamp.seq),
        };
        Published {
            seq: stamp.seq,
            id: event.id.clone().unwrap_or_else(made),
            version,
            duplicate: false,
        }
    }

    /// The number after the newest.
    pub fn next_seq(&self) -> u64 {
        self.newest_seq.get() + 1
    }

    /// Where a subscription that wants only what comes begins.
    pub fn next_place(&self) -> u64 {
        self.oldest.get() + self.kept.borrow().len() as u64
    }

    /// Where a subscription that has seen the log up to `head` goes on; none when something behind
    /// `head` has fallen out of the ring already.
    pub fn place_behind(&self, head: u64) -> Option<u64> {
        (self.dropped_seq.get() <= head).then(|| self.oldest.get())
    }

    /// Wakes when something was published.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What lies at `place`.
    pub fn at(&self, place: u64) -> Found {
        let oldest = self.oldest.get();
        if place < oldest {
            return Found::Gone { oldest };
        }
        let index = usize::try_from(place - oldest).unwrap_or(usize::MAX);
        let kept = self.kept.borrow();
        kept.get(index)
            .map_or(Found::End, |event| Found::Event(Rc::clone(event)))
    }
}

/// An event of kairod's own.
fn new_event<F: Fact>(fact: &F) -> NewEvent {
    // Facts are plain structs: writing them into memory does not fail.
    let data = rmp_serde::to_vec_named(fact).unwrap_or_default();
    NewEvent::new(F::TOPIC.name, "kairod", data)
}

fn store_facts(
    state: &'static str,
    cause: &str,
    head_seq: u64,
    salvage: Option<&Salvage>,
) -> EventStore {
    let lost = salvage.map_or(&[][..], |salvage| &salvage.lost);
    // The newest ones say the most; a file with more damages is in its quarantine to look at.
    let lost = lost.iter().rev().take(16);
    let lost = lost.map(|&(from_seq, to_seq)| LostRange { from_seq, to_seq });
    let cause = salvage.map_or(cause, |salvage| salvage.damage.as_str());
    EventStore {
        state,
        cause: cause.into(),
        head_seq,
        salvaged: salvage.map(|salvage| salvage.events),
        damaged: salvage.map_or(0, |salvage| salvage.damaged_rows),
        lost: lost.collect(),
    }
}

/// Wall time as RFC 3339.
pub fn time_text(time_ns: i64) -> String {
    let since = Duration::from_nanos(u64::try_from(time_ns).unwrap_or(0));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// Makes the result that is kept with an event, on the log's own thread.
fn result_of(id: Option<String>) -> kairo_events::keys::ResultOf {
    Box::new(move |appended, made| {
        let mut told = Published {
            seq: appended.seq,
            id: id.unwrap_or(made),
            version: None,
            duplicate: false,
        };
        told.appended(appended);
        result(&told)
    })
}

/// The result of publishing, as it travels.
fn result(told: &Published) -> Vec<u8> {
    // Numbers and texts can always be encoded.
    rmp_serde::to_vec_named(told).unwrap_or_default()
}

/// A value as the log keeps it.
pub fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing into memory does not fail.
    let _ = rmpv::encode::write_value(&mut bytes, value);
    bytes
}

/// An event of the log as it travels.
pub fn from_log(event: &kairo_events::Event, replay: bool) -> Event {
    let data = rmpv::decode::read_value(&mut event.data.as_slice());
    let (stream, stream_version) = match &event.stream {
        Some(place) => (Some(place.name.clone()), Some(place.version)),
        None => (None, None),
    };
    Event {
        id: event.id.clone(),
        topic: event.topic.to_string(),
        source: event.source.clone(),
        specversion: "1.0".into(),
        time: time_text(event.time_ns),
        data: data.unwrap_or_else(|_| Value::Binary(event.data.clone())),
        seq: event.seq,
        aliases: event.aliases.to_vec(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        traceparent: event.traceparent.clone(),
        stream,
        stream_version,
        replay,
        subscription: None,
    }
}

/// The version that an append expects of its stream, as a caller says it: 0 is an empty one.
pub const fn expected(version: Option<u64>) -> Expected {
    match version {
        None => Expected::Any,
        Some(0) => Expected::None,
        Some(version) => Expected::Exactly(version),
    }
}

/// Ends the span of an event.
fn published(span: Option<Open>, result: &Result<Published, ErrorInfo>) {
    if let Some(mut span) = span {
        if let Ok(told) = result {
            span.put("seq", told.seq);
        }
        span.end(result);
    }
}

#[cfg(test)]
mod tests {
    use kairo_wire::message::Message;

    use super::*;
    use crate::facts::{AuditFinding, DeviceClaimed, Ready};

    fn finding(bytes: usize) -> AuditFinding {
        let finding = "x".repeat(bytes);
        AuditFinding { finding }
    }

    #[test]
    fn events_are_numbered_and_old_ones_are_gone() {
        let bus = EventBus::new();
        assert!(matches!(bus.at(1), Found::End));
        for _ in 0..KEPT_EVENTS + 3 {
            bus.publish(&Ready {}, None);
        }
        assert!(matches!(bus.at(1), Found::Gone { oldest: 4 }));
        let Found::Event(event) = bus.at(5) else {
            panic!("event 5 is kept");
        };
        assert_eq!(event.seq, 5);
        assert!(matches!(bus.at(bus.next_place()), Found::End));
        // Who has read the log up to number 2 has missed number 3 here.
        assert_eq!((bus.place_behind(2), bus.place_behind(3)), (None, Some(4)));
    }

    #[test]
    fn long_events_fall_off_the_ring_by_their_bytes() {
        let bus = EventBus::new();
        let long = finding(256 * 1024);
        for _ in 0..100 {
            bus.publish_as(Class::Volatile, &long, None);
        }
        assert!(bus.kept_bytes.get() <= KEPT_BYTES);
        let kept = bus.kept.borrow().len();
        assert!((28..=32).contains(&kept), "{kept}");
        let oldest = 101 - kept as u64;
        assert!(matches!(bus.at(1), Found::Gone { oldest: found } if found == oldest));
        // One that is longer than all may be is kept alone.
        let longest = finding(KEPT_BYTES + 1);
        bus.publish_as(Class::Volatile, &longest, None);
        assert_eq!(bus.kept.borrow().len(), 1);
        bus.publish(&Ready {}, None);
        assert_eq!(bus.kept.borrow().len(), 1);
        let cost: usize = bus
            .kept
            .borrow()
            .iter()
            .map(|event| event.cost_bytes())
            .sum();
        assert_eq!(bus.kept_bytes.get(), cost);
    }

    #[test]
    fn an_event_carries_the_correlation_of_its_cause() {
        let bus = EventBus::new();
        let cause = Meta {
            correlation_id: Some("c1".into()),
            ..Meta::default()
        };
        let claimed = DeviceClaimed {
            device: "arm".into(),
            epoch: 1,
            connection: 1,
            pid: 1,
            uid: 0,
        };
        bus.publish(&claimed, Some(&cause));
        let Found::Event(event) = bus.at(1) else {
            panic!("published");
        };
        let frame = event.frame("s1").unwrap();
        let payload = &frame[kairo_wire::frame::HEADER_BYTES..];
        let event = Event::decode(payload, &kairo_wire::Limits::default()).unwrap();
        assert_eq!(event.correlation_id.as_deref(), Some("c1"));
        assert_eq!(event.aliases, ["kairo.device.claimed"]);
    }
}
