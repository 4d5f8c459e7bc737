//! One period of motion: what each joint is to do, and its setpoint moved within the limits.
//! rt-safe.

use kairo_link::abi::{Mode, Phase};

use super::{Device, InForce};
use crate::motion::{Aim, Pace, advance, advance_at, stop};
use crate::safe_action::{SafeStep, Situation};

/// What a joint is to do in this period.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    /// Come to rest.
    Rest,
    /// Be there.
    Position(f64),
    /// Follow this place, which blocks gave.
    Follow(Aim),
    /// Move at this velocity.
    Velocity(f64),
}

impl Device {
    /// Moves the setpoints by one period. rt-safe.
    pub fn step(&mut self) {
        if matches!(self.phase, Phase::Disarmed | Phase::Lost) {
            return;
        }
        let safe_step = self.safe_step(false);
        for joint in 0..self.joint_count {
            let (state, limits) = (self.motions[joint], &self.limits[joint]);
            let (wish, pace) = self.wish(joint, safe_step);
            let next = match wish {
                Wish::Rest => stop(state, limits, self.step_s),
                Wish::Position(position_rad) => {
                    let aim = Aim::at_rest(position_rad);
                    advance(state, aim, &pace, limits, self.step_s)
                }
                Wish::Follow(aim) => advance(state, aim, &pace, limits, self.step_s),
                Wish::Velocity(velocity_rad_s) => {
                    advance_at(state, velocity_rad_s, &pace, limits, self.step_s)
                }
            };
            self.motions[joint] = next;
            match wish {
                Wish::Position(position_rad) => self.target_rad[joint] = position_rad,
                Wish::Rest | Wish::Velocity(_) => self.target_rad[joint] = next.position_rad,
                // Still what the command asks of the blocks.
                Wish::Follow(_) => {}
            }
        }
        let at_rest = !self.is_moving();
        if let Some(SafeStep::LetGo | SafeStep::MotorsOff) = self.safe_step(at_rest) {
            self.torque = false;
        }
    }

    /// What the safe action, if it is in force, wants now.
    fn safe_step(&mut self, at_rest: bool) -> Option<SafeStep> {
        let situation = Situation {
            at_rest,
            landed: false,
        };
        let now = self.tick.time;
        (self.phase == Phase::Safe).then(|| self.sequence.step(now, situation))
    }

    fn wish(&self, joint: usize, safe_step: Option<SafeStep>) -> (Wish, Pace) {
        let full = Pace::full(&self.limits[joint]);
        if let Some(in_force) = &self.in_force {
            let (wish, pace) = commanded(joint, in_force, full);
            return match (wish, self.driven_rad[joint]) {
                (Wish::Position(_), Some(position_rad)) => {
                    let velocity_rad_s = self.driven_rad_s[joint];
                    let aim = Aim {
                        position_rad,
                        velocity_rad_s,
                    };
                    (Wish::Follow(aim), pace)
                }
                _ => (wish, pace),
            };
        }
        // A limp arm goes nowhere: its setpoint must not run ahead of where it lies.
        match safe_step {
            Some(SafeStep::ToRest) if self.torque => {
                let most = full.velocity_rad_s * self.ramp_velocity_scale;
                (
                    Wish::Position(self.rest_rad[joint]),
                    full.with_velocity(most),
                )
            }
            _ => (Wish::Rest, full),
        }
    }
}

fn commanded(joint: usize, in_force: &InForce, full: Pace) -> (Wish, Pace) {
    let command = &in_force.command;
    let target = command.target[joint];
    let pace = full
        .with_velocity(full.velocity_rad_s * command.velocity_scale)
        .gentler(command.acceleration_rad_s2, command.jerk_rad_s3);
    match in_force.mode {
        Mode::Position => (Wish::Position(target), pace),
        Mode::Velocity => (Wish::Velocity(target), pace),
        Mode::Stop | Mode::Reset => (Wish::Rest, full),
    }
}
