//! `[recorder]` of `robot.toml`: whether and where the flight recorder keeps what happened.
//!
//! setup-only. Absent means none: a disk is written to only by a robot that was told so.

use std::path::PathBuf;

use super::diagnostic::Problems;
use super::table::TableReader;

/// The flight recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecorderConfig {
    /// Where record files go.
    pub directory: PathBuf,
    /// What they may take together, MiB.
    pub size_max_mb: u64,
    /// How much the memory keeps for a slow disk and for a crash, s.
    pub keep_seconds: u64,
}

/// `Some(None)` when there shall be no recorder.
pub(super) fn read(
    file: &mut TableReader<'_>,
    problems: &mut Problems<'_>,
) -> Option<Option<RecorderConfig>> {
    if !file.has("recorder") {
        return Some(None);
    }
    let mut table = file.table(problems, "recorder")?;
    let enabled = table.boolean(problems, "enabled", true);
    let directory = table.text(problems, "directory", "/var/lib/kairo/records");
    let size = table.integer(problems, "size_max_mb", 8..=1_000_000, Some(256));
    let keep = table.integer(problems, "keep_seconds", 1..=60, Some(10));
    let key = table.path_of("directory");
    table.finish(problems);
    let directory = directory?;
    if !directory.value.starts_with('/') {
        let message = format!("\"{}\" does not begin with /", directory.value);
        let fix = "write an absolute path, such as /var/lib/kairo/records";
        problems.add(directory.span.clone(), key, message, fix);
        return None;
    }
    let config = RecorderConfig {
        directory: PathBuf::from(directory.value),
        size_max_mb: u64::try_from(size?.value).ok()?,
        keep_seconds: u64::try_from(keep?.value).ok()?,
    };
    Some(enabled?.then_some(config))
}
