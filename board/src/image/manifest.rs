//! What an image consists of, as data: `out/BOARD/manifest.json`.
//!
//! The manifest is also the cache's memory: an image is reused only when the hash of everything
//! that went into it is the recorded one and every recorded output still has its hash.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::ImageError;

/// Bytes read at once while hashing.
const CHUNK_BYTES: usize = 1 << 20;

/// A built image. The field names are stable: scripts read them with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The board.
    pub board: String,
    /// The commit it was built from, with `-dirty` where files differed from it.
    pub commit: String,
    /// SHA-256 of the root file system image.
    pub root_hash: String,
    /// Size of the root file system image in bytes.
    pub root_bytes: u64,
    /// Size of the kernel in bytes.
    pub kernel_bytes: u64,
    /// SHA-256 of the kernel.
    pub kernel_hash: String,
    /// The disk's seed: its GUIDs derive from it.
    pub seed: String,
    /// Hash of everything that went in.
    pub inputs_hash: String,
    /// Kernel command line of slot A.
    pub command_line: String,
    /// Every file, link and directory of the root, sorted by path.
    pub files: Vec<FileEntry>,
}

/// One entry of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path in the root, absolute.
    pub path: String,
    /// Size in bytes; 0 for directories and links.
    pub bytes: u64,
    /// SHA-256 of the contents, of files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// The host's file it was copied from, where it is one of the distribution's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_file: Option<PathBuf>,
}

impl Manifest {
    /// Reads the manifest of an earlier build; `None` when there is none that can be read, which
    /// only means that the image is built again.
    #[must_use]
    pub fn load(path: &Path) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it, by way of a second file so that a reader never sees half of it.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn store(&self, path: &Path) -> Result<(), ImageError> {
        let partial = path.with_extension("json.partial");
        let mut text = self.to_json();
        text.push('\n');
        fs::write(&partial, text).map_err(ImageError::file("write", &partial))?;
        fs::rename(&partial, path).map_err(ImageError::file("replace", path))
    }

    /// The manifest as indented JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and numbers only: there is nothing in it that could fail to serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether every file taken from the host is still the one that is in the image.
    #[must_use]
    pub fn host_files_unchanged(&self) -> bool {
        self.files
            .iter()
            .all(|entry| match (&entry.host_file, &entry.sha256) {
                (Some(path), Some(hash)) => sha256_file(path).is_ok_and(|now| now == *hash),
                _ => true,
            })
    }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`ImageError::File`].
pub fn sha256_file(path: &Path) -> Result<String, ImageError> {
    let file = File::open(path).map_err(ImageError::file("open", path))?;
    sha256_reader(file).map_err(ImageError::file("read", path))
}

/// SHA-256 of everything `reader` gives, in hexadecimal.
pub(super) fn sha256_reader(mut reader: impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&chunk[..count]);
    }
}

/// Bytes as lower-case hexadecimal.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            sha256_file(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_changed_host_file_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one").unwrap();
        let manifest = Manifest {
            board: "b".into(),
            commit: "c".into(),
            root_hash: String::new(),
            root_bytes: 0,
            kernel_bytes: 0,
            kernel_hash: String::new(),
            seed: String::new(),
            inputs_hash: String::new(),
            command_line: String::new(),
            files: vec![FileEntry {
                path: "/usr/bin/x".into(),
                bytes: 3,
                sha256: Some(sha256_file(file.path()).unwrap()),
                link: None,
                host_file: Some(file.path().to_path_buf()),
            }],
        };
        assert!(manifest.host_files_unchanged());
        fs::write(file.path(), "two").unwrap();
        assert!(!manifest.host_files_unchanged());
    }
}
