//! The steps: configure, check, compile, put into the cache.
//!
//! Guarantees: an entry of the cache appears whole (renamed into place) or not at all.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::check::{self, Report};
use super::dotconfig::DotConfig;
use super::kconfig::Kconfig;
use super::patches::Patches;
use super::recipe::{self, Recipe};
use super::source;
use super::{Arch, IMAGE_BYTES_MAX, Kernel, KernelError, Metadata, fragment};
use crate::host;
use crate::paths::Paths;
use crate::progress::{Step, readable_bytes, readable_duration};

/// Lines such as `  CC      init/main.o` that a build prints. Measured; only the progress bar
/// depends on it.
const BUILD_LINES_EXPECTED: u64 = 2_126;
/// Bytes that the object files take, with a margin.
const OBJECTS_BYTES: u64 = 1_000_000_000;
/// The longest that compiling may take, on the slowest machine that is worth waiting for.
const BUILD_DEADLINE: Duration = Duration::from_secs(3 * 3600);
/// The longest that kconfig may take.
const CONFIG_DEADLINE: Duration = Duration::from_secs(600);
/// How long to wait for another build.
const LOCK_WAIT: Duration = Duration::from_secs(3600);

/// Builds the kernel, or finds it in the cache.
///
/// # Errors
/// [`KernelError`]; [`KernelError::Misses`] before anything is compiled.
pub fn build(paths: &Paths, arch: Arch) -> Result<Kernel, KernelError> {
    if arch != Arch::X86_64 {
        return Err(KernelError::NotBuilt { arch: arch.name() });
    }
    let recipe = prepare(paths, arch)?;
    let hash = recipe.hash();
    let kernel_dir = paths.cache_dir("kernel")?;
    let entry = kernel_dir.join(format!("{}-{hash}", arch.name()));
    if let Some(kernel) = cached(&entry) {
        let bytes = readable_bytes(kernel.metadata.image_bytes);
        Step::start("Building the kernel", None)
            .cached(&format!("{} {bytes}", kernel.metadata.release));
        return Ok(kernel);
    }
    let _lock = lock(&kernel_dir, "build")?;
    // Whoever held the lock may have built just this.
    if let Some(kernel) = cached(&entry) {
        return Ok(kernel);
    }
    let tree = unpacked(paths, &recipe)?;
    let output = kernel_dir.join(format!("build-{}-{hash}", arch.name()));
    remove_abandoned(&kernel_dir, &output)?;
    make_config(paths, &recipe, &tree, &output)?;
    let report = compare(&recipe, &tree, &output)?;
    if !report.ok {
        return Err(KernelError::Misses {
            count: report.misses.len(),
            list: report
                .misses
                .iter()
                .map(|miss| format!("{miss}\n"))
                .collect(),
        });
    }
    host::require_space(&kernel_dir, OBJECTS_BYTES, "compiling the kernel")?;
    compile(paths, arch, &tree, &output)?;
    let kernel = store(&recipe, &hash, &output, &entry)?;
    super::remove_tree(&output)?;
    Ok(kernel)
}

/// Compares the configuration that the fragments give with what they ask for.
///
/// # Errors
/// [`KernelError`] when no configuration could be made. Misses are in the report.
pub fn check(paths: &Paths, arch: Arch) -> Result<Report, KernelError> {
    let (recipe, tree, output) = configured(paths, arch)?;
    compare(&recipe, &tree, &output)
}

/// Makes the configuration and copies it to `out/kernel/ARCH.config`; returns that path.
///
/// # Errors
/// [`KernelError`] when no configuration could be made.
pub fn configure(paths: &Paths, arch: Arch) -> Result<PathBuf, KernelError> {
    let (_, _, output) = configured(paths, arch)?;
    let target = paths
        .out_dir("kernel")?
        .join(format!("{}.config", arch.name()));
    copy(&output.join(".config"), &target)?;
    Ok(target)
}

fn configured(paths: &Paths, arch: Arch) -> Result<(Recipe, PathBuf, PathBuf), KernelError> {
    let recipe = prepare(paths, arch)?;
    let kernel_dir = paths.cache_dir("kernel")?;
    let tree = unpacked(paths, &recipe)?;
    let output = kernel_dir.join(format!("config-{}", arch.name()));
    let _lock = lock(&kernel_dir, "config")?;
    make_config(paths, &recipe, &tree, &output)?;
    Ok((recipe, tree, output))
}

fn unpacked(paths: &Paths, recipe: &Recipe) -> Result<PathBuf, KernelError> {
    let kernel_dir = paths.cache_dir("kernel")?;
    require_plain(&kernel_dir)?;
    let _lock = lock(&kernel_dir, "source")?;
    source::unpack(paths, &recipe.source, &recipe.patches)
}

/// Fails for a place that the kernel's Makefile would refuse after minutes of unpacking.
fn require_plain(kernel_dir: &Path) -> Result<(), KernelError> {
    let text = kernel_dir.to_string_lossy();
    if text.contains([' ', ':', '\t']) {
        return Err(KernelError::CachePath {
            dir: kernel_dir.to_owned(),
        });
    }
    Ok(())
}

fn prepare(paths: &Paths, arch: Arch) -> Result<Recipe, KernelError> {
    let directory = paths.workspace().join("kernel-config");
    let requests = fragment::load(&directory, arch)?;
    let patches = Patches::load(&directory.join("patches"))?;
    host::ensure(&super::needs()?, &paths.cache_dir("log")?)?;
    let source = source::locate(paths)?;
    Ok(Recipe {
        arch,
        source,
        patches,
        requests,
        toolchain: recipe::toolchain(),
    })
}

/// One operation of a kind at a time per cache; the lock ends with the returned file.
///
/// The kinds are apart so that a check does not wait for a build. A build takes `build`, then
/// `source`; nobody takes them in the other order.
fn lock(kernel_dir: &Path, kind: &str) -> Result<File, KernelError> {
    let path = kernel_dir.join(format!("{kind}.lock"));
    let file = File::create(&path).map_err(|error| KernelError::io("make", &path, error))?;
    let mut waiting: Option<(Step, Instant)> = None;
    loop {
        match file.try_lock() {
            Ok(()) => {
                if let Some((step, _)) = waiting {
                    step.done("");
                }
                return Ok(file);
            }
            Err(TryLockError::Error(error)) => return Err(KernelError::io("lock", &path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let (_, since) = waiting.get_or_insert_with(|| {
            (
                Step::start("Waiting for another xtask", None),
                Instant::now(),
            )
        });
        if since.elapsed() > LOCK_WAIT {
            return Err(KernelError::Locked {
                lock: path,
                waited_s: LOCK_WAIT.as_secs(),
            });
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Removes what builds that failed or were ended have left, except for `keep`, which continues
/// where it stopped. The caller holds the lock, so nobody is building there.
fn remove_abandoned(kernel_dir: &Path, keep: &Path) -> Result<(), KernelError> {
    let io_error = |error| KernelError::io("list", kernel_dir, error);
    for entry in fs::read_dir(kernel_dir).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let is_build = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| {
                // A partial source may belong to somebody who is unpacking it now.
                let partial = name.ends_with(".partial") && !name.starts_with("source-");
                name.starts_with("build-") || partial
            });
        if is_build && path != keep && path.is_dir() {
            super::remove_tree(&path)?;
        }
    }
    Ok(())
}

/// tinyconfig, then the requests over it, then kconfig's completion.
fn make_config(
    paths: &Paths,
    recipe: &Recipe,
    tree: &Path,
    output: &Path,
) -> Result<(), KernelError> {
    fs::create_dir_all(output).map_err(|error| KernelError::io("make", output, error))?;
    let log_dir = paths.cache_dir("log")?;
    let step = Step::start("Configuring the kernel", None);
    let run = |target: &str| {
        let command = recipe::make(recipe.arch, tree, output, target);
        step.run(
            command,
            &log_dir.join(format!("kernel-{target}.log")),
            CONFIG_DEADLINE,
            |_| false,
        )
    };
    let outcome = run("tinyconfig").map_err(KernelError::from).and_then(|_| {
        let path = output.join(".config");
        let minimal =
            fs::read_to_string(&path).map_err(|error| KernelError::io("read", &path, error))?;
        fs::write(&path, recipe.merged_config(&minimal))
            .map_err(|error| KernelError::io("write", &path, error))?;
        Ok(run("olddefconfig")?)
    });
    match outcome {
        Ok(_) => {
            step.done(&format!("{} symbols asked for", recipe.requests.len()));
            Ok(())
        }
        Err(error) => {
            step.failed("see below");
            Err(error)
        }
    }
}

fn compare(recipe: &Recipe, tree: &Path, output: &Path) -> Result<Report, KernelError> {
    let path = output.join(".config");
    let text = fs::read_to_string(&path).map_err(|error| KernelError::io("read", &path, error))?;
    let kconfig = Kconfig::read(tree, recipe.arch.source_name())?;
    let misses = check::compare(&recipe.requests, &DotConfig::parse(&text), &kconfig);
    Ok(Report {
        arch: recipe.arch.name().to_owned(),
        release: source::release(tree)?,
        ok: misses.is_empty(),
        requested: recipe.requests.len(),
        misses,
    })
}

fn compile(paths: &Paths, arch: Arch, tree: &Path, output: &Path) -> Result<(), KernelError> {
    let step = Step::start("Building the kernel", Some(BUILD_LINES_EXPECTED));
    let log = paths.cache_dir("log")?.join("kernel-build.log");
    let command = recipe::make(arch, tree, output, "bzImage");
    match step.run(command, &log, BUILD_DEADLINE, is_build_line) {
        Ok(lines) => {
            let spent = readable_duration(step.elapsed());
            step.done(&format!("{lines} build steps, {spent}"));
            Ok(())
        }
        Err(error) => {
            step.failed(&format!("complete output in {}", log.display()));
            Err(error.into())
        }
    }
}

/// A line such as `  CC      init/main.o`.
fn is_build_line(line: &str) -> bool {
    line.strip_prefix("  ")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Puts the results into the cache under their final name.
fn store(recipe: &Recipe, hash: &str, output: &Path, entry: &Path) -> Result<Kernel, KernelError> {
    let partial = entry.with_extension("partial");
    super::remove_tree(&partial)?;
    fs::create_dir_all(&partial).map_err(|error| KernelError::io("make", &partial, error))?;
    let image = output.join("arch/x86/boot/bzImage");
    copy(&image, &partial.join("bzImage"))?;
    copy(&output.join(".config"), &partial.join("config"))?;
    let release_file = output.join("include/config/kernel.release");
    let release = fs::read_to_string(&release_file)
        .map_err(|error| KernelError::io("read", &release_file, error))?;
    let image_bytes = fs::metadata(&image)
        .map_err(|error| KernelError::io("read", &image, error))?
        .len();
    if image_bytes > IMAGE_BYTES_MAX {
        return Err(KernelError::TooLarge { bytes: image_bytes });
    }
    let metadata = Metadata {
        arch: recipe.arch.name().to_owned(),
        release: release.trim().to_owned(),
        build_hash: hash.to_owned(),
        source_sha256: recipe.source.sha256.clone(),
        toolchain: recipe.toolchain.clone(),
        image_sha256: source::sha256_of(&image, |_| ())
            .map_err(|error| KernelError::io("read", &image, error))?,
        image_bytes,
    };
    super::write_json(&partial.join("kernel.json"), &metadata)?;
    super::remove_tree(entry)?;
    fs::rename(&partial, entry).map_err(|error| KernelError::io("rename", &partial, error))?;
    Ok(Kernel {
        image: entry.join("bzImage"),
        config: entry.join("config"),
        metadata,
    })
}

/// The kernel in a cache entry, if the entry is whole.
fn cached(entry: &Path) -> Option<Kernel> {
    let bytes = fs::read(entry.join("kernel.json")).ok()?;
    let metadata: Metadata = serde_json::from_slice(&bytes).ok()?;
    let kernel = Kernel {
        image: entry.join("bzImage"),
        config: entry.join("config"),
        metadata,
    };
    // A size that differs is a damaged cache: build again rather than boot it.
    let image_bytes = fs::metadata(&kernel.image).ok()?.len();
    (image_bytes == kernel.metadata.image_bytes && kernel.config.is_file()).then_some(kernel)
}

fn copy(from: &Path, to: &Path) -> Result<(), KernelError> {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(|error| KernelError::io("copy", from, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(bytes: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let metadata = Metadata {
            arch: "x86_64".to_owned(),
            release: "6.12.0-kairo".to_owned(),
            build_hash: "0123456789abcdef".to_owned(),
            source_sha256: String::new(),
            toolchain: String::new(),
            image_sha256: String::new(),
            image_bytes: bytes,
        };
        crate::kernel::write_json(&dir.path().join("kernel.json"), &metadata).expect("write");
        fs::write(dir.path().join("bzImage"), "four").expect("write");
        fs::write(dir.path().join("config"), "").expect("write");
        dir
    }

    #[test]
    fn a_whole_cache_entry_is_used() {
        let entry = entry_of(4);
        assert_eq!(cached(entry.path()).expect("whole").metadata.image_bytes, 4);
    }

    #[test]
    fn a_damaged_cache_entry_is_not_used() {
        assert!(cached(entry_of(5).path()).is_none(), "another size");
        let entry = entry_of(4);
        fs::remove_file(entry.path().join("config")).expect("remove");
        assert!(cached(entry.path()).is_none(), "no configuration");
        assert!(cached(Path::new("/no/such/entry")).is_none(), "not there");
    }

    #[test]
    fn abandoned_builds_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in [
            "build-x86_64-1/a",
            "build-x86_64-2",
            "x86_64-3.partial",
            "x86_64-4",
            "source-5.partial",
        ] {
            fs::create_dir_all(dir.path().join(name)).expect("mkdir");
        }
        let keep = dir.path().join("build-x86_64-2");
        remove_abandoned(dir.path(), &keep).expect("removed");
        let mut left: Vec<String> = fs::read_dir(dir.path())
            .expect("list")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        left.sort();
        assert_eq!(left, ["build-x86_64-2", "source-5.partial", "x86_64-4"]);
    }

    #[test]
    fn a_cache_in_a_path_with_a_space_is_refused_before_any_work() {
        require_plain(Path::new("/home/dev/.cache/kairoos/kernel")).expect("plain");
        let error = require_plain(Path::new("/home/a b/kernel")).expect_err("a space");
        assert!(error.to_string().contains("KAIRO_CACHE"), "{error}");
    }

    #[test]
    fn only_the_steps_of_the_build_are_counted() {
        assert!(is_build_line("  CC      init/main.o"));
        assert!(!is_build_line("make[1]: Entering directory"));
        assert!(!is_build_line("  warning: x"));
    }

    #[test]
    fn the_lock_is_free_again_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let first = lock(dir.path(), "build").expect("free");
        lock(dir.path(), "config").expect("of another kind");
        let other = File::open(dir.path().join("build.lock")).expect("open");
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        lock(dir.path(), "build").expect("free again");
    }
}
