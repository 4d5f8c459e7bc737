//! Requests that may be repeated: the second one with the same key gets the first one's result.
//!
//! A key belongs to the caller's identity, or to its connection where the result does (a claim's
//! epoch is worth nothing on another one) and goes with it. Only a success is kept: a refused
//! request had no effect and may be tried anew under its key. Kept in memory for [`KEPT_FOR`], of
//! each caller at most [`MAX_KEYS`] and [`MAX_BYTES`]: one caller's keys never cost another's. What
//! a restart must not repeat is made unique where it is stored, by its own id.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::{ErrorInfo, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::reasons::Reason;

/// Longest key, bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// How long a result is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(600);
/// Keys of one caller at once.
const MAX_KEYS: usize = 128;
/// Bytes of results of one caller; the newest is kept whatever it weighs.
const MAX_BYTES: usize = 64 * 1024;
/// Callers that have keys. Connections are fewer, and identities are made by operators.
const MAX_OWNERS: usize = 1024;

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

/// The keys of one caller.
#[derive(Debug, Default)]
struct Owner {
    entries: BTreeMap<String, Entry>,
    /// Done ones, in the order in which they were done.
    done: VecDeque<(String, Instant)>,
    /// Bytes of their results.
    bytes: usize,
}

impl Owner {
    /// Forgets what is old, and the oldest while there is too much; never the newest.
    fn sweep(&mut self, now: Instant) {
        while let Some((key, at)) = self.done.front() {
            let old = now.duration_since(*at) >= KEPT_FOR;
            if !old && (self.bytes <= MAX_BYTES || self.done.len() <= 1) {
                return;
            }
            if let Some(Entry {
                state: State::Done(result),
                ..
            }) = self.entries.remove(key)
            {
                self.bytes -= result.len();
            }
            self.done.pop_front();
        }
    }
}

/// The keys.
#[derive(Debug, Default)]
pub struct Keys {
    owners: RefCell<BTreeMap<String, Owner>>,
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
    owner: String,
    key: String,
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
            return Err(Reason::IdempotencyKeyLength.error(text));
        }
        let mut owners = self.owners.borrow_mut();
        if !owners.contains_key(owner) && owners.len() >= MAX_OWNERS {
            let now = Instant::now();
            owners.retain(|_, other| {
                other.sweep(now);
                !other.entries.is_empty()
            });
            if owners.len() >= MAX_OWNERS {
                let text = "too many callers use idempotency keys; try again later";
                return Err(Reason::IdempotencyKeys.error_retried(text, 1000));
            }
        }
        let own = owners.entry(owner.to_string()).or_default();
        own.sweep(Instant::now());
        if let Some(entry) = own.entries.get(key) {
            if entry.fingerprint != fingerprint {
                let text = "this idempotency_key was used for another request; use a new one";
                return Err(Reason::IdempotencyKeyReused.error(text));
            }
            return Ok(match &entry.state {
                State::Running(ended) => Begin::Running(Rc::clone(ended)),
                State::Done(result) => Begin::Done(result.clone()),
            });
        }
        if own.entries.len() >= MAX_KEYS {
            let text = format!(
                "{MAX_KEYS} idempotency keys of this caller are kept for {} s each; \
                 use them for what must not happen twice only",
                KEPT_FOR.as_secs()
            );
            return Err(Reason::IdempotencyKeys.error_retried(text, 1000));
        }
        let state = State::Running(Rc::default());
        let entry = Entry { fingerprint, state };
        own.entries.insert(key.to_string(), entry);
        Ok(Begin::First(Ticket {
            keys: Rc::clone(self),
            owner: owner.to_string(),
            key: key.to_string(),
            finished: false,
        }))
    }

    /// A caller is gone for good, and its keys with it.
    pub fn forget(&self, owner: &str) {
        self.owners.borrow_mut().remove(owner);
    }
}

/// The owner of keys that go with a connection.
pub fn of_connection(number: u64) -> String {
    format!("connection {number}")
}

impl Ticket {
    /// It was done, and this is the result.
    pub fn done(mut self, result: &[u8]) {
        self.finished = true;
        let mut owners = self.keys.owners.borrow_mut();
        let Some(owner) = owners.get_mut(&self.owner) else {
            return; // Its connection is gone.
        };
        if let Some(entry) = owner.entries.get_mut(&self.key) {
            let state = std::mem::replace(&mut entry.state, State::Done(result.to_vec()));
            owner.bytes += result.len();
            owner.done.push_back((self.key.clone(), Instant::now()));
            if let State::Running(ended) = state {
                ended.notify_waiters();
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut owners = self.keys.owners.borrow_mut();
        let Some(owner) = owners.get_mut(&self.owner) else {
            return;
        };
        if let Some(Entry {
            state: State::Running(ended),
            ..
        }) = owner.entries.remove(&self.key)
        {
            ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use kairo_wire::ErrorCode;

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
    fn keys_are_bounded_and_one_callers_never_cost_anothers() {
        let keys = Rc::new(Keys::default());
        first(&keys, "victim", "k", 1).done(b"kept");
        for number in 0..MAX_KEYS {
            first(&keys, "a", &number.to_string(), 1).done(b"");
        }
        let refused = keys.begin("a", "more", [1; 32]).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Limit);
        for number in 0..20 {
            first(&keys, "b", &number.to_string(), 1).done(&vec![0; MAX_BYTES / 8]);
        }
        // Room was made by forgetting the oldest of the same caller.
        drop(first(&keys, "b", "0", 2));
        let kept = keys.begin("victim", "k", [1; 32]);
        assert!(matches!(kept, Ok(Begin::Done(result)) if result == b"kept"));
        keys.forget("a");
        drop(first(&keys, "a", "more", 1));
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(keys.begin("x", &long, [1; 32]).is_err());
    }

    #[test]
    fn a_result_however_long_is_kept_until_the_next() {
        let keys = Rc::new(Keys::default());
        first(&keys, "a", "long", 1).done(&vec![7; MAX_BYTES * 2]);
        assert!(matches!(
            keys.begin("a", "long", [1; 32]),
            Ok(Begin::Done(_))
        ));
    }
}
