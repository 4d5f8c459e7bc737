//! Prints how fast this disk takes audit entries: one at a time, and many at once.
//!
//! `cargo run --release -p kairo-audit --example append_rate [DIRECTORY]`

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Instant;

use kairo_audit::{Entry, Log, Options, VerifyOptions, verify};

const ONE_BY_ONE: u32 = 300;
const AT_ONCE: u32 = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| {
        std::env::temp_dir().join(format!("kairo-audit-rate-{}", std::process::id()))
    });
    let options = Options {
        queue_entries_max: AT_ONCE as usize,
        ..Options::default()
    };
    let (log, _) = Log::open(&directory, options)?;
    let entry = Entry {
        act: "device.claim".to_owned(),
        target: "arm".to_owned(),
        ..Entry::default()
    };
    let started = Instant::now();
    for _ in 0..ONE_BY_ONE {
        log.append_and_wait(entry.clone())?;
    }
    print("one at a time", ONE_BY_ONE, started);
    let started = Instant::now();
    let (sender, done) = mpsc::channel();
    for _ in 0..AT_ONCE {
        let sender = sender.clone();
        log.append(entry.clone(), move |result| {
            // The receiver counts below.
            let _ = sender.send(result);
        });
    }
    for _ in 0..AT_ONCE {
        done.recv()??;
    }
    print("many at once", AT_ONCE, started);
    drop(log);
    let started = Instant::now();
    let report = verify(&directory, &VerifyOptions::default())?;
    print("verified", u32::try_from(report.records)?, started);
    println!("{} findings", report.findings.len());
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn print(what: &str, count: u32, started: Instant) {
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    println!("{what:14} {rate:9.0} entries/s");
}
