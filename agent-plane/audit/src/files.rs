//! Names in the directory, and the one way of looking at it. Verification sees nothing else, which
//! makes it a function of the files; its tests give it files that lie in memory.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the log ends, signed.
pub const HEAD_NAME: &str = "audit.head";
/// The signing key, mode 0600.
pub const KEY_NAME: &str = "audit.key";
/// The public key.
pub const PUBLIC_KEY_NAME: &str = "audit.pub";
/// Held locked by the process that writes.
pub const LOCK_NAME: &str = "audit.lock";
/// Ends the name of a file that is being written; left behind by a crash, it means nothing.
pub const UNFINISHED: &str = ".new";
/// Begins the name of a directory with a chain that was found broken.
pub const BROKEN: &str = "broken-";

/// Mode of the key.
pub const KEY_MODE: u32 = 0o600;
/// Mode of everything else: the operator's group may read.
pub const LOG_MODE: u32 = 0o640;

/// Longest file that is read whole. A segment is cut at [`crate::Options::segment_bytes`], which
/// is at most an eighth of it, plus one group.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Name of a segment.
pub fn segment_name(index: u32) -> String {
    format!("audit-{index:06}.log")
}

/// Index of a segment; none for any other name, or another spelling of it.
pub fn segment_index(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".log")?;
    let index = digits.parse().ok()?;
    (index > 0 && segment_name(index) == name).then_some(index)
}

/// A length as the files say it.
pub const fn to_count(bytes: usize) -> u64 {
    bytes as u64
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The name.
    pub name: String,
    /// What it names.
    pub kind: Kind,
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: a link, a socket, a pipe. Never opened.
    Other,
}

/// The files of a log.
pub trait Files {
    /// Names below a directory; empty for the log's own.
    fn names(&self, below: &str) -> io::Result<Vec<Name>>;
    /// A whole file; none when there is no such regular file.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Permission bits of a file.
    fn mode(&self, name: &str) -> io::Result<u32>;
}

/// A directory on disk.
#[derive(Clone, Debug)]
pub struct Directory(pub PathBuf);

impl Directory {
    /// The first line of a file, without its end; empty when there is no such file.
    pub fn first_line(&self, name: &str, bytes_max: usize) -> io::Result<Vec<u8>> {
        let path = self.0.join(name);
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Ok(Vec::new());
        }
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut line = Vec::new();
        let mut start = BufReader::new(file.take(to_count(bytes_max)));
        start.read_until(b'\n', &mut line)?;
        line.pop_if(|byte| *byte == b'\n');
        Ok(line)
    }
}

impl Files for Directory {
    fn names(&self, below: &str) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.0.join(below))? {
            let entry = entry?;
            let kind = match entry.file_type()? {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => Kind::Directory,
                _ => Kind::Other,
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            names.push(Name { name, kind });
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut bytes = Vec::new();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} is longer than {FILE_BYTES_MAX} bytes", path.display()),
            ));
        }
        Ok(Some(bytes))
    }

    fn mode(&self, name: &str) -> io::Result<u32> {
        let found = self.0.join(name).symlink_metadata()?;
        Ok(found.permissions().mode() & 0o777)
    }
}

/// Makes what was created, renamed or removed in a directory outlive a power cut.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Writes a file so that there is the old or the new one at any instant, and the new one after.
pub fn replace(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = directory.join(format!("{name}{UNFINISHED}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)?;
    // The mode above counts for a new file only, and a umask takes from it.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, directory.join(name))?;
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_has_one_spelling() {
        assert_eq!(segment_index("audit-000001.log"), Some(1));
        assert_eq!(segment_index(&segment_name(1_234_567)), Some(1_234_567));
        for other in [
            "audit-1.log",
            "audit-000000.log",
            "audit-+00001.log",
            "audit-000001.log.new",
        ] {
            assert_eq!(segment_index(other), None, "{other}");
        }
    }

    #[test]
    fn a_link_is_never_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("x")).unwrap();
        let files = Directory(directory.path().to_owned());
        assert!(files.read("x").unwrap().is_none());
        assert_eq!(files.names("").unwrap()[0].kind, Kind::Other);
    }
}
