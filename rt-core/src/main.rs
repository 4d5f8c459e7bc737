//! `kairo-rt`: reads robot.toml and runs the robot. See the library for everything else.
//!
//! Exit status: 0 after an orderly stop, 1 when it could not run, 2 when the command line is wrong,
//! 78 when the configuration is (nothing was started then, and starting again would not help).
//! With `--replay`: 0 when every output was the same, 1 when one differed or nothing could be
//! replayed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use kairo_rt::config::{self, RobotConfig, traffic_of};
use kairo_rt::daemon::{self, Options};
use kairo_rt::replay::{Range, replay};

/// Exit status for a wrong configuration: EX_CONFIG of sysexits.h, which kairo-init and systemd
/// (`RestartPreventExitStatus=78`) take as "do not restart".
const CONFIGURATION: u8 = 78;

/// Runs the real-time plane of a robot: its buses, control loops, limits and safe actions.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The robot's configuration.
    #[arg(long, value_name = "FILE", default_value = "/config/robot.toml")]
    config: PathBuf,
    /// Directory of rt.sock.
    #[arg(
        long,
        value_name = "DIR",
        env = "KAIRO_RUN_DIR",
        default_value = "/run/kairo"
    )]
    run_dir: PathBuf,
    /// Who may open rt.sock besides root [default: the own user].
    #[arg(long, value_name = "UID")]
    agent_uid: Option<u32>,
    /// Refuse to arm when a required bring-up check fails, whatever robot.toml says.
    #[arg(long, conflicts_with = "no_strict")]
    strict: bool,
    /// Arm whatever bring-up finds. For development machines.
    #[arg(long)]
    no_strict: bool,
    /// Find out the system calls that ticks make, whatever robot.toml says. For debugging.
    #[arg(long)]
    trace_system_calls: bool,
    /// Use another port for a bus.
    #[arg(long, value_name = "BUS=PATH")]
    port: Vec<String>,
    /// Check the configuration, print what it means, and exit.
    #[arg(long)]
    check: bool,
    /// Where record files go, instead of recorder.directory of the configuration.
    #[arg(long, value_name = "DIR", env = "KAIRO_RECORD_DIR")]
    record_dir: Option<PathBuf>,
    /// Replay a record file instead of running a robot, and compare every output, bit for bit.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Replay from the last keyframe before this tick.
    #[arg(long, value_name = "TICK", requires = "replay")]
    from: Option<u64>,
    /// Replay up to this tick.
    #[arg(long, value_name = "TICK", requires = "replay")]
    to: Option<u64>,
    /// Print the outcome of a replay as JSON.
    #[arg(long, requires = "replay")]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.replay {
        return replayed(file, &arguments);
    }
    let robot = match configured(&arguments) {
        Ok(robot) => robot,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(CONFIGURATION);
        }
    };
    if arguments.check {
        print_summary(&robot);
        return ExitCode::SUCCESS;
    }
    match run(&robot, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kairo-rt: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configured(arguments: &Arguments) -> Result<RobotConfig, String> {
    let mut robot = config::load(&arguments.config).map_err(|error| error.to_string())?;
    robot.strict = (robot.strict || arguments.strict) && !arguments.no_strict;
    robot.trace_system_calls |= arguments.trace_system_calls;
    for text in &arguments.port {
        let (name, path) = text
            .split_once('=')
            .ok_or_else(|| format!("--port {text}: write BUS=PATH, as in arm-bus=/dev/ttyACM0"))?;
        let names: Vec<String> = robot.buses.iter().map(|bus| bus.name.clone()).collect();
        let bus = robot
            .buses
            .iter_mut()
            .find(|bus| bus.name == name)
            .ok_or_else(|| {
                format!(
                    "--port {text}: no bus is named {name}; the file has {}",
                    names.join(", ")
                )
            })?;
        path.clone_into(&mut bus.port);
    }
    if let (Some(recorder), Some(directory)) = (&mut robot.recorder, &arguments.record_dir) {
        recorder.directory.clone_from(directory);
    }
    Ok(robot)
}

fn run(robot: &RobotConfig, arguments: &Arguments) -> anyhow::Result<()> {
    let run_dir = &arguments.run_dir;
    std::fs::create_dir_all(run_dir)
        .with_context(|| format!("cannot make --run-dir {}", run_dir.display()))?;
    let own = nix::unistd::geteuid().as_raw();
    let agent_uid = arguments.agent_uid.unwrap_or(own);
    Ok(daemon::run(robot, &Options { run_dir, agent_uid })?)
}

fn replayed(file: &Path, arguments: &Arguments) -> ExitCode {
    let range = Range {
        from: arguments.from,
        to: arguments.to,
    };
    let outcome = match replay(file, range) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("kairo-rt: {error}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.json {
        println!("{}", outcome.to_json());
    } else {
        print!("{outcome}");
    }
    if outcome.is_same() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_summary(robot: &RobotConfig) {
    println!(
        "{}: valid, {}",
        robot.name,
        if robot.strict { "strict" } else { "not strict" }
    );
    for (index, bus) in robot.buses.iter().enumerate() {
        let devices = robot.devices.iter().filter(|device| device.bus == index);
        let servos = devices.map(|device| device.joints.len() as u64).sum();
        let traffic = traffic_of(servos, bus.baud);
        println!(
            "bus {}: {} on {}, {servos} servos, {} us of wire time a cycle",
            bus.name, bus.baud, bus.port, traffic.wire_time_us
        );
    }
    for config in &robot.loops {
        println!(
            "loop {}: every {} us, priority {}",
            config.name, config.period_us, config.priority
        );
    }
    if let Some(recorder) = &robot.recorder {
        println!(
            "recorder: up to {} MiB in {}, {} s in memory",
            recorder.size_max_mb,
            recorder.directory.display(),
            recorder.keep_seconds
        );
    }
    for device in &robot.devices {
        println!(
            "device {}: {} joints, {} after at most {} ms",
            device.name,
            device.joints.len(),
            device.safe_action.name(),
            device.ttl_max_ms
        );
    }
}
