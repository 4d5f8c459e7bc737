//! An audit log that was edited is never taken for another history: judged intact, it reads as it
//! was written. Whatever was done to it, it opens or says why, and takes entries again.

use std::path::PathBuf;
use std::sync::OnceLock;

use kairo_audit::{Entry, HEAD_NAME, Log, Options, Phase, Record, VerifyOptions, Who};
use tempfile::TempDir;

use crate::edits;

/// A log as it was written: what may be edited, what not (the keys), and its records.
struct Original {
    edited: Vec<(PathBuf, Vec<u8>)>,
    untouched: Vec<(PathBuf, Vec<u8>)>,
    records: Vec<Record>,
}

/// Edits the log and reads it.
pub fn run(input: &[u8]) {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    let original = ORIGINAL.get_or_init(write);
    let mut contents: Vec<Vec<u8>> = original.edited.iter().map(|(_, c)| c.clone()).collect();
    if !edits::apply(input, &mut contents) {
        return;
    }
    let directory = directory();
    for (name, content) in &original.untouched {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    for ((name, _), content) in original.edited.iter().zip(&contents) {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    let page = kairo_audit::read(directory.path(), 0, usize::MAX).unwrap();
    let report = kairo_audit::verify_copy(directory.path(), &VerifyOptions::default()).unwrap();
    if report.is_intact() {
        assert_eq!(page.records, original.records, "{:?}", report.remarks);
    }
    if let Ok((log, _)) = Log::open(directory.path(), options()) {
        log.append_and_wait(entry(99)).unwrap();
    }
}

fn write() -> Original {
    let directory = directory();
    let (log, _) = Log::open(directory.path(), options()).unwrap();
    for number in 0..24 {
        log.append_and_wait(entry(number)).unwrap();
    }
    drop(log);
    let mut original = Original {
        edited: Vec::new(),
        untouched: Vec::new(),
        records: kairo_audit::read(directory.path(), 0, usize::MAX)
            .unwrap()
            .records,
    };
    for found in std::fs::read_dir(directory.path()).unwrap() {
        let found = found.unwrap();
        let name = found.file_name().into_string().unwrap();
        let content = std::fs::read(found.path()).unwrap();
        let kept = match name == HEAD_NAME || name.ends_with(".log") {
            true => &mut original.edited,
            false => &mut original.untouched,
        };
        kept.push((name.into(), content));
    }
    original.edited.sort();
    assert!(original.edited.len() > 2, "a head and several segments");
    original
}

fn options() -> Options {
    Options {
        segment_bytes: 4096,
        ..Options::default()
    }
}

fn entry(number: u32) -> Entry {
    Entry {
        phase: Phase::Attempt,
        who: Who {
            class: "agent".into(),
            ..Who::default()
        },
        act: "device.claim".into(),
        target: format!("arm-{number}"),
        ..Entry::default()
    }
}

/// In memory where the machine has such a place: a disk would be most of the time.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}
