//! The proof: a disk that loses power, the boot script, the operating system, and every way they
//! can go together.
//!
//! [`explore`] walks through all states of a small world: two slots, releases that work, crash or
//! fail their gates, a disk with a write cache, and a bounded number of installs, cuts and damaged
//! sectors. In every state it tries everything that can happen next, a power cut among it with
//! every subset of the unflushed writes and each of them torn. What the boot script and the
//! operating system do in it is not a model: it is [`crate::loader::decide`] and
//! [`crate::state::State`], over real sectors. [`walk`](mod@walk) goes the same ways at random, for
//! longer.
//!
//! What is checked is listed at [`check::Property`]. A [`Mutant`] breaks the design on purpose, and
//! the tests show that each is found.
//!
//! Deterministic. Memory: some hundred bytes a state.

pub mod check;
pub mod disk;
pub mod explore;
pub mod mutant;
pub mod steps;
pub mod table;
pub mod walk;
pub mod world;

pub use check::{Property, Violation};
pub use explore::{Explored, explore};
pub use mutant::Mutant;
pub use world::{Budget, Flush, Rules};
