//! The daemon's log: lines on stderr, for whoever reads them. Ordinary threads only.
//!
//! Not `eprintln!`, which panics when its reader is gone, and a panic here aborts a robot in
//! motion: a log that nobody reads is lost, and nothing else happens. A reader that lives and does
//! not read blocks the caller, as with every log on stderr; no real-time thread is ever one.

use std::fmt::Arguments;
use std::io::Write;

/// Writes one line, in one piece.
pub fn note(line: Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
