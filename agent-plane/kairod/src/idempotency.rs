//! Requests that may be repeated: the second one with the same key gets the first one's result.
//!
//! A key belongs to the caller's identity, or to its connection where the result does (a claim's
//! epoch is worth nothing on another one) and goes with it. Only a success is kept: a refused
//! request had no effect and may be tried anew under its key. One that was given up half-way, or
//! that a killed kairod had begun, leaves its key in a third state: nobody knows, and that is what
//! is answered ([`outcome_unknown`]), because doing it again could be doing it twice.
//!
//! This is the memory, and decides; [`crate::once`] writes what belongs to an identity into the
//! event log, where the next kairod finds it. Kept for [`KEPT_FOR`], of each caller at most
//! [`MAX_KEYS`] and [`MAX_BYTES`]: one caller's keys never cost another's.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kairo_events::Kept;
use kairo_wire::{ErrorCode, ErrorInfo, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::events::{EventBus, time_text};
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
pub type Fingerprint = [u8; 32];

#[derive(Debug)]
enum State {
    /// Under way; rung when it ends.
    Running(Rc<Notify>),
    /// Done, with its encoded result.
    Done(Vec<u8>),
    /// Begun, and nobody knows how it went.
    Unknown {
        /// The method that was asked for.
        method: String,
        /// When, ns since 1970.
        began_ns: i64,
    },
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
    /// Those that are not under way, in the order in which they came to be so.
    ended: VecDeque<(String, Instant)>,
    /// Bytes of their results.
    bytes: usize,
}

impl Owner {
    /// Forgets what is old, and the oldest while there is too much; never the newest. Gives what
    /// was forgotten.
    fn sweep(&mut self, now: Instant) -> Vec<String> {
        let mut forgotten = Vec::new();
        while let Some((key, at)) = self.ended.front() {
            let old = now.duration_since(*at) >= KEPT_FOR;
            if !old && (self.bytes <= MAX_BYTES || self.ended.len() <= 1) {
                break;
            }
            if let Some(Entry {
                state: State::Done(result),
                ..
            }) = self.entries.remove(key)
            {
                self.bytes -= result.len();
            }
            forgotten.extend(self.ended.pop_front().map(|(key, _)| key));
        }
        forgotten
    }

    /// A key is under way no more.
    fn ended(&mut self, key: &str, state: State, at: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let State::Done(result) = &state {
            self.bytes += result.len();
        }
        let before = std::mem::replace(&mut entry.state, state);
        self.ended.push_back((key.to_string(), at));
        if let State::Running(ended) = before {
            ended.notify_waiters();
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

/// The right to do what a key stands for. Dropped before it was [`Ticket::begun`], the key is free
/// again; dropped after that without a word, nobody knows how it went.
#[derive(Debug)]
pub struct Ticket {
    keys: Rc<Keys>,
    owner: String,
    key: String,
    /// The method, and when it was begun, once it is.
    begun: RefCell<Option<(String, i64)>>,
    /// How it went was said.
    settled: Cell<bool>,
    /// Keys of the same caller that were forgotten to make room.
    forgotten: RefCell<Vec<String>>,
    /// Where the key is written, if it is.
    written: RefCell<Option<Rc<EventBus>>>,
}

/// The fingerprint of a request.
pub fn fingerprint(method: &str, params: &Value) -> Fingerprint {
    let mut bytes = method.as_bytes().to_vec();
    bytes.push(0);
    // Writing into memory does not fail; a shorter text would only refuse more.
    let _ = rmpv::encode::write_value(&mut bytes, params);
    Sha256::digest(&bytes).into()
}

/// The answer where doing it again could be doing it twice.
pub fn outcome_unknown(method: &str, began_ns: i64) -> ErrorInfo {
    let look = match method {
        "event.publish" => "event.query",
        "intent.begin" => "intent.list",
        "permission.grant" | "permission.revoke" => "permission.list",
        _ => "its effect",
    };
    let began = time_text(began_ns);
    let text = format!(
        "{method} was begun under this idempotency_key at {began} and was interrupted before it \
         was known how it went; look at {look} whether it took effect, and if not, send it under \
         a new key"
    );
    let reason = Reason::OutcomeUnknown {
        method: method.to_string(),
        began,
        look: look.to_string(),
    };
    reason.error(text)
}

impl Keys {
    /// Looks a key up, and takes it if it is free.
    ///
    /// # Errors
    /// The key is too long, stands for another request, the caller has too many, or nobody knows
    /// how it went.
    pub fn begin(
        self: &Rc<Self>,
        owner: &str,
        key: &str,
        fingerprint: Fingerprint,
    ) -> Result<Begin, ErrorInfo> {
        check_length(key)?;
        let mut owners = self.owners.borrow_mut();
        make_room(&mut owners, owner)?;
        let own = owners.entry(owner.to_string()).or_default();
        let forgotten = own.sweep(Instant::now());
        if let Some(entry) = own.entries.get(key) {
            if entry.fingerprint != fingerprint {
                let text = "this idempotency_key was used for another request; use a new one";
                return Err(Reason::IdempotencyKeyReused.error(text));
            }
            return match &entry.state {
                State::Running(ended) => Ok(Begin::Running(Rc::clone(ended))),
                State::Done(result) => Ok(Begin::Done(result.clone())),
                State::Unknown { method, began_ns } => Err(outcome_unknown(method, *began_ns)),
            };
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
            begun: RefCell::default(),
            settled: Cell::new(false),
            forgotten: RefCell::new(forgotten),
            written: RefCell::default(),
        }))
    }

    /// Takes in what an earlier kairod left. What is known already stays as it is.
    pub fn restore(&self, kept: Vec<Kept>) {
        let now = Instant::now();
        let mut owners = self.owners.borrow_mut();
        for one in kept {
            let own = owners.entry(one.key.owner).or_default();
            if own.entries.contains_key(&one.key.key) {
                continue;
            }
            let entry = Entry {
                fingerprint: one.key.fingerprint,
                state: State::Running(Rc::default()),
            };
            own.entries.insert(one.key.key.clone(), entry);
            let state = match one.result {
                Some(result) => State::Done(result),
                None => State::Unknown {
                    method: one.key.method,
                    began_ns: one.began_ns,
                },
            };
            let at = now.checked_sub(one.age).unwrap_or(now);
            own.ended(&one.key.key, state, at);
        }
    }

    /// A caller is gone for good, and its keys with it.
    pub fn forget(&self, owner: &str) {
        self.owners.borrow_mut().remove(owner);
    }
}

fn check_length(key: &str) -> Result<(), ErrorInfo> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    let bytes = key.len();
    let text = format!("idempotency_key has {bytes} bytes, allowed is 1 to {MAX_KEY_BYTES}");
    Err(Reason::IdempotencyKeyLength.error(text))
}

/// Makes room for another caller.
fn make_room(owners: &mut BTreeMap<String, Owner>, owner: &str) -> Result<(), ErrorInfo> {
    if owners.contains_key(owner) || owners.len() < MAX_OWNERS {
        return Ok(());
    }
    let now = Instant::now();
    owners.retain(|_, other| {
        // What is forgotten here is old, so the log forgets it by itself.
        other.sweep(now);
        !other.entries.is_empty()
    });
    if owners.len() < MAX_OWNERS {
        return Ok(());
    }
    let text = "too many callers use idempotency keys; try again later";
    Err(Reason::IdempotencyKeys.error_retried(text, 1000))
}

/// The owner of keys that go with a connection.
pub fn of_connection(number: u64) -> String {
    format!("connection {number}")
}

/// Wall time, ns since 1970.
fn wall_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

impl Ticket {
    /// Whose key it is, and which.
    pub fn name(&self) -> (&str, &str) {
        (&self.owner, &self.key)
    }

    /// The keys that were forgotten to make room for it; once.
    pub fn forgotten(&self) -> Vec<String> {
        self.forgotten.take()
    }

    /// The key is written into the log of `bus`, and has to be taken out of it if it gets free.
    pub fn is_written(&self, bus: &Rc<EventBus>) {
        *self.written.borrow_mut() = Some(Rc::clone(bus));
    }

    /// From now on it may have happened.
    pub fn begun(&self, method: &str) {
        *self.begun.borrow_mut() = Some((method.to_string(), wall_ns()));
    }

    /// It was done, and this is the result.
    pub fn done(&self, result: &[u8]) {
        self.settled.set(true);
        let mut owners = self.keys.owners.borrow_mut();
        // None where its connection is gone.
        if let Some(owner) = owners.get_mut(&self.owner) {
            owner.ended(&self.key, State::Done(result.to_vec()), Instant::now());
        }
    }

    /// Nothing was done: the key may be used again.
    pub fn free(&self) {
        self.settled.set(true);
        if let Some(bus) = self.written.take()
            && let Ok(log) = bus.log()
        {
            // Where that is not written, the next kairod says that nobody knows.
            let _ = log.store.forget_key(self.owner.clone(), self.key.clone());
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

    /// It ended with this error, which says whether anything was done.
    pub fn failed(&self, error: &ErrorInfo) {
        let unsure = [ErrorCode::Internal, ErrorCode::Timeout, ErrorCode::Canceled];
        if unsure.contains(&error.code) {
            self.lose_track();
        } else {
            self.free();
        }
    }

    /// Nobody knows how it went.
    pub fn lose_track(&self) {
        self.settled.set(true);
        let (method, began_ns) = self.begun.take().unwrap_or_default();
        let mut owners = self.keys.owners.borrow_mut();
        if let Some(owner) = owners.get_mut(&self.owner) {
            let state = State::Unknown { method, began_ns };
            owner.ended(&self.key, state, Instant::now());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled.get() {
            return;
        }
        if self.begun.borrow().is_some() {
            self.lose_track();
        } else {
            self.free();
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
    fn a_request_that_was_given_up_half_way_is_not_done_again() {
        let keys = Rc::new(Keys::default());
        let ticket = first(&keys, "a", "k", 1);
        ticket.begun("permission.grant");
        drop(ticket);
        let refused = keys.begin("a", "k", [1; 32]).unwrap_err();
        assert_eq!(refused.reason_name(), "outcome_unknown");
        assert!(refused.message.contains("permission.list"), "{refused}");
        let late = first(&keys, "a", "late", 1);
        late.begun("device.send");
        late.failed(&Reason::Deadline.error("no reply"));
        drop(late);
        assert!(keys.begin("a", "late", [1; 32]).is_err());
        let refused = first(&keys, "a", "refused", 1);
        refused.begun("device.send");
        refused.failed(&Reason::TooLarge.error("too far"));
        drop(refused);
        drop(first(&keys, "a", "refused", 1));
    }

    #[test]
    fn what_an_earlier_kairod_left_is_known_and_ages_on() {
        let keys = Rc::new(Keys::default());
        let kept = |name: &str, result: Option<&[u8]>, age| Kept {
            key: kairo_events::Key {
                owner: "a".into(),
                key: name.into(),
                method: "intent.begin".into(),
                fingerprint: [1; 32],
            },
            began_ns: 0,
            age,
            result: result.map(<[u8]>::to_vec),
        };
        keys.restore(vec![
            kept("old", Some(b"x"), KEPT_FOR),
            kept("done", Some(b"x"), Duration::ZERO),
            kept("begun", None, Duration::ZERO),
        ]);
        assert!(
            matches!(keys.begin("a", "done", [1; 32]), Ok(Begin::Done(found)) if found == b"x")
        );
        let refused = keys.begin("a", "begun", [1; 32]).unwrap_err();
        assert_eq!(refused.reason_name(), "outcome_unknown");
        drop(first(&keys, "a", "old", 2));
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
