//! What each command of `cargo xtask` needs from the host, as one list.
//!
//! A command makes sure of its whole list first: one question for the password, one refresh of
//! the package lists and one installation at the start, instead of another one half an hour
//! later. The lists are made from those of the steps, which keep checking their own, because
//! tests call them without a command.

use crate::host::{self, HostError, Need};
use crate::kernel::{self, KernelError};
use crate::paths::Paths;
use crate::{boot, image, qemu};

/// What a command is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Build an image, and the kernel unless there is one.
    Image {
        /// Whether a kernel must be built.
        builds_kernel: bool,
    },
    /// Build an image and run it in QEMU.
    Machine {
        /// Whether a kernel must be built.
        builds_kernel: bool,
    },
    /// Run the demo on this machine itself.
    HostedDemo,
    /// Run the checks and tests that need neither kernel nor machine; some make file systems.
    QuickTests,
    /// Run every check and test.
    AllTests,
}

/// The latency reference of the hosted demo.
const CYCLICTEST: Need = Need {
    program_or_file: "cyclictest",
    debian_package: "rt-tests",
    why: "the latency reference beside kairo-rt",
};
/// What the house rules look at is what git knows.
const GIT: Need = Need {
    program_or_file: "git",
    debian_package: "git",
    why: "listing the files that the house rules apply to",
};

/// The Python client is tested by what it is written in.
const PYTHON: Need = Need {
    program_or_file: "python3",
    debian_package: "python3",
    why: "testing the Python client",
};

/// Why a command cannot have what it needs.
#[derive(Debug, thiserror::Error)]
pub enum NeedsError {
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel's source is not where it was said to be.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No directory for the package tool's output.
    #[error(transparent)]
    Paths(#[from] crate::paths::PathsError),
}

/// Makes sure of everything that `work` needs, installing what is missing if it may.
///
/// # Errors
/// [`NeedsError`]; everything missing is named at once.
pub fn ensure(paths: &Paths, work: Work) -> Result<(), NeedsError> {
    Ok(host::ensure(&of(work)?, &paths.cache_dir("log")?)?)
}

fn of(work: Work) -> Result<Vec<Need>, KernelError> {
    let kernel = |builds: bool| if builds { kernel::needs() } else { Ok(vec![]) };
    Ok(match work {
        Work::Image { builds_kernel } => {
            [kernel(builds_kernel)?, image::filesystems::NEEDS.to_vec()].concat()
        }
        Work::Machine { builds_kernel } => {
            let image = of(Work::Image { builds_kernel })?;
            [image, qemu::NEEDS.to_vec()].concat()
        }
        Work::HostedDemo => vec![CYCLICTEST],
        Work::QuickTests => {
            let builds_kernel = false;
            [vec![GIT, PYTHON], of(Work::Image { builds_kernel })?].concat()
        }
        // The image's cyclictest is the hosted demo's too.
        Work::AllTests => {
            let builds_kernel = true;
            let machine = of(Work::Machine { builds_kernel })?;
            [vec![GIT, PYTHON], machine, boot::NEEDS.to_vec()].concat()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(work: Work) -> Vec<&'static str> {
        let needs = of(work).expect("KAIRO_KERNEL_SOURCE, if set, names a file");
        needs.iter().map(|need| need.debian_package).collect()
    }

    #[test]
    fn a_machine_needs_what_its_kernel_and_image_need_and_qemu() {
        let all = packages(Work::Machine {
            builds_kernel: true,
        });
        for package in ["flex", "libelf-dev", "erofs-utils", "qemu-system-x86"] {
            assert!(all.contains(&package), "{package} is not in {all:?}");
        }
        let given = packages(Work::Machine {
            builds_kernel: false,
        });
        assert!(!given.contains(&"flex"), "{given:?}");
        let everything = packages(Work::AllTests);
        assert!(all.iter().all(|package| everything.contains(package)));
    }

    #[test]
    fn the_hosted_demo_needs_the_latency_reference_alone() {
        assert_eq!(packages(Work::HostedDemo), ["rt-tests"]);
    }
}
