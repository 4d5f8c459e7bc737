//! The package behind `cargo xtask`: kernel, image, QEMU runner, demo and house rules.
//!
//! A library plus a small binary (`main.rs`), so that every step is a function a test can
//! call. Everything here runs on a developer's machine, never on a robot: it may allocate,
//! block and talk to the terminal. It changes the host in one way only, by installing the
//! packages `host::ensure` names, and it says so first.

#![forbid(unsafe_code)]

pub mod bench;
pub mod binaries;
pub mod boot;
pub mod demo;
pub mod faults;
pub mod fuzz;
pub mod host;
pub mod hosted;
pub mod image;
pub mod kernel;
pub mod latency;
pub mod monotonic;
pub mod needs;
pub mod paths;
pub mod plot;
pub mod progress;
pub mod qemu;
pub mod simulator;
pub mod suite;
pub mod tidy;
