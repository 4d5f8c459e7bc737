//! The kernel source: found, identified, unpacked into the cache.
//!
//! Guarantees: a tree in the cache is complete, patched, and named by the SHA-256 of its tarball
//! and of the patches, so two machines with the same of both use the same name; nothing is
//! downloaded here (the package tool does that).

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::KernelError;
use super::patches::Patches;
use crate::host::{self, Need};
use crate::paths::Paths;
use crate::progress::{ChildError, Step, readable_bytes};

/// Where Debian's package puts the tarball.
const DEBIAN_TARBALL: &str = "/usr/src/linux-source-6.12.tar.xz";
/// Files in the tarball, for the progress bar.
const FILES_EXPECTED: u64 = 93_000;
/// Bytes that the unpacked tree takes, with a margin.
const UNPACKED_BYTES: u64 = 2_000_000_000;
/// The longest that unpacking may take.
const UNPACK_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// The oldest kernel that has PREEMPT_RT in the mainline source.
const RELEASE_MIN: (u32, u32) = (6, 12);

/// A tarball and what it is.
#[derive(Debug, Clone)]
pub struct Source {
    /// The tarball.
    pub tarball: PathBuf,
    /// SHA-256 of it, as hexadecimal digits.
    pub sha256: String,
}

/// Remembers a tarball's hash for as long as the file is the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    tarball: PathBuf,
    bytes: u64,
    modified_ns: i128,
    inode: u64,
    sha256: String,
}

/// The source that Debian packages.
pub const DEBIAN_SOURCE: Need = Need {
    program_or_file: DEBIAN_TARBALL,
    debian_package: "linux-source-6.12",
    why: "the kernel's source, unless KAIRO_KERNEL_SOURCE names a 6.12+ tarball",
};

/// The tarball that `KAIRO_KERNEL_SOURCE` names.
pub fn named() -> Option<PathBuf> {
    env::var_os("KAIRO_KERNEL_SOURCE")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Fails unless `tarball` is a file.
///
/// # Errors
/// [`KernelError::Tarball`].
pub fn require_file(tarball: &Path) -> Result<(), KernelError> {
    let outcome = match fs::metadata(tarball) {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    outcome.map_err(|source| KernelError::Tarball {
        tarball: tarball.to_owned(),
        source,
    })
}

/// Identifies the tarball: what `KAIRO_KERNEL_SOURCE` names, else that of Debian's package, which
/// the caller has made sure of.
///
/// # Errors
/// [`KernelError::Tarball`] when the tarball cannot be read.
pub fn locate(paths: &Paths) -> Result<Source, KernelError> {
    let tarball = named().unwrap_or_else(|| PathBuf::from(DEBIAN_TARBALL));
    require_file(&tarball)?;
    let sha256 = tarball_hash(&tarball, &paths.cache_dir("kernel")?)?;
    Ok(Source { tarball, sha256 })
}

/// The tarball's hash: from memory while size, time and inode are the same, else computed.
fn tarball_hash(tarball: &Path, memory_dir: &Path) -> Result<String, KernelError> {
    let tarball_error = |source| KernelError::Tarball {
        tarball: tarball.to_owned(),
        source,
    };
    let metadata = fs::metadata(tarball).map_err(tarball_error)?;
    let current = |sha256: String| Remembered {
        tarball: tarball.to_owned(),
        bytes: metadata.len(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
            + i128::from(metadata.mtime_nsec()),
        inode: metadata.ino(),
        sha256,
    };
    let memory = memory_dir.join("tarball.json");
    let remembered: Option<Remembered> = fs::read(&memory)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(known) = remembered
        && known == current(known.sha256.clone())
    {
        return Ok(known.sha256);
    }
    let step = Step::start("Reading the kernel source", Some(metadata.len()));
    let sha256 = sha256_of(tarball, |bytes| step.advance(bytes)).map_err(tarball_error)?;
    step.done(&readable_bytes(metadata.len()));
    super::write_json(&memory, &current(sha256.clone()))?;
    Ok(sha256)
}

/// SHA-256 of a file as hexadecimal digits; `progress` is told of each piece read, in bytes.
///
/// # Errors
/// What reading the file says.
pub fn sha256_of(path: &Path, progress: impl Fn(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let bytes = file.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&buffer[..bytes]);
        progress(bytes as u64);
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The unpacked tree, unpacking it if it is not in the cache.
///
/// The caller holds the source lock, so that nobody unpacks the same tree meanwhile.
///
/// # Errors
/// [`KernelError::Host`] without enough disk space, [`KernelError::Child`] when `tar` fails,
/// [`KernelError::NotLinux`] and [`KernelError::TooOld`] when it is not Linux 6.12 or later,
/// [`KernelError::Patch`] when a patch does not apply.
pub fn unpack(paths: &Paths, source: &Source, patches: &Patches) -> Result<PathBuf, KernelError> {
    let kernel_dir = paths.cache_dir("kernel")?;
    let mut name = format!("source-{}", &source.sha256[..16]);
    if let Some(digest) = patches.digest().get(..8) {
        name = format!("{name}-{digest}");
    }
    let tree = kernel_dir.join(name);
    if tree.join("Makefile").is_file() {
        return Ok(tree);
    }
    host::require_space(&kernel_dir, UNPACKED_BYTES, "unpacking the kernel source")?;
    let partial = tree.with_extension("partial");
    super::remove_tree(&partial)?;
    fs::create_dir_all(&partial).map_err(|error| KernelError::io("make", &partial, error))?;
    let log = paths.cache_dir("log")?.join("kernel-unpack.log");
    let outcome = extract(source, &partial, &log)
        .and_then(|()| require_linux(source, &partial))
        .and_then(|()| patches.apply(&partial, &log));
    if let Err(error) = outcome {
        // More than a gigabyte of what is not wanted. The first error counts.
        let _ = super::remove_tree(&partial);
        return Err(error);
    }
    fs::rename(&partial, &tree).map_err(|error| KernelError::io("rename", &partial, error))?;
    Ok(tree)
}

fn extract(source: &Source, target: &Path, log: &Path) -> Result<(), KernelError> {
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--verbose",
        "--strip-components=1",
        "--no-same-owner",
        "--file",
    ])
    .arg(&source.tarball)
    .arg("--directory")
    .arg(target)
    .env("LC_ALL", "C");
    let step = Step::start("Unpacking the kernel source", Some(FILES_EXPECTED));
    let error = match step.run(tar, log, UNPACK_DEADLINE, |_| true) {
        Ok(files) => {
            step.done(&format!("{files} files"));
            return Ok(());
        }
        Err(error) => error,
    };
    step.failed(&source.tarball.display().to_string());
    let complaint = complaint(error.tail()).map(str::to_owned);
    match (error, complaint) {
        (ChildError::Failed { .. }, Some(said)) => Err(KernelError::NotAnArchive {
            tarball: source.tarball.clone(),
            said,
        }),
        (error, _) => Err(error.into()),
    }
}

/// The first complaint of tar, or of the program it decompresses with, in the last lines of its
/// output; the others are names of files.
fn complaint(tail: &str) -> Option<&str> {
    const SPEAKERS: [&str; 5] = ["tar", "xz", "gzip", "bzip2", "zstd"];
    let speaks = |line: &&str| {
        let speaker = line.split([':', ' ']).next().unwrap_or_default();
        line.contains(": ") && SPEAKERS.contains(&speaker)
    };
    tail.lines()
        .map(|line| line.trim_start_matches([' ', '|']))
        .find(speaks)
}

/// Fails unless `tree` is Linux, and new enough.
fn require_linux(source: &Source, tree: &Path) -> Result<(), KernelError> {
    let tarball = source.tarball.clone();
    if !tree.join("Kconfig").is_file() || !tree.join("Makefile").is_file() {
        return Err(KernelError::NotLinux { tarball });
    }
    let release = release(tree)?;
    if version(&release).is_some_and(|version| version >= RELEASE_MIN) {
        return Ok(());
    }
    Err(KernelError::TooOld { tarball, release })
}

/// The release that a tree's Makefile states, such as `6.12.117`.
///
/// # Errors
/// [`KernelError::Io`] when there is no readable Makefile.
pub fn release(tree: &Path) -> Result<String, KernelError> {
    let makefile = tree.join("Makefile");
    let text = fs::read_to_string(&makefile)
        .map_err(|source| KernelError::io("read", &makefile, source))?;
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    Ok(format!(
        "{}.{}.{}{}",
        value("VERSION"),
        value("PATCHLEVEL"),
        value("SUBLEVEL"),
        value("EXTRAVERSION")
    ))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_remembered_until_the_tarball_changes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let tarball = dir.path().join("linux.tar.xz");
        fs::write(&tarball, "one").expect("write");
        let first = tarball_hash(&tarball, dir.path()).expect("hash");
        let memory = dir.path().join("tarball.json");
        let forged = fs::read_to_string(&memory)
            .expect("memory")
            .replace(&first, "forged");
        fs::write(&memory, forged).expect("write");
        assert_eq!(
            tarball_hash(&tarball, dir.path()).expect("hash"),
            "forged",
            "from memory"
        );
        fs::write(&tarball, "two, longer").expect("write");
        let second = tarball_hash(&tarball, dir.path()).expect("hash");
        assert!(second != "forged" && second != first, "computed anew");
    }

    #[test]
    fn a_tarball_that_is_not_there_names_the_variable_to_check() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = tarball_hash(&dir.path().join("absent.tar"), dir.path()).expect_err("absent");
        assert!(error.to_string().contains("KAIRO_KERNEL_SOURCE"), "{error}");
    }

    /// A tarball in `dir` with one directory and these files in it.
    fn packed(dir: &Path, files: &[(&str, &str)]) -> Source {
        fs::create_dir(dir.join("x")).expect("mkdir");
        for (name, text) in files {
            fs::write(dir.join("x").join(name), text).expect("write");
        }
        let tarball = dir.join("x.tar");
        let status = Command::new("tar")
            .args(["--create", "--file"])
            .arg(&tarball)
            .arg("--directory")
            .arg(dir)
            .arg("x")
            .status()
            .expect("tar");
        assert!(status.success());
        Source {
            tarball,
            sha256: "0123456789abcdef0".to_owned(),
        }
    }

    #[test]
    fn a_kernel_before_preempt_rt_is_refused_and_leaves_no_tree() {
        let dir = tempfile::tempdir().expect("tempdir");
        let paths = Paths::at(dir.path(), &dir.path().join("cache"));
        let makefile = "VERSION = 6\nPATCHLEVEL = 6\nSUBLEVEL = 1\nEXTRAVERSION =\n";
        let source = packed(dir.path(), &[("Makefile", makefile), ("Kconfig", "")]);
        let error = unpack(&paths, &source, &Patches::default()).expect_err("too old");
        assert!(error.to_string().contains("is Linux 6.6.1;"), "{error}");
        let left = fs::read_dir(dir.path().join("cache/kernel")).expect("list");
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_file_that_is_no_archive_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().expect("tempdir");
        let paths = Paths::at(dir.path(), &dir.path().join("cache"));
        let tarball = dir.path().join("linux.tar");
        fs::write(&tarball, "no archive\n".repeat(100)).expect("write");
        let source = Source {
            tarball,
            sha256: "0123456789abcdef0".to_owned(),
        };
        let text = unpack(&paths, &source, &Patches::default())
            .expect_err("no archive")
            .to_string();
        assert!(text.contains("does not look like a tar"), "{text}");
        assert!(text.contains("KAIRO_KERNEL_SOURCE"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_directory_is_no_tarball() {
        let error = require_file(Path::new("/")).expect_err("a directory");
        assert!(error.to_string().contains("directory"), "{error}");
    }

    #[test]
    fn the_complaint_is_found_among_the_names_of_files() {
        let tail = "  | linux-6.12/tar: x\n  | xz: (stdin): Compressed data is corrupt\n  | tar: y";
        let found = "xz: (stdin): Compressed data is corrupt";
        assert_eq!(complaint(tail), Some(found));
        assert_eq!(complaint("  | linux-6.12/Makefile"), None);
    }

    #[test]
    fn an_archive_without_a_kernel_is_refused_and_leaves_no_tree() {
        let dir = tempfile::tempdir().expect("tempdir");
        let paths = Paths::at(dir.path(), &dir.path().join("cache"));
        let source = packed(dir.path(), &[("readme", "no kernel")]);
        let error = unpack(&paths, &source, &Patches::default()).expect_err("no kernel");
        assert!(matches!(error, KernelError::NotLinux { .. }), "{error}");
        assert!(
            !dir.path()
                .join("cache/kernel/source-0123456789abcdef")
                .exists()
        );
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("abc");
        fs::write(&file, "abc").expect("write");
        // FIPS 180-4, example "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&file, |_| ()).expect("hash"), expected);
    }

    #[test]
    fn releases_before_preempt_rt_are_too_old() {
        assert!(version("6.12.117").expect("version") >= RELEASE_MIN);
        assert!(version("7.2.0").expect("version") >= RELEASE_MIN);
        assert!(version("6.1.99").expect("version") < RELEASE_MIN);
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn the_release_is_read_from_the_makefile() {
        let dir = tempfile::tempdir().expect("tempdir");
        let text = "# x\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\nNAME = a\n";
        fs::write(dir.path().join("Makefile"), text).expect("write");
        assert_eq!(release(dir.path()).expect("release"), "6.12.117");
    }
}
