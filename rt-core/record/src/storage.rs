//! Where record files live: a directory with a bound, the oldest deleted to make room.
//!
//! Ordinary threads only; every call may wait for a disk. Files are `NNNNNNNN.krec`, numbered
//! upwards for ever, and `crash-NNNNNNNN.krec` for what a black box held. Numbers, not dates, say
//! which is older: a robot's clock may be wrong, and it may step. What is not named like that is
//! neither counted nor touched.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub number: u64,
    /// Whether it came out of a black box.
    pub crash: bool,
    /// Its size.
    pub bytes: u64,
}

impl Stored {
    /// Its name.
    pub fn name(&self) -> String {
        file_name(self.number, self.crash)
    }
}

/// The name of a record file.
pub fn file_name(number: u64, crash: bool) -> String {
    let prefix = if crash { "crash-" } else { "" };
    format!("{prefix}{number:08}.krec")
}

/// The number in a name, and whether it is a crash's; `None` for other files.
pub fn parse_name(name: &str) -> Option<(u64, bool)> {
    let stem = name.strip_suffix(".krec")?;
    let (digits, crash) = match stem.strip_prefix("crash-") {
        Some(digits) => (digits, true),
        None => (stem, false),
    };
    let number = digits.parse().ok()?;
    (digits.len() >= 8).then_some((number, crash))
}

/// What the drain writes to. One file is open at a time.
pub trait Storage: Send {
    /// All record files, oldest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn files(&mut self) -> Result<Vec<Stored>>;

    /// Begins a new file, which must not be there, and ends the one before.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&mut self, number: u64, crash: bool) -> Result<()>;

    /// Appends to the open file; how many bytes, and an error if it were not all.
    fn append(&mut self, bytes: &[u8]) -> (usize, Result<()>);

    /// Puts what was appended on the medium.
    ///
    /// # Errors
    /// When the medium fails.
    fn sync(&mut self) -> Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&mut self, file: &Stored) -> Result<()>;
}

/// A directory of a file system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// The open file and its name.
    open: Option<(File, String)>,
}

impl Directory {
    /// The directory at `path`, which is made when first needed.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            open: None,
        }
    }
}

/// All record files in `directory`, oldest first.
///
/// # Errors
/// When it cannot be listed.
pub fn list(directory: &Path) -> Result<Vec<Stored>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let Some((number, crash)) = entry.file_name().to_str().and_then(parse_name) else {
            continue;
        };
        // A file that vanished meanwhile is none.
        if let Ok(metadata) = entry.metadata() {
            files.push(Stored {
                number,
                crash,
                bytes: metadata.len(),
            });
        }
    }
    files.sort_by_key(|file| (file.number, file.crash));
    Ok(files)
}

impl Storage for Directory {
    fn files(&mut self) -> Result<Vec<Stored>> {
        std::fs::create_dir_all(&self.path)?;
        list(&self.path)
    }

    fn create(&mut self, number: u64, crash: bool) -> Result<()> {
        self.open = None;
        let mut options = OpenOptions::new();
        let options = options.append(true).create_new(true).mode(0o640);
        let name = file_name(number, crash);
        self.open = Some((options.open(self.path.join(&name))?, name));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> (usize, Result<()>) {
        let Some((file, _)) = &mut self.open else {
            return (0, Err(std::io::ErrorKind::NotFound.into()));
        };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(std::io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    fn sync(&mut self) -> Result<()> {
        let open = self.open.as_ref();
        open.map_or(Ok(()), |(file, _)| file.sync_data())
    }

    fn remove(&mut self, file: &Stored) -> Result<()> {
        let name = file.name();
        // A file that is open keeps its room.
        self.open.take_if(|(_, open)| *open == name);
        std::fs::remove_file(self.path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbers_and_other_files_are_left_alone() {
        assert_eq!(parse_name(&file_name(7, false)), Some((7, false)));
        assert_eq!(
            parse_name(&file_name(123_456_789, true)),
            Some((123_456_789, true))
        );
        for other in [
            "7.krec",
            "notes.txt",
            "crash-.krec",
            "x-00000001.krec",
            "00000001.mcap",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_missing_directory_is_made() {
        let parent = tempfile::tempdir().expect("a directory");
        let mut directory = Directory::new(&parent.path().join("a/b"));
        assert_eq!(directory.files().expect("listed"), []);
        directory.create(1, false).expect("created");
        assert_eq!(directory.append(b"abc").0, 3);
        let files = directory.files().expect("listed");
        assert_eq!((files.len(), files[0].bytes), (1, 3));
    }

    #[test]
    fn a_file_that_is_removed_while_open_gives_its_room_back() {
        let parent = tempfile::tempdir().expect("a directory");
        let mut directory = Directory::new(parent.path());
        directory.create(1, true).expect("created");
        let file = directory.files().expect("listed").remove(0);
        directory.remove(&file).expect("removed");
        let (written, result) = directory.append(b"abc");
        assert!(written == 0 && result.is_err(), "it is still open");
    }
}
