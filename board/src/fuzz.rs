//! The agent plane's fuzz targets under libFuzzer.
//!
//! cargo-fuzz and a nightly compiler do the work; where one of them is missing, the way to get it
//! is said and nothing else happens. A target starts from the inputs that are kept in the tree,
//! works in a copy, and reports executions, coverage and findings. A finding is an input in
//! `artifacts/`: mend the cause, and move the input into the corpus, where `cargo test` keeps it.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::paths::Paths;
use crate::progress::Step;

/// The targets: of `agent-plane/fuzz`, whose test holds them against the programs there are.
pub const TARGETS: [&str; 7] = [
    "frames",
    "messages",
    "requests",
    "policy",
    "patterns",
    "audit_log",
    "event_log",
];

/// A cold build of the programs and of everything below them, on two busy cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// What a run may take beyond its time: reading the inputs, the last one, merging.
const GRACE: Duration = Duration::from_secs(5 * 60);
/// Longest input, bytes: what a target does with more it does with this many too.
const MAX_INPUT_BYTES: usize = 4096;
/// Most memory that a target may use, MiB, and most that one allocation may take: a bomb is found
/// long before it hurts the machine.
const MEMORY_MIB: usize = 1024;
const ALLOCATION_MIB: usize = 64;
/// Longest that one input may take, s.
const INPUT_SECONDS: usize = 30;

/// What a target did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    executions: u64,
    covered: u64,
    inputs: u64,
    findings: Vec<String>,
}

/// Runs targets, prints what they did; whether nothing was found.
///
/// # Errors
/// A tool is missing, or the programs cannot be built.
pub fn run(paths: &Paths, targets: &[&str], time: Duration, keep: bool) -> anyhow::Result<bool> {
    check_tools()?;
    let programs = paths.workspace().join("agent-plane/fuzz/libfuzzer");
    let scratch = paths.workspace().join("target/fuzz");
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    build(&programs, &scratch)?;
    let mut outcomes = Vec::new();
    for target in targets {
        let corpus = paths
            .workspace()
            .join("agent-plane/fuzz/corpus")
            .join(target);
        let outcome = fuzz(target, &programs, &scratch, &corpus, time)?;
        if keep {
            merge(target, &programs, &scratch, &corpus)?;
        }
        outcomes.push((*target, outcome));
    }
    println!(
        "{:<12} {:>12} {:>9} {:>7}  findings",
        "target", "executions", "covered", "inputs"
    );
    for (target, outcome) in &outcomes {
        let Outcome {
            executions,
            covered,
            inputs,
            findings,
        } = outcome;
        let found = match findings.is_empty() {
            true => "none".to_string(),
            false => findings.join(", "),
        };
        println!("{target:<12} {executions:>12} {covered:>9} {inputs:>7}  {found}");
    }
    Ok(outcomes
        .iter()
        .all(|(_, outcome)| outcome.findings.is_empty()))
}

/// Says how to get what is missing.
fn check_tools() -> anyhow::Result<()> {
    let works = |arguments: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        cargo.status().is_ok_and(|status| status.success())
    };
    if !works(&["+nightly", "--version"]) {
        bail!("no nightly compiler: `rustup toolchain install nightly`, then try again");
    }
    if !works(&["fuzz", "--version"]) {
        bail!("no cargo-fuzz: `cargo install cargo-fuzz`, then try again");
    }
    Ok(())
}

/// `cargo +nightly fuzz VERB`, by rustup's cargo: the one that runs us has its compiler fixed.
fn cargo_fuzz(verb: &str, programs: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["+nightly", "fuzz", verb, "--fuzz-dir"])
        .arg(programs);
    cargo
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTC");
    cargo.current_dir(programs);
    cargo
}

fn build(programs: &Path, scratch: &Path) -> anyhow::Result<()> {
    let step = Step::start("Building the fuzz targets", None);
    let log = scratch.join("build.log");
    let cargo = cargo_fuzz("build", programs);
    match step.run(cargo, &log, BUILD_DEADLINE, |line| {
        line.contains("Compiling")
    }) {
        Ok(built) => step.done(&format!("{built} crates")),
        Err(error) => {
            step.failed("see the compiler's words below");
            return Err(error.into());
        }
    }
    Ok(())
}

/// Runs one target for `time`, in a copy of its inputs.
fn fuzz(
    target: &str,
    programs: &Path,
    scratch: &Path,
    corpus: &Path,
    time: Duration,
) -> anyhow::Result<Outcome> {
    let working = scratch.join(target);
    let artifacts = scratch.join("artifacts").join(target);
    for directory in [&working, &artifacts] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let before = names(&artifacts)?;
    let mut cargo = cargo_fuzz("run", programs);
    cargo.arg(target).args([&working, corpus]).arg("--");
    cargo.args(options(time)).arg(prefix(&artifacts));
    let log = scratch.join(format!("{target}.log"));
    let step = Step::start(&format!("Fuzzing {target}"), Some(time.as_secs()));
    let shown = Cell::new(0);
    let ran = step.run(cargo, &log, time + GRACE, |_| {
        let seconds = step.elapsed().as_secs().min(time.as_secs());
        step.advance(seconds.saturating_sub(shown.get()));
        shown.set(seconds.max(shown.get()));
        false
    });
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let mut outcome = account(&text);
    let found = names(&artifacts)?
        .into_iter()
        .filter(|name| !before.contains(name));
    outcome.findings = found.collect();
    match (&ran, outcome.findings.is_empty()) {
        (Ok(_), true) => step.done(&format!("{} executions", outcome.executions)),
        (_, false) => step.failed(&format!("see {}", log.display())),
        (Err(_), true) => {
            step.failed(&format!("see {}", log.display()));
            ran.with_context(|| format!("{target} did not run"))?;
        }
    }
    Ok(outcome)
}

/// Adds to the kept inputs those of the working copy that reach more.
fn merge(target: &str, programs: &Path, scratch: &Path, corpus: &Path) -> anyhow::Result<()> {
    let mut cargo = cargo_fuzz("run", programs);
    cargo.arg(target).args([corpus, &scratch.join(target)]);
    cargo.args(["--", "-set_cover_merge=1"]);
    let step = Step::start(&format!("Keeping what {target} learned"), None);
    let log = scratch.join(format!("{target}-merge.log"));
    step.run(cargo, &log, BUILD_DEADLINE, |_| false)?;
    step.done(&format!("{} inputs", names(corpus)?.len()));
    Ok(())
}

fn options(time: Duration) -> [String; 7] {
    [
        format!("-max_total_time={}", time.as_secs()),
        format!("-max_len={MAX_INPUT_BYTES}"),
        // Of any length from the start: a slow target would else see short ones only.
        "-len_control=0".into(),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        format!("-malloc_limit_mb={ALLOCATION_MIB}"),
        format!("-timeout={INPUT_SECONDS}"),
        "-print_final_stats=1".into(),
    ]
}

fn prefix(artifacts: &Path) -> OsString {
    let mut option = OsString::from("-artifact_prefix=");
    option.push(artifacts.join(PathBuf::new()));
    option
}

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let found = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let names = found.map(|file| file.map(|file| file.file_name().to_string_lossy().into()));
    Ok(names.collect::<Result<_, _>>()?)
}

/// What libFuzzer's own words say of a run: `#1234 NEW cov: 56 ft: 78 corp: 9/10b ...`.
fn account(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.strip_prefix('#')) else {
            continue;
        };
        let after = |name: &str| -> Option<u64> {
            let mut words = line.split_whitespace().skip_while(|word| *word != name);
            let word = words.nth(1)?;
            word.split('/').next()?.parse().ok()
        };
        outcome.executions = number.parse().unwrap_or(outcome.executions);
        outcome.covered = after("cov:").unwrap_or(outcome.covered);
        outcome.inputs = after("corp:").unwrap_or(outcome.inputs);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_accounted_for_by_its_last_words() {
        let text = "INFO: Seed: 1\n#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #4096\tpulse  cov: 20 ft: 30 corp: 7/90b lim: 40 exec/s: 2048 rss: 31Mb\n\
                    #9000\tDONE   cov: 21 ft: 30 corp: 8/99b lim: 80 exec/s: 2000 rss: 31Mb\n";
        let expected = Outcome {
            executions: 9000,
            covered: 21,
            inputs: 8,
            findings: Vec::new(),
        };
        assert_eq!(account(text), expected);
    }

    #[test]
    fn the_targets_are_those_that_there_are_programs_for() {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../agent-plane/fuzz/libfuzzer/fuzz_targets");
        let mut programs = names(&programs).unwrap();
        programs.sort_unstable();
        let mut targets: Vec<String> = TARGETS.iter().map(|name| format!("{name}.rs")).collect();
        targets.sort_unstable();
        assert_eq!(programs, targets);
    }
}
