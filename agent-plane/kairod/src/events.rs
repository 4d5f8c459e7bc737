//! The event bus: what was published lately, in memory, in one order.
//!
//! A ring of the newest [`KEPT_EVENTS`]; every subscription reads it at its own pace with a cursor
//! of its own, so publishing never waits and costs the same however many listen. A subscriber that
//! falls off the ring is told what it missed. Nothing here survives a restart.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::SystemTime;

use kairo_wire::{Event, Meta, Value};
use tokio::sync::watch;

use crate::topics;

/// Events that stay readable for slow subscribers. An event takes about 1 KiB.
pub const KEPT_EVENTS: usize = 1024;

/// The bus.
#[derive(Debug)]
pub struct EventBus {
    /// Tells the events of this run from those of another in their ids.
    run: String,
    kept: RefCell<VecDeque<Rc<Event>>>,
    next_seq: Cell<u64>,
    newest: watch::Sender<u64>,
}

/// What lies at a cursor.
#[derive(Debug)]
pub enum Found {
    /// This event; the next one is at the cursor plus one.
    Event(Rc<Event>),
    /// The events from the cursor up to this one are gone.
    Gone {
        /// The oldest one that is kept.
        oldest: u64,
    },
    /// Nothing yet.
    End,
}

impl EventBus {
    /// An empty bus.
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
            next_seq: Cell::new(1),
            newest: watch::Sender::new(0),
        }
    }

    /// Publishes a fact. `cause` is the metadata of the request that led to it.
    pub fn publish(&self, topic: &str, data: Value, cause: Option<&Meta>) {
        let seq = self.next_seq.get();
        self.next_seq.set(seq + 1);
        let event = Rc::new(self.event(topic, data, seq, cause));
        let mut kept = self.kept.borrow_mut();
        if kept.len() == KEPT_EVENTS {
            kept.pop_front();
        }
        kept.push_back(event);
        drop(kept);
        self.newest.send_replace(seq);
    }

    /// The notice that a subscription missed the events `from_seq` up to, not with, `to_seq`.
    pub fn gap(&self, from_seq: u64, to_seq: u64, lost: u64) -> Event {
        let data = map([
            ("from_seq", Value::from(from_seq)),
            ("to_seq", Value::from(to_seq)),
            ("lost", Value::from(lost)),
        ]);
        let mut gap = self.event(topics::EVENT_GAP, data, from_seq, None);
        // The number is that of the first event missed, so the id must not be its id.
        gap.id = format!("{}-gap-{from_seq}", self.run);
        gap
    }

    fn event(&self, topic: &str, data: Value, seq: u64, cause: Option<&Meta>) -> Event {
        let cause = cause.cloned().unwrap_or_default();
        Event {
            id: format!("{}-{seq}", self.run),
            topic: topic.into(),
            source: "kairod".into(),
            specversion: "1.0".into(),
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            data,
            seq,
            aliases: topics::aliases(topic),
            correlation_id: cause.correlation_id,
            causation_id: cause.causation_id,
            traceparent: cause.traceparent,
            subscription: None,
        }
    }

    /// Where a subscription that wants only what comes begins.
    pub fn next_seq(&self) -> u64 {
        self.next_seq.get()
    }

    /// Wakes when something was published.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What lies at `cursor`.
    pub fn at(&self, cursor: u64) -> Found {
        let kept = self.kept.borrow();
        let Some(oldest) = kept.front().map(|event| event.seq) else {
            return Found::End;
        };
        if cursor < oldest {
            return Found::Gone { oldest };
        }
        let index = usize::try_from(cursor - oldest).unwrap_or(usize::MAX);
        kept.get(index)
            .map_or(Found::End, |event| Found::Event(Rc::clone(event)))
    }
}

/// A map with text keys.
pub fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.into_iter();
    Value::Map(entries.map(|(key, value)| (key.into(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_and_old_ones_are_gone() {
        let bus = EventBus::new();
        assert!(matches!(bus.at(1), Found::End));
        for _ in 0..KEPT_EVENTS + 3 {
            bus.publish(topics::READY, Value::Nil, None);
        }
        assert!(matches!(bus.at(1), Found::Gone { oldest: 4 }));
        let Found::Event(event) = bus.at(5) else {
            panic!("event 5 is kept");
        };
        assert_eq!(event.seq, 5);
        assert!(matches!(bus.at(bus.next_seq()), Found::End));
    }

    #[test]
    fn an_event_carries_the_correlation_of_its_cause() {
        let bus = EventBus::new();
        let cause = Meta {
            correlation_id: Some("c1".into()),
            ..Meta::default()
        };
        bus.publish(topics::DEVICE_CLAIMED, Value::Nil, Some(&cause));
        let Found::Event(event) = bus.at(1) else {
            panic!("published");
        };
        assert_eq!(event.correlation_id.as_deref(), Some("c1"));
        assert_eq!(event.aliases, ["kairo.device.claimed"]);
    }
}
