//! The real-time plane: buses, control loops, leases, limits and safe actions.
//!
//! `kairo-rt` is one process. Its real-time threads are SCHED_FIFO and touch neither heap, lock,
//! file nor log once they are armed; everything else runs on ordinary threads on other cores.
//!
//! - **Pure**, tested without a thread or a clock: [`lease`] (is this command good), [`motion`]
//!   (how does a setpoint move), [`schedule`] (which periods ran), [`device`] (what state is the
//!   arm in), [`config`].
//! - **Real-time threads**: [`control_loop`] and [`bus_loop`], which meet in [`exchange`];
//!   both are lived by [`periodic`].
//! - **Ordinary threads**: [`bus_supervisor`] opens and closes ports, [`link_server`] serves the
//!   agent plane, and [`daemon`] puts it all together and watches.
//! - **Proof**: [`bringup`] reads back what the kernel granted, and [`doctor`] asks beforehand;
//!   [`guard`] and [`purity`] count what a real-time thread must not cause, and
//!   [`system_call_trace`] names the first call of one.
//!
//! What it guarantees to a robot: a setpoint moves only while an accepted command is in force, and
//! within the joint limits; every other state of affairs slows it down to rest. What it does not:
//! talk to anybody but kairod, decide who may command (kairod does), or plan a path.
//!
//! Public functions say *rt-safe* (callable in a real-time thread: bounded, no heap, no lock, no
//! wait) or *setup-only*.

pub mod assembly;
pub mod bringup;
pub mod bus_loop;
pub mod bus_supervisor;
pub mod command;
pub mod config;
pub mod control_loop;
pub mod daemon;
pub mod device;
pub mod doctor;
pub mod estop;
pub mod estop_memory;
pub mod exchange;
pub mod fault;
pub mod guard;
pub mod journal;
pub mod lease;
pub mod limits;
pub mod lines;
pub mod link_server;
pub mod motion;
pub mod operator;
pub mod order;
pub mod pace;
pub mod periodic;
pub mod purity;
pub mod recorder;
pub mod recording;
pub mod replay;
pub mod safe_action;
pub mod schedule;
pub mod sd_notify;
pub mod servo_map;
pub mod shared;
pub mod steady;
pub mod system_call_trace;
pub mod wake;

pub use kairo_link::control::BringupCheck;
