//! The shared-memory boundary between the real-time plane and the agent plane.
//!
//! kairo-rt makes every segment here and hands it to kairod as a sealed memfd over one
//! `SOCK_SEQPACKET` connection ([`control`]). After that the two planes meet only in memory:
//!
//! - [`ring`]: wait-free single-producer single-consumer rings, one for commands and one for
//!   replies per device and connection, used by one lease after the other;
//! - [`latest`]: a wait-free latest-value triple buffer per device and connection;
//! - [`offer`]: what makes memory that the peer writes safe to touch for a real-time thread;
//! - [`stats`]: counters and histograms the real-time plane writes and the agent plane can only
//!   read.
//!
//! **Trust.** The real-time side treats every byte as hostile: indices are checked against its own
//! private copies, a payload is copied once and then validated, and nothing here waits, locks,
//! allocates or frees after set-up. The worst a hostile peer can do is to spoil what it reads
//! itself, or to have its lease revoked.
//!
//! **Ownership.** An endpoint keeps its mapping alive. The thread that set a segment up keeps one
//! reference for as long as the real-time thread has one, so that unmapping never happens there.
//!
//! **Not here.** Validation of a command's meaning (`kairo-rt`), the public protocol
//! (`kairo-wire`), anything with a socket other than [`control`].

pub mod abi;
pub mod block_fault;
pub mod control;
pub mod histogram;
pub mod latest;
pub mod lines;
pub mod mono;
pub mod offer;
pub mod operator;
pub mod pod;
pub mod ring;
pub mod segment;
pub mod stats;
pub mod sync;
pub mod system_call;

pub use mono::MonoNs;
