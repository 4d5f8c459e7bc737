//! What the whole of kairod shares, on its one thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kairo_wire::{ErrorCode, ErrorInfo, Meta, Value};
use tokio::sync::Notify;

use crate::audit::{self, Audit};
use crate::cancellation::{Canceled, cancel_everywhere};
use crate::connection::Connection;
use crate::denial::{self, Quotas};
use crate::events::{EventBus, map};
use crate::grant_file::GrantFile;
use crate::idempotency::Keys;
use crate::intents::{Intent, Intents, Status};
use crate::large_frames::LargeFrames;
use crate::permission::grant::Now;
use crate::permission::policy::Policy;
use crate::permission::{Class, Decision, DeviceLimits, Right, Table};
use crate::plane::{Plane, SharedPlane};
use crate::router::{Permission, Router};
use crate::service_stream::Places;
use crate::services::{Service, Services};
use crate::topics;

/// How often a kairod that ends looks whether it is done.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Everything that more than one connection touches.
#[derive(Debug)]
pub struct Daemon {
    /// When kairod started.
    pub started: Instant,
    /// The event bus.
    pub bus: Rc<EventBus>,
    /// The real-time plane.
    pub plane: SharedPlane,
    /// The methods.
    pub router: Router,
    /// Who may do what.
    pub permissions: RefCell<Table>,
    /// Where grants are kept; none without a state directory.
    grant_file: Option<GrantFile>,
    /// Who did what.
    pub audit: Audit,
    /// Requests that may be repeated.
    pub idempotency: Rc<Keys>,
    /// What callers are up to.
    pub intents: RefCell<Intents>,
    /// Methods that other processes serve.
    pub services: Services,
    /// Memory for large frames.
    pub large_frames: LargeFrames,
    /// Places for streams that services serve.
    pub stream_places: Places,
    /// Open connections by number.
    pub connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    /// Connections refused because there were too many.
    pub refused_connections: Cell<u64>,
    /// Rung when there are other grants than before.
    pub grants_changed: Notify,
    /// How much each user may still write into the audit log.
    quotas: RefCell<BTreeMap<u32, Rc<Quotas>>>,
    /// kairod ends: nothing new is begun.
    draining: Cell<bool>,
    next_connection: Cell<u64>,
}

impl Daemon {
    /// A daemon that nobody is connected to.
    pub fn new(policy: Policy, state_dir: Option<&Path>) -> Self {
        let bus = Rc::new(EventBus::new());
        let mut table = Table::new(policy);
        let grant_file = state_dir.map(GrantFile::in_directory);
        match grant_file.as_ref().map(GrantFile::load) {
            Some(Ok((grants, next))) => table.restore(grants, next),
            // No grant is the closed state; the operator sees it in permission.list.
            Some(Err(trouble)) => say!("kairod: no grants: {trouble}"),
            None => {}
        }
        let (audit, findings) = Audit::open(state_dir);
        for finding in &findings.0 {
            say!("kairod: audit: {finding}");
            let data = map([("finding", Value::from(finding.as_str()))]);
            bus.publish(topics::AUDIT_FINDING, data, None);
        }
        Self {
            audit,
            grant_file,
            started: Instant::now(),
            plane: Rc::new(RefCell::new(Plane::new(Rc::clone(&bus)))),
            bus,
            router: Router::new(crate::methods::all()),
            permissions: RefCell::new(table),
            idempotency: Rc::default(),
            intents: RefCell::default(),
            services: Services::default(),
            large_frames: LargeFrames::default(),
            stream_places: Places::default(),
            connections: RefCell::default(),
            refused_connections: Cell::new(0),
            grants_changed: Notify::new(),
            quotas: RefCell::default(),
            draining: Cell::new(false),
            next_connection: Cell::new(1),
        }
    }

    /// A number for a new connection.
    pub fn next_connection(&self) -> u64 {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        number
    }

    /// Whether kairod is ending.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Ends the claims now, begins nothing new, lets what is under way end, within `patience`, and
    /// writes what is still due, within the same again. Then every intent ends too.
    pub async fn drain(&self, patience: Duration) {
        // Devices take their safe action now, and not when kairo-rt notices that we are gone.
        self.plane.borrow_mut().close_all();
        self.draining.set(true);
        self.bus
            .publish(topics::STOPPING, Value::Map(Vec::new()), None);
        let all =
            || -> Vec<Rc<Connection>> { self.connections.borrow().values().cloned().collect() };
        let until = tokio::time::Instant::now() + patience;
        while all().iter().any(|connection| connection.in_flight() > 0)
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(DRAIN_STEP).await;
        }
        let open: Vec<String> = self.intents.borrow().tops();
        for id in open {
            self.end_intents(&id, Status::Interrupted, "kairod was stopped");
        }
        for connection in all() {
            connection.cancel_all();
        }
        let text = "kairod is stopping; the stream ends here";
        let stopping = ErrorInfo::new(ErrorCode::Unavailable, text).reason("draining");
        for service in self.services.all() {
            service.end_streams(&stopping);
        }
        // Subscriptions deliver the last events in turns of their own.
        tokio::time::sleep(DRAIN_STEP).await;
        for connection in all() {
            connection.outgoing.close();
        }
        let until = tokio::time::Instant::now() + patience;
        while all()
            .iter()
            .any(|connection| connection.outgoing.bytes() > 0)
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(DRAIN_STEP).await;
        }
    }

    /// Whether the peer of `connection` may do `right` to `target`. Nothing is told to anybody.
    pub fn may(&self, connection: &Connection, right: Right, target: &str) -> bool {
        self.decide(connection, right, target, &[]).allowed
    }

    /// How far the peer of `connection` may do `right` to `target`.
    ///
    /// # Errors
    /// It may not. The operator is told by an event.
    pub fn require(
        &self,
        connection: &Connection,
        right: Right,
        target: &str,
    ) -> Result<DeviceLimits, ErrorInfo> {
        let decision = self.decide(connection, right, target, &[]);
        if decision.allowed {
            return Ok(decision.limits);
        }
        Err(self.denied(connection, right, target, &decision))
    }

    /// Begins an intent and tells everybody.
    ///
    /// # Errors
    /// See [`Intents::begin`].
    pub fn begin_intent(&self, intent: Intent, meta: &Meta) -> Result<(), ErrorInfo> {
        let data = map([
            ("intent", Value::from(intent.id.as_str())),
            ("name", Value::from(intent.name.as_str())),
            (
                "parent",
                intent.parent.clone().map_or(Value::Nil, Value::from),
            ),
            ("owner", Value::from(intent.owner.as_str())),
        ]);
        let cause = Meta {
            correlation_id: Some(intent.id.clone()),
            ..meta.clone()
        };
        self.intents.borrow_mut().begin(intent)?;
        self.bus.publish(topics::INTENT_STARTED, data, Some(&cause));
        Ok(())
    }

    /// Ends an intent, and as canceled everything below it that is live; calls off what belongs to
    /// them. Gives the intents, the leaves first, and what was called off.
    pub fn end_intents(&self, id: &str, status: Status, reason: &str) -> (Vec<String>, Canceled) {
        let subtree = self.intents.borrow().subtree(id);
        let canceled = cancel_everywhere(self, &subtree.iter().cloned().collect());
        let mut ended = Vec::new();
        for one in subtree {
            let (status, reason) = match one == id {
                true => (status, reason),
                false => (Status::Canceled, "the intent that it served ended"),
            };
            let mut intents = self.intents.borrow_mut();
            let Some(intent) = intents.end(&one, status, reason) else {
                continue;
            };
            let data = map([
                ("intent", Value::from(one.as_str())),
                ("name", Value::from(intent.name.as_str())),
                (
                    "parent",
                    intent.parent.clone().map_or(Value::Nil, Value::from),
                ),
                ("status", Value::from(status.name())),
                ("reason", Value::from(reason)),
            ]);
            drop(intents);
            let cause = Meta {
                correlation_id: Some(one.clone()),
                ..Meta::default()
            };
            self.bus.publish(topics::INTENT_ENDED, data, Some(&cause));
            ended.push(one);
        }
        (ended, canceled)
    }

    /// What ends with a connection, beside its tasks, subscriptions and claims.
    pub fn connection_gone(&self, connection: &Connection) {
        let intents = self.intents.borrow().of_connection(connection.number);
        for id in intents {
            self.end_intents(&id, Status::Abandoned, "the connection that began it ended");
        }
        self.service_gone(connection, "process_gone");
    }

    /// `connection` serves nothing any more. Gives the namespace that it served.
    pub fn service_gone(&self, connection: &Connection, cause: &str) -> Option<String> {
        let namespace = self.services.remove(connection.number)?;
        let data = map([
            ("namespace", Value::from(namespace.as_str())),
            ("cause", Value::from(cause)),
        ]);
        self.bus.publish(topics::SERVICE_REMOVED, data, None);
        Some(namespace)
    }

    /// Lets the peer of `connection` call the method `name`, or says why not.
    ///
    /// # Errors
    /// No rule allows it, or the peer's process has ended.
    pub fn require_method(
        &self,
        connection: &Connection,
        name: &str,
        permission: Permission,
    ) -> Result<(), ErrorInfo> {
        if permission != Permission::Observe && !connection.identity.is_alive() {
            let text = "the process that made this connection has ended; connect anew";
            let error = ErrorInfo::new(ErrorCode::PermissionDenied, text);
            return Err(error.reason("process_ended"));
        }
        let classes = permission.classes();
        let decision = self.decide(connection, Right::MethodCall, name, classes);
        if decision.allowed {
            return Ok(());
        }
        Err(self.denied(connection, Right::MethodCall, name, &decision))
    }

    /// Writes the grants down.
    ///
    /// # Errors
    /// There is no state directory, or it cannot be written.
    pub fn keep_grants(&self) -> Result<(), ErrorInfo> {
        let Some(file) = &self.grant_file else {
            let text = "kairod has no state directory, so a grant would not survive a restart; \
                        see `kairo status`";
            let error = ErrorInfo::new(ErrorCode::Unavailable, text);
            return Err(error.reason("no_store"));
        };
        let table = self.permissions.borrow();
        file.keep(table.grants(), table.next_grant())
            .map_err(|error| {
                let text = format!("the grants cannot be written down: {error}");
                let error = ErrorInfo::new(ErrorCode::Unavailable, text);
                error.reason("no_store").retry(Some(1000))
            })
    }

    /// What of `connection` is in force and rests on its rights; none if nothing is.
    pub fn in_force_of(&self, connection: &Connection) -> Option<&'static str> {
        let number = connection.number;
        if self.plane.borrow().is_holding(number) {
            Some("a claim")
        } else if !connection.subscriptions.borrow().is_empty() {
            Some("subscriptions")
        } else if self.services.served_by(number).is_some() {
            Some("a service")
        } else if !self.intents.borrow().of_connection(number).is_empty() {
            Some("intents")
        } else if connection.in_flight() > 0 {
            Some("requests under way")
        } else {
            None
        }
    }

    /// Ends grants whose time is over, for ever: what rests on them ends with them.
    pub async fn end_grants(&self) {
        loop {
            let changed = self.grants_changed.notified();
            let next = self.permissions.borrow().next_end(Now::read());
            let over = async {
                match next {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => self.sweep_grants(),
                () = changed => {}
            }
        }
    }

    /// Takes away the grants that are over.
    pub fn sweep_grants(&self) {
        let over = self.permissions.borrow_mut().sweep(Now::read());
        if over.is_empty() {
            return;
        }
        self.rights_changed();
        for grant in over {
            let data = map([
                ("grant", Value::from(grant.id)),
                ("by", Value::from("its end")),
            ]);
            self.bus.publish(topics::PERMISSION_REVOKED, data, None);
        }
        if let Err(error) = self.keep_grants() {
            // Ended all the same; after a restart they end again, by the clocks.
            say!("kairod: {error}");
        }
    }

    /// Whether `connection` may serve `namespace`: by its own name, or by a right.
    pub fn may_serve(&self, connection: &Connection, namespace: &str) -> bool {
        let subject = connection.identity.subject();
        let own = matches!(subject.class, Class::Service | Class::Driver)
            && subject.name.as_deref() == Some(namespace);
        own || self.may(connection, Right::ServiceRegister, namespace)
    }

    /// A right was taken away: what rests on it ends.
    pub fn rights_changed(&self) {
        for service in self.services.all() {
            if !self.may_serve(&service.connection, &service.namespace) {
                self.service_gone(&service.connection, "revoked");
            }
            self.reconsider_streams(&service);
        }
        let connections = self.connections.borrow();
        let may = |number: u64, device: &str| {
            let holder = connections.get(&number);
            holder.is_none_or(|holder| self.may(holder, Right::DeviceClaim, device))
        };
        self.plane.borrow_mut().reconsider(may);
    }

    /// Ends the streams of `service` whose callers may not call their methods any more.
    fn reconsider_streams(&self, service: &Service) {
        let streams: Vec<_> = service
            .connection
            .streams
            .borrow()
            .values()
            .cloned()
            .collect();
        for stream in streams {
            let (method, right) = (&stream.method, Right::MethodCall);
            let classes = method.permission.classes();
            let decision = self.decide(&stream.caller, right, &method.name, classes);
            if !decision.allowed {
                stream.end(Some(self.denied(
                    &stream.caller,
                    right,
                    &method.name,
                    &decision,
                )));
            }
        }
    }

    /// The quotas of a user. There are as many as users that ever connected.
    fn quotas_of(&self, uid: u32) -> Rc<Quotas> {
        Rc::clone(self.quotas.borrow_mut().entry(uid).or_default())
    }

    /// Writes what a peer did into the audit log; of anybody but an operator only so much.
    pub fn note(&self, connection: &Connection, mut entry: kairo_audit::Entry) {
        let subject = connection.identity.subject();
        if subject.class != Class::Operator {
            let quotas = self.quotas_of(subject.uid);
            match quotas.notes.take(tokio::time::Instant::now()) {
                None => return,
                Some(0) => {}
                Some(untold) => entry.why.reason = format!("{untold} entries before it left out"),
            }
        }
        self.audit.note(entry);
    }

    fn decide(
        &self,
        connection: &Connection,
        right: Right,
        target: &str,
        builtin: &[Class],
    ) -> Decision {
        let subject = connection.identity.as_subject();
        let table = self.permissions.borrow();
        table.decide(&subject, right, target, builtin, Now::read)
    }

    fn denied(
        &self,
        connection: &Connection,
        right: Right,
        target: &str,
        decision: &Decision,
    ) -> ErrorInfo {
        let subject = connection.identity.subject();
        let quotas = self.quotas_of(subject.uid);
        if let Some(untold) = quotas.denials.take(tokio::time::Instant::now()) {
            let number = connection.number;
            let data = denial::event(number, &subject, right, target, decision, untold);
            self.bus.publish(topics::PERMISSION_DENIED, data, None);
            let entry = audit::denied(connection, right, target, decision);
            self.audit.note(entry);
        }
        denial::refusal(&subject, right, target, decision)
    }
}
