//! Processes that are killed at random points: nothing acknowledged is lost, no effect is done
//! twice, no number is given out again.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::process::Command;

use support::torture::{self, DIRECTORY_VARIABLE, SEED_VARIABLE, Toll};

/// Not a test of its own: the process that is killed.
#[test]
fn child_process() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else {
        return;
    };
    let seed = std::env::var(SEED_VARIABLE).unwrap().parse().unwrap();
    torture::child(directory.as_ref(), seed);
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
