//! One device as the control loop sees it: lease, phase, motion and safe action.
//!
//! No clock, no thread and no input or output of its own: times, feedback and commands go in,
//! replies, goals and states come out, so every transition is tested without a bus. rt-safe, all
//! of it but [`Device::new`]; bounded by the number of joints.
//!
//! What it guarantees: outside [`Phase::Following`] the setpoint only ever slows down to rest, or
//! ramps to the declared rest pose; a setpoint is never taken from a connection other than the
//! present one, nor from a position that was measured only once or a while ago; no command outlives
//! its time to live, its lease, its bus or the agent plane; and a device that was found not to do
//! what it is told stays in its safe action until a reset.

mod command;
mod moving;

use kairo_failsafe::Action;
use kairo_link::MonoNs;
use kairo_link::abi::{Cause, Command, DeviceState, JointState, MAX_JOINTS, Mode, Phase};

use crate::config::{DeviceConfig, SafeAction};
use crate::exchange::{Feedback, Goals, JointFeedback};
use crate::fault::{Fault, FollowingLimit, Watch};
use crate::limits::JointLimits;
use crate::motion::MotionState;
use crate::safe_action::SafeSequence;
use crate::steady::Steadiness;

/// The command in force.
#[derive(Clone, Copy, Debug, PartialEq)]
struct InForce {
    expires: MonoNs,
    mode: Mode,
    command: Command,
}

/// What forbids motion from outside the command path.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Inhibit {
    cause: Cause,
    action: SafeAction,
}

/// What the failsafe machine demands of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restraint {
    /// What to do.
    pub action: Action,
    /// Why.
    pub cause: Cause,
    /// Whether commands are refused, or an accepted one goes before it.
    pub refuses: bool,
    /// Whether it begins with this step: a command accepted before does not go on then.
    pub begins: bool,
    /// Whether nothing may move: what would ramp holds.
    pub stands_still: bool,
}

/// What a tick is called in replies and states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub time: MonoNs,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Device {
    limits: [JointLimits; MAX_JOINTS],
    following: [FollowingLimit; MAX_JOINTS],
    rest_rad: [f64; MAX_JOINTS],
    joint_count: usize,
    safe_action: SafeAction,
    ramp_velocity_scale: f64,
    torque_at_start: bool,
    ttl_max_ns: u64,
    stale_ns: u64,
    step_s: f64,
    armed: bool,
    phase: Phase,
    cause: Cause,
    phase_since: Tick,
    /// The tick that runs.
    tick: Tick,
    /// What is done in [`Phase::Safe`].
    sequence: SafeSequence,
    present: bool,
    torque: bool,
    /// Whether it was under torque when its bus was lost.
    had_torque: bool,
    watch: Watch,
    fault: Option<Fault>,
    inhibit: Option<Inhibit>,
    feedback: Feedback,
    steadiness: Steadiness,
    motions: [MotionState; MAX_JOINTS],
    target_rad: [f64; MAX_JOINTS],
    /// What blocks want of the joints they drive, instead of the command's target.
    driven_rad: [Option<f64>; MAX_JOINTS],
    /// How fast that place moves.
    driven_rad_s: [f64; MAX_JOINTS],
    lease_epoch: u64,
    newest_sequence: u64,
    in_force: Option<InForce>,
}

impl Device {
    /// A device that is not armed yet, driven every `period_ns`. setup-only.
    pub fn new(config: &DeviceConfig, period_ns: u64) -> Self {
        let mut limits = [JointLimits::default(); MAX_JOINTS];
        let mut following = [FollowingLimit::default(); MAX_JOINTS];
        let mut rest_rad = [0.0; MAX_JOINTS];
        for (index, joint) in config.joints.iter().enumerate().take(MAX_JOINTS) {
            limits[index] = JointLimits::from(joint);
            following[index] = FollowingLimit::from(joint);
            rest_rad[index] = joint.rest_position_rad.unwrap_or_default();
        }
        Self {
            limits,
            following,
            rest_rad,
            joint_count: config.joints.len().min(MAX_JOINTS),
            safe_action: config.safe_action,
            ramp_velocity_scale: config.ramp_velocity_scale,
            torque_at_start: config.torque_at_start,
            ttl_max_ns: config.ttl_max_ms * 1_000_000,
            stale_ns: config.feedback_stale_ms * 1_000_000,
            step_s: period_ns as f64 / 1e9,
            armed: false,
            phase: Phase::Disarmed,
            cause: Cause::None,
            phase_since: Tick::default(),
            tick: Tick::default(),
            sequence: SafeSequence::begin(config.safe_action, MonoNs(0)),
            present: false,
            torque: false,
            had_torque: false,
            watch: Watch::default(),
            fault: None,
            inhibit: None,
            feedback: Feedback::default(),
            steadiness: Steadiness::default(),
            motions: [MotionState::default(); MAX_JOINTS],
            target_rad: [0.0; MAX_JOINTS],
            driven_rad: [None; MAX_JOINTS],
            driven_rad_s: [0.0; MAX_JOINTS],
            lease_epoch: 0,
            newest_sequence: 0,
            in_force: None,
        }
    }

    /// Bring-up has decided. Without `armed` the device stays disarmed for ever. rt-safe.
    pub fn decide(&mut self, now: MonoNs, armed: bool) {
        self.armed = armed;
        // Whoever was there before is only held from now on: by its next feedback.
        self.present = false;
        if !armed {
            self.enter(Phase::Disarmed, Cause::BringupRefused, now);
        }
    }

    /// A tick begins; what happens until the next one happens in it. rt-safe.
    pub fn begin(&mut self, tick: Tick) {
        self.tick = tick;
    }

    /// Where it stands. rt-safe.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What was measured of every joint, newest. rt-safe.
    pub fn joints(&self) -> &[JointFeedback] {
        &self.feedback.joints[..self.joint_count]
    }

    /// Whether its bus is up and every joint has answered steadily on this connection. rt-safe.
    pub const fn is_present(&self) -> bool {
        self.present
    }

    /// The epoch of the lease in force; zero without. rt-safe.
    pub const fn lease_epoch(&self) -> u64 {
        self.lease_epoch
    }

    /// The fault that is latched, if any. rt-safe.
    pub const fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Whether the setpoint of any joint moves. rt-safe.
    pub fn is_moving(&self) -> bool {
        self.motions[..self.joint_count]
            .iter()
            .any(MotionState::is_moving)
    }

    /// Takes new feedback in. rt-safe.
    ///
    /// Returns why the lease must end, if it must: the bus is lost, or a fault was found, which is
    /// latched and whose safe action has begun.
    pub fn observe(&mut self, now: MonoNs, feedback: &Feedback) -> Option<Cause> {
        let reconnected = feedback.generation != self.feedback.generation;
        self.feedback = *feedback;
        let joints = &self.feedback.joints[..self.joint_count];
        let complete = feedback.bus_up == 1 && joints.iter().all(|joint| joint.sampled_ns > 0);
        let lost = self.present && (!complete || reconnected);
        let losses = (feedback.torque_losses, feedback.limp_joint as usize);
        if let Some(fault) = self.watch.torque_losses(now, losses.0, losses.1) {
            self.latch(now, fault);
        }
        if lost {
            self.lose(now);
        }
        self.steadiness.observe(feedback);
        if complete && !self.present && self.is_steady() {
            self.find(now);
        }
        if lost {
            return Some(Cause::BusLost);
        }
        let fault = self.find_fault()?;
        self.latch(now, fault);
        Some(fault.cause)
    }

    fn lose(&mut self, now: MonoNs) {
        self.present = false;
        self.in_force = None;
        self.had_torque = self.torque;
        self.torque = false;
        if self.armed {
            self.rest_at_measured();
            self.enter(Phase::Lost, Cause::BusLost, now);
        }
    }

    /// The device answers steadily: it is held where it is, or left limp.
    ///
    /// A device that is declared to let go, or that tripped, is not taken hold of unasked.
    fn find(&mut self, now: MonoNs) {
        self.present = true;
        self.rest_at_measured();
        if !self.armed {
            return;
        }
        let keeps_hold = self.had_torque && self.safe_action != SafeAction::TorqueOff;
        // What holds under an e-stop holds from the beginning: an arm must not sink because
        // kairo-rt was started again.
        let holds = |inhibit: Inhibit| inhibit.action != SafeAction::TorqueOff;
        let free = self.fault.is_none() && self.inhibit.is_none_or(holds);
        self.torque = free && (self.torque_at_start || keeps_hold);
        match (self.fault, self.inhibit) {
            (Some(fault), _) => self.enter(Phase::Safe, fault.cause, now),
            (None, Some(inhibit)) => self.enter(Phase::Safe, inhibit.cause, now),
            (None, None) => self.stand(now),
        }
    }

    /// Nothing is commanded, and nothing is wrong.
    fn stand(&mut self, now: MonoNs) {
        let phase = match self.torque {
            true => Phase::Holding,
            false => Phase::Idle,
        };
        self.enter(phase, Cause::None, now);
    }

    /// What the newest samples show to be wrong. Only while nothing is latched: the first fault is
    /// the one that explains.
    fn find_fault(&mut self) -> Option<Fault> {
        if !self.armed || !self.present || self.fault.is_some() {
            return None;
        }
        for joint in 0..self.joint_count {
            let setpoint = self.motions[joint].position_rad;
            let fault = self.watch.sample(
                joint,
                &self.feedback.joints[joint],
                self.torque.then_some(setpoint),
                &self.following[joint],
            );
            if fault.is_some() {
                return fault;
            }
        }
        None
    }

    fn latch(&mut self, now: MonoNs, fault: Fault) {
        self.fault = Some(fault);
        if fault.cause == Cause::FollowingError && self.steadiness.agrees(fault.joint) {
            // Whatever is in the way is pushed no longer: the setpoint goes to where the joint is.
            let measured = self.feedback.joints[fault.joint].position_rad;
            self.motions[fault.joint] = MotionState::at_rest(measured);
        }
        self.take_safe_action(now, fault.cause);
    }

    /// Why the lease must end because of time alone: feedback is too old to move by. rt-safe.
    pub fn overdue(&self, now: MonoNs) -> Option<Cause> {
        let joints = &self.feedback.joints[..self.joint_count];
        let stale = |sampled_ns| now.since_ns(MonoNs(sampled_ns)) > self.stale_ns;
        let any_stale = joints.iter().any(|joint| stale(joint.sampled_ns));
        (self.present && any_stale).then_some(Cause::FeedbackStale)
    }

    /// A lease begins. Nothing moves until its first command. rt-safe.
    pub fn open_lease(&mut self, epoch: u64) {
        self.lease_epoch = epoch;
        self.newest_sequence = 0;
        self.in_force = None;
    }

    /// The lease in force, if any, ends; see [`Device::take_safe_action`]. rt-safe.
    pub fn end_lease(&mut self, now: MonoNs, cause: Cause) {
        self.lease_epoch = 0;
        self.newest_sequence = 0;
        self.take_safe_action(now, cause);
    }

    /// No command is in force any more: the device slows down and holds, which is safe at once, and
    /// the failsafe machine says what more is to be done, in this tick or, when it has decided
    /// already, in the next. What is being done already goes on, as far as `cause` lets it.
    /// rt-safe.
    pub fn take_safe_action(&mut self, now: MonoNs, cause: Cause) {
        let action = match self.phase {
            Phase::Safe => self.sequence.action(),
            _ => SafeAction::Hold,
        };
        // What inhibits, and then a latched fault, have the say: an end of the lease meanwhile must
        // not set off a milder action, or a ramp through what is in the way.
        let (cause, action) = match (self.inhibit, self.fault) {
            (Some(inhibit), _) => (inhibit.cause, inhibit.action),
            (None, Some(fault)) => (fault.cause, action.because_of(fault.cause)),
            (None, None) => (cause, action.because_of(cause)),
        };
        self.take_action(now, cause, action);
    }

    /// The failsafe machine demands an action: nothing is followed while it refuses commands.
    /// Called every tick for as long as it does; another action than before begins anew. A fault
    /// that is found meanwhile is latched all the same. rt-safe.
    pub fn restrain(&mut self, now: MonoNs, restraint: Restraint) {
        let cause = restraint.cause;
        let action = match restraint.action {
            Action::Hold => SafeAction::Hold,
            Action::RampToRest => SafeAction::Ramp,
            Action::TorqueOff => SafeAction::TorqueOff,
            _ => self.safe_action,
        };
        // Whatever is asked for: a joint that met something is not ramped through it.
        let action = action.because_of(cause);
        let fault = self.fault.map(|fault| fault.cause);
        let action = fault.map_or(action, |cause| action.because_of(cause));
        let action = match (restraint.stands_still, action) {
            (true, SafeAction::Ramp) => SafeAction::Hold,
            (_, action) => action,
        };
        self.inhibit = restraint.refuses.then_some(Inhibit { cause, action });
        if self.phase == Phase::Following && !restraint.refuses && !restraint.begins {
            return;
        }
        if self.phase == Phase::Safe && self.cause == cause && self.sequence.action() != action {
            self.sequence = SafeSequence::begin(action, now);
        }
        self.take_action(now, cause, action);
    }

    /// The failsafe machine demands nothing any more. Nothing moves by that, and what was let go
    /// is not taken hold of. rt-safe.
    pub fn release(&mut self, now: MonoNs) {
        self.inhibit = None;
        if self.phase == Phase::Safe && self.fault.is_none() {
            self.stand(now);
        }
    }

    fn take_action(&mut self, now: MonoNs, cause: Cause, action: SafeAction) {
        self.in_force = None;
        let is_same = self.cause == cause && self.sequence.action() == action;
        let goes_on = self.phase == Phase::Safe && is_same;
        let limp = self.phase == Phase::Idle && self.fault.is_none() && self.inhibit.is_none();
        if matches!(self.phase, Phase::Disarmed | Phase::Lost) || goes_on || limp {
            return;
        }
        // What was let go stays so: an end of the lease is no reason to take hold again.
        self.sequence = SafeSequence::begin(action, now);
        self.enter(Phase::Safe, cause, now);
    }

    /// Whether a position command is in force, so that blocks may move joints. rt-safe.
    pub fn is_following(&self) -> bool {
        let mode = self.in_force.map(|in_force| in_force.mode);
        self.phase == Phase::Following && mode == Some(Mode::Position)
    }

    /// What was measured of a joint. rt-safe.
    pub const fn measured(&self, joint: usize) -> &JointFeedback {
        &self.feedback.joints[joint]
    }

    /// What the command in force asks of a joint; its setpoint without one. rt-safe.
    pub const fn target_rad(&self, joint: usize) -> f64 {
        self.target_rad[joint]
    }

    /// The newest setpoint of a joint. rt-safe.
    pub const fn setpoint_rad(&self, joint: usize) -> f64 {
        self.motions[joint].position_rad
    }

    /// From now on this joint goes where blocks want it while a position command is in force, as
    /// far as its limits allow. `wanted_rad` is finite. rt-safe.
    ///
    /// A place that moves from tick to tick no faster than the joint may is followed without delay;
    /// a jump is approached like a target.
    pub fn drive(&mut self, joint: usize, wanted_rad: f64) {
        let before = self.driven_rad[joint].replace(wanted_rad);
        let moved = before.map_or(0.0, |before| wanted_rad - before) / self.step_s;
        let is_jump = moved.abs() > self.limits[joint].velocity_max_rad_s;
        self.driven_rad_s[joint] = if is_jump { 0.0 } else { moved };
    }

    /// What the torque switches shall be. What tripped is not taken hold of when its bus comes
    /// back, but not dropped either, unless its safe action is to let go.
    fn torque_goal(&self) -> u64 {
        let lets_go = self.sequence.action() == SafeAction::TorqueOff;
        match self.armed && self.present {
            true if self.torque => Goals::ON,
            true if self.fault.is_none() || lets_go => Goals::OFF,
            _ => Goals::LEAVE,
        }
    }

    /// Whether the servos are under torque, as far as anybody knows: told to be; or left alone and
    /// found to be, or not looked at yet on this connection; or they were when they were lost. What
    /// may hold, or may move a hand away, must not be called limp.
    fn is_under_torque(&self) -> bool {
        let seen = self.feedback.torque_seen;
        match (self.torque_goal(), self.present) {
            (Goals::ON, _) => true,
            (Goals::OFF, _) => false,
            (_, true) => seen != Feedback::ALL_OFF,
            (_, false) => self.had_torque || seen == Feedback::SOME_ON,
        }
    }

    /// What the servos shall do. rt-safe.
    pub fn goals(&self) -> Goals {
        Goals {
            generation: self.feedback.generation,
            torque: self.torque_goal(),
            setpoint_rad: self.motions.map(|motion| motion.position_rad),
        }
    }

    /// The whole state. rt-safe.
    pub fn state(&self, tick: Tick) -> DeviceState {
        let mut joints = [JointState::default(); MAX_JOINTS];
        for (index, joint) in joints.iter_mut().enumerate().take(self.joint_count) {
            let measured = &self.feedback.joints[index];
            *joint = JointState {
                position_rad: measured.position_rad,
                velocity_rad_s: measured.velocity_rad_s,
                setpoint_rad: self.motions[index].position_rad,
                target_rad: self.target_rad[index],
                load_ratio: measured.load_ratio,
                voltage_v: measured.voltage_v,
                current_a: measured.current_a,
                temperature_c: measured.temperature_c,
                sampled_ns: measured.sampled_ns,
                status_bits: measured.status_bits,
                missed: measured.missed,
            };
        }
        let inhibited = self.inhibit.map_or(Cause::None, |inhibit| inhibit.cause);
        let fault = self.fault;
        DeviceState {
            tick: tick.number,
            time_ns: tick.time.0,
            lease_epoch: self.lease_epoch,
            sequence: self
                .in_force
                .map_or(0, |in_force| in_force.command.sequence),
            expires_ns: self.expires_ns(),
            phase_since_ns: self.phase_since.time.0,
            phase_since_tick: self.phase_since.number,
            fault_since_ns: fault.map_or(0, |fault| fault.since.0),
            fault_value: fault.map_or(0.0, |fault| fault.value),
            fault_limit: fault.map_or(0.0, |fault| fault.limit),
            phase: self.phase as u32,
            cause: self.cause as u32,
            joint_count: self.joint_count as u32,
            moving: u32::from(self.is_moving()),
            fault: fault.map_or(Cause::None, |fault| fault.cause) as u32,
            fault_joint: fault.map_or(0, |fault| fault.joint as u32),
            torque: u32::from(self.is_under_torque()),
            inhibited: inhibited as u32,
            joints,
        }
    }

    fn expires_ns(&self) -> u64 {
        self.in_force.map_or(0, |in_force| in_force.expires.0)
    }

    /// Whether the measured positions are good enough to switch torque on by them.
    fn is_steady(&self) -> bool {
        let joints = &self.feedback.joints[..self.joint_count];
        self.steadiness.is_steady(joints)
    }

    fn rest_at_measured(&mut self) {
        for joint in 0..self.joint_count {
            let measured = self.feedback.joints[joint].position_rad;
            self.motions[joint] = MotionState::at_rest(measured);
            self.target_rad[joint] = measured;
        }
    }

    fn enter(&mut self, phase: Phase, cause: Cause, now: MonoNs) {
        self.phase = phase;
        self.cause = cause;
        self.phase_since = Tick {
            number: self.tick.number,
            time: now,
        };
    }
}

mod recorded;

#[cfg(test)]
mod latch_tests;
#[cfg(test)]
pub(crate) mod tests;
