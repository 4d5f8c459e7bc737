//! The kernel IPC wire protocol: frames, messages, errors, and a blocking client.
//!
//! One frame is an 8-byte header and a MsgPack payload (`docs/reference/ipc.md`):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | magic `0x4B41` ("KA"), big-endian |
//! | 2 | 1 | version, 1 |
//! | 3 | 1 | type: 1 request, 2 response, 3 event, 4 stream chunk |
//! | 4 | 4 | payload length, big-endian |
//!
//! - [`frame`]: the header and an incremental decoder for any kind of I/O.
//! - [`scan`]: the check that every payload passes before anything is built from it.
//! - [`message`]: requests, responses, events and chunks as types.
//! - [`error`]: the stable error codes.
//! - [`client`]: a blocking client for programs that have no event loop.
//! - [`service`], [`flow`]: serving methods and streams over such a connection.
//! - [`sealed`], [`passing`]: payloads that travel as descriptors.
//!
//! **Guarantees.** Nothing is allocated for a frame before its header passed the limits, and no
//! value is built before [`scan`] walked the payload: depth, number of values, lengths against the
//! bytes that are really there, UTF-8. No input can panic, recurse without bound, or make memory
//! grow beyond a small multiple of the limits.
//!
//! **Not here.** Methods, permissions and schemas (kairod), the link to the real-time plane
//! (kairo-link). The crate knows no other crate of the project.
#![deny(unsafe_code)]

#[cfg(feature = "tokio")]
pub mod async_client;
#[cfg(feature = "tokio")]
pub mod async_follow;
#[cfg(feature = "tokio")]
pub mod async_service;
pub mod client;
pub mod endpoint;
pub mod error;
pub mod flow;
pub mod follow;
pub mod frame;
pub mod message;
pub mod passing;
pub mod scan;
pub mod sealed;
pub mod service;
mod strict;

/// The examples of the reference compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/reference/ipc.md")]
struct Reference;

#[cfg(feature = "tokio")]
pub use async_client::{AsyncClient, AsyncSubscription};
#[cfg(feature = "tokio")]
pub use async_follow::AsyncFollowing;
#[cfg(feature = "tokio")]
pub use async_service::AsyncService;
pub use client::{Client, ClientError, Incoming};
pub use endpoint::Endpoint;
pub use error::{ErrorCode, ErrorInfo};
pub use flow::{Asked, StreamTerms};
pub use follow::{Begin, Followed, Following};
pub use frame::{Decoder, Frame, FrameError, FrameKind, Limits};
pub use message::{Event, Gap, Id, Meta, Request, Response, StreamChunk};
pub use rmpv::Value;
pub use sealed::Sealed;
pub use service::Service;
