//! One client: reads its requests, runs them, writes what is due to it.
//!
//! A connection is the unit of trust and of failure. Garbage, an oversized or an unfinished frame,
//! a peer that never reads: each ends or slows this connection and no other. Claims and
//! subscriptions live as long as it does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use kairo_wire::flow::WINDOW_BYTES;
use kairo_wire::frame::LARGE_CONTROL_BYTES;
use kairo_wire::message::{Message, MessageError};
use kairo_wire::{Frame, FrameKind, Id, Limits, Request, Response, scan};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::closer;
use crate::daemon::Daemon;
use crate::held::Held;
use crate::idempotency;
use crate::identity::Identity;
use crate::input::Input;
use crate::large_frames::Share;
use crate::outgoing::{Item, Outgoing};
use crate::reasons::Reason;
use crate::router::refusal;
use crate::service_stream::{self, ServiceStream};
use crate::socket::Socket;
use crate::subscription::Subscription;

/// How long a frame may take from its first byte to its last.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one connection under way at once; more wait ([`Held`]), then in the socket.
pub const MAX_IN_FLIGHT: usize = 64;
/// Requests that a connection may begin before others have their turn.
const REQUESTS_A_TURN: u32 = 8;
/// How long a closing connection may take to read what is still due to it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The connection.
#[derive(Debug)]
pub struct Connection {
    /// Its number.
    pub number: u64,
    /// Who is at the other end.
    pub identity: Identity,
    /// What waits to be written.
    pub outgoing: Outgoing,
    /// Whether it serves or ever served methods: late answers come after the end of a service.
    pub has_served: Cell<bool>,
    /// Number of the next call that it is asked to serve.
    pub next_call: Cell<i64>,
    /// An event said that it began, and another has to say that it ended.
    pub told: Cell<bool>,
    /// Streams that it serves, by the number of the call that opened them.
    pub streams: RefCell<BTreeMap<i64, Rc<ServiceStream>>>,
    /// What it negotiated.
    pub features: Cell<Features>,
    /// Its subscriptions by name.
    pub subscriptions: RefCell<BTreeMap<String, Rc<Subscription>>>,
    /// Subscriptions ever made, for their names.
    pub next_subscription: Cell<u64>,
    tasks: RefCell<JoinSet<()>>,
    in_flight: Cell<usize>,
    /// Requests that wait until others have ended, or until the peer reads.
    held: Held,
    /// When it was accepted.
    opened: Instant,
    /// Whether a whole frame ever came.
    has_spoken: Cell<bool>,
    /// Whether its place was given to another.
    is_turned_out: Cell<bool>,
    turned_out: Notify,
    /// Requests under way that have an id.
    running: RefCell<BTreeMap<Key, Running>>,
    /// Notifications ever begun, for their keys.
    notifications: Cell<u64>,
}

/// What a connection negotiated, beside what everybody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Requests and responses may be longer.
    pub large_frames: bool,
    /// Payloads may be in descriptors.
    pub descriptors: bool,
}

/// What a request under way is known by: a notification has no id, and can be called off too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Request(Id),
    Notification(u64),
}

/// A request under way.
#[derive(Debug)]
struct Running {
    task: AbortHandle,
    /// What it belongs to.
    intent: Option<String>,
    /// Whether it counts as urgent.
    is_urgent: bool,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody is there any more to write to.
    Gone,
    /// The peer sends nothing more, or sent what cannot be answered further. It may still read.
    Done,
}

impl Connection {
    fn new(number: u64, identity: Identity) -> Self {
        Self {
            number,
            identity,
            outgoing: Outgoing::default(),
            has_served: Cell::new(false),
            next_call: Cell::new(1),
            told: Cell::new(false),
            streams: RefCell::default(),
            features: Cell::default(),
            subscriptions: RefCell::default(),
            next_subscription: Cell::new(1),
            tasks: RefCell::default(),
            in_flight: Cell::new(0),
            held: Held::default(),
            opened: Instant::now(),
            has_spoken: Cell::new(false),
            is_turned_out: Cell::new(false),
            turned_out: Notify::new(),
            running: RefCell::default(),
            notifications: Cell::new(0),
        }
    }

    /// Adds what it asks for to what it has negotiated. Nothing is taken back: frames may be on
    /// their way.
    pub fn negotiate(&self, asked: &[String]) {
        let has = |name: &str| asked.iter().any(|asked| asked == name);
        let before = self.features.get();
        self.features.set(Features {
            large_frames: before.large_frames || has("large_frames"),
            descriptors: before.descriptors || has("descriptors"),
        });
    }

    /// What it may send, and be sent.
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            control_bytes: match self.features.get().large_frames {
                true => LARGE_CONTROL_BYTES,
                false => usual.control_bytes,
            },
            // No service has credit for more.
            chunk_bytes: WINDOW_BYTES as usize,
            ..usual
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get() + self.held.urgent()
    }

    /// Whether it was accepted at least `time` ago and no whole frame ever came.
    pub fn is_silent(&self, time: Duration) -> bool {
        !self.has_spoken.get() && self.opened.elapsed() >= time
    }

    /// Whether it ends without a word, for another in its place.
    pub fn leaves(&self) -> bool {
        self.is_turned_out.get()
    }

    /// Ends it, for another in its place.
    pub fn turn_out(&self) {
        self.is_turned_out.set(true);
        self.turned_out.notify_one();
    }

    /// Whether an ordinary request may begin.
    fn has_place(&self) -> bool {
        self.in_flight.get() < MAX_IN_FLIGHT && self.outgoing.has_any_room()
    }

    /// Returns once an ordinary request may begin.
    async fn place(&self) {
        loop {
            let freed = self.outgoing.freed.notified();
            tokio::pin!(freed);
            // Registered before the check, so that a place freed in between is not missed.
            freed.as_mut().enable();
            if self.has_place() {
                return;
            }
            freed.await;
        }
    }

    /// Stops a request that is under way or waits; its answer is `E_CANCELED`. False if there is
    /// none.
    pub fn cancel(&self, id: &Id) -> bool {
        if self.call_off(&Key::Request(id.clone())) {
            return true;
        }
        let waited = self.held.cancel(id);
        if waited {
            self.outgoing.push(canceled(id));
            // There is room for another to wait, so reading can go on.
            self.outgoing.freed.notify_waiters();
        }
        waited
    }

    fn call_off(&self, key: &Key) -> bool {
        let Some(running) = self.running.borrow_mut().remove(key) else {
            return false;
        };
        running.task.abort();
        let frame = match key {
            Key::Request(id) => canceled(id),
            Key::Notification(_) => Vec::new(),
        };
        self.ended(frame, running.is_urgent);
        true
    }

    /// Cancels the requests under way that belong to one of `intents`; gives how many.
    pub fn cancel_requests_of(&self, intents: &BTreeSet<String>) -> usize {
        let running = self.running.borrow();
        let theirs = running.iter().filter(|(_, running)| {
            let intent = running.intent.as_ref();
            intent.is_some_and(|intent| intents.contains(intent))
        });
        let keys: Vec<Key> = theirs.map(|(key, _)| key.clone()).collect();
        drop(running);
        keys.iter().filter(|key| self.call_off(key)).count()
    }

    /// Ends the subscriptions that belong to one of `intents`; gives how many.
    pub fn cancel_subscriptions_of(&self, intents: &BTreeSet<String>) -> usize {
        let mut all = self.subscriptions.borrow_mut();
        let before = all.len();
        all.retain(|_, subscription| {
            let keep = !subscription.belongs_to(intents);
            if !keep {
                subscription.stop();
            }
            keep
        });
        before - all.len()
    }

    /// Cancels every request that waits or is under way.
    pub fn cancel_all(&self) {
        for id in self.held.cancel_all() {
            self.outgoing.push(canceled(&id));
        }
        let keys: Vec<Key> = self.running.borrow().keys().cloned().collect();
        for key in keys {
            self.call_off(&key);
        }
    }

    /// A request that was under way ended with this frame.
    fn ended(&self, item: impl Into<Item>, is_urgent: bool) {
        match is_urgent {
            true => self.held.urgent_ended(),
            false => self.in_flight.set(self.in_flight.get() - 1),
        }
        self.outgoing.push(item);
        // Also when there was nothing to write: somebody may wait for the place.
        self.outgoing.freed.notify_waiters();
    }

    /// Runs `task` until it ends or the connection does.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> tokio::task::AbortHandle {
        let mut tasks = self.tasks.borrow_mut();
        // Those that ended give their memory back here.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task)
    }
}

/// Serves a connection to its end.
pub async fn serve(daemon: Rc<Daemon>, stream: UnixStream) {
    let Ok(identity) = Identity::of(&stream, daemon.permissions.borrow().policy()) else {
        closer::close(stream.into_std());
        return; // Whoever the kernel cannot name is not served.
    };
    let number = daemon.next_connection();
    let connection = Rc::new(Connection::new(number, identity));
    let Ok(socket) = Socket::new(stream) else {
        return; // Out of descriptors or of memory: the peer hears that it is closed.
    };
    let opened = Rc::clone(&connection);
    daemon.connections.borrow_mut().insert(number, opened);
    daemon.session_started(&connection);

    let writing = async { connection.outgoing.write_to(&socket).await };
    tokio::pin!(writing);
    let end = tokio::select! {
        // In this order, so that what was just answered is written in the same turn.
        biased;
        end = read(&daemon, &connection, &socket) => end,
        () = connection.identity.ended() => End::Gone,
        () = connection.turned_out.notified() => End::Gone,
        () = connection.outgoing.overdue() => End::Gone,
        _ = &mut writing => End::Gone,
    };

    connection.tasks.borrow_mut().abort_all();
    connection.subscriptions.borrow_mut().clear();
    daemon.plane.borrow_mut().holder_gone(number);
    daemon.connection_gone(&connection);
    daemon
        .idempotency
        .forget(&idempotency::of_connection(number));
    if end == End::Done {
        connection.outgoing.close();
        // A peer that does not read its last response does without.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, writing).await;
    }
    connection.outgoing.clear();
    // Counted until its queue is gone: connections that end without reading are memory too.
    daemon.connections.borrow_mut().remove(&number);
}

/// What has come of a connection's bytes.
struct Reading<'connection> {
    input: Input<'connection>,
    /// When the frame that has begun must be whole.
    due: Option<Instant>,
    /// The peer sends nothing more.
    is_over: bool,
    /// Requests begun in this turn.
    begun: u32,
}

/// Reads frames and starts what they ask for.
async fn read(daemon: &Rc<Daemon>, connection: &Rc<Connection>, socket: &Socket) -> End {
    let mut reading = Reading {
        input: Input::new(socket),
        due: None,
        is_over: false,
        begun: 0,
    };
    loop {
        let held = &connection.held;
        if begin_held(daemon, connection, &mut reading).await.is_err() {
            return End::Done;
        }
        if !held.is_full() {
            // Also behind a hello that had waited.
            reading.input.decoder.set_limits(connection.limits());
            match reading.input.decoder.next_frame() {
                Ok(Some(frame)) => {
                    reading.due = None;
                    connection.has_spoken.set(true);
                    let input = &mut reading.input;
                    if take(daemon, connection, frame, input).await.is_err() {
                        return End::Done;
                    }
                    reading.rest().await;
                    continue;
                }
                Ok(None) if reading.input.has_stray_descriptors() => return End::Done,
                Ok(None) => {}
                Err(error) => {
                    let error = Reason::Malformed.error(error.to_string());
                    return reading.input.refuse(connection, error);
                }
            }
        }
        if reading.is_over && held.is_empty() {
            return End::Done;
        }
        if reading.is_over || held.is_full() {
            // Nobody can be late who is not read.
            reading.due = None;
            connection.place().await;
            continue;
        }
        match have_share(daemon, connection, &mut reading).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(end) => return end,
        }
        let more = tokio::select! {
            more = reading.more(connection) => more,
            // What waits is begun as soon as it may, whether anything more comes or not.
            () = connection.place(), if !held.is_empty() => continue,
        };
        match more {
            Some(Ok(count)) => reading.fed(count),
            Some(Err(_)) => return End::Gone,
            None => {
                let seconds = FRAME_TIMEOUT.as_secs();
                let text = format!("a frame did not arrive whole within {seconds} s");
                let error = Reason::SlowFrame.error(text);
                return reading.input.refuse(connection, error);
            }
        }
    }
}

/// Waits until the frame under way has a share of the large frames, if it is one. False where what
/// waits can be begun first.
async fn have_share(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    reading: &mut Reading<'_>,
) -> Result<bool, End> {
    if !reading.input.needs_share() {
        return Ok(true);
    }
    if reading.input.is_unasked(connection.has_served.get()) {
        let text = "a client sends request frames only, and others where it serves";
        let error = Reason::Malformed.error(text);
        return Err(reading.input.refuse(connection, error));
    }
    let uid = connection.identity.as_subject().uid;
    tokio::select! {
        () = reading.input.have_share(daemon, uid) => {}
        () = connection.place(), if !connection.held.is_empty() => return Ok(false),
    }
    // It could not be read while it waited.
    reading.due = None;
    Ok(true)
}

impl Reading<'_> {
    /// Waits for bytes; none when the frame that has begun is late.
    async fn more(&mut self, connection: &Connection) -> Option<std::io::Result<usize>> {
        // Before it serves: what it sends may come right behind its registration.
        let descriptors = connection.features.get().descriptors;
        let serves = connection.has_served.get();
        if !self.input.decoder.is_mid_frame() {
            return Some(self.input.read(descriptors, serves).await);
        }
        let due = *self
            .due
            .get_or_insert_with(|| Instant::now() + FRAME_TIMEOUT);
        let reading = self.input.read(descriptors, serves);
        tokio::time::timeout_at(due, reading).await.ok()
    }

    /// So many bytes came.
    fn fed(&mut self, count: usize) {
        self.is_over = count == 0;
        if self.is_over {
            // What never becomes whole holds nothing from others.
            self.input.share = None;
        }
        self.input.feed(count);
    }

    /// A few requests a turn: a read may hold hundreds, and notifications are not slowed by their
    /// responses.
    async fn rest(&mut self) {
        self.begun = (self.begun + 1) % REQUESTS_A_TURN;
        if self.begun == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Begins what waited and may now. An error means that the connection must close.
async fn begin_held(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    reading: &mut Reading<'_>,
) -> Result<(), ()> {
    while connection.has_place()
        && let Some(payload) = connection.held.pop()
    {
        let request = Request::decode(&payload, &Limits::default());
        begin(daemon, connection, request, &payload, None).await?;
        reading.rest().await;
    }
    Ok(())
}

/// Takes one frame. An error means that the connection must close.
async fn take(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    frame: Frame,
    input: &mut Input<'_>,
) -> Result<(), ()> {
    let share = input.share.take();
    if frame.kind == FrameKind::Response && connection.has_served.get() {
        // A service that does not speak the protocol is not worth keeping.
        let response = Response::decode(&frame.payload, &Limits::default()).map_err(drop)?;
        if let Some(service) = daemon.services.served_by(connection.number) {
            service.answered(response, share);
        }
        return Ok(());
    }
    if frame.kind == FrameKind::StreamChunk && connection.has_served.get() {
        return service_stream::take(connection, &frame, &mut input.arrived).await;
    }
    if frame.kind != FrameKind::Request {
        let text = "a client sends request frames only, and others where it serves";
        refuse(connection, &frame.payload, text.into());
        return Err(());
    }
    let request = Request::decode(&frame.payload, &Limits::default());
    if let Ok(request) = &request
        && daemon.router.is_urgent(&request.method)
        && connection
            .held
            .lets_through(connection.outgoing.has_any_room())
    {
        start(daemon, connection, request.clone(), share, true).await;
        return Ok(());
    }
    if connection.held.is_empty() && connection.has_place() {
        return begin(daemon, connection, request, &frame.payload, share).await;
    }
    if share.is_some() {
        // It would wait with what is shared by all connections.
        let text = "a large request is taken only while there is a place for it; send it again";
        let error = Reason::LargeFrames.error_retried(text, 50);
        connection
            .outgoing
            .push(refusal(request.ok().and_then(|request| request.id), error));
        return Ok(());
    }
    // Back-pressure: nothing further is begun while responses pile up. Kept as bytes, because what
    // is made of them can be forty times as much.
    let id = match request {
        Ok(request) => request.id,
        Err(_) => None,
    };
    connection.held.push(id, frame.payload);
    Ok(())
}

/// Says what is wrong with a request; whether it said its id.
fn refuse(connection: &Connection, payload: &[u8], text: String) -> bool {
    let id = scan::salvage_id(payload);
    let known = id.is_some();
    let error = Reason::Malformed.error(text);
    connection.outgoing.push(refusal(id, error));
    known
}

/// Starts an ordinary request, or refuses it. An error means that the connection must close.
async fn begin(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    request: Result<Request, MessageError>,
    payload: &[u8],
    share: Option<Share>,
) -> Result<(), ()> {
    match request {
        Ok(request) => {
            start(daemon, connection, request, share, false).await;
            Ok(())
        }
        // The frame was whole and has an id: the next one may well be fine.
        Err(error @ MessageError::Shape { .. }) => {
            match refuse(connection, payload, error.to_string()) {
                true => Ok(()),
                false => Err(()),
            }
        }
        Err(error) => {
            refuse(connection, payload, error.to_string());
            Err(())
        }
    }
}

/// Starts a request; what cannot finish at once goes on beside the reader.
async fn start(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    request: Request,
    share: Option<Share>,
    is_urgent: bool,
) {
    let id = request.id.clone();
    let meta = request.meta.as_ref();
    let intent = meta.and_then(|meta| meta.correlation_id.clone());
    if let Some(id) = &id
        && connection
            .running
            .borrow()
            .contains_key(&Key::Request(id.clone()))
    {
        let text = format!("a request with the id {id} is under way; give each its own");
        let error = Reason::DuplicateId.error(text);
        connection.outgoing.push(refusal(Some(id.clone()), error));
        return;
    }
    let mut work = Box::pin(daemon.router.take(daemon, connection, request, share));
    let now = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context)));
    match now.await {
        Poll::Ready(frame) => connection.outgoing.push(frame),
        Poll::Pending => {
            match is_urgent {
                true => connection.held.urgent_began(),
                false => connection.in_flight.set(connection.in_flight.get() + 1),
            }
            let caller = Rc::clone(connection);
            let key = id.map_or_else(
                || {
                    let number = connection.notifications.get();
                    connection.notifications.set(number + 1);
                    Key::Notification(number)
                },
                Key::Request,
            );
            let ended = key.clone();
            let task = connection.spawn(async move {
                let frame = work.await;
                caller.running.borrow_mut().remove(&ended);
                caller.ended(frame, is_urgent);
            });
            let running = Running {
                task,
                intent,
                is_urgent,
            };
            connection.running.borrow_mut().insert(key, running);
        }
    }
}

/// The answer to a request that was cancelled.
fn canceled(id: &Id) -> Vec<u8> {
    let text = "canceled by the caller; what it had done so far stays done";
    let error = Reason::Canceled.error(text);
    refusal(Some(id.clone()), error)
}
