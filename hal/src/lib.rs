//! Buses, servo protocols and device discovery for the real-time plane.
//!
//! Guarantees: every function says in its documentation whether it is *rt-safe* (no allocation,
//! no lock, no log, a bounded amount of work, and at most one wait that ends at a deadline the
//! caller gave) or *setup-only* (may allocate, open files and block for milliseconds; call it from
//! an ordinary thread). Errors of rt-safe functions are `Copy` and carry the errno. A test with a
//! counting allocator holds the rt-safe functions to it.
//!
//! Non-goals: no executor and no threads of its own (one bus belongs to one thread, which the
//! caller makes and schedules); no policy (limits, leases and safe actions live in kairo-rt).

pub mod discovery;
pub mod feetech;
pub mod gpio;
pub mod line;
pub mod serial;
mod tty_ioctl;

pub use kairo_link::MonoNs;
pub use line::{BusError, BusOp, ByteLine};
pub use serial::SerialBus;
