//! The partition plan, the same numbers on every board, and writing it as a GPT.
//!
//! Guarantees: partition N of the plan is partition N of the disk; every unique GUID derives from
//! one seed, so that a disk can be made again exactly, and two disks never share an identity.
//!
//! Sectors 34..8191 and 16384..32767 stay free for boot loaders of other boards, the state area
//! between them holds the boot records. See `docs/reference/image.md` for the reasons.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition as GptPartition;
use gpt::{GptConfig, mbr::ProtectiveMBR, partition_types};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::ImageError;

/// Bytes of a sector; the plan is for media with 512-byte logical sectors.
pub const SECTOR_BYTES: u64 = 512;

/// Sectors of one MiB.
const MIB: u64 = 2048;

/// Sectors behind the last partition: the backup table needs 33, rounded up to one MiB.
const TAIL_SECTORS: u64 = MIB;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Boot loader files, FAT16; written at the factory only.
    Boot,
    /// Kernel and `slot.env` of a slot, FAT16.
    SlotKernel,
    /// Root file system of a slot, EROFS, raw.
    SlotRoot,
    /// Configuration, ext4.
    Config,
    /// Overlay uppers and logs, ext4.
    Data,
}

/// One partition of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Number in the table, from 1.
    pub number: u32,
    /// Name in the table.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// First sector.
    pub first_lba: u64,
    /// Length in sectors.
    pub sectors: u64,
}

impl Partition {
    /// Where it begins, in bytes.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.first_lba * SECTOR_BYTES
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES
    }
}

/// The plan: name, role and length; each partition follows the one before it.
const PLAN: [(&str, Role, u64); 7] = [
    ("BOOT", Role::Boot, 32 * MIB),
    ("slotA-k", Role::SlotKernel, 64 * MIB),
    ("slotA-r", Role::SlotRoot, 64 * MIB),
    ("slotB-k", Role::SlotKernel, 64 * MIB),
    ("slotB-r", Role::SlotRoot, 64 * MIB),
    ("config", Role::Config, 32 * MIB),
    ("data", Role::Data, 256 * MIB),
];

/// First sector of partition 1: behind the loader areas of every board.
pub const FIRST_PARTITION_LBA: u64 = 32768;

/// The partitions, in order of their numbers.
#[must_use]
pub fn partitions() -> [Partition; PLAN.len()] {
    let mut first_lba = FIRST_PARTITION_LBA;
    let mut number = 0;
    PLAN.map(|(name, role, sectors)| {
        number += 1;
        let partition = Partition {
            number,
            name,
            role,
            first_lba,
            sectors,
        };
        first_lba += sectors;
        partition
    })
}

/// Length of the whole disk in sectors.
#[must_use]
pub fn disk_sectors() -> u64 {
    FIRST_PARTITION_LBA + PLAN.iter().map(|(_, _, sectors)| sectors).sum::<u64>() + TAIL_SECTORS
}

/// A GUID for one purpose, from the seed of a disk.
#[must_use]
pub fn derived_guid(seed: &str, purpose: &str) -> Uuid {
    let digest = Sha256::digest(format!("kairoos disk\0{seed}\0{purpose}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Writes the protective MBR and both copies of the table onto `disk`, which has its full length.
///
/// # Errors
/// [`ImageError::PartitionTable`] with the writer's reason.
pub fn write_table(disk: &Path, seed: &str) -> Result<(), ImageError> {
    let refuse = |reason: String| ImageError::PartitionTable {
        path: disk.to_path_buf(),
        reason,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .map_err(ImageError::file("open", disk))?;
    let last_lba = u32::try_from(disk_sectors() - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(last_lba)
        .overwrite_lba0(&mut file)
        .map_err(|error| refuse(error.to_string()))?;
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(derived_guid(seed, "disk")))
        .map_err(|error| refuse(error.to_string()))?;
    let entries: BTreeMap<u32, GptPartition> = partitions()
        .iter()
        .map(|partition| {
            let entry = GptPartition {
                part_type_guid: match partition.role {
                    Role::Boot => partition_types::EFI,
                    Role::SlotKernel => partition_types::BASIC,
                    Role::SlotRoot | Role::Config | Role::Data => partition_types::LINUX_FS,
                },
                part_guid: derived_guid(seed, partition.name),
                first_lba: partition.first_lba,
                last_lba: partition.first_lba + partition.sectors - 1,
                flags: 0,
                name: partition.name.to_owned(),
            };
            (partition.number, entry)
        })
        .collect();
    table
        .update_partitions(entries)
        .map_err(|error| refuse(error.to_string()))?;
    let file = table.write().map_err(|error| refuse(error.to_string()))?;
    file.sync_all().map_err(ImageError::file("flush", disk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::kboot;

    #[test]
    fn partitions_follow_each_other_without_overlap_and_fit() {
        let mut next = FIRST_PARTITION_LBA;
        for partition in partitions() {
            assert_eq!(partition.first_lba, next, "{partition:?}");
            assert_eq!(
                partition.first_lba % MIB,
                0,
                "{partition:?} is not aligned to 1 MiB"
            );
            next += partition.sectors;
        }
        assert!(next + 33 <= disk_sectors());
    }

    #[test]
    fn the_boot_records_lie_in_front_of_every_partition_and_behind_the_loader() {
        const {
            assert!(kboot::AREA_FIRST_LBA > 8191);
            assert!(kboot::AREA_FIRST_LBA + kboot::AREA_SECTORS <= 16384);
            assert!(FIRST_PARTITION_LBA >= 24576);
        }
        assert_eq!(
            kboot::AREA_FIRST_LBA,
            12288,
            "the boot script has this number in it"
        );
    }

    #[test]
    fn the_numbers_are_those_the_kernel_command_line_relies_on() {
        let names: Vec<_> = partitions().iter().map(|p| (p.number, p.name)).collect();
        assert_eq!(names[2], (3, "slotA-r"));
        assert_eq!(names[4], (5, "slotB-r"));
        assert_eq!(names[5], (6, "config"));
        assert_eq!(names[6], (7, "data"));
    }

    #[test]
    fn a_seed_gives_the_same_identity_and_another_seed_another() {
        assert_eq!(derived_guid("one", "disk"), derived_guid("one", "disk"));
        assert_ne!(derived_guid("one", "disk"), derived_guid("two", "disk"));
        assert_ne!(derived_guid("one", "disk"), derived_guid("one", "data"));
    }
}
