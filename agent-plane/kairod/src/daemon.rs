//! What the whole of kairod shares, on its one thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use kairo_wire::{ErrorInfo, Meta};
use tokio::sync::Notify;

use crate::admission::Admission;
use crate::audit::{self, Audit};
use crate::cancellation::{Canceled, cancel_everywhere};
use crate::connection::Connection;
use crate::denial::{self, Quotas};
use crate::events::EventBus;
use crate::facts::{
    AuditFinding, IntentEnded, IntentStarted, PermissionDenied, PermissionRevoked, Ready,
    ServiceRemoved, Stopping,
};
use crate::grant_file::GrantFile;
use crate::grant_writer::GrantWriter;
use crate::idempotency::Keys;
use crate::intents::{Intent, Intents, Status};
use crate::large_frames::LargeFrames;
use crate::methods::introspection::Own;
use crate::permission::grant::{Grant, Now};
use crate::permission::policy::Policy;
use crate::permission::request::Requests;
use crate::permission::{Class, Decision, DeviceLimits, Right, Table};
use crate::plane::{Plane, SharedPlane};
use crate::reasons::Reason;
use crate::router::{Permission, Router};
use crate::sensors::Sensors;
use crate::service_stream::Places;
use crate::services::{Service, Services};
use crate::settings::Settings;
use crate::spans::Tracer;

/// Denials that are remembered.
const KEPT_DENIALS: usize = 64;
/// How often a kairod that ends looks whether it is done.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Everything that more than one connection touches.
#[derive(Debug)]
pub struct Daemon {
    /// When kairod started.
    pub started: Instant,
    /// The event bus.
    pub bus: Rc<EventBus>,
    /// What is recorded and watched.
    pub settings: Settings,
    /// How the machine is.
    pub sensors: Rc<Sensors>,
    /// The newest denials that made an event, for the diagnostics.
    pub denials: RefCell<VecDeque<(SystemTime, PermissionDenied)>>,
    /// What was done for whom, in which trace.
    pub tracer: Rc<Tracer>,
    /// The real-time plane.
    pub plane: SharedPlane,
    /// The methods.
    pub router: Router,
    /// Who may do what.
    pub permissions: RefCell<Table>,
    /// Who writes grants down; none without a state directory.
    grant_writer: Option<GrantWriter>,
    /// Grants that are being written, and not in force yet.
    pub grants_to_come: Cell<usize>,
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
    /// Who gets a connection.
    pub admission: Admission,
    /// Rights that somebody asks for.
    pub requests: RefCell<Requests>,
    /// What kernel.introspect tells of kairod's own, made when it is first asked for.
    pub introspected: OnceCell<Own>,
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
    pub fn new(
        policy: Policy,
        settings: Settings,
        sensor_root: &Path,
        state_dir: Option<&Path>,
    ) -> Self {
        let bus = Rc::new(EventBus::new());
        bus.tracer.set_ratio(settings.traces.ratio);
        let mut table = Table::new(policy);
        let grant_writer = state_dir.and_then(|directory| restore_grants(directory, &mut table));
        let (audit, findings) = Audit::open(state_dir);
        for finding in &findings.0 {
            tracing::warn!("audit: {finding}");
            let finding = finding.clone();
            bus.publish(&AuditFinding { finding }, None);
        }
        Self {
            audit,
            grant_writer,
            grants_to_come: Cell::new(0),
            started: Instant::now(),
            plane: Rc::new(RefCell::new(Plane::new(Rc::clone(&bus)))),
            tracer: Rc::clone(&bus.tracer),
            bus,
            settings,
            sensors: Rc::new(Sensors::new(sensor_root, state_dir)),
            denials: RefCell::default(),
            router: Router::new(crate::methods::all()),
            permissions: RefCell::new(table),
            idempotency: Rc::default(),
            intents: RefCell::default(),
            services: Services::default(),
            large_frames: LargeFrames::default(),
            stream_places: Places::default(),
            connections: RefCell::default(),
            admission: Admission::default(),
            requests: RefCell::default(),
            introspected: OnceCell::new(),
            grants_changed: Notify::new(),
            quotas: RefCell::default(),
            draining: Cell::new(false),
            next_connection: Cell::new(1),
        }
    }

    /// Tells everybody that it answers.
    pub fn is_ready(&self) {
        self.bus.publish(&Ready {}, None);
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
        self.bus.publish(&Stopping {}, None);
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
            self.service_gone(&connection, "kairod_stopped");
            self.session_ended(&connection, "kairod_stopped");
        }
        let text = "kairod is stopping; the stream ends here";
        let stopping = Reason::Draining.error(text);
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
        let started = IntentStarted {
            intent: intent.id.clone(),
            name: intent.name.clone(),
            parent: intent.parent.clone(),
            owner: intent.owner.clone(),
        };
        let cause = Meta {
            correlation_id: Some(intent.id.clone()),
            ..meta.clone()
        };
        self.intents.borrow_mut().begin(intent)?;
        self.bus.publish(&started, Some(&cause));
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
            let fact = IntentEnded {
                intent: one.clone(),
                name: Some(intent.name.clone()),
                parent: intent.parent.clone(),
                status: status.name(),
                reason: reason.into(),
                cause: None,
            };
            drop(intents);
            let cause = Meta {
                correlation_id: Some(one.clone()),
                ..Meta::default()
            };
            self.bus.publish(&fact, Some(&cause));
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
        self.session_ended(connection, "closed");
    }

    /// `connection` serves nothing any more. Gives the namespace that it served.
    pub fn service_gone(&self, connection: &Connection, cause: &str) -> Option<String> {
        let namespace = self.services.remove(connection.number)?;
        let removed = ServiceRemoved {
            namespace: namespace.clone(),
            cause: cause.into(),
        };
        self.bus.publish(&removed, None);
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
            return Err(Reason::ProcessEnded.error(text));
        }
        let classes = permission.classes();
        let decision = self.decide(connection, Right::MethodCall, name, classes);
        if decision.allowed {
            return Ok(());
        }
        Err(self.denied(connection, Right::MethodCall, name, &decision))
    }

    /// Has a grant written down. It may be in force once that is answered, and not before.
    ///
    /// # Errors
    /// There is no state directory.
    pub fn keep_grant(
        &self,
        grant: Grant,
    ) -> Result<impl Future<Output = Result<(), ErrorInfo>> + 'static, ErrorInfo> {
        let Some(writer) = &self.grant_writer else {
            let text = "kairod has no state directory, so a grant would not survive a restart; \
                        see `kairo status`";
            return Err(Reason::NoStateDirectory.error(text));
        };
        let told = writer.given(grant);
        Ok(async move {
            let kept = told
                .await
                .unwrap_or_else(|_| Err("its writer ended".into()));
            kept.map_err(|error| {
                let text = format!("the grant cannot be written down: {error}");
                Reason::NoStore { cause: None }.error_retried(text, 1000)
            })
        })
    }

    /// Has grants that ended taken out of the file. Gives whether that is on the disk.
    pub fn forget_grants(&self, ids: Vec<u64>) -> impl Future<Output = bool> + 'static {
        let told = self.grant_writer.as_ref().map(|writer| writer.ended(ids));
        async move {
            match told {
                Some(told) => matches!(told.await, Ok(Ok(()))),
                None => false,
            }
        }
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
        let kept = self.forget_grants(over.iter().map(|grant| grant.id).collect());
        let bus = Rc::clone(&self.bus);
        // Told behind the file, as a revocation is; after a restart they would end by the clocks.
        tokio::task::spawn_local(async move {
            let _ = tokio::time::timeout(crate::methods::KEPT_PATIENCE, kept).await;
            for grant in over {
                let revoked = PermissionRevoked {
                    grant: grant.id,
                    by: Some("its end".into()),
                    cause: None,
                };
                bus.publish(&revoked, None);
            }
        });
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
                stream.revoke(self.denied(&stream.caller, right, &method.name, &decision));
            }
        }
    }

    /// The quotas of a user. There are as many as users that ever connected.
    pub fn quotas_of(&self, uid: u32) -> Rc<Quotas> {
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
            let fact = denial::event(number, &subject, right, target, decision, untold);
            tracing::warn!(
                caller = %subject,
                pid = connection.identity.pid(),
                right = right.name(),
                target = target,
                "denied"
            );
            let mut denials = self.denials.borrow_mut();
            if denials.len() >= KEPT_DENIALS {
                denials.pop_front();
            }
            denials.push_back((SystemTime::now(), fact.clone()));
            drop(denials);
            self.bus.publish(&fact, None);
            let entry = audit::denied(connection, right, target, decision);
            self.audit.note(entry);
        }
        denial::refusal(&subject, right, target, decision)
    }
}

/// Puts the grants that were kept into `table`, and starts who keeps them from now on.
fn restore_grants(state_dir: &Path, table: &mut Table) -> Option<GrantWriter> {
    let file = GrantFile::in_directory(state_dir);
    match file.load() {
        Ok((grants, next)) => table.restore(grants, next),
        // No grant is the closed state; the operator sees it in permission.list.
        Err(trouble) => tracing::error!("no grants: {trouble}"),
    }
    let writer = GrantWriter::start(file, table.grants().to_vec(), table.next_grant());
    writer
        .inspect_err(|error| tracing::error!("no grants can be given: {error}"))
        .ok()
}
