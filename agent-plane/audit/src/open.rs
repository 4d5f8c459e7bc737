//! Opening: the end of the log is walked, an unfinished group is cut off, and a chain that is not
//! as it was written is set aside for a new one.
//!
//! It writes only what repairs need; what it has to say goes into the log with the first group, so
//! that a full disk does not keep the log from opening. A directory is made complete in this order:
//! segment, head, public key, key. The key last: with it there, anything missing is damage.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::entry::Entry;
use crate::files::{
    Directory, Files, HEAD_NAME, KEY_MODE, KEY_NAME, Kind, LOCK_NAME, LOG_MODE, PUBLIC_KEY_NAME,
    UNFINISHED, replace, segment_index, segment_name, sync_directory, to_count,
};
use crate::finding::{Finding, FindingKind};
use crate::head::Head;
use crate::key::{KeyError, PublicKey, SecretKey};
use crate::log::{Options, Position};
use crate::quarantine;
use crate::record::{
    Begin, Body, Broken, Checkpoint, CheckpointCause, Draft, FORMAT, LINE_BYTES_MAX, Record,
    Retired,
};
use crate::walk::{Expected, Signed, Walk};
use crate::writer::{BEFORE_FIRST, OldSegment, Writer, create};

/// How long a lock may take to go: a process that ended has children for a moment that have not
/// become other programs yet, and hold it as long as that.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why a log cannot be opened. Nothing can be audited then, so nothing that needs it may happen.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file.
    #[error("cannot use the audit log in {path}: {error}")]
    Io {
        /// The directory.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// Somebody else writes there.
    #[error("another process has the audit log in {path} open")]
    Locked {
        /// The directory.
        path: String,
    },
    /// No key can be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl OpenError {
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        let path = path.display().to_string();
        Self::Io { path, error }
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The last record, of this chain.
    pub last: Option<Position>,
    /// Whether a new chain was begun.
    pub is_new: bool,
    /// A chain that was broken, and is kept aside. Worth an alarm.
    pub quarantined: Option<Quarantined>,
    /// Bytes of an unfinished group that were cut off: the last run died while it wrote. None of
    /// them was acknowledged.
    pub cut_bytes: u64,
    /// What was put right, in sentences.
    pub mended: Vec<String>,
}

/// A chain that was found broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The directory below the log's in which it is kept.
    pub directory: String,
    /// What was wrong.
    pub why: String,
    /// Whether the signing key was lost with it, so that a new one was made.
    pub is_key_new: bool,
}

/// An open log.
pub struct Opened {
    /// Its files.
    pub writer: Writer,
    /// What was found.
    pub report: OpenReport,
}

/// What a directory holds.
enum State {
    /// No log.
    Fresh,
    /// A log that goes on.
    Whole(Box<Whole>),
    /// A log that was tampered with or lost something, and its key if that is still good.
    Broken(Box<Damage>),
}

/// What is wrong with a log, and its key if that is still good.
struct Damage {
    why: String,
    key: Option<SecretKey>,
}

/// A log that goes on.
struct Whole {
    key: SecretKey,
    head: u64,
    signed: Signed,
    newest: u32,
    torn_bytes: u64,
    unsigned: u64,
    old: VecDeque<OldSegment>,
    segment_first: u64,
    retired: Vec<u32>,
    broken: Vec<Broken>,
}

/// Opens the log in a directory.
pub fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let failed = |error| OpenError::io(path, error);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o750);
    builder.create(path).map_err(failed)?;
    let lock = lock(path)?;
    remove_unfinished(path).map_err(failed)?;
    let files = Directory(path.to_owned());
    match inspect(&files).map_err(failed)? {
        State::Fresh => {
            let broken = quarantine::list(path, &[], None).map_err(failed)?;
            begin(path, lock, SecretKey::generate()?, broken).map_err(failed)
        }
        State::Whole(whole) => go_on(path, lock, *whole, options).map_err(failed),
        State::Broken(damage) => {
            let Damage { why, key } = *damage;
            let known = known_broken(&files).map_err(failed)?;
            let is_key_new = key.is_none();
            let directory = quarantine::set_aside(path, is_key_new).map_err(failed)?;
            let newest = Some((directory.as_str(), why.as_str()));
            let broken = quarantine::list(path, &known, newest).map_err(failed)?;
            let key = key.map_or_else(SecretKey::generate, Ok)?;
            let mut opened = begin(path, lock, key, broken).map_err(failed)?;
            opened.report.quarantined = Some(Quarantined {
                directory,
                why,
                is_key_new,
            });
            Ok(opened)
        }
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let mut opening = OpenOptions::new();
    opening
        .write(true)
        .create(true)
        .truncate(false)
        .mode(LOG_MODE);
    let file = opening.open(path.join(LOCK_NAME));
    let file = file.map_err(|error| OpenError::io(path, error))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                let path = path.display().to_string();
                return Err(OpenError::Locked { path });
            }
            Err(TryLockError::Error(error)) => return Err(OpenError::io(path, error)),
        }
    }
}

/// Removes what a crash left half written.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    for name in [HEAD_NAME, KEY_NAME, PUBLIC_KEY_NAME] {
        match std::fs::remove_file(path.join(format!("{name}{UNFINISHED}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Judges what is there. Changes nothing.
fn inspect(files: &Directory) -> io::Result<State> {
    let names = files.names("")?;
    let mut segments: Vec<u32> = names
        .iter()
        .filter(|name| name.kind == Kind::File)
        .filter_map(|name| segment_index(&name.name))
        .collect();
    segments.sort_unstable();
    let head = files.read(HEAD_NAME)?;
    let secret = files.read(KEY_NAME)?;
    if segments.is_empty() && head.is_none() && secret.is_none() {
        return Ok(State::Fresh);
    }
    let Some(key) = secret.and_then(|text| SecretKey::from_text(&text)) else {
        return Ok(broken(FindingKind::KeyDamaged { file: KEY_NAME }, None));
    };
    let Some(head) = head else {
        return Ok(broken(FindingKind::HeadMissing, Some(key)));
    };
    let Some(head) = Head::decode(&head, &key.public()) else {
        return Ok(broken(FindingKind::HeadDamaged, Some(key)));
    };
    let (Some(oldest), Some(newest)) = (segments.first(), segments.last()) else {
        return Ok(broken(FindingKind::LogMissing, Some(key)));
    };
    let gap = (*oldest..=*newest).find(|index| segments.binary_search(index).is_err());
    let lost = (!segments.contains(&head.segment)).then_some(head.segment);
    if let Some(lost) = gap.or(lost) {
        let file = segment_name(lost);
        return Ok(broken(FindingKind::SegmentMissing { file }, Some(key)));
    }
    end_of(files, key, &head, *oldest, *newest)
}

fn broken(kind: FindingKind, key: Option<SecretKey>) -> State {
    let why = kind.to_string();
    State::Broken(Box::new(Damage { why, key }))
}

/// Walks from the segment of the head to the newest.
fn end_of(
    files: &Directory,
    key: SecretKey,
    head: &Head,
    oldest: u32,
    newest: u32,
) -> io::Result<State> {
    let public = key.public();
    let mut walk = Walk::new(Expected {
        key: Some(&public),
        head: Some(head),
        last_segment: newest,
        anchors: [None; 2],
    });
    for index in head.segment..=newest {
        let bytes = files.read(&segment_name(index))?.unwrap_or_default();
        walk.segment(index, &bytes);
    }
    walk.finish();
    if head.number < walk.head_seen {
        let kind = FindingKind::HeadRolledBack {
            head: head.number,
            at_least: walk.head_seen,
        };
        walk.found(kind, None);
    }
    if let Some(first) = walk.findings.first() {
        return Ok(State::Broken(Box::new(Damage {
            why: because(first, walk.findings.len()),
            key: Some(key),
        })));
    }
    // Without a finding the head's own record is there, and signed.
    let Some(signed) = walk.signed else {
        return Ok(broken(FindingKind::LogMissing, Some(key)));
    };
    let (old, segment_first) = match old_segments(files, oldest, signed.segment)? {
        Ok(found) => found,
        Err(index) => {
            let file = segment_name(index);
            return Ok(broken(FindingKind::SegmentMissing { file }, Some(key)));
        }
    };
    let retired = walk.retired.iter().map(|retired| retired.segment);
    Ok(State::Whole(Box::new(Whole {
        key,
        head: head.number,
        signed,
        newest,
        torn_bytes: walk.torn.map_or(0, |(_, _, bytes)| bytes),
        unsigned: walk.counts.unsigned,
        old,
        segment_first,
        retired: retired.filter(|index| *index < head.segment).collect(),
        broken: walk.broken.map(|(broken, _)| broken).unwrap_or_default(),
    })))
}

/// Segments before the newest, and the newest's first number; or a segment without a first record.
fn old_segments(
    files: &Directory,
    oldest: u32,
    newest: u32,
) -> io::Result<Result<(VecDeque<OldSegment>, u64), u32>> {
    let mut firsts = Vec::new();
    for index in oldest..=newest {
        match first_record(files, index)? {
            Some(record) => firsts.push(record),
            None => return Ok(Err(index)),
        }
    }
    let mut old = VecDeque::new();
    for (index, pair) in (oldest..).zip(firsts.windows(2)) {
        old.push_back(OldSegment {
            retired: Retired {
                segment: index,
                first: pair[0].number,
                last: pair[1].number.saturating_sub(1),
                hash: pair[1].previous,
            },
            bytes: files.0.join(segment_name(index)).metadata()?.len(),
        });
    }
    Ok(Ok((old, firsts.last().map_or(1, |record| record.number))))
}

fn because(first: &Finding, count: usize) -> String {
    match count {
        1 => first.to_string(),
        count => format!("{first}; and {} more", count - 1),
    }
}

pub fn first_record(files: &Directory, index: u32) -> io::Result<Option<Record>> {
    let line = files.first_line(&segment_name(index), LINE_BYTES_MAX)?;
    Ok(Record::decode(&line))
}

/// Chains that the one that is broken now had set aside before it.
fn known_broken(files: &Directory) -> io::Result<Vec<Broken>> {
    let names = files.names("")?;
    let mut known = Vec::new();
    for index in names.iter().filter_map(|name| segment_index(&name.name)) {
        match first_record(files, index)?.map(|record| record.record) {
            Some(Body::Begin(begin)) => known = begin.broken,
            Some(Body::Segment(segment)) => known = segment.broken,
            _ => {}
        }
    }
    Ok(known)
}

/// Cuts off what was not finished and continues.
fn go_on(path: &Path, lock: File, whole: Whole, options: &Options) -> io::Result<Opened> {
    let Signed {
        last,
        segment,
        ends_at,
    } = whole.signed;
    let mut report = OpenReport {
        last: Some(Position {
            number: last.number,
            hash: last.hash,
        }),
        cut_bytes: whole.torn_bytes,
        ..OpenReport::default()
    };
    let file = cut_back(path, segment, ends_at, whole.newest)?;
    let mut old = whole.old;
    for index in whole.retired {
        if old
            .front()
            .is_some_and(|oldest| oldest.retired.segment == index)
        {
            std::fs::remove_file(path.join(segment_name(index)))?;
            old.pop_front();
        }
    }
    sync_directory(path)?;
    mend_keys(path, &whole.key, &mut report)?;
    let is_cut = report.cut_bytes > 0 || segment < whole.newest;
    let cut = is_cut.then(|| cut_note(segment, ends_at, report.cut_bytes));
    let mended = report.mended.iter();
    let mended = mended.map(|what| Entry::own_note("audit.mended", what.clone()));
    let notes = cut.into_iter().chain([opened_note()]).chain(mended);
    // What the redactor would hide is hidden in the log's own notes too.
    let redactor = options.redactor.as_ref();
    let notes = notes.map(|note| note.bounded(redactor)).collect();
    let writer = Writer {
        directory: path.to_owned(),
        _lock: lock,
        key: whole.key,
        clock: Clock::system(),
        file,
        segment,
        segment_bytes: ends_at,
        segment_first: whole.segment_first,
        old,
        last: Position {
            number: last.number,
            hash: last.hash,
        },
        head: whole.head,
        unsigned: whole.unsigned,
        broken: whole.broken,
        notes,
        is_dirty: false,
        is_marked_open: false,
    };
    Ok(Opened { writer, report })
}

/// Removes what was not finished, and opens the segment that goes on.
fn cut_back(path: &Path, segment: u32, ends_at: u64, newest: u32) -> io::Result<File> {
    for unfinished in segment + 1..=newest {
        std::fs::remove_file(path.join(segment_name(unfinished)))?;
    }
    let mut opening = OpenOptions::new();
    let file = opening
        .read(true)
        .write(true)
        .open(path.join(segment_name(segment)))?;
    file.set_len(ends_at)?;
    file.sync_all()?;
    Ok(file)
}

fn cut_note(segment: u32, ends_at: u64, bytes: u64) -> Entry {
    let file = segment_name(segment);
    Entry::own_note(
        "audit.cut",
        format!(
            "the end of an unfinished group was cut off {file} at byte {ends_at}: {bytes} bytes, \
             none of them acknowledged"
        ),
    )
}

fn opened_note() -> Entry {
    let mut note = Entry::own_note("audit.open", "the log was opened for writing".to_owned());
    note.who.pid = Some(std::process::id());
    note.details = format!("kairo-audit {}", env!("CARGO_PKG_VERSION"));
    note
}

/// Puts the public key back and the mode of the secret one right.
fn mend_keys(path: &Path, key: &SecretKey, report: &mut OpenReport) -> io::Result<()> {
    let files = Directory(path.to_owned());
    let public = files.read(PUBLIC_KEY_NAME)?;
    let public = public.and_then(|text| PublicKey::from_text(&text));
    if public != Some(key.public()) {
        let text = key.public().to_text();
        replace(path, PUBLIC_KEY_NAME, text.as_bytes(), LOG_MODE)?;
        report.mended.push(format!(
            "{PUBLIC_KEY_NAME} was missing or damaged: written anew"
        ));
    }
    let mode = files.mode(KEY_NAME)?;
    if mode != KEY_MODE {
        let permissions = std::fs::Permissions::from_mode(KEY_MODE);
        std::fs::set_permissions(path.join(KEY_NAME), permissions)?;
        report.mended.push(format!(
            "{KEY_NAME} had mode {mode:o}, so others may have read it: set to 600; remove the key \
             to make a new one"
        ));
    }
    Ok(())
}

/// Begins a chain.
fn begin(path: &Path, lock: File, key: SecretKey, broken: Vec<Broken>) -> io::Result<Opened> {
    let clock = Clock::system();
    let mut last = BEFORE_FIRST;
    let mut bytes = Vec::new();
    let bodies = [
        Body::Begin(Begin {
            format: FORMAT,
            public_key: key.public().hex(),
            broken: broken.clone(),
        }),
        Body::Checkpoint(Checkpoint {
            key: key.public().id(),
            segment: 1,
            cause: CheckpointCause::Start,
        }),
    ];
    for body in bodies {
        let draft = Draft {
            number: last.number + 1,
            moment: clock.now(),
            head: 0,
            body,
            previous: last.hash,
        };
        let (line, hash) = draft.encode((last.number == 1).then_some(&key));
        last = Position {
            number: last.number + 1,
            hash,
        };
        bytes.extend_from_slice(&line);
    }
    let file = create(&path.join(segment_name(1)), &bytes)?;
    sync_directory(path)?;
    let is_key_new = Directory(path.to_owned()).read(KEY_NAME)?.is_none();
    let text = key.to_text();
    let mut writer = Writer {
        directory: path.to_owned(),
        _lock: lock,
        key,
        clock,
        file,
        segment: 1,
        segment_bytes: to_count(bytes.len()),
        segment_first: 1,
        old: VecDeque::new(),
        last,
        head: 0,
        unsigned: 0,
        broken,
        notes: vec![opened_note()],
        is_dirty: false,
        is_marked_open: true,
    };
    writer.store_head(false)?;
    let public = writer.public_key().to_text();
    replace(path, PUBLIC_KEY_NAME, public.as_bytes(), LOG_MODE)?;
    if is_key_new {
        replace(path, KEY_NAME, text.as_bytes(), KEY_MODE)?;
    }
    let report = OpenReport {
        last: Some(last),
        is_new: true,
        ..OpenReport::default()
    };
    Ok(Opened { writer, report })
}
