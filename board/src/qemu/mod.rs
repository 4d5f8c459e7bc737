//! Runs an image in QEMU: a machine with the parts a robot has, and a handle to drive it.
//!
//! Guarantees: every wait has a deadline; every error names the log and shows its end; a machine
//! ends with its handle, and with this process even if that is killed; the built disk is never
//! written to unless asked. Only loopback is reachable: the guest has no way out, and the one port
//! into it is bound to 127.0.0.1.
//!
//! Does not build anything, and judges nothing a guest says: that is the demo's and tests' work.

pub mod accel;
pub mod arguments;
pub mod builder;
pub mod console;
pub mod error;
pub mod forward;
pub mod json_lines;
pub mod machine;
pub mod priority;
mod private_directory;
pub mod process;
pub mod qmp;
pub mod run;
pub mod serial_log;

pub use accel::Accel;
pub use builder::{MachineBuilder, Serial};
pub use error::QemuError;
pub use machine::Machine;
pub use priority::HostPriority;
pub(crate) use private_directory::PrivateDirectory;

use crate::host::Need;

/// Programs of the host that run a machine.
pub const NEEDS: [Need; 3] = [
    Need {
        program_or_file: "qemu-system-x86_64",
        debian_package: "qemu-system-x86",
        why: "running the image without hardware",
    },
    Need {
        program_or_file: "setpriv",
        debian_package: "util-linux",
        why: "ending the machine together with this tool",
    },
    Need {
        program_or_file: "chrt",
        debian_package: "util-linux",
        why: "giving the machine's cores a real-time priority on this host",
    },
];
