//! `cargo xtask faults`: breaks something on purpose.

use std::path::PathBuf;
use std::process::ExitCode;

use board::faults::{self, FAULTS};
use board::paths::Paths;
use clap::Args;

/// Breaks something on purpose: a table on the screen, and exit status 1 when something does not
/// hold.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Lists the faults there are.
    #[arg(long, conflicts_with_all = ["name", "json"])]
    list: bool,
    /// Writes the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(name) = &arguments.name else {
        for fault in &FAULTS {
            println!("{:<12}  {}", fault.name, fault.summary);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let fault = faults::find(name)?;
    let report = (fault.run)(&Paths::discover()?)?;
    report.finish(arguments.json.as_deref())
}
