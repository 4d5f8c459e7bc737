//! `cargo xtask demo`: first light's promises, tried from outside.

use std::path::PathBuf;
use std::process::ExitCode;

use board::binaries::Binaries;
use board::demo::hosted_world::HostedWorld;
use board::demo::qemu_world::QemuWorld;
use board::demo::world::World;
use board::demo::{self, Outputs};
use board::hosted::{Hosted, Options};
use board::needs::{self, Work};
use board::paths::Paths;
use board::qemu::MachineBuilder;
use board::simulator::{Line, Simulator};
use clap::Args;

use super::image::Inputs;

/// Boots the image in QEMU, drives a simulated arm through it, and attacks it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Runs both planes on this machine instead of in QEMU; no root needed.
    #[arg(long)]
    hosted: bool,
    /// Writes the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The simulated arm's seed: the same seed gives the same arm.
    #[arg(long, default_value_t = 1)]
    arm_seed: u64,
    #[command(flatten)]
    inputs: Inputs,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    let work = if arguments.hosted {
        Work::HostedDemo
    } else {
        let builds_kernel = arguments.inputs.builds_kernel();
        Work::Machine { builds_kernel }
    };
    needs::ensure(&paths, work)?;
    let binaries = Binaries::build(&paths)?;
    let out = paths.out_dir(if arguments.hosted { "hosted" } else { "demo" })?;
    let outputs = Outputs {
        json: arguments.json.clone(),
        plot: match &arguments.json {
            Some(json) => json.with_extension("svg"),
            None => out.join("latency.svg"),
        },
        cli: binaries.path("kairo"),
    };
    let world: Box<dyn World> = if arguments.hosted {
        let options = Options {
            seed: arguments.arm_seed,
            ..Options::default()
        };
        Box::new(HostedWorld::new(Hosted::start(
            &paths, &binaries, &options,
        )?)?)
    } else {
        let image = arguments.inputs.build(&paths)?;
        let program = binaries.path("kairo-arm-sim");
        let simulator = Simulator::start(&program, Line::UnixSocket, &out, arguments.arm_seed)?;
        let arm = simulator.line_path();
        let machine = MachineBuilder::of_image(&image, &out)?.arm(&arm).start()?;
        Box::new(QemuWorld::new(machine, simulator, image)?)
    };
    let report = demo::run(world, &outputs)?;
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
