//! `cargo xtask run`: boots the image with a simulated arm and stays up, the kernel console on the
//! terminal and the kernel's socket forwarded to the host.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

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

/// How long the robot may take until its e-stop can be cleared.
const CLEARED: Duration = Duration::from_secs(60);

/// Longest answer of the machine's console.
const CONSOLE: Duration = Duration::from_secs(20);

/// Boots `image` on the terminal and returns when the machine has ended. With `clear_estop` the
/// e-stop it starts with is cleared, as an operator beside the robot would.
///
/// # Errors
/// [`QemuError`].
pub fn run(
    paths: &Paths,
    binaries: &Binaries,
    image: &BuiltImage,
    clear_estop: bool,
) -> Result<(), QemuError> {
    let out = paths.out_dir(&format!("{}/run", image.board.name))?;
    let program = binaries.path("kairo-arm-sim");
    let simulator = Simulator::start(&program, Line::UnixSocket, &out, SEED)?;
    let mut machine = MachineBuilder::of_image(image, &out)?
        .arm(&simulator.line_path())
        .serial(Serial::Terminal)
        .start()?;
    eprint!("{}", invitation(&machine, &simulator));
    if clear_estop {
        clear(&mut machine)?;
    }
    while machine.exit_status().is_none() {
        thread::sleep(POLL);
    }
    Ok(())
}

/// Clears the e-stop, as soon as the robot is up to it.
fn clear(machine: &mut Machine) -> Result<(), QemuError> {
    machine.wait_for_console(CLEARED)?;
    let argv = ["/usr/bin/kairo", "rt", "clear-estop"];
    let end = Instant::now() + CLEARED;
    loop {
        let exec = json!({"op": "exec", "argv": argv, "timeout_ms": 10_000});
        let answer = machine.control(&exec, CONSOLE)?;
        if answer["status"] == 0 {
            eprint!("The e-stop is cleared: the arm moves when it is told to.\r\n");
            return Ok(());
        }
        if Instant::now() > end {
            return Err(QemuError::Refused {
                command: "kairo rt clear-estop".to_owned(),
                reason: answer["stderr"].as_str().unwrap_or_default().to_owned(),
            });
        }
        thread::sleep(POLL);
    }
}

fn invitation(machine: &Machine, simulator: &Simulator) -> String {
    format!(
        "\nRunning on {}. Control-A, then X, ends it. From another terminal:\r\n\
         \x20 export KAIRO_IPC_SOCKET={}\r\n\
         \x20 cargo run -p kairo-cli -- status\r\n\
         The arm's own truth is at {}\r\n\
         A robot starts with its e-stop latched; `cargo xtask run --clear-estop` clears it.\r\n\
         \r\n",
        machine.accel().name(),
        machine.ipc_socket().display(),
        simulator.control_path().display(),
    )
}
