//! Reads a finished disk back and compares it with what it should be.
//!
//! Guarantees: shares no code with the writers: the partition table is parsed here, the file
//! systems are known by their own marks, the kernel is read out of its FAT, and the root is hashed
//! where it lies. A disk that passes is the one the manifest describes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use super::definition::Board;
use super::disk::{slot_env, slot_of};
use super::error::ImageError;
use super::kboot::{RECORD_0_LBA, RECORD_BYTES, Record};
use super::layout::{self, Partition, Role, SECTOR_BYTES, derived_guid};
use super::manifest::{Manifest, sha256_reader};
use crate::host::program_path;

const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;
const EXT4_MAGIC: u16 = 0xEF53;
/// Feature bit of ext4 and its ancestors: the file system has a journal.
const HAS_JOURNAL: u32 = 0x4;

/// Checks `disk` against `board` and `manifest`.
///
/// # Errors
/// [`ImageError::Verify`] with the first difference; [`ImageError::File`] if it cannot be read.
pub fn verify(disk: &Path, board: &Board, manifest: &Manifest) -> Result<(), ImageError> {
    let file = File::open(disk).map_err(ImageError::file("open", disk))?;
    let reader = Reader { disk, file };
    reader.table(&manifest.seed)?;
    reader.record()?;
    for partition in layout::partitions() {
        reader.partition(&partition, board, manifest)?;
    }
    Ok(())
}

struct Reader<'a> {
    disk: &'a Path,
    file: File,
}

impl Reader<'_> {
    fn refuse<T>(&self, reason: String) -> Result<T, ImageError> {
        Err(ImageError::Verify {
            path: self.disk.to_path_buf(),
            reason,
        })
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; length];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(ImageError::file("read", self.disk))?;
        Ok(bytes)
    }

    /// Both copies of the partition table: marks, checksums, and the plan in the entries.
    fn table(&self, seed: &str) -> Result<(), ImageError> {
        let mbr = self.read(0, 512)?;
        if mbr[510..] != [0x55, 0xAA] || mbr[450] != 0xEE {
            return self.refuse("sector 0 is no protective MBR".to_owned());
        }
        let last = layout::disk_sectors() - 1;
        let primary = self.header(1, last)?;
        let backup = self.header(last, 1)?;
        if primary != backup {
            return self.refuse("the two copies of the partition table differ".to_owned());
        }
        let (guid, entries) = primary;
        if guid != derived_guid(seed, "disk").to_bytes_le() {
            return self.refuse("the disk GUID is not that of the seed".to_owned());
        }
        let plan = layout::partitions();
        for (index, entry) in entries.chunks_exact(ENTRY_BYTES).enumerate() {
            let first = le64(entry, 32);
            let last = le64(entry, 40);
            let Some(partition) = plan.get(index) else {
                if entry.iter().any(|&byte| byte != 0) {
                    return self.refuse(format!("partition {} is not in the plan", index + 1));
                }
                continue;
            };
            let name: Vec<u16> = entry[56..]
                .chunks_exact(2)
                .map(|two| le16(two, 0))
                .collect();
            let name = String::from_utf16_lossy(&name);
            let expected = (
                partition.first_lba,
                partition.first_lba + partition.sectors - 1,
            );
            if (first, last) != expected || name.trim_end_matches('\0') != partition.name {
                return self.refuse(format!(
                    "partition {} is {name:?} at {first}..{last}, not {partition:?}",
                    index + 1
                ));
            }
        }
        Ok(())
    }

    /// One header and its entries, checksums verified: the disk GUID and the entry array.
    fn header(&self, lba: u64, other: u64) -> Result<([u8; 16], Vec<u8>), ImageError> {
        let header = self.read(lba * SECTOR_BYTES, HEADER_BYTES)?;
        if !header.starts_with(b"EFI PART") || le32(&header, 12) as usize != HEADER_BYTES {
            return self.refuse(format!("no partition table at sector {lba}"));
        }
        let mut blank = header.clone();
        blank[16..20].fill(0);
        if le32(&header, 16) != crc32fast::hash(&blank) {
            return self.refuse(format!(
                "the table header at sector {lba} has a bad checksum"
            ));
        }
        if le64(&header, 24) != lba || le64(&header, 32) != other {
            return self.refuse(format!(
                "the table header at sector {lba} has a wrong place"
            ));
        }
        let (count, size) = (le32(&header, 80) as usize, le32(&header, 84) as usize);
        if size != ENTRY_BYTES || count > 128 {
            return self.refuse(format!("the table has {count} entries of {size} bytes"));
        }
        let entries = self.read(le64(&header, 72) * SECTOR_BYTES, count * size)?;
        if le32(&header, 88) != crc32fast::hash(&entries) {
            return self.refuse(format!("the entries of sector {lba}'s table are damaged"));
        }
        let mut guid = [0; 16];
        guid.copy_from_slice(&header[56..72]);
        Ok((guid, entries))
    }

    fn record(&self) -> Result<(), ImageError> {
        let sector = self.read(RECORD_0_LBA * SECTOR_BYTES, RECORD_BYTES)?;
        match Record::from_sector(&sector) {
            Ok(record) if record == Record::factory() => Ok(()),
            Ok(record) => self.refuse(format!("the boot record is {record:?}")),
            Err(error) => self.refuse(format!("the boot record: {error}")),
        }
    }

    fn partition(
        &self,
        partition: &Partition,
        board: &Board,
        manifest: &Manifest,
    ) -> Result<(), ImageError> {
        let name = partition.name;
        match partition.role {
            Role::Boot => self.fat(partition),
            Role::SlotKernel => {
                self.fat(partition)?;
                let kernel = self.fat_file(partition, "kernel")?;
                let hash = sha256_reader(kernel.as_slice()).unwrap_or_default();
                if hash != manifest.kernel_hash {
                    return self.refuse(format!("{name}: the kernel's hash is {hash}"));
                }
                let env = self.fat_file(partition, "slot.env")?;
                let expected = slot_env(board, slot_of(partition), &manifest.root_hash);
                if env != expected.as_bytes() {
                    return self.refuse(format!("{name}: slot.env is not {expected:?}"));
                }
                Ok(())
            }
            Role::SlotRoot => self.root(partition, manifest),
            Role::Config | Role::Data => {
                let superblock = self.read(partition.offset_bytes() + 1024, 1024)?;
                let journal = le32(&superblock, 92) & HAS_JOURNAL != 0;
                if le16(&superblock, 56) != EXT4_MAGIC || !journal {
                    return self.refuse(format!("{name} is no ext4 with a journal"));
                }
                Ok(())
            }
        }
    }

    fn root(&self, partition: &Partition, manifest: &Manifest) -> Result<(), ImageError> {
        let name = partition.name;
        let superblock = self.read(partition.offset_bytes() + 1024, 128)?;
        if le32(&superblock, 0) != EROFS_MAGIC {
            return self.refuse(format!("{name} is no EROFS"));
        }
        let mut file = &self.file;
        file.seek(SeekFrom::Start(partition.offset_bytes()))
            .map_err(ImageError::file("read", self.disk))?;
        let hash = sha256_reader(file.take(manifest.root_bytes))
            .map_err(ImageError::file("read", self.disk))?;
        if hash != manifest.root_hash {
            return self.refuse(format!("{name} has the hash {hash}"));
        }
        Ok(())
    }

    fn fat(&self, partition: &Partition) -> Result<(), ImageError> {
        let sector = self.read(partition.offset_bytes(), 512)?;
        if sector[510..] != [0x55, 0xAA] || sector[54..59] != *b"FAT16" {
            return self.refuse(format!("{} is no FAT16", partition.name));
        }
        Ok(())
    }

    /// A file out of a FAT partition, read by mtools where the partition lies.
    fn fat_file(&self, partition: &Partition, name: &str) -> Result<Vec<u8>, ImageError> {
        let image = format!("{}@@{}", self.disk.display(), partition.offset_bytes());
        let output = Command::new(program_path("mcopy").unwrap_or_else(|| "mcopy".into()))
            .args(["-n", "-i", &image, &format!("::{name}"), "-"])
            .output()
            .map_err(ImageError::file("read with mcopy", self.disk))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        self.refuse(format!("{}: no file {name}: {words}", partition.name))
    }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::disk::{Parts, assemble};
    use crate::image::filesystems::{Bench, make_erofs};
    use crate::image::kboot::Slot;
    use crate::image::manifest::sha256_file;
    use crate::progress::Step;
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    fn made(directory: &Path) -> (Board, Manifest) {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let board = Board::load(workspace, "qemu-x86_64").unwrap();
        let step = Step::start("disk", None);
        let bench = Bench {
            step: &step,
            logs: directory,
        };
        let (kernel, root) = (directory.join("kernel"), directory.join("root.erofs"));
        let config = directory.join("config-files");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("kairo.toml"), "hostname = \"kairo\"\n").unwrap();
        fs::write(&kernel, "kernel".repeat(10_000)).unwrap();
        make_erofs(bench, &config, &root, 0).unwrap();
        let manifest = Manifest {
            board: board.name.clone(),
            commit: "c".into(),
            root_hash: sha256_file(&root).unwrap(),
            root_bytes: fs::metadata(&root).unwrap().len(),
            kernel_bytes: 60_000,
            kernel_hash: sha256_file(&kernel).unwrap(),
            seed: "seed".into(),
            inputs_hash: String::new(),
            command_line: board.command_line(Slot::A),
            files: Vec::new(),
        };
        let parts = Parts {
            board: &board,
            kernel: &kernel,
            root: &root,
            root_hash: &manifest.root_hash,
            config: &config,
            seed: &manifest.seed,
        };
        assemble(bench, &directory.join("disk.img"), directory, parts).unwrap();
        (board, manifest)
    }

    #[test]
    fn a_made_disk_verifies_and_every_kind_of_damage_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (board, manifest) = made(directory.path());
        let disk = directory.path().join("disk.img");
        verify(&disk, &board, &manifest).unwrap();
        let [boot, _, root_a, kernel_b, _, config, _] = layout::partitions();
        let last = layout::disk_sectors() - 1;
        let places = [
            ("protective MBR", 510),
            ("primary header", SECTOR_BYTES + 40),
            ("primary entries", 2 * SECTOR_BYTES + 33),
            ("backup header", last * SECTOR_BYTES + 56),
            ("boot record", RECORD_0_LBA * SECTOR_BYTES + 9),
            ("BOOT", boot.offset_bytes() + 55),
            ("root A superblock", root_a.offset_bytes() + 1024),
            ("root A contents", root_a.offset_bytes() + 1200),
            ("kernel B's file system", kernel_b.offset_bytes() + 510),
            ("config", config.offset_bytes() + 1024 + 56),
        ];
        for (what, offset) in places {
            let flip = || {
                let mut file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&disk)
                    .unwrap();
                let mut byte = [0];
                file.seek(SeekFrom::Start(offset)).unwrap();
                file.read_exact(&mut byte).unwrap();
                file.seek(SeekFrom::Start(offset)).unwrap();
                file.write_all(&[byte[0] ^ 0x20]).unwrap();
            };
            flip();
            assert!(
                verify(&disk, &board, &manifest).is_err(),
                "{what}: damage goes unnoticed"
            );
            flip();
        }
        verify(&disk, &board, &manifest).unwrap();
    }

    #[test]
    fn another_kernel_than_the_manifests_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (board, mut manifest) = made(directory.path());
        manifest.kernel_hash = manifest.root_hash.clone();
        let error = verify(&directory.path().join("disk.img"), &board, &manifest).unwrap_err();
        assert!(error.to_string().contains("slotA-k"), "{error}");
    }
}
