//! The machine over its whole small domain: every set of causes, every rule, every event, and a
//! time of whole seconds. No clock, no thread; deterministic but for the seeded random runs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set itself up has failed"
)]

use std::collections::{HashSet, VecDeque};

use kairo_failsafe::{
    Action, Cause, CauseSet, Clear, Decision, Flags, Rule, RuleError, Rules, State, Takeover,
    Taker, step,
};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;
/// Delays and deferrals in the tests last this long at most, so older ages behave alike.
const OLDEST_S: u64 = 3;

/// What `cause` must demand at least, told from the outside: by its rule, its age and its standing.
fn demanded(now: u64, state: &State, flags: Flags, rules: &Rules, cause: Cause) -> Action {
    let rule = Rule {
        action: match (state.stands_still(), rules.of(cause).action) {
            (true, Action::RampToRest) => Action::Hold,
            (_, action) => action,
        },
        ..*rules.of(cause)
    };
    let age = now - state.since_ns(cause);
    let deferred = flags.defer && rule.deferrable && age < rules.defer_max_ms() * 1_000_000;
    if state.taken_over().has(cause) || deferred {
        rule.action.min(Action::Warn)
    } else if age < rule.hold_first_ms * 1_000_000 {
        rule.action.min(Action::Hold)
    } else {
        rule.action
    }
}

/// Checks one transition against everything that is promised.
fn check(now: u64, before: &State, flags: Flags, rules: &Rules, after: &State, told: &Decision) {
    let edge = flags.reset && !before.reset_level();
    let wants = |cause| demanded(now, after, flags, rules, cause);
    let highest = after.live().iter().map(wants).max();
    assert_eq!(told.action, highest.unwrap_or(Action::None), "{flags:?}");
    let demands_it = |cause| after.live().has(cause) && wants(cause) == told.action;
    assert!(told.cause.map_or(told.action == Action::None, demands_it));
    assert_eq!(
        (told.live, told.taken_over),
        (after.live(), after.taken_over())
    );
    for cause in Cause::ALL {
        let (was, is) = (before.live().has(cause), after.live().has(cause));
        let holds = flags.conditions.has(cause);
        assert!(is || !holds, "{cause}: a condition that holds is live");
        assert!(
            was || is == holds,
            "{cause}: only its condition makes it live"
        );
        if was && !is {
            let may_end = match rules.of(cause).clear {
                Clear::WhenGone => true,
                Clear::OnModeChange => flags.mode_changed,
                Clear::OnReset => edge,
                Clear::Never => false,
            };
            assert!(
                may_end,
                "{cause} ended without its clear condition: {flags:?}"
            );
        }
        if after.taken_over().has(cause) {
            assert!(is && rules.of(cause).takeover != Takeover::Never);
        }
        let newly = after.taken_over().has(cause) && !before.taken_over().has(cause);
        if newly {
            let operator = flags.takeover == Some(Taker::Operator);
            let allowed = operator || rules.of(cause).takeover == Takeover::Always;
            assert!(flags.takeover.is_some() && allowed && told.takeover_granted);
        }
        let stops = rules.of(cause).action.stops_motion();
        if told.raised.has(cause) && stops && flags.takeover == Some(Taker::Agent) {
            assert!(
                !after.taken_over().has(cause) && !told.takeover_granted,
                "{cause}: a cause raised in this step is never taken over by Agent in this step"
            );
        }
        let stopping = is && wants(cause).stops_motion();
        assert_eq!(told.stopping.has(cause), stopping, "{cause}: stops or not");
        assert_eq!(told.cleared.has(cause), was && !is);
        assert!(!told.raised.has(cause) || holds);
    }
    if told.takeover_granted {
        assert!(
            !told.action.stops_motion(),
            "a takeover that is granted frees the device"
        );
        assert!(told.agent_may_command);
    }
    estop_wins(edge, before, flags, after, told);
    stands_still(before, flags, after, told);
}

/// Nothing ramps while it must not move, nor after it, before somebody leads it anew.
fn stands_still(before: &State, flags: Flags, after: &State, told: &Decision) {
    let lives = |state: &State| state.live().iter().any(Cause::must_not_move);
    let led = flags.mode_changed || flags.commanded;
    let still = lives(before) || lives(after) || (before.stands_still() && !led);
    assert_eq!(after.stands_still(), still, "{flags:?}");
    assert_eq!(told.stands_still, still);
    assert!(!still || told.action != Action::RampToRest, "{flags:?}");
}

fn estop_wins(edge: bool, before: &State, flags: Flags, after: &State, told: &Decision) {
    let pressed = flags.conditions.has(Cause::Estop);
    if pressed || (before.live().has(Cause::Estop) && !edge) {
        assert!(after.live().has(Cause::Estop));
        assert!(told.action.stops_motion() && !told.agent_may_command);
        assert!(!told.operator_may_take_over && !told.takeover_granted);
    }
}

/// All that can be flagged besides conditions.
fn events() -> impl Iterator<Item = Flags> {
    (0..48).map(|bits| Flags {
        conditions: CauseSet::EMPTY,
        mode_changed: bits & 1 != 0,
        reset: bits & 2 != 0,
        defer: bits & 4 != 0,
        commanded: bits & 8 != 0,
        takeover: [None, Some(Taker::Agent), Some(Taker::Operator)][bits >> 4],
    })
}

#[test]
fn every_set_of_causes_under_every_event_demands_its_highest_action() {
    let rules = Rules::default();
    let all = CauseSet::from_bits(u16::MAX);
    let quiet = State::starting(0, false);
    let low = Flags::default();
    let (rearmed, _) = step(0, quiet, low, &rules);
    let stormy = Flags {
        conditions: all,
        ..low
    };
    let (stormy, _) = step(0, rearmed, stormy, &rules);
    let (stormy, _) = step(SECOND_NS, stormy, low, &rules);
    let mut steps = 0_u64;
    for before in [rearmed, stormy] {
        for bits in 0..=u16::MAX {
            for event in events() {
                let flags = Flags {
                    conditions: CauseSet::from_bits(bits),
                    ..event
                };
                let now = 2 * SECOND_NS;
                let (after, told) = step(now, before, flags, &rules);
                check(now, &before, flags, &rules, &after, &told);
                assert_eq!(
                    step(now, before, flags, &rules),
                    (after, told),
                    "deterministic"
                );
                steps += 1;
            }
        }
    }
    assert_eq!(steps, 2 * 65_536 * 48);
}

/// Every rule a robot can write, but that an action stands for its kind.
fn every_rule() -> Vec<Rule> {
    let mut rules = Vec::new();
    for action in [
        Action::None,
        Action::Warn,
        Action::Hold,
        Action::RampToRest,
        Action::TorqueOff,
    ] {
        for hold_first_ms in [0, 2_000] {
            for clear in Clear::ALL {
                for takeover in Takeover::ALL {
                    for deferrable in [false, true] {
                        rules.push(Rule {
                            action,
                            hold_first_ms,
                            clear,
                            takeover,
                            deferrable,
                        });
                    }
                }
            }
        }
    }
    rules
}

/// What tells states apart, for causes `a` and `b`.
fn key(now: u64, state: &State) -> (u16, u16, u16, [bool; 2], [u64; 2]) {
    let age = |cause| match state.live().has(cause) {
        true => (now - state.since_ns(cause))
            .div_euclid(SECOND_NS)
            .min(OLDEST_S),
        false => 0,
    };
    let ages = [age(Cause::Estop), age(Cause::LowBattery)];
    let bits = |set: CauseSet| set.bits();
    (
        bits(state.live()),
        bits(state.taken_over()),
        bits(state.held()),
        [state.reset_level(), state.stands_still()],
        ages,
    )
}

#[test]
fn every_reachable_state_of_an_estop_and_any_rule_keeps_every_promise() {
    let mut seen_total = 0;
    for rule in every_rule() {
        let mut rules = Rules::default();
        rules.set_defer_max_ms(2_000).unwrap();
        if rules.set(Cause::LowBattery, rule).is_err() {
            assert!(rule.hold_first_ms > 0 && rule.action <= Action::Hold);
            continue;
        }
        let mut seen = HashSet::new();
        let mut waiting = VecDeque::new();
        for latched in [false, true] {
            waiting.push_back((0, State::starting(0, latched)));
        }
        while let Some((now, before)) = waiting.pop_front() {
            for event in events() {
                for bits in 0..4_u16 {
                    let conditions = CauseSet::EMPTY
                        .with(Cause::Estop, bits & 1 != 0)
                        .with(Cause::LowBattery, bits & 2 != 0);
                    let flags = Flags {
                        conditions,
                        ..event
                    };
                    for later in [0, SECOND_NS] {
                        let (after, told) = step(now + later, before, flags, &rules);
                        check(now + later, &before, flags, &rules, &after, &told);
                        if seen.insert(key(now + later, &after)) {
                            waiting.push_back((now + later, after));
                        }
                    }
                }
            }
        }
        seen_total += seen.len();
    }
    assert!(
        seen_total > 10_000,
        "{seen_total} states: the search went nowhere"
    );
}

/// Steps through `script` from a quiet state and returns the last decision.
fn play(rules: &Rules, latched: bool, script: &[(u64, Flags)]) -> Decision {
    let mut state = State::starting(0, latched);
    let mut told = None;
    for (ms, flags) in script {
        let (next, decision) = step(ms * 1_000_000, state, *flags, rules);
        (state, told) = (next, Some(decision));
    }
    told.unwrap()
}

fn with(causes: &[Cause]) -> Flags {
    let add = |set: CauseSet, cause: &Cause| set.with(*cause, true);
    Flags {
        conditions: causes.iter().fold(CauseSet::EMPTY, add),
        ..Flags::default()
    }
}

const QUIET: Flags = Flags {
    conditions: CauseSet::EMPTY,
    mode_changed: false,
    commanded: false,
    reset: false,
    takeover: None,
    defer: false,
};
const RESET: Flags = Flags {
    reset: true,
    ..QUIET
};

#[test]
fn an_estop_is_latched_at_the_start_and_only_an_edge_clears_it() {
    let rules = Rules::default();
    let live = |script: &[(u64, Flags)]| !play(&rules, true, script).live.is_empty();
    assert!(
        live(&[(0, QUIET), (9_999, QUIET)]),
        "time does not clear it"
    );
    assert!(
        live(&[(0, RESET), (1, RESET)]),
        "a reset held from the start is no edge"
    );
    assert!(!live(&[(0, QUIET), (1, RESET)]), "an edge clears it");
    let pressed = with(&[Cause::Estop]);
    let both = Flags {
        reset: true,
        ..pressed
    };
    assert!(
        live(&[(0, pressed), (1, both)]),
        "an input that is open refuses the reset"
    );
    assert!(
        live(&[(0, pressed), (1, both), (2, RESET)]),
        "and the edge is gone by then"
    );
    assert!(!live(&[
        (0, pressed),
        (1, both),
        (2, RESET),
        (3, QUIET),
        (4, RESET)
    ]));
    assert!(
        live(&[(0, QUIET), (1, RESET), (2, both)]),
        "and it latches again"
    );
}

#[test]
fn a_hold_comes_first_and_the_action_follows_when_its_delay_is_over() {
    let rules = Rules::default();
    let low = with(&[Cause::LowBattery]);
    let action = |ms| play(&rules, false, &[(10, low), (ms, low)]).action;
    assert_eq!(action(10), Action::Hold);
    assert_eq!(action(5_009), Action::Hold);
    assert_eq!(action(5_010), Action::SafeAction);
    let backwards = play(&rules, false, &[(10, low), (5, low)]).action;
    assert_eq!(
        backwards,
        Action::SafeAction,
        "a clock that goes back lengthens nothing"
    );
}

#[test]
fn a_deferral_ends_by_itself_and_spares_nothing_else() {
    let rules = Rules::default();
    let low = Flags {
        defer: true,
        ..with(&[Cause::LowBattery])
    };
    let action = |ms| play(&rules, false, &[(0, low), (ms, low)]).action;
    assert_eq!((action(0), action(29_999)), (Action::Warn, Action::Warn));
    assert_eq!(action(30_000), Action::SafeAction);
    let hot = Flags {
        defer: true,
        ..with(&[Cause::LowBattery, Cause::OverTemperature])
    };
    assert_eq!(play(&rules, false, &[(0, hot)]).action, Action::Hold);
}

#[test]
fn a_condition_that_comes_back_ends_the_takeover() {
    let mut rules = Rules::default();
    let rule = Rule {
        clear: Clear::OnReset,
        ..*rules.of(Cause::CommandExpired)
    };
    rules.set(Cause::CommandExpired, rule).unwrap();
    let expired = with(&[Cause::CommandExpired]);
    let takes = Flags {
        takeover: Some(Taker::Agent),
        ..QUIET
    };
    let taken = [(0, expired), (1, takes), (2, QUIET)];
    assert_eq!(play(&rules, false, &taken).action, Action::Warn);
    let again = [taken[0], taken[1], taken[2], (3, expired)];
    assert_eq!(play(&rules, false, &again).action, Action::SafeAction);
}

#[test]
fn a_takeover_is_granted_whole_or_not_at_all() {
    let rules = Rules::default();
    let both = with(&[Cause::LowBattery, Cause::BusLost]);
    let takes = Flags {
        takeover: Some(Taker::Operator),
        ..both
    };
    let told = play(&rules, false, &[(0, both), (1, takes)]);
    assert!(!told.takeover_granted && told.taken_over.is_empty());
    let low = with(&[Cause::LowBattery]);
    let agent = Flags {
        takeover: Some(Taker::Agent),
        ..low
    };
    assert!(!play(&rules, false, &[(0, low), (1, agent)]).takeover_granted);
    let operator = Flags {
        takeover: Some(Taker::Operator),
        ..low
    };
    assert!(play(&rules, false, &[(0, low), (1, operator)]).takeover_granted);
}

#[test]
fn a_command_from_before_the_cause_does_not_take_over_from_it() {
    let rules = Rules::default();
    let takes = |flags| Flags {
        takeover: Some(Taker::Agent),
        ..flags
    };
    let lost = with(&[Cause::LeaseLost]);
    let told = play(&rules, false, &[(0, QUIET), (1, takes(lost))]);
    assert_eq!(told.action, Action::SafeAction);
    assert!(!told.takeover_granted && told.taken_over.is_empty());
    let told = play(&rules, false, &[(0, lost), (1, takes(lost))]);
    assert!(told.takeover_granted, "a later command does");
}

#[test]
fn no_rule_ramps_where_the_device_must_not_move() {
    for cause in Cause::ALL {
        let mut rules = Rules::default();
        let ramp = Rule {
            action: Action::RampToRest,
            ..*rules.of(cause)
        };
        let stays = matches!(
            cause,
            Cause::Estop
                | Cause::ShuttingDown
                | Cause::ServoFault
                | Cause::FollowingError
                | Cause::BusLost
                | Cause::FeedbackStale
        );
        let refused = Err(RuleError::MustNotMove(cause, Action::RampToRest));
        let expected = if stays { refused } else { Ok(()) };
        assert_eq!(rules.set(cause, ramp), expected, "{cause}");
    }
}

#[test]
fn the_estop_keeps_its_rule_whatever_a_robot_writes() {
    let mut rules = Rules::default();
    for cause in [Cause::Estop, Cause::ShuttingDown] {
        let own = *rules.of(cause);
        let changes = [
            Rule {
                clear: Clear::WhenGone,
                ..own
            },
            Rule {
                takeover: Takeover::OperatorOnly,
                ..own
            },
            Rule {
                deferrable: true,
                ..own
            },
            Rule {
                hold_first_ms: 1,
                ..own
            },
            Rule {
                action: Action::Warn,
                ..own
            },
        ];
        for change in changes {
            assert!(rules.set(cause, change).is_err(), "{change:?}");
        }
        let harder = Rule {
            action: Action::TorqueOff,
            ..own
        };
        assert!(rules.set(cause, harder).is_ok());
    }
    assert!(rules.set_defer_max_ms(60_001).is_err());
}

#[test]
fn names_are_found_again_however_they_are_spelled() {
    for cause in Cause::ALL {
        assert_eq!(Cause::from_name(cause.name()), Some(cause));
        assert_eq!(
            Cause::from_name(&cause.name().replace('_', "-")),
            Some(cause)
        );
    }
    for action in Action::ALL {
        assert_eq!(Action::from_name(action.name()), Some(action));
    }
    assert_eq!(
        (Cause::from_name("estopp"), Action::from_name("")),
        (None, None)
    );
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let of = |all: Vec<Action>| proptest::sample::select(all);
    (
        of(Action::ALL.to_vec()),
        0..=u64::from(OLDEST_S as u32) * 1_000,
        proptest::sample::select(Clear::ALL.to_vec()),
        proptest::sample::select(Takeover::ALL.to_vec()),
        any::<bool>(),
    )
        .prop_map(
            |(action, hold_first_ms, clear, takeover, deferrable)| Rule {
                action,
                hold_first_ms,
                clear,
                takeover,
                deferrable,
            },
        )
}

fn any_flags() -> impl Strategy<Value = Flags> {
    let taker = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Taker::Agent)),
        1 => Just(Some(Taker::Operator)),
    ];
    // Few conditions at a time, or nothing would ever clear.
    let bits = (any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(a, b, c)| a & b & c);
    let led = (any::<bool>(), any::<bool>());
    (bits, led, any::<bool>(), any::<bool>(), taker).prop_map(
        |(bits, (mode_changed, commanded), reset, defer, takeover)| Flags {
            conditions: CauseSet::from_bits(bits),
            mode_changed,
            commanded,
            reset,
            takeover,
            defer,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 512, ..Default::default()
    })]

    #[test]
    fn random_robots_with_random_histories_keep_every_promise(
        written in prop::collection::vec(any_rule(), kairo_failsafe::CAUSES),
        history in prop::collection::vec((0..2_000_u64, any_flags()), 1..60),
        latched in any::<bool>(),
    ) {
        let mut rules = Rules::default();
        for (cause, rule) in Cause::ALL.into_iter().zip(written) {
            // What is refused stays as it was.
            let _ = rules.set(cause, rule);
        }
        let mut now = 0;
        let mut state = State::starting(now, latched);
        for (later_ms, flags) in history {
            prop_assert_eq!(State::from_words(&state.to_words()), state);
            now += later_ms * 1_000_000;
            let (next, told) = step(now, state, flags, &rules);
            check(now, &state, flags, &rules, &next, &told);
            state = next;
        }
    }
}

#[test]
fn a_cause_that_outlives_an_estop_ramps_only_after_the_next_lease() {
    let mut rules = Rules::default();
    let low = Rule {
        action: Action::RampToRest,
        hold_first_ms: 0,
        ..*rules.of(Cause::LowBattery)
    };
    rules.set(Cause::LowBattery, low).unwrap();
    let both = with(&[Cause::Estop, Cause::LowBattery]);
    let cleared = Flags {
        reset: true,
        ..with(&[Cause::LowBattery])
    };
    let later = with(&[Cause::LowBattery]);
    let lease = Flags {
        mode_changed: true,
        ..later
    };
    let mut script = vec![(0, lease)];
    let action = |script: &[(u64, Flags)]| play(&rules, false, script).action;
    assert_eq!(action(&script), Action::RampToRest);
    script.push((1, both));
    assert_eq!(
        action(&script),
        Action::SafeAction,
        "the e-stop outranks it"
    );
    script.push((2, cleared));
    assert_eq!(action(&script), Action::Hold, "a clear moves nothing");
    script.push((100_000, later));
    assert_eq!(action(&script), Action::Hold, "and time does not");
    script.push((100_001, lease));
    assert_eq!(action(&script), Action::RampToRest);
}
