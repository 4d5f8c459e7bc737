//! The way to the writer: a bounded queue, and the numbers that are given out with it.
//!
//! An event gets its number while the queue is locked, so commands lie in the queue in the order
//! of their numbers, and the writer commits them in that order: once number N is in the log, no
//! smaller one can appear any more. Every call returns at once; the lock is held for moments.
//!
//! Numbers come from a block that is reserved on disk before any of it is given out, so a process
//! that starts after a kill never gives one out again.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clocks;
use crate::error::StoreError;
use crate::event::{Appended, NewEvent, Stamp};
use crate::keys::Keyed;
use crate::log::Log;
use crate::ticket::Completer;

/// Events that may wait for the writer.
pub const MAX_WAITING_EVENTS: usize = 16 * 1024;
/// Their size.
pub const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Events for which there is room beyond that when nobody waits for them: facts of the log's owner,
/// which cannot be refused and said again.
pub const RESERVED_EVENTS: usize = 2048;
/// Their size.
pub const RESERVED_BYTES: usize = 4 * 1024 * 1024;
/// Events after which a batch is written at once.
pub const BATCH_EVENTS: usize = 256;
/// Time after which a batch is written, however small.
pub const BATCH_TIME: Duration = Duration::from_millis(5);
/// Most commands in one transaction: bounds how long one takes, and its memory.
const MAX_GROUP: usize = 4096;
/// Numbers reserved at a time. Half a block is always left when the disk fails: eight million
/// volatile events that can still be numbered.
pub const BLOCK: u64 = 1 << 24;
/// How long to wait before another attempt to reserve numbers.
const RESERVE_AGAIN: Duration = Duration::from_secs(1);

/// Says what was committed to whoever asked for a job.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), StoreError>)>;
/// Something that runs inside a transaction of the writer, or learns why there is none.
pub(crate) type Job = Box<dyn FnOnce(Result<&mut Log<'_>, StoreError>) -> Finish + Send>;

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub event: NewEvent,
    pub stamp: Stamp,
    /// The key under which it is published.
    pub keyed: Option<Box<Keyed>>,
    pub done: Option<Completer<Appended>>,
}

pub(crate) enum Command {
    Append(Box<Pending>),
    Run(Job),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Append(pending) => pending.fmt(formatter),
            Self::Run(_) => formatter.write_str("Run"),
        }
    }
}

/// What the writer has to do next.
#[derive(Debug)]
pub(crate) struct Group {
    pub commands: Vec<Command>,
    /// Whether one of them asks for a flush to the disk.
    pub synchronous: bool,
    /// Whether numbers have to be reserved.
    pub reserve: bool,
    /// True when there will be no further group.
    pub last: bool,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<(Command, usize, bool)>,
    bytes: usize,
    /// Commands that ask not to wait for a batch.
    urgent: usize,
    oldest: Option<Instant>,
    closed: bool,
    next_seq: u64,
    reserved_until: u64,
    reserve: bool,
    reserve_tried: Option<Instant>,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    clocks: Clocks,
}

impl Queue {
    /// An empty queue that gives out the numbers from `next_seq` up to `reserved_until`.
    pub fn new(next_seq: u64, reserved_until: u64, clocks: Clocks) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                bytes: 0,
                urgent: 0,
                oldest: None,
                closed: false,
                next_seq,
                reserved_until,
                reserve: false,
                reserve_tried: None,
            }),
            filled: Condvar::new(),
            clocks,
        }
    }

    /// Every change below is whole before anything can panic, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers an event that is not written.
    pub fn number(&self) -> Result<Stamp, StoreError> {
        let mut state = self.lock();
        self.stamp(&mut state)
    }

    /// Numbers an event and puts it into the queue. One that nobody waits for (without `done`) may
    /// take the room that is kept for such.
    pub fn push_event(
        &self,
        event: NewEvent,
        urgent: bool,
        done: Option<Completer<Appended>>,
    ) -> Result<Stamp, StoreError> {
        self.push_keyed(event, urgent, None, done)
    }

    /// The same, under a key.
    pub fn push_keyed(
        &self,
        event: NewEvent,
        urgent: bool,
        keyed: Option<Box<Keyed>>,
        done: Option<Completer<Appended>>,
    ) -> Result<Stamp, StoreError> {
        let size = event.size_bytes();
        let mut state = self.lock();
        state.admit(size, done.is_none())?;
        let stamp = self.stamp(&mut state)?;
        let pending = Box::new(Pending {
            event,
            stamp,
            keyed,
            done,
        });
        self.push(state, Command::Append(pending), size, urgent);
        Ok(stamp)
    }

    /// Puts a job into the queue.
    pub fn push_job(&self, job: Job, urgent: bool) -> Result<(), StoreError> {
        let state = self.lock();
        state.admit(0, false)?;
        self.push(state, Command::Run(job), 0, urgent);
        Ok(())
    }

    fn push(&self, mut state: MutexGuard<'_, State>, command: Command, size: usize, urgent: bool) {
        let was_empty = state.waiting.is_empty();
        if was_empty {
            state.oldest = Some(Instant::now());
        }
        state.waiting.push_back((command, size, urgent));
        state.bytes += size;
        state.urgent += usize::from(urgent);
        // The writer sleeps until there is a first one, a whole batch, or somebody in a hurry.
        let wake = was_empty || urgent || state.waiting.len() == BATCH_EVENTS;
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    fn stamp(&self, state: &mut State) -> Result<Stamp, StoreError> {
        if state.closed {
            return Err(StoreError::Closed);
        }
        let left = (state.reserved_until + 1).saturating_sub(state.next_seq);
        let may_try = |tried: Option<Instant>| tried.is_none_or(|at| at.elapsed() > RESERVE_AGAIN);
        if left < BLOCK / 2 && !state.reserve && may_try(state.reserve_tried) {
            state.reserve = true;
            state.reserve_tried = Some(Instant::now());
            self.filled.notify_one();
        }
        if left == 0 {
            return Err(StoreError::NoNumbers);
        }
        let seq = state.next_seq;
        state.next_seq += 1;
        Ok(Stamp {
            seq,
            time_ns: (self.clocks.wall_ns)(),
            monotonic_ns: (self.clocks.monotonic_ns)(),
        })
    }

    /// Waits for the next group, at most until `wake_at`.
    pub fn next_group(&self, wake_at: Option<Instant>) -> Group {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let batch_due = state.oldest.map(|oldest| oldest + BATCH_TIME);
            let due = state.urgent > 0
                || state.waiting.len() >= BATCH_EVENTS
                || batch_due.is_some_and(|due| due <= now)
                || wake_at.is_some_and(|at| at <= now);
            if due || state.closed || state.reserve {
                return state.take_group();
            }
            let until = [batch_due, wake_at].into_iter().flatten().min();
            state = match until {
                Some(until) => {
                    let waited = self.filled.wait_timeout(state, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.filled.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Numbers up to this one may be given out.
    pub fn reserved(&self, until: u64) {
        self.lock().reserved_until = until;
    }

    /// The number that comes next.
    pub fn next_seq(&self) -> u64 {
        self.lock().next_seq
    }

    /// Events that wait, and their size.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.bytes)
    }

    /// Takes nothing more; what waits is still written.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }
}

impl State {
    fn admit(&self, size: usize, posted: bool) -> Result<(), StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let (mut events, mut bytes) = (MAX_WAITING_EVENTS, MAX_WAITING_BYTES);
        if posted {
            (events, bytes) = (events + RESERVED_EVENTS, bytes + RESERVED_BYTES);
        }
        let full =
            self.waiting.len() >= events || (self.bytes + size > bytes && !self.waiting.is_empty());
        if full {
            return Err(StoreError::Full {
                events: self.waiting.len(),
                bytes: self.bytes,
            });
        }
        Ok(())
    }

    fn take_group(&mut self) -> Group {
        let count = self.waiting.len().min(MAX_GROUP);
        let mut synchronous = false;
        let mut commands = Vec::with_capacity(count);
        for (command, size, urgent) in self.waiting.drain(..count) {
            self.bytes -= size;
            self.urgent -= usize::from(urgent);
            synchronous |= urgent;
            commands.push(command);
        }
        // What is left came later than now; it has its own time to wait.
        self.oldest = (!self.waiting.is_empty()).then(Instant::now);
        Group {
            commands,
            synchronous,
            reserve: std::mem::take(&mut self.reserve),
            last: self.closed && self.waiting.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Class;
    use crate::ticket::ticket;

    fn queue() -> Queue {
        Queue::new(1, BLOCK, Clocks::default())
    }

    fn event() -> NewEvent {
        NewEvent::new("a.b", "test", vec![])
    }

    #[test]
    fn a_full_queue_refuses_by_name_and_gives_no_number() {
        let queue = queue();
        for _ in 0..MAX_WAITING_EVENTS {
            queue.push_event(event(), false, Some(ticket().0)).unwrap();
        }
        let before = queue.next_seq();
        let refused = queue
            .push_event(event(), false, Some(ticket().0))
            .unwrap_err();
        assert!(matches!(refused, StoreError::Full { events, .. } if events == MAX_WAITING_EVENTS));
        assert_eq!(queue.next_seq(), before);
        // Volatile events do not pass through it.
        assert_eq!(queue.number().unwrap().seq, before);
    }

    #[test]
    fn the_size_of_what_waits_is_bounded_too() {
        let queue = queue();
        let big = || NewEvent::new("a", "test", vec![0; crate::event::MAX_DATA_BYTES]);
        let taken = std::iter::repeat_with(|| queue.push_event(big(), false, Some(ticket().0)))
            .take(64)
            .take_while(Result::is_ok)
            .count();
        assert!((30..=32).contains(&taken), "{taken}");
        assert!(queue.waiting().1 <= MAX_WAITING_BYTES);
    }

    #[test]
    fn a_queue_that_others_filled_takes_what_the_owner_of_the_log_posts() {
        let queue = queue();
        while queue.push_event(event(), false, Some(ticket().0)).is_ok() {}
        for _ in 0..RESERVED_EVENTS {
            queue.push_event(event(), false, None).unwrap();
        }
        let refused = queue.push_event(event(), false, None).unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }));

        let queue = self::queue();
        let big = || NewEvent::new("a", "test", vec![0; crate::event::MAX_DATA_BYTES]);
        while queue.push_event(big(), false, Some(ticket().0)).is_ok() {}
        queue.push_event(big(), false, None).unwrap();
        assert!(queue.waiting().1 <= MAX_WAITING_BYTES + RESERVED_BYTES);
    }

    #[test]
    fn commands_come_out_in_the_order_of_their_numbers() {
        let queue = queue();
        for index in 0..300 {
            let urgent = index % 7 == 0;
            let event = event().class(Class::Batched);
            queue.push_event(event, urgent, None).unwrap();
        }
        queue.close();
        let group = queue.next_group(None);
        assert!(group.last && group.synchronous);
        let numbers: Vec<u64> = group
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::Append(pending) => Some(pending.stamp.seq),
                Command::Run(_) => None,
            })
            .collect();
        assert_eq!(numbers, (1..=300).collect::<Vec<u64>>());
    }

    #[test]
    fn numbers_that_are_not_reserved_are_not_given_out() {
        let queue = Queue::new(5, 6, Clocks::default());
        assert_eq!(queue.number().unwrap().seq, 5);
        assert_eq!(queue.number().unwrap().seq, 6);
        assert_eq!(queue.number(), Err(StoreError::NoNumbers));
        assert!(queue.next_group(None).reserve);
        queue.reserved(7);
        assert_eq!(queue.number().unwrap().seq, 7);
    }
}
