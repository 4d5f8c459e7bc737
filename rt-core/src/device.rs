//! One device as the control loop sees it: lease, phase, motion and safe action.
//!
//! No clock, no thread and no input or output of its own: times, feedback and commands go in,
//! replies, goals and states come out, so every transition is tested without a bus. rt-safe, all
//! of it but [`Device::new`]; bounded by the number of joints.
//!
//! What it guarantees: outside [`Phase::Following`] the setpoint only ever slows down to rest; a
//! setpoint is never taken from a connection other than the present one, nor from a position that
//! was measured only once or a while ago; and no command outlives
//! its time to live, its lease, its bus or the agent plane.

use kairo_failsafe::Action;
use kairo_link::MonoNs;
use kairo_link::abi::{
    Cause, Command, DeviceState, JointState, MAX_JOINTS, Mode, Phase, Reply, Verdict,
};

use crate::config::{DeviceConfig, SafeAction};
use crate::exchange::{Feedback, Goals, JointFeedback};
use crate::lease::{Standing, judge};
use crate::limits::JointLimits;
use crate::motion::{MotionState, advance, stop};
use crate::steady::Steadiness;

/// The command in force.
#[derive(Clone, Copy, Debug, PartialEq)]
struct InForce {
    sequence: u64,
    expires: MonoNs,
    mode: Mode,
    velocity_scale: f64,
}

/// What a tick is called in replies and states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    joint_count: usize,
    safe_action: SafeAction,
    ttl_max_ns: u64,
    stale_ns: u64,
    step_s: f64,
    armed: bool,
    phase: Phase,
    cause: Cause,
    phase_since: MonoNs,
    present: bool,
    torque: bool,
    feedback: Feedback,
    steadiness: Steadiness,
    motions: [MotionState; MAX_JOINTS],
    target_rad: [f64; MAX_JOINTS],
    /// What blocks want of the joints they drive, instead of the command's target.
    driven_rad: [Option<f64>; MAX_JOINTS],
    lease_epoch: u64,
    newest_sequence: u64,
    in_force: Option<InForce>,
    /// The failsafe machine demands holding, whatever the declared safe action is.
    must_hold: bool,
    /// It demands letting go, whatever the declared safe action is.
    must_let_go: bool,
    /// Whether it lets nobody command the device.
    inhibited: bool,
}

impl Device {
    /// A device that is not armed yet, driven every `period_ns`. setup-only.
    pub fn new(config: &DeviceConfig, period_ns: u64) -> Self {
        let mut limits = [JointLimits::default(); MAX_JOINTS];
        for (limit, joint) in limits.iter_mut().zip(&config.joints) {
            *limit = JointLimits::from(joint);
        }
        Self {
            limits,
            joint_count: config.joints.len().min(MAX_JOINTS),
            safe_action: config.safe_action,
            ttl_max_ns: config.ttl_max_ms * 1_000_000,
            stale_ns: config.feedback_stale_ms * 1_000_000,
            step_s: period_ns as f64 / 1e9,
            armed: false,
            phase: Phase::Disarmed,
            cause: Cause::None,
            phase_since: MonoNs(0),
            present: false,
            torque: false,
            feedback: Feedback::default(),
            steadiness: Steadiness::default(),
            motions: [MotionState::default(); MAX_JOINTS],
            target_rad: [0.0; MAX_JOINTS],
            driven_rad: [None; MAX_JOINTS],
            lease_epoch: 0,
            newest_sequence: 0,
            in_force: None,
            must_hold: false,
            must_let_go: false,
            inhibited: false,
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

    /// Whether its bus is up and every joint has answered steadily on this connection. rt-safe.
    pub const fn is_present(&self) -> bool {
        self.present
    }

    /// Where it stands. rt-safe.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The temperature of its hottest joint, °C; of the newest samples. rt-safe.
    pub fn hottest_c(&self) -> f64 {
        let joints = &self.feedback.joints[..self.joint_count];
        joints
            .iter()
            .fold(0.0, |hottest: f64, joint| hottest.max(joint.temperature_c))
    }

    /// The epoch of the lease in force; zero without. rt-safe.
    pub const fn lease_epoch(&self) -> u64 {
        self.lease_epoch
    }

    /// Whether the setpoint of any joint moves. rt-safe.
    pub fn is_moving(&self) -> bool {
        self.motions[..self.joint_count]
            .iter()
            .any(MotionState::is_moving)
    }

    /// Takes new feedback in. rt-safe.
    ///
    /// Returns why the lease must end, if it must: the bus is lost.
    pub fn observe(&mut self, now: MonoNs, feedback: &Feedback) -> Option<Cause> {
        let reconnected = feedback.generation != self.feedback.generation;
        self.feedback = *feedback;
        let joints = &self.feedback.joints[..self.joint_count];
        let complete = feedback.bus_up == 1 && joints.iter().all(|joint| joint.sampled_ns > 0);
        let lost = self.present && (!complete || reconnected);
        if lost {
            self.present = false;
            self.in_force = None;
            self.torque = false;
            if self.armed {
                self.rest_at_measured();
                self.enter(Phase::Lost, Cause::BusLost, now);
            }
        }
        self.steadiness.observe(feedback);
        if complete && !self.present && self.is_steady() {
            self.present = true;
            self.rest_at_measured();
            if self.armed {
                self.torque = true;
                self.enter(Phase::Holding, Cause::None, now);
            }
        }
        lost.then_some(Cause::BusLost)
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

    /// The lease in force, if any, ends, and the safe action begins. rt-safe.
    pub fn end_lease(&mut self, now: MonoNs, cause: Cause) {
        self.lease_epoch = 0;
        self.newest_sequence = 0;
        self.take_safe_action(now, cause);
    }

    /// No command is in force any more: slow down, and then do as declared. rt-safe.
    pub fn take_safe_action(&mut self, now: MonoNs, cause: Cause) {
        self.in_force = None;
        if !matches!(self.phase, Phase::Disarmed | Phase::Lost) {
            self.enter(Phase::Safe, cause, now);
        }
    }

    /// The failsafe machine demands `action`: nothing is followed while it `refuses` commands.
    /// Called every tick for as long as it does. rt-safe.
    pub fn restrain(&mut self, now: MonoNs, action: Action, cause: Cause, refuses: bool) {
        self.must_hold = action == Action::Hold;
        self.must_let_go = action == Action::TorqueOff;
        self.inhibited = refuses;
        let begins = self.phase != Phase::Safe || self.cause != cause;
        if begins && (refuses || self.phase != Phase::Following) {
            self.take_safe_action(now, cause);
        }
    }

    /// The failsafe machine demands nothing any more. Nothing moves by that. rt-safe.
    pub fn release(&mut self, now: MonoNs) {
        (self.must_hold, self.must_let_go, self.inhibited) = (false, false, false);
        if self.phase == Phase::Safe && self.torque {
            self.enter(Phase::Holding, Cause::None, now);
        } else if self.phase == Phase::Safe {
            self.enter(Phase::Idle, Cause::None, now);
        }
    }

    /// Judges a command taken from the ring, and follows it if it is good. `now` is when it was
    /// taken. rt-safe.
    pub fn command(&mut self, now: MonoNs, tick: Tick, command: &Command) -> Reply {
        let standing = Standing {
            armed: self.armed,
            bus_up: self.present && (self.torque || self.is_steady()),
            inhibited: self.inhibited,
            lease_epoch: self.lease_epoch,
            newest_sequence: self.newest_sequence,
            ttl_max_ns: self.ttl_max_ns,
            limits: &self.limits[..self.joint_count],
        };
        let judged = judge(now, command, &standing);
        if let (Verdict::Accepted, Some(mode)) = (judged.verdict, Mode::from_u32(command.mode)) {
            self.follow(now, command, mode);
        }
        Reply {
            sequence: command.sequence,
            lease_epoch: command.lease_epoch,
            tick: tick.number,
            time_ns: tick.time.0,
            expires_ns: self.in_force.map_or(0, |in_force| in_force.expires.0),
            verdict: judged.verdict as u32,
            cause: Cause::None as u32,
            joint: judged.joint,
            reserved: 0,
            value: judged.value,
            min: judged.min,
            max: judged.max,
        }
    }

    fn follow(&mut self, now: MonoNs, command: &Command, mode: Mode) {
        if !self.torque {
            // Torque was off: the arm is where gravity left it, so start from there.
            self.rest_at_measured();
            self.torque = true;
        }
        self.newest_sequence = command.sequence;
        self.in_force = Some(InForce {
            sequence: command.sequence,
            expires: MonoNs(command.issued_ns).plus_ns(command.ttl_ns),
            mode,
            velocity_scale: command.velocity_scale,
        });
        if mode == Mode::Position {
            self.target_rad = command.position_rad;
        }
        if self.phase != Phase::Following {
            self.enter(Phase::Following, Cause::None, now);
        }
    }

    /// If the command in force has outlived its time to live: takes the safe action and returns the
    /// notice for the holder, who keeps the lease. rt-safe.
    pub fn expire(&mut self, tick: Tick) -> Option<Reply> {
        let in_force = self
            .in_force
            .filter(|in_force| in_force.expires <= tick.time)?;
        self.take_safe_action(tick.time, Cause::CommandExpired);
        Some(Reply {
            expires_ns: in_force.expires.0,
            ..self.notice(tick, Cause::CommandExpired)
        })
    }

    /// A notice for the holder that the standing of its lease changed. rt-safe.
    pub fn notice(&self, tick: Tick, cause: Cause) -> Reply {
        Reply {
            lease_epoch: self.lease_epoch,
            tick: tick.number,
            time_ns: tick.time.0,
            verdict: Verdict::Accepted as u32,
            cause: cause as u32,
            ..Reply::default()
        }
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
    pub const fn drive(&mut self, joint: usize, wanted_rad: f64) {
        self.driven_rad[joint] = Some(wanted_rad);
    }

    /// Moves the setpoints by one period. rt-safe.
    pub fn step(&mut self) {
        if matches!(self.phase, Phase::Disarmed | Phase::Lost) {
            return;
        }
        let moving_to = self
            .in_force
            .filter(|in_force| in_force.mode == Mode::Position);
        for joint in 0..self.joint_count {
            let (state, limits) = (self.motions[joint], &self.limits[joint]);
            self.motions[joint] = match moving_to {
                Some(command) => {
                    let target = match self.driven_rad[joint] {
                        Some(wanted) => limits.nearest_allowed(wanted),
                        None => self.target_rad[joint],
                    };
                    advance(state, target, command.velocity_scale, limits, self.step_s)
                }
                None => stop(state, limits, self.step_s),
            };
            if moving_to.is_none() {
                self.target_rad[joint] = self.motions[joint].position_rad;
            }
        }
        let declared = self.safe_action == SafeAction::TorqueOff && !self.must_hold;
        let lets_go = self.phase == Phase::Safe && (declared || self.must_let_go);
        if lets_go && !self.is_moving() {
            self.torque = false;
        }
    }

    /// What the servos shall do. rt-safe.
    pub fn goals(&self) -> Goals {
        Goals {
            generation: self.feedback.generation,
            torque: u64::from(self.armed && self.present && self.torque),
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
        DeviceState {
            tick: tick.number,
            time_ns: tick.time.0,
            lease_epoch: self.lease_epoch,
            sequence: self.in_force.map_or(0, |in_force| in_force.sequence),
            expires_ns: self.in_force.map_or(0, |in_force| in_force.expires.0),
            phase_since_ns: self.phase_since.0,
            phase: self.phase as u32,
            cause: self.cause as u32,
            joint_count: self.joint_count as u32,
            moving: u32::from(self.is_moving()),
            joints,
        }
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
        self.phase_since = now;
    }
}

mod recorded;

#[cfg(test)]
mod tests;
