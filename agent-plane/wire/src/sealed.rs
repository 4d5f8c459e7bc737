//! Payloads in a sealed memfd: written once, then passed on and read without being copied.
//!
//! A descriptor that a peer passes is no more than a claim. [`Sealed::accept`] believes it only
//! when the machine's kernel says that it is memory, that nobody can write, shrink or grow it any
//! more, and that it is as long as was claimed: then its bytes cannot change while they are read,
//! and reading cannot fault. Allocates nothing but what [`Sealed::to_vec`] gives. The mapping is
//! private and read-only. Does not say whether the content is sensible.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Most bytes of one payload: what a receiver must be ready to map. A frame of a 4K camera in RGB
/// has 25 MB.
pub const MAX_SEALED_BYTES: u64 = 64 * 1024 * 1024;

/// The seals that make the bytes final.
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW);

/// Why a descriptor is not acceptable as a payload.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// Not memory that can be sealed.
    #[error("the descriptor is no sealed memory: {error}")]
    NoMemory {
        /// What the machine's kernel said.
        error: std::io::Error,
    },
    /// Somebody could still change it.
    #[error("the memory is not sealed against {missing}: seal it before it is passed on")]
    Unsealed {
        /// Which seals it lacks.
        missing: String,
    },
    /// Another length than was claimed, or none that is allowed.
    #[error("the memory has {bytes} bytes, claimed are {claimed}, allowed at most {limit}")]
    Length {
        /// What it has.
        bytes: u64,
        /// What was claimed.
        claimed: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// Bytes that cannot change any more. Clones share them.
#[derive(Clone, Debug)]
pub struct Sealed {
    descriptor: Arc<OwnedFd>,
    bytes: u64,
}

impl PartialEq for Sealed {
    /// The same memory; contents are not compared.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.descriptor, &other.descriptor)
    }
}

impl Sealed {
    /// Copies `content` into memory of its own and seals it.
    ///
    /// # Errors
    /// Out of memory or descriptors, or more than [`MAX_SEALED_BYTES`], or nothing at all.
    pub fn new(content: &[u8]) -> std::io::Result<Self> {
        let bytes = content.len() as u64;
        if bytes == 0 || bytes > MAX_SEALED_BYTES {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("kairo-payload", flags)?);
        file.write_all(content)?;
        fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
        Ok(Self {
            descriptor: Arc::new(file.into()),
            bytes,
        })
    }

    /// Takes over what a peer passed, if it is what it is claimed to be.
    ///
    /// # Errors
    /// See [`SealedError`]; the descriptor is closed.
    pub fn accept(descriptor: OwnedFd, claimed: u64) -> Result<Self, SealedError> {
        let no_memory = |error: rustix::io::Errno| SealedError::NoMemory {
            error: error.into(),
        };
        let seals = fcntl_get_seals(&descriptor).map_err(no_memory)?;
        if !seals.contains(SEALS) {
            let missing = format!("{:?}", SEALS.difference(seals));
            return Err(SealedError::Unsealed { missing });
        }
        // Only now: before it was sealed, the length could have changed behind the check.
        let status = fstat(&descriptor).map_err(no_memory)?;
        let bytes = u64::try_from(status.st_size).unwrap_or(0);
        if bytes != claimed || bytes == 0 || bytes > MAX_SEALED_BYTES {
            return Err(SealedError::Length {
                bytes,
                claimed,
                limit: MAX_SEALED_BYTES,
            });
        }
        Ok(Self {
            descriptor: Arc::new(descriptor),
            bytes,
        })
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The descriptor, to be passed on.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Fills `into` from the byte at `offset` on.
    ///
    /// # Errors
    /// When there are fewer bytes.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> std::io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            match rustix::io::pread(&self.descriptor, &mut into[done..], offset + done as u64) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A copy of the bytes.
    ///
    /// # Errors
    /// As [`Sealed::read_at`].
    pub fn to_vec(&self) -> std::io::Result<Vec<u8>> {
        let mut content = vec![0; self.bytes as usize];
        self.read_at(&mut content, 0)?;
        Ok(content)
    }

    /// The bytes where they are.
    ///
    /// # Errors
    /// Out of address space.
    #[allow(unsafe_code)]
    pub fn map(&self) -> std::io::Result<Mapping> {
        let bytes = self.bytes as usize;
        // Private, because kernels before 6.7 refuse a shared mapping of memory sealed against
        // writing; nothing is written, so no page is copied. Populated at once: one fault for each
        // page costs more than the read.
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ,
                flags,
                &self.descriptor,
                0,
            )?
        };
        Ok(Mapping {
            address: address.cast(),
            bytes,
        })
    }
}

/// A payload, mapped.
#[derive(Debug)]
pub struct Mapping {
    address: *const u8,
    bytes: usize,
}

// SAFETY: the mapped bytes are sealed: nobody writes them, so any thread may read them.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    #[allow(unsafe_code)]
    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` bytes are mapped there until this is dropped; the memory is sealed at
        // that length and against writing, so reading neither faults nor races.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives this.
        let unmapped = unsafe { munmap(self.address.cast_mut().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("test", flags).unwrap());
        file.write_all(content).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn what_is_sealed_is_read_and_mapped_and_never_written() {
        let sealed = Sealed::new(b"frame").unwrap();
        assert_eq!(sealed.to_vec().unwrap(), b"frame");
        assert_eq!(&*sealed.map().unwrap(), b"frame");
        let file = File::from(sealed.descriptor().try_clone_to_owned().unwrap());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(1).is_err() && file.set_len(10).is_err());
        let again = Sealed::accept(file.into(), 5).unwrap();
        assert_eq!(again.bytes(), 5);
    }

    #[test]
    fn each_seal_is_needed() {
        for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW] {
            let error = Sealed::accept(memory(b"x", SEALS.difference(missing)), 1).unwrap_err();
            assert!(matches!(error, SealedError::Unsealed { .. }), "{error}");
        }
        Sealed::accept(memory(b"x", SEALS), 1).unwrap();
    }

    #[test]
    fn a_length_that_lies_and_what_is_no_memory_are_refused() {
        for claimed in [0, 2, u64::MAX] {
            let error = Sealed::accept(memory(b"x", SEALS), claimed).unwrap_err();
            assert!(matches!(error, SealedError::Length { .. }), "{error}");
        }
        assert!(Sealed::accept(memory(b"", SEALS), 0).is_err());
        let file = File::open("/dev/null").unwrap();
        let error = Sealed::accept(file.into(), 1).unwrap_err();
        assert!(matches!(error, SealedError::NoMemory { .. }), "{error}");
    }
}
