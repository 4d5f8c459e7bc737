//! Fuzz targets of the agent plane: each takes any bytes and panics where a promise is broken.
//!
//! The same functions are driven by libFuzzer (`libfuzzer/`, with `cargo xtask fuzz`) and, with the
//! inputs of `corpus/`, by `cargo test` on the stable compiler. What one run found is a test of
//! every later one.
//!
//! A target does not look for results, only for what must hold whatever comes: no panic, no
//! allocation beyond a bound, one meaning for the same bytes, nothing false taken for true.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // A target that fails is to stop.

pub mod audit_log;
pub mod edits;
pub mod event_log;
pub mod frames;
pub mod messages;
pub mod patterns;
pub mod policy;
pub mod requests;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the module, of the libFuzzer program and of the corpus.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "frames",
        run: frames::run,
    },
    Target {
        name: "messages",
        run: messages::run,
    },
    Target {
        name: "requests",
        run: requests::run,
    },
    Target {
        name: "policy",
        run: policy::run,
    },
    Target {
        name: "patterns",
        run: patterns::run,
    },
    Target {
        name: "audit_log",
        run: audit_log::run,
    },
    Target {
        name: "event_log",
        run: event_log::run,
    },
];
