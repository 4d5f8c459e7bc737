//! The flight recorder and replay, with the real daemon and the arm simulator.
//!
//! What is asserted: a recorded session replays bit for bit whatever happened in it, a bit that
//! differs is found and named, kill -9 loses nothing that was recorded, and a disk that does not
//! take what is recorded changes nothing for the robot.

#![allow(
    clippy::unwrap_used,
    reason = "test support: a failed step is a failed test"
)]

#[path = "record/blocks.rs"]
mod blocks;
#[allow(dead_code, reason = "each test program uses its part of the harness")]
mod harness;

use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::sync::atomic::Ordering;

use harness::{Pose, Robot, TTL_MS, eventually, has_arrived, hosted_config};
use kairo_link::abi::{Cause, Phase, Reply, Verdict};
use kairo_link::operator::OperatorRequest;
use kairo_record::file::{FileReader, Frame, Kind, encode_frame, encode_header};
use kairo_record::state::{Source, State};
use kairo_record::tap::entries;
use kairo_rt::recording::{CommandTaken, tag};

const HOME: Pose = [0.0; 6];
const POSE: Pose = [0.6, -0.4, 0.5, -0.3, 0.7, 0.4];
const FAR: Pose = [1.8, -1.6, 1.6, -1.6, 2.7, 1.7];
const NEAR_RAD: f64 = 0.02;

/// The hosted robot, with so much room that a session fits one file on the slowest machine.
fn config() -> String {
    let config = hosted_config();
    assert!(config.contains("size_max_mb = 48"), "it has a recorder");
    config.replace("size_max_mb = 48", "size_max_mb = 1000")
}

/// A directory for records that lives as long as the value. In memory where that can be: a daemon
/// that ends does not wait for a disk as long as that of a busy machine may need.
fn records() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}

fn start(directory: &Path) -> Robot {
    Robot::start_with(&config(), &[("KAIRO_RECORD_DIR", directory)])
}

/// The record files of a directory in order, by name.
fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = found
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

fn frames(path: &Path) -> Vec<Frame> {
    let mut reader = FileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
}

fn replay(path: &Path, more: &[&str]) -> Output {
    let mut process = Process::new(env!("CARGO_BIN_EXE_kairo-rt"));
    process.arg("--replay").arg(path).args(more);
    process.output().unwrap()
}

/// Replays a file that must be the same, and returns what it says of the first loop.
fn replay_same(path: &Path) -> serde_json::Value {
    let output = replay(path, &["--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["same"], true, "{json}");
    json["loops"][0].clone()
}

/// Every value recorded under a tag.
fn recorded<T: State + Default>(frames: &[Frame], wanted: u16) -> Vec<T> {
    let ticks = frames
        .iter()
        .filter(|frame| frame.kind == Kind::Tick as u16);
    let found = ticks.flat_map(|frame| entries(&frame.payload));
    found
        .filter(|(entry, _)| entry.tag == wanted)
        .map(|(_, words)| {
            let mut value = T::default();
            value.load(&mut Source::new(words)).unwrap();
            value
        })
        .collect()
}

/// A session with everything that can happen to an arm.
fn eventful_session(robot: &mut Robot) {
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    let mut outside = lease.command(HOME, TTL_MS);
    outside.target[5] = 2.0;
    assert_eq!(lease.verdict(&outside), Verdict::PositionLimit);
    let mut not_a_number = lease.command(HOME, TTL_MS);
    not_a_number.target[0] = f64::from_bits(0x7FF8_0000_0000_BEEF);
    assert_eq!(lease.verdict(&not_a_number), Verdict::NotFinite);
    let mut late = lease.command(HOME, TTL_MS);
    late.issued_ns -= (TTL_MS + 1) * 1_000_000;
    assert_eq!(lease.verdict(&late), Verdict::Expired);
    // Expiry in motion.
    lease.send(FAR, 100);
    plane.wait_for_phase(Phase::Safe);
    // The cable, in motion.
    lease.send(FAR, 1000);
    robot.arm.ask(r#"{"op":"unplug"}"#);
    assert_eq!(plane.wait_for_lease_end(lease.epoch), "bus_lost");
    robot.arm.ask(r#"{"op":"plug"}"#);
    plane.wait_for_phase(Phase::Holding);
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, HOME, |state| {
        has_arrived(state, &HOME, NEAR_RAD)
    });
    plane.close_lease(&lease, true);
    // An e-stop in motion, and its clear.
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, FAR, |state| state.moving == 1);
    let stopped = robot.operator(&OperatorRequest::Estop);
    assert!(stopped.expect("it answers").done);
    assert_eq!(plane.wait_for_lease_end(lease.epoch), "emergency_stop");
    robot.clear_estop();
    plane.wait_for_phase(Phase::Holding);
    // A holder in motion when the daemon is asked to end.
    let mut lease = plane.open_lease();
    lease.send(FAR, 1000);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(robot.terminate().success());
}

#[test]
fn a_session_with_everything_in_it_replays_bit_for_bit() {
    let directory = records();
    let mut robot = start(directory.path());
    eventful_session(&mut robot);
    let files = files(directory.path(), "0");
    assert_eq!(files.len(), 1, "{files:?}");
    let frames = frames(&files[0]);
    // It is all in there, also what was refused, and the very bits of it.
    let replies: Vec<Reply> = recorded(&frames, tag::REPLY);
    let verdict = |wanted: Verdict| replies.iter().any(|reply| reply.verdict == wanted as u32);
    for wanted in [Verdict::PositionLimit, Verdict::NotFinite, Verdict::Expired] {
        assert!(verdict(wanted), "{wanted}");
    }
    let cause = |wanted: Cause| replies.iter().any(|reply| reply.cause == wanted as u32);
    for wanted in [
        Cause::CommandExpired,
        Cause::BusLost,
        Cause::HolderGone,
        Cause::EmergencyStop,
        Cause::ShuttingDown,
    ] {
        assert!(cause(wanted), "{wanted}");
    }
    let commands: Vec<CommandTaken> = recorded(&frames, tag::COMMAND);
    let bits = |taken: &CommandTaken| taken.command.target[0].to_bits();
    assert!(
        commands
            .iter()
            .any(|taken| bits(taken) == 0x7FF8_0000_0000_BEEF)
    );
    assert_eq!(frames.last().unwrap().kind, Kind::End as u16);

    let outcome = replay_same(&files[0]);
    let ticks = frames
        .iter()
        .filter(|frame| frame.kind == Kind::Tick as u16);
    assert_eq!(outcome["ticks"], ticks.count());
    assert_eq!(outcome["missing"], 0);
    assert!(outcome["keyframes"].as_u64().unwrap() > 0);
    assert_eq!(outcome["span"][0], 1);

    // From the middle it begins at a keyframe, and says so.
    let last = outcome["span"][1].as_u64().unwrap();
    let output = replay(&files[0], &["--json", "--from", &(last - 10).to_string()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["same"], &json["loops"][0]["span"][1]),
        (&true.into(), &last.into())
    );
    assert!(json["loops"][0]["span"][0].as_u64().unwrap() > 1, "{json}");
}

#[test]
fn one_changed_bit_is_found_and_named() {
    let directory = records();
    let mut robot = start(directory.path());
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    assert!(robot.terminate().success());
    let path = files(directory.path(), "0").remove(0);
    let mut all = frames(&path);
    // The setpoint of the third joint in some tick in the middle.
    let middle = all.len() / 2;
    let tick = all[middle..]
        .iter_mut()
        .find(|frame| frame.kind == Kind::Tick as u16);
    let payload = &mut tick.unwrap().payload;
    let (number, mut at) = (payload[1], 0);
    while payload[at] >> 48 != u64::from(tag::GOALS) {
        at += 1 + (payload[at] & 0xFFFF_FFFF) as usize;
    }
    payload[at + 1 + 2 + 2] ^= 1;
    let reader = FileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let mut bytes = encode_header(reader.header()).unwrap();
    for Frame {
        kind,
        loop_index,
        sequence,
        payload,
    } in &all
    {
        encode_frame(&mut bytes, *kind, *loop_index, *sequence, payload);
    }
    let changed = directory.path().join("changed.krec");
    std::fs::write(&changed, bytes).unwrap();
    let output = replay(&changed, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected = format!("first difference: tick {number}: goals of arm: setpoint_rad[2]: ");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn kill_9_keeps_what_was_recorded_even_without_a_disk() {
    let directory = records();
    let records = directory.path().join("records");
    // A file where the directory should be: nothing reaches the disk.
    std::fs::write(&records, "in the way").unwrap();
    let mut robot = start(&records);
    let mut plane = robot.connect_ready();
    let recorder = |plane: &harness::AgentPlane| {
        let recorder = &plane.stats.block().recorder;
        let failing = recorder.failing.load(Ordering::Relaxed);
        (failing, recorder.survives.load(Ordering::Relaxed))
    };
    eventually("the recorder says that it cannot write", || {
        (recorder(&plane) == (1, 1)).then_some(())
    });
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    let seen = plane.state().tick;
    robot.kill();
    let said = robot.log().matches("recorder: cannot write").count();
    assert_eq!(said, 1, "{}", robot.log());

    std::fs::remove_file(&records).unwrap();
    robot.start_daemon(&[("KAIRO_RECORD_DIR", &records)]);
    let path = eventually("the black box is brought to disk", || {
        let found = files(&records, "crash-").pop();
        found.filter(|path| {
            let frames = frames(path);
            frames.iter().any(|frame| frame.kind == Kind::Tick as u16)
        })
    });
    robot.connect_ready();
    let frames = frames(&path);
    let ticks = frames
        .iter()
        .filter(|frame| frame.kind == Kind::Tick as u16);
    let newest = ticks.map(|frame| frame.payload[1]).max().unwrap();
    // The state is published a moment before its tick is recorded.
    assert!(newest + 1 >= seen, "recorded up to {newest}, seen {seen}");
    let commands: Vec<CommandTaken> = recorded(&frames, tag::COMMAND);
    assert!(
        commands
            .iter()
            .any(|taken| taken.command.target[..6] == POSE)
    );
    replay_same(&path);
    assert!(robot.terminate().success());
    assert!(!robot.directory.join("flight.ring").exists());
}

/// Limits the size of the daemon's files from now on: what every disk that fills up does.
fn limit_files(robot: &Robot, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    let pid = robot.pid().as_raw();
    // SAFETY: a plain system call on a structure that lives until it returns.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

#[test]
fn a_disk_that_takes_no_more_changes_nothing_for_the_robot() {
    let directory = records();
    let mut robot = start(directory.path());
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    plane.stream(&mut lease, POSE, |state| {
        has_arrived(state, &POSE, NEAR_RAD)
    });
    // Room for the journal, which is a file too, and less than is recorded already.
    limit_files(&robot, 20_000);
    let stats = plane.stats.clone();
    let recorder = &stats.block().recorder;
    eventually("the recorder says that it cannot write", || {
        (recorder.failing.load(Ordering::Relaxed) == 1).then_some(())
    });
    assert_eq!(recorder.errno.load(Ordering::Relaxed), libc::EFBIG as u64);
    for target in [HOME, POSE] {
        plane.stream(&mut lease, target, |state| {
            has_arrived(state, &target, NEAR_RAD)
        });
    }
    let account = &stats.block().loops[0].periods;
    assert_eq!(account.thread.allocations.load(Ordering::Relaxed), 0);
    assert_eq!(account.identity_broken.load(Ordering::Relaxed), 0);
    limit_files(&robot, libc::RLIM_INFINITY);
    eventually("the recorder writes again", || {
        (recorder.failing.load(Ordering::Relaxed) == 0).then_some(())
    });
    assert!(robot.terminate().success());
    let log = robot.log();
    assert_eq!(log.matches("recorder: cannot write").count(), 1, "{log}");
    assert_eq!(log.matches("recorder: writes again").count(), 1, "{log}");
    for path in files(directory.path(), "0") {
        let output = replay(&path, &["--json"]);
        if String::from_utf8_lossy(&output.stderr).contains("no keyframe") {
            // Cut off at the limit before one came.
            continue;
        }
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            json["loops"][0]["difference"],
            serde_json::Value::Null,
            "{json}"
        );
    }
}
