//! Puts the parts of an image together: one sparse file with the whole disk.
//!
//! Both slots are filled with the same kernel and root, so that a robot fresh from the factory
//! already has somewhere to fall back to. Which slot boots is in the boot record.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::definition::Board;
use super::error::ImageError;
use super::filesystems::{Bench, make_empty, make_ext4, make_fat};
use super::kboot::{RECORD_0_LBA, Record, Slot};
use super::layout::{self, Partition, Role, SECTOR_BYTES, derived_guid};

/// Bytes copied at once; chunks of zeros are skipped, which keeps the file sparse.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a disk is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The board.
    pub board: &'a Board,
    /// The kernel image.
    pub kernel: &'a Path,
    /// The root file system image.
    pub root: &'a Path,
    /// SHA-256 of the root, recorded in `slot.env`.
    pub root_hash: &'a str,
    /// Directory with the default files of `/config`.
    pub config: &'a Path,
    /// The disk's seed.
    pub seed: &'a str,
}

/// Makes the disk image `disk`, by way of partition images in `scratch`.
///
/// # Errors
/// [`ImageError`] of the step that failed; the disk is then incomplete and not to be used.
pub fn assemble(
    bench: Bench<'_>,
    disk: &Path,
    scratch: &Path,
    parts: Parts<'_>,
) -> Result<(), ImageError> {
    make_empty(disk, layout::disk_sectors() * SECTOR_BYTES)?;
    layout::write_table(disk, parts.seed)?;
    let mut file = OpenOptions::new()
        .write(true)
        .open(disk)
        .map_err(ImageError::file("open", disk))?;
    let record = Record::factory()
        .to_sector()
        .map_err(|error| ImageError::Verify {
            path: disk.to_path_buf(),
            reason: error.to_string(),
        })?;
    file.seek(SeekFrom::Start(RECORD_0_LBA * SECTOR_BYTES))
        .and_then(|_| file.write_all(&record))
        .map_err(ImageError::file("write", disk))?;
    for partition in layout::partitions() {
        let image = scratch.join(partition.name);
        match partition.role {
            Role::SlotRoot => copy_sparse(parts.root, &mut file, &partition, disk)?,
            _ => {
                make_partition(bench, &image, &partition, scratch, parts)?;
                copy_sparse(&image, &mut file, &partition, disk)?;
                fs::remove_file(&image).map_err(ImageError::file("remove", &image))?;
            }
        }
    }
    file.sync_all().map_err(ImageError::file("flush", disk))
}

/// Contents of `slot.env`: what a boot loader needs to start the slot.
#[must_use]
pub fn slot_env(board: &Board, slot: Slot, root_hash: &str) -> String {
    format!(
        "slot={}\nkernel=kernel\nroot_hash={root_hash}\ncommand_line={}\n",
        slot.letter(),
        board.command_line(slot)
    )
}

/// The slot a partition belongs to, going by its place in the plan.
pub(super) fn slot_of(partition: &Partition) -> Slot {
    if partition.number <= 3 {
        Slot::A
    } else {
        Slot::B
    }
}

fn make_partition(
    bench: Bench<'_>,
    image: &Path,
    partition: &Partition,
    scratch: &Path,
    parts: Parts<'_>,
) -> Result<(), ImageError> {
    let bytes = partition.length_bytes();
    let guid = derived_guid(parts.seed, &format!("{} file system", partition.name));
    let volume_id = guid.as_fields().0;
    match partition.role {
        Role::Boot => make_fat(bench, image, bytes, "BOOT", volume_id, &[]),
        Role::SlotKernel => {
            let slot = slot_of(partition);
            let env = scratch.join("slot.env");
            let text = slot_env(parts.board, slot, parts.root_hash);
            fs::write(&env, text).map_err(ImageError::file("write", &env))?;
            let label = partition.name.to_uppercase();
            make_fat(
                bench,
                image,
                bytes,
                &label,
                volume_id,
                &[parts.kernel, &env],
            )?;
            fs::remove_file(&env).map_err(ImageError::file("remove", &env))
        }
        Role::Config | Role::Data => {
            let tree = (partition.role == Role::Config).then_some(parts.config);
            make_ext4(bench, image, bytes, partition.name, &guid.to_string(), tree)
        }
        Role::SlotRoot => Ok(()),
    }
}

/// Copies `image` into its partition, skipping zeros.
fn copy_sparse(
    image: &Path,
    disk: &mut File,
    partition: &Partition,
    disk_path: &Path,
) -> Result<(), ImageError> {
    let mut source = File::open(image).map_err(ImageError::file("open", image))?;
    let bytes = source
        .metadata()
        .map_err(ImageError::file("look at", image))?
        .len();
    if bytes > partition.length_bytes() {
        return Err(ImageError::TooLarge {
            what: "the contents of a partition",
            bytes,
            limit_bytes: partition.length_bytes(),
        });
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = partition.offset_bytes();
    loop {
        let count = source
            .read(&mut chunk)
            .map_err(ImageError::file("read", image))?;
        if count == 0 {
            return Ok(());
        }
        if chunk[..count].iter().any(|&byte| byte != 0) {
            disk.seek(SeekFrom::Start(at))
                .and_then(|_| disk.write_all(&chunk[..count]))
                .map_err(ImageError::file("write", disk_path))?;
        }
        at += count as u64;
    }
}
