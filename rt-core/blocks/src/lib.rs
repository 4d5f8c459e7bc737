//! Control blocks: small typed units of control mathematics, wired by name and run by index.
//!
//! - [`block`]: what a block is: ports with units, a bounded `step`, an `engage`.
//! - [`settings`]: how a block's table in `robot.toml` is read, with a place and a remedy for
//!   every mistake; [`registry`]: which kinds there are, and how a program adds its own.
//! - [`graph`]: blocks and wires, checked for cycles; [`program`]: the same, compiled to a flat
//!   schedule without a name in it; [`memory`]: what a program keeps, saved and put back.
//! - [`kinds`]: the library; [`profile`]: the jerk-limited motion that two of its kinds share.
//!
//! Guarantees: [`program::Program::step`] is rt-safe: no heap, lock, wait or name look-up, bounded
//! by the number of blocks; and no number that is not finite leaves a block unnoticed. A block that
//! panics is contained where panics unwind ([`containment`]). Reading settings and compiling are
//! setup-only.
//!
//! Not here: devices, loops, limits, threads. This crate knows numbers and units; `kairo-rt` gives
//! it feedback and decides what its results may do.
#![forbid(unsafe_code)]

pub mod block;
pub mod containment;
pub mod graph;
pub mod kinds;
pub mod memory;
pub mod profile;
pub mod program;
pub mod registry;
pub mod settings;
pub mod unit;
