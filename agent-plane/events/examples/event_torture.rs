//! Kills a process that appends, consumes and does effects, again and again, and compares the log
//! with what was promised. Used by `xtask bench events`.
//!
//! `event_torture DIRECTORY KILLS SEED` prints one JSON object.

#![allow(clippy::unwrap_used)] // What it shares with the tests ends it by panicking.

#[path = "../tests/support/torture.rs"]
mod torture;

use std::process::Command;

use serde_json::json;
use torture::{DIRECTORY_VARIABLE, SEED_VARIABLE};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let (Some(directory), Ok(seed)) = (
        std::env::var_os(DIRECTORY_VARIABLE),
        std::env::var(SEED_VARIABLE),
    ) {
        torture::child(directory.as_ref(), seed.parse()?);
        return Ok(());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, kills, seed] = arguments.as_slice() else {
        return Err("usage: event_torture DIRECTORY KILLS SEED".into());
    };
    let myself = std::env::current_exe()?;
    let toll = torture::parent(directory.as_ref(), kills.parse()?, seed.parse()?, || {
        Command::new(&myself)
    });
    let raw = json!({
        "seed": seed, "kills": toll.kills, "acknowledged": toll.acknowledged, "lost": toll.lost,
        "effects": toll.effects, "duplicate_effects": toll.duplicate_effects,
        "lost_effects": toll.lost_effects, "reused_numbers": toll.reused_numbers,
    });
    println!("{raw}");
    Ok(())
}
