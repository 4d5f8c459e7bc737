//! `kairo-arm-sim`: the command line of the arm simulator.
//!
//! Parses arguments, makes the line and the control socket, says where they are, and runs until
//! SIGTERM or SIGINT. Paths it made are gone afterwards.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Parser};
use kairo_arm_sim::arm::{Cradle, JOINTS};
use kairo_arm_sim::control::ControlServer;
use kairo_arm_sim::run::{run, stop_signals};
use kairo_arm_sim::transport::{Endpoint, Transport};
use kairo_arm_sim::{Simulator, SimulatorConfig};
use kairo_hal::MonoNs;

/// Simulates an SO-101 follower arm (six STS3215 servos, ids 1 to 6) behind a 1 Mbaud serial line.
///
/// The line is a pseudo-terminal (--pty) or a Unix socket for QEMU's usb-serial adapter. Faults are
/// injected and the truth is read through the control socket; see docs/reference/arm-simulator.md.
#[derive(Debug, Parser)]
#[command(version, group = ArgGroup::new("line").required(true))]
struct Arguments {
    /// Make a pseudo-terminal with a symbolic link to it at LINK.
    #[arg(long, value_name = "LINK", group = "line")]
    pty: Option<PathBuf>,
    /// Connect to the Unix socket PATH, again and again.
    #[arg(long, value_name = "PATH", group = "line")]
    connect_unix: Option<PathBuf>,
    /// Listen on the Unix socket PATH, for one peer at a time.
    #[arg(long, value_name = "PATH", group = "line")]
    listen_unix: Option<PathBuf>,
    /// Listen for control requests on the Unix socket PATH.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Seed of every random choice (encoder noise, faults).
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Joint angles at the start in radians, six numbers separated by commas.
    #[arg(
        long,
        value_name = "RAD,…",
        value_delimiter = ',',
        allow_hyphen_values = true,
        default_value = "0,0,0,0,0,0"
    )]
    pose: Vec<f64>,
    /// Let the arm fall while its torque is off, instead of resting in a cradle until it is on.
    #[arg(long)]
    no_cradle: bool,
    /// Print the start-up line as JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn endpoint(&self) -> Result<Endpoint> {
        Ok(match (&self.pty, &self.connect_unix, &self.listen_unix) {
            (Some(link), None, None) => Endpoint::Pty(link.clone()),
            (None, Some(path), None) => Endpoint::Connect(path.clone()),
            (None, None, Some(path)) => Endpoint::Listen(path.clone()),
            _ => bail!("exactly one of --pty, --connect-unix and --listen-unix is needed"),
        })
    }

    fn simulation(&self) -> Result<SimulatorConfig> {
        let Ok(pose_rad) = <[f64; JOINTS]>::try_from(&self.pose[..]) else {
            bail!(
                "--pose has {} angles; the arm has {JOINTS} joints",
                self.pose.len()
            );
        };
        if let Some(angle) = pose_rad.iter().find(|angle| !angle.is_finite()) {
            bail!("--pose contains {angle}, which is not an angle in radians");
        }
        let cradle = if self.no_cradle {
            Cradle::Absent
        } else {
            Cradle::UntilTorque
        };
        Ok(SimulatorConfig {
            seed: self.seed,
            pose_rad,
            cradle,
        })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let config = arguments.simulation()?;
    // Before anything is made, so that a signal cannot leave a path behind.
    let stop = stop_signals().context("cannot wait for signals")?;
    let mut transport = Transport::open(arguments.endpoint()?)?;
    let mut control = match &arguments.control {
        Some(path) => Some(ControlServer::open(path)?),
        None => None,
    };
    let mut simulator = Simulator::new(&config, MonoNs::now());
    announce(&arguments, &transport).context("cannot print the start-up line")?;
    run(&mut simulator, &mut transport, &mut control, stop.as_fd())
        .context("waiting for the line failed")
}

fn announce(arguments: &Arguments, transport: &Transport) -> Result<()> {
    let endpoint = arguments.endpoint()?;
    let (kind, path) = endpoint.describe();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let line = serde_json::json!({
            "ok": true,
            "line": kind,
            "path": path,
            "device": transport.device(),
            "control": arguments.control,
            "seed": arguments.seed,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "arm simulator: six servos at {kind} {}",
            path.display()
        )?;
        if let Some(control) = &arguments.control {
            writeln!(out, "control socket: {}", control.display())?;
        }
    }
    out.flush()?;
    Ok(())
}
