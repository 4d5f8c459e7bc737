//! The machine itself: one step. rt-safe: no heap, no loop but the one over the causes.

use crate::action::Action;
use crate::cause::{CAUSES, Cause, CauseSet};
use crate::rules::{Clear, Rules, Takeover};

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// Words of a [`State`].
pub const STATE_WORDS: usize = CAUSES + 2;

/// Who wants to command the device again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The holder of a lease, by a command that would be accepted otherwise.
    Agent,
    /// An operator.
    Operator,
}

/// What is true now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The causes whose condition holds.
    pub conditions: CauseSet,
    /// A lease began since the last step.
    pub mode_changed: bool,
    /// A command was accepted since the last step.
    pub commanded: bool,
    /// The level of the reset: its rising edge resets, a level that stays does nothing.
    pub reset: bool,
    /// Somebody wants to take over.
    pub takeover: Option<Taker>,
    /// Whether an operator asks for deferral of what can be deferred.
    pub defer: bool,
}

/// What the machine remembers from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    live: CauseSet,
    taken_over: CauseSet,
    /// The conditions of the step before: one that comes back ends a takeover.
    held: CauseSet,
    since_ns: [u64; CAUSES],
    reset_level: bool,
    /// Nobody has led the device since the start, or since it had to stand still.
    stands_still: bool,
}

impl State {
    /// The state to start in. With `latched`, an e-stop is live from the beginning.
    ///
    /// A reset that is held from before the start is no edge. The device stands still until its
    /// first lease.
    pub const fn starting(now_ns: u64, latched: bool) -> Self {
        Self {
            live: CauseSet::EMPTY.with(Cause::Estop, latched),
            taken_over: CauseSet::EMPTY,
            held: CauseSet::EMPTY,
            since_ns: [now_ns; CAUSES],
            reset_level: true,
            stands_still: true,
        }
    }

    /// A state in which nothing is live and the device is being led.
    pub const fn in_use(now_ns: u64) -> Self {
        Self {
            stands_still: false,
            ..Self::starting(now_ns, false)
        }
    }

    /// All of it as words, for recorders. rt-safe.
    pub fn to_words(&self) -> [u64; STATE_WORDS] {
        let sets = [self.live, self.taken_over, self.held].map(|set| u64::from(set.bits()));
        let mut words = [0; STATE_WORDS];
        words[..CAUSES].copy_from_slice(&self.since_ns);
        words[CAUSES] = sets[0] | (sets[1] << 16) | (sets[2] << 32);
        words[CAUSES + 1] = u64::from(self.reset_level) | (u64::from(self.stands_still) << 1);
        words
    }

    /// What [`State::to_words`] gave. rt-safe.
    pub fn from_words(words: &[u64; STATE_WORDS]) -> Self {
        let set = |shift: u32| CauseSet::from_bits(((words[CAUSES] >> shift) & 0xffff) as u16);
        let mut since_ns = [0; CAUSES];
        since_ns.copy_from_slice(&words[..CAUSES]);
        Self {
            live: set(0),
            taken_over: set(16),
            held: set(32),
            since_ns,
            reset_level: words[CAUSES + 1] & 1 != 0,
            stands_still: words[CAUSES + 1] & 2 != 0,
        }
    }

    /// The live causes. rt-safe.
    pub const fn live(&self) -> CauseSet {
        self.live
    }

    /// The live causes that somebody has taken over from. rt-safe.
    pub const fn taken_over(&self) -> CauseSet {
        self.taken_over
    }

    /// The conditions of the step before. rt-safe.
    pub const fn held(&self) -> CauseSet {
        self.held
    }

    /// The level of the reset in the step before. rt-safe.
    pub const fn reset_level(&self) -> bool {
        self.reset_level
    }

    /// Whether the device must not be moved by an action. rt-safe.
    pub const fn stands_still(&self) -> bool {
        self.stands_still
    }

    /// When `cause` became live, or its condition came back after a takeover; meaningless while it
    /// is not. rt-safe.
    pub const fn since_ns(&self, cause: Cause) -> u64 {
        self.since_ns[cause.index()]
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The action; the highest one demanded.
    pub action: Action,
    /// The cause that demands it; the first in their order when several do, none for `None`.
    pub cause: Option<Cause>,
    /// The causes that are live after this step.
    pub live: CauseSet,
    /// The causes that became live with this step.
    pub raised: CauseSet,
    /// The causes that ended with this step.
    pub cleared: CauseSet,
    /// The live causes that demand at least a hold now.
    pub stopping: CauseSet,
    /// Live causes that somebody has taken over from: they only warn.
    pub taken_over: CauseSet,
    /// Live causes that only hold for now, and demand more when their delay is over.
    pub delayed: CauseSet,
    /// Live causes that are deferred: they only warn, until the deferral ends.
    pub deferred: CauseSet,
    /// Whether a command of a lease holder may be followed.
    pub agent_may_command: bool,
    /// Whether an operator's takeover would be granted, or none is needed.
    pub operator_may_take_over: bool,
    /// Whether the takeover that was asked for in this step was granted.
    pub takeover_granted: bool,
    /// Whether no action may move the device: while a cause under which it must not move is live,
    /// and after it until somebody leads it anew, with a lease or an accepted command. An end of
    /// such a cause starts nothing. What would ramp holds; a declared safe action too.
    pub stands_still: bool,
}

/// One step of the machine. rt-safe.
pub fn step(now_ns: u64, state: State, flags: Flags, rules: &Rules) -> (State, Decision) {
    let mut next = state;
    let reset = flags.reset && !state.reset_level;
    next.reset_level = flags.reset;
    next.held = flags.conditions;
    let (mut raised, mut cleared) = (CauseSet::EMPTY, CauseSet::EMPTY);
    for cause in Cause::ALL {
        let holds = flags.conditions.has(cause);
        let comes_back = state.taken_over.has(cause) && !state.held.has(cause);
        if holds && (!state.live.has(cause) || comes_back) {
            next.live = next.live.with(cause, true);
            next.taken_over = next.taken_over.with(cause, false);
            next.since_ns[cause.index()] = now_ns;
            raised = raised.with(cause, true);
        }
        let over = !holds
            && match rules.of(cause).clear {
                Clear::WhenGone => true,
                Clear::OnModeChange => flags.mode_changed,
                Clear::OnReset => reset,
                Clear::Never => false,
            };
        if over && state.live.has(cause) {
            next.live = next.live.with(cause, false);
            next.taken_over = next.taken_over.with(cause, false);
            cleared = cleared.with(cause, true);
        }
    }
    // All or nothing: a takeover that left one cause in force would look granted and not move.
    // An agent's is older than what is raised now: its command knew nothing of that.
    let raised_stops = raised
        .iter()
        .any(|cause| rules.of(cause).action.stops_motion());
    let takeover_granted = flags.takeover.is_some_and(|taker| {
        (taker == Taker::Operator || !raised_stops) && may_take_over(&next, rules, taker)
    });
    if takeover_granted {
        for cause in next.live.iter() {
            let stops = rules.of(cause).action.stops_motion();
            next.taken_over = next.taken_over.with(cause, stops);
        }
    }
    // Also in the step in which such a cause ends: what is led then was led before the end.
    let mut stopped = state.live.iter().chain(next.live.iter());
    let led = flags.mode_changed || flags.commanded;
    next.stands_still = stopped.any(Cause::must_not_move) || (state.stands_still && !led);
    let decision = decide(now_ns, &next, flags.defer, rules);
    let decision = Decision {
        raised,
        cleared,
        takeover_granted,
        ..decision
    };
    (next, decision)
}

/// Whether every live cause that stops the device lets `taker` go on.
fn may_take_over(state: &State, rules: &Rules, taker: Taker) -> bool {
    state.live.iter().all(|cause| {
        let rule = rules.of(cause);
        let allowed = match rule.takeover {
            Takeover::Always => true,
            Takeover::OperatorOnly => taker == Taker::Operator || state.taken_over.has(cause),
            Takeover::Never => false,
        };
        allowed || !rule.action.stops_motion()
    })
}

/// What `state` demands at `now_ns`.
fn decide(now_ns: u64, state: &State, defer: bool, rules: &Rules) -> Decision {
    let mut decision = Decision {
        action: Action::None,
        cause: None,
        live: state.live,
        raised: CauseSet::EMPTY,
        cleared: CauseSet::EMPTY,
        stopping: CauseSet::EMPTY,
        taken_over: state.taken_over,
        delayed: CauseSet::EMPTY,
        deferred: CauseSet::EMPTY,
        agent_may_command: true,
        operator_may_take_over: may_take_over(state, rules, Taker::Operator),
        takeover_granted: false,
        stands_still: state.stands_still,
    };
    for cause in state.live.iter() {
        let rule = rules.of(cause);
        // A clock that goes backwards finds an age beyond every delay: never longer, only shorter.
        let age_ns = now_ns.wrapping_sub(state.since_ns(cause));
        let within = |limit_ms: u64| age_ns < limit_ms.saturating_mul(NS_PER_MS);
        let mut demanded = match (state.stands_still, rule.action) {
            (true, Action::RampToRest) => Action::Hold,
            (_, action) => action,
        };
        let taken_over = state.taken_over.has(cause);
        let deferred = defer && rule.deferrable && within(rules.defer_max_ms());
        if taken_over || deferred {
            demanded = demanded.min(Action::Warn);
            decision.deferred = decision.deferred.with(cause, deferred);
        } else {
            if demanded > Action::Hold && within(rule.hold_first_ms) {
                demanded = Action::Hold;
                decision.delayed = decision.delayed.with(cause, true);
            }
            if rule.action.stops_motion() && rule.takeover != Takeover::Always {
                decision.agent_may_command = false;
            }
        }
        decision.stopping = decision.stopping.with(cause, demanded.stops_motion());
        if demanded > decision.action {
            (decision.action, decision.cause) = (demanded, Some(cause));
        }
    }
    decision
}
