//! Verification: what the files say, held against themselves, the key, and anchors kept elsewhere.
//!
//! It changes nothing and takes no lock, so it may run beside the writer. It reads one segment at a
//! time. Whatever the files hold, it ends with a report; only a directory that cannot be read at
//! all is an error.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::digest::{Anchor, Digest};
use crate::files::{
    BROKEN, Directory, Files, HEAD_NAME, KEY_MODE, KEY_NAME, Kind, LOCK_NAME, Name,
    PUBLIC_KEY_NAME, UNFINISHED, segment_index, segment_name,
};
use crate::finding::{Finding, FindingKind, Remark};
use crate::head::Head;
use crate::key::{PublicKey, SecretKey};
use crate::quarantine;
use crate::walk::{Expected, Walk};

/// How often a directory is looked at anew, until two looks find the same.
const LOOKS_MAX: usize = 100;
/// How long a writer has to finish what a look saw half done.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Pause after a look during which segments came or went.
const AFTER_CHANGE: Duration = Duration::from_millis(5);

/// What to hold the log against, apart from itself.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The public key, as somebody kept it elsewhere; otherwise that of the directory.
    pub public_key: Option<PublicKey>,
    /// A record that must be in the log: what was its head once.
    pub expect_head: Option<Anchor>,
    /// A record that must be in the log; what is damaged before it is left out of the report.
    pub since: Option<Anchor>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything that is not as it was written; empty for an intact log.
    pub findings: Vec<Finding>,
    /// Findings that were too many to keep.
    pub findings_left_out: u64,
    /// What is worth saying and no damage.
    pub remarks: Vec<Remark>,
    /// Id of the key that signatures were held against.
    pub key: Option<String>,
    /// Segments that were read.
    pub segments: u64,
    /// Records that are whole.
    pub records: u64,
    /// Checkpoints among them.
    pub checkpoints: u64,
    /// Number of the first record.
    pub first: Option<u64>,
    /// The last record, for use as an anchor.
    pub last: Option<(u64, Digest)>,
}

impl Report {
    /// Whether nothing was found.
    pub const fn is_intact(&self) -> bool {
        self.findings.is_empty() && self.findings_left_out == 0
    }
}

/// A directory that cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the audit log in {path}: {error}")]
pub struct VerifyError {
    /// The directory.
    pub path: String,
    /// Why not.
    pub error: std::io::Error,
}

/// Verifies the log in a directory.
///
/// # Errors
/// When the directory or a file in it cannot be read. Damage is no error but a finding.
pub fn verify(directory: &Path, options: &VerifyOptions) -> Result<Report, VerifyError> {
    let files = Directory(directory.to_owned());
    let look = || {
        look(&files, options).map_err(|error| VerifyError {
            path: directory.display().to_string(),
            error,
        })
    };
    // A writer may be in the middle of something. Damage stays; what it does, does not.
    let mut before: Option<Report> = None;
    for _ in 1..LOOKS_MAX {
        let (report, is_steady) = look()?;
        let is_same = before.is_some_and(|before| before.findings == report.findings);
        if report.is_intact() || (is_steady && is_same) {
            return Ok(report);
        }
        before = is_steady.then_some(report);
        std::thread::sleep(if is_steady {
            BETWEEN_LOOKS
        } else {
            AFTER_CHANGE
        });
    }
    Ok(look()?.0)
}

/// Verifies a log that nobody writes any more, like a copy: at one look, where [`verify`] looks
/// again before it calls something damage that a writer may just be finishing.
///
/// # Errors
/// As [`verify`].
pub fn verify_copy(directory: &Path, options: &VerifyOptions) -> Result<Report, VerifyError> {
    let (report, _) =
        look(&Directory(directory.to_owned()), options).map_err(|error| VerifyError {
            path: directory.display().to_string(),
            error,
        })?;
    Ok(report)
}

/// One look at the files, and whether the same segments were there all the time.
fn look(files: &impl Files, options: &VerifyOptions) -> std::io::Result<(Report, bool)> {
    let mut remarks = Vec::new();
    let mut findings = Vec::new();
    let key = keys(files, options, &mut findings, &mut remarks)?;
    let known_head = head(files, key.as_ref(), &mut findings)?;
    let names = files.names("")?;
    let segments = segments_of(&names);
    let mut walk = Walk::new(Expected {
        key: key.as_ref(),
        head: known_head.as_ref(),
        last_segment: segments.last().copied().unwrap_or(0),
        anchors: [options.expect_head, options.since],
    });
    let mut before: Option<u32> = None;
    for index in &segments {
        if let Some(before) = before
            && index - before > 1
        {
            walk.missing_segments(before + 1, index - 1);
        }
        before = Some(*index);
        // Retention may have removed it since; then the look does not count.
        let bytes = files.read(&segment_name(*index))?.unwrap_or_default();
        walk.segment(*index, &bytes);
    }
    if segments.is_empty() {
        walk.found(FindingKind::LogMissing, None);
    }
    walk.finish();
    walk.check_oldest();
    // The head that is there now cannot be older than what the records read meanwhile have seen.
    let now = head(files, key.as_ref(), &mut Vec::new())?;
    if let Some(now) = now
        && now.number < walk.head_seen
    {
        let kind = FindingKind::HeadRolledBack {
            head: now.number,
            at_least: walk.head_seen,
        };
        walk.found(kind, None);
    }
    set_aside(files, &mut walk)?;
    foreign(&names, &mut walk, &mut remarks);
    anchors(options, &mut walk);
    remarks_of(&walk, known_head.as_ref(), &segments, &mut remarks);
    let is_steady = segments_of(&files.names("")?) == segments;
    let report = report(walk, findings, remarks, key, &segments, options);
    Ok((report, is_steady))
}

fn report(
    walk: Walk<'_>,
    mut findings: Vec<Finding>,
    remarks: Vec<Remark>,
    key: Option<PublicKey>,
    segments: &[u32],
    options: &VerifyOptions,
) -> Report {
    let since = walk.anchors[1].filter(|_| options.since.is_some());
    findings.extend(walk.findings);
    findings.retain(|finding| match (finding.place, since) {
        (Some(place), Some(since)) => place > since,
        _ => true,
    });
    findings.sort_by_key(|finding| (finding.place.is_none(), finding.place));
    Report {
        findings,
        findings_left_out: walk.left_out,
        remarks,
        key: key.map(|key| key.id()),
        segments: segments.len() as u64,
        records: walk.counts.records,
        checkpoints: walk.counts.checkpoints,
        first: walk.first.map(|(_, number, _)| number),
        last: walk.last.map(|last| (last.number, last.hash)),
    }
}

fn segments_of(names: &[Name]) -> Vec<u32> {
    let files = names.iter().filter(|name| name.kind == Kind::File);
    let mut segments: Vec<u32> = files.filter_map(|name| segment_index(&name.name)).collect();
    segments.sort_unstable();
    segments
}

fn plain_finding(kind: FindingKind) -> Finding {
    Finding { kind, place: None }
}

/// The key to hold signatures against, and what is wrong with the files of keys.
fn keys(
    files: &impl Files,
    options: &VerifyOptions,
    findings: &mut Vec<Finding>,
    remarks: &mut Vec<Remark>,
) -> std::io::Result<Option<PublicKey>> {
    let mut damaged = |file| findings.push(plain_finding(FindingKind::KeyDamaged { file }));
    let public = files.read(PUBLIC_KEY_NAME)?;
    let public = public.and_then(|text| PublicKey::from_text(&text));
    if public.is_none() {
        damaged(PUBLIC_KEY_NAME);
    }
    let secret = match files.read(KEY_NAME) {
        Ok(Some(text)) => {
            let secret = SecretKey::from_text(&text).map(|key| key.public());
            if secret.is_none() {
                damaged(KEY_NAME);
            }
            secret
        }
        // A copy for somebody who brings the public key need not have the secret one.
        Ok(None) if options.public_key.is_some() => {
            let why = "it is not in this directory".to_owned();
            remarks.push(Remark::KeyNotChecked { why });
            None
        }
        Ok(None) => {
            damaged(KEY_NAME);
            None
        }
        Err(error) => {
            let why = error.to_string();
            remarks.push(Remark::KeyNotChecked { why });
            None
        }
    };
    if secret.is_some() {
        let mode = files.mode(KEY_NAME)?;
        if mode != KEY_MODE {
            findings.push(plain_finding(FindingKind::KeyExposed { mode }));
        }
    }
    let key = options.public_key.or(public).or(secret);
    let named = [(PUBLIC_KEY_NAME, public), (KEY_NAME, secret)];
    for (what, found) in named {
        if let (Some(found), Some(wanted)) = (found, key)
            && found != wanted
        {
            findings.push(plain_finding(FindingKind::KeyReplaced {
                what,
                found: found.id(),
                wanted: wanted.id(),
            }));
        }
    }
    Ok(key)
}

fn head(
    files: &impl Files,
    key: Option<&PublicKey>,
    findings: &mut Vec<Finding>,
) -> std::io::Result<Option<Head>> {
    let Some(text) = files.read(HEAD_NAME)? else {
        findings.push(plain_finding(FindingKind::HeadMissing));
        return Ok(None);
    };
    let head = key.and_then(|key| Head::decode(&text, key));
    if head.is_none() {
        findings.push(plain_finding(FindingKind::HeadDamaged));
    }
    Ok(head)
}

/// Chains that were set aside: said again, and held against what they were.
fn set_aside(files: &impl Files, walk: &mut Walk<'_>) -> std::io::Result<()> {
    let Some((broken, place)) = walk.broken.clone() else {
        return Ok(());
    };
    for broken in broken {
        let found = quarantine::digest(files, &broken.directory)?;
        let directory = broken.directory.clone();
        let kind = FindingKind::PredecessorBroken {
            directory: broken.directory,
            why: broken.why,
        };
        walk.found(kind, Some(place));
        if found != Some(broken.digest) {
            walk.found(FindingKind::QuarantineChanged { directory }, Some(place));
        }
    }
    Ok(())
}

/// Names that do not belong here.
fn foreign(names: &[Name], walk: &mut Walk<'_>, remarks: &mut Vec<Remark>) {
    for Name { name, kind } in names {
        let known = [LOCK_NAME, KEY_NAME, PUBLIC_KEY_NAME, HEAD_NAME].contains(&name.as_str())
            || segment_index(name).is_some();
        let is_broken = name.starts_with(BROKEN)
            && walk
                .broken
                .iter()
                .flat_map(|(broken, _)| broken)
                .any(|broken| broken.directory == *name);
        let is_unfinished = name
            .strip_suffix(UNFINISHED)
            .is_some_and(|name| [KEY_NAME, PUBLIC_KEY_NAME, HEAD_NAME].contains(&name));
        let name = name.clone();
        match kind {
            Kind::File if known => {}
            Kind::Directory if is_broken => {}
            Kind::File if is_unfinished => remarks.push(Remark::Unfinished { name }),
            _ => walk.found(FindingKind::ForeignFile { name }, None),
        }
    }
}

fn anchors(options: &VerifyOptions, walk: &mut Walk<'_>) {
    for (index, wanted) in [options.expect_head, options.since].into_iter().enumerate() {
        let Some(wanted) = wanted.filter(|_| walk.anchors[index].is_none()) else {
            continue;
        };
        let first = walk.first.map_or(1, |(_, number, _)| number);
        let is_last_retired = walk.retired.iter().any(|old| old.hash == wanted.hash);
        let anchor = wanted.to_string();
        match wanted.number {
            _ if is_last_retired => {}
            Some(number) if number < first => {
                walk.found(FindingKind::AnchorRetired { anchor }, None);
            }
            _ => walk.found(FindingKind::AnchorMissing { anchor }, None),
        }
    }
}

fn remarks_of(walk: &Walk<'_>, head: Option<&Head>, segments: &[u32], remarks: &mut Vec<Remark>) {
    if let Some((segment, _, bytes)) = walk.torn {
        let file = segment_name(segment);
        remarks.push(Remark::TornTail { file, bytes });
    }
    let by = head.map_or(0, |head| walk.last_number().saturating_sub(head.number));
    if by > 0 {
        remarks.push(Remark::HeadBehind { by });
    }
    for retired in &walk.retired {
        if segments.contains(&retired.segment) {
            let file = segment_name(retired.segment);
            remarks.push(Remark::RetiredPresent { file });
        }
    }
}

#[cfg(test)]
mod tests;
