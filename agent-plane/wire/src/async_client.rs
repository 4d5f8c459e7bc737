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

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmpv::Value;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::client::{ClientError, Incoming, adopt, finish, incoming, name_in};
use crate::endpoint::Endpoint;
use crate::error::ErrorInfo;
use crate::frame::{Decoder, Frame, FrameError, FrameKind, Limits};
use crate::message::{Id, Message, MessageError, Meta, Request, Response};

/// Items of a subscription that wait to be taken.
pub const WAITING_ITEMS: usize = 4096;
/// Frames that wait to be written; a caller waits beyond that.
const WAITING_FRAMES: usize = 64;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
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
    frames: mpsc::Sender<Vec<u8>>,
    state: Arc<Mutex<State>>,
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
                (Box::new(reader), Box::new(writer))
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
                (Box::new(reader), Box::new(writer))
            }
        };
        Ok(Self::over(reader, writer))
    }

    fn over(reader: Reader, writer: Writer) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (frames, queue) = mpsc::channel(WAITING_FRAMES);
        tokio::spawn(write(writer, queue));
        let reading = tokio::spawn(read(reader, Arc::clone(&state)));
        Self(Arc::new(Inner {
            frames,
            state,
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
        let sent = self.0.frames.send(frame).await;
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

    async fn ask(
        &self,
        method: &str,
        params: impl Serialize,
        meta: Option<Meta>,
        items: Option<Items>,
        deadline: Duration,
    ) -> Result<Response<Value>, ClientError> {
        let number = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode(Some(Id::Number(number)), method, params, meta)?;
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
            let _ = self.0.frames.send(frame).await;
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
            let _ = self.inner.frames.try_send(frame);
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
            let _ = self.client.0.frames.try_send(frame);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing that holds the lock can panic half-way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode(
    id: Option<Id>,
    method: &str,
    params: impl Serialize,
    meta: Option<Meta>,
) -> Result<Vec<u8>, ClientError> {
    let request = Request {
        id,
        method: method.into(),
        params: Some(params),
        meta,
    };
    Ok(request.encode(&Limits::default())?)
}

async fn write(mut writer: Writer, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if writer.write_all(&frame).await.is_err() {
            return; // The reader says so.
        }
    }
}

/// Hands out what arrives until the connection ends; then everybody who waits hears so.
async fn read(mut reader: Reader, state: Arc<Mutex<State>>) {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; 64 * 1024];
    let ended = loop {
        match reader.read(&mut bytes).await {
            Ok(0) | Err(_) => break End::Closed,
            Ok(count) => decoder.feed(&bytes[..count]),
        }
        if let Err(error) = take_frames(&mut decoder, &state) {
            break End::of(error);
        }
    };
    let mut state = lock(&state);
    state.ended = Some(ended);
    state.calls.clear();
    state.subscriptions.clear();
}

fn take_frames(decoder: &mut Decoder, state: &Mutex<State>) -> Result<(), ClientError> {
    while let Some(frame) = decoder.next_frame()? {
        take_frame(&frame, &mut lock(state))?;
    }
    Ok(())
}

fn take_frame(frame: &Frame, state: &mut State) -> Result<(), ClientError> {
    if frame.kind != FrameKind::Response {
        let item = incoming(frame)?;
        let name = item.subscription().unwrap_or_default();
        if let Some(items) = state.subscriptions.get(name)
            && items.try_send(item.clone()).is_err()
        {
            // It is not read: ended here, so that nobody else waits for its reader.
            let name = name.to_string();
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
