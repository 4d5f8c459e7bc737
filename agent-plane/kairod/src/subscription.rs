//! Subscriptions: a policy, a credit in bytes, and a task that delivers.
//!
//! Delivery enters a connection's queue only while there is room and credit. With `drop` what
//! finds none is lost and the next delivery says so; with `block` it waits, which holds up this
//! subscription alone. Nothing is buffered per subscription, so memory is bounded by the
//! connection's queue and the bus's ring.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::message::Message;
use kairo_wire::{ErrorCode, ErrorInfo, Gap, Limits, StreamChunk};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::events::Found;
use crate::topics::Pattern;
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
    /// It goes to disk. Not offered yet.
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
            let text =
                "policy \"spill\" is not supported by this kairod; use \"drop\" or \"block\"";
            return Err(ErrorInfo::new(ErrorCode::Unsupported, text).reason("policy"));
        }
        let mut all = connection.subscriptions.borrow_mut();
        if all.len() >= MAX_SUBSCRIPTIONS {
            let text = format!(
                "a connection has at most {MAX_SUBSCRIPTIONS} subscriptions; end one with \
                 event.unsubscribe"
            );
            return Err(ErrorInfo::new(ErrorCode::Limit, text).reason("subscriptions"));
        }
        let number = connection.next_subscription.get();
        connection.next_subscription.set(number + 1);
        let subscription = Rc::new(Self {
            name: format!("s{number}"),
            policy,
            credit: Cell::new(credit),
            task: RefCell::new(None),
            intent,
        });
        all.insert(subscription.name.clone(), Rc::clone(&subscription));
        Ok(subscription)
    }

    /// Whether it belongs to one of `intents`.
    pub fn belongs_to(&self, intents: &BTreeSet<String>) -> bool {
        let intent = self.intent.as_ref();
        intent.is_some_and(|intent| intents.contains(intent))
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

    /// Whether `length` bytes may be delivered now.
    fn may_deliver(&self, connection: &Connection, length: usize) -> bool {
        let credit = self.credit.get().is_none_or(|left| left >= length as u64);
        credit && connection.outgoing.has_room(length)
    }

    /// Delivers a frame, if it may; with `block` once it may. Says whether it was.
    async fn deliver(&self, connection: &Connection, frame: Vec<u8>) -> bool {
        let length = frame.len();
        loop {
            let freed = connection.outgoing.freed.notified();
            tokio::pin!(freed);
            // Registered before the check, so that room made in between is not missed.
            freed.as_mut().enable();
            if self.may_deliver(connection, length) {
                let left = self.credit.get();
                self.credit.set(left.map(|left| left - length as u64));
                connection.outgoing.push(frame);
                return true;
            }
            if self.policy != Policy::Block {
                return false;
            }
            freed.await;
        }
    }
}

/// Delivers the events that `patterns` mean, from now on.
pub async fn deliver_events(
    daemon: Rc<Daemon>,
    connection: Rc<Connection>,
    subscription: Rc<Subscription>,
    patterns: Vec<Pattern>,
    from_seq: u64,
) {
    let mut watch = daemon.bus.watch();
    let mut cursor = from_seq;
    // The first event lost and not told yet, and how many of ours.
    let mut lost: Option<(u64, u64)> = None;
    loop {
        watch.mark_unchanged();
        match daemon.bus.at(cursor) {
            Found::End => {
                if watch.changed().await.is_err() {
                    return;
                }
            }
            Found::Gone { oldest } => {
                // Which of them were ours can no longer be known: all count.
                let (from, count) = lost.unwrap_or((cursor, 0));
                lost = Some((from, count + (oldest - cursor)));
                cursor = oldest;
            }
            Found::Event(event) => {
                cursor += 1;
                let mut names = std::iter::once(&event.topic).chain(&event.aliases);
                if !names.any(|name| patterns.iter().any(|pattern| pattern.matches(name))) {
                    continue;
                }
                if let Some((from, count)) = lost {
                    let gap = daemon.bus.gap(from, event.seq, count);
                    if deliver_event(&connection, &subscription, gap).await {
                        lost = None;
                    }
                }
                let delivered = lost.is_none()
                    && deliver_event(&connection, &subscription, (*event).clone()).await;
                if !delivered {
                    let (from, count) = lost.unwrap_or((event.seq, 0));
                    lost = Some((from, count + 1));
                }
            }
        }
    }
}

async fn deliver_event(
    connection: &Connection,
    subscription: &Subscription,
    mut event: kairo_wire::Event,
) -> bool {
    event.subscription = Some(subscription.name.clone());
    match event.encode(&Limits::default()) {
        Ok(frame) => subscription.deliver(connection, frame).await,
        Err(_) => false,
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
        let sample = {
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
        };
        let Ok(frame) = chunk.encode(&Limits::default()) else {
            return;
        };
        if subscription.deliver(&connection, frame).await {
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
