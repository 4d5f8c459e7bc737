//! The flight recorder: what went into the real-time plane and what came out, kept for afterwards.
//!
//! ```text
//! tick ──tap──► ring in locked tmpfs memory ──drain──► segment files on disk
//! (rt-safe)     (keeps the newest seconds,   (ordinary   (bounded, oldest deleted)
//!                also across kill -9)         thread)
//! ```
//!
//! - [`tap`]: the one way in which anything enters a tick; recorded live, fed back in replay.
//! - [`ring`], [`memory`]: the black box. The loop writes and never waits; nobody can make it wait.
//! - [`drain`], [`storage`]: an ordinary thread that brings records to disk, survives a full one,
//!   and counts what was lost.
//! - [`black_box`]: finding, after a crash, what a dead kairo-rt left in its memory.
//! - [`file`]: the bytes of a record file. [`state`]: values as words, bit for bit.
//!
//! What it guarantees to a loop: no wait, no allocation, no fault, no lock. What it does not: that
//! every record reaches the disk. A loss is always counted and marked in the file.

pub mod black_box;
pub mod drain;
pub mod file;
mod link_types;
pub mod memory;
pub mod ring;
pub mod state;
pub mod storage;
pub mod tap;
