//! A ticket: the outcome of something that another thread does, to be awaited or waited for.
//!
//! A ticket is a future that needs no particular runtime, and can be waited for by a thread.
//! Dropping it forgets the outcome, not the work. A completer that is dropped without an outcome
//! (the thread ended) completes with [`StoreError::Closed`], so nobody waits for ever.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::StoreError;

#[derive(Debug)]
struct Slot<T> {
    outcome: Option<Result<T, StoreError>>,
    /// Whether a thread waits: waking nobody would be a system call for each event.
    waited_for: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Shared<T> {
    slot: Mutex<Slot<T>>,
    done: Condvar,
}

impl<T> Shared<T> {
    /// Nothing in here can be half done when a thread panics, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the caller holds.
#[derive(Debug)]
#[must_use = "the outcome says whether it was done"]
pub struct Ticket<T>(Arc<Shared<T>>);

/// What the worker holds.
#[derive(Debug)]
pub(crate) struct Completer<T>(Option<Arc<Shared<T>>>);

/// A ticket and what completes it.
pub(crate) fn ticket<T>() -> (Completer<T>, Ticket<T>) {
    let shared = Arc::new(Shared {
        slot: Mutex::new(Slot {
            outcome: None,
            waited_for: false,
            waker: None,
        }),
        done: Condvar::new(),
    });
    (Completer(Some(Arc::clone(&shared))), Ticket(shared))
}

impl<T> Shared<T> {
    fn put(&self, outcome: Result<T, StoreError>) {
        let mut slot = self.lock();
        slot.outcome = Some(outcome);
        let (waker, waited_for) = (slot.waker.take(), slot.waited_for);
        drop(slot);
        if waited_for {
            self.done.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Completer<T> {
    /// Gives the outcome.
    pub fn complete(mut self, outcome: Result<T, StoreError>) {
        if let Some(shared) = self.0.take() {
            shared.put(outcome);
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.put(Err(StoreError::Closed));
        }
    }
}

impl<T> Ticket<T> {
    /// A ticket whose outcome is known.
    pub(crate) fn ready(outcome: Result<T, StoreError>) -> Self {
        let (completer, ticket) = ticket();
        completer.complete(outcome);
        ticket
    }

    /// Waits for the outcome. Blocks the thread: not for an asynchronous program.
    ///
    /// # Errors
    /// What the work failed with.
    pub fn wait(self) -> Result<T, StoreError> {
        let mut slot = self.0.lock();
        loop {
            if let Some(outcome) = slot.outcome.take() {
                return outcome;
            }
            slot.waited_for = true;
            let woken = self.0.done.wait(slot);
            slot = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the outcome for so long; gives the ticket back when it did not come.
    ///
    /// # Errors
    /// The ticket, when there is no outcome yet.
    pub fn wait_for(self, patience: Duration) -> Result<Result<T, StoreError>, Self> {
        let due = Instant::now() + patience;
        let mut slot = self.0.lock();
        loop {
            if let Some(outcome) = slot.outcome.take() {
                return Ok(outcome);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(slot);
                return Err(self);
            }
            slot.waited_for = true;
            let woken = self.0.done.wait_timeout(slot, left);
            slot = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock();
        match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_reaches_a_thread_that_waits() {
        let (completer, ticket) = ticket();
        let worker = std::thread::spawn(move || completer.complete(Ok(7)));
        assert_eq!(ticket.wait(), Ok(7));
        worker.join().unwrap();
    }

    #[test]
    fn a_worker_that_ends_leaves_nobody_waiting() {
        let (completer, ticket) = ticket::<()>();
        drop(completer);
        assert_eq!(ticket.wait(), Err(StoreError::Closed));
    }

    #[test]
    fn a_ticket_can_be_polled_by_any_runtime() {
        let (completer, ticket) = ticket();
        let mut ticket = Box::pin(ticket);
        let mut context = Context::from_waker(Waker::noop());
        assert!(ticket.as_mut().poll(&mut context).is_pending());
        completer.complete(Ok("done"));
        assert_eq!(ticket.as_mut().poll(&mut context), Poll::Ready(Ok("done")));
    }

    #[test]
    fn impatience_gives_the_ticket_back() {
        let (completer, ticket) = ticket();
        let ticket = ticket.wait_for(Duration::ZERO).unwrap_err();
        completer.complete(Ok(1));
        assert_eq!(ticket.wait_for(Duration::from_secs(60)).unwrap(), Ok(1));
    }
}
