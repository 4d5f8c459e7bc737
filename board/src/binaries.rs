//! Builds the programs a run on the developer's own machine needs, and says where they are.
//!
//! Cargo decides what is stale, so an unchanged tree costs a fraction of a second.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::paths::Paths;
use crate::progress::{ChildError, Step};

/// A cold release build of these programs takes about two minutes on two cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Packages built, as cargo names them.
const PACKAGES: [&str; 4] = ["kairo-rt", "kairod", "kairo-cli", "kairo-arm-sim"];

/// The programs, built for this machine.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Builds them, release profile.
    ///
    /// # Errors
    /// [`ChildError`] with the compiler's words.
    pub fn build(paths: &Paths) -> Result<Self, ChildError> {
        let target = paths.workspace().join("target");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(paths.workspace())
            .args(["build", "--release", "--target-dir"]);
        cargo.arg(&target);
        for package in PACKAGES {
            cargo.args(["-p", package]);
        }
        let step = Step::start("Building the programs", None);
        let log = target.join("programs.log");
        match step.run(cargo, &log, BUILD_DEADLINE, |line| {
            line.contains("Compiling")
        }) {
            Ok(0) => step.cached("nothing changed"),
            Ok(built) => step.done(&format!("{built} crates")),
            Err(error) => {
                step.failed("see the compiler's words below");
                return Err(error);
            }
        }
        Ok(Self {
            directory: target.join("release"),
        })
    }

    /// The program of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}
