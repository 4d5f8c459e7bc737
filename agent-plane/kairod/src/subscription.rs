//! Subscriptions: a policy, a credit in bytes, and a task that delivers.
//!
//! Delivery enters a connection's queue only while there is room and credit. With `drop` what
//! finds none is lost and the next delivery says so; with `block` and `spill` it waits, which holds
//! up this subscription alone ([`crate::delivery`] delivers events). Nothing is buffered per
//! subscription but a page of the log, so memory is bounded by the connection's queue and the
//! bus's ring.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::message::Message;
use kairo_wire::{ErrorInfo, Gap, Limits, StreamChunk};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::outgoing::Item;
use crate::permission::Right;
use crate::reasons::Reason;
use crate::views::Status;

/// Subscriptions of one connection.
const MAX_SUBSCRIPTIONS: usize = 64;

/// What happens when there is no room or no credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It is lost, and the next delivery says what was.
    #[default]
    Drop,
    /// It waits. Samples are then made less often; events wait in the bus's ring.
    Block,
    /// It waits, and what falls out of the bus's ring meanwhile is read from the event log. Events
    /// only.
    Spill,
}

/// One subscription.
#[derive(Debug)]
pub struct Subscription {
    /// Its name within the connection.
    pub name: String,
    policy: Policy,
    /// Bytes it may still deliver; none when the client did not ask for credit.
    credit: Cell<Option<u64>>,
    task: RefCell<Option<AbortHandle>>,
    /// The intent that it belongs to.
    intent: Option<String>,
    /// The durable consumer that it reads for, as the log knows it.
    pub consumer: Option<String>,
    /// Numbers delivered to that consumer and not acknowledged, in order.
    unacknowledged: RefCell<VecDeque<u64>>,
    /// Rung by an acknowledgement.
    pub acknowledged: Notify,
}

impl Subscription {
    /// Registers a subscription of `connection`.
    pub fn register(
        connection: &Connection,
        policy: Policy,
        credit: Option<u64>,
        intent: Option<String>,
    ) -> Result<Rc<Self>, ErrorInfo> {
        if policy == Policy::Spill {
            let text = "policy \"spill\" is for events only; use \"drop\" or \"block\"";
            return Err(Reason::Policy.error(text));
        }
        Self::register_events(connection, policy, credit, intent, None)
    }

    /// Registers a subscription to events, maybe for a durable consumer.
    pub fn register_events(
        connection: &Connection,
        policy: Policy,
        credit: Option<u64>,
        intent: Option<String>,
        consumer: Option<String>,
    ) -> Result<Rc<Self>, ErrorInfo> {
        let mut all = connection.subscriptions.borrow_mut();
        if all.len() >= MAX_SUBSCRIPTIONS {
            let text = format!(
                "a connection has at most {MAX_SUBSCRIPTIONS} subscriptions; end one with \
                 event.unsubscribe"
            );
            return Err(Reason::Subscriptions.error(text));
        }
        let number = connection.next_subscription.get();
        connection.next_subscription.set(number + 1);
        let subscription = Rc::new(Self {
            name: format!("s{number}"),
            policy,
            credit: Cell::new(credit),
            task: RefCell::new(None),
            intent,
            consumer,
            unacknowledged: RefCell::default(),
            acknowledged: Notify::new(),
        });
        all.insert(subscription.name.clone(), Rc::clone(&subscription));
        Ok(subscription)
    }

    /// Whether it belongs to one of `intents`.
    pub fn belongs_to(&self, intents: &BTreeSet<String>) -> bool {
        let intent = self.intent.as_ref();
        intent.is_some_and(|intent| intents.contains(intent))
    }

    /// Remembers that a consumer was given event `seq`.
    pub fn owe(&self, seq: u64) {
        self.unacknowledged.borrow_mut().push_back(seq);
    }

    /// Forgets what the consumer was given: it will be given that again. Says behind which number
    /// it has acknowledged nothing, if it had been given anything.
    pub fn owe_nothing(&self) -> Option<u64> {
        let owed = std::mem::take(&mut *self.unacknowledged.borrow_mut());
        owed.front().map(|first| first.saturating_sub(1))
    }

    /// Events that the consumer was given and has not acknowledged.
    pub fn owed(&self) -> usize {
        self.unacknowledged.borrow().len()
    }

    /// The consumer acknowledged everything up to `seq`.
    pub fn settle(&self, seq: u64) {
        let mut owed = self.unacknowledged.borrow_mut();
        while owed.front().is_some_and(|first| *first <= seq) {
            owed.pop_front();
        }
        drop(owed);
        self.acknowledged.notify_waiters();
    }

    /// What happens when the reader is slow.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Starts delivering.
    pub fn run(&self, connection: &Connection, task: impl Future<Output = ()> + 'static) {
        *self.task.borrow_mut() = Some(connection.spawn(task));
    }

    /// Stops delivering.
    pub fn stop(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }

    /// Adds credit. Gives what there is now; none when the subscription has no credit to count.
    pub fn grant(&self, connection: &Connection, bytes: u64) -> Option<u64> {
        let now = self.credit.get()?.saturating_add(bytes);
        self.credit.set(Some(now));
        connection.outgoing.freed.notify_waiters();
        Some(now)
    }

    /// Bytes that it may still deliver; none when it does not count credit.
    pub fn credit(&self) -> Option<u64> {
        self.credit.get()
    }

    /// Whether `length` bytes may be delivered now.
    fn may_deliver(&self, connection: &Connection, length: usize) -> bool {
        let credit = self.credit.get().is_none_or(|left| left >= length as u64);
        credit && connection.outgoing.has_room(length)
    }

    /// Delivers a frame of `length` bytes, if it may; with `block` once it may. It is made only
    /// then. Says whether it was.
    pub async fn deliver<I: Into<Item>>(
        &self,
        connection: &Connection,
        length: usize,
        make: impl FnOnce() -> I,
    ) -> bool {
        let wait = self.policy != Policy::Drop;
        self.deliver_or_wait(connection, length, make, wait).await
    }

    /// Delivers a frame once it may, whatever the policy: what is read from a disk can wait there.
    pub async fn deliver_waiting(
        &self,
        connection: &Connection,
        length: usize,
        make: impl FnOnce() -> Vec<u8>,
    ) {
        self.deliver_or_wait(connection, length, make, true).await;
    }

    async fn deliver_or_wait<I: Into<Item>>(
        &self,
        connection: &Connection,
        length: usize,
        make: impl FnOnce() -> I,
        wait: bool,
    ) -> bool {
        loop {
            let freed = connection.outgoing.freed.notified();
            tokio::pin!(freed);
            // Registered before the check, so that room made in between is not missed.
            freed.as_mut().enable();
            if self.may_deliver(connection, length) {
                let left = self.credit.get();
                self.credit.set(left.map(|left| left - length as u64));
                connection.outgoing.push(make());
                return true;
            }
            if !wait {
                return false;
            }
            freed.await;
        }
    }
}

/// Streams the newest state of a device, `period` apart, while it changes.
pub async fn deliver_states(
    daemon: Rc<Daemon>,
    connection: Rc<Connection>,
    subscription: Rc<Subscription>,
    device: String,
    period: Duration,
) {
    let stream = format!("device/{device}/state");
    let mut interval = tokio::time::interval(period);
    // A late sample is made once, not once for each period missed: only the newest state counts.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent: Option<(Status, u64)> = None;
    let (mut seq, mut offset) = (0_u64, 0_u64);
    let mut lost_from: Option<u64> = None;
    loop {
        interval.tick().await;
        // A right that was taken away counts at once.
        let may_read = daemon.may(&connection, Right::DeviceRead, &device);
        let sample = if !may_read {
            None
        } else {
            daemon.plane.borrow_mut().look();
            let plane = daemon.plane.borrow();
            let found = plane.devices().iter().find(|known| known.id() == device);
            found.map(crate::device::Device::sample)
        };
        let mark = sample.as_ref().map(|sample| (sample.status, sample.tick));
        if mark.is_some() && mark == sent {
            continue;
        }
        let end = sample.is_none();
        let data = match &sample {
            Some(sample) => rmp_serde::to_vec_named(sample).unwrap_or_default(),
            None => Vec::new(),
        };
        let length = data.len() as u64;
        let chunk = StreamChunk {
            subscription: subscription.name.clone(),
            stream: stream.clone(),
            seq,
            offset,
            data,
            end,
            gap: lost_from.map(|from| Gap { from, to: offset }),
            ..StreamChunk::default()
        };
        let Ok(frame) = chunk.encode(&Limits::default()) else {
            return;
        };
        let (bytes, make) = (frame.len(), || frame);
        if subscription.deliver(&connection, bytes, make).await {
            lost_from = None;
        } else {
            lost_from = lost_from.or(Some(offset));
        }
        if end {
            // The robot has no such device any more.
            connection
                .subscriptions
                .borrow_mut()
                .remove(&subscription.name);
            return;
        }
        (seq, offset, sent) = (seq + 1, offset + length, mark);
    }
}
