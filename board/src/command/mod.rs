//! The subcommands of `cargo xtask`: arguments, output and exit status; the work is in the
//! library.

pub mod bench;
pub mod demo;
pub mod faults;
pub mod fuzz;
pub mod image;
pub mod kernel;
pub mod latency;
pub mod run;
pub mod test;
pub mod tidy;
