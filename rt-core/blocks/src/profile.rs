//! Jerk-limited motion of several axes that arrive together.
//!
//! Pure functions of state, target and limits; rt-safe, no heap, no clock. Every axis of a [`Plan`]
//! changes speed by at most three pieces of constant jerk, cruises, and changes speed to zero by at
//! most three more, so a plan is seven pieces an axis. Planning costs at most [`BISECTIONS`]
//! evaluations an axis, twice: it cannot iterate longer, whatever the numbers.
//!
//! The cruise speed is found as in R. Haschke, E. Weitnauer, H. Ritter, "On-line planning of
//! time-optimal, jerk-limited trajectories", IROS 2008: the way covered by "change to speed v, then
//! to zero" is continuous in v, so the v without a cruise is bracketed by the two speed limits.
//! Axes that could be faster than the slowest get a lower cruise speed, found in the same way.
//!
//! What it guarantees, for finite numbers and a state within the limits: speed, acceleration and
//! jerk within them, every axis at rest on its target at the end, all at the same time if they
//! began at rest. An axis that must first turn round may pass beyond both its start and its target;
//! keeping inside position limits is the business of whoever knows them.

use crate::memory::Memory;

/// Pieces of constant jerk of one axis.
const PIECES: usize = 7;
/// Halvings of a bracket: after 60 it is a billionth of a billionth of where it began.
const BISECTIONS: usize = 60;
/// Longest plan, s. Bounds the search for slow cruise speeds.
const LONGEST_S: f64 = 1e6;

/// What an axis may do, in its unit and seconds. All positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisLimits {
    /// Speed.
    pub velocity_max: f64,
    /// Change of speed.
    pub acceleration_max: f64,
    /// Change of acceleration.
    pub jerk_max: f64,
}

/// Where an axis is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AxisState {
    /// Position.
    pub position: f64,
    /// Velocity.
    pub velocity: f64,
    /// Acceleration.
    pub acceleration: f64,
}

impl AxisState {
    /// At rest at `position`. rt-safe.
    pub const fn at_rest(position: f64) -> Self {
        Self {
            position,
            velocity: 0.0,
            acceleration: 0.0,
        }
    }

    /// `seconds` later under constant jerk. rt-safe.
    #[must_use]
    pub fn after(self, jerk: f64, seconds: f64) -> Self {
        let acceleration = self.acceleration + jerk * seconds;
        let velocity = self.velocity + (self.acceleration + jerk * seconds / 2.0) * seconds;
        let by_acceleration = (self.acceleration / 2.0 + jerk * seconds / 6.0) * seconds;
        Self {
            position: self.position + (self.velocity + by_acceleration) * seconds,
            velocity,
            acceleration,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Piece {
    jerk: f64,
    seconds: f64,
}

/// A change of speed: three pieces that end at a wanted velocity without acceleration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Change([Piece; 3]);

impl Change {
    /// The fastest change from `from` to `velocity`: jerk towards the needed acceleration, hold it,
    /// jerk back to zero.
    fn to(from: AxisState, velocity: f64, limits: &AxisLimits) -> Self {
        let (jerk, most) = (limits.jerk_max, limits.acceleration_max);
        // The velocity that is reached by only taking the acceleration away.
        let natural = from.velocity + from.acceleration * from.acceleration.abs() / (2.0 * jerk);
        let side = if velocity >= natural { 1.0 } else { -1.0 };
        let start = from.acceleration * side;
        let gap = (velocity - from.velocity) * side;
        let peak = (jerk * gap + start * start / 2.0).max(0.0).sqrt().min(most);
        let up = (peak - start) / jerk;
        let down = peak / jerk;
        // What the two ramps contribute; an acceleration above the limit ramps down first.
        let ramps = (start + peak) / 2.0 * up.abs() + peak / 2.0 * down;
        let hold = if peak > 0.0 {
            ((gap - ramps) / peak).max(0.0)
        } else {
            0.0
        };
        let piece = |jerk, seconds| Piece { jerk, seconds };
        Self([
            piece(jerk.copysign(up) * side, up.abs()),
            piece(0.0, hold),
            piece(-jerk * side, down),
        ])
    }

    fn seconds(&self) -> f64 {
        self.0.iter().map(|piece| piece.seconds).sum()
    }

    fn end(&self, from: AxisState) -> AxisState {
        let pieces = self.0.iter();
        pieces.fold(from, |state, piece| state.after(piece.jerk, piece.seconds))
    }
}

/// The way of one axis.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Way {
    start: AxisState,
    target: f64,
    pieces: [Piece; PIECES],
    seconds: f64,
}

impl Way {
    /// By way of `cruise`: change to it, hold it for as long as needed, change to zero. `None` when
    /// the changes alone pass the target.
    fn by(start: AxisState, target: f64, cruise: f64, limits: &AxisLimits) -> Option<Self> {
        let (begin, end, left) = changes(start, target, cruise, limits);
        let hold = if cruise == 0.0 { 0.0 } else { left / cruise };
        if !(0.0..=LONGEST_S).contains(&hold) {
            return None;
        }
        let [a, b, c] = begin.0;
        let [e, f, g] = end.0;
        let cruising = Piece {
            jerk: 0.0,
            seconds: hold,
        };
        Some(Self {
            start,
            target,
            pieces: [a, b, c, cruising, e, f, g],
            seconds: begin.seconds() + hold + end.seconds(),
        })
    }

    /// The fastest there is, and its cruise speed.
    fn fastest(start: AxisState, target: f64, limits: &AxisLimits) -> (Self, f64) {
        let top = limits.velocity_max;
        for cruise in [top, -top] {
            if let Some(way) = Self::by(start, target, cruise, limits) {
                return (way, cruise);
            }
        }
        // Cruising at `top` is too far, at `-top` not far enough: between them it fits exactly.
        let (mut low, mut high) = (-top, top);
        for _ in 0..BISECTIONS {
            let middle = low + (high - low) / 2.0;
            if changes(start, target, middle, limits).2 > 0.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        let (begin, end, _) = changes(start, target, low, limits);
        let [a, b, c] = begin.0;
        let [e, f, g] = end.0;
        let way = Self {
            start,
            target,
            pieces: [a, b, c, Piece::default(), e, f, g],
            seconds: begin.seconds() + end.seconds(),
        };
        (way, low)
    }

    /// As [`Way::fastest`], but taking `seconds`, by a slower cruise. An axis that cannot be
    /// slower, because it only just stops on its target, keeps its own time.
    fn taking(self, cruise: f64, seconds: f64, limits: &AxisLimits) -> Self {
        let rest = Change::to(self.start, 0.0, limits).end(self.start);
        let side = (self.target - rest.position).signum();
        // Towards zero from the cruise speed, or from nothing where that is the wrong way.
        let (mut slow, mut fast) = (0.0, (cruise * side).max(0.0));
        let mut best = self;
        for _ in 0..BISECTIONS {
            let middle = slow + (fast - slow) / 2.0;
            match Self::by(self.start, self.target, middle * side, limits) {
                Some(way) if way.seconds <= seconds => {
                    (fast, best) = (middle, way);
                }
                _ => slow = middle,
            }
        }
        best
    }

    fn at(&self, seconds: f64) -> AxisState {
        if seconds >= self.seconds {
            return AxisState::at_rest(self.target);
        }
        let mut left = seconds;
        let mut state = self.start;
        for piece in &self.pieces {
            let part = left.min(piece.seconds);
            state = state.after(piece.jerk, part);
            left -= part;
            if left <= 0.0 {
                break;
            }
        }
        state
    }
}

/// The changes to and from `cruise`, and what is left of the way between them.
fn changes(
    start: AxisState,
    target: f64,
    cruise: f64,
    limits: &AxisLimits,
) -> (Change, Change, f64) {
    let begin = Change::to(start, cruise, limits);
    let cruising = AxisState {
        position: begin.end(start).position,
        velocity: cruise,
        acceleration: 0.0,
    };
    let end = Change::to(cruising, 0.0, limits);
    (begin, end, target - end.end(cruising).position)
}

/// The ways of up to `N` axes that arrive together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan<const N: usize> {
    ways: [Way; N],
    axes: usize,
    seconds: f64,
}

impl<const N: usize> Plan<N> {
    /// From `start` to `target`. rt-safe: at most 120 evaluations an axis.
    ///
    /// The three slices are of one length, at most `N`; what one has more is left out.
    pub fn new(start: &[AxisState], target: &[f64], limits: &[AxisLimits]) -> Self {
        let axes = start.len().min(target.len()).min(limits.len()).min(N);
        let mut ways = [Way::default(); N];
        let mut cruises = [0.0; N];
        for axis in 0..axes {
            (ways[axis], cruises[axis]) = Way::fastest(start[axis], target[axis], &limits[axis]);
        }
        let longest = |ways: &[Way; N]| ways.iter().map(|way| way.seconds).fold(0.0, f64::max);
        let seconds = longest(&ways);
        for axis in 0..axes {
            if ways[axis].seconds < seconds {
                ways[axis] = ways[axis].taking(cruises[axis], seconds, &limits[axis]);
            }
        }
        Self {
            ways,
            axes,
            seconds,
        }
    }

    /// A way that goes nowhere, for [`Self::memory`] to fill. rt-safe.
    pub(crate) fn blank(axes: usize) -> Self {
        Self {
            ways: [Way::default(); N],
            axes,
            seconds: 0.0,
        }
    }

    /// See [`Block::memory`](crate::block::Block::memory). rt-safe.
    pub(crate) fn memory(&mut self, axes: usize, memory: &mut Memory<'_>) {
        for way in &mut self.ways[..axes] {
            let Way {
                start,
                target,
                pieces,
                seconds,
            } = way;
            let AxisState {
                position,
                velocity,
                acceleration,
            } = start;
            for value in [position, velocity, acceleration, target, seconds] {
                memory.number(value);
            }
            for piece in pieces {
                memory.number(&mut piece.jerk);
                memory.number(&mut piece.seconds);
            }
        }
        memory.number(&mut self.seconds);
    }

    /// How long it takes. rt-safe.
    pub const fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Where `axis` is after `seconds`. rt-safe.
    pub fn at(&self, axis: usize, seconds: f64) -> AxisState {
        self.ways[axis].at(seconds)
    }

    /// How many axes it moves. rt-safe.
    pub const fn axes(&self) -> usize {
        self.axes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP_S: f64 = 0.004;
    /// Room for rounding, relative to a limit.
    const ROUNDING: f64 = 1e-6;

    fn limits() -> impl Strategy<Value = AxisLimits> {
        (0.1..5.0_f64, 0.5..50.0_f64, 5.0..2000.0_f64).prop_map(|(velocity, acceleration, jerk)| {
            AxisLimits {
                velocity_max: velocity,
                acceleration_max: acceleration,
                jerk_max: jerk,
            }
        })
    }

    fn within(state: AxisState, limits: &AxisLimits) -> Result<(), TestCaseError> {
        prop_assert!(
            state.velocity.abs() <= limits.velocity_max * (1.0 + ROUNDING),
            "{state:?}"
        );
        let most = limits.acceleration_max * (1.0 + ROUNDING);
        prop_assert!(state.acceleration.abs() <= most, "{state:?}");
        Ok(())
    }

    /// The end of the last piece must be the target: nothing jumps when the plan is over.
    fn misses_by(plan: &Plan<8>, axis: usize) -> f64 {
        let way = &plan.ways[axis];
        let end = way.pieces.iter().fold(way.start, |state, piece| {
            state.after(piece.jerk, piece.seconds)
        });
        (end.position - way.target)
            .abs()
            .max(end.velocity.abs())
            .max(end.acceleration.abs() * 1e-3)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, cases: 400, ..Default::default()
        })]

        #[test]
        fn axes_at_rest_arrive_together_on_their_targets(
            axes in prop::collection::vec((limits(), -3.0..3.0_f64, -3.0..3.0_f64), 1..8),
        ) {
            let limits: Vec<_> = axes.iter().map(|axis| axis.0).collect();
            let start: Vec<_> = axes.iter().map(|axis| AxisState::at_rest(axis.1)).collect();
            let target: Vec<_> = axes.iter().map(|axis| axis.2).collect();
            let plan = Plan::<8>::new(&start, &target, &limits);
            for axis in 0..plan.axes() {
                prop_assert!(misses_by(&plan, axis) < 1e-7, "{}", misses_by(&plan, axis));
                let late = plan.seconds() - plan.ways[axis].seconds;
                prop_assert!(late.abs() < 1e-6, "axis {axis} is there {late} s early");
            }
        }

        /// Targets that jump about while it moves: no limit is ever exceeded, nothing jumps.
        #[test]
        fn new_targets_on_the_way_keep_the_limits(
            limits in prop::collection::vec(limits(), 3..4),
            targets in prop::collection::vec((prop::array::uniform3(-3.0..3.0_f64), 1_usize..400),
                1..8),
        ) {
            let mut states = [AxisState::default(); 3];
            for (target, steps) in targets {
                let plan = Plan::<8>::new(&states, &target, &limits);
                for axis in 0..3 {
                    prop_assert!(misses_by(&plan, axis) < 1e-6, "{}", misses_by(&plan, axis));
                }
                for step in 1..=steps {
                    for (axis, state) in states.iter_mut().enumerate() {
                        let next = plan.at(axis, step as f64 * STEP_S);
                        within(next, &limits[axis])?;
                        let jerk = (next.acceleration - state.acceleration) / STEP_S;
                        // The end of a plan may take away the last rounding at once.
                        prop_assert!(jerk.abs() <= limits[axis].jerk_max * 1.001 + 1e-2);
                        let speed = (next.position - state.position) / STEP_S;
                        prop_assert!(speed.abs() <= limits[axis].velocity_max * 1.001 + 1e-5);
                        *state = next;
                    }
                }
            }
        }
    }

    #[test]
    fn one_axis_takes_the_time_of_the_textbook() {
        // Biagiotti and Melchiorri, "Trajectory Planning for Automatic Machines and Robots", 3.4,
        // all limits reached: T = h / v + v / a + a / j.
        let limits = AxisLimits {
            velocity_max: 1.0,
            acceleration_max: 2.0,
            jerk_max: 10.0,
        };
        let plan = Plan::<1>::new(&[AxisState::at_rest(0.0)], &[3.0], &[limits]);
        assert!(
            (plan.seconds() - (3.0 + 0.5 + 0.2)).abs() < 1e-9,
            "{plan:?}"
        );
        // Neither limit reached: four equal pieces, h = 2 j t^3.
        let short = Plan::<1>::new(&[AxisState::at_rest(0.0)], &[2.0 * 10.0 * 1e-3], &[limits]);
        assert!((short.seconds() - 0.4).abs() < 1e-6, "{short:?}");
    }

    #[test]
    fn an_axis_that_is_there_already_stays() {
        let limits = [AxisLimits {
            velocity_max: 1.0,
            acceleration_max: 2.0,
            jerk_max: 10.0,
        }; 2];
        let start = [AxisState::at_rest(1.0), AxisState::at_rest(0.0)];
        let plan = Plan::<2>::new(&start, &[1.0, 2.0], &limits);
        for step in 0..1000 {
            assert_eq!(plan.at(0, f64::from(step) * STEP_S).position, 1.0);
        }
    }
}
