//! The atomic words that segments are made of, and the orderings that publish them.
//!
//! With the feature `model` they are loom's, so that the very code of the rings and buffers runs
//! under its explorer of interleavings; and an ordering can then be broken on purpose, to show that
//! the explorer would see it. No program is built with that feature.

#[cfg(feature = "model")]
pub use loom::sync::atomic::AtomicU64;
#[cfg(not(feature = "model"))]
pub use std::sync::atomic::AtomicU64;
pub use std::sync::atomic::Ordering;

#[cfg(not(feature = "model"))]
mod orderings {
    use super::Ordering;

    /// What hands a slot over.
    pub const fn hand_over() -> Ordering {
        Ordering::Release
    }

    /// What exchanges two buffers.
    pub const fn exchange() -> Ordering {
        Ordering::AcqRel
    }
}

#[cfg(feature = "model")]
mod orderings {
    use super::Ordering;
    use std::cell::Cell;

    thread_local! {
        // loom runs all threads of a model on the thread that started it.
        static BROKEN: Cell<bool> = const { Cell::new(false) };
    }

    /// Makes every publication of this thread's models relaxed: the bug they must find.
    pub fn break_orderings(broken: bool) {
        BROKEN.set(broken);
    }

    /// What hands a slot over.
    pub fn hand_over() -> Ordering {
        if BROKEN.get() {
            Ordering::Relaxed
        } else {
            Ordering::Release
        }
    }

    /// What exchanges two buffers.
    pub fn exchange() -> Ordering {
        if BROKEN.get() {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        }
    }
}

#[cfg(feature = "model")]
pub use orderings::break_orderings;
pub(crate) use orderings::{exchange, hand_over};
