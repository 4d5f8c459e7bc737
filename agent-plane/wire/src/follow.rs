//! Following events over any number of connections: for programs that outlive a kernel.
//!
//! A subscription ends with its connection, and [`ClientError::Closed`] says so. Whoever would then
//! connect, subscribe and go on where it was can have that done: [`Following`] connects with
//! growing pauses, subscribes from behind the last number that it has seen, leaves out what it gave
//! already, and says with [`Followed::Resumed`] that there was a break. Each event of a durable
//! class comes once. What the log has lost meanwhile is told as [`Followed::Lost`]; volatile events
//! of the break are gone and are not counted.
//!
//! Never by itself: a plain subscription does not come back. Claims do not either, because a device
//! that came to rest must not go on by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rmpv::Value;

use crate::client::{Client, ClientError, Incoming, name_in};
use crate::endpoint::Endpoint;
use crate::message::Event;

/// Numbers behind the newest one that are asked for again after a break, because live events do
/// not come strictly in their order: as many as the kernel keeps in memory.
pub const WINDOW: u64 = 1024;
/// The first pause before another attempt, doubled up to the longest.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long one attempt to subscribe may take.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);
/// The topic of the notice that events were missed.
const GAP: &str = "kairo.system.event.gap";

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With what comes.
    Now,
    /// With the oldest event of the log.
    Start,
    /// With this number.
    Number(u64),
}

/// What following gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// An event.
    Event(Box<Event>),
    /// Events of these numbers, some of which may have been wanted, are gone.
    Lost {
        /// The first.
        from_seq: u64,
        /// The one behind the last.
        to_seq: u64,
    },
    /// The connection had ended, and there is another. Claims, intents and calls of the old one
    /// have ended with it.
    Resumed {
        /// Where the log is read on from.
        from_seq: u64,
    },
}

/// Where a follower is, apart from any connection.
#[derive(Debug)]
pub(crate) struct Place {
    topics: Vec<String>,
    begin: Begin,
    /// The first number that is wanted, once that is known.
    first: Option<u64>,
    newest: u64,
    /// Numbers that were given, of the newest [`WINDOW`].
    given: BTreeSet<u64>,
    /// No event has come since the last break.
    fresh: bool,
}

impl Place {
    pub fn new(topics: &[&str], begin: Begin) -> Self {
        Self {
            topics: topics.iter().map(ToString::to_string).collect(),
            begin,
            first: None,
            newest: 0,
            given: BTreeSet::new(),
            fresh: false,
        }
    }

    /// Where to read on; none before the first subscription.
    fn on(&self) -> Option<u64> {
        let first = self.first?;
        Some(first.max((self.newest + 1).saturating_sub(WINDOW)))
    }

    /// The parameters of `event.subscribe`.
    pub fn params(&self) -> Value {
        let topics = self.topics.iter().map(|topic| topic.as_str().into());
        let mut params = vec![
            ("topics".into(), Value::Array(topics.collect())),
            ("policy".into(), "block".into()),
        ];
        let from = match (self.on(), self.begin) {
            (Some(seq), _) | (None, Begin::Number(seq)) => Some(seq.into()),
            (None, Begin::Start) => Some("start".into()),
            (None, Begin::Now) => None,
        };
        params.extend(from.map(|from| ("from".into(), from)));
        Value::Map(params)
    }

    /// It is subscribed, with this reply. Tells of a break if there was one.
    pub fn subscribed(&mut self, reply: &Value) -> Option<Followed> {
        let from_seq = field(reply, "from_seq").unwrap_or(1);
        if self.first.is_some() {
            self.fresh = true;
            return Some(Followed::Resumed { from_seq });
        }
        self.first = Some(from_seq);
        self.newest = from_seq.saturating_sub(1);
        None
    }

    /// Takes in an event; none for what was given already.
    pub fn take(&mut self, event: Event) -> Option<Followed> {
        if event.topic == GAP && event.source == "kairod" {
            let mut from_seq = field(&event.data, "from_seq")?;
            let to_seq = field(&event.data, "to_seq")?;
            if self.fresh {
                // The part behind the newest is new; before it, it is only read again.
                from_seq = from_seq.max(self.newest + 1);
            }
            return (from_seq < to_seq).then_some(Followed::Lost { from_seq, to_seq });
        }
        let seq = event.seq;
        if self.first.is_some_and(|first| seq < first) || !self.given.insert(seq) {
            return None;
        }
        self.fresh &= seq <= self.newest;
        self.newest = self.newest.max(seq);
        let oldest = (self.newest + 1).saturating_sub(WINDOW);
        while self.given.first().is_some_and(|seq| *seq < oldest) {
            self.given.pop_first();
        }
        Some(Followed::Event(Box::new(event)))
    }
}

/// Whether a new connection can help.
pub(crate) fn may_resume(error: &ClientError, endpoint: &Endpoint) -> bool {
    let broken = match error {
        ClientError::Closed
        | ClientError::Broken(_)
        | ClientError::Connect { .. }
        | ClientError::Deadline(_) => true,
        // The log of a kernel that just started may not be there yet.
        ClientError::Refused(refused) => refused.retryable,
        _ => false,
    };
    broken && !matches!(endpoint, Endpoint::Descriptor(_))
}

fn field(map: &Value, name: &str) -> Option<u64> {
    let mut entries = map.as_map()?.iter();
    let found = entries.find(|(key, _)| key.as_str() == Some(name));
    found.and_then(|(_, value)| value.as_u64())
}

/// Events of some topics, over any number of connections. One thread.
#[derive(Debug)]
pub struct Following {
    endpoint: Endpoint,
    place: Place,
    open: Option<(Client, String)>,
    pause: Duration,
}

impl Following {
    /// Subscribes to `topics` at `endpoint`. The first attempt has to succeed.
    ///
    /// # Errors
    /// As [`Client::connect_to`] and [`Client::call`].
    pub fn begin(endpoint: Endpoint, topics: &[&str], begin: Begin) -> Result<Self, ClientError> {
        let mut following = Self {
            endpoint,
            place: Place::new(topics, begin),
            open: None,
            pause: FIRST_PAUSE,
        };
        following.subscribe(ATTEMPT)?;
        Ok(following)
    }

    /// The next event, loss or break; none when `deadline` passes first. It may be called again
    /// after an error that says nobody listens, and goes on trying.
    ///
    /// # Errors
    /// What stands in the way at the deadline, or at once what no new connection can help.
    pub fn next(&mut self, deadline: Duration) -> Result<Option<Followed>, ClientError> {
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let error = match &mut self.open {
                None => match self.subscribe(left.min(ATTEMPT)) {
                    Ok(Some(resumed)) => return Ok(Some(resumed)),
                    Ok(None) => continue,
                    Err(error) => error,
                },
                Some((client, name)) => match client.next_incoming(left) {
                    Ok(Some(Incoming::Event(event)))
                        if event.subscription.as_ref() == Some(name) =>
                    {
                        match self.place.take(event) {
                            Some(followed) => return Ok(Some(followed)),
                            None => continue,
                        }
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) => return Ok(None),
                    Err(error) => error,
                },
            };
            self.open = None;
            let left = until.saturating_duration_since(Instant::now());
            if !may_resume(&error, &self.endpoint) || left <= self.pause {
                return Err(error);
            }
            std::thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn subscribe(&mut self, deadline: Duration) -> Result<Option<Followed>, ClientError> {
        let mut client = Client::connect_to(&self.endpoint)?;
        let reply: Value = client.call("event.subscribe", self.place.params(), deadline)?;
        let name = name_in(&reply).unwrap_or_default().to_string();
        self.open = Some((client, name));
        self.pause = FIRST_PAUSE;
        Ok(self.place.subscribed(&reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, topic: &str, data: Value) -> Event {
        Event {
            id: seq.to_string(),
            topic: topic.into(),
            source: "kairod".into(),
            specversion: "1.0".into(),
            time: String::new(),
            data,
            seq,
            aliases: Vec::new(),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            stream: None,
            stream_version: None,
            replay: false,
            subscription: None,
        }
    }

    fn reply(from_seq: u64) -> Value {
        Value::Map(vec![("from_seq".into(), from_seq.into())])
    }

    fn from(place: &Place) -> Option<u64> {
        field(&place.params(), "from")
    }

    fn give(place: &mut Place, seq: u64) -> bool {
        place.take(event(seq, "a", Value::Nil)).is_some()
    }

    fn gap(place: &mut Place, from_seq: u64, to_seq: u64) -> Option<Followed> {
        let facts = [("from_seq", from_seq), ("to_seq", to_seq)];
        let data = facts.map(|(name, seq)| (Value::from(name), Value::from(seq)));
        place.take(event(from_seq, GAP, Value::Map(data.into())))
    }

    #[test]
    fn what_was_given_is_not_given_again_and_what_came_late_is() {
        let mut place = Place::new(&["a"], Begin::Now);
        assert_eq!(from(&place), None);
        assert_eq!(place.subscribed(&reply(5)), None);
        // Live, 8 came before 7, and then the connection ended.
        assert!(give(&mut place, 6) && give(&mut place, 8));
        assert_eq!(from(&place), Some(5));
        let resumed = Followed::Resumed { from_seq: 5 };
        assert_eq!(place.subscribed(&reply(5)), Some(resumed));
        let again: Vec<u64> = (4..10).filter(|seq| give(&mut place, *seq)).collect();
        assert_eq!(again, [5, 7, 9]);
    }

    #[test]
    fn what_is_remembered_is_bounded_by_the_window() {
        let mut place = Place::new(&["a"], Begin::Start);
        place.subscribed(&reply(1));
        for seq in 1..5000 {
            assert!(give(&mut place, seq));
        }
        assert_eq!(place.given.len() as u64, WINDOW);
        assert_eq!(from(&place), Some(5000 - WINDOW));
    }

    #[test]
    fn only_what_is_behind_the_newest_counts_as_lost_after_a_break() {
        let mut place = Place::new(&["a"], Begin::Now);
        place.subscribed(&reply(1));
        give(&mut place, 10);
        place.subscribed(&reply(1));
        // All of that was given or read over before.
        assert_eq!(gap(&mut place, 1, 11), None);
        let lost = |from_seq, to_seq| Some(Followed::Lost { from_seq, to_seq });
        assert_eq!(gap(&mut place, 1, 20), lost(11, 20));
        give(&mut place, 20);
        assert_eq!(gap(&mut place, 5, 7), lost(5, 7));
    }
}
