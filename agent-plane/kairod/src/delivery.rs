//! Delivering events to a subscription: from the ring as they come, from the log as they lie.
//!
//! A subscription that begins in the past reads the log, page by page, until it has caught up, and
//! goes on in the ring; with the policy `spill` it goes back to the log whenever it falls off the
//! ring. A durable consumer reads the log only: it is given what is committed, in order, again
//! until it acknowledges it. Topics that the peer may not see are left out, event by event, so a
//! right that is taken away counts at once.
//!
//! Nothing is buffered but one page, and that only while it is delivered. Nothing holds the log
//! while it waits for anything: a damaged one is closed and opened anew under its readers.

use std::rc::Rc;
use std::time::Duration;

use kairo_events::{Fetched, LostEvents, Page, Pattern, Query, Start, StoreError};
use kairo_wire::ErrorInfo;
use tokio::sync::watch;

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::event_log::refusal;
use crate::events::encoded::Encoded;
use crate::events::{EventBus, Found};
use crate::facts::EventReplayed;
use crate::permission::Right;
use crate::subscription::{Policy, Subscription};

/// Events and bytes of a page on its way to one subscription.
const PAGE_EVENTS: usize = 128;
const PAGE_BYTES: usize = 256 * 1024;
/// Events that a durable consumer may be given without having acknowledged them.
pub const MAX_UNACKNOWLEDGED: usize = 1024;
/// How long to wait before another attempt to read for a durable consumer.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At this place of the ring.
    Place(u64),
    /// Behind this number.
    After(u64),
}

/// What delivers to one subscription.
#[derive(Debug)]
pub struct Delivery {
    /// The daemon.
    pub daemon: Rc<Daemon>,
    /// Whose subscription it is.
    pub connection: Rc<Connection>,
    /// The subscription.
    pub subscription: Rc<Subscription>,
    /// What it wants.
    pub patterns: Vec<Pattern>,
}

/// A durable consumer that a subscription reads for; free again when this is dropped.
#[derive(Debug)]
pub struct Reading {
    daemon: Rc<Daemon>,
    name: String,
}

impl Reading {
    /// Takes the consumer; none when another subscription reads for it.
    pub fn begin(daemon: &Rc<Daemon>, name: &str) -> Option<Self> {
        let begun = daemon.bus.consumers.borrow_mut().insert(name.to_string());
        begun.then(|| Self {
            daemon: Rc::clone(daemon),
            name: name.to_string(),
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.daemon.bus.consumers.borrow_mut().remove(&self.name);
    }
}

impl Delivery {
    /// Delivers events for ever, beginning at `from`.
    pub async fn follow(self, from: From) {
        let next = self.daemon.bus.next_place();
        let mut seen = self.daemon.bus.next_seq() - 1;
        // The first event lost and not told yet, and how many of ours.
        let mut lost: Option<(u64, u64)> = None;
        // Events up to `behind` came from the log, whatever their place in the ring.
        let (mut place, mut behind) = match from {
            From::Place(place) => (place, 0),
            From::After(mut seq) => match self.catch_up_from(&mut seq).await {
                Ok(caught_up) => caught_up,
                Err(_) => {
                    // Which of them were ours is not known: all that there may be count.
                    let count = seen.saturating_sub(seq);
                    lost = (count > 0).then_some((seq + 1, count));
                    (next, 0)
                }
            },
        };
        let mut watch = self.daemon.bus.watch();
        loop {
            watch.mark_unchanged();
            match self.daemon.bus.at(place) {
                Found::End => {
                    if watch.changed().await.is_err() {
                        return;
                    }
                }
                Found::Gone { oldest } => {
                    if self.subscription.policy() == Policy::Spill
                        && let Ok(caught_up) = self.catch_up(&mut seen).await
                    {
                        (place, behind) = caught_up;
                        continue;
                    }
                    // Which of them were ours can no longer be known: all count.
                    let (from, count) = lost.unwrap_or((seen + 1, 0));
                    lost = Some((from, count + (oldest - place)));
                    place = oldest;
                }
                Found::Event(event) => {
                    place += 1;
                    seen = seen.max(event.seq);
                    if event.seq > behind && self.wants(&event) {
                        self.deliver_live(&event, &mut lost).await;
                    }
                }
            }
        }
    }

    /// Delivers an event of the ring, and before it what was lost.
    async fn deliver_live(&self, event: &Encoded, lost: &mut Option<(u64, u64)>) {
        if let Some((from, count)) = *lost {
            let gap = self.daemon.bus.gap(from, event.seq, count);
            if self.deliver(&gap).await {
                *lost = None;
            }
        }
        let delivered = lost.is_none() && self.deliver(event).await;
        if !delivered {
            let (from, count) = lost.unwrap_or((event.seq, 0));
            *lost = Some((from, count + 1));
        }
    }

    /// [`Delivery::catch_up`] for one that asked for a number: what the log has removed behind it
    /// is told first. All numbers count, because whose they were is not known any more.
    async fn catch_up_from(&self, after: &mut u64) -> Result<(u64, u64), ErrorInfo> {
        let bus = &self.daemon.bus;
        let asked = bus.log()?.store.read(|log| log.removed_until());
        let asked = asked.map_err(|error| refusal(&error))?.await;
        let removed = asked.map_err(|error| refusal(&error))?;
        if *after > 0 && removed > *after {
            let notice = bus.gap(*after + 1, removed + 1, removed - *after);
            self.deliver_anyway(&notice).await;
        }
        self.catch_up(after).await
    }

    /// Delivers what is in the log behind `after`, and moves it. Gives the place in the ring at
    /// which to go on, and the number up to which everything was delivered.
    async fn catch_up(&self, after: &mut u64) -> Result<(u64, u64), ErrorInfo> {
        let bus = &self.daemon.bus;
        let mut committed = bus.log()?.committed.clone();
        let mut query = self.query(*after);
        loop {
            committed.mark_unchanged();
            let page = ask(bus, query.clone()).await?;
            for event in &page.events {
                self.deliver_stored(event, false).await;
            }
            query.after = page.next.unwrap_or(page.head).max(query.after);
            *after = query.after;
            if page.next.is_some() {
                continue;
            }
            if let Some(place) = bus.place_behind(query.after) {
                return Ok((place, query.after));
            }
            // The ring has moved on, and what fell out of it is about to be committed.
            if committed.changed().await.is_err() {
                let refused = refusal(&StoreError::Closed);
                return Err(refused);
            }
        }
    }

    /// Delivers to a durable consumer for ever: from the log there is, and from the next one when
    /// that has to be opened anew.
    pub async fn consume(self, reading: Reading) {
        let mut logs = self.daemon.bus.logs();
        let mut attached = *logs.borrow_and_update();
        let (mut after, mut told) = (0, None);
        // Where to begin in the next log.
        let mut begin = None;
        loop {
            tokio::select! {
                () = self.room_for_more() => {}
                _ = logs.changed() => {}
            }
            let newest = *logs.borrow();
            if attached != newest {
                // What it had not acknowledged is given to it again.
                let owed = || self.subscription.owe_nothing().unwrap_or(after);
                let from = *begin.get_or_insert_with(owed);
                if self.register(&reading.name, from).await.is_err() {
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                }
                (attached, after, told, begin) = (newest, 0, None, None);
            }
            let (mut committed, fetched) = match self.fetch(&reading.name, after).await {
                Ok(fetched) => fetched,
                Err(error) => {
                    if matches!(error, StoreError::UnknownConsumer { .. }) {
                        attached = 0;
                    }
                    // No log, too many readers, a disk that fails: the cursor stays where it is.
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                }
            };
            if let Some(gap) = fetched.gap
                && told != Some(gap)
            {
                self.tell_gap(gap).await;
                told = Some(gap);
            }
            for delivery in &fetched.deliveries {
                let event = delivery.event();
                if self.deliver_stored(event, delivery.is_replay()).await {
                    self.subscription.owe(event.seq);
                }
                after = event.seq;
            }
            after = after.max(fetched.looked_until);
            if !fetched.more && committed.changed().await.is_err() {
                // The log is gone; there will be another.
                tokio::time::sleep(READ_AGAIN).await;
            }
        }
    }

    /// What the log has for a consumer, and what tells when there is more.
    async fn fetch(
        &self,
        name: &str,
        after: u64,
    ) -> Result<(watch::Receiver<u64>, Fetched), StoreError> {
        let Ok(log) = self.daemon.bus.log() else {
            return Err(StoreError::Closed);
        };
        let mut committed = log.committed.clone();
        committed.mark_unchanged();
        let ticket = log.store.fetch(name, after, PAGE_EVENTS)?;
        drop(log);
        Ok((committed, ticket.await?))
    }

    /// Makes the consumer where the log does not know it.
    async fn register(&self, name: &str, after: u64) -> Result<(), StoreError> {
        let Ok(log) = self.daemon.bus.log() else {
            return Err(StoreError::Closed);
        };
        let patterns = self.patterns.clone();
        let ticket = log.store.register(name, patterns, Start::After(after))?;
        drop(log);
        ticket.await.map(|_| ())
    }

    async fn room_for_more(&self) {
        loop {
            let acknowledged = self.subscription.acknowledged.notified();
            tokio::pin!(acknowledged);
            // Registered before the check, so that one in between is not missed.
            acknowledged.as_mut().enable();
            if self.subscription.owed() < MAX_UNACKNOWLEDGED {
                return;
            }
            acknowledged.await;
        }
    }

    async fn tell_gap(&self, gap: LostEvents) {
        let numbers = gap.to - gap.from + 1;
        let notice = self.daemon.bus.gap(gap.from, gap.to + 1, numbers);
        self.deliver_anyway(&notice).await;
        self.subscription.owe(gap.to);
    }

    /// Delivers what lies in the log behind `after` up to `until`, marked as replay, and says when
    /// that is done, or why it could not go on.
    pub async fn replay(self, after: u64, until: u64) {
        let (mut events, mut damaged) = (0, 0);
        let outcome = self
            .replay_pages(after, until, &mut events, &mut damaged)
            .await;
        let error = outcome.err().map(|error| error.message);
        let replayed = EventReplayed {
            events,
            damaged,
            until_seq: until,
            error,
        };
        let end = self.daemon.bus.notice(&replayed, until);
        self.deliver_anyway(&end).await;
        let name = &self.subscription.name;
        self.connection.subscriptions.borrow_mut().remove(name);
    }

    async fn replay_pages(
        &self,
        after: u64,
        until: u64,
        events: &mut u64,
        damaged: &mut u64,
    ) -> Result<(), ErrorInfo> {
        let mut query = Query {
            until: Some(until),
            ..self.query(after)
        };
        loop {
            let page = ask(&self.daemon.bus, query.clone()).await?;
            *damaged += page.damaged.len() as u64;
            for event in &page.events {
                *events += u64::from(self.deliver_stored(event, true).await);
            }
            match page.next {
                Some(next) => query.after = next,
                None => return Ok(()),
            }
        }
    }

    fn query(&self, after: u64) -> Query {
        Query {
            after,
            patterns: self.patterns.clone(),
            limit: PAGE_EVENTS,
            max_bytes: PAGE_BYTES,
            ..Query::default()
        }
    }

    /// Whether the subscription asks for an event, and its peer may see it.
    fn wants(&self, event: &Encoded) -> bool {
        Pattern::any_matches(&self.patterns, &event.topic, &event.aliases)
            && self.may_see(&event.topic)
    }

    fn may_see(&self, topic: &str) -> bool {
        self.daemon
            .may(&self.connection, Right::TopicSubscribe, topic)
    }

    async fn deliver(&self, event: &Encoded) -> bool {
        let name = &self.subscription.name;
        let Some(length) = event.frame_bytes(name) else {
            return false;
        };
        let make = || event.frame(name).unwrap_or_default();
        self.subscription
            .deliver(&self.connection, length, make)
            .await
    }

    async fn deliver_anyway(&self, event: &Encoded) {
        let name = &self.subscription.name;
        if let Some(length) = event.frame_bytes(name) {
            let make = || event.frame(name).unwrap_or_default();
            self.subscription
                .deliver_waiting(&self.connection, length, make)
                .await;
        }
    }

    /// Delivers an event of the log, if the peer may see it. Says whether it was.
    async fn deliver_stored(&self, event: &kairo_events::Event, replay: bool) -> bool {
        if !self.may_see(&event.topic) {
            return false;
        }
        self.deliver_anyway(&Encoded::stored(event, replay)).await;
        true
    }
}

/// A page of the log.
///
/// # Errors
/// There is none, or what the log says.
pub async fn ask(bus: &EventBus, query: Query) -> Result<Page, ErrorInfo> {
    let asked = bus.log()?.store.query(query);
    let page = match asked {
        Ok(ticket) => ticket.await,
        Err(error) => Err(error),
    };
    page.map_err(|error| refusal(&error))
}
