//! A segment that the peer may write: from its making until a real-time thread may touch it, and
//! until the peer has let go of it.
//!
//! 1. [`Offer::make`]: a memfd sealed against resizing, and a descriptor of it for the peer.
//! 2. The peer maps it, says so, and from then on has all the access it needs.
//! 3. [`Offer::settle`] closes the file to everything but the mappings there are
//!    (`F_SEAL_FUTURE_WRITE`): no write(2), no further writable mapping, and no hole punching,
//!    neither by fallocate(2) nor by `MADV_REMOVE`, which the kernel refuses from then on even to
//!    those who mapped it before. Then every page is touched once, so that what was punched before
//!    is there again, and pinned: a referenced page is not moved or merged into a huge one, which
//!    `MADV_COLLAPSE` could otherwise do from the peer's side, unmapping even locked pages here.
//! 4. [`Tenant::has_left`] tells whether anybody else still holds the file, so that what peers
//!    hoard can be counted and bounded.
//!
//! setup-only: everything here calls the kernel.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;

use crate::segment::{FUTURE_WRITE, Kind, PeerAccess, Segment, SegmentError};

/// A segment on offer. Nothing real-time may touch it yet.
#[derive(Debug)]
pub struct Offer {
    segment: Segment,
    ours: OwnedFd,
    theirs: OwnedFd,
}

/// The peers of a segment, as far as their hold on its memory goes.
#[derive(Debug)]
pub struct Tenant {
    probe: OwnedFd,
}

impl Offer {
    /// Makes a segment for a peer that shall write, and what watches the peer's hold on it. See
    /// [`Segment::create`].
    ///
    /// # Errors
    /// [`SegmentError::System`] when the kernel refuses.
    pub fn make(
        name: &CStr,
        kind: Kind,
        payload_words: usize,
        capacity: u64,
        epoch: u64,
    ) -> Result<(Self, Tenant), SegmentError> {
        let access = PeerAccess::ReadWrite;
        let (segment, ours) = Segment::create(name, kind, payload_words, capacity, epoch, access)?;
        // A memfd's first open file is not counted among its users by the kernel; one opened by
        // its path is. The peer gets the counted one, so that `has_left` can tell.
        let bytes = segment.words().len() * 8;
        let reopen = |write| {
            let opened = File::options().read(true).write(write).open(path_of(&ours));
            opened.map_err(|error| SegmentError::System {
                call: "opening /proc/self/fd",
                bytes,
                errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
            })
        };
        let theirs = reopen(true)?.into();
        let probe = reopen(false)?.into();
        let offer = Self {
            segment,
            ours,
            theirs,
        };
        Ok((offer, Tenant { probe }))
    }

    /// The descriptor to send to the peer.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Closes the segment to new writers and to hole punching, and makes it fit for a real-time
    /// thread. Only after the peer has said that it has mapped it.
    ///
    /// # Errors
    /// [`SegmentError::System`] when the kernel refuses, which a peer can bring about by sealing
    /// the seals itself: it then gets no segment.
    pub fn settle(mut self) -> Result<Arc<Segment>, SegmentError> {
        let bytes = self.segment.words().len() * 8;
        let seals = FUTURE_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&self.ours, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| SegmentError::System {
            call: "F_ADD_SEALS",
            bytes,
            errno,
        })?;
        self.segment.make_resident();
        self.segment.pin()?;
        Ok(Arc::new(self.segment))
    }
}

impl Tenant {
    /// Whether nobody but us holds the file: no descriptor and no mapping of it is left in any
    /// other process.
    ///
    /// The kernel grants a write lease on a file only to its one opener, and ours is given back at
    /// once; nobody can open the file in between, because it has no name and no other descriptor.
    pub fn has_left(&self) -> bool {
        let lease = |kind: libc::c_short| {
            // SAFETY: the call takes integers and touches no memory of ours.
            let result = unsafe {
                libc::fcntl(
                    self.probe.as_raw_fd(),
                    libc::F_SETLEASE,
                    libc::c_int::from(kind),
                )
            };
            Errno::result(result)
        };
        match lease(libc::F_WRLCK as libc::c_short) {
            Ok(_) => {
                let _ = lease(libc::F_UNLCK as libc::c_short);
                true
            }
            // A kernel without leases cannot tell; then nobody is accused.
            Err(errno) => errno != Errno::EAGAIN,
        }
    }
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use nix::fcntl::{FallocateFlags, fallocate};
    use std::sync::atomic::Ordering;

    const WORDS: usize = 2000;

    fn offer() -> (Offer, Tenant) {
        Offer::make(c"kairo-test", Kind::Ring, WORDS, 4, 1).unwrap()
    }

    /// What the peer gets over the socket: its own number of the same open file.
    fn received(offer: &Offer) -> OwnedFd {
        offer.descriptor().try_clone_to_owned().unwrap()
    }

    fn open(fd: &OwnedFd) -> Result<Arc<Segment>, SegmentError> {
        Segment::open(fd, Kind::Ring, WORDS, PeerAccess::ReadWrite)
    }

    fn punch(fd: &OwnedFd) -> nix::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(fd, flags, 0, 4096)
    }

    /// Has the kernel do something to a whole mapping.
    fn advise(segment: &Segment, advice: libc::c_int) -> nix::Result<()> {
        let start = segment.words().as_ptr().cast_mut().cast();
        // SAFETY: the range is a live mapping of atomic words, which tolerate any content.
        let result = unsafe { libc::madvise(start, segment.words().len() * 8, advice) };
        Errno::result(result).map(drop)
    }

    /// How many bytes of the mapping that holds `segment` this process's page table has.
    fn mapped_kib(segment: &Segment) -> u64 {
        let address = format!("{:x}-", segment.words().as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&address));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn nobody_can_punch_write_resize_or_map_anew_after_settling() {
        let (offer, _tenant) = offer();
        let fd = received(&offer);
        let theirs = open(&fd).unwrap();
        // Before, they can: which is why nothing real-time uses it before.
        punch(&fd).unwrap();
        advise(&theirs, libc::MADV_REMOVE).unwrap();
        let ours = offer.settle().unwrap();
        assert_eq!(punch(&fd), Err(Errno::EPERM));
        assert_eq!(advise(&theirs, libc::MADV_REMOVE), Err(Errno::EPERM));
        assert!(nix::sys::uio::pwrite(&fd, &[1], 0).is_err());
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
        assert!(open(&fd).is_err(), "mapped writable after settling");
        // What they mapped before still works, both ways.
        theirs.payload()[9].store(5, Ordering::Relaxed);
        assert_eq!(ours.payload()[9].load(Ordering::Relaxed), 5);
    }

    #[test]
    fn what_was_punched_before_is_back_after_settling_and_stays() {
        let (offer, _tenant) = offer();
        let fd = received(&offer);
        let theirs = open(&fd).unwrap();
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&fd, flags, 0, 1 << 20).unwrap();
        let ours = offer.settle().unwrap();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
        let page = u64::try_from(page.unwrap().unwrap()).unwrap();
        let whole = (ours.words().len() as u64 * 8).next_multiple_of(page) / 1024;
        assert_eq!(mapped_kib(&ours), whole);
        for advice in [libc::MADV_PAGEOUT, libc::MADV_COLD, libc::MADV_DONTNEED] {
            let _ = advise(&theirs, advice);
            assert_eq!(mapped_kib(&ours), whole, "after advice {advice}");
        }
    }

    /// A huge page made of our pages would unmap them here, locked or not.
    #[test]
    fn a_peer_cannot_have_our_pages_merged() {
        const HUGE: usize = 2 << 20;
        let (offer, _tenant) = offer();
        let fd = received(&offer);
        let _theirs = open(&fd).unwrap();
        let ours = offer.settle().unwrap();
        let before = mapped_kib(&ours);
        // SAFETY: reserves addresses that nobody uses; the second mapping replaces part of the
        // first, aligned to a huge page and reaching beyond the end of the file. Nothing is read.
        unsafe {
            let none = std::ptr::null_mut();
            let (prot, private) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let area = libc::mmap(none, 2 * HUGE, prot, private, -1, 0);
            assert_ne!(area, libc::MAP_FAILED);
            let aligned = area.map_addr(|address| address.next_multiple_of(HUGE));
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            let mapped = libc::mmap(aligned, HUGE, libc::PROT_READ, flags, fd.as_raw_fd(), 0);
            assert_eq!(mapped, aligned);
            libc::madvise(aligned, HUGE, libc::MADV_COLLAPSE);
            assert_eq!(
                mapped_kib(&ours),
                before,
                "a real-time thread would fault here"
            );
            libc::munmap(area, 2 * HUGE);
        }
    }

    #[test]
    fn a_peer_that_seals_the_seals_gets_no_segment() {
        let (offer, _tenant) = offer();
        let fd = received(&offer);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL)).unwrap();
        assert!(offer.settle().is_err());
    }

    #[test]
    fn a_tenant_has_left_when_neither_descriptor_nor_mapping_is_left() {
        let (offer, tenant) = offer();
        let fd = received(&offer);
        let theirs = open(&fd).unwrap();
        let ours = offer.settle().unwrap();
        assert!(!tenant.has_left());
        drop(fd);
        assert!(!tenant.has_left(), "a mapping is left");
        // A descriptor opened by way of another counts too.
        let sneaked = File::open(path_of(&tenant.probe)).unwrap();
        drop(theirs);
        assert!(!tenant.has_left(), "a reader is left");
        drop(sneaked);
        assert!(tenant.has_left());
        drop(ours);
        assert!(tenant.has_left());
    }

    #[test]
    fn an_offer_that_was_dropped_is_held_as_long_as_the_peer_has_it() {
        let (offer, tenant) = offer();
        let fd = received(&offer);
        drop(offer);
        assert!(!tenant.has_left());
        drop(fd);
        assert!(tenant.has_left());
    }
}
