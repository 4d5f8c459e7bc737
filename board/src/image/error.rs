//! The one error type of the image builder.
//!
//! Every variant names what failed, the value, and what to do about it; nothing here is retried by
//! the builder, because a build that works the second time only is not reproducible.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::HostError;
use crate::paths::PathsError;
use crate::progress::ChildError;

/// Why an image could not be built or did not verify.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}{}", path.display(), space_hint(source))]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The host lacks a program or disk space.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A program of the host failed or did not finish.
    #[error("cannot {why}: {source}")]
    Program {
        /// What it was to do, as a verb.
        why: &'static str,
        /// What it said.
        source: ChildError,
    },
    /// The workspace or its output directory is not there.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// A file is no ELF file this machine's loader would take.
    #[error("{} is not a usable x86-64 ELF file: {reason}", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A shared library that a program needs is nowhere in the loader's directories.
    #[error(
        "{} needs {library}, which is in none of: {searched}; install the package that has it \
         (apt-file search {library})",
        needed_by.display()
    )]
    LibraryMissing {
        /// The library's soname.
        library: String,
        /// The program or library that names it.
        needed_by: PathBuf,
        /// The directories looked through.
        searched: String,
    },
    /// A program that must run without a loader has one.
    #[error("{} is linked dynamically ({interpreter}) but must be static: PID 1 has no loader to \
             rely on; is libc6-dev installed?", path.display())]
    NotStatic {
        /// The program.
        path: PathBuf,
        /// The loader it asks for.
        interpreter: String,
    },
    /// A built program has a path of this machine in it, so another machine would build another.
    #[error("{} contains the build path {found:?}; the image would depend on where it was built",
            path.display())]
    BuildPathInside {
        /// The program.
        path: PathBuf,
        /// The path found inside.
        found: String,
    },
    /// A board definition is wrong.
    #[error("{}: {reason}", path.display())]
    Definition {
        /// The board file.
        path: PathBuf,
        /// What is wrong, with the line when known.
        reason: String,
    },
    /// Something is larger than the image's promise.
    #[error(
        "{what} has {bytes} bytes, more than the limit of {limit_bytes}; \
             `cargo xtask image --list` shows what takes the space"
    )]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The finished disk is not what was meant.
    #[error("the disk {} does not verify: {reason}", path.display())]
    Verify {
        /// The disk.
        path: PathBuf,
        /// The first difference found.
        reason: String,
    },
    /// The partition table could not be written.
    #[error("cannot write the partition table of {}: {reason}", path.display())]
    PartitionTable {
        /// The disk.
        path: PathBuf,
        /// What the GPT writer said.
        reason: String,
    },
    /// Two builds of one commit differ.
    #[error(
        "two builds of one commit differ: root hash {first} and {second}; files that differ: \
             {differing}"
    )]
    NotReproducible {
        /// Root hash of the first build.
        first: String,
        /// Root hash of the second build.
        second: String,
        /// The files with different contents.
        differing: String,
    },
    /// The check for reproducibility was asked for on a tree with changes.
    #[error(
        "the working tree has uncommitted changes; two builds can be compared for a commit \
             only: commit or stash first"
    )]
    Uncommitted,
    /// The kernel could not be built or found.
    #[error("no kernel to put into the image: {0}")]
    Kernel(String),
}

impl ImageError {
    /// Wraps the error of a file operation with what was tried and on which file.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.to_path_buf();
        move |source| ImageError::File {
            action,
            path,
            source,
        }
    }
}

/// A sentence for the one file error people can act on at once.
fn space_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            "; the disk is full: an image takes about 1 GB under out/ and target/"
        }
        _ => "",
    }
}
