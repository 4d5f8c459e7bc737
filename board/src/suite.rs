//! `cargo xtask test`: everything that must hold, in the order that finds a mistake soonest.
//!
//! Cheap checks first, then the crates' own tests, then the kernel and the image, and last the
//! whole system: hosted and in QEMU. Stops at the first part that fails, because what follows
//! builds on it. The tests' own output is shown as it comes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::kernel::{self, Arch};
use crate::needs::{self, Work};
use crate::paths::Paths;
use crate::progress::readable_duration;
use crate::tidy;

/// The package whose tests need the kernel, the image and the programs.
const SYSTEM_TESTS: &str = "kairo-tests";

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What needs neither kernel nor image: seconds after a small change.
    Quick,
    /// Everything.
    Whole,
}

/// One part.
struct Part {
    name: &'static str,
    extent: Extent,
    run: fn(&Paths) -> anyhow::Result<Outcome>,
}

/// What became of a part that did not fail.
#[derive(Debug)]
enum Outcome {
    Ok,
    /// Nothing was tested, with why and what to do.
    Skipped(&'static str),
}

/// The parts, in order.
const PARTS: [Part; 8] = [
    Part {
        name: "format",
        extent: Extent::Quick,
        run: |paths| cargo(paths, &["fmt", "--all", "--check"]),
    },
    Part {
        name: "house rules",
        extent: Extent::Quick,
        run: house_rules,
    },
    Part {
        name: "clippy",
        extent: Extent::Quick,
        run: |paths| {
            let all = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
            ];
            cargo(paths, &[&all[..], &["--", "-D", "warnings"]].concat())
        },
    },
    Part {
        name: "crates",
        extent: Extent::Quick,
        run: |paths| {
            let all = [
                "test",
                "--workspace",
                "--locked",
                "--no-fail-fast",
                "--quiet",
            ];
            cargo(paths, &[&all[..], &["--exclude", SYSTEM_TESTS]].concat())
        },
    },
    Part {
        name: "models",
        extent: Extent::Quick,
        run: |paths| {
            let model = ["--features", "model", "--test", "model"];
            let test = ["test", "-p", "kairo-link", "--locked", "--quiet"];
            cargo(paths, &[&test[..], &model[..]].concat())
        },
    },
    Part {
        name: "miri",
        extent: Extent::Quick,
        run: miri,
    },
    Part {
        name: "kernel",
        extent: Extent::Whole,
        run: kernel_check,
    },
    Part {
        name: "system",
        extent: Extent::Whole,
        // One at a time: each starts machines or real-time threads of its own.
        run: |paths| {
            let system = ["test", "-p", SYSTEM_TESTS, "--locked", "--no-fail-fast"];
            cargo(paths, &[&system[..], &["--", "--test-threads=1"]].concat())
        },
    },
];

/// Runs the parts of `extent`.
///
/// # Errors
/// The first part that fails, by name; before them, what is missing on this machine.
pub fn run(paths: &Paths, extent: Extent) -> anyhow::Result<()> {
    let work = match extent {
        Extent::Quick => Work::QuickTests,
        Extent::Whole => Work::AllTests,
    };
    needs::ensure(paths, work)?;
    let started = Instant::now();
    let mut table: Vec<(&str, Outcome, Duration)> = Vec::new();
    let wanted = |part: &&Part| extent == Extent::Whole || part.extent == Extent::Quick;
    for part in PARTS.iter().filter(wanted) {
        eprintln!("── {} ──", part.name);
        let began = Instant::now();
        let outcome =
            (part.run)(paths).with_context(|| format!("the part `{}` failed", part.name))?;
        table.push((part.name, outcome, began.elapsed()));
    }
    for line in lines(&table, started.elapsed()) {
        println!("{line}");
    }
    Ok(())
}

/// The final table: what was not tested is not shown as ok.
fn lines(table: &[(&str, Outcome, Duration)], whole: Duration) -> Vec<String> {
    let mut lines = Vec::new();
    let mut skipped = Vec::new();
    for (name, outcome, took) in table {
        lines.push(match outcome {
            Outcome::Ok => format!("{name:<14} ok  {:>8}", readable_duration(*took)),
            Outcome::Skipped(why) => {
                skipped.push(*name);
                format!("{name:<14} skipped: {why}")
            }
        });
    }
    let whole = readable_duration(whole);
    lines.push(if skipped.is_empty() {
        format!("{:<14} ok  {whole:>8}", "everything")
    } else {
        let without = skipped.join(", ");
        format!("{:<14} ok  {whole:>8}, without {without}", "the rest")
    });
    lines
}

fn cargo(paths: &Paths, arguments: &[&str]) -> anyhow::Result<Outcome> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(arguments)
        .current_dir(paths.workspace())
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "`cargo {}` ended with {status}",
        arguments.join(" ")
    );
    Ok(Outcome::Ok)
}

/// The nightly that Miri runs in: another day's may find what this one does not, or not build.
const MIRI_NIGHTLY: &str = "nightly-2026-05-20";
/// The compiler in it, by which a toolchain of another name is recognised.
const MIRI_COMPILER: &str = "commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a";

/// A program of a toolchain, as rustup starts it; never one that would have to be fetched first.
fn of_toolchain(program: &str, toolchain: &str) -> Command {
    let mut command = Command::new(program);
    // Cargo sets these for its own toolchain; another one must find its own.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
        .arg(format!("+{toolchain}"))
        .env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// What a command prints, if it succeeds.
fn printed(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Whether a toolchain is the pinned one and has all that Miri needs. Without the library's source,
/// Miri would stop and ask whether to fetch it.
fn has_miri(toolchain: &str) -> bool {
    let rustc = |argument: &[&str]| printed(of_toolchain("rustc", toolchain).args(argument));
    let is_pinned = |text: String| text.lines().any(|line| line == MIRI_COMPILER);
    let has_source = |root: String| {
        Path::new(&root)
            .join("lib/rustlib/src/rust/library")
            .exists()
    };
    rustc(&["-vV"]).is_some_and(is_pinned)
        && rustc(&["--print", "sysroot"]).is_some_and(has_source)
        && printed(of_toolchain("cargo", toolchain).args(["miri", "--version"])).is_some()
}

/// How to get it where it is not.
const fn skipped_miri() -> Outcome {
    Outcome::Skipped(
        "`rustup toolchain install nightly-2026-05-20 --profile minimal -c miri -c rust-src` \
         brings Miri",
    )
}

/// The shared-memory crate under Miri, which sees undefined behaviour and data races. Miri comes
/// with nightly toolchains only, so a machine without the pinned one leaves the part out and says
/// so. A plain `nightly` of that very day will do.
fn miri(paths: &Paths) -> anyhow::Result<Outcome> {
    let candidates = [MIRI_NIGHTLY, "nightly"];
    let Some(toolchain) = candidates.into_iter().find(|one| has_miri(one)) else {
        return Ok(skipped_miri());
    };
    let target = paths.workspace().join("target/miri");
    let status = of_toolchain("cargo", toolchain)
        .current_dir(paths.workspace())
        .args([
            "miri",
            "test",
            "-p",
            "kairo-link",
            "--lib",
            "--quiet",
            "--target-dir",
        ])
        .arg(target)
        .args(["--", "ring::", "latest::", "histogram::", "abi::"])
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "Miri ended with {status}");
    Ok(Outcome::Ok)
}

fn house_rules(paths: &Paths) -> anyhow::Result<Outcome> {
    let problems = tidy::check(paths.workspace())?;
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(
        problems.is_empty(),
        "{} problems; see `cargo xtask tidy`",
        problems.len()
    );
    Ok(Outcome::Ok)
}

fn kernel_check(paths: &Paths) -> anyhow::Result<Outcome> {
    let kernel = kernel::build(paths, Arch::X86_64)?;
    let report = kernel::check(paths, Arch::X86_64)?;
    if !report.ok {
        for miss in &report.misses {
            println!("{miss}");
        }
        bail!(
            "{} requested kernel symbols did not come out as asked",
            report.misses.len()
        );
    }
    println!(
        "Linux {}: {} symbols as asked",
        kernel.metadata.release, report.requested
    );
    Ok(Outcome::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miri_is_of_the_pinned_day_or_left_out() {
        assert!(!has_miri("no-such-toolchain"));
        assert!(!has_miri("1.95.0"), "another compiler than the pinned one");
        let Outcome::Skipped(how) = skipped_miri() else {
            panic!("it is said how to get it");
        };
        assert!(how.contains(MIRI_NIGHTLY), "{how}");
    }

    #[test]
    fn a_part_that_was_left_out_is_not_shown_as_ok() {
        let second = Duration::from_secs(1);
        let mut table = vec![
            ("crates", Outcome::Ok, second),
            ("miri", Outcome::Skipped("install it"), second),
        ];
        let shown = lines(&table, second);
        assert_eq!(shown[1], "miri           skipped: install it");
        assert!(!shown.iter().any(|line| line.starts_with("everything")));
        assert!(shown[2].ends_with("without miri"), "{shown:?}");
        table.pop();
        let shown = lines(&table, second);
        assert!(shown[1].starts_with("everything     ok"), "{shown:?}");
    }
}
