//! `cargo xtask kernel`: build, check and configuration of the kernel.

use std::process::ExitCode;

use board::kernel::{self, Arch};
use board::paths::Paths;
use clap::{Args, Subcommand};

/// Builds the PREEMPT_RT kernel and checks that it is what the fragments ask for.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// For which architecture.
    #[arg(long, global = true, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// Print the result as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the kernel, or find it in the cache.
    Build,
    /// Compare the resulting configuration with every symbol the fragments ask for.
    Check,
    /// Write the resulting configuration to out/kernel/.
    Config,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    match arguments.action {
        Action::Build => build(&paths, arguments),
        Action::Check => check(&paths, arguments),
        Action::Config => {
            let path = kernel::configure(&paths, arguments.arch)?;
            if arguments.json {
                println!("{}", serde_json::json!({ "config": path }));
            } else {
                println!("{}", path.display());
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn build(paths: &Paths, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let kernel = kernel::build(paths, arguments.arch)?;
    if arguments.json {
        let mut value = serde_json::to_value(&kernel.metadata)?;
        value["image"] = serde_json::json!(kernel.image);
        value["config"] = serde_json::json!(kernel.config);
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        println!(
            "Linux {}, {} bytes: {}",
            kernel.metadata.release,
            kernel.metadata.image_bytes,
            kernel.image.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn check(paths: &Paths, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let report = kernel::check(paths, arguments.arch)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for miss in &report.misses {
            println!("{miss}");
        }
        println!(
            "Linux {} for {}: {} of {} requested symbols came out as asked",
            report.release,
            report.arch,
            report.requested - report.misses.len(),
            report.requested
        );
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
