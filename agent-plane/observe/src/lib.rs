//! What the processes of the agent plane say about themselves, and what they must not say.
//!
//! - [`context`]: W3C trace context: who caused what, over processes.
//! - [`redact`]: takes secrets out of whatever leaves a process for people's eyes.
//! - [`log`]: one line a record on standard error, and the newest records in memory.
//!
//! Knows neither IPC nor the real-time plane. Nothing here runs in kairo-rt.
#![forbid(unsafe_code)]

pub mod context;
pub mod log;
pub mod redact;
