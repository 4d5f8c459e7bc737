//! `kairo-rt`: the daemon with the library's blocks. See [`kairo_rt::command`] for everything else.

use std::process::ExitCode;

use kairo_blocks::registry::Registry;

fn main() -> ExitCode {
    kairo_rt::daemon::run_with(&Registry::standard())
}
