//! Closing what came from others, beside the event loop.
//!
//! Whoever closes a file last may have to wait: a TCP socket with unsent bytes and `SO_LINGER`
//! keeps its closer for as long as its owner wished, blocking or not. A peer can pass such a
//! descriptor to us, and it is closed by whoever drops it, whoever reads past it without room for
//! it, or whoever closes the connection on which it lies unread. None of these may be the thread
//! that stops robots. So everything of a peer's ends here, on threads that have nothing else to do.
//!
//! As many threads as are stuck, up to [`MAX_THREADS`]; what comes then waits its turn. It is
//! bounded by the descriptors that kairod may have, which is when nobody new is accepted.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Threads that may be stuck at once.
const MAX_THREADS: usize = 64;
/// How long a thread waits for more to do.
const LINGER: Duration = Duration::from_secs(5);
/// Dropping a descriptor needs next to nothing.
const STACK_BYTES: usize = 64 * 1024;

type Thing = Box<dyn Send>;

struct Work {
    things: VecDeque<Thing>,
    threads: usize,
    idle: usize,
}

static WORK: Mutex<Work> = Mutex::new(Work {
    things: VecDeque::new(),
    threads: 0,
    idle: 0,
});
static MORE: Condvar = Condvar::new();

fn work() -> MutexGuard<'static, Work> {
    WORK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Has `thing` dropped elsewhere. Never waits.
pub fn close(thing: impl Send + 'static) {
    let mut work = work();
    work.things.push_back(Box::new(thing));
    if work.idle >= work.things.len() {
        MORE.notify_one();
        return;
    }
    if work.threads < MAX_THREADS {
        let thread = std::thread::Builder::new()
            .name("closer".into())
            .stack_size(STACK_BYTES);
        // Where there is no thread to be had, those there are come to it later.
        work.threads += usize::from(thread.spawn(serve).is_ok());
    }
}

fn serve() {
    let mut work = work();
    loop {
        if let Some(thing) = work.things.pop_front() {
            drop(work);
            drop(thing);
            work = self::work();
            continue;
        }
        work.idle += 1;
        let waited = MORE.wait_timeout(work, LINGER);
        let (again, waited) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        work = again;
        work.idle -= 1;
        if waited.timed_out() && work.things.is_empty() {
            work.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Slow(mpsc::Receiver<()>, mpsc::Sender<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.recv_timeout(Duration::from_secs(30));
            let _ = self.1.send(());
        }
    }

    #[test]
    fn what_is_slow_to_close_holds_up_neither_its_owner_nor_others() {
        let (let_go, held) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        close(Slow(held, tell.clone()));
        let (_, at_once) = mpsc::channel();
        // Its sender is gone, so that it is not slow.
        close(Slow(at_once, tell));
        told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(told.try_recv().is_err(), "the slow one is still held");
        let_go.send(()).unwrap();
        told.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
