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

use kairo_wire::message::{Message, Meta};
use kairo_wire::{ErrorCode, ErrorInfo, Id, Limits, Request, Response, Value};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::router::Permission;

/// Services at once.
pub const MAX_SERVICES: usize = 32;
/// Methods of one service.
pub const MAX_METHODS: usize = 64;
/// Calls of one service under way.
pub const MAX_CALLS: usize = 64;
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
    calls: RefCell<BTreeMap<i64, oneshot::Sender<Response>>>,
    next_call: Cell<i64>,
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
            next_call: Cell::new(1),
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
        caller: impl Serialize,
    ) -> Result<Pending, ErrorInfo> {
        let busy = |text: String| {
            let error = ErrorInfo::new(ErrorCode::Busy, text).reason("service_busy");
            error
                .with("service", self.namespace.as_str())
                .retry(Some(50))
        };
        if self.calls.borrow().len() >= MAX_CALLS {
            return Err(busy(format!(
                "{} has {MAX_CALLS} calls under way; try again",
                self.namespace
            )));
        }
        let number = self.next_call.get();
        let request = Forwarded {
            id: Id::Number(number),
            method,
            params,
            meta: ForwardedMeta { meta, caller },
        };
        let frame = request.encode(&Limits::default()).map_err(|error| {
            let text = format!("the request cannot be passed on: {error}");
            ErrorInfo::new(ErrorCode::Limit, text).reason("too_large")
        })?;
        let outgoing = &self.connection.outgoing;
        if !outgoing.has_room(frame.len()) {
            let text = format!("{} does not read its requests", self.namespace);
            return Err(busy(text));
        }
        self.next_call.set(number + 1);
        let (tell, answer) = oneshot::channel();
        self.calls.borrow_mut().insert(number, tell);
        outgoing.push(frame);
        Ok(Pending {
            service: Rc::clone(self),
            number,
            answer,
        })
    }

    /// A response arrived from it. One that nobody waits for any more is dropped.
    pub fn answered(&self, response: Response) {
        let Id::Number(number) = response.id else {
            return;
        };
        if let Some(tell) = self.calls.borrow_mut().remove(&number) {
            self.answered.set(self.answered.get() + 1);
            self.late_in_a_row.set(0);
            // The caller may just have gone.
            let _ = tell.send(response);
        }
    }
}

/// A call that a service is working on. Dropped before its answer, the service is told that nobody
/// waits for it any more.
#[derive(Debug)]
pub struct Pending {
    service: Rc<Service>,
    number: i64,
    answer: oneshot::Receiver<Response>,
}

impl Pending {
    /// The answer, within the service's time-out.
    ///
    /// # Errors
    /// What the service answered, or that it did not.
    pub async fn result(mut self) -> Result<Value, ErrorInfo> {
        let service = Rc::clone(&self.service);
        let namespace = &service.namespace;
        match tokio::time::timeout(service.timeout, &mut self.answer).await {
            Ok(Ok(response)) => response.into_result(),
            Ok(Err(_)) => {
                let text = format!("the process that serves {namespace} ended during the call");
                let error = ErrorInfo::new(ErrorCode::Unavailable, text);
                Err(error.reason("service_gone").retry(Some(200)))
            }
            Err(_) => {
                service.late.set(service.late.get() + 1);
                let in_a_row = service.late_in_a_row.get().saturating_add(1);
                service.late_in_a_row.set(in_a_row);
                let text = format!(
                    "{namespace} did not answer within {} ms",
                    service.timeout.as_millis()
                );
                let error = ErrorInfo::new(ErrorCode::Timeout, text);
                Err(error.reason("service_late").retry(None))
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
            return Err(ErrorInfo::new(ErrorCode::Conflict, text).reason("serves_already"));
        }
        let mut all = self.all.borrow_mut();
        if let Some(other) = all.get(&service.namespace) {
            let text = format!(
                "{} is served by connection {} already",
                service.namespace, other.connection.number
            );
            return Err(ErrorInfo::new(ErrorCode::Busy, text).reason("namespace_taken"));
        }
        if all.len() >= MAX_SERVICES {
            let text = format!("{MAX_SERVICES} services are registered, more are not allowed");
            return Err(ErrorInfo::new(ErrorCode::Limit, text).reason("services"));
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
