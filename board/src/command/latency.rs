//! `cargo xtask latency`: kairo-rt beside cyclictest under loads, in instruction or wall time.

use std::path::PathBuf;
use std::process::ExitCode;

use board::kernel::{self, Arch};
use board::latency::{self, LOADS, Mode, Options, guest};
use board::needs::{self, Work};
use board::paths::Paths;
use clap::{Args, ValueEnum};

/// Compares kairo-rt with cyclictest in one boot, under loads of the agent plane.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What the guest's clocks count.
    #[arg(long, value_enum, default_value_t = ModeName::Instruction)]
    mode: ModeName,
    /// The loads.
    #[arg(long, value_delimiter = ',', value_parser = LOADS, default_values = LOADS)]
    load: Vec<String>,
    /// Length of one window, in the guest's time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Windows of each side under each load, in turns.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=5))]
    rounds: u64,
    /// Period of the bare loop and of cyclictest.
    #[arg(long, default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(500..=100_000))]
    period_us: u64,
    /// Kills of kairod in one window of `kairod-kill`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10))]
    kills: u64,
    /// Leaves the arm loop out.
    #[arg(long)]
    bare: bool,
    /// Writes the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a plot for each load into this directory.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Use this kernel image instead of building one.
    #[arg(long)]
    kernel: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Instructions, on one CPU: no noise, and no hardware.
    Instruction,
    /// Time, on two CPUs: a virtual machine's numbers.
    Wall,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    let builds_kernel = arguments.kernel.is_none();
    needs::ensure(&paths, Work::Machine { builds_kernel })?;
    let kernel = match &arguments.kernel {
        Some(file) => file.clone(),
        None => kernel::build(&paths, Arch::X86_64)?.image,
    };
    let image = guest::build_image(&paths, &kernel)?;
    let options = Options {
        mode: match arguments.mode {
            ModeName::Instruction => Mode::Instruction,
            ModeName::Wall => Mode::Wall,
        },
        loads: arguments.load.clone(),
        seconds: arguments.seconds,
        rounds: usize::try_from(arguments.rounds)?,
        period_us: arguments.period_us,
        kills: usize::try_from(arguments.kills)?,
        arm: !arguments.bare,
        plots: arguments.svg.clone(),
    };
    latency::run(&paths, &image, &options)?.finish(arguments.json.as_deref())
}
