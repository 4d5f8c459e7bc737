//! What can be asked of the log, and the bounded pages it answers with.

use crate::consumer::LostEvents;
use crate::event::Event;
use crate::topic::Pattern;

/// Most events in a page.
pub const MAX_PAGE_EVENTS: usize = 4096;
/// Size after which a page ends at the latest.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Rows that one page may look at: a filter that nothing passes costs no more than this.
pub const MAX_PAGE_ROWS: usize = 64 * 1024;

/// Which events, from where on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Only events with a greater number.
    pub after: u64,
    /// Only events up to this number.
    pub until: Option<u64>,
    /// Only topics that one of these means; all topics when there is none.
    pub patterns: Vec<Pattern>,
    /// Only this stream.
    pub stream: Option<String>,
    /// Only this correlation.
    pub correlation_id: Option<String>,
    /// Only from this wall time on, ns since 1970.
    pub since_ns: Option<i64>,
    /// Only before this wall time.
    pub before_ns: Option<i64>,
    /// Most events in the page; [`MAX_PAGE_EVENTS`] at most.
    pub limit: usize,
    /// Size after which the page ends; [`MAX_PAGE_BYTES`] at most. One event is always in it.
    pub max_bytes: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            after: 0,
            until: None,
            patterns: Vec::new(),
            stream: None,
            correlation_id: None,
            since_ns: None,
            before_ns: None,
            limit: MAX_PAGE_EVENTS,
            max_bytes: MAX_PAGE_BYTES,
        }
    }
}

/// Some of the events that a query means, in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The events.
    pub events: Vec<Event>,
    /// What `after` has to be for the next page; none when this was the last. A page may be empty
    /// and not the last.
    pub next: Option<u64>,
    /// The log's newest number when the page was read: everything up to it was looked at when
    /// `next` is none.
    pub head: u64,
    /// Events whose rows are damaged, and therefore not in the page.
    pub damaged: Vec<u64>,
}

/// An event on its way to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    event: Event,
    replay: bool,
}

impl Delivery {
    /// A first or repeated delivery.
    pub(crate) const fn of(event: Event) -> Self {
        Self {
            event,
            replay: false,
        }
    }

    /// A look into the past: whoever gets it must not act on it, and
    /// [`crate::Store::effect`] does not.
    pub const fn replayed(event: Event) -> Self {
        Self {
            event,
            replay: true,
        }
    }

    /// The event.
    pub const fn event(&self) -> &Event {
        &self.event
    }

    /// Whether it is replayed.
    pub const fn is_replay(&self) -> bool {
        self.replay
    }
}

/// What a durable consumer gets next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Events that it has not acknowledged, in order.
    pub deliveries: Vec<Delivery>,
    /// What it lost, until it acknowledges the end of it.
    pub gap: Option<LostEvents>,
    /// What was looked at: the `after` of the next fetch.
    pub looked_until: u64,
    /// Whether there may be more behind that now.
    pub more: bool,
    /// Events whose rows are damaged.
    pub damaged: Vec<u64>,
}
