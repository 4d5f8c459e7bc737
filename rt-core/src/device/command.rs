//! Commands of a lease: judged, followed, expired. rt-safe.

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, Command, Mode, Phase, Reply, Verdict};

use super::{Device, InForce, Tick};
use crate::fault::SERVO_FAULTS;
use crate::lease::{Standing, judge};

impl Device {
    /// Judges a command taken from the ring, and follows it if it is good. `now` is when it was
    /// taken. rt-safe.
    pub fn command(&mut self, now: MonoNs, tick: Tick, command: &Command) -> Reply {
        let standing = Standing {
            armed: self.armed,
            bus_up: self.present && (self.torque || self.is_steady()),
            lease_epoch: self.lease_epoch,
            newest_sequence: self.newest_sequence,
            ttl_max_ns: self.ttl_max_ns,
            fault: self.fault,
            fault_shows: self.fault_shows(),
            inhibited: self.inhibit.map(|inhibit| inhibit.cause),
            limits: &self.limits[..self.joint_count],
        };
        let judged = judge(now, command, &standing);
        if let (Verdict::Accepted, Some(mode)) = (judged.verdict, Mode::from_u32(command.mode)) {
            self.newest_sequence = command.sequence;
            match mode {
                Mode::Reset => self.reset(now),
                _ => self.follow(now, command, mode),
            }
        }
        Reply {
            sequence: command.sequence,
            lease_epoch: command.lease_epoch,
            tick: tick.number,
            time_ns: tick.time.0,
            expires_ns: self.expires_ns(),
            verdict: judged.verdict as u32,
            cause: judged.cause as u32,
            joint: judged.joint,
            reserved: 0,
            value: judged.value,
            min: judged.min,
            max: judged.max,
        }
    }

    /// Whether the servo that reported the latched fault still reports one.
    fn fault_shows(&self) -> bool {
        self.fault.is_some_and(|fault| {
            fault.cause == Cause::ServoFault
                && self.feedback.joints[fault.joint].status_bits & SERVO_FAULTS != 0
        })
    }

    /// Forgets the latched fault. Nothing moves by it, and torque stays as it is.
    fn reset(&mut self, now: MonoNs) {
        if self.fault.take().is_none() {
            return;
        }
        self.watch.reset();
        match self.inhibit {
            Some(inhibit) => self.enter(Phase::Safe, inhibit.cause, now),
            None => self.stand(now),
        }
    }

    fn follow(&mut self, now: MonoNs, command: &Command, mode: Mode) {
        if !self.torque {
            // Torque was off: the arm is where gravity left it, so start from there.
            self.rest_at_measured();
            self.torque = true;
        }
        self.in_force = Some(InForce {
            expires: MonoNs(command.issued_ns).plus_ns(command.ttl_ns),
            mode,
            command: *command,
        });
        if mode == Mode::Position {
            // Blocks of this very tick read it.
            self.target_rad = command.target;
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
}
