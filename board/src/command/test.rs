//! `cargo xtask test`: everything that must hold.

use std::process::ExitCode;

use board::paths::Paths;
use board::suite::{self, Extent};
use clap::Args;

/// Runs every check and test, from formatting to the demo in QEMU.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Leaves out what needs the kernel and the image.
    #[arg(long)]
    quick: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    let extent = if arguments.quick {
        Extent::Quick
    } else {
        Extent::Whole
    };
    suite::run(&paths, extent)?;
    Ok(ExitCode::SUCCESS)
}
