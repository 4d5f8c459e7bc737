//! What the developer's machine must offer, and installing what is missing.
//!
//! Guarantees: nothing is installed without saying what and why first; on machines where it
//! cannot install, everything missing is named in one message; a lack of disk space or of
//! network is one sentence with the way out.
//! Does not: add package sources, upgrade or remove anything, or try to guess package names on
//! systems other than Debian 12 and 13.

mod packages;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::statvfs::statvfs;

use crate::progress::{ChildError, readable_bytes};
use packages::{Decision, Situation};

/// One thing a step needs from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// A program looked up on `PATH`; a file where it begins with a slash; a static library of
    /// the C compiler's where it ends in `.a`.
    pub program_or_file: &'static str,
    /// The Debian package that brings it.
    pub debian_package: &'static str,
    /// What it is needed for, to be read after "for": "compiling the kernel".
    pub why: &'static str,
}

impl Need {
    fn is_met(&self) -> bool {
        if self.program_or_file.starts_with('/') {
            return Path::new(self.program_or_file).exists();
        }
        if self.program_or_file.ends_with(".a") {
            return compiler_finds(self.program_or_file);
        }
        program_path(self.program_or_file).is_some()
    }
}

/// Whether the C compiler finds a library, wherever this distribution keeps it.
fn compiler_finds(library: &str) -> bool {
    let answer = Command::new("gcc")
        .arg(format!("-print-file-name={library}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    // What it does not find, it repeats as it was asked.
    answer
        .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute())
}

/// Why the host could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Things are missing and this tool may not or cannot install them here.
    #[error("missing on this machine ({reason}):\n{list}{hint}")]
    Missing {
        /// Why nothing was installed.
        reason: String,
        /// One line per missing thing.
        list: String,
        /// The command that would install them, if it is known.
        hint: String,
    },
    /// The package sources could not be reached.
    #[error(
        "no network: the package sources could not be reached while installing {packages}. \
         Connect, or install them by another way, then run the same command again; log: {log}"
    )]
    NoNetwork {
        /// The packages wanted.
        packages: String,
        /// Where the package tool's output is.
        log: PathBuf,
    },
    /// The package sources were read and do not have a package.
    #[error(
        "this machine's package sources do not offer all of {packages}: enable Debian's main and \
         security sources (Debian 12 has linux-source-6.12 in bookworm-security), then run the \
         same command again; log: {log}"
    )]
    NotOffered {
        /// The packages wanted.
        packages: String,
        /// Where the package tool's output is.
        log: PathBuf,
    },
    /// The package tool ran and failed.
    #[error("installing {packages} failed: {source}")]
    Install {
        /// The packages wanted.
        packages: String,
        /// What happened.
        source: ChildError,
    },
    /// The packages were installed and something is still not there.
    #[error("installed, and still missing: {what}. Check PATH and the package's contents")]
    StillMissing {
        /// The programs or files.
        what: String,
    },
    /// Not enough room on a file system.
    #[error(
        "not enough disk space for {purpose}: {needed} needed, {free} free in {dir}. \
         Free some space, or set KAIRO_CACHE to a directory on a larger disk"
    )]
    DiskSpace {
        /// What the space is for.
        purpose: String,
        /// Bytes needed, readable.
        needed: String,
        /// Bytes free, readable.
        free: String,
        /// The directory that was looked at.
        dir: PathBuf,
    },
    /// The free space could not be determined.
    #[error("cannot determine the free space of {dir}: {source}")]
    DiskQuery {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes sure that everything in `needs` is there, installing Debian packages if it may.
///
/// Prints each missing thing with its reason before installing. `KAIRO_INSTALL=never` forbids
/// installing. `log_dir` receives the package tool's output. A command calls this once, at its
/// start, with everything its steps are going to need.
///
/// # Errors
/// [`HostError`]; [`HostError::Missing`] names everything at once.
pub fn ensure(needs: &[Need], log_dir: &Path) -> Result<(), HostError> {
    let missing = unmet(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let privilege = match packages::decide(&Situation::of_this_machine()) {
        Decision::Install(privilege) => privilege,
        Decision::Refuse(reason) => return Err(missing_error(&missing, reason)),
    };
    for need in &missing {
        eprintln!(
            "missing: {} (package {}), for {}",
            need.program_or_file, need.debian_package, need.why
        );
    }
    if !packages::may_proceed(privilege) {
        return Err(missing_error(&missing, "sudo was refused".to_owned()));
    }
    packages::install(&package_names(&missing), privilege, log_dir)?;
    let still = unmet(&missing);
    if still.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = still.iter().map(|need| need.program_or_file).collect();
    Err(HostError::StillMissing {
        what: names.join(", "),
    })
}

/// What is missing, each thing once, in the order asked for.
fn unmet(needs: &[Need]) -> Vec<Need> {
    let mut missing: Vec<Need> = Vec::new();
    for need in needs {
        let known = |other: &Need| other.program_or_file == need.program_or_file;
        if !missing.iter().any(known) && !need.is_met() {
            missing.push(*need);
        }
    }
    missing
}

/// Makes sure that `dir`, or the nearest ancestor that exists, has `needed_bytes` free.
///
/// # Errors
/// [`HostError::DiskSpace`] when it has not, [`HostError::DiskQuery`] when nobody can tell.
pub fn require_space(dir: &Path, needed_bytes: u64, purpose: &str) -> Result<(), HostError> {
    let existing = dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let query_error = |errno: nix::Error| HostError::DiskQuery {
        dir: existing.to_owned(),
        source: errno.into(),
    };
    let status = statvfs(existing).map_err(query_error)?;
    let free_bytes = status
        .blocks_available()
        .saturating_mul(status.fragment_size());
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(HostError::DiskSpace {
        purpose: purpose.to_owned(),
        needed: readable_bytes(needed_bytes),
        free: readable_bytes(free_bytes),
        dir: existing.to_owned(),
    })
}

/// Where a program is: on `PATH`, or in the system directories that ordinary users' `PATH`
/// lacks on Debian (`mkfs.ext4` is there).
pub fn program_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn package_names(needs: &[Need]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = needs.iter().map(|need| need.debian_package).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn missing_error(missing: &[Need], reason: String) -> HostError {
    let list = missing
        .iter()
        .map(|need| {
            let Need {
                program_or_file,
                debian_package,
                why,
            } = need;
            format!("  {program_or_file}, for {why} (Debian package {debian_package})\n")
        })
        .collect();
    let hint = format!(
        "On Debian, as root: apt-get install {}",
        package_names(missing).join(" ")
    );
    HostError::Missing { reason, list, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEX: Need = Need {
        program_or_file: "no-such-flex",
        debian_package: "flex",
        why: "the kernel's configuration parser",
    };
    const HEADER: Need = Need {
        program_or_file: "/no/such/gelf.h",
        debian_package: "libelf-dev",
        why: "the kernel's objtool",
    };

    #[test]
    fn what_is_there_needs_nothing() {
        let shell = Need {
            program_or_file: "sh",
            debian_package: "dash",
            why: "tests",
        };
        let root = Need {
            program_or_file: "/etc",
            debian_package: "base-files",
            why: "tests",
        };
        assert!(shell.is_met() && root.is_met());
        assert!(!FLEX.is_met() && !HEADER.is_met());
    }

    #[test]
    fn everything_missing_is_in_one_message_with_its_reason() {
        let text = missing_error(&[HEADER, FLEX, HEADER], "test".to_owned()).to_string();
        for part in [
            "no-such-flex",
            "objtool",
            "configuration parser",
            "install flex libelf-dev",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn too_little_space_says_how_much_is_needed_and_where() {
        let dir = tempfile::tempdir().expect("tempdir");
        require_space(&dir.path().join("not/yet/there"), 1, "tests").expect("one byte is free");
        let error = require_space(dir.path(), u64::MAX, "the kernel").expect_err("never free");
        let text = error.to_string();
        assert!(
            text.contains("the kernel") && text.contains("free in"),
            "{text}"
        );
    }
}
