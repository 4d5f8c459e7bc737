//! Processes that are killed at random points: nothing acknowledged is lost, no effect is done
//! twice, no number is given out again.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::process::Command;

use kairo_events::{Class, NewEvent, Options, Store};

use support::torture::{self, DIRECTORY_VARIABLE, SEED_VARIABLE, Toll};

/// Not a test of its own: the process that is killed.
#[test]
fn child_process() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else {
        return;
    };
    let Ok(seed) = std::env::var(SEED_VARIABLE) else {
        return number_and_die(directory.as_ref());
    };
    let seed = seed.parse().unwrap();
    torture::child(directory.as_ref(), seed);
}

/// Gives out numbers of which nothing is ever written, and dies.
fn number_and_die(directory: &std::path::Path) {
    let (store, _) = Store::open(&directory.join("events.db"), Options::default()).unwrap();
    let volatile = NewEvent::new("v", "t", vec![]).class(Class::Volatile);
    for _ in 0..5 {
        println!("\nnumber {}", store.post(volatile.clone()).unwrap().seq);
    }
    std::process::abort();
}

#[test]
fn a_number_that_was_never_written_is_not_given_out_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ]);
        let output = command
            .env(DIRECTORY_VARIABLE, directory.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let told = text.lines().filter_map(|line| line.strip_prefix("number "));
        numbers.extend(told.map(|number| number.parse::<u64>().unwrap()));
    }
    assert_eq!(numbers.len(), 15);
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn a_kill_anywhere_loses_nothing_acknowledged_and_repeats_no_effect() {
    let directory = tempfile::tempdir().unwrap();
    let seed = std::env::var("KAIRO_SEED").map_or(20_261_121, |text| text.parse().unwrap());
    eprintln!("seed {seed}; KAIRO_SEED chooses another");
    let toll = torture::parent(directory.path(), 12, seed, || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ]);
        command
    });
    assert!(toll.acknowledged > 0, "{toll:?}");
    let harmless = Toll {
        kills: 12,
        acknowledged: toll.acknowledged,
        effects: toll.effects,
        ..Toll::default()
    };
    assert_eq!(toll, harmless);
}
