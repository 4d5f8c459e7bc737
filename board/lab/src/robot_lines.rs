//! The arm with e-stop lines: the simulated arm and chip, the production kairo-rt on both, and what
//! an agent, an operator and the statistics say about them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use kairo_link::control::ControlSocket;
use kairo_link::operator::{OperatorReply, OperatorRequest, SOCKET_NAME};
use kairo_wire::Client;
use serde_json::{Value, json};

use crate::gpio_sim::{Chip, ESTOP};
use crate::init_socket;
use crate::loads::KERNEL_SOCKET;
use crate::plane::{Plane, Running, start_arm_with_control};
use crate::robot::{self, LAB_DIR, RUN_DIR, Robot, Timing};

/// The device that moves.
pub const DEVICE: &str = "arm";
/// Longest wait for anything, guest time. Nothing waits this long but a mistake.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(2);
/// Longest answer of kairod.
const CALL: Duration = Duration::from_secs(5);

/// Everything but kairo-rt.
#[derive(Debug)]
pub struct Bench {
    /// The wires.
    pub chip: Chip,
    _arm: Running,
}

impl Bench {
    /// Stops kairo-init's kairo-rt and makes chip and arm.
    ///
    /// # Errors
    /// When either cannot be made.
    pub fn make() -> anyhow::Result<Self> {
        std::fs::create_dir_all(LAB_DIR).context(LAB_DIR)?;
        init_socket::stop("kairo-rt")?;
        Ok(Self {
            chip: Chip::make()?,
            _arm: start_arm_with_control(&control())?,
        })
    }

    /// Starts kairo-rt on them and waits until an agent finds the arm.
    ///
    /// # Errors
    /// When it does not arm, or the arm does not appear.
    pub fn start(&self) -> anyhow::Result<Plane> {
        let timing = Timing {
            period_us: 0, // The arm's loop has its own.
            priority: 0,
            core: 0,
        };
        let config = robot::write_with(Robot::Arm, timing, ESTOP)?;
        let plane = Plane::start(Robot::Arm, &config)?;
        wait("the arm is there", || {
            let mut agent = agent()?;
            let info = info(&mut agent);
            Ok(info.is_ok_and(|info| info["state"]["phase"].is_string()))
        })?;
        Ok(plane)
    }

    /// Goal frames that arrived at the servos since `since_ns`, by their times.
    ///
    /// # Errors
    /// When the arm does not answer.
    pub fn frames(&self, since_ns: u64) -> anyhow::Result<Vec<u64>> {
        let mut stream = UnixStream::connect(control()).context("no arm")?;
        writeln!(stream, "{}", json!({"op": "goals", "since_ns": since_ns}))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        let goals = answer["goals"].as_array().context("no goals")?;
        Ok(goals
            .iter()
            .filter_map(|goal| goal["t_ns"].as_u64())
            .collect())
    }
}

fn control() -> std::path::PathBuf {
    Path::new(LAB_DIR).join("arm-control")
}

/// Waits for `what`.
///
/// # Errors
/// When it does not come, or asking fails.
pub fn wait(what: &str, mut is: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is()? {
        if Instant::now() > end {
            bail!("did not come within {PATIENCE:?}: {what}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Waits until the loop has run `ticks` more.
///
/// # Errors
/// When it does not.
pub fn wait_ticks(plane: &Plane, ticks: u64) -> anyhow::Result<()> {
    let end = plane.ticks() + ticks;
    wait("ticks", || Ok(plane.ticks() >= end))
}

/// Asks kairo-rt past kairod.
///
/// # Errors
/// When it does not answer.
pub fn operate(request: &OperatorRequest) -> anyhow::Result<OperatorReply> {
    let socket = ControlSocket::connect(&Path::new(RUN_DIR).join(SOCKET_NAME))?;
    socket.send(request, &[])?;
    Ok(socket.receive::<OperatorReply>()?.0)
}

/// A connection as an agent has it.
///
/// # Errors
/// When kairod is not there.
pub fn agent() -> anyhow::Result<Client> {
    Client::connect_path(Path::new(KERNEL_SOCKET)).context("no kairod")
}

/// What an agent sees of the arm.
///
/// # Errors
/// When kairod refuses.
pub fn info(agent: &mut Client) -> anyhow::Result<Value> {
    Ok(agent.call("device.info", json!({"device": DEVICE}), CALL)?)
}

/// A claim of the arm.
///
/// # Errors
/// When it is refused.
pub fn claim(agent: &mut Client) -> anyhow::Result<u64> {
    let claim: Value = agent.call("device.claim", json!({"device": DEVICE}), CALL)?;
    claim["epoch"].as_u64().context("no epoch")
}

/// Sends the first joint to `angle_rad`.
///
/// # Errors
/// With the refusal's text.
pub fn send(agent: &mut Client, epoch: u64, angle_rad: f64) -> anyhow::Result<Value> {
    let names = [
        "shoulder_pan",
        "shoulder_lift",
        "elbow_flex",
        "wrist_flex",
        "wrist_roll",
        "gripper",
    ];
    let mut positions = serde_json::Map::new();
    for (number, name) in names.into_iter().enumerate() {
        let angle = [angle_rad, 0.0, 0.0, 0.0, 0.0, 0.2][number];
        positions.insert(name.to_owned(), json!(angle));
    }
    let command = json!({
        "device": DEVICE, "epoch": epoch, "ttl_ms": 1000,
        "command": {"mode": "position", "positions": positions},
    });
    Ok(agent.call("device.send", command, CALL)?)
}

/// Claims the arm and sets it moving; the claim's epoch.
///
/// # Errors
/// When it does not move.
pub fn set_moving(agent: &mut Client, angle_rad: f64) -> anyhow::Result<u64> {
    let epoch = claim(agent)?;
    wait("the arm moves", || {
        send(agent, epoch, angle_rad)?;
        Ok(info(agent)?["state"]["moving"] == true)
    })?;
    Ok(epoch)
}

/// Clears the e-stop as an operator, as soon as it can be.
///
/// # Errors
/// When it cannot.
pub fn clear() -> anyhow::Result<()> {
    let mut text = String::new();
    let cleared = wait("the e-stop can be cleared", || {
        let reply = operate(&OperatorRequest::ClearEstop)?;
        text = reply.text;
        Ok(reply.done && !reply.estop)
    });
    cleared.with_context(|| text)
}

/// Ends a kairo-rt that ran well: no period left out, no fault, no heap operation.
///
/// # Errors
/// When it did not.
pub fn end_well(plane: Plane) -> anyhow::Result<()> {
    let account = plane.account();
    let periods = [&account["loops"][0], &account["lines"]["periods"]];
    for each in periods {
        ensure!(each["skipped"] == 0, "periods were skipped: {account}");
        ensure!(each["thread"]["allocations"] == 0, "heap: {account}");
        ensure!(each["thread"]["minor_faults"] == 0, "faults: {account}");
    }
    plane.stop()
}
