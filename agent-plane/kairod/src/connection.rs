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
use kairo_wire::message::Message;
use kairo_wire::{ErrorCode, ErrorInfo, Frame, FrameKind, Id, Limits, Request, Response, scan};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::idempotency;
use crate::identity::Identity;
use crate::input::Input;
use crate::large_frames::Held;
use crate::outgoing::{Item, Outgoing};
use crate::router::refusal;
use crate::service_stream::{self, ServiceStream};
use crate::subscription::Subscription;

/// How long a frame may take from its first byte to its last.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one connection under way at once; more wait in the socket.
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
            streams: RefCell::default(),
            features: Cell::default(),
            subscriptions: RefCell::default(),
            next_subscription: Cell::new(1),
            tasks: RefCell::default(),
            in_flight: Cell::new(0),
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
        self.in_flight.get()
    }

    /// Stops a request that is under way; its answer is `E_CANCELED`. False if there is none.
    pub fn cancel(&self, id: &Id) -> bool {
        self.call_off(&Key::Request(id.clone()))
    }

    fn call_off(&self, key: &Key) -> bool {
        let Some(running) = self.running.borrow_mut().remove(key) else {
            return false;
        };
        running.task.abort();
        self.ended(match key {
            Key::Request(id) => canceled(id),
            Key::Notification(_) => Vec::new(),
        });
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

    /// Cancels every request under way.
    pub fn cancel_all(&self) {
        let keys: Vec<Key> = self.running.borrow().keys().cloned().collect();
        for key in keys {
            self.call_off(&key);
        }
    }

    /// A request that was under way ended with this frame.
    fn ended(&self, item: impl Into<Item>) {
        self.in_flight.set(self.in_flight.get() - 1);
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
        return; // Whoever the kernel cannot name is not served.
    };
    let number = daemon.next_connection();
    let connection = Rc::new(Connection::new(number, identity));
    let (reader, writer) = stream.into_split();
    let opened = Rc::clone(&connection);
    daemon.connections.borrow_mut().insert(number, opened);

    let writing = async { connection.outgoing.write_to(writer).await };
    tokio::pin!(writing);
    let end = tokio::select! {
        end = read(&daemon, &connection, reader) => end,
        () = connection.identity.ended() => End::Gone,
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
    // Counted until its queue is gone: connections that end without reading are memory too.
    daemon.connections.borrow_mut().remove(&number);
}

/// Reads frames and starts what they ask for.
async fn read(daemon: &Rc<Daemon>, connection: &Rc<Connection>, socket: OwnedReadHalf) -> End {
    let mut input = Input::new(socket);
    let mut due: Option<Instant> = None;
    let mut turn = 0;
    loop {
        loop {
            match input.decoder.next_frame() {
                Ok(Some(frame)) => {
                    due = None;
                    if take(daemon, connection, &frame, &mut input).await.is_err() {
                        return End::Done;
                    }
                    input.decoder.set_limits(connection.limits());
                    // A few requests a turn: a read may hold hundreds, and notifications are not
                    // slowed by their responses.
                    turn = (turn + 1) % REQUESTS_A_TURN;
                    if turn == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let error = ErrorInfo::new(ErrorCode::InvalidRequest, error.to_string());
                    return input.refuse(connection, error);
                }
            }
        }
        if input.has_stray_descriptors() {
            return End::Done;
        }
        input.share(daemon).await;
        let is_mid_frame = input.decoder.is_mid_frame();
        // Before it serves: what it sends may come right behind its registration.
        let descriptors = connection.features.get().descriptors;
        let reading = input.read(descriptors, connection.has_served.get());
        let count = if is_mid_frame {
            let due = *due.get_or_insert_with(|| Instant::now() + FRAME_TIMEOUT);
            match tokio::time::timeout_at(due, reading).await {
                Ok(count) => count,
                Err(_) => {
                    let seconds = FRAME_TIMEOUT.as_secs();
                    let text = format!("a frame did not arrive whole within {seconds} s");
                    let error = ErrorInfo::new(ErrorCode::Timeout, text).reason("slow_frame");
                    return input.refuse(connection, error);
                }
            }
        } else {
            reading.await
        };
        match count {
            Ok(0) => return End::Done,
            Err(_) => return End::Gone,
            Ok(count) => input.feed(count),
        }
    }
}

/// Takes one frame. An error means that the connection must close.
async fn take(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    frame: &Frame,
    input: &mut Input,
) -> Result<(), ()> {
    let held = input.held.take();
    let refuse = |text: String| {
        let id = scan::salvage_id(&frame.payload);
        let known = id.is_some();
        let error = ErrorInfo::new(ErrorCode::InvalidRequest, text);
        connection.outgoing.push(refusal(id, error));
        known
    };
    if frame.kind == FrameKind::Response && connection.has_served.get() {
        // A service that does not speak the protocol is not worth keeping.
        let response = Response::decode(&frame.payload, &Limits::default()).map_err(drop)?;
        if let Some(service) = daemon.services.served_by(connection.number) {
            service.answered(response, held);
        }
        return Ok(());
    }
    if frame.kind == FrameKind::StreamChunk && connection.has_served.get() {
        return service_stream::take(connection, frame, &mut input.arrived).await;
    }
    if frame.kind != FrameKind::Request {
        refuse("a client sends request frames only, and others where it serves".into());
        return Err(());
    }
    let request = match Request::decode(&frame.payload, &Limits::default()) {
        Ok(request) => request,
        // The frame was whole and has an id: the next one may well be fine.
        Err(error @ kairo_wire::message::MessageError::Shape { .. }) => {
            return if refuse(error.to_string()) {
                Ok(())
            } else {
                Err(())
            };
        }
        Err(error) => {
            refuse(error.to_string());
            return Err(());
        }
    };
    // Back-pressure: no further request is taken while responses pile up.
    connection.outgoing.room().await;
    while connection.in_flight.get() >= MAX_IN_FLIGHT {
        // A response makes room, and rings when it is written.
        let freed = connection.outgoing.freed.notified();
        freed.await;
    }
    start(daemon, connection, request, held).await;
    Ok(())
}

/// Starts a request; what cannot finish at once goes on beside the reader.
async fn start(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    request: Request,
    held: Option<Held>,
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
        let error = ErrorInfo::new(ErrorCode::InvalidRequest, text).reason("duplicate_id");
        connection.outgoing.push(refusal(Some(id.clone()), error));
        return;
    }
    let mut work = Box::pin(daemon.router.take(daemon, connection, request, held));
    let now = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context)));
    match now.await {
        Poll::Ready(frame) => connection.outgoing.push(frame),
        Poll::Pending => {
            connection.in_flight.set(connection.in_flight.get() + 1);
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
                caller.ended(frame);
            });
            let running = Running { task, intent };
            connection.running.borrow_mut().insert(key, running);
        }
    }
}

/// The answer to a request that was cancelled.
fn canceled(id: &Id) -> Vec<u8> {
    let text = "canceled by the caller; what it had done so far stays done";
    let error = ErrorInfo::new(ErrorCode::Canceled, text).reason("canceled");
    refusal(Some(id.clone()), error)
}
