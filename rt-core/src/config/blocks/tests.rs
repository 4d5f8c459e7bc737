//! What `[[block]]` accepts, and what it says about what it does not.

use std::path::Path;

use kairo_blocks::graph::Wire;

use super::{Crossing, Drive, Read, Signal, closes_circle};
use crate::config::{ConfigError, RobotConfig, parse};

const SO101: &str = include_str!("../../../../board/robots/so101.toml");
/// A filter on the target of the first joint.
const FILTER: &str = r#"
[[block]]
name = "pan-filter"
kind = "low-pass"
loop = "arm-loop"
unit = "rad"
cutoff_hz = 5.0
input.in = "arm.shoulder_pan.target"
output.out = "arm.shoulder_pan.setpoint"
"#;
/// A circle: what the sum gives goes through a gain back into the sum.
const CIRCLE: &str = r#"
[[block]]
name = "total"
kind = "sum"
loop = "arm-loop"
input.in_1 = 1.0
input.in_2 = "half.out"

[[block]]
name = "half"
kind = "gain"
loop = "arm-loop"
gain = 0.5
input.in = "total.out"
"#;

fn check(blocks: &str) -> Result<RobotConfig, ConfigError> {
    let text = format!("{SO101}{blocks}");
    parse(Path::new("robot.toml"), &text)
}

/// The only problem of the SO-101 file with `blocks` at its end, as printed.
fn problem(blocks: &str) -> String {
    let refused = check(blocks).expect_err("the blocks are wrong");
    let texts: Vec<String> = refused
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts.len(), 1, "{texts:#?}");
    texts[0].clone()
}

/// The only problem after replacing `from` by `to` in the filter.
fn changed(from: &str, to: &str) -> String {
    assert!(FILTER.contains(from));
    problem(&FILTER.replacen(from, to, 1))
}

#[test]
fn a_filter_between_target_and_setpoint_is_wired_by_index() {
    let robot = check(FILTER).unwrap_or_else(|error| panic!("{error}"));
    let inside = &robot.blocks[0];
    assert_eq!(
        inside.reads,
        [Read::Joint {
            device: 0,
            joint: 0,
            signal: Signal::Target
        }]
    );
    assert_eq!(inside.graph.nodes[0].wires, [Wire::External(0)]);
    assert_eq!(
        inside.drives,
        [Drive {
            node: 0,
            port: 0,
            device: 0,
            joint: 0
        }]
    );
    assert_eq!(inside.order, [0]);
}

#[test]
fn a_robot_without_blocks_has_none() {
    let robot = check("").unwrap_or_else(|error| panic!("{error}"));
    assert!(robot.blocks[0].graph.nodes.is_empty());
}

/// What is replaced in the filter, by what, where that is reported, and the remedy.
const MISTAKES: [[&str; 4]; 9] = [
    [
        "\"low-pass\"",
        "\"low-pas\"",
        "`block.kind`",
        "did you mean \"low-pass\"?",
    ],
    [
        "cutoff_hz",
        "cutof_hz",
        "`block.cutof_hz`",
        "did you mean `cutoff_hz`?",
    ],
    [
        "\"rad\"",
        "\"raad\"",
        "`block.unit`",
        "did you mean \"rad\"?",
    ],
    [
        "arm-loop",
        "arm-lop",
        "`block.loop`",
        "did you mean \"arm-loop\"?",
    ],
    [
        "pan.target",
        "pan.targte",
        "`block.input.in`",
        "did you mean \"target\"?",
    ],
    [
        "r_pan.target",
        "r_pam.target",
        "`block.input.in`",
        "did you mean \"shoulder_pan\"?",
    ],
    [
        "\"arm.shoulder_pan.target\"",
        "\"amr.x.y\"",
        "`block.input.in`",
        "did you mean \"arm\"?",
    ],
    [
        "pan.setpoint",
        "pan.position",
        "`block.output.out`",
        "setpoints are what blocks can",
    ],
    [
        "output.out",
        "output.ou",
        "`block.output.ou`",
        "did you mean `out`?",
    ],
];

#[test]
fn an_unknown_name_is_refused_with_the_nearest_one() {
    for [from, to, place, fix] in MISTAKES {
        let refused = check(&FILTER.replacen(from, to, 1)).expect_err("it is wrong");
        // A key that is misspelt is missing, too.
        let expected = if from == "cutoff_hz" { 2 } else { 1 };
        assert_eq!(refused.diagnostics.len(), expected, "{refused}");
        let text = refused.to_string();
        assert!(
            text.contains(place) && text.contains(fix),
            "{from} -> {to}: {text}"
        );
    }
}

#[test]
fn a_mistake_is_reported_with_its_line() {
    let text = changed("5.0", "500.0");
    let line = format!("{SO101}{FILTER}")
        .lines()
        .position(|line| line == "cutoff_hz = 5.0");
    let line = line.expect("it is there") + 1;
    assert!(
        text.starts_with(&format!("robot.toml:{line}:13: `block.cutoff_hz`")),
        "{text}"
    );
    assert!(
        text.contains("500 is out of range") && text.contains("112.5"),
        "{text}"
    );
}

#[test]
fn an_input_without_a_wire_is_refused_with_its_unit() {
    let text = changed("input.in = \"arm.shoulder_pan.target\"\n", "");
    assert!(
        text.contains("input in of block \"pan-filter\" has no wire"),
        "{text}"
    );
    assert!(
        text.contains("add `input.in = \"SOURCE\"`, in rad"),
        "{text}"
    );
}

#[test]
fn units_must_agree() {
    let text = changed("pan.target", "pan.velocity");
    assert!(text.contains("is in rad/s, the port in rad;"), "{text}");
    let load = FILTER
        .replace("\"rad\"", "\"1\"")
        .replace("pan.target", "pan.load");
    let text = problem(&load);
    assert!(
        text.contains("the port is in 1, a setpoint in rad"),
        "{text}"
    );
}

#[test]
fn a_joint_is_driven_by_one_block() {
    let second = FILTER.replace("pan-filter", "other");
    let text = problem(&format!("{FILTER}{second}"));
    assert!(
        text.contains("is driven by block \"pan-filter\" already"),
        "{text}"
    );
}

#[test]
fn names_are_unique_among_blocks_and_devices() {
    let text = changed("\"pan-filter\"", "\"arm\"");
    assert!(text.contains("\"arm\" is the name of a device"), "{text}");
    let again = FILTER.replace("output.out = \"arm.shoulder_pan.setpoint\"\n", "");
    let text = problem(&format!("{FILTER}{again}"));
    assert!(text.contains("\"pan-filter\" is used twice"), "{text}");
}

#[test]
fn a_circle_is_refused_by_name_and_a_delay_breaks_it() {
    let text = problem(CIRCLE);
    assert!(
        text.contains("-> half ->") || text.contains("-> total ->"),
        "{text}"
    );
    assert!(text.contains("a block of kind \"delay\""), "{text}");
    let delayed = CIRCLE.replace("\"half.out\"", "\"before.out\"");
    let delay = "[[block]]\nname = \"before\"\nkind = \"delay\"\nloop = \"arm-loop\"\n\
                 input.in = \"half.out\"\n";
    let robot = check(&format!("{delayed}{delay}")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(robot.blocks[0].order, [0, 1, 2], "the delay comes last");
}

/// A slower loop that halves what the first one has filtered and gives it back.
const THERE_AND_BACK: &str = r#"
[[loop]]
name = "slow"
period_us = 20000
priority = 79
overrun = "skip"

[[block]]
name = "ask"
kind = "sum"
loop = "arm-loop"
unit = "rad"
max_age_ms = 100
input.in_1 = "arm.shoulder_pan.target"
input.in_2 = "half.out"

[[block]]
name = "half"
kind = "gain"
loop = "slow"
unit = "rad"
gain = 0.5
max_age_ms = 50
input.in = "ask.out"
"#;

#[test]
fn a_wire_between_loops_carries_the_newest_value_and_its_greatest_age() {
    let robot = check(THERE_AND_BACK).unwrap_or_else(|error| panic!("{error}"));
    let back = Crossing {
        from_loop: 1,
        from_node: 0,
        from_port: 0,
        node: 0,
        age_max_ms: 100,
    };
    assert_eq!(robot.blocks[0].reads[1], Read::Crossing(back));
    assert!(closes_circle(&robot.blocks, 0, &back));
    let once = THERE_AND_BACK.replace("input.in_2 = \"half.out\"", "input.in_2 = 0.0");
    let once = once.replace("max_age_ms = 100\n", "");
    let robot = check(&once).unwrap_or_else(|error| panic!("{error}"));
    let [Read::Crossing(there)] = robot.blocks[1].reads[..] else {
        panic!("{:?}", robot.blocks[1].reads);
    };
    assert_eq!((there.from_loop, there.age_max_ms), (0, 50));
    assert!(!closes_circle(&robot.blocks, 1, &there));
}

#[test]
fn a_wire_between_loops_without_a_good_age_or_unit_is_refused() {
    let with = |from: &str, to: &str| {
        assert_eq!(THERE_AND_BACK.matches(from).count(), 1, "{from}");
        problem(&THERE_AND_BACK.replace(from, to))
    };
    let text = with("max_age_ms = 50\n", "");
    assert!(
        text.contains("\"ask.out\" comes from loop \"arm-loop\""),
        "{text}"
    );
    let text = with("max_age_ms = 100", "max_age_ms = 39");
    let arithmetic = "39 ms are less than two periods of loop \"slow\": 2 * 20000 us";
    assert!(text.contains(arithmetic), "{text}");
    let text = with("max_age_ms = 50", "max_age_ms = 2.5");
    assert!(text.contains("no whole number from 1 to 10000"), "{text}");
    let text = with("gain = 0.5\n", "gain = 0.5\noutput_unit = \"m\"\n");
    assert!(
        text.contains("\"half.out\" is in m, the port in rad"),
        "{text}"
    );
    let text = with("input.in_2 = \"half.out\"", "input.in_2 = 0.0");
    assert!(
        text.contains("no input of this block comes from another loop"),
        "{text}"
    );
}

#[test]
fn a_signal_of_another_loops_device_is_read_by_a_block_of_that_loop() {
    let text = problem(&THERE_AND_BACK.replace("\"ask.out\"", "\"arm.shoulder_pan.target\""));
    assert!(text.contains("belongs to loop \"arm-loop\""), "{text}");
    assert!(text.contains("read it in a block of that loop"), "{text}");
}

#[test]
fn every_problem_of_all_blocks_is_reported_at_once() {
    let text = format!(
        "{}{}",
        FILTER.replace("5.0", "-5.0"),
        CIRCLE.replace("0.5", "\"x\"")
    );
    let refused = check(&text).expect_err("both are wrong");
    assert!(refused.diagnostics.len() >= 2, "{refused}");
}

/// The pages for people.
const REFERENCE: &str = include_str!("../../../../docs/reference/blocks.md");
const IN_RUST: &str = include_str!("../../../../docs/do/add-a-block-in-rust.md");
const IN_C: &str = include_str!("../../../../docs/do/add-a-block-in-c.md");

#[test]
fn every_example_of_the_reference_is_a_good_configuration() {
    let mut examples = REFERENCE.split("```toml\n").skip(1);
    let mut count = 0;
    for example in examples.by_ref() {
        let example = example.split("```").next().unwrap_or_default();
        let robot = check(&format!("\n{example}")).unwrap_or_else(|error| panic!("{error}"));
        assert!(!robot.blocks[0].drives.is_empty(), "{example}");
        count += 1;
    }
    assert_eq!(count, 3);
}

#[test]
fn the_pages_show_the_examples_that_tests_run() {
    let rust = include_str!("../../../examples/own_daemon.rs");
    assert!(
        IN_RUST.contains(rust.trim_end()),
        "copy rt-core/examples/own_daemon.rs"
    );
    let c = include_str!("../../../examples/backlash.c");
    assert!(
        IN_C.contains(c.trim_end()),
        "copy rt-core/examples/backlash.c"
    );
}

#[test]
fn every_kind_of_the_library_has_a_row_in_the_reference() {
    for kind in kairo_blocks::registry::Registry::standard().names() {
        assert!(REFERENCE.contains(&format!("| `{kind}` |")), "{kind}");
    }
}
