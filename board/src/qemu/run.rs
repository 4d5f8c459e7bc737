//! `cargo xtask run`: boots the image with a simulated arm and stays up, the kernel console on the
//! terminal and the kernel's socket forwarded to the host.

use std::thread;
use std::time::Duration;

use super::builder::{MachineBuilder, Serial};
use super::error::QemuError;
use super::machine::Machine;
use crate::binaries::Binaries;
use crate::image::BuiltImage;
use crate::paths::Paths;
use crate::simulator::{Line, Simulator};

/// The simulated arm's seed: every run meets the same arm.
const SEED: u64 = 1;

/// How often the end of the machine is looked for.
const POLL: Duration = Duration::from_millis(100);

/// Boots `image` on the terminal and returns when the machine has ended.
///
/// # Errors
/// [`QemuError`].
pub fn run(paths: &Paths, binaries: &Binaries, image: &BuiltImage) -> Result<(), QemuError> {
    let out = paths.out_dir(&format!("{}/run", image.board.name))?;
    let program = binaries.path("kairo-arm-sim");
    let simulator = Simulator::start(&program, Line::UnixSocket, &out, SEED)?;
    let machine = MachineBuilder::of_image(image, &out)?
        .arm(&simulator.line_path())
        .serial(Serial::Terminal)
        .start()?;
    eprint!("{}", invitation(&machine, &simulator));
    while machine.exit_status().is_none() {
        thread::sleep(POLL);
    }
    Ok(())
}

fn invitation(machine: &Machine, simulator: &Simulator) -> String {
    format!(
        "\nRunning on {}. Control-A, then X, ends it. From another terminal:\r\n\
         \x20 export KAIRO_IPC_SOCKET={}\r\n\
         \x20 cargo run -p kairo-cli -- status\r\n\
         The arm's own truth is at {}\r\n\r\n",
        machine.accel().name(),
        machine.ipc_socket().display(),
        simulator.control_path().display(),
    )
}
