//! The load on the disk: files that are written, forced out, read back and removed.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use super::CHURN_DIR;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// One file.
const FILE_BYTES: usize = 4 << 20;
/// Written and read at a time.
const BLOCK_BYTES: usize = 64 << 10;

/// Churns.
pub fn churn() -> anyhow::Result<Infallible> {
    let mut block = vec![0x5A_u8; BLOCK_BYTES];
    for count in 0_u64.. {
        let path = Path::new(CHURN_DIR).join(format!("churn-{}", count % 4));
        // A full disk is part of the load.
        let _ = write(&path, &block);
        let _ = read(&path, &mut block);
        let _ = fs::remove_file(&path);
    }
    unreachable!("the count does not end")
}

fn write(path: &Path, block: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..FILE_BYTES / BLOCK_BYTES {
        file.write_all(block)?;
    }
    file.sync_all()?;
    // So that reading it back asks the disk.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

fn read(path: &Path, block: &mut [u8]) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    while file.read(block)? > 0 {}
    Ok(())
}
