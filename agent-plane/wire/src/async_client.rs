//! An asynchronous client: any number of calls and subscriptions under way over one connection.
//! Needs the feature `tokio`, and runs on any of its runtimes.
//!
//! Two tasks serve the connection, one for each direction. Every call has a deadline; a call whose
//! future is dropped is cancelled in the kernel too. A subscription holds at most
//! [`WAITING_ITEMS`] items that nobody has taken: one that is not read ends with
//! [`ClientError::Backlog`] and delays neither calls nor other subscriptions. Dropping the last
//! clone of the client closes the connection.
//!
//! ```no_run
//! # async fn example() -> Result<(), kairo_wire::ClientError> {
//! use std::time::Duration;
//! use kairo_wire::AsyncClient;
//!
//! let wait = Duration::from_secs(2);
//! let client = AsyncClient::connect().await?;
//! let (one, two): (kairo_wire::Value, kairo_wire::Value) = tokio::try_join!(
//!     client.call("kernel.ping", (), wait),
//!     client.call("device.list", (), wait),
//! )?;
//! # Ok(())
//! # }
//! ```

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmpv::Value;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::async_service::WAITING_REQUESTS;
use crate::client::{ClientError, Incoming, adopt, finish, granted, incoming, name_in};
use crate::endpoint::Endpoint;
use crate::error::ErrorInfo;
use crate::flow::{Asked, Notice, Outflows};
use crate::frame::{Decoder, Frame, FrameError, FrameKind, LARGE_CONTROL_BYTES, Limits};
use crate::message::{Id, Message, MessageError, Meta, Request, Response};
use crate::passing;
use crate::sealed::Sealed;

/// Items of a subscription that wait to be taken.
pub const WAITING_ITEMS: usize = 4096;
/// Frames that wait to be written; a caller waits beyond that.
const WAITING_FRAMES: usize = 64;

/// The reading half.
enum Reader {
    Unix(unix::OwnedReadHalf),
    Tcp(tcp::OwnedReadHalf),
}

impl Reader {
    /// Reads what is there, once something is, and the descriptors beside it.
    async fn read(
        &mut self,
        bytes: &mut [u8],
        arrived: &mut VecDeque<OwnedFd>,
    ) -> std::io::Result<usize> {
        let half = match self {
            Self::Tcp(half) => return half.read(bytes).await,
            Self::Unix(half) => AsRef::<UnixStream>::as_ref(&*half),
        };
        loop {
            half.readable().await?;
            let receive = || passing::receive(half, bytes, arrived);
            match half.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// The writing half.
enum Writer {
    Unix(unix::OwnedWriteHalf),
    Tcp(tcp::OwnedWriteHalf),
}

impl Writer {
    async fn write(&mut self, outbound: Outbound) -> std::io::Result<()> {
        let frame = outbound.frame.as_slice();
        let half = match self {
            Self::Tcp(half) => return half.write_all(frame).await,
            Self::Unix(half) => half,
        };
        let Some(sealed) = outbound.attached else {
            return half.write_all(frame).await;
        };
        let sent = loop {
            half.writable().await?;
            let stream = half.as_ref();
            let send = || passing::send(stream, frame, Some(sealed.descriptor()));
            match stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        half.write_all(&frame[sent..]).await
    }
}

/// A frame to be written, and the payload beside it.
#[derive(Debug)]
struct Outbound {
    frame: Vec<u8>,
    attached: Option<Sealed>,
}

impl From<Vec<u8>> for Outbound {
    fn from(frame: Vec<u8>) -> Self {
        Self {
            frame,
            attached: None,
        }
    }
}

type Items = mpsc::Sender<Incoming>;

/// Who waits for a response.
#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<Response<Value>>,
    /// Where the items of the subscription go that the response names. Entered by the reader, so
    /// that items which follow the response at once are not missed.
    items: Option<Items>,
}

#[derive(Debug, Default)]
struct State {
    calls: HashMap<i64, Waiting>,
    subscriptions: HashMap<String, Items>,
    limits: Limits,
    /// Where requests go that are to be served; none where nothing is.
    asked: Option<mpsc::Sender<Asked>>,
    /// Streams that are served.
    flows: Outflows,
    /// How the connection ended, once it has.
    ended: Option<End>,
}

/// How a connection ended.
#[derive(Clone, Debug)]
enum End {
    Closed,
    Frame(FrameError),
    Message(MessageError),
    Refused(Box<ErrorInfo>),
}

impl End {
    fn of(error: ClientError) -> Self {
        match error {
            ClientError::Frame(error) => Self::Frame(error),
            ClientError::Message(error) => Self::Message(error),
            ClientError::Refused(error) => Self::Refused(error),
            _ => Self::Closed,
        }
    }

    fn error(&self) -> ClientError {
        match self.clone() {
            Self::Closed => ClientError::Closed,
            Self::Frame(error) => error.into(),
            Self::Message(error) => error.into(),
            Self::Refused(error) => ClientError::Refused(error),
        }
    }
}

impl State {
    /// Why nothing comes over the connection any more.
    fn why_ended(&self) -> ClientError {
        self.ended.as_ref().map_or(ClientError::Closed, End::error)
    }
}

#[derive(Debug)]
struct Inner {
    frames: mpsc::Sender<Outbound>,
    state: Arc<Mutex<State>>,
    /// Rung by notices of streams that are served, and by the end.
    notices: Arc<Notify>,
    next_id: AtomicI64,
    reading: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends by itself when nobody can send any more.
        self.reading.abort();
    }
}

/// A connection to the kernel. Clones share it.
#[derive(Clone, Debug)]
pub struct AsyncClient(Arc<Inner>);

impl AsyncClient {
    /// Connects to what the environment names; see [`Endpoint`].
    ///
    /// # Errors
    /// When it names nothing usable, or nobody listens.
    pub async fn connect() -> Result<Self, ClientError> {
        Self::connect_to(&Endpoint::from_environment()?).await
    }

    /// Connects to a socket in the file system.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect_path(path: &Path) -> Result<Self, ClientError> {
        Self::connect_to(&Endpoint::Path(path.to_path_buf())).await
    }

    /// Connects to `endpoint`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect_to(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let refused = |error| ClientError::Connect {
            endpoint: endpoint.to_string(),
            error,
        };
        let (reader, writer): (Reader, Writer) = match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(refused)?;
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            local => {
                let stream = match local {
                    Endpoint::Descriptor(number) => adopt(*number).and_then(|stream| {
                        stream.set_nonblocking(true)?;
                        UnixStream::from_std(stream)
                    }),
                    Endpoint::Path(path) => UnixStream::connect(path).await,
                    Endpoint::Tcp(_) => Err(std::io::ErrorKind::Unsupported.into()),
                };
                let (reader, writer) = stream.map_err(refused)?.into_split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
        };
        Ok(Self::over(reader, writer))
    }

    fn over(reader: Reader, writer: Writer) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (frames, queue) = mpsc::channel(WAITING_FRAMES);
        let notices = Arc::new(Notify::new());
        tokio::spawn(write(writer, queue));
        let reading = tokio::spawn(read(reader, Arc::clone(&state), Arc::clone(&notices)));
        Self(Arc::new(Inner {
            frames,
            state,
            notices,
            next_id: AtomicI64::new(1),
            reading: reading.abort_handle(),
        }))
    }

    /// Calls `method` and waits at most `deadline` for its result. `params` must serialize to a
    /// map; `()` means none.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the kernel's error, or what broke on the way.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<R, ClientError> {
        self.call_with_meta(method, params, None, deadline).await
    }

    /// [`AsyncClient::call`] with metadata.
    ///
    /// # Errors
    /// As [`AsyncClient::call`].
    pub async fn call_with_meta<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        meta: Option<Meta>,
        deadline: Duration,
    ) -> Result<R, ClientError> {
        let response = self.ask(method, params, meta, None, deadline).await?;
        finish(method, response)
    }

    /// Sends a request that gets no response.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn notify(&self, method: &str, params: impl Serialize) -> Result<(), ClientError> {
        let frame = encode(None, method, params, None)?;
        let sent = self.0.frames.send(frame.into()).await;
        sent.map_err(|_| ClientError::Closed)
    }

    /// Subscribes with `method` (`event.subscribe`, `device.subscribe`).
    ///
    /// # Errors
    /// As [`AsyncClient::call`].
    pub async fn subscribe(
        &self,
        method: &str,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<AsyncSubscription, ClientError> {
        let (entry, items) = mpsc::channel(WAITING_ITEMS);
        let response = self
            .ask(method, params, None, Some(entry), deadline)
            .await?;
        let reply: Value = finish(method, response)?;
        let name = name_in(&reply).ok_or_else(|| ClientError::Result {
            method: method.into(),
            detail: format!("no text `subscription` in {reply}"),
        })?;
        Ok(AsyncSubscription {
            name: name.into(),
            reply,
            items,
            told: false,
            client: self.clone(),
        })
    }

    /// Asks for optional features of the protocol (`kernel.hello`): `large_frames`, `descriptors`.
    /// Gives those that are granted.
    ///
    /// # Errors
    /// As [`AsyncClient::call`].
    pub async fn negotiate(
        &self,
        features: &[&str],
        deadline: Duration,
    ) -> Result<Vec<String>, ClientError> {
        let features = features.iter().map(|name| Value::from(*name)).collect();
        let params = Value::Map(vec![("features".into(), Value::Array(features))]);
        let reply: Value = self.call("kernel.hello", params, deadline).await?;
        let granted = granted(&reply);
        if granted.iter().any(|name| name == "large_frames") {
            lock(&self.0.state).limits.control_bytes = LARGE_CONTROL_BYTES;
        }
        Ok(granted)
    }

    /// Takes requests of others from now on.
    pub(crate) fn serve(&self) -> mpsc::Receiver<Asked> {
        let (entry, asked) = mpsc::channel(WAITING_REQUESTS);
        lock(&self.0.state).asked = Some(entry);
        asked
    }

    /// Does something with the streams that are served.
    pub(crate) fn flows<T>(&self, work: impl FnOnce(&mut Outflows) -> T) -> T {
        work(&mut lock(&self.0.state).flows)
    }

    /// Rung by notices of these streams, and by the end.
    pub(crate) fn notices(&self) -> Arc<Notify> {
        Arc::clone(&self.0.notices)
    }

    /// Why nothing comes any more, once that is so.
    pub(crate) fn why_ended(&self) -> Option<ClientError> {
        lock(&self.0.state).ended.as_ref().map(End::error)
    }

    /// Sends a message, and a payload beside it.
    pub(crate) async fn send_message<M: Message>(
        &self,
        message: &M,
        attached: Option<Sealed>,
    ) -> Result<(), ClientError> {
        let frame = message.encode(&lock(&self.0.state).limits)?;
        let sent = self.0.frames.send(Outbound { frame, attached }).await;
        sent.map_err(|_| ClientError::Closed)
    }

    async fn ask(
        &self,
        method: &str,
        params: impl Serialize,
        meta: Option<Meta>,
        items: Option<Items>,
        deadline: Duration,
    ) -> Result<Response<Value>, ClientError> {
        let number = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let request = request(Some(Id::Number(number)), method, params, meta);
        let frame = request.encode(&lock(&self.0.state).limits)?;
        let (tell, told) = oneshot::channel();
        {
            let mut state = lock(&self.0.state);
            if state.ended.is_some() {
                return Err(state.why_ended());
            }
            state.calls.insert(number, Waiting { tell, items });
        }
        // Also when this future is dropped.
        let _under_way = UnderWay {
            inner: &self.0,
            number,
        };
        let answered = async {
            // A writer that has ended drops the frame; the reader then says how it ended.
            let _ = self.0.frames.send(frame.into()).await;
            let told = told.await;
            told.map_err(|_| lock(&self.0.state).why_ended())
        };
        let in_time = tokio::time::timeout(deadline, answered).await;
        in_time.unwrap_or(Err(ClientError::Deadline(deadline)))
    }
}

/// A call whose answer has not come. Dropped before that, it is cancelled.
struct UnderWay<'client> {
    inner: &'client Inner,
    number: i64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let waiting = lock(&self.inner.state).calls.remove(&self.number);
        if waiting.is_none() {
            return;
        }
        let params = Value::Map(vec![("id".into(), self.number.into())]);
        if let Ok(frame) = encode(None, "kernel.cancel", params, None) {
            // A queue that is full holds the request itself, or much more urgent ones.
            let _ = self.inner.frames.try_send(frame.into());
        }
    }
}

/// What a subscription delivers. Dropping it unsubscribes.
#[derive(Debug)]
pub struct AsyncSubscription {
    /// Its name, as items carry it.
    pub name: String,
    /// The whole reply of the subscribing method.
    pub reply: Value,
    items: mpsc::Receiver<Incoming>,
    /// Why it ended has been said.
    told: bool,
    client: AsyncClient,
}

impl AsyncSubscription {
    /// The next item; none once it has ended and said why.
    ///
    /// # Errors
    /// [`ClientError::Backlog`] when it was not read fast enough, [`ClientError::Closed`] when the
    /// connection has ended.
    pub async fn next(&mut self) -> Option<Result<Incoming, ClientError>> {
        if let Some(item) = self.items.recv().await {
            return Some(Ok(item));
        }
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        let state = lock(&self.client.0.state);
        let ended = state.ended.as_ref();
        Some(Err(ended.map_or(ClientError::Backlog, End::error)))
    }

    /// Grants it more bytes of credit (`stream.credit`).
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn grant(&self, bytes: u64) -> Result<(), ClientError> {
        let params = Value::Map(vec![
            ("subscription".into(), self.name.as_str().into()),
            ("bytes".into(), bytes.into()),
        ]);
        self.client.notify("stream.credit", params).await
    }
}

impl Drop for AsyncSubscription {
    fn drop(&mut self) {
        lock(&self.client.0.state).subscriptions.remove(&self.name);
        let params = Value::Map(vec![("subscription".into(), self.name.as_str().into())]);
        if let Ok(frame) = encode(None, "event.unsubscribe", params, None) {
            // Without room for it the kernel goes on delivering, and the items are passed over.
            let _ = self.client.0.frames.try_send(frame.into());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing that holds the lock can panic half-way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request<P>(id: Option<Id>, method: &str, params: P, meta: Option<Meta>) -> Request<P> {
    Request {
        id,
        method: method.into(),
        params: Some(params),
        meta,
    }
}

fn encode(
    id: Option<Id>,
    method: &str,
    params: impl Serialize,
    meta: Option<Meta>,
) -> Result<Vec<u8>, ClientError> {
    Ok(request(id, method, params, meta).encode(&Limits::default())?)
}

async fn write(mut writer: Writer, mut queue: mpsc::Receiver<Outbound>) {
    while let Some(outbound) = queue.recv().await {
        if writer.write(outbound).await.is_err() {
            return; // The reader says so.
        }
    }
}

/// Hands out what arrives until the connection ends; then everybody who waits hears so.
async fn read(mut reader: Reader, state: Arc<Mutex<State>>, notices: Arc<Notify>) {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; 64 * 1024];
    let mut arrived = VecDeque::new();
    let ended = loop {
        match reader.read(&mut bytes, &mut arrived).await {
            Ok(0) | Err(_) => break End::Closed,
            Ok(count) => decoder.feed(&bytes[..count]),
        }
        decoder.set_limits(lock(&state).limits);
        if let Err(error) = take_frames(&mut decoder, &state, &mut arrived) {
            break End::of(error);
        }
        notices.notify_waiters();
    };
    let mut state = lock(&state);
    state.ended = Some(ended);
    state.calls.clear();
    state.subscriptions.clear();
    state.asked = None;
    notices.notify_waiters();
}

fn take_frames(
    decoder: &mut Decoder,
    state: &Mutex<State>,
    arrived: &mut VecDeque<OwnedFd>,
) -> Result<(), ClientError> {
    while let Some(frame) = decoder.next_frame()? {
        take_frame(&frame, &mut lock(state), arrived)?;
    }
    Ok(())
}

fn take_frame(
    frame: &Frame,
    state: &mut State,
    arrived: &mut VecDeque<OwnedFd>,
) -> Result<(), ClientError> {
    if frame.kind == FrameKind::Request && state.asked.is_some() {
        return take_request(frame, state);
    }
    if frame.kind != FrameKind::Response {
        let mut item = incoming(frame)?;
        if let Incoming::Chunk(chunk) = &mut item {
            chunk.attach(arrived)?;
        }
        let name = item.subscription().unwrap_or_default().to_string();
        if let Some(items) = state.subscriptions.get(&name)
            && items.try_send(item).is_err()
        {
            // It is not read: ended here, so that nobody else waits for its reader.
            state.subscriptions.remove(&name);
        }
        return Ok(());
    }
    let response = Response::<Value>::decode(&frame.payload, &Limits::default())?;
    let Id::Number(number) = response.id else {
        return Ok(());
    };
    let Some(waiting) = state.calls.remove(&number) else {
        return Ok(()); // Given up earlier.
    };
    if let Some(items) = waiting.items
        && let Some(name) = response.result.as_ref().and_then(name_in)
    {
        state.subscriptions.insert(name.to_string(), items);
    }
    // The caller may just have given up.
    let _ = waiting.tell.send(response);
    Ok(())
}

/// Takes a request that is to be served, or what the kernel says of a stream.
fn take_request(frame: &Frame, state: &mut State) -> Result<(), ClientError> {
    let asked = Asked::decode(&frame.payload, &Limits::default())?;
    if let Some(notice) = Notice::of(&asked) {
        state.flows.heed(&notice);
        return Ok(());
    }
    if let Some(entry) = &state.asked {
        // Its caller hears from the kernel that the service is late.
        let _ = entry.try_send(asked);
    }
    Ok(())
}
