//! What verification finds: each finding with its kind, its place and a sentence.

use std::fmt;

use serde::Serialize;

use crate::files::segment_name;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    #[serde(flatten)]
    pub kind: FindingKind,
    /// Where, when it lies in a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Index of the segment.
    pub segment: u32,
    /// Line in its file, from 1.
    pub line: u64,
    /// Byte in its file at which that line begins.
    pub offset: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum FindingKind {
    /// A line is not what was written.
    #[error("entry {number} was changed: the line is not what its hash says, or no record at all")]
    EditedEntry {
        /// Number that should stand here.
        number: u64,
    },
    /// A record is whole and does not follow the one before.
    #[error("entry {number} does not follow the one before it: one of the two was replaced")]
    BrokenLink {
        /// Number of the record.
        number: u64,
    },
    /// Records are missing.
    #[error("entries {from} to {to} are missing")]
    MissingEntry {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A record stands where it does not belong.
    #[error("entry {number} stands after entry {after}")]
    ReorderedEntry {
        /// Its number.
        number: u64,
        /// Number of the record that is before it now.
        after: u64,
    },
    /// A record is there twice, or another with its number was put in.
    #[error("entry {number} is there a second time")]
    InsertedEntry {
        /// Its number.
        number: u64,
    },
    /// A record of a kind that cannot stand where it stands.
    #[error("entry {number} is a {what} where none belongs")]
    MisplacedRecord {
        /// Its number.
        number: u64,
        /// Its kind.
        what: &'static str,
    },
    /// The end of the log is missing.
    #[error("the last {by} entries were cut off: the log ends at {last}, its head says {head}")]
    Truncated {
        /// How many entries.
        by: u64,
        /// Number of the last record there is.
        last: u64,
        /// Number of the last record there was.
        head: u64,
    },
    /// The record that the head names is another one.
    #[error("entry {number} is not the one that audit.head signed")]
    HeadMismatch {
        /// Its number.
        number: u64,
    },
    /// The head was put back.
    #[error("audit.head says {head} and had said {at_least} before: it was replaced by an old one")]
    HeadRolledBack {
        /// What it says.
        head: u64,
        /// What it must say at least.
        at_least: u64,
    },
    /// There is no head.
    #[error("audit.head is missing: nothing says where the log ended")]
    HeadMissing,
    /// The head is damaged.
    #[error("audit.head is damaged, or not signed by this key")]
    HeadDamaged,
    /// A signature is wrong.
    #[error("entry {number} is not signed by this key: it was made up, or changed")]
    BadSignature {
        /// Number of the record.
        number: u64,
    },
    /// A checkpoint names another key.
    #[error("checkpoint {number} names the key {key}, which is not this log's")]
    UnknownKey {
        /// Number of the checkpoint.
        number: u64,
        /// Id of the key.
        key: String,
    },
    /// The public key is missing or damaged.
    #[error("{file} is missing or damaged")]
    KeyDamaged {
        /// Its file.
        file: &'static str,
    },
    /// The key in the directory is another than the one that was given, or that the chain names.
    #[error("{what} is not the key that signs: {found} instead of {wanted}")]
    KeyReplaced {
        /// What names the key.
        what: &'static str,
        /// Id of the key there.
        found: String,
        /// Id of the key it should be.
        wanted: String,
    },
    /// Others can read the signing key.
    #[error("audit.key has mode {mode:o}: others can read it and sign; wanted 600")]
    KeyExposed {
        /// Its mode.
        mode: u32,
    },
    /// A segment is missing.
    #[error("{file} is missing, and no record says that it was retired")]
    SegmentMissing {
        /// Its name.
        file: String,
    },
    /// There is nothing at all.
    #[error("there is no segment: the log is gone")]
    LogMissing,
    /// Bytes after the end of a log that was closed in order.
    #[error("{bytes} bytes stand after the end of a log that was closed")]
    ForeignBytes {
        /// How many.
        bytes: u64,
    },
    /// A file that does not belong here.
    #[error("{name} does not belong to the log")]
    ForeignFile {
        /// Its name.
        name: String,
    },
    /// An earlier chain was found broken and set aside.
    #[error("the log before this one was found broken and set aside in {directory}: {why}")]
    PredecessorBroken {
        /// Where it is.
        directory: String,
        /// What was wrong.
        why: String,
    },
    /// What was set aside is not as it was.
    #[error("{directory} is missing, or its files are not those that were set aside")]
    QuarantineChanged {
        /// Where it was.
        directory: String,
    },
    /// The anchor that the caller brought is not in the log.
    #[error("{anchor} is not in this log: it was rolled back, rewritten, or is another one")]
    AnchorMissing {
        /// The anchor.
        anchor: String,
    },
    /// The anchor lies in a segment that was retired.
    #[error("{anchor} lies in a segment that was retired: it cannot be checked any more")]
    AnchorRetired {
        /// The anchor.
        anchor: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            let file = segment_name(place.segment);
            write!(formatter, "{file}:{} (byte {}): ", place.line, place.offset)?;
        }
        write!(formatter, "{}", self.kind)
    }
}

/// Something worth saying that is no damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "remark", rename_all = "snake_case")]
pub enum Remark {
    /// The last group was not finished. None of it was acknowledged.
    #[error("{file} ends in {bytes} bytes that were never finished, nor acknowledged")]
    TornTail {
        /// The segment.
        file: String,
        /// How many bytes.
        bytes: u64,
    },
    /// The head has not followed the last group yet.
    #[error("the last {by} entries are not in audit.head yet: the log is in use, or was killed")]
    HeadBehind {
        /// How many.
        by: u64,
    },
    /// A retired segment is still there.
    #[error("{file} was retired and is still there")]
    RetiredPresent {
        /// The segment.
        file: String,
    },
    /// The signing key could not be looked at.
    #[error("audit.key was not checked: {why}")]
    KeyNotChecked {
        /// Why not.
        why: String,
    },
    /// Files that a crash left half written; they mean nothing and go with the next start.
    #[error("{name} was left unfinished and means nothing")]
    Unfinished {
        /// The name.
        name: String,
    },
}
