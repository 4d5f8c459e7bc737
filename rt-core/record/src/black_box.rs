//! The black box: the rings of all loops in one file of memory, and what a crash leaves of them.
//!
//! setup-only and ordinary threads. The file carries the header of a record file, so that whoever
//! finds it needs nothing else. A kairo-rt that ends in order removes it; one that dies in any
//! other way leaves it, and the next start turns it into `crash-NNNNNNNN.krec`. The words found are
//! checked like a stranger's: half a header, spoilt positions or lengths cost the records, nothing
//! more. Two of them at most are ever there: the running one, and the one being brought to disk; of
//! several crashes before a disk works, the first is kept, because it is the one to explain.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::Flock;

use crate::file::{HEADER_BYTES_MAX, Header, encode_frame};
use crate::memory::{Memory, MemoryError, WORDS_MAX, lock_present};
use crate::ring::{Place, walk};

/// First word of the file.
const MAGIC: u64 = u64::from_le_bytes(*b"KREC-BBX");
/// Version of the layout.
const VERSION: u64 = 2;
/// Loops there is room for.
const LOOPS_MAX: usize = kairo_link::stats::MAX_LOOPS;
/// First word of the places of the rings, two words each.
const PLACES: usize = 8;
/// First word of the header's text.
const TEXT: usize = PLACES + 2 * LOOPS_MAX;
/// Rings start on a pair of cache lines.
const ALIGNMENT: usize = 16;
/// The black box in a run directory.
const FILE_NAME: &str = "flight.ring";
/// One of an earlier run, on its way to disk.
const CRASHED_NAME: &str = "flight.crashed";
/// In /dev/shm: the run directory it belongs to.
const OWNER_NAME: &str = "run-dir";

/// The memory of the rings and where each lies.
#[derive(Debug)]
pub struct BlackBox {
    /// The memory.
    pub memory: Arc<Memory>,
    /// The rings, by loop.
    pub places: Vec<Place>,
    /// Why the memory does not survive a crash, if it does not.
    pub trouble: Option<MemoryError>,
}

/// Where a black box can be: the run directory if that is on tmpfs, else a directory of its own in
/// /dev/shm, named after the run directory, whichever way that was written.
fn directories(run_dir: &Path) -> [PathBuf; 2] {
    let run_dir = run_dir.canonicalize().unwrap_or(run_dir.to_path_buf());
    let name = run_dir.as_os_str().as_encoded_bytes();
    let own = format!("/dev/shm/kairo-{:08x}", crc32fast::hash(name));
    [run_dir, PathBuf::from(own)]
}

/// Makes the rings, with these capacities in words, for a kairo-rt that runs in `run_dir`. Where
/// no file can be made they are on the heap, and `trouble` says why. setup-only.
pub fn make(run_dir: &Path, header: &Header, capacities: &[usize]) -> BlackBox {
    let text = serde_json::to_vec(header).unwrap_or_default();
    let mut next = (TEXT + text.len().div_ceil(8)).next_multiple_of(ALIGNMENT);
    let mut places = Vec::new();
    for capacity in capacities.iter().take(LOOPS_MAX) {
        let place = Place {
            offset: next,
            capacity: *capacity,
        };
        next += place.words();
        places.push(place);
    }
    let (made, trouble) = match make_memory(run_dir, next) {
        Ok(memory) => (Some(memory), None),
        Err(trouble) => (None, Some(trouble)),
    };
    let memory = made.unwrap_or_else(|| Memory::in_heap(next));
    write_start(&memory, &text, &places);
    BlackBox {
        memory: Arc::new(memory),
        places,
        trouble,
    }
}

/// The memory in the first directory that takes it; else what is in the way.
fn make_memory(run_dir: &Path, words: usize) -> Result<Memory, MemoryError> {
    let [run_dir, own] = directories(run_dir);
    let first = match make_in(&run_dir, words) {
        Err(error) if !matches!(error, MemoryError::InUse { .. }) => error,
        decided => return decided,
    };
    make_private(&own, &run_dir)?;
    make_in(&own, words).map_err(|error| match error {
        MemoryError::InUse { .. } => error,
        _ => first,
    })
}

fn make_in(directory: &Path, words: usize) -> Result<Memory, MemoryError> {
    let path = directory.join(FILE_NAME);
    // Kept until the new file is there; see `lock_present`.
    let abandoned = owned(&path).then(|| take_abandoned(&path));
    if matches!(abandoned, Some(None)) {
        return Err(MemoryError::InUse { path });
    }
    let _ = std::fs::remove_file(&path);
    Memory::in_file(&path, words)
}

/// Makes the directory in /dev/shm, where everybody may have made one of that name before, and
/// writes down whose it is.
fn make_private(directory: &Path, run_dir: &Path) -> Result<(), MemoryError> {
    use std::os::unix::fs::DirBuilderExt;
    // If it is there already, what counts is whose it is.
    let _ = std::fs::DirBuilder::new().mode(0o700).create(directory);
    if !is_private(directory) {
        let path = directory.to_path_buf();
        return Err(MemoryError::NotPrivate { path });
    }
    let owner = directory.join(OWNER_NAME);
    let _ = std::fs::remove_file(&owner);
    write_new(&owner, run_dir.as_os_str().as_encoded_bytes()).map_err(|error| MemoryError::System {
        call: "open",
        path: owner,
        errno: nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    })
}

/// Writes a file that must not be there: `create_new` follows no link either.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

/// Whether this is a directory, not a link to one, that nobody but us can use.
fn is_private(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::geteuid().as_raw();
    std::fs::symlink_metadata(directory)
        .is_ok_and(|found| found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0)
}

/// Removes black boxes in /dev/shm whose run directory is gone: nobody will ever look for them.
fn sweep() {
    use std::os::unix::ffi::OsStringExt;
    let found = std::fs::read_dir("/dev/shm");
    for entry in found.into_iter().flatten().flatten() {
        let (directory, name) = (entry.path(), entry.file_name());
        let owner = directory.join(OWNER_NAME);
        if !name.to_string_lossy().starts_with("kairo-")
            || !is_private(&directory)
            || !owned(&owner)
        {
            continue;
        }
        let Ok(run_dir) = std::fs::read(&owner) else {
            continue;
        };
        let gone = !Path::new(&std::ffi::OsString::from_vec(run_dir)).exists();
        let ring = directory.join(FILE_NAME);
        // Kept while the files go.
        let abandoned = ring.exists().then(|| take_abandoned(&ring));
        if gone && !matches!(abandoned, Some(None)) {
            for name in [FILE_NAME, CRASHED_NAME, OWNER_NAME] {
                let _ = std::fs::remove_file(directory.join(name));
            }
            let _ = std::fs::remove_dir(&directory);
        }
    }
}

fn write_start(memory: &Memory, text: &[u8], places: &[Place]) {
    let words = memory.words();
    let put = |index: usize, value: u64| words[index].store(value, Ordering::Relaxed);
    put(1, VERSION);
    put(2, places.len() as u64);
    put(3, text.len() as u64);
    for (index, place) in places.iter().enumerate() {
        put(PLACES + 2 * index, place.offset as u64);
        put(PLACES + 2 * index + 1, place.capacity as u64);
    }
    for (index, chunk) in text.chunks(8).enumerate() {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        put(TEXT + index, u64::from_le_bytes(bytes));
    }
    // Last: a file without it is not begun.
    words[0].store(MAGIC, Ordering::Release);
}

/// What an earlier kairo-rt left.
#[derive(Debug)]
pub struct Salvaged {
    /// The header of its files.
    pub header: Header,
    /// Its records, as frames of a file.
    pub frames: Vec<u8>,
    /// How many there are.
    pub records: u64,
    source: PathBuf,
}

impl Salvaged {
    /// One for the tests of others.
    #[cfg(test)]
    pub(crate) fn of(header: Header, frames: Vec<u8>, source: PathBuf) -> Self {
        let records = 1;
        Self {
            header,
            frames,
            records,
            source,
        }
    }

    /// It is on disk: the memory can go.
    pub fn done(self) {
        let _ = std::fs::remove_file(&self.source);
    }
}

/// Looks for a black box left in `run_dir`, before a new one is made there. `None` when the last
/// kairo-rt ended in order, or left nothing that could be read. setup-only.
pub fn salvage(run_dir: &Path) -> Option<Salvaged> {
    sweep();
    let [run_dir, own] = directories(run_dir);
    let own = Some(own).filter(|own| is_private(own));
    for directory in std::iter::once(run_dir).chain(own) {
        let (left, crashed) = (directory.join(FILE_NAME), directory.join(CRASHED_NAME));
        if !crashed.exists()
            && owned(&left)
            && let Some(_kept) = take_abandoned(&left)
        {
            let _ = std::fs::rename(&left, &crashed);
        }
        if !owned(&crashed) {
            continue;
        }
        let found = read_words(&crashed).and_then(|words| read(&words, &crashed));
        if found.is_some() {
            return found;
        }
        // Unreadable, or without a record: nothing to keep.
        let _ = std::fs::remove_file(&crashed);
    }
    None
}

/// The lock of the file, if the process that made it is gone.
fn take_abandoned(path: &Path) -> Option<Flock<std::fs::File>> {
    lock_present(std::fs::File::open(path).ok()?, path)
}

/// Whether a file is a plain file of ours: /dev/shm is everybody's.
fn owned(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.uid() == own)
}

fn read_words(path: &Path) -> Option<Vec<u64>> {
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take((WORDS_MAX * 8) as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let words = bytes.chunks_exact(8);
    Some(
        words
            .map(|word| {
                word.iter()
                    .rev()
                    .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
            })
            .collect(),
    )
}

fn read(words: &[u64], source: &Path) -> Option<Salvaged> {
    if words.get(..2)? != [MAGIC, VERSION] {
        return None;
    }
    let loops = usize::try_from(words.get(2).copied()?).ok()?;
    let length = usize::try_from(words.get(3).copied()?).ok()?;
    if loops > LOOPS_MAX || length > HEADER_BYTES_MAX {
        return None;
    }
    let text = words.get(TEXT..TEXT + length.div_ceil(8))?;
    let mut text: Vec<u8> = text.iter().flat_map(|word| word.to_le_bytes()).collect();
    text.truncate(length);
    let header: Header = serde_json::from_slice(&text).ok()?;
    let (mut frames, mut records) = (Vec::new(), 0);
    for index in 0..loops {
        let place = Place {
            offset: usize::try_from(*words.get(PLACES + 2 * index)?).ok()?,
            capacity: usize::try_from(*words.get(PLACES + 2 * index + 1)?).ok()?,
        };
        let number = u16::try_from(index).ok()?;
        walk(words, place, |kind, sequence, payload| {
            encode_frame(&mut frames, kind, number, sequence, payload);
            records += 1;
        });
    }
    (records > 0).then(|| Salvaged {
        header,
        frames,
        records,
        source: source.to_path_buf(),
    })
}

#[cfg(test)]
mod tests;
