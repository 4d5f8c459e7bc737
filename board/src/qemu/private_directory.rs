//! A directory for sockets: only this user can look into it, it goes with its value, and its path
//! is short enough for a socket however deep the checkout lies.

use std::env;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::QemuError;

/// A private directory below the system's place for temporary files.
#[derive(Debug)]
pub(crate) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Makes a new one. A name that is taken by somebody else is an error, never shared.
    pub(crate) fn new() -> Result<PrivateDirectory, QemuError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("kairo-{}-{number}", std::process::id()));
        // Left by a killed process that had the same id; removing follows no link.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(QemuError::file("make", &path))?;
        Ok(PrivateDirectory(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
