//! Damaged files and full disks: nothing wrong is ever read, what is readable is kept, and what
//! cannot be written is refused by name.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kairo_events::{Class, Event, Expected, Options, Query, Salvage, Start, Store, StoreError};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use support::torture::Chance;
use support::{Place, append, done, event, read_all};

/// A small log with a bit of everything, closed, in one file.
fn sample(place: &Place, count: usize) -> Vec<Event> {
    let store = place.open();
    for index in 0..count {
        let text = format!("{index} {}", "x".repeat(index % 300));
        let mut event = event(["a.b", "c.d"][index % 2], &text);
        if index % 3 == 0 {
            event = event.stream("s", Expected::Any);
        }
        if index % 5 == 0 {
            event = event.id(&format!("id-{index}"));
        }
        store.post(event).unwrap();
    }
    done(store.register("c", vec![], Start::After(3))).unwrap();
    assert!(store.close(support::PATIENCE));
    read_all(&place.path(), Query::default()).0
}

/// Opens what is at `path`, checks that everything read is as it was written, and gives what was
/// salvaged and how many events are left.
fn survivors(path: &Path, written: &[Event]) -> (Option<Salvage>, usize) {
    let written: BTreeMap<u64, &Event> = written.iter().map(|event| (event.seq, event)).collect();
    let (store, report) = Store::open(path, Options::default()).unwrap();
    // It works on, and gives out no number again.
    let seq = append(&store, event("new", "new").class(Class::Synchronous)).unwrap();
    assert!(
        written.last_key_value().is_none_or(|(last, _)| seq > *last),
        "{seq} again"
    );
    drop(store);
    let (events, damaged) = read_all(path, Query::default());
    for event in events.iter().filter(|event| event.seq != seq) {
        let mut original = written[&event.seq].clone();
        // A salvage that could not read the boots or the log's name gives others.
        original.boot = event.boot.clone();
        if report.salvage.is_some() && original.id.ends_with(&format!("-{}", event.seq)) {
            original.id.clone_from(&event.id);
        }
        assert_eq!(*event, original);
    }
    let lost = written.len() + 1 - events.len();
    let told = report.salvage.as_ref().is_some_and(|salvage| {
        !salvage.lost.is_empty() || salvage.damaged_rows > 0 || !salvage.damaged_tables.is_empty()
    });
    assert!(
        lost == 0 || told || !damaged.is_empty(),
        "{lost} events vanished: {report:?}"
    );
    (report.salvage, events.len() - 1)
}

#[test]
fn a_log_cut_off_at_any_page_is_salvaged_up_to_there() {
    let place = Place::new();
    let written = sample(&place, 300);
    let whole = std::fs::read(place.path()).unwrap();
    let mut best = 0;
    for pages in 0..whole.len() / 4096 {
        let place = Place::new();
        std::fs::write(place.path(), &whole[..pages * 4096]).unwrap();
        if pages == 0 {
            continue; // An empty file is a new log.
        }
        let (salvage, left) = survivors(&place.path(), &written);
        let salvage = salvage.expect("it is not whole");
        assert_eq!(salvage.events as usize, left);
        assert!(salvage.quarantined.exists());
        best = best.max(left);
    }
    assert!(best > 100, "{best} of 300 at best");
}

#[test]
fn flipped_bits_are_noticed_wherever_they_are() {
    let place = Place::new();
    let written = sample(&place, 120);
    let whole = std::fs::read(place.path()).unwrap();
    let seed = std::env::var("KAIRO_SEED").map_or(6, |text| text.parse().unwrap());
    eprintln!("seed {seed}; KAIRO_SEED chooses another");
    let mut chance = Chance(seed);
    for _ in 0..80 {
        let place = Place::new();
        let mut bytes = whole.clone();
        let at = chance.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << chance.below(8);
        std::fs::write(place.path(), &bytes).unwrap();
        survivors(&place.path(), &written);
    }
}

#[test]
fn a_page_of_rubbish_costs_the_events_in_it_and_no_more() {
    let place = Place::new();
    let written = sample(&place, 2000);
    let mut bytes = std::fs::read(place.path()).unwrap();
    // The page that holds event 1000: found by its text.
    let needle = b"999 xxx";
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap();
    let page = at / 4096 * 4096;
    bytes[page..page + 4096].fill(0xEE);
    std::fs::write(place.path(), &bytes).unwrap();
    let (salvage, left) = survivors(&place.path(), &written);
    let salvage = salvage.expect("noticed");
    assert!(left > 1900, "{left} of 2000: {salvage:?}");
    assert!(
        salvage
            .lost
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&1000)),
        "{salvage:?}"
    );
    // Streams go on behind their last event, consumers from their cursor.
    let store = place.open();
    let (events, _) = read_all(
        &place.path(),
        Query {
            stream: Some("s".into()),
            ..Query::default()
        },
    );
    let version = events.last().unwrap().stream.as_ref().unwrap().version;
    let next = event("a.b", "next").stream("s", Expected::Exactly(version));
    append(&store, next).unwrap();
    assert_eq!(done(store.consumers()).unwrap()[0].cursor, 3);
}

#[test]
fn something_else_under_the_name_is_put_aside() {
    for rubbish in [
        &b"not a database at all, and long enough to be looked at"[..],
        &[0; 9000],
    ] {
        let place = Place::new();
        std::fs::write(place.path(), rubbish).unwrap();
        let (_, report) = Store::open(&place.path(), Options::default()).unwrap();
        let salvage = report.salvage.expect("noticed");
        assert_eq!(std::fs::read(&salvage.quarantined).unwrap(), rubbish);
        let name = salvage
            .quarantined
            .file_name()
            .unwrap()
            .to_string_lossy()
            .to_string();
        assert!(name.starts_with("events.db.corrupt-"), "{name}");
    }
}

#[test]
fn a_salvage_that_was_interrupted_is_taken_up() {
    let place = Place::new();
    let written = sample(&place, 50);
    let fresh = place.directory.path().join("events.db.salvaging");
    // The damaged file was put aside, and the new one not yet in its place.
    std::fs::rename(place.path(), &fresh).unwrap();
    assert_eq!(survivors(&place.path(), &written), (None, 50));
    // The new one was being filled.
    std::fs::write(&fresh, "half a file").unwrap();
    let written = read_all(&place.path(), Query::default()).0;
    assert_eq!(survivors(&place.path(), &written), (None, 51));
    assert!(!fresh.exists());
}

fn fill(store: &Store) -> StoreError {
    for _ in 0..100_000 {
        let event = event("fill", &"x".repeat(2000)).class(Class::Synchronous);
        if let Err(error) = append(store, event) {
            return error;
        }
    }
    panic!("the disk never filled up");
}

#[test]
fn on_a_full_disk_durable_events_are_refused_and_volatile_ones_go_on() {
    let place = Place::new();
    let options = Options {
        hard_limit_bytes: Some(400 * 1024),
        ..Options::default()
    };
    let store = place.open_with(options);
    let refused = fill(&store);
    assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
    assert!(matches!(
        store.status().failure,
        Some(StoreError::DiskFull { .. })
    ));
    let volatile = event("v", "x").class(Class::Volatile);
    let before = append(&store, volatile.clone()).unwrap();
    assert!(append(&store, volatile).unwrap() > before);
    // A batch that nobody waits for is counted.
    store.post(event("b", &"x".repeat(20_000))).unwrap();
    done(store.run(false, |_| Ok(()))).unwrap_err();
    assert!(store.status().lost > 0);
    // Room is made, and it goes on.
    drop(store);
    let store = place.open();
    append(&store, event("after", "x").class(Class::Synchronous)).unwrap();
    assert_eq!(store.status().failure, None);
}

const FULL_DISK: &str = "KAIRO_EVENTS_FULL_DISK";

/// Not a test of its own: a process that may write no file beyond 300 KiB, as by a quota.
#[test]
fn limited_process() {
    let Some(path) = std::env::var_os(FULL_DISK) else {
        return;
    };
    // SAFETY: no handler is installed; the signal is only ignored, so that writes fail instead.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (store, _) = Store::open(Path::new(&path), Options::default()).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 300 * 1024, 300 * 1024).unwrap();
    let refused = fill(&store);
    let typed = matches!(refused, StoreError::DiskFull { .. } | StoreError::Io { .. });
    assert!(typed, "{refused}");
    let head = store.status().head;
    let volatile = event("v", "x").class(Class::Volatile);
    assert!(append(&store, volatile).unwrap() > head);
    println!("\nhead {head}");
}

#[test]
fn a_write_that_fails_half_way_leaves_everything_acknowledged() {
    let place = Place::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "limited_process",
        "--nocapture",
        "--test-threads=1",
    ]);
    let output = command.env(FULL_DISK, place.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let head = text
        .lines()
        .find_map(|line| line.strip_prefix("head "))
        .unwrap();
    let (store, report) = Store::open(&place.path(), Options::default()).unwrap();
    assert_eq!(
        (report.salvage, report.head.to_string().as_str()),
        (None, head)
    );
    append(&store, event("after", "x").class(Class::Synchronous)).unwrap();
}
