//! `cargo xtask run --hosted`: starts both planes, says what real-time set-up was not granted,
//! and stays up until it is interrupted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Hosted, Options};
use crate::binaries::Binaries;
use crate::demo::ipc::Ipc;
use crate::paths::Paths;

/// How long the planes may take to find each other.
const READY: Duration = Duration::from_secs(20);

/// Runs until SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// When the planes do not start.
pub fn run(paths: &Paths, binaries: &Binaries, options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let hosted = Hosted::start(paths, binaries, options)?;
    let status = wait_until_linked(&hosted)?;
    print!("{}", grants(&status));
    println!("Running. From another terminal:");
    println!(
        "  export KAIRO_IPC_SOCKET={}",
        hosted.ipc_socket().display()
    );
    println!("  {} status", binaries.path("kairo").display());
    if let Some(simulator) = &hosted.simulator {
        println!(
            "The arm's own truth is at {}",
            simulator.control_path().display()
        );
    }
    println!("Control-C ends it.");
    signals.forever().next();
    Ok(())
}

/// `rt.status`, once kairod is linked to the real-time plane.
fn wait_until_linked(hosted: &Hosted) -> anyhow::Result<Value> {
    let end = Instant::now() + READY;
    loop {
        let status = Ipc::connect(&hosted.ipc_socket())
            .and_then(|mut ipc| ipc.call("rt.status", &json!({})));
        match status {
            Ok(status) if status["connected"] == true => return Ok(status),
            _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            Ok(_) => bail!("kairo-rt does not answer; its words: {}", said(hosted)),
            Err(error) => {
                return Err(error).with_context(|| format!("kairod's words: {}", said(hosted)));
            }
        }
    }
}

/// The last words of both daemons.
fn said(hosted: &Hosted) -> String {
    let logs = [hosted.real_time.log(), hosted.kairod.log()];
    let tail = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        lines
            .into_iter()
            .rev()
            .map(|line| format!("\n  {line}"))
            .collect::<String>()
    };
    logs.map(tail).concat()
}

/// What the kernel would not grant, a line each with the command that changes it.
fn grants(status: &Value) -> String {
    let empty = Vec::new();
    let checks = status["bringup"].as_array().unwrap_or(&empty);
    let missing: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    if missing.is_empty() {
        return format!("All {} real-time requests were granted.\n", checks.len());
    }
    let mut text = format!(
        "Not granted, {} of {} requests:\n",
        missing.len(),
        checks.len()
    );
    for check in missing {
        let word = |key: &str| check[key].as_str().unwrap_or("?").to_owned();
        text.push_str(&format!(
            "  {:<12} {:<18} wanted {}, found {}; fix: {}\n",
            word("scope"),
            word("check"),
            word("wanted"),
            word("found"),
            word("fix")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_grant_is_listed_with_its_fix() {
        let status = json!({"bringup": [
            {"scope": "arm", "check": "policy", "wanted": "FIFO 80", "found": "OTHER 0",
             "ok": false, "fix": "setcap cap_sys_nice+ep kairo-rt"},
            {"scope": "process", "check": "timer_slack", "ok": true},
        ]});
        let text = grants(&status);
        assert!(text.contains("1 of 2") && text.contains("setcap"), "{text}");
        assert!(grants(&json!({"bringup": [{"ok": true}]})).contains("All 1"));
    }
}
