//! Programs outside the workspace that measure ours beside crates which nothing else needs.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::paths::Paths;
use crate::progress::Step;

/// A cold build of the heaviest takes two minutes on two quiet cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Builds `board/NAME`, release profile; gives its program, `kairo-NAME`.
///
/// # Errors
/// The compiler's words.
pub fn build(paths: &Paths, name: &str) -> anyhow::Result<PathBuf> {
    let target = paths.workspace().join("target").join(name);
    std::fs::create_dir_all(&target)
        .with_context(|| format!("cannot make {}", target.display()))?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let manifest = paths
        .workspace()
        .join("board")
        .join(name)
        .join("Cargo.toml");
    cargo.args(["build", "--release", "--locked", "--manifest-path"]);
    cargo.arg(manifest).arg("--target-dir").arg(&target);
    let step = Step::start("Building the benchmark and its controls", None);
    let log = target.join("build.log");
    match step.run(cargo, &log, BUILD_DEADLINE, |line| {
        line.contains("Compiling")
    }) {
        Ok(built) => step.done(&format!("{built} crates")),
        Err(error) => {
            step.failed("see the compiler's words below");
            return Err(error.into());
        }
    }
    Ok(target.join("release").join(format!("kairo-{name}")))
}
