//! `cargo xtask bench`: measures ours beside a control.

use std::path::PathBuf;
use std::process::ExitCode;

use board::bench::{self, BENCHES};
use board::paths::Paths;
use clap::Args;

/// Runs a benchmark: a table on the screen, and exit status 1 when a mark is missed.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Which one.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Lists the benchmarks there are.
    #[arg(long, conflicts_with_all = ["name", "json"])]
    list: bool,
    /// Writes the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(name) = &arguments.name else {
        for bench in &BENCHES {
            println!("{:<12}  {}", bench.name, bench.summary);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let bench = bench::find(name)?;
    let report = (bench.run)(&Paths::discover()?)?;
    report.finish(arguments.json.as_deref())
}
