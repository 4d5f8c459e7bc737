//! `cargo xtask tidy`: the house rules, over the whole tree.

use std::process::ExitCode;

use board::paths::Paths;
use board::tidy;
use clap::Args;

/// Checks the house rules that rustfmt and clippy do not know.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the problems as a JSON array on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    let problems = tidy::check(paths.workspace())?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&problems)?);
    } else {
        for problem in &problems {
            println!("{problem}");
        }
        println!("tidy: {} problems", problems.len());
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
