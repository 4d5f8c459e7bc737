//! A shared-memory segment: a sealed memfd, or plain heap memory in tests, seen as atomic words.
//!
//! setup-only: making, mapping and dropping a segment allocates and calls the kernel.
//! rt-safe: [`Segment::words`].

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::sync::{AtomicU64, Ordering};

/// Marks a segment of ours: "KAIROLNK" in ASCII.
pub const MAGIC: u64 = 0x4B41_4952_4F4C_4E4B;
/// Version of every layout in this crate. A peer with another version is refused.
///
/// 2: rings and state buffers belong to a connection, and are sealed once the peer has mapped them.
/// 3: commands have velocities, acceleration and jerk; states have faults.
/// 4: statistics of 32 loops and buses, and the block that made a system call.
/// 5: statistics have GPIO lines.
pub const VERSION: u64 = 5;
/// Words before the payload: magic, version, kind, payload words, capacity, epoch, two spare.
/// 16 words are 128 bytes: two cache lines, so the payload shares no line (nor an adjacent
/// prefetched one) with the header.
pub const HEADER_WORDS: usize = 16;
/// `F_SEAL_FUTURE_WRITE` (linux/fcntl.h), which nix does not name yet.
pub(crate) const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(0x0010);
/// No segment is larger: a bound on what a peer may ask us to map (4 MiB).
pub const MAX_WORDS: usize = 512 * 1024;

/// Words of the smallest page Linux has: a step that misses no page.
const PAGE_WORDS_MIN: usize = 4096 / 8;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// A single-producer single-consumer ring.
    Ring = 1,
    /// A latest-value triple buffer.
    Latest = 2,
    /// Counters and histograms, read-only to the agent plane.
    Stats = 3,
}

/// Why a segment could not be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// A system call failed.
    #[error("{call} of a {bytes}-byte shared segment failed: {errno}")]
    System {
        /// The system call.
        call: &'static str,
        /// Size asked for.
        bytes: usize,
        /// What the kernel said.
        errno: nix::errno::Errno,
    },
    /// The segment is not one of ours, or not of this version or shape.
    #[error("shared segment refused: {field} is {found:#x}, expected {expected:#x}")]
    Shape {
        /// The header field that is wrong.
        field: &'static str,
        /// What the segment says.
        found: u64,
        /// What was expected.
        expected: u64,
    },
    /// The peer could shrink or grow the file under us.
    #[error("shared segment refused: it is not sealed against resizing")]
    NotSealed,
}

/// Whether the peer that receives the descriptor may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAccess {
    /// The peer can map it writable; see [`crate::offer`] for what must follow.
    ReadWrite,
    /// `F_SEAL_FUTURE_WRITE`: mappings made from now on are read-only.
    ReadOnly,
}

/// Words of a line pair, the distance between words that two sides write.
const LINE_WORDS: usize = 16;

/// Heap memory aligned as a mapping is, as far as that matters.
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct HeapLine([AtomicU64; LINE_WORDS]);

#[derive(Debug)]
enum Backing {
    Mapped,
    Heap,
}

/// A mapped segment. Dropping it unmaps, so the last reference never lives in a real-time thread.
#[derive(Debug)]
pub struct Segment {
    start: NonNull<AtomicU64>,
    words: usize,
    backing: Backing,
    pin: Option<Pin>,
}

/// A pipe that nobody reads and that holds a reference to every page of a segment.
#[derive(Debug)]
struct Pin {
    _pipe: (OwnedFd, OwnedFd),
}

// SAFETY: the segment is nothing but atomic words; all access goes through shared `&AtomicU64`.
unsafe impl Send for Segment {}
// SAFETY: as for `Send`.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a memfd sealed against resizing, with a filled-in header, and maps it writable here.
    /// setup-only.
    ///
    /// # Errors
    /// [`SegmentError::System`] when the kernel refuses.
    ///
    /// # Panics
    /// If the payload exceeds [`MAX_WORDS`]: every layout of this crate is far below.
    pub fn create(
        name: &CStr,
        kind: Kind,
        payload_words: usize,
        capacity: u64,
        epoch: u64,
        peer: PeerAccess,
    ) -> Result<(Self, OwnedFd), SegmentError> {
        let words = HEADER_WORDS + payload_words;
        assert!(words <= MAX_WORDS);
        let bytes = words * 8;
        let system = |call| move |errno| SegmentError::System { call, bytes, errno };
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(system("memfd_create"))?;
        nix::unistd::ftruncate(&fd, bytes as i64).map_err(system("ftruncate"))?;
        let segment = Self::map(&fd, words, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let mut seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        if peer == PeerAccess::ReadOnly {
            seals |= FUTURE_WRITE | SealFlag::F_SEAL_SEAL;
        }
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(system("F_ADD_SEALS"))?;
        segment.write_header(kind, payload_words, capacity, epoch);
        Ok((segment, fd))
    }

    /// Brings every page into memory and into our page table. setup-only.
    pub(crate) fn make_resident(&self) {
        // A write fault a page, that changes nothing: an atomic "or" with zero.
        for word in self.words().iter().step_by(PAGE_WORDS_MIN) {
            word.fetch_or(0, Ordering::Relaxed);
        }
    }

    /// Takes a reference to every page, until the segment is dropped. setup-only.
    pub(crate) fn pin(&mut self) -> Result<(), SegmentError> {
        let bytes = self.words * 8;
        let system = |call| move |errno| SegmentError::System { call, bytes, errno };
        let (reader, writer) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(system("pipe2"))?;
        // One page more, should the kernel count the slots of a full pipe otherwise.
        let room = i32::try_from(bytes + 8 * PAGE_WORDS_MIN).unwrap_or(i32::MAX);
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(room)).map_err(system("F_SETPIPE_SZ"))?;
        let whole = libc::iovec {
            iov_base: self.start.as_ptr().cast(),
            iov_len: bytes,
        };
        // SAFETY: the range is our own mapping, which outlives the call. The kernel takes
        // references to its pages and reads nothing, since nobody reads the pipe.
        let taken = unsafe {
            libc::vmsplice(
                writer.as_raw_fd(),
                &raw const whole,
                1,
                libc::SPLICE_F_NONBLOCK,
            )
        };
        if Errno::result(taken)
            .map_err(system("vmsplice"))?
            .unsigned_abs()
            != bytes
        {
            return Err(system("vmsplice of every page")(Errno::EAGAIN));
        }
        self.pin = Some(Pin {
            _pipe: (reader, writer),
        });
        Ok(())
    }

    /// The same layout in heap memory, for tests and for models that cannot map. setup-only.
    pub fn in_heap(kind: Kind, payload_words: usize, capacity: u64, epoch: u64) -> Arc<Self> {
        let words = HEADER_WORDS + payload_words;
        let lines = (0..words.div_ceil(LINE_WORDS)).map(|_| HeapLine::default());
        let memory: Box<[HeapLine]> = lines.collect();
        let start = NonNull::new(Box::into_raw(memory).cast::<AtomicU64>())
            .expect("a boxed slice is not null");
        let segment = Self {
            start,
            words,
            backing: Backing::Heap,
            pin: None,
        };
        segment.write_header(kind, payload_words, capacity, epoch);
        Arc::new(segment)
    }

    /// Maps a segment received from the peer and checks its header. setup-only.
    ///
    /// # Errors
    /// When the file is not sealed against resizing, or not a segment of this kind and shape.
    pub fn open(
        fd: &OwnedFd,
        kind: Kind,
        payload_words: usize,
        access: PeerAccess,
    ) -> Result<Arc<Self>, SegmentError> {
        let words = HEADER_WORDS + payload_words;
        let bytes = words * 8;
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|errno| SegmentError::System {
            call: "F_GET_SEALS",
            bytes,
            errno,
        })?;
        let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        if !SealFlag::from_bits_retain(seals).contains(needed) {
            return Err(SegmentError::NotSealed);
        }
        let size = nix::sys::stat::fstat(fd)
            .map_err(|errno| SegmentError::System {
                call: "fstat",
                bytes,
                errno,
            })?
            .st_size;
        shape("size", u64::try_from(size).unwrap_or(0), bytes as u64)?;
        let protection = match access {
            PeerAccess::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            PeerAccess::ReadOnly => ProtFlags::PROT_READ,
        };
        let segment = Self::map(fd, words, protection)?;
        let header = |index: usize| segment.words()[index].load(Ordering::Relaxed);
        shape("magic", header(0), MAGIC)?;
        shape("version", header(1), VERSION)?;
        shape("kind", header(2), kind as u64)?;
        shape("payload words", header(3), payload_words as u64)?;
        Ok(Arc::new(segment))
    }

    fn map(fd: &OwnedFd, words: usize, protection: ProtFlags) -> Result<Self, SegmentError> {
        let bytes = words * 8;
        let length = NonZeroUsize::new(bytes).expect("a segment has a header");
        // SAFETY: a new shared mapping at an address the kernel chooses; it aliases no Rust object.
        let start = unsafe {
            mmap(
                None,
                length,
                protection,
                MapFlags::MAP_SHARED,
                fd.as_fd(),
                0,
            )
        }
        .map_err(|errno| SegmentError::System {
            call: "mmap",
            bytes,
            errno,
        })?;
        Ok(Self {
            start: start.cast(),
            words,
            backing: Backing::Mapped,
            pin: None,
        })
    }

    fn write_header(&self, kind: Kind, payload_words: usize, capacity: u64, epoch: u64) {
        let fields = [
            MAGIC,
            VERSION,
            kind as u64,
            payload_words as u64,
            capacity,
            epoch,
        ];
        for (word, value) in self.words().iter().zip(fields) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// All words, header included. rt-safe.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` points at `words` words that stay mapped (or allocated) while `self`
        // lives; the file cannot shrink because it is sealed; `AtomicU64` tolerates any content
        // and concurrent writers in other processes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// The words after the header. rt-safe.
    pub fn payload(&self) -> &[AtomicU64] {
        &self.words()[HEADER_WORDS..]
    }
}

fn shape(field: &'static str, found: u64, expected: u64) -> Result<(), SegmentError> {
    if found == expected {
        Ok(())
    } else {
        Err(SegmentError::Shape {
            field,
            found,
            expected,
        })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        match self.backing {
            Backing::Mapped => {
                // SAFETY: exactly the range that `map` mapped, and nobody can reach it any more.
                // A failure would only leak the mapping.
                let _ = unsafe { munmap(self.start.cast(), self.words * 8) };
            }
            Backing::Heap => {
                let lines = self.words.div_ceil(LINE_WORDS);
                let first = self.start.as_ptr().cast::<HeapLine>();
                let slice = std::ptr::slice_from_raw_parts_mut(first, lines);
                // SAFETY: `in_heap` made this pointer from a box of the same slice.
                drop(unsafe { Box::from_raw(slice) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(peer: PeerAccess) -> (Segment, OwnedFd) {
        Segment::create(c"kairo-test", Kind::Latest, 8, 3, 7, peer).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd is not available under Miri")]
    fn both_sides_see_the_same_words() {
        let (ours, fd) = make(PeerAccess::ReadWrite);
        let theirs = Segment::open(&fd, Kind::Latest, 8, PeerAccess::ReadWrite).unwrap();
        theirs.payload()[3].store(42, Ordering::Relaxed);
        assert_eq!(ours.payload()[3].load(Ordering::Relaxed), 42);
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd is not available under Miri")]
    fn a_read_only_segment_cannot_be_mapped_writable_by_the_peer() {
        let (_ours, fd) = make(PeerAccess::ReadOnly);
        assert!(Segment::open(&fd, Kind::Latest, 8, PeerAccess::ReadOnly).is_ok());
        let refused = Segment::open(&fd, Kind::Latest, 8, PeerAccess::ReadWrite);
        assert!(matches!(
            refused,
            Err(SegmentError::System { call: "mmap", .. })
        ));
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd is not available under Miri")]
    fn refuses_a_segment_of_another_kind_or_size() {
        let (_ours, fd) = make(PeerAccess::ReadWrite);
        let wrong_kind = Segment::open(&fd, Kind::Ring, 8, PeerAccess::ReadWrite);
        assert!(matches!(
            wrong_kind,
            Err(SegmentError::Shape { field: "kind", .. })
        ));
        let wrong_size = Segment::open(&fd, Kind::Latest, 9, PeerAccess::ReadWrite);
        assert!(matches!(
            wrong_size,
            Err(SegmentError::Shape { field: "size", .. })
        ));
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd is not available under Miri")]
    fn refuses_a_file_that_could_be_resized() {
        let fd = memfd_create(
            c"loose",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        );
        let fd = fd.unwrap();
        let opened = Segment::open(&fd, Kind::Ring, 8, PeerAccess::ReadWrite);
        assert!(matches!(opened, Err(SegmentError::NotSealed)));
    }
}
