//! Requests that may be repeated: the second one with the same key gets the first one's result.
//!
//! A key belongs to the caller's identity, or to its connection where the result does (a claim's
//! epoch is worth nothing on another one). Only a success is kept: a refused request had no effect
//! and may be tried anew under its key. Kept in memory, for [`KEPT_FOR`], at most [`MAX_KEYS`] of a
//! caller and [`MAX_BYTES`] of all; what a restart must not repeat is made unique where it is
//! stored, by its own id.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::{ErrorCode, ErrorInfo, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longest key, bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// How long a result is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(600);
/// Keys of one caller at once.
const MAX_KEYS: usize = 256;
/// Bytes of results of all callers.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Whose key it is, and the key.
type Name = (String, String);
/// What was asked: a key that comes with another request is a mistake of the caller.
type Fingerprint = [u8; 32];

#[derive(Debug)]
enum State {
    /// Under way; rung when it ends.
    Running(Rc<Notify>),
    /// Done, with its encoded result.
    Done(Vec<u8>),
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    state: State,
}

/// The keys.
#[derive(Debug, Default)]
pub struct Keys {
    entries: RefCell<BTreeMap<Name, Entry>>,
    /// Done ones, in the order in which they were done.
    done: RefCell<VecDeque<(Name, Instant)>>,
}

/// What to do with a request that has a key.
#[derive(Debug)]
pub enum Begin {
    /// Do it, and say how it went.
    First(Ticket),
    /// It was done; this was the result.
    Done(Vec<u8>),
    /// It is under way; ask again when this rings.
    Running(Rc<Notify>),
}

/// The right to do what a key stands for. Dropped without [`Ticket::done`], as when the request
/// fails or is cancelled, the key is free again.
#[derive(Debug)]
pub struct Ticket {
    keys: Rc<Keys>,
    name: Name,
    finished: bool,
}

/// The fingerprint of a request.
pub fn fingerprint(method: &str, params: &Value) -> Fingerprint {
    let mut bytes = method.as_bytes().to_vec();
    bytes.push(0);
    // Writing into memory does not fail; a shorter text would only refuse more.
    let _ = rmpv::encode::write_value(&mut bytes, params);
    Sha256::digest(&bytes).into()
}

impl Keys {
    /// Looks a key up, and takes it if it is free.
    ///
    /// # Errors
    /// The key is too long, stands for another request, or the caller has too many.
    pub fn begin(
        self: &Rc<Self>,
        owner: &str,
        key: &str,
        fingerprint: Fingerprint,
    ) -> Result<Begin, ErrorInfo> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let text = format!(
                "idempotency_key has {} bytes, allowed is 1 to {MAX_KEY_BYTES}",
                key.len()
            );
            return Err(ErrorInfo::new(ErrorCode::Limit, text).reason("idempotency_key"));
        }
        self.sweep(Instant::now());
        let name = (owner.to_string(), key.to_string());
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get(&name) {
            if entry.fingerprint != fingerprint {
                let text = "this idempotency_key was used for another request; use a new one";
                return Err(ErrorInfo::new(ErrorCode::Conflict, text).reason("idempotency_key"));
            }
            return Ok(match &entry.state {
                State::Running(ended) => Begin::Running(Rc::clone(ended)),
                State::Done(result) => Begin::Done(result.clone()),
            });
        }
        let first = (owner.to_string(), String::new());
        let mine = entries
            .range(first..)
            .take_while(|(name, _)| name.0 == owner);
        if mine.count() >= MAX_KEYS {
            let text = format!(
                "{MAX_KEYS} idempotency keys of this caller are kept for {} s each; \
                 use them for what must not happen twice only",
                KEPT_FOR.as_secs()
            );
            let error = ErrorInfo::new(ErrorCode::Limit, text).reason("idempotency_keys");
            return Err(error.retry(Some(1000)));
        }
        let state = State::Running(Rc::default());
        entries.insert(name.clone(), Entry { fingerprint, state });
        Ok(Begin::First(Ticket {
            keys: Rc::clone(self),
            name,
            finished: false,
        }))
    }

    /// Forgets what is old, and the oldest while there is too much.
    fn sweep(&self, now: Instant) {
        let mut entries = self.entries.borrow_mut();
        let mut done = self.done.borrow_mut();
        let held = entries.values().map(|entry| match &entry.state {
            State::Running(_) => 0,
            State::Done(result) => result.len(),
        });
        let mut bytes: usize = held.sum();
        while let Some((name, at)) = done.front() {
            if now.duration_since(*at) < KEPT_FOR && bytes <= MAX_BYTES {
                return;
            }
            if let Some(Entry {
                state: State::Done(result),
                ..
            }) = entries.remove(name)
            {
                bytes -= result.len();
            }
            done.pop_front();
        }
    }
}

impl Ticket {
    /// It was done, and this is the result.
    pub fn done(mut self, result: &[u8]) {
        self.finished = true;
        let mut entries = self.keys.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(&self.name) {
            let state = std::mem::replace(&mut entry.state, State::Done(result.to_vec()));
            if let State::Running(ended) = state {
                ended.notify_waiters();
            }
        }
        drop(entries);
        let mut done = self.keys.done.borrow_mut();
        done.push_back((self.name.clone(), Instant::now()));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let freed = self.keys.entries.borrow_mut().remove(&self.name);
        if let Some(Entry {
            state: State::Running(ended),
            ..
        }) = freed
        {
            ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(keys: &Rc<Keys>, owner: &str, key: &str, print: u8) -> Ticket {
        match keys.begin(owner, key, [print; 32]).unwrap() {
            Begin::First(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_that_was_used_gives_the_first_result_to_its_owner_alone() {
        let keys = Rc::new(Keys::default());
        first(&keys, "a", "k", 1).done(b"one");
        assert!(
            matches!(keys.begin("a", "k", [1; 32]), Ok(Begin::Done(result)) if result == b"one")
        );
        assert_eq!(
            keys.begin("a", "k", [2; 32]).unwrap_err().code,
            ErrorCode::Conflict
        );
        first(&keys, "b", "k", 2).done(b"two");
    }

    #[test]
    fn a_request_that_failed_leaves_its_key_free() {
        let keys = Rc::new(Keys::default());
        let ticket = first(&keys, "a", "k", 1);
        assert!(matches!(
            keys.begin("a", "k", [1; 32]),
            Ok(Begin::Running(_))
        ));
        drop(ticket);
        drop(first(&keys, "a", "k", 3));
    }

    #[test]
    fn keys_are_bounded_by_owner_and_by_bytes() {
        let keys = Rc::new(Keys::default());
        for number in 0..MAX_KEYS {
            first(&keys, "a", &number.to_string(), 1).done(b"");
        }
        assert_eq!(
            keys.begin("a", "more", [1; 32]).unwrap_err().code,
            ErrorCode::Limit
        );
        for number in 0..9 {
            first(&keys, "b", &number.to_string(), 1).done(&vec![0; MAX_BYTES / 8]);
        }
        // Room was made by forgetting the oldest: those of `a`.
        drop(first(&keys, "a", "more", 1));
        assert!(
            keys.begin("x", &"k".repeat(MAX_KEY_BYTES + 1), [1; 32])
                .is_err()
        );
    }
}
