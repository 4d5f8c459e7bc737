//! `cargo xtask`: parses the command line and calls the library.
//!
//! Guarantees: exit status 0 ok, 1 failed, 2 usage; results on standard output, progress and
//! errors on standard error. Holds no logic of its own: each subcommand is a module under
//! `command/` with its arguments and a `run`, and one line here.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and measures KairoOS: kernel, image, QEMU, demo, tests and house rules.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: XtaskCommand,
}

#[derive(Debug, Subcommand)]
enum XtaskCommand {
    Bench(command::bench::Arguments),
    Demo(command::demo::Arguments),
    Faults(command::faults::Arguments),
    Fuzz(command::fuzz::Arguments),
    Image(command::image::Arguments),
    Kernel(command::kernel::Arguments),
    Latency(command::latency::Arguments),
    Run(command::run::Arguments),
    Test(command::test::Arguments),
    Tidy(command::tidy::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        XtaskCommand::Bench(arguments) => command::bench::run(&arguments),
        XtaskCommand::Demo(arguments) => command::demo::run(&arguments),
        XtaskCommand::Faults(arguments) => command::faults::run(&arguments),
        XtaskCommand::Fuzz(arguments) => command::fuzz::run(&arguments),
        XtaskCommand::Image(arguments) => command::image::run(&arguments),
        XtaskCommand::Kernel(arguments) => command::kernel::run(&arguments),
        XtaskCommand::Latency(arguments) => command::latency::run(&arguments),
        XtaskCommand::Run(arguments) => command::run::run(&arguments),
        XtaskCommand::Test(arguments) => command::test::run(&arguments),
        XtaskCommand::Tidy(arguments) => command::tidy::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", with_causes(&error));
        ExitCode::FAILURE
    })
}

/// The error and its causes, less those that a message already repeats.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&cause);
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
