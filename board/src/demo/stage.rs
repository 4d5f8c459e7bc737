//! What every step works with: the system under test, the way in for agents, and the robot's
//! limits.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::ipc::{Ipc, refusal_in};
use super::world::World;
use crate::simulator::JointTruth;

/// The device the demo drives.
pub const DEVICE: &str = "arm";
/// How close to a pose counts as reached, rad.
pub const REACHED_RAD: f64 = 0.02;
/// Time to live of the demo's commands.
pub const TTL: Duration = Duration::from_millis(500);
/// How often the demo's agent refreshes its command: five chances before it expires.
const REFRESH: Duration = Duration::from_millis(100);
/// Longest a pose may take; the slowest joint crosses its whole range in about four seconds.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);
/// How long a claim waits for the holder before it to be gone.
const CLAIM: Duration = Duration::from_secs(3);
/// How long the system may take to answer after a start.
const READY: Duration = Duration::from_secs(60);

/// One joint's name and limits, and how its servo's angle relates to its own.
#[derive(Clone, Debug)]
pub struct Joint {
    /// Its name.
    pub name: String,
    /// Its servo.
    pub servo_id: u8,
    /// Upper position limit, rad.
    pub position_max_rad: f64,
    /// Speed limit, rad/s.
    pub velocity_max_rad_s: f64,
    /// Acceleration limit, rad/s².
    pub acceleration_max_rad_s2: f64,
}

/// The stage.
#[derive(Debug)]
pub struct Stage {
    /// The system under test.
    pub world: Box<dyn World>,
    /// The arm's joints, in command order.
    pub joints: Vec<Joint>,
}

impl Stage {
    /// Waits until the arm can be claimed, and learns its joints.
    ///
    /// # Errors
    /// When the system does not become ready in time.
    pub fn enter(world: Box<dyn World>) -> anyhow::Result<Self> {
        let mut stage = Self {
            world,
            joints: Vec::new(),
        };
        stage
            .wait_for_phase(&["holding", "safe"], READY)
            .context("the arm did not become ready")?;
        stage.clear_estop()?;
        let info = stage
            .connect()?
            .call("device.info", &json!({"device": DEVICE}))?;
        let joints = info["joints"]
            .as_array()
            .context("device.info names no joints")?;
        stage.joints = joints.iter().map(joint).collect::<anyhow::Result<_>>()?;
        Ok(stage)
    }

    /// Clears the e-stop with which kairo-rt starts, as an operator does, as soon as it can be.
    ///
    /// # Errors
    /// When it cannot in time.
    pub fn clear_estop(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + READY;
        while let Err(error) = self.world.clear_estop() {
            ensure!(Instant::now() < end, error);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A fresh connection, as an agent makes it.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(&self) -> anyhow::Result<Ipc> {
        Ipc::connect(&self.world.ipc_socket())
    }

    /// The device's phase and cause, as the real-time plane published them.
    ///
    /// # Errors
    /// When kairod or the real-time plane is away.
    pub fn phase(&self) -> anyhow::Result<(String, String)> {
        let info = self
            .connect()?
            .call("device.info", &json!({"device": DEVICE}))?;
        let text = |key: &str| info[key].as_str().unwrap_or("unknown").to_owned();
        Ok((text("phase"), text("cause")))
    }

    /// Waits until the device is in one of `phases`; returns the cause.
    ///
    /// # Errors
    /// When it is not in time; the message tells the last phase seen.
    pub fn wait_for_phase(&self, phases: &[&str], patience: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + patience;
        loop {
            let seen = self.phase();
            match &seen {
                Ok((phase, cause)) if phases.contains(&phase.as_str()) => return Ok(cause.clone()),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                Ok((phase, cause)) => {
                    bail!("phase is `{phase}` ({cause}), not one of {phases:?}, after {patience:?}")
                }
                Err(error) => bail!("no phase after {patience:?}: {error:#}"),
            }
        }
    }

    /// Where every joint really is, in command order, rad.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn truth(&mut self) -> anyhow::Result<Vec<JointTruth>> {
        let truth = self.world.simulator().truth()?;
        let of = |joint: &Joint| {
            truth
                .iter()
                .find(|servo| servo.id == joint.servo_id)
                .cloned()
                .ok_or_else(|| {
                    anyhow!(
                        "the simulator has no servo {} ({})",
                        joint.servo_id,
                        joint.name
                    )
                })
        };
        self.joints.iter().map(of).collect()
    }

    /// Claims the arm on `ipc`; returns the lease's epoch. The step before may just have closed
    /// its connection, so a busy arm is asked for again for a moment.
    ///
    /// # Errors
    /// When it is refused.
    pub fn claim(&self, ipc: &mut Ipc) -> anyhow::Result<u64> {
        let end = Instant::now() + CLAIM;
        loop {
            match ipc.call("device.claim", &json!({"device": DEVICE})) {
                Ok(claim) => return claim["epoch"].as_u64().context("no epoch in the claim"),
                Err(error) => {
                    let busy = refusal_in(&error).is_some_and(|refusal| refusal.retryable);
                    ensure!(busy && Instant::now() < end, error);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// A position command for all joints.
    pub fn command(&self, epoch: u64, pose: &[f64]) -> Value {
        let positions: serde_json::Map<String, Value> = self
            .joints
            .iter()
            .zip(pose)
            .map(|(joint, position)| (joint.name.clone(), json!(position)))
            .collect();
        json!({
            "device": DEVICE,
            "epoch": epoch,
            "ttl_ms": TTL.as_millis() as u64,
            "command": {"mode": "position", "positions": positions},
        })
    }

    /// Commands `pose` and refreshes the command until every joint is really there; returns the
    /// largest remaining error, rad.
    ///
    /// # Errors
    /// When a command is refused or the pose is not reached in time.
    pub fn move_to(&mut self, ipc: &mut Ipc, epoch: u64, pose: &[f64]) -> anyhow::Result<f64> {
        let end = Instant::now() + MOVE_DEADLINE;
        let command = self.command(epoch, pose);
        loop {
            ipc.call("device.send", &command)?;
            let truth = self.truth()?;
            let errors = truth
                .iter()
                .zip(pose)
                .map(|(joint, want)| (joint.position_rad - want).abs());
            let worst = errors.fold(0.0, f64::max);
            let still = truth.iter().all(|joint| joint.velocity_rad_s.abs() < 0.05);
            if worst < REACHED_RAD && still {
                return Ok(worst);
            }
            let at: Vec<_> = truth.iter().map(|joint| joint.position_rad).collect();
            ensure!(
                Instant::now() < end,
                "not reached in {MOVE_DEADLINE:?}: at {at:.3?}"
            );
            std::thread::sleep(REFRESH);
        }
    }
}

fn joint(described: &Value) -> anyhow::Result<Joint> {
    let number = |key: &str| {
        described[key]
            .as_f64()
            .with_context(|| format!("device.info: a joint has no `{key}`"))
    };
    let servo_id = described["servo_id"]
        .as_u64()
        .context("device.info: no `servo_id`")?;
    Ok(Joint {
        name: described["name"]
            .as_str()
            .context("device.info: no joint `name`")?
            .to_owned(),
        servo_id: u8::try_from(servo_id)?,
        position_max_rad: number("position_max_rad")?,
        velocity_max_rad_s: number("velocity_max_rad_s")?,
        acceleration_max_rad_s2: number("acceleration_max_rad_s2")?,
    })
}
