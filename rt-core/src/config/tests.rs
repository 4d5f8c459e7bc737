//! What `robot.toml` accepts, and what it says about what it does not.

use std::path::Path;

use super::{ConfigError, OverrunPolicy, RobotConfig, parse, traffic_of};

/// The file of the image and of hosted runs.
const SO101: &str = include_str!("../../../board/robots/so101.toml");
/// The reference for people.
const REFERENCE: &str = include_str!("../../../docs/reference/robot-toml.md");

fn check(text: &str) -> Result<RobotConfig, ConfigError> {
    parse(Path::new("robot.toml"), text)
}

/// The problems of the SO-101 file after replacing `from` by `to`, as printed.
fn problems_after(from: &str, to: &str) -> Vec<String> {
    assert!(SO101.contains(from), "the file no longer contains {from:?}");
    let refused = check(&SO101.replacen(from, to, 1)).expect_err("the change is wrong");
    refused
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn line_of(text: &str) -> usize {
    SO101
        .lines()
        .position(|line| line == text)
        .expect("the line is there")
        + 1
}

#[test]
fn the_so101_file_is_valid() {
    let robot = check(SO101).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((robot.name.as_str(), robot.strict), ("so101", true));
    assert_eq!(
        (robot.buses.len(), robot.loops.len(), robot.devices.len()),
        (1, 1, 1)
    );
    assert_eq!(robot.loops[0].period_us, 4000);
    assert_eq!(
        (robot.buses[0].core, robot.loops[0].core),
        (Some(1), Some(1))
    );
    let ids: Vec<u8> = robot.devices[0]
        .joints
        .iter()
        .map(|joint| joint.servo_id)
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn more_loops_than_there_is_room_for_are_refused_with_the_arithmetic() {
    let more = |count: usize| {
        let one = |index: usize| {
            format!(
                "[[loop]]\nname = \"more-{index}\"\nperiod_us = 4000\npriority = 60\n\
                 overrun = \"skip\"\n"
            )
        };
        let text: String = (0..count).map(one).collect();
        check(&format!("{SO101}\n{text}"))
    };
    assert_eq!(more(31).expect("32 loops").loops.len(), 32);
    let refused = more(32).expect_err("33 loops").to_string();
    let each = size_of::<kairo_link::stats::LoopStats>();
    let expected = format!(
        "has 33 entries, but kairo-rt serves at most 32: each takes {each} bytes of the \
         statistics, 33 take {}, and there is room for {}",
        33 * each,
        32 * each
    );
    assert!(refused.contains(&expected), "{refused}");
}

#[test]
fn a_bus_is_due_with_the_fastest_loop_it_serves() {
    let shifted = SO101.replacen("period_us = 4000", "period_us = 4000\nphase_us = 700", 1);
    let robot = check(&shifted).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((robot.bus_period_us(0), robot.bus_phase_us(0)), (4000, 700));
}

#[test]
fn the_lines_are_looked_at_before_the_fastest_loop_is_due() {
    let due_ns = |phase: &str| {
        let shifted = SO101.replacen("period_us = 4000", phase, 1);
        let robot = check(&shifted).unwrap_or_else(|error| panic!("{error}"));
        (robot.lines_period_us(), robot.lines_phase_ns())
    };
    let own = |phase_us: u64| format!("period_us = 4000\nphase_us = {phase_us}");
    assert_eq!(due_ns(&own(700)), (4000, 600_000));
    assert_eq!(due_ns(&own(0)), (4000, 3_900_000), "in the period before");
    let second = SECOND_LOOP.replace("period_us = 1000", "period_us = 200\nphase_us = 100");
    let second = second.replace("budget_us = 400", "budget_us = 20");
    let robot = check(&with_loops("", &second)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        robot.lines_phase_ns(),
        50_000,
        "a quarter of a short period"
    );
}

#[test]
fn the_thread_of_the_lines_counts_when_a_core_is_checked() {
    let lines = |more: &str| {
        format!("{SO101}\n[estop]\ncore = 1\n{more}[[estop.input]]\nline = \"stop\"\n")
    };
    assert!(check(&lines("")).is_ok());
    let refused = check(&lines("budget_us = 3000\n")).expect_err("more than the core has");
    let text = refused.to_string();
    for part in [
        "core 1 has more to do than there is time",
        "thread \"estop-lines\" 3000 / 4000 us = 75.0 %",
        "robot.toml:42",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let robot = check(&lines("")).unwrap_or_else(|error| panic!("{error}"));
    let demand = robot.demands().pop();
    assert!(demand.is_some_and(|demand| demand.name == "estop-lines" && demand.core == Some(1)));
    let without = check(SO101).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(without.demands().len(), 2, "no line, no thread");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_key() {
    let line = line_of("period_us = 4000");
    let problems = problems_after("period_us = 4000", "perid_us = 4000");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems.iter().any(|text| text
            == &format!(
                "robot.toml:{line}:1: `loop.perid_us`: is not a known key; \
                     did you mean `period_us`?"
            )),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|text| text.contains("`loop.period_us`: is missing"))
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    let problems = problems_after("period_us = 4000", "period_us = 4");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("4 is out of range; write a value from 100 to 100000"));
    let problems = problems_after("velocity_max_rad_s = 2.5", "velocity_max_rad_s = nan");
    assert!(problems[0].contains("nan is out of range"), "{problems:?}");
}

#[test]
fn a_wrong_type_is_refused_with_the_right_one() {
    let problems = problems_after("priority = 70", "priority = \"high\"");
    assert!(
        problems[0].contains("is a string where a whole number belongs"),
        "{problems:?}"
    );
    let problems = problems_after("strict = true", "strict = 1");
    assert!(
        problems[0].contains("is an integer where true or false belongs"),
        "{problems:?}"
    );
}

#[test]
fn a_reference_to_nothing_is_refused_with_the_nearest_name() {
    let problems = problems_after("bus = \"arm-bus\"", "bus = \"arm-bsu\"");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("no `[[bus]]` is named \"arm-bsu\"; did you mean \"arm-bus\"?"));
}

#[test]
fn a_servo_used_twice_is_refused_naming_both_joints() {
    let problems = problems_after("servo_id = 5", "servo_id = 2");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("servo 2 of bus \"arm-bus\" already moves arm.shoulder_lift"));
    assert!(problems[0].contains("give arm.wrist_roll another servo"));
}

#[test]
fn a_period_the_wire_cannot_serve_is_refused_with_the_arithmetic() {
    let problems = problems_after("period_us = 4000", "period_us = 1000");
    assert_eq!(problems.len(), 1, "{problems:?}");
    for part in [
        "14 B request + 126 B of replies + 26 B of goals = 166 B",
        "= 1660 us",
        "write at least 2000",
    ] {
        assert!(
            problems[0].contains(part),
            "{part:?} is not in {problems:?}"
        );
    }
    assert_eq!(traffic_of(6, 1_000_000).wire_time_us, 1660);
    assert_eq!(traffic_of(6, 500_000).wire_time_us, 3320);
}

#[test]
fn limits_outside_the_servo_or_the_wrong_way_round_are_refused() {
    let problems = problems_after("position_min_rad = -1.69", "position_min_rad = 1.8");
    assert!(
        problems[0].contains("1.8 is not below position_max_rad = 1.69"),
        "{problems:?}"
    );
    let problems = problems_after("position_max_rad = 2.84121", "position_max_rad = 3.5");
    assert!(
        problems[0].contains("which has only 0 to 4095"),
        "{problems:?}"
    );
}

#[test]
fn a_bus_that_could_take_its_loop_s_time_is_refused() {
    for priority in [80, 90] {
        let problems = problems_after("priority = 70", &format!("priority = {priority}"));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("is not below 80 of loop \"arm-loop\""));
    }
    let apart = SO101
        .replacen("priority = 70\n", "priority = 90\n", 1)
        .replacen("core = 1\n", "core = 2\n", 1);
    assert!(check(&apart).is_ok(), "they have a core each");
}

#[test]
fn a_joint_that_takes_long_to_stop_is_refused() {
    let problems = problems_after(
        "acceleration_max_rad_s2 = 10.0",
        "acceleration_max_rad_s2 = 0.1",
    );
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("takes 25.0 s to stop, the most is 5 s"));
}

#[test]
fn every_problem_is_reported_at_once_in_file_order() {
    let text = SO101
        .replacen("strict = true", "strikt = true", 1)
        .replacen("baud = 1_000_000", "baud = 5", 1)
        .replacen("safe_action = \"hold\"", "safe_action = \"holt\"", 1);
    let refused = check(&text).expect_err("three mistakes");
    let lines: Vec<usize> = refused
        .diagnostics
        .iter()
        .map(|problem| problem.line)
        .collect();
    assert_eq!(lines.len(), 3, "{refused}");
    assert!(lines.is_sorted(), "{refused}");
    assert!(
        refused.to_string().contains("did you mean \"hold\"?"),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .ends_with("3 problems; nothing was started and nothing is armed")
    );
}

#[test]
fn broken_syntax_is_one_message_with_its_place() {
    let problems = problems_after("name = \"arm-bus\"", "name = arm-bus");
    let line = line_of("name = \"arm-bus\"");
    assert!(
        problems[0].starts_with(&format!("robot.toml:{line}:8: ")),
        "{problems:?}"
    );
}

#[test]
fn a_missing_file_says_how_to_name_one() {
    let error = super::load(Path::new("/nonexistent/robot.toml")).expect_err("it is missing");
    assert!(error.to_string().contains("--config FILE"), "{error}");
}

#[test]
fn a_loop_may_stand_alone() {
    let text = "[robot]\nname = \"bare\"\n[[loop]]\nname = \"l\"\nperiod_us = 1000\npriority = 80\n\
                overrun = \"skip\"\n";
    let robot = check(text).expect("it is whole");
    assert!(robot.buses.is_empty() && robot.devices.is_empty());
    assert_eq!(robot.loops.len(), 1);
    let refused = check("[robot]\nname = \"bare\"\n").expect_err("no loop");
    assert!(
        refused.to_string().contains("add a `[[loop]]` table"),
        "{refused}"
    );
}

#[test]
fn the_reference_documents_every_key() {
    // Keys are the quoted names after `problems, `, and in `read_reference(&mut table, `.
    let schema = concat!(
        include_str!("schema.rs"),
        include_str!("safety.rs"),
        include_str!("joint.rs"),
        include_str!("behaviour.rs"),
        include_str!("recorder.rs")
    );
    let keys = schema
        .split("problems, \"")
        .chain(schema.split("&mut table, \""))
        .skip(1);
    for key in keys.filter_map(|part| part.split('"').next()) {
        if key
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter == '_')
        {
            let documented = [format!("`{key}`"), format!("[{key}]"), format!(".{key}]")];
            let found = documented.iter().any(|form| REFERENCE.contains(form));
            assert!(found, "`{key}` is not in docs/reference/robot-toml.md");
        }
    }
}

/// The SO-101 file with more at its end.
fn so101_and(text: &str) -> Result<RobotConfig, ConfigError> {
    check(&format!("{SO101}\n{text}"))
}

/// The problems of the SO-101 file with more at its end.
fn problems_with(text: &str) -> String {
    so101_and(text).expect_err("it is wrong").to_string()
}

#[test]
fn a_robot_changes_what_a_cause_does_part_by_part() {
    let own = kairo_failsafe::Rules::default();
    let robot = so101_and(
        "[failsafe]\ndefer_max_ms = 9\n[failsafe.agent_gone]\naction = \"torque-off\"\n\
         hold_first_ms = 300\n[failsafe.low_battery]\naction = \"warn\"",
    );
    let rules = robot
        .unwrap_or_else(|error| panic!("{error}"))
        .failsafe
        .rules;
    assert_eq!(rules.defer_max_ms(), 9);
    let changed = kairo_failsafe::Rule {
        action: kairo_failsafe::Action::TorqueOff,
        hold_first_ms: 300,
        ..*own.of(kairo_failsafe::Cause::AgentGone)
    };
    assert_eq!(*rules.of(kairo_failsafe::Cause::AgentGone), changed);
    let milder = rules.of(kairo_failsafe::Cause::LowBattery);
    assert_eq!(milder.hold_first_ms, 0, "nothing is left to delay");
}

#[test]
fn rules_that_no_device_can_keep_are_refused() {
    for (text, said) in [
        ("[failsafe.agent_gon]\n", "did you mean `agent_gone`?"),
        (
            "[failsafe.agent_gone]\naction = \"land\"",
            "device \"arm\" cannot land",
        ),
        (
            "[failsafe.agent_gone]\nhold_first_ms = 60001",
            "60001 is out of range",
        ),
        (
            "[failsafe.agent_gone]\naction = \"hold\"\nhold_first_ms = 5",
            "nothing to delay",
        ),
        (
            "[failsafe.estop]\nclear = \"when-gone\"",
            "only the action of estop can be changed",
        ),
        (
            "[failsafe.estop]\naction = \"warn\"",
            "warn does not stop the device",
        ),
    ] {
        let problems = problems_with(text);
        assert!(problems.contains(said), "{said:?} is not in {problems}");
    }
}

#[test]
fn a_ramp_where_the_device_must_not_move_is_refused_with_its_line() {
    for cause in ["servo_fault", "bus_lost", "feedback_stale"] {
        let text = format!("[failsafe.{cause}]\nclear = \"on-reset\"\naction = \"ramp-to-rest\"");
        let problems = problems_with(&text);
        let line = SO101.lines().count() + 4;
        let said = format!("ramp-to-rest moves the device, as it must not under {cause}; use hold");
        let refusal = problems.lines().find(|problem| problem.contains(&said));
        let refusal = refusal.unwrap_or_else(|| panic!("{said:?} is not in {problems}"));
        assert!(
            refusal.contains(&format!(":{line}:")),
            "line {line}: {refusal}"
        );
    }
}

#[test]
fn an_estop_is_latched_at_the_start_unless_a_reason_is_given() {
    let robot = so101_and("").expect("it is valid");
    assert!(robot.estop.latched_at_start && !robot.estop.clear_over_ipc);
    let problems = problems_with("[estop]\nlatched_at_start = false");
    assert!(
        problems.contains("`estop.not_latched_because`: is missing"),
        "{problems}"
    );
    let text = "[estop]\nlatched_at_start = false\nnot_latched_because = \"a demo\"";
    assert!(!so101_and(text).expect("it is valid").estop.latched_at_start);
}

#[test]
fn a_broken_wire_must_not_look_good_nor_reset() {
    let good = "[[estop.input]]\nline = \"estop\"\nbias = \"pull-up\"\n\
                [estop.reset]\nchip = \"gpio-sim\"\noffset = 3\nbias = \"pull-up\"";
    let robot = so101_and(good).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(robot.estop.inputs[0].name, "estop");
    let at = super::LineAddress::At {
        chip: "gpio-sim".into(),
        offset: 3,
    };
    assert_eq!(robot.estop.reset.map(|reset| reset.line), Some(at));
    let problems = problems_with(&good.replacen("pull-up", "pull-down", 1));
    assert!(problems.contains("pulls a broken wire to the level that means all is well"));
    let problems = problems_with(&good.replace("3\nbias = \"pull-up\"", "3\nbias = \"pull-down\""));
    assert!(
        problems.contains("pulls a broken wire to the level that resets"),
        "{problems}"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, ..Default::default()
    })]

    /// Whatever the file contains, reading it returns.
    #[test]
    fn no_text_makes_the_reader_panic(
        line in 0_usize..120, noise in "[ -~\n]{0,40}", keep in proptest::bool::ANY,
    ) {
        let mut lines: Vec<&str> = SO101.lines().collect();
        let at = line.min(lines.len());
        if keep { lines.insert(at, &noise) } else if at < lines.len() { lines[at] = &noise }
        let _ = check(&lines.join("\n"));
    }
}

/// The SO-101's file with the loop's keys replaced, and more tables after it.
fn with_loops(keys: &str, more: &str) -> String {
    let text = SO101.replacen(
        "overrun = \"skip\"",
        &format!("overrun = \"skip\"\n{keys}"),
        1,
    );
    format!("{text}\n{more}")
}

const SECOND_LOOP: &str = "[[loop]]\nname = \"fast-loop\"\nperiod_us = 1000\npriority = 85\n\
                           core = 1\noverrun = \"burst\"\nburst_max = 3\nbudget_us = 400\n";

#[test]
fn loops_have_phases_budgets_and_an_overrun_policy_each() {
    let text = with_loops("phase_us = 2000\nbudget_us = 900", SECOND_LOOP);
    let robot = check(&text).unwrap_or_else(|error| panic!("{error}"));
    let (arm, fast) = (&robot.loops[0], &robot.loops[1]);
    assert_eq!((arm.phase_us, arm.budget_us), (2000, 900));
    assert_eq!(fast.overrun, OverrunPolicy::Burst { most: 3 });
    assert_eq!(
        check(SO101).unwrap().loops[0].budget_us,
        1000,
        "a quarter of the period"
    );
    for (name, policy) in [
        ("realign", OverrunPolicy::Realign),
        ("stop", OverrunPolicy::Stop),
    ] {
        let text = SO101.replacen("\"skip\"", &format!("\"{name}\""), 1);
        assert_eq!(check(&text).unwrap().loops[0].overrun, policy);
    }
}

#[test]
fn a_burst_without_a_cap_and_a_cap_without_a_burst_are_refused() {
    let problems = problems_after("overrun = \"skip\"", "overrun = \"burst\"");
    assert!(
        problems[0].contains("`loop.burst_max`: is missing"),
        "{problems:?}"
    );
    let problems = problems_after("overrun = \"skip\"", "overrun = \"skip\"\nburst_max = 2");
    assert!(
        problems[0].contains("belongs to the policy burst"),
        "{problems:?}"
    );
}

#[test]
fn two_loops_over_budget_on_a_core_are_refused_with_the_arithmetic() {
    let more = SECOND_LOOP.replace("budget_us = 400", "budget_us = 700");
    let refused = check(&with_loops("", &more)).expect_err("105 % of a core");
    let text = refused.to_string();
    for part in [
        "core 1 has more to do than there is time",
        "loop \"arm-loop\" 1000 / 4000 us = 25.0 %",
        "loop \"fast-loop\" 700 / 1000 us = 70.0 %",
        "bus \"arm-bus\" 400 / 4000 us = 10.0 %",
        "= 105.0 % together",
        "lower a budget_us",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let apart = more.replace("core = 1", "core = 2");
    assert!(
        check(&with_loops("", &apart)).is_ok(),
        "they have a core each"
    );
}

#[test]
fn a_loop_that_is_preempted_beyond_its_period_is_refused_although_the_core_has_time() {
    // 25 % + 30 % + 10 %: the core has time, but the short period has the lower priority.
    let more = SECOND_LOOP
        .replace("priority = 85", "priority = 75")
        .replace("budget_us = 400", "budget_us = 300");
    let refused = check(&with_loops("", &more)).expect_err("1000 + 300 us do not fit in 1000");
    let text = refused.to_string();
    for part in [
        "loop \"fast-loop\" can miss its period of 1000 us on core 1 (priority 75)",
        "its own 300 us + 1 x 1000 us of loop \"arm-loop\" (priority 80, every 4000 us) come to \
         1300 us",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let ordered = more.replace("priority = 75", "priority = 85");
    assert!(
        check(&with_loops("", &ordered)).is_ok(),
        "the shorter period goes first"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, ..Default::default()
    })]

    /// Against a simulation of the core: what the arithmetic lets pass never misses a period when
    /// all begin at once, which is the worst moment.
    #[test]
    fn loops_that_pass_never_miss_a_period_in_a_simulation(
        periods in proptest::collection::vec((1_u64..12, 1_u64..12, 1_u8..90), 1..5),
    ) {
        let loops: Vec<(u64, u64, u8)> = periods
            .iter()
            .map(|(period, cost, priority)| (period * 1000, cost * 100, *priority))
            .filter(|(period_us, cost_us, _)| cost_us <= period_us)
            .collect();
        let mut text = SO101.replace("core = 1\n", "");
        for (index, (period_us, cost_us, priority)) in loops.iter().enumerate() {
            text.push_str(&format!(
                "[[loop]]\nname = \"l{index}\"\nperiod_us = {period_us}\n\
                 priority = {priority}\ncore = 1\noverrun = \"skip\"\nbudget_us = {cost_us}\n"
            ));
        }
        if check(&text).is_ok() {
            proptest::prop_assert!(none_is_missed(&loops), "{loops:?}");
        }
    }
}

/// Runs loops of (period, cost, priority), highest priority first, in steps of 100 µs from a common
/// start; whether every tick ended before its next one began.
fn none_is_missed(loops: &[(u64, u64, u8)]) -> bool {
    const STEP_US: u64 = 100;
    let mut left_us = vec![0; loops.len()];
    // Two of the longest period is enough: the first tick after a common start is the worst.
    for now_us in (0..24_000).step_by(100) {
        for (left, (period_us, cost_us, _)) in left_us.iter_mut().zip(loops) {
            if now_us % period_us == 0 {
                if *left > 0 {
                    return false;
                }
                *left = *cost_us;
            }
        }
        let waiting = (0..loops.len()).filter(|index| left_us[*index] > 0);
        if let Some(next) = waiting.max_by_key(|index| loops[*index].2) {
            left_us[next] -= STEP_US;
        }
    }
    true
}
