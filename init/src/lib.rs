//! PID 1 of KairoOS, as a library: everything `kairo-init` and `kairo-console` do.
//!
//! Read in this order: [`phases`] is the boot sequence as a table, [`services`] is what runs
//! afterwards as a table, [`supervisor`] keeps it running, [`votes`] decides whether the hardware
//! watchdog is fed, [`shutdown`] takes it all down. They reach the machine only through the
//! [`sys::Sys`] trait: [`linux`] is the real one, and the tests record a pretended one, so that
//! `tests/golden/*.golden` read as the boot and the shutdown of a robot.
//!
//! Guarantees: one thread; no call of PID 1 blocks without a deadline (work on a disk happens in
//! a forked child); every buffer, queue and loop has a bound; a failing step has a declared
//! consequence. Non-goals: no shell, no scripts, no unit files, no dependency graph.

pub mod backoff;
pub mod boot;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod control;
pub mod cpus;
pub mod life;
pub mod lines;
pub mod linux;
pub mod notify;
pub mod phases;
pub mod ring;
pub mod services;
pub mod shutdown;
pub mod status;
pub mod supervisor;
pub mod sys;
pub mod votes;
pub mod watchdog;
