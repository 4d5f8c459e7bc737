//! Who gets a place: how many connections a user may have, and what is kept for operators.
//!
//! A connection costs two descriptors and up to a few megabytes, so there is a number of places.
//! They are not given to whoever comes first: one user has a share, and the last places are for
//! operators, so that an agent which connects without end keeps others of its user out, at worst,
//! and never the hand that stops it. Whoever gets no place is told why, in one event, and closed.
//!
//! A user whose share is full can still get in where one of its connections never said anything:
//! a place is held by use.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use kairo_wire::message::Message;
use kairo_wire::{Event, Limits};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, send};
use tokio::net::UnixStream;

use crate::connection::{Connection, FRAME_TIMEOUT};
use crate::daemon::Daemon;
use crate::facts::{ConnectionRefused, Fact};
use crate::identity;
use crate::permission::Class;
use crate::reasons::Reason;

/// Places, where descriptors allow. Each may hold one unfinished frame of 1 MiB and its queues.
pub const MAX_PLACES: usize = 128;
/// The last places, which only operators get.
const OPERATOR_RESERVE: usize = 16;
/// Places of one user who is no operator: agents of a robot are few, and each needs one.
const SHARE: usize = 32;
/// Places of one user who is: a launcher has one for each program that it starts.
const OPERATOR_SHARE: usize = MAX_PLACES - OPERATOR_RESERVE;
/// Fewest places: less would leave nothing beside the reserve.
const MIN_PLACES: usize = OPERATOR_RESERVE + 4;
/// Descriptors of a place: its socket, the same watched for room, its peer's process, eight that
/// came ahead of their frames ([`kairo_wire::passing::MAX_WAITING`]), and four that wait to be
/// written ([`crate::outgoing`]).
const DESCRIPTORS_A_PLACE: u64 = 3 + 8 + 4;
/// Descriptors of kairod itself: the logs, the link with its rings, files that are being written.
const OWN_DESCRIPTORS: u64 = 64;
/// When somebody who was turned away may try again, ms.
const RETRY_MS: u64 = 1000;

/// The places, and what was done with them.
#[derive(Debug)]
pub struct Admission {
    places: usize,
    full: Cell<u64>,
    share: Cell<u64>,
    silent: Cell<u64>,
    failures: Cell<u64>,
}

/// What became of those who came, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Places there are.
    pub places: usize,
    /// Turned away because no place was free for them.
    pub full: u64,
    /// Turned away because their user has its share.
    pub share: u64,
    /// Closed because they never said anything and another of their user came.
    pub silent: u64,
    /// Attempts that the system itself failed: out of descriptors or memory.
    pub failures: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            places: places(),
            full: Cell::new(0),
            share: Cell::new(0),
            silent: Cell::new(0),
            failures: Cell::new(0),
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// None is free for that class.
    Places,
    /// The user has its share.
    Share(usize),
}

impl Admission {
    /// What became of those who came.
    pub fn counts(&self) -> Counts {
        Counts {
            places: self.places,
            full: self.full.get(),
            share: self.share.get(),
            silent: self.silent.get(),
            failures: self.failures.get(),
        }
    }

    /// The system gave no connection.
    pub fn failed(&self) {
        self.failures.set(self.failures.get() + 1);
    }

    /// Whether `stream` gets a place. Otherwise its peer has been told.
    pub fn admits(&self, daemon: &Daemon, stream: &UnixStream) -> bool {
        let Ok((uid, class)) = identity::user_of(stream, daemon.permissions.borrow().policy())
        else {
            return false;
        };
        let connections = daemon.connections.borrow();
        let open: Vec<&Rc<Connection>> = connections.values().filter(|one| !one.leaves()).collect();
        let own: Vec<&Rc<Connection>> = open
            .iter()
            .filter(|one| one.identity.as_subject().uid == uid)
            .copied()
            .collect();
        match decide(self.places, open.len(), own.len(), class) {
            Ok(()) => true,
            Err(Full::Share(_)) if make_room(&own) => {
                self.silent.set(self.silent.get() + 1);
                true
            }
            Err(full) => {
                let counted = match full {
                    Full::Places => &self.full,
                    Full::Share(_) => &self.share,
                };
                counted.set(counted.get() + 1);
                tell(stream, full, uid, self.places);
                false
            }
        }
    }
}

/// Whether one more may come where `open` are open, `own` of them of its user.
fn decide(places: usize, open: usize, own: usize, class: Class) -> Result<(), Full> {
    let (limit, share) = match class {
        Class::Operator => (places, OPERATOR_SHARE.min(places.saturating_sub(1))),
        _ => (places.saturating_sub(OPERATOR_RESERVE), SHARE),
    };
    if own >= share {
        return Err(Full::Share(share));
    }
    if open >= limit {
        return Err(Full::Places);
    }
    Ok(())
}

/// Turns out the oldest of `own` that had the time of a whole frame and sent none.
fn make_room(own: &[&Rc<Connection>]) -> bool {
    let silent = own.iter().find(|one| one.is_silent(FRAME_TIMEOUT));
    silent.inspect(|one| one.turn_out()).is_some()
}

/// Says why, in one event: a request that it could be an answer to has not been read.
fn tell(stream: &UnixStream, full: Full, uid: u32, places: usize) {
    let error = match full {
        Full::Share(share) => {
            let text = format!(
                "user {uid} has {share} connections, its share; close some, or use one for more"
            );
            Reason::Share.error_retried(text, RETRY_MS)
        }
        Full::Places => {
            let text = format!("all {places} places are taken or kept for operators; try again");
            Reason::Places.error_retried(text, RETRY_MS)
        }
    };
    // By way of bytes: rmpv's own conversion makes lists of structures.
    let fact = ConnectionRefused::from(error);
    let bytes = rmp_serde::to_vec_named(&fact).unwrap_or_default();
    let Ok(data) = rmpv::decode::read_value(&mut bytes.as_slice()) else {
        return;
    };
    let now = std::time::SystemTime::now();
    let event = Event {
        id: uuid::Uuid::now_v7().to_string(),
        topic: ConnectionRefused::TOPIC.name.into(),
        source: "kairod".into(),
        specversion: "1.0".into(),
        time: humantime::format_rfc3339_millis(now).to_string(),
        data,
        seq: 0,
        aliases: Vec::new(),
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        stream: None,
        stream_version: None,
        replay: false,
        subscription: None,
    };
    if let Ok(frame) = event.encode(&Limits::default()) {
        // Past the event loop, which does not know of a new socket yet that it has room. A peer
        // that is gone already needs no words.
        let at_once = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(stream.as_raw_fd(), &frame, at_once);
    }
}

/// As many places as descriptors allow, after asking for as many as may be asked for.
fn places() -> usize {
    let wanted = OWN_DESCRIPTORS + DESCRIPTORS_A_PLACE * MAX_PLACES as u64;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return MIN_PLACES;
    };
    let mut allowed = soft;
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok() {
        allowed = wanted.min(hard);
    }
    let places = allowed.saturating_sub(OWN_DESCRIPTORS) / DESCRIPTORS_A_PLACE;
    let places = usize::try_from(places).unwrap_or(MAX_PLACES);
    if places < MAX_PLACES {
        tracing::warn!("{allowed} descriptors allow fewer connections; raise RLIMIT_NOFILE");
    }
    places.clamp(MIN_PLACES, MAX_PLACES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_and_no_crowd_of_agents_takes_the_last_places() {
        // One agent's user, alone on the machine.
        assert_eq!(decide(128, SHARE - 1, SHARE - 1, Class::Agent), Ok(()));
        let refused = decide(128, SHARE, SHARE, Class::Agent);
        assert_eq!(refused, Err(Full::Share(SHARE)));
        // Many users of agents together.
        assert_eq!(decide(128, 111, 0, Class::Agent), Ok(()));
        for class in [Class::Agent, Class::Skill, Class::Driver, Class::Service] {
            assert_eq!(decide(128, 112, 0, class), Err(Full::Places));
        }
        assert_eq!(decide(128, 127, 0, Class::Operator), Ok(()));
        assert_eq!(decide(128, 128, 0, Class::Operator), Err(Full::Places));
        // A program of an operator that leaks connections leaves some to other operators.
        let refused = decide(128, 112, 112, Class::Operator);
        assert_eq!(refused, Err(Full::Share(112)));
    }

    #[test]
    fn few_descriptors_mean_fewer_places_and_the_reserve_stays() {
        assert_eq!(decide(MIN_PLACES, 3, 3, Class::Agent), Ok(()));
        assert_eq!(decide(MIN_PLACES, 4, 4, Class::Agent), Err(Full::Places));
        assert_eq!(decide(MIN_PLACES, 19, 0, Class::Operator), Ok(()));
    }
}
