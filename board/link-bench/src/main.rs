//! Measures the link's parts beside others', in turns, and prints every window as JSON.
//!
//! `in-process`, `crossing` and `paced` measure; `peer` is the other process of the latter two.
//! Judging is not done here: `cargo xtask bench link` starts this program again and again, because
//! where memory and threads land differs from start to start, and computes the marks.

mod crossing;
mod histogram;
mod latest;
mod message;
mod peer;
mod rings;
mod wires;

use std::sync::OnceLock;

use anyhow::{Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;

fn main() -> Result<()> {
    // Before anything is pinned.
    cores();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = match words.as_slice() {
        ["in-process"] => json!({
            "rings": rings::measure()?,
            "latest": latest::measure(),
            "histogram": histogram::measure(),
        }),
        ["crossing"] => crossing::busy()?,
        ["paced"] => crossing::paced()?,
        ["peer", rest @ ..] => return peer::run(rest),
        _ => bail!("usage: kairo-link-bench in-process|crossing|paced"),
    };
    println!("{found}");
    Ok(())
}

/// The environment variable by which a peer, born on the pinned core of its parent, knows the rest.
pub const CORES: &str = "KAIRO_BENCH_CORES";

/// The cores there are to choose from, the last one first.
pub fn cores() -> &'static [usize] {
    static FOUND: OnceLock<Vec<usize>> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Ok(text) = std::env::var(CORES) {
            return text
                .split(',')
                .filter_map(|core| core.parse().ok())
                .collect();
        }
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let all = (0..CpuSet::count()).rev();
        all.filter(|core| allowed.is_set(*core).unwrap_or(false))
            .collect()
    })
}

/// Pins the calling thread to the `index`th core, and asks for more of it than its neighbours have:
/// both sides of a comparison alike.
pub fn pin(index: usize) -> Result<()> {
    let cores = cores();
    let Some(core) = cores.get(index % cores.len().max(1)) else {
        bail!("no core to run on");
    };
    let mut own = CpuSet::new();
    own.set(*core)?;
    sched_setaffinity(Pid::from_raw(0), &own)?;
    // SAFETY: takes three integers. Without the right to it, both sides go without.
    unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, -10) };
    Ok(())
}

/// Waits for another thread or process: busy at first, because that is what is measured, then
/// giving the core away, because there may be only one.
#[derive(Debug, Default)]
pub struct Patience {
    spins: u32,
}

impl Patience {
    /// One look was in vain.
    pub fn wait(&mut self) {
        self.spins += 1;
        if self.spins.is_multiple_of(4096) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    /// Runs `check` now and then.
    pub fn check(&self, check: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.spins.is_multiple_of(4096) {
            check()
        } else {
            Ok(())
        }
    }
}
