//! The claim, tried out: whatever is done to the files of a small log, verification finds it.
//!
//! The log is a real one, written to a directory; the damage is done to its bytes in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::entry::{Entry, Outcome, Phase, Who, Why};
use crate::finding::Place;
use crate::log::{Log, Options};
use crate::record::Record;

/// Files in memory.
#[derive(Clone, Debug, Default)]
struct InMemory(BTreeMap<String, Vec<u8>>);

impl Files for InMemory {
    fn names(&self, below: &str) -> std::io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for path in self.0.keys() {
            let inside = match below {
                "" => Some(path.as_str()),
                below => path
                    .strip_prefix(below)
                    .and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(inside) = inside else { continue };
            let (name, kind) = match inside.split_once('/') {
                Some((directory, _)) => (directory, Kind::Directory),
                None => (inside, Kind::File),
            };
            let name = name.to_owned();
            names.push(Name { name, kind });
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(name).cloned())
    }

    fn mode(&self, _name: &str) -> std::io::Result<u32> {
        Ok(KEY_MODE)
    }
}

impl InMemory {
    fn of(path: &Path) -> Self {
        let files = Directory(path.to_owned());
        let mut found = BTreeMap::new();
        let mut add = |below: &str| {
            let mut directories = Vec::new();
            for Name { name, kind } in files.names(below).unwrap() {
                let path = match below {
                    "" => name,
                    below => format!("{below}/{name}"),
                };
                match kind {
                    Kind::Directory => directories.push(path),
                    _ => {
                        found.insert(path.clone(), files.read(&path).unwrap().unwrap());
                    }
                }
            }
            directories
        };
        for directory in add("") {
            add(&directory);
        }
        Self(found)
    }

    fn report(&self) -> Report {
        looked(self, &VerifyOptions::default())
    }

    fn lines(&self, segment: u32) -> Vec<Vec<u8>> {
        let bytes = &self.0[&segment_name(segment)];
        bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }

    fn with(&self, name: &str, bytes: Vec<u8>) -> Self {
        let mut other = self.clone();
        other.0.insert(name.to_owned(), bytes);
        other
    }

    fn with_lines(&self, segment: u32, lines: &[Vec<u8>]) -> Self {
        self.with(&segment_name(segment), lines.concat())
    }

    fn without(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.0.remove(name);
        other
    }
}

fn looked(files: &InMemory, options: &VerifyOptions) -> Report {
    look(files, options).unwrap().0
}

fn entry(number: usize) -> Entry {
    Entry {
        phase: Phase::Outcome,
        who: Who {
            class: "agent".to_owned(),
            name: format!("planner-{number}"),
            uid: Some(1000),
            ..Who::default()
        },
        act: "device.claim".to_owned(),
        target: "arm".to_owned(),
        why: Why {
            rule: "agents/claim".to_owned(),
            ..Why::default()
        },
        outcome: Some(Outcome::Ok),
        ..Entry::default()
    }
}

fn options(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        checkpoint_entries: 100,
        // None in the middle of a test.
        checkpoint_after: Duration::from_secs(3600),
        ..Options::default()
    }
}

/// A directory with a log of so many entries, closed in order.
fn written(path: &Path, entries: usize, segment_bytes: u64) {
    let (log, _) = Log::open(path, options(segment_bytes)).unwrap();
    for number in 0..entries {
        log.append_and_wait(entry(number)).unwrap();
    }
}

fn log_of(entries: usize, segment_bytes: u64) -> InMemory {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), entries, segment_bytes);
    let files = InMemory::of(directory.path());
    let report = files.report();
    assert!(
        report.is_intact() && report.remarks.is_empty(),
        "{report:?}"
    );
    files
}

fn damaged(files: &InMemory, what: &str) -> Report {
    let report = files.report();
    assert!(!report.is_intact(), "not found: {what}");
    report
}

/// Small, with two segments.
fn small() -> InMemory {
    let files = log_of(5, 4096);
    assert!(
        files.0.contains_key("audit-000002.log"),
        "{:?}",
        files.0.keys()
    );
    files
}

fn has(report: &Report, wanted: impl Fn(&FindingKind) -> bool) -> bool {
    report.findings.iter().any(|finding| wanted(&finding.kind))
}

#[test]
fn every_flipped_bit_of_every_file_is_found() {
    let files = small();
    let flips = AtomicUsize::new(0);
    let flip_all = |turn: usize| {
        for (name, bytes) in &files.0 {
            let mut other = files.clone();
            for bit in (turn..8 * bytes.len()).step_by(2) {
                let flip = 1 << (bit % 8);
                other.0.get_mut(name).unwrap()[bit / 8] ^= flip;
                damaged(&other, &format!("bit {bit} of {name}"));
                other.0.get_mut(name).unwrap()[bit / 8] ^= flip;
                flips.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| flip_all(0));
        flip_all(1);
    });
    let flips = flips.into_inner();
    assert!(flips > 30_000, "only {flips} bits");
}

#[test]
fn every_cut_of_every_file_is_found() {
    let files = small();
    for (name, bytes) in &files.0 {
        for length in 0..bytes.len() {
            let other = files.with(name, bytes[..length].to_vec());
            damaged(&other, &format!("{name} cut to {length} bytes"));
        }
    }
}

#[test]
fn every_missing_file_is_found() {
    let files = small();
    for name in files.0.keys().filter(|name| *name != LOCK_NAME) {
        damaged(&files.without(name), &format!("{name} removed"));
    }
    let report = files.without("audit-000001.log").report();
    assert!(has(&report, |kind| matches!(
        kind,
        FindingKind::SegmentMissing { .. }
    )));
    let report = files.without("audit-000002.log").report();
    assert!(has(
        &report,
        |kind| matches!(kind, FindingKind::Truncated { by, .. } if *by > 1)
    ));
}

#[test]
fn every_deleted_duplicated_or_inserted_line_is_found() {
    let files = small();
    for segment in [1, 2] {
        let lines = files.lines(segment);
        for index in 0..lines.len() {
            let mut fewer = lines.clone();
            let line = fewer.remove(index);
            damaged(
                &files.with_lines(segment, &fewer),
                &format!("no line {index}"),
            );
            for at in 0..=lines.len() {
                let mut more = lines.clone();
                more.insert(at, line.clone());
                damaged(
                    &files.with_lines(segment, &more),
                    &format!("line {index} also at {at}"),
                );
            }
        }
        for at in 0..=lines.len() {
            for garbage in [b"\n".to_vec(), b"x".to_vec(), b"{}\n".to_vec(), vec![0; 9]] {
                let mut more = lines.clone();
                more.insert(at, garbage);
                damaged(
                    &files.with_lines(segment, &more),
                    &format!("garbage at {at}"),
                );
            }
        }
    }
}

#[test]
fn every_swapped_pair_of_lines_is_found() {
    let files = small();
    let lines: Vec<Vec<u8>> = [1, 2]
        .iter()
        .flat_map(|segment| files.lines(*segment))
        .collect();
    let first = files.lines(1).len();
    for one in 0..lines.len() {
        for other in one + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(one, other);
            let (start, end) = swapped.split_at(first);
            let files = files.with_lines(1, start).with_lines(2, end);
            let report = damaged(&files, &format!("lines {one} and {other} swapped"));
            if one > 0 && other < first - 1 {
                let reordered =
                    |kind: &FindingKind| matches!(kind, FindingKind::ReorderedEntry { .. });
                assert!(has(&report, reordered), "{one} {other}: {report:?}");
            }
        }
    }
}

#[test]
fn findings_say_what_was_done_and_where() {
    let files = small();
    let lines = files.lines(1);
    let mut fewer = lines.clone();
    fewer.remove(4);
    let report = files.with_lines(1, &fewer).report();
    let offset = lines[..4].concat().len() as u64;
    let place = Place {
        segment: 1,
        line: 5,
        offset,
    };
    let missing = Finding {
        kind: FindingKind::MissingEntry { from: 5, to: 5 },
        place: Some(place),
    };
    assert_eq!(report.findings, std::slice::from_ref(&missing));
    assert_eq!(
        missing.to_string(),
        format!("audit-000001.log:5 (byte {offset}): entries 5 to 5 are missing")
    );

    let mut edited = lines.clone();
    edited[4] = String::from_utf8(edited[4].clone())
        .unwrap()
        .replace("planner", "another")
        .into_bytes();
    assert!(edited != lines);
    let report = files.with_lines(1, &edited).report();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        report.findings[0].kind,
        FindingKind::EditedEntry { number: 5 }
    );
    assert_eq!(report.findings[0].place, Some(place));
}

/// A log written anew by somebody without the key: each line made consistent with its hash and the
/// one before, signatures kept as they were.
fn rehashed(lines: &[Vec<u8>], from: usize) -> Vec<Vec<u8>> {
    let mut lines = lines.to_vec();
    for index in from..lines.len() {
        let previous = {
            let before = &lines[index - 1];
            Record::decode(&before[..before.len() - 1]).unwrap().hash
        };
        let mut text = String::from_utf8(lines[index].clone()).unwrap();
        text = text.replace("planner", "another");
        let at = text.find(",\"previous\":\"").unwrap() + 13;
        text.replace_range(at..at + 64, &previous.to_string());
        let hashed = text.len() - 1 - 75;
        let hash = Digest::of(&text.as_bytes()[..hashed]);
        text.replace_range(hashed.., &format!(",\"hash\":\"{hash}\"}}\n"));
        lines[index] = text.into_bytes();
        assert!(Record::decode(&lines[index][..lines[index].len() - 1]).is_some());
    }
    lines
}

#[test]
fn rewriting_the_chain_without_the_key_is_found_wherever_it_begins() {
    let files = log_of(7, 1 << 20);
    let lines = files.lines(1);
    for from in 1..lines.len() - 1 {
        let report = damaged(
            &files.with_lines(1, &rehashed(&lines, from)),
            &format!("rewritten from {from}"),
        );
        assert!(has(&report, |kind| matches!(
            kind,
            FindingKind::BadSignature { .. }
        )));
    }
}

#[test]
fn one_entry_replaced_by_a_consistent_one_is_found_by_the_next() {
    let files = log_of(5, 1 << 20);
    let lines = files.lines(1);
    for index in 4..lines.len() - 1 {
        let mut replaced = lines.clone();
        replaced[index] = rehashed(&lines[..=index], index).remove(index);
        assert!(replaced != lines);
        let report = files.with_lines(1, &replaced).report();
        let number = index as u64 + 2;
        let kinds: Vec<&FindingKind> = report.findings.iter().map(|found| &found.kind).collect();
        assert_eq!(kinds, [&FindingKind::BrokenLink { number }]);
    }
}

/// What a kill after each of so many entries would leave: the head is not closed, so unfinished
/// groups may follow it.
fn killed_after_each_of(entries: usize) -> Vec<InMemory> {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(directory.path(), options(1 << 20)).unwrap();
    let mut copies = Vec::new();
    for number in 0..entries {
        log.append_and_wait(entry(number)).unwrap();
        settled(&log, directory.path());
        copies.push(InMemory::of(directory.path()));
    }
    copies
}

#[test]
fn the_last_entry_replaced_by_a_consistent_one_is_found_by_the_head() {
    let files = killed_after_each_of(2).remove(1);
    let lines = files.lines(1);
    let last = lines.len() - 1;
    let report = files.with_lines(1, &rehashed(&lines, last)).report();
    let number = last as u64 + 1;
    assert!(
        has(&report, |kind| *kind
            == FindingKind::HeadMismatch { number }),
        "{report:?}"
    );
}

#[test]
fn a_head_put_back_after_a_kill_is_found_by_the_log() {
    let copies = killed_after_each_of(3);
    let last = copies.last().unwrap();
    assert!(last.report().is_intact());
    let older = last.with(HEAD_NAME, copies[0].0[HEAD_NAME].clone());
    let report = damaged(&older, "the older head");
    let number = Record::decode(copies[0].lines(1).last().unwrap().trim_ascii_end());
    let head = number.unwrap().number;
    let rolled_back = FindingKind::HeadRolledBack {
        head,
        at_least: head + 1,
    };
    assert!(has(&report, |kind| *kind == rolled_back), "{report:?}");
}

#[test]
fn entries_made_up_after_a_kill_are_not_believed() {
    let files = killed_after_each_of(3).remove(2);
    let mut lines = files.lines(1);
    let last = lines.last().unwrap();
    let number = Record::decode(&last[..last.len() - 1]).unwrap().number;
    // Without a signature it is an unfinished group: said, and cut off by the next start.
    let text = String::from_utf8(last.clone()).unwrap();
    let text = text.replace(
        &format!("\"number\":{number}"),
        &format!("\"number\":{}", number + 1),
    );
    let signature = text.find(",\"signature\"").unwrap();
    let mut unsigned = text.clone();
    unsigned.replace_range(signature..signature + 143, "");
    lines.push(unsigned.into_bytes());
    let at = lines.len() - 1;
    let forged = files.with_lines(1, &rehashed(&lines, at)).report();
    assert!(forged.is_intact(), "{forged:?}");
    assert!(matches!(&forged.remarks[..], [Remark::TornTail { bytes, .. }, ..] if *bytes > 0));
    // With somebody else's signature it is a forgery.
    lines[at] = text.into_bytes();
    let forged = files.with_lines(1, &rehashed(&lines, at)).report();
    assert!(has(&forged, |kind| matches!(
        kind,
        FindingKind::BadSignature { .. }
    )));
}

/// Waits until the head has followed the last entry.
fn settled(log: &Log, path: &Path) {
    let started = std::time::Instant::now();
    loop {
        let last = log.status().last.unwrap();
        let head = crate::head::newest_checkpoint(path).unwrap().0;
        if head.number == last.number {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{last:?} {head:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_older_head_is_found_and_an_older_log_too() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 2, 1 << 20);
    let older = InMemory::of(directory.path());
    let anchor = |files: &InMemory| {
        let (number, hash) = files.report().last.unwrap();
        let number = Some(number);
        Anchor { number, hash }
    };
    let remembered = anchor(&older);
    written(directory.path(), 3, 1 << 20);
    let newer = InMemory::of(directory.path());
    assert!(newer.report().is_intact());

    let head = newer.with(HEAD_NAME, older.0[HEAD_NAME].clone());
    let report = damaged(&head, "the older head");
    assert!(has(&report, |kind| matches!(
        kind,
        FindingKind::HeadRolledBack { .. } | FindingKind::ForeignBytes { .. }
    )));
    let log = newer.with_lines(1, &older.lines(1));
    let report = damaged(&log, "the older log");
    assert!(has(&report, |kind| matches!(
        kind,
        FindingKind::Truncated { by: 5.., .. }
    )));

    // Both together look whole from within; an anchor tells.
    assert!(older.report().is_intact());
    let expect = |files: &InMemory, anchor| {
        let options = VerifyOptions {
            expect_head: Some(anchor),
            ..VerifyOptions::default()
        };
        looked(files, &options)
    };
    let report = expect(&older, anchor(&newer));
    assert!(has(&report, |kind| matches!(
        kind,
        FindingKind::AnchorMissing { .. }
    )));
    assert!(expect(&newer, remembered).is_intact());
    assert!(expect(&newer, anchor(&newer)).is_intact());
}

#[test]
fn another_key_is_found_against_the_one_kept_elsewhere() {
    let ours = log_of(3, 1 << 20);
    let theirs = log_of(3, 1 << 20);
    assert!(theirs.report().is_intact());
    let kept = PublicKey::from_text(&ours.0[PUBLIC_KEY_NAME]);
    let options = VerifyOptions {
        public_key: kept,
        ..VerifyOptions::default()
    };
    assert!(looked(&ours, &options).is_intact());
    let report = looked(&theirs, &options);
    for wanted in ["KeyReplaced", "UnknownKey", "HeadDamaged"] {
        let found = |finding: &Finding| format!("{:?}", finding.kind).starts_with(wanted);
        assert!(report.findings.iter().any(found), "{wanted}: {report:?}");
    }
    // A copy without the secret half is as good.
    let copy = ours.without(KEY_NAME);
    assert!(looked(&copy, &options).is_intact());
}

#[test]
fn damage_before_an_anchor_is_left_out_when_asked_for() {
    let files = log_of(7, 1 << 20);
    let mut lines = files.lines(1);
    let decoded = |line: &Vec<u8>| Record::decode(&line[..line.len() - 1]).unwrap();
    let anchor = decoded(&lines[6]);
    lines[3][20] ^= 1;
    let files = files.with_lines(1, &lines);
    let since = |record: &Record| {
        let since = Some(Anchor {
            number: Some(record.number),
            hash: record.hash,
        });
        let options = VerifyOptions {
            since,
            ..VerifyOptions::default()
        };
        looked(&files, &options)
    };
    assert!(!files.report().is_intact());
    assert!(since(&anchor).is_intact());
    assert!(!since(&decoded(&lines[1])).is_intact());
}

#[test]
fn what_was_set_aside_is_watched_too() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 3, 1 << 20);
    let segment = directory.path().join("audit-000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    written(directory.path(), 2, 1 << 20);
    let files = InMemory::of(directory.path());
    let broken = |report: &Report| {
        has(report, |kind| {
            matches!(kind, FindingKind::PredecessorBroken { .. })
        })
    };
    let changed = |report: &Report| {
        has(report, |kind| {
            matches!(kind, FindingKind::QuarantineChanged { .. })
        })
    };
    let report = files.report();
    assert!(
        broken(&report) && !changed(&report) && report.findings.len() == 1,
        "{report:?}"
    );
    let kept: Vec<String> = files
        .0
        .keys()
        .filter(|name| name.contains('/'))
        .cloned()
        .collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
    for name in kept {
        assert!(changed(&files.without(&name).report()), "{name} removed");
        let mut bytes = files.0[&name].clone();
        bytes[9] ^= 4;
        assert!(
            changed(&files.with(&name, bytes).report()),
            "{name} changed"
        );
    }
}

#[test]
fn names_that_do_not_belong_are_found() {
    let files = small();
    for name in [
        "audit-3.log",
        "audit-000009.log",
        "notes.txt",
        "broken-000001/x",
    ] {
        damaged(&files.with(name, b"{}\n".to_vec()), name);
    }
    let left = files.with("audit.head.new", b"{".to_vec()).report();
    assert!(left.is_intact() && left.remarks.len() == 1, "{left:?}");
}
