//! How a kernel is made: the tools, the arguments, and the hash that names the result.
//!
//! Guarantees: everything that changes the image is in [`Recipe::hash`]. Raise
//! [`RECIPE_VERSION`] with any change to the steps in `build.rs` that changes the image.

use std::env;
use std::path::Path;
use std::process::Command;
use std::thread;

use sha2::{Digest, Sha256};

use super::Arch;
use super::fragment::{self, Request, Wanted};
use super::patches::Patches;
use super::source::{Source, hexadecimal};
use crate::host::Need;

/// Counts changes to the way kernels are made.
const RECIPE_VERSION: u32 = 1;

/// What the kernel build needs from the host.
pub const NEEDS: [Need; 10] = [
    need("make", "make", "running the kernel's build"),
    need("gcc", "gcc", "compiling the kernel"),
    need(
        "/usr/include/stdio.h",
        "libc6-dev",
        "the kernel's own build tools",
    ),
    need("flex", "flex", "the kernel's configuration parser"),
    need("bison", "bison", "the kernel's configuration parser"),
    need("bc", "bc", "computing the kernel's time constants"),
    need(
        "/usr/include/gelf.h",
        "libelf-dev",
        "the kernel's object checker",
    ),
    need("xz", "xz-utils", "unpacking the kernel source"),
    need("zstd", "zstd", "compressing the kernel"),
    need("patch", "patch", "applying kernel-config/patches"),
];

const fn need(
    program_or_file: &'static str,
    debian_package: &'static str,
    why: &'static str,
) -> Need {
    Need {
        program_or_file,
        debian_package,
        why,
    }
}

/// Everything that goes into a kernel.
#[derive(Debug)]
pub struct Recipe {
    /// For which architecture.
    pub arch: Arch,
    /// From which source.
    pub source: Source,
    /// Changed by which patches.
    pub patches: Patches,
    /// With which symbols.
    pub requests: Vec<Request>,
    /// By which compiler and linker.
    pub toolchain: String,
}

impl Recipe {
    /// Names the result: equal for equal inputs, different for different ones.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut field = |text: &str| {
            // With its length in front, so that moving a byte from one field to the next
            // gives another hash.
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(&RECIPE_VERSION.to_string());
        field(self.arch.name());
        field(&self.source.sha256);
        field(self.patches.digest());
        field(&self.toolchain);
        for (name, value) in FIXED_ENVIRONMENT {
            field(name);
            field(value);
        }
        // The requests, not the files' bytes: a better reason needs no new kernel.
        for request in &self.requests {
            field(&request.symbol);
            match &request.wanted {
                Wanted::Value(value) => field(value),
                Wanted::Unset => field("not set"),
            }
        }
        hexadecimal(&hasher.finalize())[..16].to_owned()
    }

    /// The text that kconfig completes.
    pub fn merged_config(&self, minimal: &str) -> String {
        fragment::merge(minimal, &self.requests)
    }
}

/// What the kernel's build would otherwise take from the machine and the moment.
const FIXED_ENVIRONMENT: [(&str, &str); 6] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "kairo"),
    ("KBUILD_BUILD_HOST", "kairo"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// Variables that would change the result behind the hash's back.
const FORBIDDEN_ENVIRONMENT: [&str; 13] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "CC",
    "HOSTCC",
    "LLVM",
    "CROSS_COMPILE",
    "KCFLAGS",
    "KAFLAGS",
    "KCPPFLAGS",
    "KCONFIG_CONFIG",
    "KBUILD_OUTPUT",
    "LOCALVERSION",
];

/// A `make` in the kernel tree, for `target`, into `output`.
pub fn make(arch: Arch, tree: &Path, output: &Path, target: &str) -> Command {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(tree)
        .arg(format!("O={}", output.display()))
        .arg(format!("ARCH={}", arch.name()))
        .arg(format!("--jobs={jobs}"))
        .arg(target)
        .envs(FIXED_ENVIRONMENT);
    for name in FORBIDDEN_ENVIRONMENT {
        command.env_remove(name);
    }
    command
}

/// The first lines of the compiler's and the linker's version.
pub fn toolchain() -> String {
    // The programs that the kernel's Makefile will find on the same PATH.
    ["gcc", "ld"].map(first_version_line).join("; ")
}

fn first_version_line(program: &str) -> String {
    let output = Command::new(program)
        .arg("--version")
        .env("LC_ALL", "C")
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .output();
    let Ok(output) = output else {
        return format!("no {program}");
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn recipe(fragment_text: &str) -> Recipe {
        Recipe {
            arch: Arch::X86_64,
            source: Source {
                tarball: PathBuf::from("a"),
                sha256: "00".to_owned(),
            },
            patches: Patches::default(),
            requests: fragment::parse("a.config", fragment_text).0,
            toolchain: "gcc 12".to_owned(),
        }
    }

    #[test]
    fn every_input_changes_the_hash() {
        let base = recipe("# Why.\nCONFIG_A=y\n");
        let others = [
            recipe("# Why.\nCONFIG_A=m\n"),
            recipe("# Why.\n# CONFIG_A is not set\n"),
            Recipe {
                arch: Arch::Arm64,
                ..recipe("# Why.\nCONFIG_A=y\n")
            },
            Recipe {
                toolchain: "gcc 13".to_owned(),
                ..recipe("# Why.\nCONFIG_A=y\n")
            },
            Recipe {
                source: Source {
                    tarball: PathBuf::from("a"),
                    sha256: "01".to_owned(),
                },
                ..recipe("# Why.\nCONFIG_A=y\n")
            },
        ];
        for other in others {
            assert_ne!(base.hash(), other.hash(), "{other:?}");
        }
    }

    #[test]
    fn a_better_reason_or_another_path_to_the_source_keeps_the_kernel() {
        let base = recipe("# Why.\nCONFIG_A=y\n");
        let moved = Recipe {
            source: Source {
                tarball: PathBuf::from("b"),
                sha256: "00".to_owned(),
            },
            ..recipe("# A better reason.\nCONFIG_A=y\n")
        };
        assert_eq!(base.hash(), moved.hash());
    }
}
