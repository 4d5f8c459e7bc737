//! A blocking client: one thread, one connection, every wait bounded.
//!
//! Events and chunks that arrive while a response is awaited are kept in order, at most
//! [`BACKLOG_MESSAGES`] of them, and handed out by [`Client::next_incoming`]. Claims and
//! subscriptions belong to the connection: dropping the client ends them.
//!
//! ```no_run
//! use std::time::Duration;
//! use kairo_wire::Client;
//!
//! let deadline = Duration::from_secs(2);
//! let mut client = Client::connect()?;
//! let reply: kairo_wire::Value = client.call("kernel.ping", (), deadline)?;
//! println!("{reply}");
//! # Ok::<(), kairo_wire::ClientError>(())
//! ```

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rmpv::Value;
use serde::{Serialize, de::DeserializeOwned};

use crate::endpoint::{Endpoint, EndpointError};
use crate::error::ErrorInfo;
use crate::flow::Asked;
use crate::frame::{Decoder, Frame, FrameError, FrameKind, LARGE_CONTROL_BYTES, Limits};
use crate::message::{
    self, Event, Id, Message, MessageError, Meta, Request, Response, StreamChunk,
};
use crate::passing;

/// Events and chunks kept while the program waits for a response.
pub const BACKLOG_MESSAGES: usize = 4096;
/// The topic of the one event of a connection that the kernel does not serve: all places are taken.
pub const CONNECTION_REFUSED: &str = "kairo.system.connection.refused";
/// Most that is read at once, bytes: a chunk of a stream, as services cut them.
const READ_BYTES: usize = 64 * 1024;
/// Longest a connection attempt or a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call did not give a result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The environment names no usable endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Nobody listens.
    #[error("cannot reach the kernel at {endpoint}: {error}")]
    Connect {
        /// Where.
        endpoint: String,
        /// What the kernel of the machine said.
        error: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to the kernel failed: {0}")]
    Broken(std::io::Error),
    /// The kernel closed the connection.
    #[error("the kernel closed the connection")]
    Closed,
    /// No answer in time. The request may still take effect.
    #[error("no answer from the kernel within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// What arrived is not a frame.
    #[error("the peer does not speak the protocol: {0}")]
    Frame(#[from] FrameError),
    /// What arrived or was to be sent is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The program reads its subscriptions too slowly.
    #[error("{BACKLOG_MESSAGES} events and chunks wait unread: read them, or unsubscribe")]
    Backlog,
    /// The kernel refused the request.
    #[error(transparent)]
    Refused(Box<ErrorInfo>),
    /// The result is not of the type asked for.
    #[error("the result of {method} is not what was expected: {detail}")]
    Result {
        /// The method.
        method: String,
        /// What is wrong.
        detail: String,
    },
}

impl ClientError {
    /// The kernel's refusal, if that is what it is.
    pub fn refusal(&self) -> Option<&ErrorInfo> {
        match self {
            Self::Refused(info) => Some(info),
            _ => None,
        }
    }
}

/// Something that a subscription delivers.
// One at a time, handed over and gone: a box for each would cost more than the copy.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// An event.
    Event(Event),
    /// A piece of a stream.
    Chunk(StreamChunk),
}

#[derive(Debug)]
enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Transport {
    fn set_timeouts(&self, read: Duration) -> std::io::Result<()> {
        // A zero time-out would mean none at all.
        let read = Some(read.max(Duration::from_millis(1)));
        match self {
            Self::Unix(stream) => stream.set_read_timeout(read),
            Self::Tcp(stream) => stream.set_read_timeout(read),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(bytes),
            Self::Tcp(stream) => stream.read(bytes),
        }
    }

    /// Reads, and takes in the descriptors that come beside the bytes.
    fn read_with(
        &mut self,
        bytes: &mut [u8],
        arrived: &mut VecDeque<OwnedFd>,
    ) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => passing::receive(&*stream, bytes, arrived),
            Self::Tcp(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
    }

    fn write_with(&mut self, bytes: &[u8], descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
        let Self::Unix(stream) = self else {
            return Err(std::io::ErrorKind::Unsupported.into());
        };
        let sent = loop {
            match passing::send(&*stream, bytes, Some(descriptor)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        stream.write_all(&bytes[sent..])
    }
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
    decoder: Decoder,
    next_id: i64,
    backlog: VecDeque<Incoming>,
    limits: Limits,
    /// Descriptors that arrived and whose frames have not; none before they were negotiated.
    arrived: Option<VecDeque<OwnedFd>>,
    /// Requests that wait to be served; none where this connection serves nothing.
    asked: Option<VecDeque<Asked>>,
}

impl Client {
    /// Connects where the environment says (see [`Endpoint::from_environment`]).
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] or [`ClientError::Connect`].
    pub fn connect() -> Result<Self, ClientError> {
        Self::connect_to(&Endpoint::from_environment()?)
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect_path(path: &Path) -> Result<Self, ClientError> {
        Self::connect_to(&Endpoint::Path(path.into()))
    }

    /// Connects to `endpoint`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let transport = match endpoint {
            Endpoint::Descriptor(number) => adopt(*number).map(Transport::Unix),
            Endpoint::Path(path) => UnixStream::connect(path).map(Transport::Unix),
            Endpoint::Tcp(address) => TcpStream::connect_timeout(address, WRITE_TIMEOUT)
                .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
                .map(Transport::Tcp),
        };
        transport
            .and_then(Self::over)
            .map_err(|error| ClientError::Connect {
                endpoint: endpoint.to_string(),
                error,
            })
    }

    /// A client over a connected stream.
    ///
    /// # Errors
    /// When the stream's time-outs cannot be set.
    pub fn from_stream(stream: UnixStream) -> Result<Self, ClientError> {
        Self::over(Transport::Unix(stream)).map_err(ClientError::Broken)
    }

    /// Another descriptor of the same connection, to be inherited by a program that acts in our
    /// name (`KAIRO_IPC_FD`). Only one of the two may use it at a time.
    ///
    /// # Errors
    /// When the connection is not a Unix socket, or out of descriptors.
    pub fn share(&self) -> std::io::Result<OwnedFd> {
        match &self.transport {
            Transport::Unix(stream) => stream.try_clone().map(OwnedFd::from),
            Transport::Tcp(_) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    fn over(transport: Transport) -> std::io::Result<Self> {
        match &transport {
            Transport::Unix(stream) => stream.set_write_timeout(Some(WRITE_TIMEOUT))?,
            Transport::Tcp(stream) => stream.set_write_timeout(Some(WRITE_TIMEOUT))?,
        }
        Ok(Self {
            transport,
            decoder: Decoder::default(),
            next_id: 1,
            backlog: VecDeque::new(),
            limits: Limits::default(),
            arrived: None,
            asked: None,
        })
    }

    /// Calls `method` and waits at most `deadline` for its result. `params` must serialize to a
    /// map; `()` means none.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the kernel's error, or what broke on the way.
    pub fn call<R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<R, ClientError> {
        self.call_with_meta(method, params, None, deadline)
    }

    /// [`Client::call`] with metadata.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_with_meta<R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: impl Serialize,
        meta: Option<Meta>,
        deadline: Duration,
    ) -> Result<R, ClientError> {
        let until = Instant::now() + deadline;
        let id = Id::Number(self.next_id);
        self.next_id += 1;
        if let Err(error) = self.send(Some(id.clone()), method, params, meta) {
            return Err(self.why_closed(error, until));
        }
        loop {
            let Some(frame) = self.read_frame(until)? else {
                return Err(ClientError::Deadline(deadline));
            };
            if frame.kind == FrameKind::Response {
                let response = Response::<Value>::decode(&frame.payload, &Limits::default())?;
                // A response to a call that was given up earlier is no longer wanted.
                if response.id == id {
                    return finish(method, response);
                }
            } else {
                let Some(incoming) = self.take_in(&frame)? else {
                    continue;
                };
                if self.backlog.len() == BACKLOG_MESSAGES {
                    return Err(ClientError::Backlog);
                }
                self.backlog.push_back(incoming);
            }
        }
    }

    /// Asks for optional features of the protocol (`kernel.hello`): `large_frames`, `descriptors`.
    /// Gives those that are granted.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn negotiate(
        &mut self,
        features: &[&str],
        deadline: Duration,
    ) -> Result<Vec<String>, ClientError> {
        #[derive(Serialize)]
        struct Hello<'a> {
            features: &'a [&'a str],
        }
        if features.contains(&"descriptors") && matches!(self.transport, Transport::Unix(_)) {
            // Before they are granted: one may come right behind the answer.
            self.arrived.get_or_insert_default();
        }
        let reply: Value = self.call("kernel.hello", Hello { features }, deadline)?;
        let granted = granted(&reply);
        if granted.iter().any(|name| name == "large_frames") {
            self.limits.control_bytes = LARGE_CONTROL_BYTES;
            self.decoder.set_limits(self.limits);
        }
        Ok(granted)
    }

    /// What a frame that is no response brings: to be handed out, or none for a request that is
    /// to be served.
    fn take_in(&mut self, frame: &Frame) -> Result<Option<Incoming>, ClientError> {
        if frame.kind == FrameKind::Request
            && let Some(asked) = &mut self.asked
        {
            if asked.len() == BACKLOG_MESSAGES {
                return Err(ClientError::Backlog);
            }
            asked.push_back(Asked::decode(&frame.payload, &self.limits)?);
            return Ok(None);
        }
        let mut incoming = incoming(frame)?;
        if let Incoming::Chunk(chunk) = &mut incoming {
            chunk.attach(self.arrived.get_or_insert_default())?;
        }
        Ok(Some(incoming))
    }

    /// Keeps requests of others from now on, for [`Client::next_asked`].
    pub(crate) fn serve(&mut self) {
        self.asked.get_or_insert_default();
    }

    /// The next request that is to be served; none at `until`.
    pub(crate) fn next_asked(&mut self, until: Instant) -> Result<Option<Asked>, ClientError> {
        loop {
            if let Some(asked) = self.asked.as_mut().and_then(VecDeque::pop_front) {
                return Ok(Some(asked));
            }
            let Some(frame) = self.read_frame(until)? else {
                return Ok(None);
            };
            if frame.kind != FrameKind::Response
                && let Some(incoming) = self.take_in(&frame)?
            {
                if self.backlog.len() == BACKLOG_MESSAGES {
                    return Err(ClientError::Backlog);
                }
                self.backlog.push_back(incoming);
            }
        }
    }

    /// Sends a frame, and a descriptor beside it.
    pub(crate) fn send_frame<M: Message>(
        &mut self,
        message: &M,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        let bytes = message.encode(&self.limits)?;
        let written = match descriptor {
            Some(descriptor) => self.transport.write_with(&bytes, descriptor),
            None => self.transport.write_all(&bytes),
        };
        written.map_err(broken)
    }

    /// Sends a request that gets no response.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn notify(&mut self, method: &str, params: impl Serialize) -> Result<(), ClientError> {
        self.send(None, method, params, None)
    }

    /// The next event or chunk of any subscription of this connection, in order of arrival; none
    /// when `deadline` passes first.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn next_incoming(&mut self, deadline: Duration) -> Result<Option<Incoming>, ClientError> {
        if let Some(incoming) = self.backlog.pop_front() {
            return Ok(Some(incoming));
        }
        let until = Instant::now() + deadline;
        while let Some(frame) = self.read_frame(until)? {
            if frame.kind != FrameKind::Response
                && let Some(incoming) = self.take_in(&frame)?
            {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// Subscribes with `method` (`event.subscribe`, `device.subscribe`) and gives an iterator over
    /// what it delivers.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn subscribe(
        &mut self,
        method: &str,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<Subscription<'_>, ClientError> {
        let reply: Value = self.call(method, params, deadline)?;
        let name = name_in(&reply).ok_or_else(|| ClientError::Result {
            method: method.into(),
            detail: format!("no text `subscription` in {reply}"),
        })?;
        Ok(Subscription {
            name: name.into(),
            reply,
            client: self,
            patience: deadline,
        })
    }

    fn send(
        &mut self,
        id: Option<Id>,
        method: &str,
        params: impl Serialize,
        meta: Option<Meta>,
    ) -> Result<(), ClientError> {
        let request = Request {
            id,
            method: method.into(),
            params: Some(params),
            meta,
        };
        self.send_frame(&request, None)
    }

    /// Why the kernel closed the connection, if it said so before; otherwise `error`.
    fn why_closed(&mut self, error: ClientError, until: Instant) -> ClientError {
        if !matches!(error, ClientError::Closed) {
            return error;
        }
        while let Ok(Some(frame)) = self.read_frame(until) {
            if frame.kind == FrameKind::Event
                && let Err(refused @ ClientError::Refused(_)) = incoming(&frame)
            {
                return refused;
            }
        }
        error
    }

    /// The next frame, or none at `until`.
    fn read_frame(&mut self, until: Instant) -> Result<Option<Frame>, ClientError> {
        let mut bytes = [0; READ_BYTES];
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.transport
                .set_timeouts(left)
                .map_err(ClientError::Broken)?;
            let read = match &mut self.arrived {
                Some(arrived) => self.transport.read_with(&mut bytes, arrived),
                None => self.transport.read(&mut bytes),
            };
            match read {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.decoder.feed(&bytes[..count]),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }
}

/// What a subscription delivers, one item at a time, without end: stop by dropping it.
///
/// Items of other subscriptions of the connection are passed over unread, so use
/// [`Client::next_incoming`] where several are open. Dropping it does not unsubscribe; closing the
/// connection does.
#[derive(Debug)]
pub struct Subscription<'client> {
    /// Its name, as items carry it.
    pub name: String,
    /// The whole reply of the subscribing method.
    pub reply: Value,
    client: &'client mut Client,
    patience: Duration,
}

impl Subscription<'_> {
    /// Longest that [`Iterator::next`] waits for an item before it says
    /// [`ClientError::Deadline`]; at first the deadline of the subscribing call.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Grants the subscription more bytes of credit (`stream.credit`).
    ///
    /// # Errors
    /// What broke on the way.
    pub fn grant(&mut self, bytes: u64) -> Result<(), ClientError> {
        #[derive(Serialize)]
        struct Credit<'a> {
            subscription: &'a str,
            bytes: u64,
        }
        let credit = Credit {
            subscription: &self.name,
            bytes,
        };
        self.client.notify("stream.credit", credit)
    }

    /// Acknowledges everything up to `seq` for the subscription's durable consumer (`event.ack`).
    ///
    /// # Errors
    /// What broke on the way. What the kernel says of it is not waited for: an acknowledgement
    /// that is lost only means that the event comes again.
    pub fn acknowledge(&mut self, seq: u64) -> Result<(), ClientError> {
        #[derive(Serialize)]
        struct Ack<'a> {
            subscription: &'a str,
            seq: u64,
        }
        let ack = Ack {
            subscription: &self.name,
            seq,
        };
        self.client.notify("event.ack", ack)
    }
}

impl Iterator for Subscription<'_> {
    type Item = Result<Incoming, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let until = Instant::now() + self.patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.client.next_incoming(left) {
                Ok(Some(incoming)) if incoming.subscription() == Some(&self.name) => {
                    return Some(Ok(incoming));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Some(Err(ClientError::Deadline(self.patience))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Incoming {
    /// The subscription that it is delivered to.
    pub fn subscription(&self) -> Option<&str> {
        match self {
            Self::Event(event) => event.subscription.as_deref(),
            Self::Chunk(chunk) => Some(&chunk.subscription),
        }
    }
}

/// The name of the subscription that a reply tells of.
pub(crate) fn name_in(reply: &Value) -> Option<&str> {
    let mut entries = reply.as_map()?.iter();
    let found = entries.find(|(key, _)| key.as_str() == Some("subscription"));
    found.and_then(|(_, value)| value.as_str())
}

/// The features that `kernel.hello` granted.
pub(crate) fn granted(reply: &Value) -> Vec<String> {
    let entries = reply.as_map().into_iter().flatten();
    let features = entries
        .filter(|(key, _)| key.as_str() == Some("features"))
        .filter_map(|(_, value)| value.as_array());
    let names = features.flatten().filter_map(Value::as_str);
    names.map(String::from).collect()
}

pub(crate) fn finish<R: DeserializeOwned>(
    method: &str,
    response: Response<Value>,
) -> Result<R, ClientError> {
    let result = response
        .into_result()
        .map_err(|info| ClientError::Refused(Box::new(info)))?;
    message::typed(&result).map_err(|detail| ClientError::Result {
        method: method.into(),
        detail,
    })
}

pub(crate) fn incoming(frame: &Frame) -> Result<Incoming, ClientError> {
    let limits = Limits::default();
    Ok(match frame.kind {
        FrameKind::Event => {
            let event = Event::decode(&frame.payload, &limits)?;
            // Events of a subscription carry its name: nobody else can have published this one.
            if event.topic == CONNECTION_REFUSED
                && event.subscription.is_none()
                && let Ok(info) = message::typed(&event.data)
            {
                return Err(ClientError::Refused(Box::new(info)));
            }
            Incoming::Event(event)
        }
        FrameKind::StreamChunk => Incoming::Chunk(StreamChunk::decode(&frame.payload, &limits)?),
        FrameKind::Request | FrameKind::Response => {
            return Err(FrameError::Kind {
                found: frame.kind as u8,
            }
            .into());
        }
    })
}

fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

fn broken(error: std::io::Error) -> ClientError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset => ClientError::Closed,
        _ => ClientError::Broken(error),
    }
}

/// Takes over the connected socket that the parent left at `number`, once in a process.
#[allow(unsafe_code)]
pub(crate) fn adopt(number: i32) -> std::io::Result<UnixStream> {
    use std::os::fd::FromRawFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(std::io::Error::other(
            "KAIRO_IPC_FD was already taken by this process",
        ));
    }
    // SAFETY: the parent declares in the environment that this descriptor is ours; it is above 2
    // (`Endpoint`), and `TAKEN` makes sure that it gets one owner only. A number that is not open
    // makes every use fail with EBADF, which the clone below reports.
    let inherited = unsafe { OwnedFd::from_raw_fd(number) };
    // The clone is close-on-exec, and the inherited one, which is not, closes here: the connection
    // is an identity, and must not leak into programs that we start.
    let stream = UnixStream::from(inherited.try_clone()?);
    stream.peer_addr()?;
    Ok(stream)
}
