//! A joint of a device in `robot.toml`: its servo, its limits, where it rests.
//!
//! setup-only. The keys, ranges and defaults of `[[device.joint]]` stand here and nowhere else.

use std::f64::consts::PI;

use kairo_hal::feetech::registers::{RADIANS_PER_STEP, STEPS_PER_TURN};

use super::diagnostic::Problems;
use super::table::{Located, TableReader};
use super::{JointConfig, ServoGains};

/// Longest time a joint may need to stop, s. Half of the patience of kairo-rt's shutdown.
const STOP_MAX_S: f64 = 5.0;
/// Where the file gives no jerk limit, full acceleration is reached after 50 ms: quick enough not
/// to be felt in the time a motion takes, slow enough that a geared servo does not knock.
const DEFAULT_JERK_PER_ACCELERATION: f64 = 20.0;
/// A joint that is this far from its setpoint, rad, for this long, ms, does not follow. Several
/// times what a healthy servo lags behind at full speed, and what a starved simulator does.
const DEFAULT_FOLLOWING_ERROR_RAD: f64 = 0.5;
const DEFAULT_FOLLOWING_ERROR_MS: i64 = 1000;

/// The limits of a motion, with their places in the file.
struct Motion {
    velocity: Located<f64>,
    acceleration: Located<f64>,
    jerk_max_rad_s3: f64,
}

pub(super) fn read(
    mut table: TableReader<'_>,
    names: &mut Vec<String>,
    problems: &mut Problems<'_>,
) -> Option<(JointConfig, std::ops::Range<usize>)> {
    let name = table.text(problems, "name", "shoulder_pan");
    let servo_id = table.integer(problems, "servo_id", 0..=253, None);
    let last_step = i64::from(STEPS_PER_TURN - 1);
    let zero_steps = table.integer(problems, "zero_steps", 0..=last_step, Some(2048));
    let direction = table.integer(problems, "direction", -1..=1, Some(1));
    let minimum = table.number(problems, "position_min_rad", -2.0 * PI..=2.0 * PI);
    let maximum = table.number(problems, "position_max_rad", -2.0 * PI..=2.0 * PI);
    let motion = read_motion(&mut table, problems);
    let following = read_following(&mut table, problems);
    let rest = read_rest(&mut table, problems);
    let gains = read_gains(&mut table, problems);
    let key = table.path_of("name");
    if let Some(direction) = direction.as_ref().filter(|direction| direction.value == 0) {
        let fix = "write 1, or -1 when the servo turns the other way round";
        let at = table.path_of("direction");
        problems.add(direction.span.clone(), at, "0 is no direction", fix);
    }
    let range_key = table.path_of("position_min_rad");
    let servo_key = table.path_of("position_max_rad");
    let stop_key = table.path_of("acceleration_max_rad_s2");
    let rest_key = table.path_of("rest_position_rad");
    let at = table.span();
    table.finish(problems);
    if let Some(name) = &name {
        only_once(name, key, names, problems);
    }
    let (minimum, maximum, zero, direction) = (minimum?, maximum?, zero_steps?, direction?);
    if minimum.value >= maximum.value {
        let message = format!(
            "{} is not below position_max_rad = {}",
            minimum.value, maximum.value
        );
        problems.add(minimum.span.clone(), range_key, message, "exchange the two");
    }
    let (servo, motion, following) = (servo_id?, motion?, following?);
    let joint = JointConfig {
        name: name?.value,
        servo_id: u8::try_from(servo.value).ok()?,
        zero_steps: i32::try_from(zero.value).ok()?,
        direction: i32::try_from(direction.value).ok()?,
        position_min_rad: minimum.value,
        position_max_rad: maximum.value,
        velocity_max_rad_s: motion.velocity.value,
        acceleration_max_rad_s2: motion.acceleration.value,
        jerk_max_rad_s3: motion.jerk_max_rad_s3,
        following_error_max_rad: following.0,
        following_error_time_ms: following.1,
        rest_position_rad: rest?,
        gains: gains?,
    };
    let (low, high) = (joint.position_min_rad, joint.position_max_rad);
    let outside = |rest: &f64| !(low..=high).contains(rest);
    if let Some(rest) = joint.rest_position_rad.filter(outside) {
        let message = format!("{rest} is outside the limits, {low} to {high}");
        problems.add(at, rest_key, message, "rest within the limits");
    }
    reach(&joint, &maximum, &servo_key, problems);
    stops(&joint, &motion.acceleration, &stop_key, problems);
    Some((joint, servo.span))
}

/// No two joints of a device have the same name.
fn only_once(
    name: &Located<String>,
    key: String,
    names: &mut Vec<String>,
    problems: &mut Problems<'_>,
) {
    if names.contains(&name.value) {
        let message = format!("\"{}\" is the name of an earlier joint", name.value);
        let fix = "name every joint differently";
        problems.add(name.span.clone(), key, message, fix);
    }
    names.push(name.value.clone());
}

/// `Some(None)` where no rest pose is declared.
fn read_rest(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<Option<f64>> {
    if !table.has("rest_position_rad") {
        return Some(None);
    }
    let rest = table.number(problems, "rest_position_rad", -2.0 * PI..=2.0 * PI);
    rest.map(|rest| Some(rest.value))
}

fn read_motion(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<Motion> {
    let velocity = table.number(problems, "velocity_max_rad_s", 0.01..=20.0);
    let acceleration = table.number(problems, "acceleration_max_rad_s2", 0.01..=200.0);
    let jerk = match table.has("jerk_max_rad_s3") {
        true => {
            table
                .number(problems, "jerk_max_rad_s3", 0.1..=100_000.0)?
                .value
        }
        false => acceleration.as_ref()?.value * DEFAULT_JERK_PER_ACCELERATION,
    };
    Some(Motion {
        velocity: velocity?,
        acceleration: acceleration?,
        jerk_max_rad_s3: jerk,
    })
}

fn read_following(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<(f64, u64)> {
    let error = match table.has("following_error_max_rad") {
        true => {
            table
                .number(problems, "following_error_max_rad", 0.01..=6.5)?
                .value
        }
        false => DEFAULT_FOLLOWING_ERROR_RAD,
    };
    let time = table.integer(
        problems,
        "following_error_time_ms",
        10..=10_000,
        Some(DEFAULT_FOLLOWING_ERROR_MS),
    )?;
    Some((error, time.value.unsigned_abs()))
}

/// Slowing down is what every safe action and the shutdown begin with, so it must not take long.
fn stops(joint: &JointConfig, at: &Located<f64>, key: &str, problems: &mut Problems<'_>) {
    let (velocity, acceleration, jerk) = (
        joint.velocity_max_rad_s,
        joint.acceleration_max_rad_s2,
        joint.jerk_max_rad_s3,
    );
    let seconds = match velocity * jerk < acceleration * acceleration {
        // The full deceleration is never reached.
        true => 2.0 * (velocity / jerk).sqrt(),
        false => velocity / acceleration + acceleration / jerk,
    };
    if seconds > STOP_MAX_S {
        let message = format!(
            "{velocity} rad/s at {acceleration} rad/s² and {jerk} rad/s³ takes {seconds:.1} s to \
             stop, the most is {STOP_MAX_S} s"
        );
        let fix = "raise acceleration_max_rad_s2 and jerk_max_rad_s3, or lower velocity_max_rad_s";
        problems.add(at.span.clone(), key, message, fix);
    }
}

/// The limits must lie within the one turn the servo's position register covers.
fn reach(joint: &JointConfig, at: &Located<f64>, key: &str, problems: &mut Problems<'_>) {
    for position_rad in [joint.position_min_rad, joint.position_max_rad] {
        let steps = f64::from(joint.zero_steps)
            + f64::from(joint.direction) * position_rad / RADIANS_PER_STEP;
        if !(0.0..=f64::from(STEPS_PER_TURN - 1)).contains(&steps.round()) {
            let message = format!(
                "{position_rad} rad is step {steps:.0} of the servo (zero_steps = {}), which has \
                 only 0 to {}",
                joint.zero_steps,
                STEPS_PER_TURN - 1
            );
            problems.add(
                at.span.clone(),
                key,
                message,
                "narrow the limits or move zero_steps",
            );
        }
    }
}

/// `Some(None)` when no gain is given; all three or none.
fn read_gains(
    table: &mut TableReader<'_>,
    problems: &mut Problems<'_>,
) -> Option<Option<ServoGains>> {
    let keys = ["servo_p_gain", "servo_i_gain", "servo_d_gain"];
    let given = keys.map(|key| table.has(key));
    if given == [false; 3] {
        return Some(None);
    }
    let [p, i, d] = keys.map(|key| {
        let gain = table.integer(problems, key, 0..=254, None)?;
        u8::try_from(gain.value).ok()
    });
    Some(Some(ServoGains {
        p: p?,
        i: i?,
        d: d?,
    }))
}
