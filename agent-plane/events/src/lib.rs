//! The durable event log of the agent plane: SQLite, one writer, and tickets.
//!
//! What it guarantees, by class of event:
//!
//! - Volatile: acknowledged when numbered; survives nothing.
//! - Batched: acknowledged when committed, within 5 ms or 256 events; survives the death of the
//!   process. A power cut takes at most the last second.
//! - Synchronous: acknowledged when committed and flushed to the disk; survives a power cut.
//!
//! And for all of them:
//!
//! - Numbers grow, are never given out twice, also not after a kill, and have holes: a hole is a
//!   volatile event, one that was refused or could not be written, or a block that was reserved.
//! - Once an event is in the log, none with a smaller number can appear any more.
//! - An event's id is unique among those that are kept; appending it again changes nothing.
//! - A stream's versions have no holes; an append can ask for the version it expects.
//! - A durable consumer gets what it has not acknowledged again; an effect is done once.
//! - A key under which something was begun, and its result, survive what an event survives.
//! - The file is bounded; what a consumer loses by that, it is told.
//! - A damaged file is put aside and salvaged; every row carries a checksum.
//!
//! It knows nothing of IPC, of permissions, or of who listens. No call blocks but those that say
//! so; two threads do the work. Nothing in here belongs near a real-time loop.
#![forbid(unsafe_code)]

pub mod clock;
pub mod compaction;
pub mod consumer;
pub mod error;
pub mod event;
pub mod keys;
pub mod log;
mod opening;
pub mod projection;
pub mod query;
pub mod queue;
mod read_queue;
pub mod reader;
pub mod retention;
pub mod salvage;
mod schema;
pub mod store;
pub mod ticket;
pub mod topic;
pub mod writer;

pub use rusqlite;

pub use clock::Clocks;
pub use compaction::{Compacted, Range, digest};
pub use consumer::{ConsumerState, EffectOutcome, LostEvents, Start};
pub use error::StoreError;
pub use event::{Appended, Class, Event, Expected, NewEvent, Replaced, Stamp, StreamPlace};
pub use keys::{Kept, Key, Keyed};
pub use opening::OpenReport;
pub use projection::Projection;
pub use query::{Delivery, Fetched, Page, Query};
pub use reader::LogReader;
pub use retention::Limits;
pub use salvage::Salvage;
pub use schema::SCHEMA;
pub use store::{Options, Status, Store};
pub use ticket::Ticket;
pub use topic::{Pattern, PatternError};
