//! The audit log: who did what to what, why, and how it ended, in files that nobody changes
//! unnoticed.
//!
//! Records are lines of canonical JSON. Each carries its number, the hash of the record before it
//! and its own; checkpoints are signed with ed25519; `audit.head` says, signed, where the log ends.
//! [`verify()`] finds every edit, deletion, insertion, reordering and truncation of them, and says
//! where. What it cannot find without an anchor kept elsewhere is said in
//! `docs/reference/audit.md`.
//!
//! - [`Log`] writes: one thread of its own, acknowledged after fdatasync, a typed error otherwise.
//! - [`read()`] reads, from any process, while another writes.
//! - [`verify()`] judges a directory and changes nothing.
//!
//! It knows no IPC and no policy: what is worth an entry is its caller's matter. No function here
//! is for a real-time thread.
#![forbid(unsafe_code)]

mod clock;
mod digest;
mod entry;
mod files;
mod finding;
mod head;
mod key;
mod log;
mod open;
mod quarantine;
mod read;
mod record;
mod text;
mod verify;
mod walk;
mod writer;

pub use digest::{Anchor, AnchorError, Digest};
pub use entry::{Entry, Outcome, Phase, Redactor, Who, Why, limits};
pub use files::{HEAD_NAME, KEY_NAME, PUBLIC_KEY_NAME};
pub use finding::{Finding, FindingKind, Place, Remark};
pub use head::{Head, HeadError, newest_checkpoint};
pub use key::{KeyError, PublicKey};
pub use log::{AppendError, Log, Options, Position, Status};
pub use open::{OpenError, OpenReport, Quarantined};
pub use read::{Page, ReadError, read};
pub use record::{Begin, Body, Broken, Checkpoint, CheckpointCause, Record, Retired, Segment};
pub use text::plain;
pub use verify::{Report, VerifyError, VerifyOptions, verify, verify_copy};
