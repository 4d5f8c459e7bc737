//! Methods that other processes serve.
//!
//! A process registers a namespace over its connection; kairod then sends it the requests of others
//! as request frames of its own and takes its response frames back. A service that answers late,
//! floods, or dies costs its own callers and nobody else: every call has a deadline, a service has
//! at most [`MAX_CALLS`] under way, and its end is the end of its namespace. Who the caller is, is
//! said by kairod (`meta.caller`), so a service needs not believe anybody.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::frame::HEADER_BYTES;
use kairo_wire::message::{Message, Meta};
use kairo_wire::{ErrorInfo, Id, Limits, Request, Response, StreamTerms, Value, scan};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::large_frames::Share;
use crate::outgoing::Item;
use crate::permission::Class;
use crate::reasons::Reason;
use crate::router::Permission;
use crate::views::Peer;

/// Services at once.
pub const MAX_SERVICES: usize = 32;
/// Methods of one service.
pub const MAX_METHODS: usize = 64;
/// Calls of one service under way.
pub const MAX_CALLS: usize = 64;
/// Of the places for calls and for streams, those that only operators get.
const OPERATOR_RESERVE: usize = 16;
/// Calls of one caller at one service, so that it cannot keep it from others.
const MAX_CALLS_OF_ONE: usize = 16;
/// Longest message, and longest details, of a service's error, bytes.
const MAX_ERROR_BYTES: usize = 4096;
/// Calls in a row that were not answered in time, after which a service counts as ailing.
const AILING_AFTER: u32 = 3;
/// Namespaces that are the kernel's, also where no method of theirs exists yet.
pub const RESERVED: &[&str] = &[
    "kernel",
    "system",
    "process",
    "terminal",
    "service",
    "device",
    "rt",
    "event",
    "stream",
    "intent",
    "memory",
    "vault",
    "skill",
    "permission",
    "window",
    "collab",
];

/// A method that a service offers.
#[derive(Clone, Debug)]
pub struct Served {
    /// `namespace.method`.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Who may call it where no policy says otherwise.
    pub permission: Permission,
    /// JSON Schema of the parameters.
    pub params: serde_json::Value,
    /// JSON Schema of the result.
    pub result: serde_json::Value,
    /// Whether a call of it opens a stream.
    pub stream: bool,
}

/// A process that serves a namespace.
#[derive(Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// The connection that it is served over.
    pub connection: Rc<Connection>,
    /// What it offers, by name.
    pub methods: BTreeMap<String, Served>,
    /// How long a call may take.
    pub timeout: Duration,
    calls: RefCell<BTreeMap<i64, Waiting>>,
    answered: Cell<u64>,
    late: Cell<u64>,
    late_in_a_row: Cell<u32>,
}

/// How a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it answers: false after several calls in a row that were not answered in time.
    pub well: bool,
    /// Calls under way.
    pub under_way: usize,
    /// Calls answered since it was registered.
    pub answered: u64,
    /// Calls not answered in time.
    pub late: u64,
}

impl Service {
    /// A service that was not called yet.
    pub fn new(
        namespace: String,
        connection: Rc<Connection>,
        methods: BTreeMap<String, Served>,
        timeout: Duration,
    ) -> Self {
        Self {
            namespace,
            connection,
            methods,
            timeout,
            calls: RefCell::default(),
            answered: Cell::new(0),
            late: Cell::new(0),
            late_in_a_row: Cell::new(0),
        }
    }

    /// How it does.
    pub fn health(&self) -> Health {
        Health {
            well: self.late_in_a_row.get() < AILING_AFTER,
            under_way: self.calls.borrow().len(),
            answered: self.answered.get(),
            late: self.late.get(),
        }
    }

    /// Sends it a call. The request goes out now; its answer comes through what is given back.
    ///
    /// # Errors
    /// It has too much to do, or does not read.
    pub fn ask(
        self: &Rc<Self>,
        method: &str,
        params: Value,
        meta: &Meta,
        caller: &Peer,
        beside: Beside,
    ) -> Result<Pending, ErrorInfo> {
        let busy = |text: String| {
            let service = self.namespace.clone();
            Reason::ServiceBusy { service }.error_retried(text, 50)
        };
        let by = Caller::of(caller);
        let own = |waiting: &&Waiting| waiting.by == by;
        if self.calls.borrow().values().filter(own).count() >= MAX_CALLS_OF_ONE {
            let text = format!("{MAX_CALLS_OF_ONE} calls of this {by} are under way");
            return Err(busy(text));
        }
        if self.calls.borrow().len() >= by.limit(MAX_CALLS) {
            return Err(busy(format!(
                "{} has {MAX_CALLS} calls under way; try again",
                self.namespace
            )));
        }
        // Of the connection and not of the service: a late answer to one that served before it
        // must not be taken for an answer to this one's call.
        let number = self.connection.next_call.get();
        let request = Forwarded {
            id: Id::Number(number),
            method,
            params,
            meta: ForwardedMeta {
                meta,
                caller,
                stream: beside.stream,
            },
        };
        let limits = self.connection.limits();
        let too_large = |why: String| {
            let text = format!("the request cannot be passed on: {why}");
            Reason::TooLarge.error(text)
        };
        let encoded = request.encode(&limits);
        let frame = encoded.map_err(|error| too_large(error.to_string()))?;
        // With the caller in it, it may be more than a service takes.
        let payload = frame.get(HEADER_BYTES..).unwrap_or_default();
        let scanned = scan::check(payload, limits.depth, limits.values);
        scanned.map_err(|error| too_large(error.to_string()))?;
        let outgoing = &self.connection.outgoing;
        // A large frame has room of its own.
        if beside.share.is_none() && !outgoing.has_room(frame.len()) {
            let text = format!("{} does not read its requests", self.namespace);
            return Err(busy(text));
        }
        self.connection.next_call.set(number + 1);
        let (tell, answer) = oneshot::channel();
        let waiting = Waiting { by, tell };
        self.calls.borrow_mut().insert(number, waiting);
        outgoing.push(Item::holding(frame, beside.share));
        Ok(Pending {
            service: Rc::clone(self),
            number,
            answer,
        })
    }

    /// Ends every stream that it serves with `error`.
    pub fn end_streams(&self, error: &ErrorInfo) {
        let streams: Vec<_> = self.connection.streams.borrow().values().cloned().collect();
        for stream in streams {
            stream.end(Some(error.clone()));
        }
    }

    /// A response arrived from it. One that nobody waits for any more is dropped.
    pub fn answered(&self, response: Response, share: Option<Share>) {
        let Id::Number(number) = response.id else {
            return;
        };
        if let Some(waiting) = self.calls.borrow_mut().remove(&number) {
            self.answered.set(self.answered.get() + 1);
            self.late_in_a_row.set(0);
            // The caller may just have gone.
            let _ = waiting.tell.send((response, share));
        }
    }
}

/// Whom a share is counted for: connections are many, so of a user that is no operator all count
/// together. Operators are trusted with each of theirs, and have places that others do not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// An operator's connection.
    Connection(u64),
    /// Anybody else's user.
    User(u32),
}

impl Caller {
    /// Whom the peer's share is counted for.
    pub fn of(peer: &Peer) -> Self {
        match peer.class {
            Class::Operator => Self::Connection(peer.connection),
            _ => Self::User(peer.uid),
        }
    }

    /// How many of `all` places such callers may have together.
    pub const fn limit(self, all: usize) -> usize {
        match self {
            Self::Connection(_) => all,
            Self::User(_) => all - OPERATOR_RESERVE,
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Connection(_) => "connection",
            Self::User(_) => "user",
        })
    }
}

/// Who waits for the answer to a call.
#[derive(Debug)]
struct Waiting {
    /// Whose call it is.
    by: Caller,
    tell: oneshot::Sender<(Response, Option<Share>)>,
}

/// What goes with a call beside its parameters.
#[derive(Debug, Default)]
pub struct Beside {
    /// The stream that it is to open.
    pub stream: Option<StreamTerms>,
    /// Its share of the large frames, if it is one.
    pub share: Option<Share>,
}

/// A call that a service is working on. Dropped before its answer, the service is told that nobody
/// waits for it any more.
#[derive(Debug)]
pub struct Pending {
    service: Rc<Service>,
    number: i64,
    answer: oneshot::Receiver<(Response, Option<Share>)>,
}

impl Pending {
    /// The answer, within the service's time-out, and its share if it is a large one.
    ///
    /// # Errors
    /// What the service answered, or that it did not.
    pub async fn result(mut self) -> Result<(Value, Option<Share>), ErrorInfo> {
        let service = Rc::clone(&self.service);
        let namespace = &service.namespace;
        match tokio::time::timeout(service.timeout, &mut self.answer).await {
            Ok(Ok((response, share))) => {
                let result = response.into_result().map_err(within_bounds)?;
                Ok((result, share))
            }
            Ok(Err(_)) => {
                let text = format!("the process that serves {namespace} ended during the call");
                Err(Reason::ServiceGone.error_retried(text, 200))
            }
            Err(_) => {
                service.late.set(service.late.get() + 1);
                let in_a_row = service.late_in_a_row.get().saturating_add(1);
                service.late_in_a_row.set(in_a_row);
                let text = format!(
                    "{namespace} did not answer within {} ms",
                    service.timeout.as_millis()
                );
                Err(Reason::ServiceLate.error(text))
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let waited = self.service.calls.borrow_mut().remove(&self.number);
        if waited.is_none() {
            return;
        }
        let notice = Request {
            id: None,
            method: "service.canceled".into(),
            params: Some(Value::Map(vec![("id".into(), self.number.into())])),
            meta: None,
        };
        if let Ok(frame) = notice.encode(&Limits::default())
            && self.service.connection.outgoing.has_room(frame.len())
        {
            self.service.connection.outgoing.push(frame);
        }
    }
}

/// An error of a service, short enough to be passed on.
pub fn within_bounds(mut error: ErrorInfo) -> ErrorInfo {
    if error.message.len() > MAX_ERROR_BYTES {
        let end = error.message.floor_char_boundary(MAX_ERROR_BYTES);
        error.message.truncate(end);
    }
    let details = rmp_serde::to_vec(&error.details).map_or(usize::MAX, |bytes| bytes.len());
    if details > MAX_ERROR_BYTES {
        error.details = Value::Map(Vec::new());
    }
    error
}

#[derive(Serialize)]
struct Forwarded<'call, C> {
    id: Id,
    method: &'call str,
    params: Value,
    meta: ForwardedMeta<'call, C>,
}

#[derive(Serialize)]
struct ForwardedMeta<'call, C> {
    #[serde(flatten)]
    meta: &'call Meta,
    caller: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamTerms>,
}

impl<C: Serialize> Message for Forwarded<'_, C> {
    const KIND: kairo_wire::FrameKind = kairo_wire::FrameKind::Request;
    const NAME: &'static str = "request";
}

/// Every service, by namespace.
#[derive(Debug, Default)]
pub struct Services {
    all: RefCell<BTreeMap<String, Rc<Service>>>,
}

impl Services {
    /// The service and its method of that name.
    pub fn find(&self, name: &str) -> Option<(Rc<Service>, Served)> {
        let (namespace, _) = name.split_once('.')?;
        let all = self.all.borrow();
        let service = all.get(namespace)?;
        let method = service.methods.get(name)?.clone();
        Some((Rc::clone(service), method))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<Service>> {
        self.all.borrow().values().cloned().collect()
    }

    /// Adds one.
    ///
    /// # Errors
    /// The namespace is served already, its connection serves another, or there are too many.
    pub fn add(&self, service: Service) -> Result<(), ErrorInfo> {
        if let Some(other) = self.served_by(service.connection.number) {
            let text = format!(
                "this connection serves {}; serve each namespace over a connection of its own",
                other.namespace
            );
            return Err(Reason::ServesAlready.error(text));
        }
        let mut all = self.all.borrow_mut();
        if let Some(other) = all.get(&service.namespace) {
            let text = format!(
                "{} is served by connection {} already",
                service.namespace, other.connection.number
            );
            return Err(Reason::NamespaceTaken.error(text));
        }
        if all.len() >= MAX_SERVICES {
            let text = format!("{MAX_SERVICES} services are registered, more are not allowed");
            return Err(Reason::Services.error(text));
        }
        all.insert(service.namespace.clone(), Rc::new(service));
        Ok(())
    }

    /// Takes away what `connection` serves, and gives its namespace. Whoever waits for a call is
    /// answered now.
    pub fn remove(&self, connection: u64) -> Option<String> {
        let service = self.served_by(connection)?;
        self.all.borrow_mut().remove(&service.namespace);
        service.calls.borrow_mut().clear();
        let text = format!("what serves {} ended during the stream", service.namespace);
        service.end_streams(&Reason::ServiceGone.error(text));
        Some(service.namespace.clone())
    }

    /// What `connection` serves.
    pub fn served_by(&self, connection: u64) -> Option<Rc<Service>> {
        let all = self.all.borrow();
        let mut services = all.values();
        services
            .find(|service| service.connection.number == connection)
            .cloned()
    }
}
