//! A disk as this crate needs it: single sectors, and a flush.

use std::io;

use crate::area::{Place, Snapshot};
use crate::plan::Plan;
use crate::sector::Sector;

/// A disk.
pub trait BlockDevice {
    /// Reads one sector, from the medium where the device can be made to.
    ///
    /// # Errors
    /// What the system says.
    fn read(&mut self, lba: u64) -> io::Result<Sector>;

    /// Writes one sector.
    ///
    /// # Errors
    /// What the system says.
    fn write(&mut self, lba: u64, sector: &Sector) -> io::Result<()>;

    /// Returns when everything written is on the medium, as far as the device tells the truth.
    ///
    /// # Errors
    /// What the system says.
    fn flush(&mut self) -> io::Result<()>;
}

/// Why the state area could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A sector could not be read.
    #[error("cannot read sector {lba} ({place:?}): {source}")]
    Read {
        /// Which.
        place: Place,
        /// Its number.
        lba: u64,
        /// What the system says.
        source: io::Error,
    },
    /// A sector could not be written or flushed. What it holds now is unknown; the state is the
    /// one before or the one after.
    #[error("cannot write sector {lba} ({place:?}): {source}")]
    Write {
        /// Which.
        place: Place,
        /// Its number.
        lba: u64,
        /// What the system says.
        source: io::Error,
    },
    /// A sector does not hold what was written to it.
    #[error(
        "sector {lba} ({place:?}) reads back otherwise than it was written: the disk is failing"
    )]
    ReadBack {
        /// Which.
        place: Place,
        /// Its number.
        lba: u64,
    },
}

/// Reads the area. A sector that cannot be read is void, as it is for the boot script, unless
/// none can be read.
///
/// # Errors
/// [`DeviceError::Read`] when not one sector can be read.
pub fn read_area(device: &mut dyn BlockDevice) -> Result<Snapshot, DeviceError> {
    let mut area = Snapshot::EMPTY;
    let mut failure = None;
    let mut any = false;
    for place in Place::ALL {
        let lba = place.lba();
        match device.read(lba) {
            Ok(sector) => {
                area.put(place, sector);
                any = true;
            }
            Err(source) => failure = Some(DeviceError::Read { place, lba, source }),
        }
    }
    match failure {
        Some(error) if !any => Err(error),
        _ => Ok(area),
    }
}

/// Performs a plan: each sector is written, flushed and read back before the next one.
///
/// # Errors
/// [`DeviceError`] at the first write that fails; those behind it are not done.
pub fn perform(device: &mut dyn BlockDevice, plan: &Plan) -> Result<(), DeviceError> {
    for write in plan.writes() {
        let place = write.place;
        let lba = place.lba();
        let failed = |source| DeviceError::Write { place, lba, source };
        device.write(lba, &write.sector).map_err(failed)?;
        device.flush().map_err(failed)?;
        let read = device.read(lba);
        let found = read.map_err(|source| DeviceError::Read { place, lba, source })?;
        if found != write.sector {
            return Err(DeviceError::ReadBack { place, lba });
        }
    }
    Ok(())
}
