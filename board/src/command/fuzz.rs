//! `cargo xtask fuzz`: feeds the agent plane what nobody would send.

use std::process::ExitCode;
use std::time::Duration;

use board::fuzz::{self, TARGETS};
use board::paths::Paths;
use clap::Args;

/// Runs the fuzz targets with libFuzzer, from the kept inputs on, and says what was found.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Which ones; all of them if none is named.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Adds inputs that reach new code to the kept ones, without those that add nothing.
    #[arg(long)]
    keep: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    let named = arguments.targets.iter().map(String::as_str);
    let targets: Vec<&str> = match arguments.targets.is_empty() {
        true => TARGETS.to_vec(),
        false => named.collect(),
    };
    let seconds = Duration::from_secs(arguments.seconds);
    let clean = fuzz::run(&paths, &targets, seconds, arguments.keep)?;
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
