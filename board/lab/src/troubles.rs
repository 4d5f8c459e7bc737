//! What can happen to the machine around a plane: done by the lab as root, for one window.
//!
//! A load is an agent that takes what it can; a trouble is what an agent cannot do by itself. Each
//! begins at once, is checked to be real (a stopped process, a clock that moved, a disk that takes
//! no byte), and is undone by [`Trouble::end`] or by being dropped.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::{Value, json};

use crate::init_socket;
use crate::loads::{CHURN_DIR, Load};

/// How far the clock is set, s.
const DAY_S: i64 = 86_400;
/// The largest piece of the disk that is taken at once, bytes; halved until nothing is left.
const PIECE_BYTES: i64 = 64 << 20;
/// The smallest: a block.
const BLOCK_BYTES: i64 = 4096;
/// Times that the disk is filled up: the flight recorder makes room by deleting its oldest file, at
/// most one a second, and that may come just between filling and trying.
const ROUNDS: usize = 10;

/// A trouble in force.
#[derive(Debug)]
pub struct Trouble {
    kind: Kind,
    ended: bool,
}

#[derive(Debug)]
enum Kind {
    Stopped,
    Stepped,
    Full(Vec<PathBuf>),
}

impl Trouble {
    /// Makes the trouble that `load` is; none if it is not one.
    ///
    /// # Errors
    /// When it could not be made, or is not as real as it should be.
    pub fn begin(load: Load) -> anyhow::Result<Option<Self>> {
        let kind = match load {
            Load::KairodStop => stop_kairod()?,
            Load::ClockStep => step_clock(DAY_S).map(|()| Kind::Stepped)?,
            Load::DiskFull => fill_disk()?,
            _ => return Ok(None),
        };
        Ok(Some(Self { kind, ended: false }))
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When that failed.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> anyhow::Result<()> {
        self.ended = true;
        match &self.kind {
            Kind::Stopped => signal_kairod("CONT"),
            Kind::Stepped => step_clock(-DAY_S),
            Kind::Full(files) => {
                for file in files {
                    fs::remove_file(file).with_context(|| file.display().to_string())?;
                }
                Ok(())
            }
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        if !self.ended {
            // On the way out with another error already.
            let _ = self.undo();
        }
    }
}

fn signal_kairod(signal: &str) -> anyhow::Result<()> {
    let request = json!({"op": "signal", "service": "kairod", "signal": signal});
    init_socket::request(&request).map(drop)
}

fn stop_kairod() -> anyhow::Result<Kind> {
    let pid = init_socket::pid_of("kairod")?.context("kairod does not run")?;
    signal_kairod("STOP")?;
    let state = || fs::read_to_string(format!("/proc/{pid}/stat"));
    let stopped = |stat: &str| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    for _ in 0..100 {
        if stopped(&state()?) {
            return Ok(Kind::Stopped);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("kairod did not stop: {}", state()?)
}

fn step_clock(seconds: i64) -> anyhow::Result<()> {
    let before = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let to = TimeSpec::new(before.tv_sec() + seconds, before.tv_nsec());
    clock_settime(ClockId::CLOCK_REALTIME, to).context("the clock cannot be set")?;
    let moved_s = clock_gettime(ClockId::CLOCK_REALTIME)?.tv_sec() - before.tv_sec();
    ensure!(
        moved_s.abs_diff(seconds) < 60,
        "the clock moved by {moved_s} s instead of {seconds} s"
    );
    Ok(())
}

/// Takes every block of the data partition; root's reserve too.
fn fill_disk() -> anyhow::Result<Kind> {
    let mut files = Vec::new();
    for _ in 0..ROUNDS {
        take_all(&mut files)?;
        if is_full(&mut files)? {
            return Ok(Kind::Full(files));
        }
    }
    anyhow::bail!("the disk still takes bytes after {ROUNDS} rounds of filling it")
}

fn take_all(files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut piece_bytes = PIECE_BYTES;
    while piece_bytes >= BLOCK_BYTES {
        let path = PathBuf::from(CHURN_DIR).join(format!("full-{}", files.len()));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        files.push(path);
        match fallocate(&file, FallocateFlags::empty(), 0, piece_bytes) {
            Ok(()) => {}
            Err(Errno::ENOSPC) => piece_bytes /= 2,
            Err(errno) => return Err(errno).context("the disk cannot be filled"),
        }
    }
    Ok(())
}

/// Whether a file finds no room.
fn is_full(files: &mut Vec<PathBuf>) -> anyhow::Result<bool> {
    let probe = PathBuf::from(CHURN_DIR).join(format!("probe-{}", files.len()));
    let mut file = File::create(&probe).with_context(|| probe.display().to_string())?;
    files.push(probe);
    let block = [0; 4 * BLOCK_BYTES as usize];
    let written = file.write_all(&block).and_then(|()| file.sync_all());
    Ok(written.is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC)))
}

/// What a report says of it.
pub fn proof(trouble: Option<&Trouble>) -> Value {
    match trouble.map(|trouble| &trouble.kind) {
        None => Value::Null,
        Some(Kind::Stopped) => json!("kairod is stopped (SIGSTOP)"),
        Some(Kind::Stepped) => json!("the clock was set a day ahead, and back at the end"),
        Some(Kind::Full(files)) => json!(format!("no block left, in {} files", files.len())),
    }
}
