//! The real disk: a block device, or a disk image in a file.
//!
//! Guarantees: one opener at a time among those who use this module (flock), refused and not waited
//! for; reads go past the page cache (O_DIRECT) wherever the file system can, so that what is read
//! back comes from the medium; nothing is ever created or made longer.
//!
//! A whole disk cannot be claimed from the kernel (O_EXCL) while one of its partitions is in use,
//! so the state area is opened with [`Claim::Lock`]; the partition of a slot that is being written
//! is in use by nobody and is opened with [`Claim::Exclusive`], which a mount of it refuses.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::device::BlockDevice;
use crate::sector::{SECTOR_BYTES, Sector};

/// What O_DIRECT asks of addresses and lengths, on any disk there is.
const BLOCK_BYTES: usize = 4096;

/// How a disk is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// From other users of this module.
    Lock,
    /// Also from the rest of the kernel: mounts, device mapper, other exclusive openers.
    Exclusive,
}

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is in use.
    #[error("{path} is in use: another update runs, or something has mounted it")]
    Busy {
        /// The disk.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is neither a block device nor a file.
    #[error("{path} is neither a block device nor a file")]
    Kind {
        /// What was given.
        path: PathBuf,
    },
}

/// An open disk. Closing it ends the claim.
#[derive(Debug)]
pub struct Disk {
    file: File,
    direct: Option<File>,
    block: AlignedBlock,
}

impl Disk {
    /// Opens a disk for reading and writing.
    ///
    /// # Errors
    /// [`OpenError`] names the disk.
    pub fn open(path: &Path, claim: Claim) -> Result<Self, OpenError> {
        let exclusive = match claim {
            Claim::Lock => 0,
            Claim::Exclusive => libc::O_EXCL,
        };
        let failed = |source: io::Error| {
            let path = path.to_owned();
            match source.raw_os_error() {
                Some(libc::EBUSY) => OpenError::Busy { path },
                _ => OpenError::Open { path, source },
            }
        };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(OpenError::Kind {
                path: path.to_owned(),
            });
        }
        // Without O_CREAT, O_EXCL means something to block devices only.
        let exclusive = if kind.is_block_device() { exclusive } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(exclusive);
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Busy {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut direct = OpenOptions::new();
        direct.read(true).custom_flags(libc::O_DIRECT);
        // Some file systems in memory have no medium to read from.
        let direct = direct.open(path).ok();
        Ok(Self {
            file,
            direct,
            block: AlignedBlock::new(),
        })
    }

    /// Whether reads come from the medium.
    #[must_use]
    pub fn reads_the_medium(&self) -> bool {
        self.direct.is_some()
    }
}

impl BlockDevice for Disk {
    fn read(&mut self, lba: u64) -> io::Result<Sector> {
        let offset = byte_offset(lba)?;
        let inside = (offset % BLOCK_BYTES as u64) as usize;
        let block = self.block.bytes();
        let source = self.direct.as_ref().unwrap_or(&self.file);
        source.read_exact_at(block, offset - inside as u64)?;
        let mut sector = Sector::VOID;
        sector
            .0
            .copy_from_slice(&block[inside..inside + SECTOR_BYTES]);
        Ok(sector)
    }

    fn write(&mut self, lba: u64, sector: &Sector) -> io::Result<()> {
        // Behind the end a file would grow, and a disk would say so only at the flush.
        self.read(lba)?;
        self.file.write_all_at(&sector.0, byte_offset(lba)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn byte_offset(lba: u64) -> io::Result<u64> {
    let offset = lba.checked_mul(SECTOR_BYTES as u64);
    offset.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A block at an address that O_DIRECT takes.
#[derive(Debug)]
struct AlignedBlock {
    bytes: Box<[u8]>,
}

impl AlignedBlock {
    fn new() -> Self {
        Self {
            bytes: vec![0; 2 * BLOCK_BYTES].into_boxed_slice(),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let misaligned = self.bytes.as_ptr().addr() % BLOCK_BYTES;
        let start = (BLOCK_BYTES - misaligned) % BLOCK_BYTES;
        &mut self.bytes[start..start + BLOCK_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::{AREA_FIRST_LBA, AREA_SECTORS, Place, Slot};
    use crate::booted::Booted;
    use crate::device::{DeviceError, perform, read_area};
    use crate::loader::Source;
    use crate::record::{ManifestHash, Release};
    use crate::state::{Role, State, factory_area};

    /// A disk image beside the build, not in memory, so that O_DIRECT has a medium.
    fn image() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("disk.img");
        let file = File::create(&path).unwrap();
        let sectors = AREA_FIRST_LBA + AREA_SECTORS;
        file.set_len(sectors * SECTOR_BYTES as u64).unwrap();
        (directory, path)
    }

    fn factory(disk: &mut Disk) -> State {
        let release = Release {
            manifest: ManifestHash([1; 32]),
            number: 1,
            floor: 1,
        };
        let area = factory_area(release);
        for place in Place::ALL {
            disk.write(place.lba(), area.at(place)).unwrap();
        }
        disk.flush().unwrap();
        State::open(
            read_area(disk).unwrap(),
            Booted {
                slot: Slot::A,
                attempt: 0,
                sequence: 2,
                source: Source::Record,
            },
        )
    }

    #[test]
    fn a_plan_performed_on_a_disk_is_what_the_next_opening_finds() {
        let (_directory, path) = image();
        let mut disk = Disk::open(&path, Claim::Exclusive).unwrap();
        let state = factory(&mut disk);
        assert_eq!(state.role(), Role::Committed);
        perform(&mut disk, &state.ask_for_wipe().unwrap()).unwrap();
        let again = State::open(read_area(&mut disk).unwrap(), state.booted());
        assert!(again.record().unwrap().wipe);
        assert_eq!(again.role(), Role::Committed);
    }

    #[test]
    fn a_second_opener_is_refused_and_not_kept_waiting() {
        let (_directory, path) = image();
        let first = Disk::open(&path, Claim::Lock).unwrap();
        let error = Disk::open(&path, Claim::Lock).unwrap_err();
        assert!(matches!(error, OpenError::Busy { .. }), "{error}");
        drop(first);
        Disk::open(&path, Claim::Lock).unwrap();
    }

    #[test]
    fn nothing_is_written_behind_the_end_and_directories_are_no_disks() {
        let (directory, path) = image();
        let mut disk = Disk::open(&path, Claim::Lock).unwrap();
        let end = AREA_FIRST_LBA + AREA_SECTORS;
        assert!(disk.write(end, &Sector::VOID).is_err());
        assert!(disk.read(u64::MAX).is_err());
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(length, end * SECTOR_BYTES as u64);
        let error = Disk::open(directory.path(), Claim::Lock).unwrap_err();
        assert!(matches!(error, OpenError::Kind { .. }), "{error}");
    }

    /// A disk that forgets what it was told.
    struct Forgetful(Disk);

    impl BlockDevice for Forgetful {
        fn read(&mut self, lba: u64) -> io::Result<Sector> {
            self.0.read(lba)
        }
        fn write(&mut self, _: u64, _: &Sector) -> io::Result<()> {
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    #[test]
    fn a_write_that_does_not_read_back_stops_the_plan() {
        let (_directory, path) = image();
        let mut disk = Disk::open(&path, Claim::Lock).unwrap();
        let state = factory(&mut disk);
        let plan = state.ask_for_wipe().unwrap();
        let error = perform(&mut Forgetful(disk), &plan).unwrap_err();
        assert!(matches!(error, DeviceError::ReadBack { .. }), "{error}");
    }
}
