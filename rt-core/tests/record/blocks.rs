//! Replay of control blocks: computed again, from arming or from the middle, and compared.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::{HOME, POSE, files, frames, recorded, records, replay, replay_same};
use crate::harness::blocks::{ACROSS, RUNAWAY, backlash, compile, fails_across, moody};
use crate::harness::{Robot, hosted_config};
use kairo_link::abi::{BlockFaultKind, Cause, Verdict};
use kairo_link::block_fault::BlockFaultReport;
use kairo_record::file::{FileReader, Frame, Kind, encode_frame, encode_header};
use kairo_rt::recording::tag;

/// Keyframes are one second apart: a session that has several of them.
const SESSION_TICKS: u64 = 700;

/// A filter that drives a joint, and what starts the runaway above a target of 0.35 rad.
const LIFTED: &str = r#"
[[block]]
name = "smooth"
kind = "low-pass"
loop = "arm-loop"
unit = "rad"
cutoff_hz = 3.0
input.in = "arm.shoulder_pan.target"
output.out = "arm.shoulder_pan.setpoint"

[[block]]
name = "lift"
kind = "compare"
loop = "arm-loop"
unit = "rad"
threshold_rad = 0.35
input.in = "arm.shoulder_pan.target"

[[block]]
name = "begins"
kind = "gain"
loop = "arm-loop"
unit = "flag"
output_unit = "1"
gain = 1.0
input.in = "lift.out"
"#;

/// A planned motion through a filter, and a joint that is corrected by what is measured of it.
const CONTROLLERS: &str = r#"
[[block]]
name = "plan"
kind = "jerk-limit"
loop = "arm-loop"
velocity_max_rad_s = 1.0
acceleration_max_rad_s2 = 3.0
jerk_max_rad_s3 = 30.0
input.in = "arm.shoulder_pan.target"
input.start = "arm.shoulder_pan.position"

[[block]]
name = "smooth"
kind = "low-pass"
loop = "arm-loop"
unit = "rad"
cutoff_hz = 3.0
input.in = "plan.out"

[[block]]
name = "hold"
kind = "pid"
loop = "arm-loop"
unit = "rad"
output_unit = "rad"
gain = 0.2
integral_time_s = 2.0
derivative_time_s = 0.01
output_min_rad = -0.1
output_max_rad = 0.1
input.setpoint = "arm.shoulder_lift.target"
input.measured = "arm.shoulder_lift.position"

[[block]]
name = "lift"
kind = "sum"
loop = "arm-loop"
unit = "rad"
input.in_1 = "arm.shoulder_lift.target"
input.in_2 = "hold.out"
output.out = "arm.shoulder_lift.setpoint"

"#;

fn start(config: &str, directory: &Path) -> Robot {
    Robot::start_with(config, &[("KAIRO_RECORD_DIR", directory)])
}

/// Replays with another robot.toml, and gives what it says.
fn replay_with(file: &Path, config: &str, directory: &Path) -> (Option<i32>, String) {
    let path = directory.join("changed.toml");
    std::fs::write(&path, config).unwrap();
    let output = replay(file, &["--config", &path.to_string_lossy()]);
    let error = String::from_utf8_lossy(&output.stderr);
    let text = format!("{}{error}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), text)
}

/// The file without what came before its second keyframe.
fn cut_off_the_beginning(file: &Path, directory: &Path) -> PathBuf {
    let all = frames(file);
    let is_keyframe = |frame: &&Frame| frame.kind == Kind::Keyframe as u16;
    let second = all.iter().filter(is_keyframe).nth(1);
    let first_kept = second.expect("two keyframes").sequence;
    let reader = FileReader::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut bytes = encode_header(reader.header()).unwrap();
    for frame in all.iter().filter(|frame| frame.sequence >= first_kept) {
        let Frame {
            kind,
            loop_index,
            sequence,
            payload,
        } = frame;
        encode_frame(&mut bytes, *kind, *loop_index, *sequence, payload);
    }
    let path = directory.join("middle.krec");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn blocks_and_plugins_are_computed_again_and_a_changed_setting_is_named() {
    let directory = records();
    let object = compile("examples/backlash.c", &[], directory.path());
    let gear = backlash(&object, "smooth.out");
    let config = format!("{}{CONTROLLERS}{gear}", hosted_config());
    let mut robot = start(&config, directory.path());
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    for target in [POSE, HOME] {
        let until = plane.state().tick + SESSION_TICKS / 2;
        plane.stream(&mut lease, target, |state| state.tick >= until);
    }
    assert!(robot.terminate().success());
    let whole = files(directory.path(), "0").remove(0);
    let middle = cut_off_the_beginning(&whole, directory.path());
    for file in [&whole, &middle] {
        let outcome = replay_same(file);
        assert_eq!(outcome["blocks_computed"], outcome["ticks"], "{outcome}");
        assert!(outcome["keyframes"].as_u64() > Some(0), "{outcome}");
        // Each is found in the block where it is, not in one that it leads to.
        for (from, to, block, port) in [
            ("gain = 0.2\n", "gain = 0.25\n", "\"hold\" (pid)", "out"),
            (
                "cutoff_hz = 3.0",
                "cutoff_hz = 3.1",
                "\"smooth\" (low-pass)",
                "out",
            ),
            (
                "= 0.02\n",
                "= 0.03\n",
                "\"pan-gear\" (gear.backlash)",
                "out",
            ),
            (
                "_rad_s = 1.0",
                "_rad_s = 1.1",
                "\"plan\" (jerk-limit)",
                "out",
            ),
        ] {
            assert_eq!(config.matches(from).count(), 1, "{from}");
            let changed = config.replace(from, to);
            let (status, text) = replay_with(file, &changed, directory.path());
            assert_eq!(status, Some(1), "{text}");
            let expected = format!("block {block}: {port}: recorded ");
            assert!(text.contains("first difference: tick "), "{text}");
            assert!(text.contains(&expected), "{text}");
        }
        let (status, text) = replay_with(file, &config, directory.path());
        assert_eq!(status, Some(0), "the same robot.toml: {text}");
    }
    let other = config.replace("\"gripper\"", "\"hand\"");
    let (status, text) = replay_with(&whole, &other, directory.path());
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("are not those of the record"), "{text}");
}

#[test]
fn a_session_with_blocks_and_one_that_fails_replays_bit_for_bit() {
    let directory = records();
    let config = format!("{}{LIFTED}{RUNAWAY}", hosted_config());
    let mut robot = start(&config, directory.path());
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let low = [0.3, 0.0, 0.0, 0.0, 0.0, 0.0];
    plane.stream(&mut lease, low, |state| {
        (state.joints[0].setpoint_rad - 0.3).abs() < 1e-3
    });
    let high = lease.command([0.5, 0.0, 0.0, 0.0, 0.0, 0.0], 1000);
    assert_eq!(lease.verdict(&high), Verdict::Accepted);
    lease.wait_for_cause(Cause::BlockFault);
    plane.wait_for_rest();
    assert!(robot.terminate().success());
    let file = files(directory.path(), "0").remove(0);
    let faults = recorded::<u64>(&frames(&file), tag::BLOCK_FAULT);
    assert!(faults.iter().any(|word| *word != 0), "it is in the record");
    replay_same(&file);
    // One that does not fail any more is a difference.
    let tamed = config.replace("gain = 1e9", "gain = 1e-9");
    let (status, text) = replay_with(&file, &tamed, directory.path());
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("block \"thousands\" (gain): out: recorded"),
        "{text}"
    );
}

#[test]
fn time_that_ran_out_in_a_plugin_is_replayed_and_a_crash_is_computed_again() {
    for (mood, kind) in [(6, BlockFaultKind::Budget), (3, BlockFaultKind::Signal)] {
        let directory = records();
        let config = format!("{}{}", hosted_config(), moody(directory.path(), mood));
        let mut robot = start(&config, directory.path());
        let mut plane = robot.connect_ready();
        let mut lease = plane.open_lease();
        lease.send([0.5; 6], 1000);
        lease.wait_for_cause(Cause::BlockFault);
        // Until a keyframe after the fault.
        let until = plane.state().tick + 300;
        crate::harness::eventually("ticks after the fault", || {
            (plane.state().tick > until).then_some(())
        });
        assert!(robot.terminate().success());
        let file = files(directory.path(), "0").remove(0);
        let frames = frames(&file);
        let timeouts = recorded::<u64>(&frames, tag::BLOCK_TIMEOUT).len();
        assert_eq!(timeouts, usize::from(kind == BlockFaultKind::Budget));
        let faults = recorded::<u64>(&frames, tag::BLOCK_FAULT);
        let fault = faults.into_iter().find_map(BlockFaultReport::from_word);
        assert_eq!(fault.expect("the fault is recorded").kind, kind);
        let outcome = replay_same(&file);
        assert!(outcome["keyframes"].as_u64() > Some(0), "{outcome}");
        let middle = cut_off_the_beginning(&file, directory.path());
        replay_same(&middle);
    }
}

#[test]
fn a_loop_follows_another_by_a_wire_stops_when_that_stops_and_replays() {
    let directory = records();
    let config = format!("{}{ACROSS}{}", hosted_config(), fails_across());
    let mut robot = start(&config, directory.path());
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let low = [0.3, 0.0, 0.0, 0.0, 0.0, 0.0];
    plane.stream(&mut lease, low, |state| {
        (state.joints[0].setpoint_rad - 0.15).abs() < 1e-9
    });
    // The other loop fails, and gives nothing any more.
    let mut high = low;
    high[0] = 0.4;
    plane.stream(&mut lease, high, |state| {
        state.cause == Cause::BlockFault as u32
    });
    let block_of = |index: usize| {
        let word = &plane.stats.block().loops[index].block_fault;
        let report = BlockFaultReport::from_word(word.load(Ordering::Relaxed));
        let report = report.expect("it has failed");
        let name = plane.welcome.loops[index].blocks[report.block as usize].clone();
        (name, report.kind)
    };
    assert_eq!(block_of(0), ("answer".to_owned(), BlockFaultKind::Stale));
    assert_eq!(block_of(1).1, BlockFaultKind::NotFinite);
    plane.wait_for_rest();
    assert!(robot.terminate().success());
    let file = files(directory.path(), "0").remove(0);
    let output = replay(&file, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["same"], true, "{json}");
    for outcome in json["loops"].as_array().unwrap() {
        assert!(outcome["blocks_computed"].as_u64() > Some(0), "{json}");
    }
    let (status, text) = replay_with(
        &file,
        &config.replace("gain = 0.5", "gain = 0.6"),
        directory.path(),
    );
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("block \"half\" (gain): out: recorded"),
        "{text}"
    );
    // What went to the other loop is an input there: it is as recorded.
    assert!(text.contains("loop arm-loop: "), "{text}");
    assert_eq!(text.matches("first difference").count(), 1, "{text}");
}
