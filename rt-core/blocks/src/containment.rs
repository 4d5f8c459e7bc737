//! Tells a program's panic hook, and signal handlers, which block the calling thread is inside.
//!
//! A panic of kairo-rt's own code aborts (decision 036). A panic inside a block is unwound to the
//! schedule, which reports it, where the program is built with `panic = "unwind"`; with
//! `panic = "abort"` nothing can stop it. rt-safe: one thread-local word
//! without a destructor, so that a signal handler may look at any time.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::block::FaultKind;

thread_local! {
    /// The node that runs, plus one; zero outside of blocks.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Whether a panic of a block can be contained in this build.
pub const CONTAINS_PANICS: bool = cfg!(panic = "unwind");

/// Whether the calling thread runs a block just now. rt-safe.
pub fn is_inside() -> bool {
    INSIDE.get() != 0
}

/// The node of the graph that the calling thread runs just now. rt-safe.
pub fn node() -> Option<usize> {
    INSIDE.get().checked_sub(1)
}

/// Runs `body`, a step of the block of `node`, and turns its panic into a fault. rt-safe unless it
/// panics: the payload of a panic was allocated by the standard library and is left alone, because
/// a payload may panic in its turn when it is dropped.
pub(crate) fn contained(
    node: usize,
    body: impl FnOnce() -> Result<(), FaultKind>,
) -> Result<(), FaultKind> {
    INSIDE.set(node + 1);
    let result = catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(0);
    result.unwrap_or_else(|payload| {
        std::mem::forget(payload);
        Err(FaultKind::Panicked)
    })
}
