//! Reading: records by number, from any process, while another may write.
//!
//! Each record is whole by itself (its hash is checked); whether the chain is, is the matter of
//! [`crate::verify()`]. Reads whole segments: not for a thread that must not wait for the disk.

use std::path::Path;

use crate::files::{Directory, Files, Kind, segment_index, segment_name, to_count};
use crate::finding::Place;
use crate::open::first_record;
use crate::record::Record;

/// Some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The records, in their order in the files.
    pub records: Vec<Record>,
    /// Whether there is more after the last of them.
    pub has_more: bool,
    /// The first line that is no record, if there was one among these: damage, or a group that is
    /// being written.
    pub damaged: Option<Place>,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the audit log in {path}: {error}")]
pub struct ReadError {
    /// The directory.
    pub path: String,
    /// Why not.
    pub error: std::io::Error,
}

/// At most `limit` records with numbers above `after`.
///
/// # Errors
/// When the directory or a segment cannot be read.
pub fn read(directory: &Path, after: u64, limit: usize) -> Result<Page, ReadError> {
    page(&Directory(directory.to_owned()), after, limit).map_err(|error| ReadError {
        path: directory.display().to_string(),
        error,
    })
}

fn page(files: &Directory, after: u64, limit: usize) -> std::io::Result<Page> {
    let mut page = Page::default();
    let names = files.names("")?;
    let segments: Vec<u32> = names
        .iter()
        .filter(|name| name.kind == Kind::File)
        .filter_map(|name| segment_index(&name.name))
        .collect();
    let first = starts_before(files, &segments, after)?;
    for index in segments.into_iter().skip(first) {
        let bytes = files.read(&segment_name(index))?.unwrap_or_default();
        let mut place = Place {
            segment: index,
            line: 1,
            offset: 0,
        };
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n").and_then(Record::decode) {
                None => page.damaged = page.damaged.or(Some(place)),
                Some(record) if record.number <= after => {}
                Some(_) if page.records.len() == limit => {
                    page.has_more = true;
                    return Ok(page);
                }
                Some(record) => page.records.push(record),
            }
            place.line += 1;
            place.offset += to_count(line.len());
        }
    }
    Ok(page)
}

/// How many segments end before the record after `after`: those whose next begins at or before it.
fn starts_before(files: &Directory, segments: &[u32], after: u64) -> std::io::Result<usize> {
    let mut first = 0;
    for (position, index) in segments.iter().enumerate().skip(1) {
        match first_record(files, *index)? {
            Some(record) if record.number <= after => first = position,
            _ => break,
        }
    }
    Ok(first)
}
