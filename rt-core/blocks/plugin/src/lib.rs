//! Control blocks from shared objects: C, or anything that speaks the C ABI of `kairo_block.h`.
//!
//! - [`load`] opens a plug-in, checks what it says of itself, and adds its kinds to a registry.
//! - `abi` is the header in Rust; `instance` a block of a plug-in; `guard` and `trampoline` run its
//!   code so that a fault of the processor ends the block and not the process.
//!
//! Guarantees: a plug-in that an unprivileged user could change is not loaded; a step that faults,
//! aborts or runs over its budget comes back as a fault, where the machine is x86_64 or aarch64
//! ([`CONTAINS_FAULTS`]). It cannot undo what a plug-in wrote where it should not: it runs in
//! kairo-rt's address space, and whoever loads one trusts it with the robot (decision 082).

mod abi;
mod guard;
mod instance;
mod load;
mod memory;
mod trampoline;

pub use guard::{be_patient, renew};
pub use load::{PluginError, load};
pub use trampoline::CONTAINS_FAULTS;

/// The header that plug-ins are compiled with.
pub const HEADER: &str = include_str!("../include/kairo_block.h");
