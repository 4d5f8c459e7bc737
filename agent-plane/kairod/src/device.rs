//! One device of the robot, as kairo-rt described it and as it stands now.

use kairo_link::abi::{DeviceState, MAX_JOINTS, Phase, Reply};
use kairo_link::control::DeviceDescription;
use kairo_link::latest;
use kairo_link::operator::DeviceFailsafe;
use kairo_link::ring::PushError;
use tokio::sync::oneshot;

use crate::claim::{Claim, Draft, Rings, Targets};
use crate::views::{self, DeviceInfo, DeviceSummary, FaultView, JointView, Peer, Sample, Status};

/// What agents put before a device's id.
pub const ALIAS_PREFIX: &str = "agent://device/";

/// Who commands the device.
#[derive(Debug)]
pub enum Standing {
    /// Nobody.
    Free,
    /// A lease was asked for and the answer is not there yet.
    Opening {
        /// Number of the question.
        request: u64,
        /// Who asked.
        holder: Peer,
    },
    /// A claim is in force.
    Held(Box<Claim>),
}

/// The device.
#[derive(Debug)]
pub struct Device {
    /// As kairo-rt described it; `present` is kept up to date.
    pub description: DeviceDescription,
    /// The device node of its bus, as of the newest welcome.
    pub path: String,
    /// What kairo-rt last said of its loss, for error messages.
    pub trouble: String,
    /// What its failsafe machine decided last.
    pub failsafe: DeviceFailsafe,
    /// Who commands it.
    pub standing: Standing,
    /// None while kairo-rt is away.
    states: Option<latest::Reader<DeviceState>>,
    /// The rings while no claim has them; none while kairo-rt is away.
    rings: Option<Rings>,
    newest: Option<DeviceState>,
}

impl Device {
    /// A device whose states are read from `states` and whose claims use `rings`.
    pub fn new(
        description: DeviceDescription,
        path: String,
        states: latest::Reader<DeviceState>,
        rings: Rings,
    ) -> Self {
        Self {
            description,
            path,
            trouble: String::new(),
            failsafe: DeviceFailsafe::default(),
            standing: Standing::Free,
            states: Some(states),
            rings: Some(rings),
            newest: None,
        }
    }

    /// Its stable id.
    pub fn id(&self) -> &str {
        &self.description.name
    }

    /// Takes the newest state, if there is a new one. Gives the phase before and now when the
    /// phase changed.
    pub fn refresh(&mut self) -> Option<(Option<Phase>, Phase)> {
        let state = self.states.as_mut()?.take()?;
        let before = self.newest.and_then(|state| Phase::from_u32(state.phase));
        self.newest = Some(state);
        let now = Phase::from_u32(state.phase)?;
        (before != Some(now)).then_some((before, now))
    }

    /// Forgets what belongs to a kairo-rt that is gone.
    pub fn detach(&mut self) {
        self.states = None;
        self.rings = None;
        self.newest = None;
    }

    /// Puts claim `epoch` of `holder` in force. False when the rings are not here, which kairo-rt
    /// must not have let happen.
    pub fn hold(&mut self, holder: Peer, epoch: u64) -> bool {
        let Some(rings) = self.rings.take() else {
            return false;
        };
        self.standing = Standing::Held(Box::new(Claim::new(holder, epoch, rings)));
        true
    }

    /// Ends the claim in force, if there is one, and gives its epoch.
    pub fn free(&mut self) -> Option<u64> {
        match std::mem::replace(&mut self.standing, Standing::Free) {
            Standing::Held(claim) => {
                let epoch = claim.epoch;
                self.rings = Some(claim.into_rings());
                Some(epoch)
            }
            Standing::Opening { .. } | Standing::Free => None,
        }
    }

    /// Sends a command on the claim in force. Without one there is no ring to take it.
    pub fn push(&mut self, draft: &Draft) -> Result<(u64, oneshot::Receiver<Reply>), PushError> {
        match &mut self.standing {
            Standing::Held(claim) => claim.push(draft),
            Standing::Opening { .. } | Standing::Free => Err(PushError::Full),
        }
    }

    /// Whether it can be used.
    pub fn status(&self) -> Status {
        let phase = self.newest.and_then(|state| Phase::from_u32(state.phase));
        match (&self.states, phase) {
            (None, _) => Status::Unavailable,
            (Some(_), _) if !self.description.present => Status::Lost,
            (Some(_), Some(Phase::Lost)) => Status::Lost,
            (Some(_), Some(Phase::Disarmed)) => Status::Disarmed,
            (Some(_), Some(_)) if self.fault().is_some() => Status::Faulted,
            (Some(_), _) => Status::Ready,
        }
    }

    /// The newest state; none while kairo-rt is away or has not published one.
    pub fn newest(&self) -> Option<&DeviceState> {
        self.newest.as_ref()
    }

    /// The fault that is latched in the real-time plane.
    pub fn fault(&self) -> Option<FaultView> {
        views::fault(&self.description, self.newest.as_ref()?)
    }

    /// What the joints are commanded to now, in command order.
    pub fn setpoints(&self) -> Option<Targets> {
        let state = self.newest?;
        let mut setpoints = [0.0; MAX_JOINTS];
        for (setpoint, joint) in setpoints.iter_mut().zip(&state.joints) {
            *setpoint = joint.setpoint_rad;
        }
        Some(setpoints)
    }

    /// As `device.list` shows it.
    pub fn summary(&self) -> DeviceSummary {
        let (epoch, holder) = match &self.standing {
            Standing::Held(claim) => (Some(claim.epoch), Some(claim.holder.clone())),
            Standing::Opening { holder, .. } => (None, Some(holder.clone())),
            Standing::Free => (None, None),
        };
        let description = &self.description;
        DeviceSummary {
            id: description.name.clone(),
            alias: format!("{ALIAS_PREFIX}{}", description.name),
            kind: description.kind.clone(),
            bus: description.bus.clone(),
            path: self.path.clone(),
            status: self.status(),
            phase: self.newest.and_then(|state| views::phase(&state)),
            cause: self.newest.and_then(|state| views::cause(&state)),
            epoch,
            holder,
        }
    }

    /// As `device.info` shows it.
    pub fn info(&self) -> DeviceInfo {
        let description = &self.description;
        DeviceInfo {
            summary: self.summary(),
            control_loop: description.control_loop.clone(),
            safe_action: description.safe_action.clone(),
            torque_at_start: description.torque_at_start,
            ttl_max_ms: description.ttl_max_ms,
            fault: self.fault(),
            joints: description.joints.iter().map(JointView::from).collect(),
            state: self.newest.is_some().then(|| self.sample()),
        }
    }

    /// As `device.subscribe` streams it.
    pub fn sample(&self) -> Sample {
        views::sample(&self.description, self.status(), self.newest.as_ref())
    }
}
