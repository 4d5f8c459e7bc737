//! `cargo xtask run`: boots the image in QEMU, or starts both planes hosted, and stays up.

use std::path::PathBuf;
use std::process::ExitCode;

use board::binaries::Binaries;
use board::hosted::{self, Options};
use board::needs::{self, Work};
use board::paths::Paths;
use board::qemu;
use clap::Args;

use super::image::Inputs;

/// Boots the image in QEMU with a simulated arm and stays up until control-A X.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Runs both planes on this machine instead of in QEMU; no root needed.
    #[arg(long)]
    hosted: bool,
    /// Drives a real arm at this port, such as /dev/ttyACM0, instead of the simulator.
    #[arg(long, requires = "hosted", value_name = "PATH")]
    port: Option<PathBuf>,
    /// Refuses to arm unless every real-time request was granted.
    #[arg(long, requires = "hosted")]
    strict: bool,
    /// Clears the e-stop that the robot starts with, as an operator beside it would.
    #[arg(long, conflicts_with = "hosted")]
    clear_estop: bool,
    #[command(flatten)]
    inputs: Inputs,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    if !arguments.hosted {
        let builds_kernel = arguments.inputs.builds_kernel();
        needs::ensure(&paths, Work::Machine { builds_kernel })?;
    }
    let binaries = Binaries::build(&paths)?;
    if arguments.hosted {
        let options = Options {
            port: arguments.port.clone(),
            robot: arguments.inputs.robot.clone(),
            strict: arguments.strict,
            seed: 1,
        };
        hosted::run::run(&paths, &binaries, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let image = arguments.inputs.build(&paths)?;
    qemu::run::run(&paths, &binaries, &image, arguments.clear_estop)?;
    Ok(ExitCode::SUCCESS)
}
