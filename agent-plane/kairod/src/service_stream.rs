//! Streams that services serve: from the service through kairod to the caller.
//!
//! A caller opens one by calling a method that was registered with `stream`; it has the policy and
//! the credit of any subscription, and the service has credit of its own, which kairod gives: never
//! more than what it may hold of one stream ([`WINDOW_BYTES`]), and with `block` never more than
//! the caller can take. So a caller that does not read stops its own stream at the service, and
//! nothing else: kairod reads on, and holds at most [`MAX_STREAMS`] windows. With `drop` the
//! service is never held up, and what finds no room is lost and told.
//!
//! A stream has one end, told to both sides: the service's, the caller's, or a fault. A service
//! that sends what it has no credit for, what it was not asked for, or a payload that is not
//! sealed is not worth keeping: its connection closes. One whose offsets lie loses that stream.
//! What the stream is called is kairod's word, whatever the service says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use kairo_wire::flow::{CHUNK_OVERHEAD_BYTES, DESCRIPTOR_COST_BYTES, WINDOW_BYTES, inline_cost};
use kairo_wire::message::{Message, Meta};
use kairo_wire::{ErrorInfo, Frame, Gap, Limits, Request, StreamChunk, StreamTerms};
use kairo_wire::{Value, message};
use tokio::sync::Notify;

use crate::closer;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::outgoing::{Item, LIMIT_BYTES};
use crate::reasons::Reason;
use crate::services::{Caller, Served, Service, within_bounds};
use crate::subscription::{Policy, Subscription};

/// Streams of all services at once: 16 MiB of windows, 256 descriptors.
pub const MAX_STREAMS: usize = 64;
/// The same of one caller.
const MAX_STREAMS_OF_ONE: usize = 16;
/// Parameters of every method with a stream that kairod takes for itself.
pub const TAKEN: &[&str] = &["policy", "credit_bytes"];

/// Who has the places for streams. A place is held until the stream is gone, also while its caller
/// does not read what is left of it.
#[derive(Debug, Default)]
pub struct Places(Rc<RefCell<BTreeMap<Caller, usize>>>);

/// One place; given back when dropped.
#[derive(Debug)]
struct Place {
    of: Rc<RefCell<BTreeMap<Caller, usize>>>,
    by: Caller,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.of.borrow_mut();
        match all.get_mut(&self.by) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                all.remove(&self.by);
            }
        }
    }
}

impl Places {
    /// A place for one more stream of that caller.
    fn take(&self, by: Caller) -> Result<Place, ErrorInfo> {
        let limit = |text: String| Err(Reason::Streams.error_retried(text, 1000));
        let mut all = self.0.borrow_mut();
        if all.get(&by).is_some_and(|own| *own >= MAX_STREAMS_OF_ONE) {
            return limit(format!(
                "{MAX_STREAMS_OF_ONE} streams of this {by} are open; end one"
            ));
        }
        let most = by.limit(MAX_STREAMS);
        if all.values().sum::<usize>() >= most {
            return limit(format!("{most} streams are open, more are not allowed"));
        }
        *all.entry(by).or_default() += 1;
        Ok(Place {
            of: Rc::clone(&self.0),
            by,
        })
    }
}

/// One stream.
#[derive(Debug)]
pub struct ServiceStream {
    /// The call that opened it, and what the service knows it by.
    number: i64,
    /// The method that opened it.
    pub method: Served,
    /// What it is called, to the caller.
    name: String,
    service: Rc<Connection>,
    /// Who reads it.
    pub caller: Rc<Connection>,
    subscription: Rc<Subscription>,
    descriptors: bool,
    state: RefCell<State>,
    filled: Notify,
    _place: Place,
}

#[derive(Debug, Default)]
struct State {
    /// Chunks not delivered yet, and what they cost.
    held: VecDeque<StreamChunk>,
    held_cost: u64,
    /// What the service may still send.
    credit: u64,
    seq: u64,
    offset: u64,
    /// How it ended, once nothing more comes.
    end: Option<Option<ErrorInfo>>,
}

/// What to do next for the caller.
enum Next {
    Chunk(StreamChunk),
    End(Option<ErrorInfo>),
}

impl State {
    fn next(&mut self) -> Option<Next> {
        let chunk = self.held.pop_front().map(Next::Chunk);
        chunk.or_else(|| self.end.clone().map(Next::End))
    }
}

/// A stream whose service has not answered yet. Dropped before that, there is none.
#[derive(Debug)]
pub struct Opening {
    stream: Option<Rc<ServiceStream>>,
    /// The service was sent the call, so it knows of the stream.
    is_asked: bool,
}

impl Opening {
    /// Makes the stream that the next call of `service` is to open; takes the policy and the
    /// credit out of `params`.
    ///
    /// # Errors
    /// They are not allowed, or there are too many streams.
    pub fn begin(
        daemon: &Daemon,
        caller: &Rc<Connection>,
        service: &Service,
        method: &Served,
        params: &mut Value,
        meta: &Meta,
    ) -> Result<Self, ErrorInfo> {
        let (policy, credit) = wishes(&method.name, params)?;
        let peer = caller.identity.view(caller.number);
        let place = daemon.stream_places.take(Caller::of(&peer))?;
        let intent = meta.correlation_id.clone();
        let subscription = Subscription::register(caller, policy, credit, intent)?;
        let number = service.connection.next_call.get();
        let features = (caller.features.get(), service.connection.features.get());
        let enough = credit.is_none_or(|credit| credit >= DESCRIPTOR_COST_BYTES);
        let stream = Rc::new(ServiceStream {
            number,
            method: method.clone(),
            name: method.name.replacen('.', "/", 1),
            service: Rc::clone(&service.connection),
            caller: Rc::clone(caller),
            subscription,
            descriptors: features.0.descriptors && features.1.descriptors && enough,
            state: RefCell::default(),
            filled: Notify::new(),
            _place: place,
        });
        stream.state.borrow_mut().credit = stream.target();
        let mut all = service.connection.streams.borrow_mut();
        all.insert(number, Rc::clone(&stream));
        Ok(Self {
            stream: Some(stream),
            is_asked: false,
        })
    }

    /// What the service is told of it.
    pub fn terms(&self) -> Option<StreamTerms> {
        self.stream.as_ref().map(|stream| StreamTerms {
            subscription: stream.number.to_string(),
            credit_bytes: stream.state.borrow().credit,
            descriptors: stream.descriptors,
        })
    }

    /// The service was sent the call.
    pub fn asked(&mut self) {
        self.is_asked = true;
    }

    /// The service answered: the stream is delivered from now on. Gives the caller's result.
    ///
    /// # Errors
    /// The answer is no map, or the caller has ended the subscription meanwhile.
    pub fn open(mut self, result: Value) -> Result<Value, ErrorInfo> {
        let Value::Map(mut entries) = result else {
            let text = "the service's answer is no map, so it cannot name its stream";
            return Err(Reason::ServiceFault.error(text));
        };
        let ended = |stream: &Rc<ServiceStream>| {
            let all = stream.caller.subscriptions.borrow();
            !all.contains_key(&stream.subscription.name)
        };
        if self.stream.as_ref().is_some_and(ended) {
            let text = "the stream was unsubscribed before the service had answered";
            return Err(Reason::Canceled.error(text));
        }
        if let Some(stream) = self.stream.take() {
            entries.retain(|(key, _)| key.as_str() != Some("subscription"));
            let name = stream.subscription.name.as_str();
            entries.push(("subscription".into(), name.into()));
            let (caller, subscription) =
                (Rc::clone(&stream.caller), Rc::clone(&stream.subscription));
            subscription.run(&caller, deliver(Reader(stream)));
        }
        Ok(Value::Map(entries))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        match self.stream.take() {
            Some(stream) if self.is_asked => stream.unread(),
            // Its number goes to the next call, so the service must not hear of its end.
            Some(stream) => {
                stream.forget();
            }
            None => {}
        }
    }
}

/// The reading end. Dropped, however that comes, the service is told.
struct Reader(Rc<ServiceStream>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.unread();
    }
}

/// Takes `policy` and `credit_bytes` out of the parameters.
fn wishes(name: &str, params: &mut Value) -> Result<(Policy, Option<u64>), ErrorInfo> {
    let Value::Map(entries) = params else {
        return Ok((Policy::default(), None));
    };
    let mut take = |key: &str| {
        let at = entries
            .iter()
            .position(|(name, _)| name.as_str() == Some(key))?;
        Some(entries.remove(at).1)
    };
    let wrong = |key: &str, error: String| {
        let text = format!("{name}: `{key}`: {error}");
        let method = Some(name.to_string());
        Reason::InvalidValue { method, part: None }.error(text)
    };
    let policy = take("policy").map(|value| message::typed(&value));
    let credit = take("credit_bytes").map(|value| message::typed(&value));
    Ok((
        policy
            .transpose()
            .map_err(|error| wrong("policy", error))?
            .unwrap_or_default(),
        credit
            .transpose()
            .map_err(|error| wrong("credit_bytes", error))?,
    ))
}

impl ServiceStream {
    /// Ends it, for whoever reads it; the service sends nothing more that counts.
    pub fn end(&self, error: Option<ErrorInfo>) {
        self.service.streams.borrow_mut().remove(&self.number);
        self.state.borrow_mut().end.get_or_insert(error);
        self.filled.notify_one();
    }

    /// Ends it for both sides, because its caller may not read it any more.
    pub fn revoke(&self, error: ErrorInfo) {
        self.tell("stream.ended", vec![("reason".into(), "revoked".into())]);
        self.end(Some(error));
    }

    /// Nobody reads it any more.
    fn unread(&self) {
        if self.forget() {
            self.tell("stream.ended", vec![("reason".into(), "unread".into())]);
        }
    }

    /// Takes it out of both sides' tables; whether the service had it still.
    fn forget(&self) -> bool {
        let removed = self.service.streams.borrow_mut().remove(&self.number);
        let mut all = self.caller.subscriptions.borrow_mut();
        all.remove(&self.subscription.name);
        removed.is_some()
    }

    /// Tells the service. There is at most one such notice for each chunk or request that it was
    /// sent, and it is not read on while it does not read these.
    fn tell(&self, method: &str, mut params: Vec<(Value, Value)>) {
        let name = self.number.to_string();
        params.push(("subscription".into(), name.into()));
        let notice: Request = Request {
            id: None,
            method: method.into(),
            params: Some(Value::Map(params)),
            meta: None,
        };
        if let Ok(frame) = notice.encode(&Limits::default()) {
            self.service.outgoing.push(frame);
        }
    }

    /// What kairod may hold of it and the service send, together.
    fn target(&self) -> u64 {
        match (self.subscription.policy(), self.subscription.credit()) {
            (Policy::Block, Some(left)) => left.min(WINDOW_BYTES),
            _ => WINDOW_BYTES,
        }
    }

    /// Gives the service what has become free, once it is worth a message or the service could
    /// send nothing without it.
    fn grant_more(&self) {
        let target = self.target();
        let mut state = self.state.borrow_mut();
        let gain = target.saturating_sub(state.held_cost + state.credit);
        let worth_it = gain >= (WINDOW_BYTES / 4).min(target / 2);
        if gain == 0 || state.end.is_some() || !(worth_it || state.credit <= CHUNK_OVERHEAD_BYTES) {
            return;
        }
        state.credit += gain;
        drop(state);
        self.tell("stream.credit", vec![("bytes".into(), gain.into())]);
    }

    /// What comes next for the caller. Meanwhile the service gets what the caller grants.
    async fn next(&self) -> Next {
        loop {
            let freed = self.caller.outgoing.freed.notified();
            tokio::pin!(freed);
            // Registered before the check, so that what comes in between is not missed.
            freed.as_mut().enable();
            if let Some(next) = self.state.borrow_mut().next() {
                return next;
            }
            self.grant_more();
            tokio::select! {
                () = self.filled.notified() => {}
                () = freed => {}
            }
        }
    }

    /// The chunk as the caller gets it.
    fn item(&self, mut chunk: StreamChunk) -> Item {
        chunk.subscription.clone_from(&self.subscription.name);
        chunk.stream.clone_from(&self.name);
        let mut item = Item::from(chunk.encode(&Limits::default()).unwrap_or_default());
        item.attached = chunk.attached;
        item
    }

    /// Takes a chunk from the service.
    ///
    /// # Errors
    /// It cannot be of this stream, in words.
    fn take(&self, mut chunk: StreamChunk) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        let begins = chunk.gap.map_or(chunk.offset, |gap| gap.from);
        let whole = chunk
            .gap
            .is_none_or(|gap| gap.from <= gap.to && gap.to == chunk.offset);
        let ends = chunk.offset.checked_add(chunk.content_bytes());
        let (true, Some(ends)) = (whole && begins == state.offset, ends) else {
            let text = format!("chunk at {}, expected at {}", chunk.offset, state.offset);
            return Err(text);
        };
        if chunk.seq < state.seq || (chunk.seq > state.seq && chunk.gap.is_none()) {
            return Err(format!("chunk {}, expected {}", chunk.seq, state.seq));
        }
        if chunk.attached.is_some() && !self.descriptors {
            return Err("a descriptor, to a caller that takes none".into());
        }
        state.offset = ends;
        state.seq = chunk.seq.saturating_add(1);
        let end = chunk.end.then_some(chunk.error.take().map(within_bounds));
        // Whatever it calls itself is not kept: only what was paid for is.
        (chunk.subscription, chunk.stream) = (String::new(), String::new());
        if chunk.content_bytes() > 0 || chunk.gap.is_some() {
            // Its end is told by itself, so that it cannot get lost with what is dropped.
            chunk.end = false;
            state.held_cost += cost(&chunk);
            state.held.push_back(chunk);
        }
        drop(state);
        match end {
            Some(error) => self.end(error),
            None => self.filled.notify_one(),
        }
        Ok(())
    }
}

/// What a chunk costs its sender.
fn cost(chunk: &StreamChunk) -> u64 {
    match chunk.attached {
        Some(_) => DESCRIPTOR_COST_BYTES,
        None => inline_cost(chunk.data.len()),
    }
}

/// Delivers a stream to its end.
async fn deliver(reader: Reader) {
    let stream = &reader.0;
    let lost_from: Cell<Option<u64>> = Cell::new(None);
    let lost = |gap: Option<Gap>, to: u64| {
        let from = lost_from.get().or(gap.map(|gap| gap.from))?;
        Some(Gap { from, to })
    };
    loop {
        match stream.next().await {
            Next::Chunk(mut chunk) => {
                let cost = cost(&chunk);
                chunk.gap = lost(chunk.gap, chunk.offset);
                let began = chunk.gap.map_or(chunk.offset, |gap| gap.from);
                let item = stream.item(chunk);
                let length = item
                    .attached
                    .as_ref()
                    .map_or(item.frame.len(), |_| cost as usize);
                let make = || item;
                let subscription = &stream.subscription;
                let delivered = subscription.deliver(&stream.caller, length, make).await;
                lost_from.set((!delivered).then_some(began));
                stream.state.borrow_mut().held_cost -= cost;
                stream.grant_more();
            }
            Next::End(error) => {
                let (seq, offset) = {
                    let state = stream.state.borrow();
                    (state.seq, state.offset)
                };
                let end = StreamChunk {
                    seq,
                    offset,
                    end: true,
                    gap: lost(None, offset),
                    error,
                    ..StreamChunk::default()
                };
                // Whatever the policy and the credit: it is the last there is.
                stream.caller.outgoing.room_below(LIMIT_BYTES).await;
                stream.caller.outgoing.push(stream.item(end));
                return;
            }
        }
    }
}

/// Takes a chunk frame from a connection that serves or served. An error means that the connection
/// must close.
pub async fn take(
    connection: &Rc<Connection>,
    frame: &Frame,
    arrived: &mut VecDeque<OwnedFd>,
) -> Result<(), ()> {
    let mut chunk = StreamChunk::decode(&frame.payload, &Limits::default()).map_err(drop)?;
    // Held meanwhile: what is refused must not be closed here.
    let first = arrived.front().and_then(|first| first.try_clone().ok());
    if chunk.attach(arrived).is_err() {
        closer::close(first);
        return Err(());
    }
    // One that does not read what it is told is not read either.
    connection.outgoing.room_below(2 * LIMIT_BYTES).await;
    let number: i64 = chunk.subscription.parse().map_err(drop)?;
    let found = connection.streams.borrow().get(&number).cloned();
    let Some(stream) = found else {
        // It may have been on its way when its stream ended; what never was is a lie.
        let was = (1..connection.next_call.get()).contains(&number);
        return if was { Ok(()) } else { Err(()) };
    };
    let left = stream.state.borrow().credit.checked_sub(cost(&chunk));
    // An end with nothing in it is free: a service without credit must be able to tell it.
    let free = chunk.end && chunk.content_bytes() == 0;
    match left {
        Some(left) => stream.state.borrow_mut().credit = left,
        None if free => {}
        None => return Err(()),
    }
    if let Err(fault) = stream.take(chunk) {
        let text = format!("the service broke its stream: {fault}");
        let error = Reason::ServiceFault.error(text);
        stream.tell("stream.ended", vec![("reason".into(), fault.into())]);
        stream.end(Some(error));
    }
    Ok(())
}
