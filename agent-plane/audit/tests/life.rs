//! The life of a log: opened, filled, rotated, retired, cut short, damaged, opened again.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use kairo_audit::{
    AppendError, Body, Entry, FindingKind, Log, OpenError, Options, Phase, Remark, Report,
    VerifyOptions, Who, newest_checkpoint, read, verify,
};

fn entry(number: usize) -> Entry {
    Entry {
        phase: Phase::Attempt,
        who: Who {
            class: "agent".to_owned(),
            ..Who::default()
        },
        act: "device.claim".to_owned(),
        target: format!("arm-{number}"),
        ..Entry::default()
    }
}

fn small_segments() -> Options {
    Options {
        segment_bytes: 4096,
        retain_bytes: Some(12_000),
        ..Options::default()
    }
}

fn append(path: &Path, options: Options, numbers: std::ops::Range<usize>) {
    let (log, _) = Log::open(path, options).unwrap();
    for number in numbers {
        log.append_and_wait(entry(number)).unwrap();
    }
}

fn judged(path: &Path) -> Report {
    verify(path, &VerifyOptions::default()).unwrap()
}

fn assert_intact(path: &Path) -> Report {
    let report = judged(path);
    assert!(report.is_intact(), "{:?}", report.findings);
    report
}

fn targets(path: &Path) -> Vec<String> {
    let page = read(path, 0, usize::MAX).unwrap();
    let targets = page.records.into_iter().map(|record| record.record);
    let targets = targets.filter_map(|body| match body {
        Body::Entry(entry) if entry.phase == Phase::Attempt => Some(entry.target),
        _ => None,
    });
    targets.collect()
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(path).unwrap();
    let mut names: Vec<PathBuf> = names.map(|name| name.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    names.sort();
    names
}

#[test]
fn what_was_acknowledged_is_read_back_across_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    append(path, Options::default(), 0..3);
    append(path, Options::default(), 3..5);
    assert_eq!(targets(path), ["arm-0", "arm-1", "arm-2", "arm-3", "arm-4"]);
    let report = assert_intact(path);
    assert!(report.remarks.is_empty(), "{report:?}");
    let page = read(path, report.records - 2, 1).unwrap();
    assert_eq!((page.records.len(), page.has_more), (1, true));
}

#[test]
fn the_key_is_the_owners_alone_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    append(path, Options::default(), 0..1);
    let key = path.join("audit.key");
    let mode = || key.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let before = newest_checkpoint(path).unwrap().1;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = |finding: &FindingKind| matches!(finding, FindingKind::KeyExposed { .. });
    assert!(
        judged(path)
            .findings
            .iter()
            .any(|finding| exposed(&finding.kind))
    );
    std::fs::remove_file(path.join("audit.pub")).unwrap();
    let (log, report) = Log::open(path, Options::default()).unwrap();
    assert_eq!(report.mended.len(), 2, "{report:?}");
    assert!(log.public_key() == before);
    drop(log);
    assert_eq!(mode(), 0o600);
    assert_intact(path);
}

#[test]
fn old_segments_retire_and_the_rest_still_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    append(path, small_segments(), 0..60);
    let kept = segments(path);
    assert!(!kept[0].ends_with("audit-000001.log"), "{kept:?}");
    let bytes: u64 = kept.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < 20_000, "{bytes}");
    let report = assert_intact(path);
    assert!(
        report.first.unwrap() > 1 && report.segments > 1,
        "{report:?}"
    );
    append(path, small_segments(), 60..120);
    assert_intact(path);
    let kept = targets(path);
    assert_eq!(kept.last().unwrap(), "arm-119");
    // Reading on from any number finds the segment that it lies in.
    let report = assert_intact(path);
    for after in 0..report.last.unwrap().0 {
        let page = read(path, after, 1).unwrap();
        let wanted = (after + 1).max(report.first.unwrap());
        assert_eq!(page.records[0].number, wanted);
    }
    // A segment that goes without being retired is missed.
    std::fs::remove_file(&segments(path)[0]).unwrap();
    let missing = |finding: &FindingKind| matches!(finding, FindingKind::SegmentMissing { .. });
    assert!(
        judged(path)
            .findings
            .iter()
            .any(|finding| missing(&finding.kind))
    );
}

#[test]
fn an_unfinished_end_is_cut_off_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // A copy while the log is open is what a kill leaves.
    let options = Options {
        checkpoint_after: Duration::from_secs(3600),
        ..Options::default()
    };
    let (log, _) = Log::open(path, options).unwrap();
    log.append_and_wait(entry(0)).unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy_settled(&log, path, killed.path());
    drop(log);
    let path = killed.path();
    let segment = path.join("audit-000001.log");
    let mut file = OpenOptions::new().append(true).open(&segment).unwrap();
    // Longer than what the next start writes over it.
    let unfinished = format!("{{\"number\":99,\"time\":\"{}", "x".repeat(9979));
    file.write_all(unfinished.as_bytes()).unwrap();
    drop(file);
    let report = assert_intact(path);
    assert!(
        matches!(report.remarks[..], [Remark::TornTail { bytes: 10_000, .. }]),
        "{report:?}"
    );
    let (log, report) = Log::open(path, Options::default()).unwrap();
    assert_eq!(
        (report.cut_bytes, &report.quarantined),
        (unfinished.len() as u64, &None)
    );
    log.append_and_wait(entry(1)).unwrap();
    drop(log);
    assert!(assert_intact(path).remarks.is_empty());
    assert_eq!(targets(path), ["arm-0", "arm-1"]);
    let text = std::fs::read_to_string(segment).unwrap();
    assert!(
        text.contains("\"audit.cut\"") && text.contains("10000 bytes"),
        "{text}"
    );
}

fn copy_settled(log: &Log, from: &Path, to: &Path) {
    let started = std::time::Instant::now();
    while newest_checkpoint(from).unwrap().0.number != log.status().last.unwrap().number {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    for name in ["audit-000001.log", "audit.head", "audit.key", "audit.pub"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_broken_chain_is_kept_aside_and_named_by_the_next() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 6] = [
        ("edited", |path| {
            let segment = path.join("audit-000001.log");
            let mut bytes = std::fs::read(&segment).unwrap();
            bytes[40] ^= 1;
            std::fs::write(segment, bytes).unwrap();
        }),
        ("truncated", |path| {
            let segment = OpenOptions::new()
                .write(true)
                .open(path.join("audit-000001.log"));
            segment.unwrap().set_len(1500).unwrap();
        }),
        ("no head", |path| {
            std::fs::remove_file(path.join("audit.head")).unwrap()
        }),
        ("no log", |path| {
            std::fs::remove_file(path.join("audit-000001.log")).unwrap()
        }),
        ("no key", |path| {
            std::fs::remove_file(path.join("audit.key")).unwrap()
        }),
        ("a key", |path| {
            std::fs::write(path.join("audit.key"), b"{}\n").unwrap()
        }),
    ];
    for (what, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        append(path, Options::default(), 0..3);
        damage(path);
        assert!(!judged(path).is_intact(), "{what}");
        let (log, report) = Log::open(path, Options::default()).unwrap();
        let quarantined = report.quarantined.expect(what);
        assert_eq!(quarantined.directory, "broken-000001", "{what}");
        assert_eq!(quarantined.is_key_new, what.ends_with("key"), "{what}");
        log.append_and_wait(entry(7)).unwrap();
        drop(log);
        assert_eq!(targets(path), ["arm-7"]);
        let first = read(path, 0, 1).unwrap().records.remove(0);
        let Body::Begin(begin) = first.record else {
            panic!("{first:?}");
        };
        assert_eq!(begin.broken.len(), 1, "{what}");
        assert_eq!(begin.broken[0].directory, "broken-000001");
        // It stays a finding, and the only one, until an operator verifies from a later anchor.
        let report = judged(path);
        assert_eq!(report.findings.len(), 1, "{what}: {report:?}");
        let since = Some(newest_checkpoint(path).unwrap().0.anchor());
        let options = VerifyOptions {
            since,
            ..VerifyOptions::default()
        };
        assert!(verify(path, &options).unwrap().is_intact(), "{what}");
        append(path, Options::default(), 8..9);
        assert_eq!(
            targets(path),
            ["arm-7", "arm-8"],
            "the new chain is not broken: {what}"
        );
    }
}

#[test]
fn two_writers_at_once_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_log, _) = Log::open(directory.path(), Options::default()).unwrap();
    let second = Log::open(directory.path(), Options::default());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
}

#[test]
fn a_lock_that_a_dying_process_still_holds_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), Options::default(), 0..1);
    let lock = std::fs::File::open(directory.path().join("audit.lock")).unwrap();
    lock.lock().unwrap();
    let (sender, opening) = mpsc::channel();
    let path = directory.path().to_owned();
    let opener = std::thread::spawn(move || {
        sender.send(()).unwrap();
        Log::open(&path, Options::default()).map(drop)
    });
    opening.recv().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(lock);
    opener.join().unwrap().unwrap();
}

#[test]
fn a_full_queue_refuses_at_once_and_every_callback_is_called_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        queue_entries_max: 4,
        ..Options::default()
    };
    let (log, _) = Log::open(directory.path(), options).unwrap();
    // The first callback holds the writer, so the queue fills behind it.
    let (release, held) = mpsc::channel::<()>();
    let (reached, is_held) = mpsc::channel();
    log.append(entry(0), move |result| {
        result.unwrap();
        reached.send(()).unwrap();
        held.recv().unwrap();
    });
    is_held.recv().unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(Mutex::new(Vec::new()));
    for number in 0..10 {
        let called = Arc::clone(&called);
        let refused = Arc::clone(&refused);
        log.append(entry(number), move |result| {
            called.fetch_add(1, Ordering::SeqCst);
            if let Err(error) = result {
                refused.lock().unwrap().push(error);
            }
        });
    }
    assert_eq!(
        *refused.lock().unwrap(),
        vec![AppendError::QueueFull { waiting: 4 }; 6]
    );
    release.send(()).unwrap();
    drop(log);
    assert_eq!(called.load(Ordering::SeqCst), 10);
    assert_eq!(targets(directory.path()).len(), 5);
    assert_intact(directory.path());
}

#[test]
fn secrets_never_reach_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        redactor: Some(Arc::new(|text| {
            text.contains("hunter2")
                .then(|| text.replace("hunter2", "[secret]"))
        })),
        ..Options::default()
    };
    let (log, _) = Log::open(directory.path(), options).unwrap();
    let mut told = entry(0);
    told.details = "password=hunter2".to_owned();
    told.why.reason = "hunter2 said so".to_owned();
    log.append_and_wait(told).unwrap();
    drop(log);
    let text = std::fs::read_to_string(directory.path().join("audit-000001.log")).unwrap();
    assert!(
        !text.contains("hunter2") && text.contains("password=[secret]"),
        "{text}"
    );
    assert_intact(directory.path());
}

#[test]
fn a_checkpoint_follows_the_last_entry_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_after: Duration::from_millis(1),
        ..Options::default()
    };
    let (log, _) = Log::open(directory.path(), options).unwrap();
    let entry = log.append_and_wait(entry(0)).unwrap();
    let started = std::time::Instant::now();
    while log.status().last.unwrap().number == entry.number {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    let page = read(directory.path(), entry.number, 1).unwrap();
    let text = serde_json::to_string(&page.records[0]).unwrap();
    assert!(text.contains("\"cause\":\"time\""), "{text}");
}

#[test]
fn a_log_that_is_being_written_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (log, _) = Log::open(&path, small_segments()).unwrap();
    let writer = std::thread::spawn(move || {
        for number in 0..150 {
            log.append_and_wait(entry(number)).unwrap();
        }
    });
    let mut looks = 0;
    while !writer.is_finished() || looks == 0 {
        assert_intact(&path);
        looks += 1;
    }
    writer.join().unwrap();
    assert_intact(&path);
}
