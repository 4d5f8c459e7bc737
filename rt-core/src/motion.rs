//! The setpoint generator of one joint: from where it is to where it shall be, within the limits.
//!
//! A pure function of state, aim, limits and step length; rt-safe: no clock, no memory but the
//! state, no iteration but one bisection of [`HALVINGS`] steps, and that only in the tick in which
//! a joint begins to slow down (decision 070 has the numbers).
//!
//! The setpoint moves along a curve of constant-jerk stretches that is followed in continuous time
//! and read off once a step. For the sequence of setpoints, which is all a servo ever sees, this
//! means at every step, whatever was asked for before and is asked for now:
//!
//! - the first, second and third difference over the step are at most the velocity, acceleration
//!   and jerk limit, because the curve's derivatives are, and a difference is a mean of those;
//! - no setpoint lies beyond the position limits, and at any instant [`stop`] comes to rest within
//!   them. A start beyond them only ever comes closer;
//! - an aim at rest is reached exactly and not passed by a joint that starts to it at rest, in the
//!   shortest time the limits allow; a joint at rest on its aim stays there.
//!
//! Any number is a valid aim: beyond the limits means their end, NaN means [`stop`]. So this is
//! the last thing between any source of setpoints (commands, blocks) and a servo. It does not
//! synchronise joints: each arrives as soon as it can.

use crate::limits::JointLimits;

/// Halvings of a step when the instant to slow down lies within it: 4 ms / 2^48 is 10⁻¹⁷ s.
const HALVINGS: u32 = 48;
/// Two positions this near are the same, rad: rounding of some ten operations on angles.
const SAME_RAD: f64 = 1e-12;
/// Room for rounding where reach is compared with limits, rad or rad/s.
const ROUNDING: f64 = 1e-10;

/// A joint's setpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MotionState {
    /// The newest setpoint, rad.
    pub position_rad: f64,
    /// Its velocity, rad/s.
    pub velocity_rad_s: f64,
    /// Its acceleration, rad/s².
    pub acceleration_rad_s2: f64,
}

impl MotionState {
    /// At rest at `position_rad`. rt-safe.
    pub const fn at_rest(position_rad: f64) -> Self {
        Self {
            position_rad,
            velocity_rad_s: 0.0,
            acceleration_rad_s2: 0.0,
        }
    }

    /// Whether the setpoint moves. rt-safe.
    pub fn is_moving(&self) -> bool {
        self.velocity_rad_s != 0.0 || self.acceleration_rad_s2 != 0.0
    }

    /// `seconds` later under a constant jerk.
    fn under(self, jerk: f64, seconds: f64) -> Self {
        let (velocity, acceleration) = (self.velocity_rad_s, self.acceleration_rad_s2);
        let moved = velocity + seconds * (acceleration / 2.0 + seconds * jerk / 6.0);
        Self {
            position_rad: self.position_rad + seconds * moved,
            velocity_rad_s: velocity + seconds * (acceleration + seconds * jerk / 2.0),
            acceleration_rad_s2: acceleration + seconds * jerk,
        }
    }

    /// The velocity that is left when the acceleration has been taken back at `jerk`.
    fn coasting(&self, jerk: f64) -> f64 {
        let acceleration = self.acceleration_rad_s2;
        self.velocity_rad_s + acceleration * acceleration.abs() / (2.0 * jerk)
    }
}

/// Where a joint shall be at the end of the step, and how fast that place moves on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Aim {
    /// The place, rad.
    pub position_rad: f64,
    /// Its velocity, rad/s; 0 for a pose. With it a moving aim is followed without falling behind.
    pub velocity_rad_s: f64,
}

impl Aim {
    /// A place to come to rest at. rt-safe.
    pub const fn at_rest(position_rad: f64) -> Self {
        Self {
            position_rad,
            velocity_rad_s: 0.0,
        }
    }

    /// The nearest aim within the limits.
    fn within(self, limits: &JointLimits, fastest: f64) -> Self {
        let (low, high) = (limits.position_min_rad, limits.position_max_rad);
        let position_rad = self.position_rad.clamp(low, high);
        let leads_out = (position_rad >= high && self.velocity_rad_s > 0.0)
            || (position_rad <= low && self.velocity_rad_s < 0.0);
        let velocity_rad_s = match leads_out {
            true => 0.0,
            false => self.velocity_rad_s.clamp(-fastest, fastest),
        };
        Self {
            position_rad,
            velocity_rad_s,
        }
    }
}

/// How briskly to move: at most the limits, and as much less as a command asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Highest speed, rad/s.
    pub velocity_rad_s: f64,
    /// Highest acceleration, rad/s².
    pub acceleration_rad_s2: f64,
    /// Highest jerk, rad/s³.
    pub jerk_rad_s3: f64,
}

impl Pace {
    /// As briskly as allowed. rt-safe.
    pub const fn full(limits: &JointLimits) -> Self {
        Self {
            velocity_rad_s: limits.velocity_max_rad_s,
            acceleration_rad_s2: limits.acceleration_max_rad_s2,
            jerk_rad_s3: limits.jerk_max_rad_s3,
        }
    }

    /// At most `velocity_rad_s`. rt-safe.
    #[must_use]
    pub fn with_velocity(self, velocity_rad_s: f64) -> Self {
        Self {
            velocity_rad_s: velocity_rad_s.min(self.velocity_rad_s),
            ..self
        }
    }

    /// At most this acceleration and jerk, where they are above zero. rt-safe.
    #[must_use]
    pub fn gentler(self, acceleration_rad_s2: f64, jerk_rad_s3: f64) -> Self {
        let least = |own: f64, asked: f64| if asked > 0.0 { own.min(asked) } else { own };
        Self {
            acceleration_rad_s2: least(self.acceleration_rad_s2, acceleration_rad_s2),
            jerk_rad_s3: least(self.jerk_rad_s3, jerk_rad_s3),
            ..self
        }
    }
}

/// The quickest way to a velocity, at which the acceleration is zero again: at most three
/// stretches of constant jerk (build acceleration up, keep it, take it back).
#[derive(Clone, Copy, Debug)]
struct Change {
    /// Jerk and duration of each stretch.
    stretches: [(f64, f64); 3],
    velocity: f64,
}

impl Change {
    fn to(velocity: f64, state: MotionState, pace: &Pace) -> Self {
        let (most, jerk) = (pace.acceleration_rad_s2, pace.jerk_rad_s3);
        // Mirrored where needed, so that the velocity to gain is not negative.
        let gains = velocity >= state.coasting(jerk);
        let side = if gains { 1.0 } else { -1.0 };
        let acceleration = state.acceleration_rad_s2 * side;
        let gain = (velocity - state.velocity_rad_s) * side;
        // Building up from a to the peak p and taking p back gains (2 p² - a²) / (2 jerk).
        let peak = (jerk * gain + acceleration * acceleration / 2.0)
            .max(0.0)
            .sqrt();
        let (first, hold, last) = if peak <= most {
            ((peak - acceleration) / jerk, 0.0, peak / jerk)
        } else {
            let first = (most - acceleration) / jerk;
            let gained_first = (most + acceleration) / 2.0 * first.abs();
            let hold = (gain - gained_first - most * most / (2.0 * jerk)) / most;
            (first, hold, most / jerk)
        };
        // Negative: more acceleration than the pace allows is taken back first.
        let first_jerk = if first < 0.0 { -jerk } else { jerk } * side;
        Self {
            stretches: [
                (first_jerk, first.abs()),
                (0.0, hold.max(0.0)),
                (-jerk * side, last),
            ],
            velocity,
        }
    }

    /// The state `seconds` into the change, or after it at its velocity.
    fn after(&self, mut state: MotionState, seconds: f64) -> MotionState {
        let mut left = seconds;
        for (jerk, duration) in self.stretches {
            if left <= duration {
                return state.under(jerk, left);
            }
            state = state.under(jerk, duration);
            left -= duration;
        }
        MotionState {
            position_rad: state.position_rad + self.velocity * left,
            velocity_rad_s: self.velocity,
            acceleration_rad_s2: 0.0,
        }
    }

    /// Where the change ends, and how long it takes.
    fn end(&self, mut state: MotionState) -> (f64, f64) {
        let mut seconds = 0.0;
        for (jerk, duration) in self.stretches {
            state = state.under(jerk, duration);
            seconds += duration;
        }
        (state.position_rad, seconds)
    }
}

/// The state one step of `step_s` seconds later on the way to `aim`. rt-safe.
///
/// The quickest way to an aim is to make for the highest speed towards it for some time and then
/// to slow down to the aim's velocity. The longer the first part, the farther the second ends, so
/// it is enough to look one step ahead: as long as slowing down after it does not end beyond the
/// aim, make for speed; when it would, find the instant within the step.
#[must_use]
pub fn advance(
    state: MotionState,
    aim: Aim,
    pace: &Pace,
    limits: &JointLimits,
    step_s: f64,
) -> MotionState {
    if !(aim.position_rad.is_finite() && aim.velocity_rad_s.is_finite()) {
        return stop(state, limits, step_s);
    }
    let aim = aim.within(limits, pace.velocity_rad_s);
    let fastest = limits.velocity_max_rad_s + ROUNDING;
    let next = if state.coasting(pace.jerk_rad_s3).abs() > fastest {
        // Speeding up more briskly than this pace could end in time: ease off first.
        let coasting = state.coasting(limits.jerk_max_rad_s3);
        Change::to(coasting, state, &Pace::full(limits)).after(state, step_s)
    } else {
        towards(state, aim, pace, step_s)
    };
    let next = if can_stop_from(next, state, limits) {
        next
    } else {
        stop(state, limits, step_s)
    };
    settled(next, aim)
}

/// The quickest step towards `aim` at `pace`; see [`advance`].
fn towards(state: MotionState, aim: Aim, pace: &Pace, step_s: f64) -> MotionState {
    let moves = aim.velocity_rad_s;
    // How far short of the aim slowing down from `now`, `seconds` into the step, would end.
    let short_of = |now: MotionState, seconds: f64| {
        let (position, takes) = Change::to(moves, now, pace).end(now);
        aim.position_rad + moves * (seconds + takes - step_s) - position
    };
    let missing = short_of(state, 0.0);
    if missing.abs() <= SAME_RAD {
        return Change::to(moves, state, pace).after(state, step_s);
    }
    let side = missing.signum();
    let speeding = Change::to(side * pace.velocity_rad_s, state, pace);
    let fits = |seconds: f64| side * short_of(speeding.after(state, seconds), seconds) >= 0.0;
    if fits(step_s) {
        return speeding.after(state, step_s);
    }
    let (mut early, mut late) = (0.0, step_s);
    for _ in 0..HALVINGS {
        let middle = (early + late) / 2.0;
        if fits(middle) {
            early = middle;
        } else {
            late = middle;
        }
    }
    let turning = speeding.after(state, early);
    Change::to(moves, turning, pace).after(turning, step_s - early)
}

/// The state one step later on the way to the velocity `velocity_rad_s`, which ends in time at the
/// position limits. rt-safe.
#[must_use]
pub fn advance_at(
    state: MotionState,
    velocity_rad_s: f64,
    pace: &Pace,
    limits: &JointLimits,
    step_s: f64,
) -> MotionState {
    let end = if velocity_rad_s > 0.0 {
        limits.position_max_rad
    } else if velocity_rad_s < 0.0 {
        limits.position_min_rad
    } else {
        return stop(state, limits, step_s);
    };
    let pace = pace.with_velocity(velocity_rad_s.abs());
    advance(state, Aim::at_rest(end), &pace, limits, step_s)
}

/// The state one step later when slowing down to rest as fast as allowed. rt-safe.
#[must_use]
pub fn stop(state: MotionState, limits: &JointLimits, step_s: f64) -> MotionState {
    Change::to(0.0, state, &Pace::full(limits)).after(state, step_s)
}

/// The last step ends on the aim itself instead of a rounding error beside it.
fn settled(next: MotionState, aim: Aim) -> MotionState {
    let arrives = !next.is_moving()
        && aim.velocity_rad_s == 0.0
        && (next.position_rad - aim.position_rad).abs() <= SAME_RAD;
    if arrives {
        MotionState::at_rest(aim.position_rad)
    } else {
        next
    }
}

/// Whether stopping from `next` stays within the limits, or at least goes no farther beyond them
/// than stopping from `now` would. The last word about every setpoint, because [`stop`] from a
/// state this was true of stays within them too.
fn can_stop_from(next: MotionState, now: MotionState, limits: &JointLimits) -> bool {
    let jerk = limits.jerk_max_rad_s3;
    let fastest = (limits.velocity_max_rad_s + ROUNDING)
        .max(now.velocity_rad_s.abs())
        .max(now.coasting(jerk).abs());
    let peak = next.velocity_rad_s.abs().max(next.coasting(jerk).abs());
    if peak > fastest {
        return false;
    }
    let (low, high) = reach(next, limits);
    let inside = low >= limits.position_min_rad && high <= limits.position_max_rad;
    inside || {
        let (lowest, highest) = reach(now, limits);
        // Room for rounding beyond the limits only: beyond what was reached before it would add up,
        // and a pace too gentle to brake would creep on for ever.
        low >= lowest.min(limits.position_min_rad - ROUNDING)
            && high <= highest.max(limits.position_max_rad + ROUNDING)
    }
}

/// The lowest and highest position on the way to rest.
fn reach(state: MotionState, limits: &JointLimits) -> (f64, f64) {
    let pace = Pace::full(limits);
    let (velocity, acceleration) = (state.velocity_rad_s, state.acceleration_rad_s2);
    let (end, _) = Change::to(0.0, state, &pace).end(state);
    let (mut low, mut high) = (state.position_rad.min(end), state.position_rad.max(end));
    let side = velocity.signum();
    if velocity * state.coasting(pace.jerk_rad_s3) < 0.0 {
        // So much deceleration that it cannot be taken back before the motion turns round: the
        // turn is where v + a t + j t² / 2 = 0 for the first time.
        let jerk = side * pace.jerk_rad_s3;
        let root = (acceleration * acceleration - 2.0 * jerk * velocity)
            .max(0.0)
            .sqrt();
        let seconds = (acceleration.abs() - root) / pace.jerk_rad_s3;
        let turn = state.under(jerk, seconds).position_rad;
        (low, high) = (low.min(turn), high.max(turn));
    }
    (low, high)
}

#[cfg(test)]
mod tests;
