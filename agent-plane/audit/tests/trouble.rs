//! A writer that is killed at random points, and one whose disk is full: real processes both.
//!
//! The child is this test program itself, started anew with one ignored test and a directory in
//! its environment.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use kairo_audit::{
    AppendError, Body, Entry, Log, Options, Phase, Position, VerifyOptions, read, verify,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

const DIRECTORY: &str = "KAIRO_AUDIT_TEST_DIRECTORY";
const KILLS: u64 = 25;

fn entry(target: String) -> Entry {
    Entry {
        phase: Phase::Attempt,
        act: "device.claim".to_owned(),
        target,
        ..Entry::default()
    }
}

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        retain_bytes: None,
        checkpoint_entries: 5,
        ..Options::default()
    }
}

fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--quiet"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped());
    command
}

fn directory() -> std::path::PathBuf {
    std::env::var_os(DIRECTORY)
        .expect("started by a test")
        .into()
}

#[test]
#[ignore = "the child of the kill test"]
fn child_that_writes_until_it_is_killed() {
    let (log, report) = Log::open(&directory(), options()).unwrap();
    assert_eq!(report.quarantined, None);
    let (sender, acknowledged) = mpsc::channel::<Position>();
    let mut written = 0_u64;
    loop {
        // Several at once, so that groups have more than one entry.
        for _ in 0..3 {
            let sender = sender.clone();
            let target = format!("{}-{written}", std::process::id());
            written += 1;
            log.append(entry(target), move |result| {
                sender.send(result.unwrap()).unwrap();
            });
        }
        for _ in 0..3 {
            let position = acknowledged.recv().unwrap();
            let mut output = std::io::stdout().lock();
            // One write: a line that arrives is whole. The parent may have stopped reading.
            let line = format!("ack {} {}\n", position.number, position.hash);
            let _ = output
                .write_all(line.as_bytes())
                .and_then(|()| output.flush());
        }
    }
}

/// A small generator of numbers, so that a failure can be repeated.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn no_acknowledged_entry_is_lost_by_a_kill_and_the_log_stays_whole() {
    let seed = std::env::var("KAIRO_TEST_SEED").ok();
    let seed = seed.map_or(0x9E37_79B9_7F4A_7C15, |text| text.parse().unwrap());
    println!("KAIRO_TEST_SEED={seed}");
    let mut random = Seeded(seed);
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    for kill in 0..KILLS {
        let mut writer = child("child_that_writes_until_it_is_killed", path)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // After some acknowledgements and then a moment, so that any step can be hit.
        let acks = 1 + random.below(12);
        let pause = std::time::Duration::from_micros(random.below(8000));
        let mut seen = 0;
        let mut take = |line: &str| {
            let Some((number, hash)) = line
                .strip_prefix("ack ")
                .and_then(|ack| ack.split_once(' '))
            else {
                return false;
            };
            acknowledged.push((number.parse().unwrap(), hash.to_owned()));
            true
        };
        while seen < acks {
            let line = lines.next().expect("the child ended by itself").unwrap();
            seen += u64::from(take(&line));
        }
        std::thread::sleep(pause);
        writer.kill().unwrap();
        writer.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            take(&line);
        }
        let report = verify(path, &VerifyOptions::default()).unwrap();
        assert!(report.is_intact(), "kill {kill}: {report:?}");
    }
    let (log, report) = Log::open(path, options()).unwrap();
    assert_eq!(report.quarantined, None);
    drop(log);
    let report = verify(path, &VerifyOptions::default()).unwrap();
    assert!(
        report.is_intact() && report.remarks.is_empty(),
        "{report:?}"
    );
    let records = read(path, 0, usize::MAX).unwrap().records;
    for (number, hash) in &acknowledged {
        let record = &records[usize::try_from(*number).unwrap() - 1];
        assert_eq!(
            (record.number, record.hash.to_string()),
            (*number, hash.clone())
        );
    }
    println!(
        "{KILLS} kills, {} acknowledged entries, all there",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
}

#[test]
#[ignore = "the child of the full disk test"]
fn child_whose_disk_is_full_for_a_while() {
    // A limit on the size of files refuses in the middle of a write, as a full disk does; without
    // the signal that comes with it, the write fails.
    ignore_file_size_signal();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let path = directory();
    let options = Options {
        checkpoint_entries: 3,
        ..Options::default()
    };
    let (log, _) = Log::open(&path, options.clone()).unwrap();
    let mut kept = Vec::new();
    let append = |number: usize| {
        let mut entry = entry(format!("arm-{number}"));
        entry.details = "x".repeat(500);
        log.append_and_wait(entry)
    };
    for number in 0..3 {
        append(number).unwrap();
        kept.push(format!("arm-{number}"));
    }
    for round in 1..=3 {
        let length = path.join("audit-000001.log").metadata().unwrap().len();
        // Room for some hundred bytes: a group is cut in its middle.
        let limit = length + 300 * round;
        setrlimit(Resource::RLIMIT_FSIZE, limit, hard).unwrap();
        for number in 0..5 {
            let refused = append(100 + number).unwrap_err();
            let is_full = matches!(
                refused,
                AppendError::NotWritten {
                    disk_full: true,
                    ..
                }
            );
            assert!(is_full, "{refused:?}");
        }
        assert!(log.status().trouble.is_some());
        // What is refused leaves nothing behind that counts.
        let report = verify(&path, &VerifyOptions::default()).unwrap();
        assert!(report.is_intact(), "{report:?}");
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        for number in 0..3 {
            let number = 10 * usize::try_from(round).unwrap() + number;
            append(number).unwrap();
            kept.push(format!("arm-{number}"));
        }
    }
    assert_eq!(log.status().refused, 15);
    drop(log);
    assert_kept(&path, &kept);
    println!("all is well");
}

/// The log is whole and has these attempts, and a note for each time the disk was full.
fn assert_kept(path: &Path, kept: &[String]) {
    let report = verify(path, &VerifyOptions::default()).unwrap();
    assert!(
        report.is_intact() && report.remarks.is_empty(),
        "{report:?}"
    );
    let records = read(path, 0, usize::MAX).unwrap().records;
    let entries = records
        .into_iter()
        .filter_map(|record| match record.record {
            Body::Entry(entry) => Some(*entry),
            _ => None,
        });
    let entries: Vec<Entry> = entries.collect();
    let attempts = entries.iter().filter(|entry| entry.phase == Phase::Attempt);
    let targets: Vec<String> = attempts.map(|entry| entry.target.clone()).collect();
    assert_eq!(&targets[..], kept);
    let told = entries.iter().filter(|entry| entry.act == "audit.refused");
    assert_eq!(
        told.count(),
        3,
        "each time the disk was full is said afterwards"
    );
}

fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code of ours in a handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
}

#[test]
fn a_full_disk_fails_closed_and_the_log_goes_on_when_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let output = child("child_whose_disk_is_full_for_a_while", place.path()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("all is well"),
        "{output:?}"
    );
}
