//! The four messages as types, and their encoding into whole frames.
//!
//! Decoding runs [`scan::check`] first and then serde, so a message is
//! complete and well-typed or it is an error. Unknown keys of a *request* envelope are refused:
//! a mistyped `param` would otherwise be a command without parameters. Unknown keys of `meta`, and
//! of what the kernel sends, are ignored, so that both can grow.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rmpv::Value;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{ErrorCode, ErrorInfo, MAX_ID_BYTES};
use crate::frame::{FrameKind, HEADER_BYTES, Limits, header};
use crate::scan::{self, ScanError};
use crate::sealed::Sealed;
use crate::strict::Strict;

/// Pairs a response with its request. Chosen by the client, unique among its open requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// A text of at most 128 bytes.
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Text(text) => write!(formatter, "{text:?}"),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(
                    formatter,
                    "an id: a whole number or a text of at most {MAX_ID_BYTES} bytes"
                )
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id::Number(number))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Id, E> {
                i64::try_from(number)
                    .map(Id::Number)
                    .map_err(|_| E::custom("an id above 2^63-1 is not supported"))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                if text.len() > MAX_ID_BYTES {
                    return Err(E::invalid_length(text.len(), &self));
                }
                Ok(Id::Text(text.into()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What may travel beside a request's parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// How long the caller is willing to wait, milliseconds from arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Makes a repeated request take effect once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What the request belongs to; copied into the events it causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The event or request that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A request, or without an id a notification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request<P = Value> {
    /// Absent in a notification, which gets no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// `namespace.method`.
    pub method: String,
    /// A map; absent means empty.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub params: Option<P>,
    /// See [`Meta`].
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response<R = Value> {
    /// The request's.
    pub id: Id,
    /// Nil when there is an error.
    pub result: Option<R>,
    /// Readable text of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The error for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_info: Option<ErrorInfo>,
}

impl Response<Value> {
    /// The response that refuses request `id`.
    pub fn refuse(id: Id, error: ErrorInfo) -> Self {
        Self {
            id,
            result: None,
            error: Some(error.message.clone()),
            error_info: Some(error),
        }
    }

    /// The result or the error. A peer of the first protocol sends only the text: that is
    /// [`ErrorCode::Internal`] with its words.
    ///
    /// # Errors
    /// What the response says.
    pub fn into_result(self) -> Result<Value, ErrorInfo> {
        match (self.error_info, self.error) {
            (Some(info), _) => Err(info),
            (None, Some(text)) => Err(ErrorInfo::new(ErrorCode::Internal, text)),
            (None, None) => Ok(self.result.unwrap_or(Value::Nil)),
        }
    }
}

/// A fact that was published: CloudEvents 1.0 plus what the bus adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique on this machine.
    pub id: String,
    /// The canonical topic.
    #[serde(rename = "type")]
    pub topic: String,
    /// Who published it.
    pub source: String,
    /// `1.0`.
    pub specversion: String,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// The facts.
    pub data: Value,
    /// Grows with every event, over restarts too; has holes.
    pub seq: u64,
    /// Other topics under which subscribers see it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// See [`Meta::correlation_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// See [`Meta::causation_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// See [`Meta::traceparent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The stream it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Its place in that stream; 1 is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_version: Option<u64>,
    /// True when it is shown again and not to be acted on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replay: bool,
    /// The subscription it is delivered to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
}

/// Bytes of a stream that were lost on the way to this subscription: `from` up to, not with, `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Offset of the first byte lost.
    pub from: u64,
    /// Offset of the first byte not lost.
    pub to: u64,
}

/// A piece of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamChunk {
    /// The subscription it is delivered to.
    pub subscription: String,
    /// The stream's name.
    pub stream: String,
    /// Grows by one with every chunk made; a lost chunk leaves a hole.
    pub seq: u64,
    /// Where `data` begins in the stream, bytes, counting what was lost.
    pub offset: u64,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// True on the last chunk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
    /// What was lost just before this chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// Bytes of the stream in the descriptor that came with this chunk; `data` is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_bytes: Option<u64>,
    /// Why the stream ended before its end; only with `end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// The payload itself: what `attached_bytes` announces. Travels beside the frame.
    #[serde(skip)]
    pub attached: Option<Sealed>,
}

impl StreamChunk {
    /// The bytes of the stream that it carries, wherever they are.
    ///
    /// # Errors
    /// A payload that cannot be read: out of descriptors.
    pub fn content(&self) -> std::io::Result<std::borrow::Cow<'_, [u8]>> {
        match &self.attached {
            Some(sealed) => Ok(sealed.to_vec()?.into()),
            None => Ok(self.data.as_slice().into()),
        }
    }

    /// Takes the descriptor that the chunk announces from those that `arrived`.
    ///
    /// # Errors
    /// None came, it is not what was announced, or the chunk has data too.
    pub fn attach(&mut self, arrived: &mut VecDeque<OwnedFd>) -> Result<(), MessageError> {
        let Some(claimed) = self.attached_bytes else {
            return Ok(());
        };
        let wrong = |detail: String| MessageError::Shape {
            what: Self::NAME,
            detail,
        };
        if !self.data.is_empty() {
            return Err(wrong("it has `data` and `attached_bytes`".into()));
        }
        let descriptor = arrived.pop_front();
        let descriptor = descriptor.ok_or_else(|| wrong("its descriptor did not come".into()))?;
        let sealed = Sealed::accept(descriptor, claimed);
        self.attached = Some(sealed.map_err(|error| wrong(error.to_string()))?);
        Ok(())
    }

    /// How many bytes of the stream it carries.
    pub fn content_bytes(&self) -> u64 {
        self.attached_bytes.unwrap_or(self.data.len() as u64)
    }
}

/// Why a payload is not the message it should be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// Not acceptable MsgPack.
    #[error("malformed MsgPack: {0}")]
    Scan(#[from] ScanError),
    /// Well-formed, and not this message.
    #[error("not a valid {what}: {detail}")]
    Shape {
        /// The message expected.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Too long to send.
    #[error("a {what} of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// The message.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Something that travels in a frame of its own kind.
pub trait Message: Serialize {
    /// The frame's kind.
    const KIND: FrameKind;
    /// What people call it.
    const NAME: &'static str;

    /// The whole frame.
    ///
    /// # Errors
    /// When the message exceeds the limit of its kind.
    fn encode(&self, limits: &Limits) -> Result<Vec<u8>, MessageError> {
        let mut bytes = vec![0; HEADER_BYTES];
        let shape = |error: rmp_serde::encode::Error| MessageError::Shape {
            what: Self::NAME,
            detail: error.to_string(),
        };
        rmp_serde::encode::write_named(&mut bytes, self).map_err(shape)?;
        let length = bytes.len() - HEADER_BYTES;
        let limit = limits.payload_bytes(Self::KIND);
        match u32::try_from(length) {
            Ok(counted) if length <= limit => {
                bytes[..HEADER_BYTES].copy_from_slice(&header(Self::KIND, counted));
                Ok(bytes)
            }
            _ => Err(MessageError::TooLong {
                what: Self::NAME,
                bytes: length,
                limit,
            }),
        }
    }

    /// The message in `payload`.
    ///
    /// # Errors
    /// When the payload is not acceptable MsgPack or not this message.
    fn decode(payload: &[u8], limits: &Limits) -> Result<Self, MessageError>
    where
        Self: Sized + for<'de> Deserialize<'de>,
    {
        scan::check(payload, limits.depth, limits.values)?;
        rmp_serde::from_slice(payload).map_err(|error| MessageError::Shape {
            what: Self::NAME,
            detail: error.to_string(),
        })
    }
}

/// The `T` that `value` holds, exactly: a map is a structure, a name a variant, and nothing
/// else is.
///
/// # Errors
/// What is wrong with it, in words, with the field that it is wrong with.
pub fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let path = error.path().to_string();
        let wrong = error.into_inner();
        match path.as_str() {
            // About the whole of it, and then it says itself which field is missing.
            "." => wrong.to_string(),
            path => format!("`{path}`: {wrong}"),
        }
    })
}

/// The frame of the response whose result is already encoded.
///
/// # Errors
/// When the result is too long for a response.
pub fn response_frame(id: &Id, result: &[u8], limits: &Limits) -> Result<Vec<u8>, MessageError> {
    let shape = |error: rmp_serde::encode::Error| MessageError::Shape {
        what: Response::<Value>::NAME,
        detail: error.to_string(),
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + MAX_ID_BYTES / 4 + result.len());
    bytes.resize(HEADER_BYTES, 0);
    // A map of two, whose keys are the names of `Response`'s fields.
    bytes.push(0x82);
    rmp_serde::encode::write(&mut bytes, "id").map_err(shape)?;
    rmp_serde::encode::write(&mut bytes, id).map_err(shape)?;
    rmp_serde::encode::write(&mut bytes, "result").map_err(shape)?;
    bytes.extend_from_slice(result);
    let length = bytes.len() - HEADER_BYTES;
    let limit = limits.payload_bytes(FrameKind::Response);
    match u32::try_from(length) {
        Ok(counted) if length <= limit => {
            bytes[..HEADER_BYTES].copy_from_slice(&header(FrameKind::Response, counted));
            Ok(bytes)
        }
        _ => Err(MessageError::TooLong {
            what: Response::<Value>::NAME,
            bytes: length,
            limit,
        }),
    }
}

impl<P: Serialize> Message for Request<P> {
    const KIND: FrameKind = FrameKind::Request;
    const NAME: &'static str = "request";
}

impl<R: Serialize> Message for Response<R> {
    const KIND: FrameKind = FrameKind::Response;
    const NAME: &'static str = "response";
}

impl Message for Event {
    const KIND: FrameKind = FrameKind::Event;
    const NAME: &'static str = "event";
}

impl Message for StreamChunk {
    const KIND: FrameKind = FrameKind::StreamChunk;
    const NAME: &'static str = "stream chunk";
}
