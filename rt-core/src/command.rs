//! The command line of a daemon: reads robot.toml, and checks it, runs the robot, or replays.
//!
//! setup-only, from `main`. A program with blocks of its own calls [`run_with`] too, so that every
//! daemon has the same arguments and exit statuses.
//!
//! Exit status: 0 after an orderly stop, 1 when it could not run, 2 when the command line is wrong,
//! 78 when the configuration is (nothing was started then, and starting again would not help).
//! With `--replay`: 0 when every output was the same, 1 when one differed or nothing could be
//! replayed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use kairo_blocks::graph::Wire;
use kairo_blocks::registry::Registry;

use crate::config::blocks::{Crossing, LoopBlocks, Read, Signal, closes_circle};
use crate::config::{self, RobotConfig, traffic_of};
use crate::daemon::{self, Options};
use crate::replay::{Request, replay};

/// Exit status for a wrong configuration: EX_CONFIG of sysexits.h, which kairo-init and systemd
/// (`RestartPreventExitStatus=78`) take as "do not restart".
const CONFIGURATION: u8 = 78;
/// Where the configuration is when nobody says otherwise.
const CONFIG_FILE: &str = "/config/robot.toml";

/// Runs the real-time plane of a robot: its buses, control loops, limits and safe actions.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The robot's configuration [default: /config/robot.toml]; with --replay, the one to replay
    /// with [default: the one in the record].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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
    /// Check the configuration and print its control blocks as a graph in the DOT language.
    #[arg(long)]
    dot: bool,
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

/// Does what the command line asks for, with blocks of the kinds of `registry`.
///
/// Whoever adds kinds builds with `panic = "unwind"`, the default of cargo: then a panic of such a
/// block takes its loop to the safe action. With `panic = "abort"` it would take the daemon, and
/// strict mode refuses to arm.
pub fn run_with(registry: &Registry) -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.replay {
        return replayed(file, &arguments, registry);
    }
    let robot = match configured(&arguments, registry) {
        Ok(robot) => robot,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(CONFIGURATION);
        }
    };
    if arguments.dot {
        return said(&dot(&robot));
    }
    if arguments.check {
        return said(&summary(&robot));
    }
    match run(&robot, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kairo-rt: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configured(arguments: &Arguments, registry: &Registry) -> Result<RobotConfig, String> {
    let file = arguments
        .config
        .as_deref()
        .unwrap_or(Path::new(CONFIG_FILE));
    let mut robot = config::load_with(file, registry).map_err(|error| error.to_string())?;
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

fn replayed(file: &Path, arguments: &Arguments, registry: &Registry) -> ExitCode {
    let request = Request {
        robot_toml: arguments.config.clone(),
        from: arguments.from,
        to: arguments.to,
    };
    let outcome = match replay(file, &request, registry) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("kairo-rt: {error}");
            return ExitCode::FAILURE;
        }
    };
    said(&if arguments.json {
        format!("{}\n", outcome.to_json())
    } else {
        outcome.to_string()
    });
    if outcome.is_same() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Adds a line to a text. Writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($argument:tt)+) => {{
        let _ = writeln!($text, $($argument)+);
    }};
}

fn summary(robot: &RobotConfig) -> String {
    let mut text = String::new();
    line!(
        text,
        "{}: valid, {}",
        robot.name,
        if robot.strict { "strict" } else { "not strict" }
    );
    for (index, bus) in robot.buses.iter().enumerate() {
        let devices = robot.devices.iter().filter(|device| device.bus == index);
        let servos = devices.map(|device| device.joints.len() as u64).sum();
        let traffic = traffic_of(servos, bus.baud);
        line!(
            text,
            "bus {}: {} on {}, {servos} servos, {} us of wire time a cycle",
            bus.name,
            bus.baud,
            bus.port,
            traffic.wire_time_us
        );
    }
    for config in &robot.loops {
        line!(
            text,
            "loop {}: every {} us, priority {}",
            config.name,
            config.period_us,
            config.priority
        );
    }
    if let Some(recorder) = &robot.recorder {
        line!(
            text,
            "recorder: up to {} MiB in {}, {} s in memory",
            recorder.size_max_mb,
            recorder.directory.display(),
            recorder.keep_seconds
        );
    }
    for device in &robot.devices {
        line!(
            text,
            "device {}: {} joints, {} after at most {} ms",
            device.name,
            device.joints.len(),
            device.safe_action.name(),
            device.ttl_max_ms
        );
    }
    for (inside, config) in robot.blocks.iter().zip(&robot.loops) {
        schedule(robot, inside, &config.name, &mut text);
    }
    for (index, inside) in robot.blocks.iter().enumerate() {
        for read in &inside.reads {
            if let Read::Crossing(crossing) = read {
                line!(text, "{}", crossed(robot, index, crossing));
            }
        }
    }
    text
}

/// A wire between loops, in words.
fn crossed(robot: &RobotConfig, control_loop: usize, crossing: &Crossing) -> String {
    let (from, to) = (&robot.loops[crossing.from_loop], &robot.loops[control_loop]);
    let nodes = |index: usize| &robot.blocks[index].graph.nodes;
    let source = &nodes(crossing.from_loop)[crossing.from_node];
    let circle = if closes_circle(&robot.blocks, control_loop, crossing) {
        ", in a circle that only this delay keeps apart"
    } else {
        ""
    };
    format!(
        "wire {}.{} of loop {} to {} of loop {}: the newest value, up to {} us behind and at most \
         {} ms old{circle}",
        source.name,
        source.design.outputs[crossing.from_port].name,
        from.name,
        nodes(control_loop)[crossing.node].name,
        to.name,
        from.period_us,
        crossing.age_max_ms
    )
}

/// The blocks of a loop in the order they run, each with its wires.
fn schedule(robot: &RobotConfig, inside: &LoopBlocks, name: &str, text: &mut String) {
    for (place, node) in inside.order.iter().enumerate() {
        let block = &inside.graph.nodes[*node];
        let ports = block.design.inputs.iter().zip(&block.wires);
        let inputs: Vec<String> = ports
            .map(|(port, wire)| format!("{} = {}", port.name, source(robot, inside, *wire)))
            .collect();
        let drives = inside.drives.iter().filter(|drive| drive.node == *node);
        let sinks: Vec<String> = drives
            .map(|drive| {
                let port = &block.design.outputs[drive.port].name;
                format!(
                    "{port} -> {}.setpoint",
                    joint(robot, drive.device, drive.joint)
                )
            })
            .collect();
        let (number, kind) = (place + 1, &block.kind);
        line!(
            text,
            "loop {name}: block {number}: {} ({kind}) [{}] {}",
            block.name,
            inputs.join(", "),
            sinks.join(", ")
        );
    }
}

fn joint(robot: &RobotConfig, device: usize, joint: usize) -> String {
    let device = &robot.devices[device];
    format!("{}.{}", device.name, device.joints[joint].name)
}

/// A source as the file spells it.
fn source(robot: &RobotConfig, inside: &LoopBlocks, wire: Wire) -> String {
    match wire {
        Wire::Constant(value) => value.to_string(),
        Wire::Output { node, port } => {
            let block = &inside.graph.nodes[node];
            format!("{}.{}", block.name, block.design.outputs[port].name)
        }
        Wire::External(number) => match inside.reads[number] {
            Read::Following { device } => format!("{}.following", robot.devices[device].name),
            Read::Crossing(from) => {
                let block = &robot.blocks[from.from_loop].graph.nodes[from.from_node];
                format!(
                    "{}.{}",
                    block.name, block.design.outputs[from.from_port].name
                )
            }
            Read::Joint {
                device,
                joint: number,
                signal,
            } => {
                let name = Signal::ALL.iter().find(|entry| entry.0 == signal);
                let name = name.map_or("", |entry| entry.1);
                format!("{}.{name}", joint(robot, device, number))
            }
        },
    }
}

/// All blocks as a graph: `kairo-rt --dot | dot -Tsvg`.
fn dot(robot: &RobotConfig) -> String {
    let mut text = String::from("digraph blocks {\n  rankdir=LR;\n  node [shape=box];\n");
    for inside in &robot.blocks {
        for (node, block) in inside.graph.nodes.iter().enumerate() {
            line!(
                text,
                "  \"{0}\" [label=\"{0}\\n{1}\"];",
                block.name,
                block.kind
            );
            for (port, wire) in block.design.inputs.iter().zip(&block.wires) {
                let crossing = match wire {
                    Wire::External(number) => match inside.reads[*number] {
                        Read::Crossing(crossing) => Some(crossing),
                        _ => None,
                    },
                    _ => None,
                };
                let from = match (wire, crossing) {
                    (_, Some(from)) => {
                        let nodes = &robot.blocks[from.from_loop].graph.nodes;
                        nodes[from.from_node].name.clone()
                    }
                    (Wire::Output { node, .. }, _) => inside.graph.nodes[*node].name.clone(),
                    (other, _) => source(robot, inside, *other),
                };
                let style = crossing.map_or_else(String::new, |crossing| {
                    format!(" (at most {} ms old)\" style=\"dashed", crossing.age_max_ms)
                });
                line!(
                    text,
                    "  \"{from}\" -> \"{}\" [label=\"{}{style}\"];",
                    block.name,
                    port.name
                );
            }
            for drive in inside.drives.iter().filter(|drive| drive.node == node) {
                let sink = joint(robot, drive.device, drive.joint);
                line!(text, "  \"{}\" -> \"{sink}.setpoint\";", block.name);
            }
        }
    }
    text.push_str("}\n");
    text
}

/// Prints `text`; a reader that has gone, such as `head`, is no failure.
fn said(text: &str) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
