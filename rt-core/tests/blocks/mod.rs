//! Control blocks in the whole daemon, against the arm simulator: what they drive moves, within the
//! limits and under a command only; and one that fails stops its own loop and nothing else.

use std::sync::atomic::Ordering;

use crate::harness::blocks::{ACROSS, RUNAWAY, backlash, compile, compile_rust, moody};
use crate::harness::{Pose, Robot, eventually, has_arrived, hosted_config};
use kairo_link::abi::{BlockFaultKind, Cause, Phase, Verdict};
use kairo_link::block_fault::BlockFaultReport;

const HOME: Pose = [0.0; 6];
const NEAR_RAD: f64 = 0.02;
/// The first joint goes to half its target, through a filter; far beyond its limit if asked to.
const HALF: &str = r#"
[[block]]
name = "half"
kind = "gain"
loop = "arm-loop"
unit = "rad"
gain = 0.5
input.in = "arm.shoulder_pan.target"

[[block]]
name = "smooth"
kind = "low-pass"
loop = "arm-loop"
unit = "rad"
cutoff_hz = 20.0
input.in = "half.out"
output.out = "arm.shoulder_pan.setpoint"

[[block]]
name = "thrice"
kind = "gain"
loop = "arm-loop"
unit = "rad"
gain = 3.0
input.in = "arm.gripper.target"
output.out = "arm.gripper.setpoint"
"#;
/// What starts the runaway as soon as a command is followed, and a second loop with a block of its
/// own.
const BEGINS: &str = r#"
[[loop]]
name = "other"
period_us = 4000
priority = 75
overrun = "skip"

[[block]]
name = "steady"
kind = "constant"
loop = "other"
value = 1.0

[[block]]
name = "begins"
kind = "gain"
loop = "arm-loop"
unit = "flag"
output_unit = "1"
gain = 1.0
input.in = "arm.following"
"#;

#[test]
fn blocks_drive_joints_under_a_command_and_within_the_limits() {
    let config = format!("{}{HALF}", hosted_config());
    let robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    // Thrice 1.2 is beyond the gripper's limit of 1.74533.
    let target = [0.8, 0.0, 0.0, 0.0, 0.0, 1.2];
    plane.stream(&mut lease, target, |state| {
        (state.joints[0].setpoint_rad - 0.4).abs() < 1e-3
            && state.joints[5].setpoint_rad == 1.74533
            && state.joints[0].target_rad == 0.8
    });
    // Without a command in force nothing moves, whatever the blocks say.
    plane.wait_for_phase(Phase::Safe);
    let rest = plane.wait_for_rest();
    assert_eq!(rest.cause, Cause::CommandExpired as u32);
    let loops = &plane.stats.block().loops[0];
    assert_eq!(loops.block_fault.load(Ordering::Relaxed), 0);
    let allocations = &loops.periods.thread.allocations;
    assert_eq!(allocations.load(Ordering::Relaxed), 0, "a block allocated");
}

#[test]
fn a_block_that_diverges_takes_its_loop_to_the_safe_action_and_not_the_daemon() {
    let config = format!("{}{BEGINS}{RUNAWAY}", hosted_config());
    let mut robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let command = lease.command([0.5; 6], 1000);
    assert_eq!(lease.verdict(&command), Verdict::Accepted);
    lease.wait_for_cause(Cause::BlockFault);
    let safe = plane.wait_for_phase(Phase::Safe);
    assert_eq!(safe.cause, Cause::BlockFault as u32);
    plane.wait_for_rest();
    eventually("the arm is held", || {
        robot.arm.is_under_torque().then_some(())
    });

    let word = &plane.stats.block().loops[0].block_fault;
    let report = BlockFaultReport::from_word(word.load(Ordering::Relaxed)).expect("a report");
    let name = &plane.welcome.loops[0].blocks[report.block as usize];
    assert!(["grows", "thousands"].contains(&name.as_str()), "{name}");
    assert_eq!(report.kind, BlockFaultKind::NotFinite);
    eventually("the journal names the block", || {
        robot
            .log()
            .contains(&format!("block \"{name}\""))
            .then_some(())
    });

    // The daemon lives, the other loop goes on, and nobody moves this one any more.
    let ticks = &plane.stats.block().loops[1].periods.ticks;
    let before = ticks.load(Ordering::Relaxed);
    eventually("the other loop goes on", || {
        (ticks.load(Ordering::Relaxed) > before + 5).then_some(())
    });
    assert_eq!(
        plane.stats.block().loops[1]
            .block_fault
            .load(Ordering::Relaxed),
        0
    );
    let again = eventually("a lease of the loop that failed", || {
        plane.try_open_lease().ok()
    });
    assert_eq!(
        plane.wait_for_lease_end(again.epoch),
        Cause::BlockFault.name()
    );
    assert!(robot.terminate().success());
}

#[test]
fn a_robot_with_blocks_comes_to_a_pose_like_one_without() {
    let config = format!(
        "{}{}",
        hosted_config(),
        HALF.replace("0.5", "1.0").replace("3.0", "1.0")
    );
    let robot = Robot::start_with(&config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let pose = [0.6, -0.4, 0.5, -0.3, 0.7, 0.4];
    let near = |state: &kairo_link::abi::DeviceState, target: &Pose| {
        let joints = state.joints.iter().zip(target);
        joints
            .take(6)
            .all(|(joint, target)| (joint.position_rad - target).abs() < NEAR_RAD)
    };
    plane.stream(&mut lease, pose, |state| near(state, &pose));
    plane.stream(&mut lease, HOME, |state| {
        near(state, &HOME) || has_arrived(state, &HOME, NEAR_RAD)
    });
}

/// A kind of the program's own that panics when the target passes 0.3 rad.
const PANICS: &str = r#"
[[block]]
name = "quiet"
kind = "deadband"
loop = "arm-loop"
width_rad = 0.001
input.in = "arm.shoulder_pan.target"

[[block]]
name = "careless"
kind = "panics-at"
loop = "arm-loop"
limit_rad = 0.3
input.in = "quiet.out"
output.out = "arm.shoulder_pan.setpoint"
"#;

#[test]
fn a_programs_own_block_works_and_its_panic_stops_its_loop_only() {
    let config = format!("{}{PANICS}", hosted_config());
    let own = env!("CARGO_BIN_EXE_kairo-own-daemon");
    let mut robot = Robot::start_program(own, &config, &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let small = [0.2, 0.0, 0.0, 0.0, 0.0, 0.0];
    plane.stream(&mut lease, small, |state| {
        state.joints[0].setpoint_rad == 0.2
    });
    let contained = plane
        .welcome
        .bringup
        .iter()
        .find(|line| line.check == "block_panics");
    assert!(
        contained.is_some_and(|line| line.ok && line.required),
        "{contained:?}"
    );
    let large = lease.command([0.4, 0.0, 0.0, 0.0, 0.0, 0.0], 1000);
    assert_eq!(lease.verdict(&large), Verdict::Accepted);
    lease.wait_for_cause(Cause::BlockFault);
    plane.wait_for_rest();
    let word = &plane.stats.block().loops[0].block_fault;
    let report = BlockFaultReport::from_word(word.load(Ordering::Relaxed)).expect("a report");
    assert_eq!((report.block, report.kind), (1, BlockFaultKind::Panicked));
    eventually("the journal names the block", || {
        let said = "block \"careless\" of kind \"panics-at\" panicked";
        robot.log().contains(said).then_some(())
    });
    assert!(robot.terminate().success());
}

/// What `--check` or `--dot` prints of a configuration.
fn printed(argument: &str, config: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("robot.toml");
    std::fs::write(&file, config).expect("written");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kairo-rt"))
        .arg("--config")
        .arg(&file)
        .arg(argument)
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn check_prints_the_schedule_in_the_order_it_runs() {
    let config = format!("{}{BEGINS}{RUNAWAY}", hosted_config());
    let text = printed("--check", &config);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(": block "))
        .collect();
    let expected = [
        "loop arm-loop: block 1: begins (gain) [in = arm.following] ",
        "loop arm-loop: block 2: thousands (gain) [in = before.out] ",
        "loop arm-loop: block 3: grows (sum) [in_1 = begins.out, in_2 = thousands.out] ",
        "loop arm-loop: block 4: before (delay) [in = grows.out] ",
        "loop other: block 1: steady (constant) [] ",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn check_and_dot_say_which_wires_cross_loops_and_which_close_a_circle() {
    let config = format!("{}{ACROSS}", hosted_config());
    let text = printed("--check", &config);
    let there = "wire ask.out of loop arm-loop to half of loop slow: the newest value, up to 4000 \
                 us behind and at most 10000 ms old\n";
    assert!(text.contains(there), "{text}");
    let dot = printed("--dot", &config);
    let dashed = "\"ask\" -> \"half\" [label=\"in (at most 10000 ms old)\" style=\"dashed\"];";
    assert!(dot.contains(dashed), "{dot}");
    let circle = config.replace("\"arm.shoulder_pan.target\"", "\"half.out\"");
    let circle = circle.replacen("gain = 1.0\n", "gain = 1.0\nmax_age_ms = 50\n", 1);
    let text = printed("--check", &circle);
    let closed = "at most 50 ms old, in a circle that only this delay keeps apart\n";
    assert!(text.contains(closed), "{text}");
}

#[test]
fn dot_draws_every_block_and_wire() {
    let text = printed("--dot", &format!("{}{HALF}", hosted_config()));
    assert!(text.starts_with("digraph blocks {"), "{text}");
    assert!(
        text.contains("\"half\" -> \"smooth\" [label=\"in\"];"),
        "{text}"
    );
    assert!(
        text.contains("\"smooth\" -> \"arm.shoulder_pan.setpoint\";"),
        "{text}"
    );
}

#[test]
fn a_plugin_in_c_drives_a_joint() {
    let directory = tempfile::tempdir().expect("a directory");
    let object = compile("examples/backlash.c", &[], directory.path());
    let blocks = backlash(&object, "arm.shoulder_pan.target");
    let robot = Robot::start_with(&format!("{}{blocks}", hosted_config()), &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let mut target = [0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
    plane.stream(&mut lease, target, |state| {
        state.joints[0].setpoint_rad == 0.5
    });
    target[0] = 0.3;
    plane.stream(&mut lease, target, |state| {
        (state.joints[0].setpoint_rad - 0.29).abs() < 1e-9
    });
    let loops = &plane.stats.block().loops[0];
    assert_eq!(loops.block_fault.load(Ordering::Relaxed), 0);
}

#[test]
fn a_plugin_in_rust_drives_a_joint() {
    let directory = tempfile::tempdir().expect("a directory");
    let blocks = format!(
        "[[plugin]]\nname = \"quiet\"\npath = \"{}\"\nbudget_us = 50000\n\
         [[block]]\nname = \"pan-quiet\"\nkind = \"quiet.deadband\"\nloop = \"arm-loop\"\n\
         width_rad = 0.05\ninput.in = \"arm.shoulder_pan.target\"\n\
         output.out = \"arm.shoulder_pan.setpoint\"\n",
        compile_rust(directory.path()).display()
    );
    let robot = Robot::start_with(&format!("{}{blocks}", hosted_config()), &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let mut target = [0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
    plane.stream(&mut lease, target, |state| {
        state.joints[0].setpoint_rad == 0.5
    });
    // Too little to be followed, while another joint shows that the command is in force.
    (target[0], target[1]) = (0.53, 0.2);
    plane.stream(&mut lease, target, |state| {
        state.joints[1].setpoint_rad == 0.2
    });
    assert_eq!(plane.state().joints[0].setpoint_rad, 0.5);
    target[0] = 0.6;
    plane.stream(&mut lease, target, |state| {
        state.joints[0].setpoint_rad == 0.6
    });
    let loops = &plane.stats.block().loops[0];
    assert_eq!(loops.block_fault.load(Ordering::Relaxed), 0);
}

/// Runs the plug-in of the plug-ins' own tests in the daemon until its mood makes it fail.
fn failure_of(mood: u32) -> BlockFaultReport {
    let directory = tempfile::tempdir().expect("a directory");
    let blocks = moody(directory.path(), mood);
    let mut robot = Robot::start_with(&format!("{}{blocks}", hosted_config()), &[]);
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let command = lease.command([0.5; 6], 1000);
    assert_eq!(lease.verdict(&command), Verdict::Accepted);
    lease.wait_for_cause(Cause::BlockFault);
    plane.wait_for_rest();
    eventually("the arm is held", || {
        robot.arm.is_under_torque().then_some(())
    });
    assert!(robot.terminate().success(), "the daemon ends in order");
    let word = &plane.stats.block().loops[0].block_fault;
    BlockFaultReport::from_word(word.load(Ordering::Relaxed)).expect("a report")
}

#[test]
fn a_plugin_that_crashes_or_never_returns_stops_its_loop_and_not_the_daemon() {
    let crashed = failure_of(3);
    assert_eq!((crashed.block, crashed.kind), (1, BlockFaultKind::Signal));
    let looped = failure_of(6);
    assert_eq!((looped.block, looped.kind), (1, BlockFaultKind::Budget));
}
