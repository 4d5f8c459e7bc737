//! The setpoint sequence against its limits, for any sequence of orders.

use super::*;
use proptest::prelude::*;

const STEP_S: f64 = 0.004;
/// Room for rounding of positions, rad: far below a servo's 1.5 mrad step.
const POSITION_ROUNDING: f64 = 1e-9;
/// What rounding of positions of 3 rad becomes in their first, second and third differences over
/// 4 ms: at least 10⁻¹⁵ divided by 4·10⁻³, 1.6·10⁻⁵ and 6.4·10⁻⁸.
const ROUNDING_OF_DIFFERENCES: [f64; 3] = [1e-8, 1e-6, 1e-3];

fn limits() -> impl Strategy<Value = JointLimits> {
    (
        0.1..3.0_f64,
        0.05..10.0_f64,
        0.1..100.0_f64,
        0.5..5000.0_f64,
    )
        .prop_map(|(range, velocity, acceleration, jerk)| JointLimits {
            position_min_rad: -range,
            position_max_rad: range,
            velocity_max_rad_s: velocity,
            acceleration_max_rad_s2: acceleration,
            jerk_max_rad_s3: jerk,
        })
}

/// What a joint is told to do, in fractions of its limits.
#[derive(Clone, Copy, Debug)]
enum Order {
    Pose { at: f64, scale: f64 },
    Gently { at: f64, scale: f64 },
    Speed(f64),
    Follow { at: f64, speed: f64 },
    Stop,
}

fn order() -> impl Strategy<Value = Order> {
    let part = || -1.0..=1.0_f64;
    let scale = || 0.01..=1.0_f64;
    prop_oneof![
        4 => (part(), scale()).prop_map(|(at, scale)| Order::Pose { at, scale }),
        2 => (part(), scale()).prop_map(|(at, scale)| Order::Gently { at, scale }),
        3 => part().prop_map(Order::Speed),
        // Beyond the limits too: blocks may ask for anything.
        2 => (-2.0..=2.0_f64, -2.0..=2.0_f64).prop_map(|(at, speed)| Order::Follow { at, speed }),
        2 => Just(Order::Stop),
    ]
}

fn obey(state: MotionState, order: Order, step: usize, limits: &JointLimits) -> MotionState {
    let full = Pace::full(limits);
    let (range, fastest) = (limits.position_max_rad, limits.velocity_max_rad_s);
    match order {
        Order::Pose { at, scale } => {
            let pace = full.with_velocity(scale * fastest);
            advance(state, Aim::at_rest(at * range), &pace, limits, STEP_S)
        }
        Order::Gently { at, scale } => {
            let pace = full.gentler(
                scale * full.acceleration_rad_s2,
                scale * scale * full.jerk_rad_s3,
            );
            advance(state, Aim::at_rest(at * range), &pace, limits, STEP_S)
        }
        Order::Speed(part) => advance_at(state, part * fastest, &full, limits, STEP_S),
        Order::Follow { at, speed } => {
            let velocity_rad_s = speed * fastest;
            let aim = Aim {
                position_rad: at * range + velocity_rad_s * STEP_S * step as f64,
                velocity_rad_s,
            };
            advance(state, aim, &full, limits, STEP_S)
        }
        Order::Stop => stop(state, limits, STEP_S),
    }
}

/// The newest setpoints, newest first, and what their differences must keep to.
struct Judge {
    limits: JointLimits,
    newest: [f64; 4],
}

impl Judge {
    /// A joint that rested at `position_rad` before.
    fn new(limits: JointLimits, position_rad: f64) -> Self {
        Self {
            limits,
            newest: [position_rad; 4],
        }
    }

    fn judge(&mut self, position_rad: f64) -> Result<(), TestCaseError> {
        let [one, two, three, _] = self.newest;
        self.newest = [position_rad, one, two, three];
        let [p0, p1, p2, p3] = self.newest;
        let differences = [
            ((p0 - p1) / STEP_S, self.limits.velocity_max_rad_s),
            (
                (p0 - 2.0 * p1 + p2) / STEP_S.powi(2),
                self.limits.acceleration_max_rad_s2,
            ),
            (
                (p0 - 3.0 * p1 + 3.0 * p2 - p3) / STEP_S.powi(3),
                self.limits.jerk_max_rad_s3,
            ),
        ];
        for (order, (found, limit)) in differences.into_iter().enumerate() {
            prop_assert!(
                found.abs() <= limit + ROUNDING_OF_DIFFERENCES[order],
                "difference {} is {found}, limit {limit}",
                order + 1
            );
        }
        prop_assert!(position_rad <= self.limits.position_max_rad + POSITION_ROUNDING);
        prop_assert!(position_rad >= self.limits.position_min_rad - POSITION_ROUNDING);
        Ok(())
    }
}

/// How long the quickest way of `distance` from rest to rest takes, s: the textbook's four cases.
fn shortest_s(distance: f64, limits: &JointLimits) -> f64 {
    let (velocity, most, jerk) = (
        limits.velocity_max_rad_s,
        limits.acceleration_max_rad_s2,
        limits.jerk_max_rad_s3,
    );
    // From rest to a speed.
    let speeding = |speed: f64| match speed * jerk < most * most {
        true => 2.0 * (speed / jerk).sqrt(),
        false => speed / most + most / jerk,
    };
    if distance >= velocity * speeding(velocity) {
        return distance / velocity + speeding(velocity);
    }
    let without_holding = 4.0 * (distance / (2.0 * jerk)).cbrt();
    if distance <= 2.0 * most.powi(3) / jerk.powi(2) {
        return without_holding;
    }
    let ramp = most / jerk;
    let speed = most / 2.0 * ((ramp * ramp + 4.0 * distance / most).sqrt() - ramp);
    2.0 * speeding(speed)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 1024, ..Default::default()
    })]

    /// Poses, velocities, moving aims and stops that change at any moment: no limit is ever
    /// exceeded, and stopping at the end does not exceed one either.
    #[test]
    fn no_sequence_of_orders_exceeds_a_limit(
        limits in limits(), start in -1.0..=1.0_f64,
        orders in prop::collection::vec((order(), 1_usize..80), 1..12),
    ) {
        let mut state = MotionState::at_rest(start * limits.position_max_rad);
        let mut judge = Judge::new(limits, state.position_rad);
        for (order, steps) in orders.into_iter().chain([(Order::Stop, 400)]) {
            for step in 0..steps {
                state = obey(state, order, step, &limits);
                judge.judge(state.position_rad)?;
            }
        }
    }

    #[test]
    fn reaches_a_pose_in_the_shortest_time_and_stays(
        limits in limits(), start in -1.0..=1.0_f64, target in -1.0..=1.0_f64,
    ) {
        let mut state = MotionState::at_rest(start * limits.position_max_rad);
        let target = target * limits.position_max_rad;
        let shortest = shortest_s((target - state.position_rad).abs(), &limits);
        let pace = Pace::full(&limits);
        // A step for the rounding up, and one for arithmetic that rounds.
        for _ in 0..(shortest / STEP_S).ceil() as usize + 1 {
            state = advance(state, Aim::at_rest(target), &pace, &limits, STEP_S);
        }
        prop_assert_eq!(state, MotionState::at_rest(target));
        let again = advance(state, Aim::at_rest(target), &pace, &limits, STEP_S);
        prop_assert_eq!(again, state);
    }

    /// From the middle of any motion too.
    #[test]
    fn reaches_a_pose_whatever_was_asked_for_before(
        limits in limits(), order in order(), steps in 0_usize..200, target in -1.0..=1.0_f64,
    ) {
        let mut state = MotionState::at_rest(0.0);
        for step in 0..steps {
            state = obey(state, order, step, &limits);
        }
        let target = target * limits.position_max_rad;
        let (velocity, acceleration) =
            (limits.velocity_max_rad_s, limits.acceleration_max_rad_s2);
        // To rest first, at worst, and then there.
        let seconds = 2.0 * limits.position_max_rad / velocity
            + 2.0 * (velocity / acceleration + acceleration / limits.jerk_max_rad_s3);
        for _ in 0..(seconds / STEP_S).ceil() as usize + 4 {
            state = advance(state, Aim::at_rest(target), &Pace::full(&limits), &limits, STEP_S);
        }
        prop_assert_eq!(state, MotionState::at_rest(target));
    }

    #[test]
    fn never_passes_a_pose_it_starts_to_at_rest(
        limits in limits(), start in -1.0..=1.0_f64, target in -1.0..=1.0_f64,
    ) {
        let mut state = MotionState::at_rest(start * limits.position_max_rad);
        let target = target * limits.position_max_rad;
        let side = (target - state.position_rad).signum();
        for _ in 0..2000 {
            state = advance(state, Aim::at_rest(target), &Pace::full(&limits), &limits, STEP_S);
            prop_assert!((target - state.position_rad) * side >= -POSITION_ROUNDING, "{state:?}");
        }
    }

    #[test]
    fn reaches_a_velocity_and_leaves_it_in_time_for_the_limits(
        limits in limits(), part in 0.01..=1.0_f64,
    ) {
        let velocity = part * limits.velocity_max_rad_s;
        let mut state = MotionState::at_rest(limits.position_min_rad);
        let mut fastest = 0.0_f64;
        let (most, jerk) = (limits.acceleration_max_rad_s2, limits.jerk_max_rad_s3);
        let speeding_s = velocity / most + most / jerk;
        let steps = (2.0 * limits.position_max_rad / velocity + 2.0 * speeding_s) / STEP_S;
        for _ in 0..steps.ceil() as usize + 2 {
            state = advance_at(state, velocity, &Pace::full(&limits), &limits, STEP_S);
            fastest = fastest.max(state.velocity_rad_s);
        }
        prop_assert_eq!(state, MotionState::at_rest(limits.position_max_rad));
        // There was room to reach it and to stop again.
        if 2.0 * limits.position_max_rad > (speeding_s + 2.0 * STEP_S) * velocity {
            prop_assert!((fastest - velocity).abs() < 1e-9, "{fastest} of {velocity}");
        }
    }

    /// A moving aim is not followed with a delay, once it has been caught up with.
    #[test]
    fn follows_an_aim_that_moves_within_the_limits_exactly(
        limits in limits(), start in -1.0..=1.0_f64, part in 0.01..=0.5_f64,
    ) {
        let velocity_rad_s = -part * start.signum() * limits.velocity_max_rad_s;
        let start = start * limits.position_max_rad;
        let mut state = MotionState::at_rest(start);
        let mut caught_up = false;
        for step in 1..2000 {
            let position_rad = start + velocity_rad_s * STEP_S * f64::from(step);
            if position_rad.abs() > limits.position_max_rad * 0.5 && caught_up {
                break;
            }
            let aim = Aim { position_rad, velocity_rad_s };
            state = advance(state, aim, &Pace::full(&limits), &limits, STEP_S);
            let near = (state.position_rad - position_rad).abs() < 1e-9;
            prop_assert!(near || !caught_up, "lost it again: {state:?} {aim:?}");
            caught_up |= near && state.acceleration_rad_s2 == 0.0;
        }
    }

    #[test]
    fn stops_in_the_time_the_limits_need(limits in limits(), part in -1.0..=1.0_f64) {
        let mut state = MotionState {
            velocity_rad_s: part * limits.velocity_max_rad_s,
            ..MotionState::at_rest(0.0)
        };
        let most = limits.acceleration_max_rad_s2;
        let seconds = state.velocity_rad_s.abs() / most + most / limits.jerk_max_rad_s3;
        for _ in 0..(seconds / STEP_S).ceil() as usize {
            state = stop(state, &limits, STEP_S);
        }
        prop_assert!(!state.is_moving(), "{state:?}");
    }

    /// Whatever a source of setpoints makes up, the joint stays within its limits.
    #[test]
    fn any_bit_pattern_is_a_harmless_aim(bits in prop::collection::vec(any::<[u64; 2]>(), 1..60)) {
        let limits = LIMITS;
        let mut state = MotionState::at_rest(0.3);
        let mut judge = Judge::new(limits, 0.3);
        for [position, velocity] in bits {
            let aim = Aim {
                position_rad: f64::from_bits(position),
                velocity_rad_s: f64::from_bits(velocity),
            };
            for _ in 0..20 {
                state = advance(state, aim, &Pace::full(&limits), &limits, STEP_S);
                judge.judge(state.position_rad)?;
            }
        }
    }
}

const LIMITS: JointLimits = JointLimits {
    position_min_rad: -1.0,
    position_max_rad: 1.0,
    velocity_max_rad_s: 2.0,
    acceleration_max_rad_s2: 8.0,
    jerk_max_rad_s3: 160.0,
};

#[test]
fn a_start_beyond_the_limits_comes_back_inside() {
    let mut state = MotionState::at_rest(1.2);
    for _ in 0..500 {
        let pace = Pace::full(&LIMITS);
        let next = advance(state, Aim::at_rest(1.0), &pace, &LIMITS, STEP_S);
        assert!(next.position_rad <= state.position_rad);
        state = next;
    }
    assert_eq!(state, MotionState::at_rest(1.0));
}

#[test]
fn builds_acceleration_up_instead_of_jumping_to_it() {
    let aim = Aim::at_rest(1.0);
    let first = advance(
        MotionState::at_rest(0.0),
        aim,
        &Pace::full(&LIMITS),
        &LIMITS,
        STEP_S,
    );
    assert!(
        (first.acceleration_rad_s2 - 160.0 * STEP_S).abs() < 1e-9,
        "{first:?}"
    );
}

/// What decision 070 says of the cost. Prints, and asserts nothing about a shared machine.
#[test]
#[ignore = "a measurement: run it alone, with --release and --nocapture"]
fn cost_of_a_step() {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    let pace = Pace::full(&LIMITS);
    let (mut ordinary, mut turning) = (Vec::new(), Vec::new());
    for round in 0..2_000 {
        let mut state = MotionState::at_rest(-1.0);
        let aim = Aim::at_rest(0.9 - f64::from(round) * 1e-6);
        while state.position_rad != aim.position_rad {
            let before = state.acceleration_rad_s2;
            let started = std::time::Instant::now();
            state = std::hint::black_box(advance(state, aim, &pace, &LIMITS, STEP_S));
            let took = started.elapsed();
            let turns = before == 0.0 && state.acceleration_rad_s2 < 0.0;
            if turns { &mut turning } else { &mut ordinary }.push(took);
        }
    }
    for (what, mut took) in [("ordinary", ordinary), ("begins to slow down", turning)] {
        took.sort_unstable();
        let at = |part: f64| took[(took.len() as f64 * part) as usize];
        let (median, worst) = (at(0.5), at(0.99));
        writeln!(out, "{what}: p50 {median:?}, p99 {worst:?}").unwrap();
    }
}

/// The smallest number above zero, and others that make a quotient overflow.
const TINY: [f64; 7] = [5e-324, 1e-310, 1e-200, 1e-100, 1e-30, 1e-12, 1e-3];

#[test]
fn a_pace_of_almost_nothing_moves_within_every_limit_and_stays_a_number() {
    let limits = JointLimits {
        position_min_rad: -1.0,
        position_max_rad: 1.0,
        velocity_max_rad_s: 2.0,
        acceleration_max_rad_s2: 8.0,
        jerk_max_rad_s3: 160.0,
    };
    let full = Pace::full(&limits);
    let mut paces = vec![full];
    for one in TINY {
        for other in TINY {
            paces.push(full.with_velocity(2.0 * one).gentler(other, 0.0));
            paces.push(full.with_velocity(2.0 * one).gentler(0.0, other));
            paces.push(full.gentler(one, other));
            paces.push(full.with_velocity(2.0 * one).gentler(one, other));
        }
    }
    let aims = [0.9, -0.9, 1.0, 1e-300, -5e-324, 0.3];
    for pace in &paces {
        for velocity in [false, true] {
            let mut state = MotionState::at_rest(0.3);
            for tick in 0..400 {
                // Brisk for a while, then as gentle as can be, and back.
                let now = if tick % 80 < 40 { &full } else { pace };
                let aim = aims[tick / 40 % aims.len()];
                let before = state;
                state = match velocity {
                    true => advance_at(state, aim * 2.0, now, &limits, 0.004),
                    false => advance(state, Aim::at_rest(aim), now, &limits, 0.004),
                };
                let finite = state.position_rad.is_finite()
                    && state.velocity_rad_s.is_finite()
                    && state.acceleration_rad_s2.is_finite();
                assert!(finite, "{pace:?} {before:?} -> {state:?} towards {aim}");
                let step = state.position_rad - before.position_rad;
                assert!(
                    step.abs() <= 2.0 * 0.004 + 1e-9,
                    "{pace:?} {before:?} -> {state:?}"
                );
                assert!(state.position_rad.abs() <= 1.0 + 1e-9, "{pace:?} {state:?}");
            }
        }
    }
}

#[test]
fn a_pace_too_gentle_to_brake_does_not_creep_past_a_limit() {
    let limits = JointLimits {
        position_min_rad: -1.0,
        position_max_rad: 1.0,
        velocity_max_rad_s: 2.0,
        acceleration_max_rad_s2: 8.0,
        jerk_max_rad_s3: 160.0,
    };
    for side in [-1.0, 1.0] {
        // As it comes to its limit under a gentle command; the next one asks for less still.
        let mut state = MotionState {
            position_rad: side,
            velocity_rad_s: side * 2e-8,
            acceleration_rad_s2: 0.0,
        };
        let pace = Pace::full(&limits).gentler(1e-300, 0.0);
        for _ in 0..50_000 {
            state = advance(state, Aim::at_rest(side), &pace, &limits, 0.004);
        }
        let beyond = state.position_rad * side - 1.0;
        assert!(
            beyond <= 2.0 * ROUNDING,
            "{beyond} beyond its limit, and going on: {state:?}"
        );
    }
}
