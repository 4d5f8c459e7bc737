//! The memory of the black box: words in a locked tmpfs file, or on the heap where there is none.
//!
//! setup-only to make; the words are plain atomics, rt-safe to use. The file is on **tmpfs**, and
//! [`Memory::in_file`] refuses any other file system: pages of a disk file are written back, and
//! the next store to a written-back page faults and may wait for the disk, locked or not. A tmpfs
//! page is the page cache itself: once allocated, touched and locked it never faults again, and it
//! outlives a process that dies by SIGKILL. It does not outlive the machine's power: that is what
//! the files on disk are for. Every page is allocated here, so a tmpfs that fills up later cannot
//! turn a store into SIGBUS.

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mlock, mmap, munmap};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

/// Most words a black box can have: 128 MiB of locked memory is more than a recorder is worth.
pub const WORDS_MAX: usize = 128 * 1024 * 1024 / 8;

/// Why there is no black box in a file.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file could not be made.
    #[error("black box {}: {call} failed: {errno}; is there room, and may kairo-rt write there?",
            path.display())]
    System {
        /// The call.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// Not on tmpfs.
    #[error("black box {} is not on tmpfs, where a store never waits for a disk; \
             use a run directory below /run or /dev/shm", path.display())]
    NotTmpfs {
        /// The file.
        path: PathBuf,
    },
    /// A directory that others may use, or no directory.
    #[error("black box directory {} is not ours alone (a directory of this user, mode 0700); \
             remove it, or use a run directory below /run", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// Another process records there.
    #[error("black box {} is in use by another process; give each kairo-rt its own run directory",
            path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Too large.
    #[error("black box {}: {words} words are more than {WORDS_MAX}; lower recorder.keep_seconds",
            path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Words asked for.
        words: usize,
    },
}

#[derive(Debug)]
enum Backing {
    Mapped(PathBuf),
    Heap,
}

/// See the module documentation. Dropping it frees, so the last reference lives in `main`.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
    backing: Backing,
    /// Tells others that the process lives: a lock ends with it.
    lock: Option<Flock<File>>,
}

// SAFETY: nothing but atomic words, all access through shared `&AtomicU64`.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Memory {
    /// A new, zeroed, allocated, touched and (where allowed) locked file. setup-only.
    ///
    /// # Errors
    /// When it cannot be made, or not on tmpfs.
    pub fn in_file(path: &Path, words: usize) -> Result<Self, MemoryError> {
        let path = path.to_path_buf();
        let system = |call: &'static str| {
            let path = path.clone();
            move |errno: Errno| MemoryError::System { call, path, errno }
        };
        let length = NonZeroUsize::new(words * 8).filter(|_| words <= WORDS_MAX);
        let Some(length) = length else {
            return Err(MemoryError::TooLarge { path, words });
        };
        let file = open_new(&path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            system("open")(errno)
        })?;
        let found = fstatfs(file.as_fd()).map_err(system("fstatfs"))?;
        if found.filesystem_type() != TMPFS_MAGIC {
            let _ = std::fs::remove_file(&path);
            return Err(MemoryError::NotTmpfs { path });
        }
        let lock = lock_present(file, &path).ok_or(MemoryError::InUse { path: path.clone() })?;
        let bytes = i64::try_from(length.get()).unwrap_or(i64::MAX);
        fallocate(lock.as_fd(), FallocateFlags::empty(), 0, bytes).map_err(|errno| {
            let _ = std::fs::remove_file(&path);
            system("fallocate")(errno)
        })?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address the kernel chooses; it aliases no Rust object.
        let start = unsafe {
            mmap(
                None,
                length,
                protection,
                MapFlags::MAP_SHARED,
                lock.as_fd(),
                0,
            )
        }
        .map_err(system("mmap"))?;
        // A daemon that could not lock its memory says so in the bring-up table already; here the
        // touching below does what can be done.
        // SAFETY: exactly the range just mapped.
        let _ = unsafe { mlock(start, length.get()) };
        let memory = Self {
            start: start.cast(),
            words,
            backing: Backing::Mapped(path),
            lock: Some(lock),
        };
        memory.touch();
        Ok(memory)
    }

    /// The same on the heap: nothing survives the process. setup-only.
    pub fn in_heap(words: usize) -> Self {
        let memory: Box<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let start = NonNull::new(Box::into_raw(memory).cast::<AtomicU64>())
            .expect("a boxed slice is not null");
        let memory = Self {
            start,
            words,
            backing: Backing::Heap,
            lock: None,
        };
        memory.touch();
        memory
    }

    fn touch(&self) {
        for word in self.words().iter().step_by(512) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The words. rt-safe.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words stay mapped (or allocated) while `self` lives, and `AtomicU64`
        // tolerates any content. Who may truncate the file is root or the own user: the file is
        // 0600 in a directory that the agent plane cannot write.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Whether the words survive the process, and who finds them knows that it is gone. setup-only.
    pub const fn survives(&self) -> bool {
        self.lock.is_some()
    }

    /// Removes the file, if there is one: nothing is left to be found. The mapping stays.
    pub fn forget(&self) {
        if let Backing::Mapped(path) = &self.backing {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes and keeps the lock of `file`, unless another process has it, or `path` is another file by
/// now. setup-only.
///
/// Whoever replaces or renames a file holds its lock meanwhile. So a file that was made and not
/// locked yet, and was taken for abandoned, is found to be gone here, and one that is there stays.
pub(crate) fn lock_present(file: File, path: &Path) -> Option<Flock<File>> {
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    let (mine, there) = (lock.metadata().ok()?, path.symlink_metadata().ok()?);
    ((mine.dev(), mine.ino()) == (there.dev(), there.ino())).then_some(lock)
}

fn open_new(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.backing {
            Backing::Mapped(_) => {
                // SAFETY: the range that `in_file` mapped, and nobody can reach it any more. A
                // failure would only leak the mapping.
                let _ = unsafe { munmap(self.start.cast(), self.words * 8) };
            }
            Backing::Heap => {
                let slice = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.words);
                // SAFETY: `in_heap` made this pointer from a box of the same slice.
                drop(unsafe { Box::from_raw(slice) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_refused_and_nothing_is_left_there() {
        // The build directory: on a machine where it is tmpfs there is nothing to show.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("box");
        match Memory::in_file(&path, 64) {
            Err(MemoryError::NotTmpfs { .. }) => assert!(!path.exists()),
            Ok(memory) => assert!(memory.survives()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_file_that_was_replaced_before_it_was_locked_is_nobody_s() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("box");
        // One process has made its file, and is not on to its lock yet …
        let slow = open_new(&path).unwrap();
        // … when another finds it unlocked, and replaces it.
        let held = lock_present(File::open(&path).unwrap(), &path);
        assert!(
            lock_present(slow.try_clone().unwrap(), &path).is_none(),
            "held"
        );
        std::fs::remove_file(&path).unwrap();
        let quick = Memory::in_file(&path, 64).unwrap();
        drop(held);
        assert!(lock_present(slow, &path).is_none(), "both record");
        assert!(quick.survives());
    }

    #[test]
    fn words_in_a_file_are_there_for_the_next_process() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("box");
        let memory = Memory::in_file(&path, 1000).unwrap();
        memory.words()[999].store(7, Ordering::Relaxed);
        drop(memory);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes[999 * 8]), (8000, 7));
    }
}
