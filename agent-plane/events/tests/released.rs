//! Logs of every released schema open in this version, with everything in them, and also when the
//! process that migrates them is killed at any moment.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kairo_events::rusqlite::Connection;
use kairo_events::{Expected, Kept, Limits, Options, Query, SCHEMA, Store};
use support::torture::Chance;
use support::{Place, append, done, event, read_all, text};

/// Written by `examples/fixture.rs` when the schema was released.
const RELEASED: &[(u32, &str)] = &[
    (1, include_str!("fixtures/v1.sql")),
    (2, include_str!("fixtures/v2.sql")),
];
/// The log that the process which is killed migrates.
const PATH_VARIABLE: &str = "KAIRO_EVENTS_MIGRATE";
/// Migrations that are killed; more with `KAIRO_KILLS`.
const KILLS: u64 = 20;

/// Fixtures get older every day, and must not go by their age.
fn ageless() -> Options {
    Options {
        limits: Limits {
            max_age: None,
            ..Limits::default()
        },
        ..Options::default()
    }
}

fn make(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn every_released_schema_has_a_log_to_try() {
    let schemas: Vec<u32> = RELEASED.iter().map(|(schema, _)| *schema).collect();
    assert_eq!(schemas, (1..=SCHEMA).collect::<Vec<u32>>());
}

/// That a log is open and whole, and goes on.
fn check(path: &Path, store: &Store) {
    let (events, damaged) = read_all(path, Query::default());
    assert_eq!(damaged, [0; 0]);
    let texts: Vec<&str> = events.iter().map(text).collect();
    let expected: Vec<String> = (0..20).map(|index| index.to_string()).collect();
    assert_eq!(texts, expected);
    assert_eq!(
        (events[3].id.as_str(), &*events[3].aliases),
        ("id-3", &["step".into()][..])
    );
    assert_eq!(done(store.consumers()).unwrap()[0].cursor, 10);
    let next = event("app.step", "next").stream("even", Expected::Exactly(10));
    assert!(append(store, next).unwrap() > events[19].seq);
}

#[test]
fn a_log_of_every_released_schema_opens_whole() {
    for (schema, sql) in RELEASED {
        let place = Place::new();
        make(&place.path(), sql);
        let (store, report) = Store::open(&place.path(), ageless()).unwrap();
        assert_eq!(report.salvage, None);
        assert_eq!(report.backup.is_some(), *schema < SCHEMA, "schema {schema}");
        check(&place.path(), &store);
        let kept = done(store.take_over_keys(Duration::from_secs(600))).unwrap();
        let found = |kept: &Kept| (kept.key.key.clone(), kept.result.clone());
        let mut found: Vec<_> = kept.iter().map(found).collect();
        found.sort();
        let expected = [
            ("begun".to_string(), None),
            ("done".to_string(), Some(b"result".to_vec())),
        ];
        assert_eq!(
            found,
            if *schema < 2 {
                vec![]
            } else {
                expected.to_vec()
            }
        );
    }
}

/// Not a test of its own: the process that is killed.
#[test]
fn migrating_process() {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        println!("\nbegins");
        drop(Store::open(path.as_ref(), ageless()).unwrap());
        println!("\nends");
    }
}

#[test]
fn a_kill_in_the_middle_of_a_migration_leaves_the_old_or_the_new() {
    use std::io::BufRead as _;
    let seed = std::env::var("KAIRO_SEED").map_or(20_261_128, |text| text.parse().unwrap());
    let kills = std::env::var("KAIRO_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    eprintln!("seed {seed}; KAIRO_SEED chooses another, KAIRO_KILLS how many kills");
    let mut chance = Chance(seed);
    for kill in 0..kills {
        let place = Place::new();
        make(&place.path(), RELEASED[0].1);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "migrating_process", "--nocapture"]);
        let mut child = command
            .env(PATH_VARIABLE, place.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let mut lines = std::io::BufReader::new(output).lines();
        assert!(lines.any(|line| line.unwrap() == "begins"));
        std::thread::sleep(Duration::from_micros(chance.below(30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, report) = Store::open(&place.path(), ageless()).unwrap();
        assert_eq!(report.salvage, None, "seed {seed}, kill {kill}");
        check(&place.path(), &store);
        // The copy has its name only once it is whole.
        let mut backup = place.path().into_os_string();
        backup.push(".v1.backup");
        let backup = Connection::open(backup).unwrap();
        let count: i64 = backup
            .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 20);
    }
}
