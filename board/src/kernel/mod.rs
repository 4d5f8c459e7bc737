//! The kernel: from the fragments in `kernel-config/` to a checked, cached `bzImage`.
//!
//! Guarantees: the result's directory is named by the hash of everything that went into it
//! (source, fragments, recipe, compiler), so what is there is never built again and never
//! stale; two builds of the same inputs give the same bytes; a configuration that does not
//! fulfil every request is refused before anything is compiled; two builds at once wait for
//! each other.
//! Does not: build arm64 kernels yet. Their configuration is made and checked.

mod build;
pub mod check;
pub mod dotconfig;
mod expression;
pub mod fragment;
mod kconfig;
mod patches;
mod recipe;
pub mod source;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{HostError, Need};
use crate::paths::PathsError;
use crate::progress::{ChildError, full_disk_hint};

pub use build::{build, check, configure};

/// The largest kernel image that is accepted, in bytes: the slots' kernel partitions and the
/// boot time of small boards are planned for it.
pub const IMAGE_BYTES_MAX: u64 = 8_000_000;

/// A processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// 64-bit PCs and QEMU q35.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm boards and QEMU virt.
    #[value(name = "arm64")]
    Arm64,
}

impl Arch {
    /// The name in file names, on the command line, and as `ARCH` for the kernel's Makefile.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// The directory below the kernel's `arch/`.
    fn source_name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86",
            Self::Arm64 => "arm64",
        }
    }
}

/// A built kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The compressed image that boot loaders and QEMU load.
    pub image: PathBuf,
    /// The configuration it was built with.
    pub config: PathBuf,
    /// What it is and what it was made from.
    pub metadata: Metadata,
}

/// What a kernel is and what it was made from; `kernel.json` beside the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The architecture as the command line names it.
    pub arch: String,
    /// What `uname -r` will say.
    pub release: String,
    /// Hash over source, fragments, recipe and compiler; the name of the cache entry.
    pub build_hash: String,
    /// SHA-256 of the source tarball.
    pub source_sha256: String,
    /// First lines of the compiler's and the linker's version.
    pub toolchain: String,
    /// SHA-256 of the image.
    pub image_sha256: String,
    /// Size of the image in bytes.
    pub image_bytes: u64,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A directory is missing.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A tool failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The fragments break a rule.
    #[error(transparent)]
    Fragments(#[from] fragment::FragmentError),
    /// The kernel's Kconfig tree could not be read.
    #[error(transparent)]
    Kconfig(#[from] kconfig::KconfigError),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}{}", full_disk_hint(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The source tarball could not be read.
    #[error(
        "cannot read the kernel source {tarball}: {source}. Check KAIRO_KERNEL_SOURCE, or unset \
         it to use Debian's linux-source-6.12"
    )]
    Tarball {
        /// The tarball.
        tarball: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tarball holds something else.
    #[error(
        "{tarball} does not hold a Linux source tree: no Kconfig and Makefile in its top \
         directory. Check KAIRO_KERNEL_SOURCE"
    )]
    NotLinux {
        /// The tarball.
        tarball: PathBuf,
    },
    /// The tarball is damaged or no archive at all.
    #[error(
        "{tarball} cannot be unpacked: tar says {said:?}. Check that KAIRO_KERNEL_SOURCE names a \
         whole Linux source tarball"
    )]
    NotAnArchive {
        /// The tarball.
        tarball: PathBuf,
        /// The first thing that tar complained of.
        said: String,
    },
    /// The kernel's Makefile refuses the place of the cache.
    #[error(
        "the kernel cannot be built in {dir}: its Makefile accepts neither spaces nor colons in \
         a path. Set KAIRO_CACHE to a directory without them"
    )]
    CachePath {
        /// The directory.
        dir: PathBuf,
    },
    /// The source is older than PREEMPT_RT in the mainline kernel.
    #[error(
        "{tarball} is Linux {release}; PREEMPT_RT needs 6.12 or later. Point \
         KAIRO_KERNEL_SOURCE at a newer tarball"
    )]
    TooOld {
        /// The tarball.
        tarball: PathBuf,
        /// Its release.
        release: String,
    },
    /// A patch says nothing about itself.
    #[error("{patch}: no reason; say why above its first line that begins with ---")]
    PatchWithoutReason {
        /// The patch.
        patch: PathBuf,
    },
    /// A patch is for another source.
    #[error(
        "{patch} does not apply to this kernel source: {said}. Port it, or unset \
         KAIRO_KERNEL_SOURCE to use Debian's linux-source-6.12"
    )]
    Patch {
        /// The patch.
        patch: PathBuf,
        /// What `patch` said.
        said: String,
    },
    /// The configuration is not what the fragments ask for.
    #[error("the kernel configuration misses {count} requests:\n{list}")]
    Misses {
        /// How many.
        count: usize,
        /// One paragraph per miss.
        list: String,
    },
    /// The image is larger than allowed.
    #[error(
        "the kernel image is {bytes} bytes, more than the {IMAGE_BYTES_MAX} allowed: remove \
         drivers from kernel-config/, or compress it better"
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Another build holds the lock for too long.
    #[error(
        "another kernel build has held {lock} for {waited_s} s; wait for it, or end it, and run \
         the same command again"
    )]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// Only configuration works for this architecture.
    #[error("building {arch} kernels is not implemented yet; `check` and `config` are")]
    NotBuilt {
        /// The architecture.
        arch: &'static str,
    },
}

/// Everything that building a kernel needs from the host, its source included.
///
/// # Errors
/// [`KernelError::Tarball`] when `KAIRO_KERNEL_SOURCE` names a file that is not there: better
/// said before anything is installed or built.
pub fn needs() -> Result<Vec<Need>, KernelError> {
    let mut needs = recipe::NEEDS.to_vec();
    match source::named() {
        Some(tarball) => source::require_file(&tarball)?,
        None => needs.push(source::DEBIAN_SOURCE),
    }
    Ok(needs)
}

impl KernelError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Removes a directory tree that may not be there.
fn remove_tree(path: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Writes a value as JSON, whole or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), KernelError> {
    let partial = path.with_extension("json.partial");
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| KernelError::io("encode", path, error.into()))?;
    fs::write(&partial, bytes).map_err(|error| KernelError::io("write", &partial, error))?;
    fs::rename(&partial, path).map_err(|error| KernelError::io("rename", &partial, error))
}
