//! What the server knows of loops and devices, and the numbering of leases. Ordinary threads only.

use std::collections::VecDeque;

use nix::time::{ClockId, clock_gettime};

use crate::order::{Event, Order};

/// A device as the server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRoute {
    /// Index of its loop.
    pub control_loop: usize,
    /// Its seat in that loop.
    pub seat: usize,
    /// Whether it is there, as its loop last said.
    pub present: bool,
    /// The lease that is in force, or ending.
    pub lease_epoch: Option<u64>,
    /// Whether that lease was told to end; its loop confirms at its next tick.
    pub ending: bool,
    /// The number of a request for a lease that came meanwhile, and is answered when it has ended.
    pub waiting: Option<u64>,
    /// Whether the agent plane that holds that lease is gone, so that nobody hears of its end.
    pub orphaned: bool,
}

/// The server's ends towards one loop.
#[derive(Debug)]
pub struct LoopPort {
    orders: rtrb::Producer<Order>,
    events: rtrb::Consumer<Event>,
    backlog: VecDeque<Order>,
}

impl LoopPort {
    /// The ends towards one loop.
    pub fn new(orders: rtrb::Producer<Order>, events: rtrb::Consumer<Event>) -> Self {
        Self {
            orders,
            events,
            backlog: VecDeque::new(),
        }
    }

    /// Sends `order` after those before it, as soon as the loop has room. Bounded, because nobody
    /// is welcomed while there is a backlog, and one connection makes a few orders a device.
    pub(super) fn send(&mut self, order: Order) {
        self.backlog.push_back(order);
        self.flush();
    }

    /// Sends what the loop has room for.
    pub(super) fn flush(&mut self) {
        while self.orders.slots() > 0
            && let Some(order) = self.backlog.pop_front()
        {
            // There is a slot, and this is the only producer.
            let _ = self.orders.push(order);
        }
    }

    /// Whether orders wait for room.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Drops every event. Replay, where no server is.
    pub fn discard_events(&mut self) {
        while self.take_event().is_some() {}
    }

    /// The oldest event not taken yet.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        self.events.pop().ok()
    }
}

/// Numbers leases so that every number is larger than all before, across restarts of kairo-rt too.
#[derive(Debug)]
pub struct EpochCounter {
    newest: u64,
}

impl EpochCounter {
    /// Starts at the nanoseconds since boot: a kairo-rt before this one on the same boot gave away
    /// far fewer numbers than nanoseconds passed. Across boots no lease can survive.
    pub fn since_boot() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(1, |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000) + u64::try_from(time.tv_nsec()).unwrap_or(0)
        });
        Self { newest: now }
    }

    /// The next number, never zero.
    pub(super) fn next(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_grow_within_a_run_and_across_restarts() {
        let mut first = EpochCounter::since_boot();
        let given: Vec<u64> = (0..100).map(|_| first.next()).collect();
        assert!(given.is_sorted_by(|one, other| one < other) && given[0] > 0);
        std::thread::sleep(std::time::Duration::from_millis(1));
        let mut second = EpochCounter::since_boot();
        assert!(second.next() > given[99]);
    }
}
