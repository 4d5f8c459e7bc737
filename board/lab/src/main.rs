//! `kairo-lab`: the guest half of `cargo xtask latency`. Runs as root in the lab image only.
//!
//! `measure` takes windows of the production kairo-rt and of cyclictest in turns, in one boot, with
//! one period, priority and core, while a load runs in the agent plane's cgroup; it prints one line
//! of JSON. `load` is one such load, started by `measure` as an agent would be: another user, a
//! session cgroup, ordinary scheduling.
//!
//! It judges nothing: marks are the host's business. It is an ordinary process outside both
//! planes, sleeps while it measures, and reads kairo-rt's statistics by mapping its segment
//! read-only, which disturbs nothing.

mod estop;
mod gpio_sim;
mod init_socket;
mod loads;
mod measure;
mod plane;
mod reference;
mod robot;
mod robot_lines;
mod session;
mod troubles;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The guest half of the latency lab.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Measures under one load and prints a line of JSON.
    Measure(measure::Plan),
    /// Goes through what an e-stop by GPIO lines promises.
    EstopCheck,
    /// Pulls an e-stop input again and again and prints how long each took.
    Estop(estop::Plan),
    /// Is a load, until it is killed.
    Load {
        /// Which.
        load: loads::Load,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        LabCommand::Measure(plan) => measure::run(&plan).map(|found| println!("{found}")),
        LabCommand::EstopCheck => estop::check().map(|found| println!("{found}")),
        LabCommand::Estop(plan) => estop::measure(&plan).map(|found| println!("{found}")),
        LabCommand::Load { load } => loads::run(load),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kairo-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
