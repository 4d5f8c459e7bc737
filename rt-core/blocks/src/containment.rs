//! Tells a program's panic hook whether the panicking thread is inside a block.
//!
//! A panic of kairo-rt's own code aborts (decision 036). A panic inside a block is unwound to the
//! schedule, which reports it, where the program is built with `panic = "unwind"`; with
//! `panic = "abort"` nothing can stop it. rt-safe: one thread-local flag.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::block::FaultKind;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of a block can be contained in this build.
pub const CONTAINS_PANICS: bool = cfg!(panic = "unwind");

/// Whether the calling thread runs a block just now. rt-safe.
pub fn is_inside() -> bool {
    INSIDE.get()
}

/// Runs `body`, a step of a block, and turns its panic into a fault. rt-safe unless it panics: the
/// payload of a panic was allocated by the standard library and is left alone, because a payload
/// may panic in its turn when it is dropped.
pub(crate) fn contained(body: impl FnOnce() -> Result<(), FaultKind>) -> Result<(), FaultKind> {
    INSIDE.set(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(false);
    result.unwrap_or_else(|payload| {
        std::mem::forget(payload);
        Err(FaultKind::Panicked)
    })
}
