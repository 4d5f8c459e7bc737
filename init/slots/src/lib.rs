//! Which of the two systems on the disk boots, and how an update takes the other one's place.
//!
//! Five parts, each usable alone:
//! - [`area`], [`sector`], [`record`]: the state area, a few raw sectors that the boot script and
//!   this crate both read and write, in U-Boot's environment format.
//! - [`loader`]: what the boot script decides, as a pure function.
//! - [`state`]: what the operating system may change, as named transitions. Each is a short list of
//!   single-sector writes with a flush after each, in an order in which a power cut after any of
//!   them, in any of them, leaves a disk that boots a whole system.
//! - [`device`], [`file`](mod@file): a disk as this crate needs it, and the real one.
//! - [`faults`]: a disk that loses power, and every way it can end; the proof of the above.
//!
//! It does not load, check or write a system's contents, talk to anybody, or decide when to update:
//! that is init's and the bundle's work. Without threads and unsafe code; only [`file`](mod@file)
//! blocks.
#![forbid(unsafe_code)]

pub mod area;
pub mod booted;
pub mod device;
pub mod faults;
pub mod file;
pub mod loader;
pub mod plan;
pub mod record;
pub mod sector;
pub mod state;
