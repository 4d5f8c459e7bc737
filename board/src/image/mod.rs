//! Builds the disk image of a board: programs, read-only root, partitions, and the proof that the
//! result is what was meant.
//!
//! Guarantees: one commit gives one root hash on one set of host packages; the root stays within
//! [`ROOT_LIMIT_BYTES`] and the kernel within [`KERNEL_LIMIT_BYTES`]; a finished disk was read
//! back and verified; an unchanged tree is recognised by content and rebuilds nothing.
//!
//! Does not build the kernel, and does not flash media.

pub mod definition;
pub mod disk;
pub mod elf;
pub mod error;
pub mod filesystems;
pub mod kboot;
pub mod layout;
pub mod manifest;
pub mod programs;
pub mod reproducible;
pub mod rootfs;
pub mod source;
pub mod verify;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host;
use crate::paths::Paths;
use crate::progress::{Step, readable_bytes};
pub use definition::Board;
pub use error::ImageError;
use filesystems::Bench;
pub use manifest::Manifest;
use source::Source;

/// The root file system is at most this large: it is held twice and sent with every update.
pub const ROOT_LIMIT_BYTES: u64 = 40_000_000;

/// The kernel is at most this large: small boot loaders have little room between load addresses.
pub const KERNEL_LIMIT_BYTES: u64 = 8_000_000;

/// Disk space a cold build of programs and image takes.
const SPACE_BYTES: u64 = 2_000_000_000;

/// What to build.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The board definition.
    pub board: Board,
    /// The kernel image.
    pub kernel: PathBuf,
    /// Another robot description than the board's.
    pub robot: Option<PathBuf>,
    /// The seed of the disk's identity; without one, the earlier disk's or a random one.
    pub seed: Option<String>,
}

/// A finished image.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The board it is for.
    pub board: Board,
    /// What it consists of.
    pub manifest: Manifest,
    /// The whole disk; a sparse file.
    pub disk: PathBuf,
    /// The root file system alone.
    pub root: PathBuf,
    /// The kernel alone, for starting it without a boot loader.
    pub kernel: PathBuf,
}

/// Builds the image of a board under `out/BOARD/`, or finds that it is already there.
///
/// # Errors
/// [`ImageError`] of the step that failed.
pub fn build(paths: &Paths, options: &ImageOptions) -> Result<BuiltImage, ImageError> {
    let out = paths.out_dir(&options.board.name)?;
    let logs = paths.out_dir(&format!("{}/log", options.board.name))?;
    host::ensure(&filesystems::NEEDS, &logs)?;
    let built = |manifest| BuiltImage {
        board: options.board.clone(),
        manifest,
        disk: out.join("disk.img"),
        root: out.join("root.erofs"),
        kernel: out.join("kernel"),
    };
    let step = Step::start("Building the image", None);
    let source = Source::of(paths.workspace());
    let robot = robot_file(paths.workspace(), options)?;
    let inputs = [options.kernel.as_path(), robot.as_path()];
    let versions = [compiler_version(), format!("{:?}", options.board)];
    let inputs_hash = source.inputs_hash(&inputs, &[&versions[0], &versions[1]])?;
    let manifest_file = out.join("manifest.json");
    if let Some(manifest) = reusable(&manifest_file, &inputs_hash, options) {
        let image = built(manifest);
        if is_whole(&image) {
            step.cached(&summary(&image.manifest));
            return Ok(image);
        }
    }
    // From here on the outputs change: an interrupted build must not pass for a whole one.
    if manifest_file.exists() {
        fs::remove_file(&manifest_file).map_err(ImageError::file("remove", &manifest_file))?;
    }
    host::require_space(&out, SPACE_BYTES, "building the image")?;
    let target_dir = paths.workspace().join("target/image");
    let seed = options
        .seed
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let bench = Bench {
        step: &step,
        logs: &logs,
    };
    let root = make_root(bench, &source, &options.board, &robot, &target_dir, &out)?;
    let mut image = built(root.into_manifest(options, &source, seed, inputs_hash));
    make_disk(bench, paths.workspace(), options, &robot, &mut image)?;
    image.manifest.store(&manifest_file)?;
    step.done(&summary(&image.manifest));
    Ok(image)
}

/// One line about an image, for people.
#[must_use]
pub fn summary(manifest: &Manifest) -> String {
    format!(
        "root {} ({}), kernel {}",
        readable_bytes(manifest.root_bytes),
        &manifest.root_hash[..12.min(manifest.root_hash.len())],
        readable_bytes(manifest.kernel_bytes)
    )
}

/// A root file system and what is in it.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) hash: String,
    pub(crate) bytes: u64,
    pub(crate) files: Vec<manifest::FileEntry>,
}

impl Root {
    fn into_manifest(
        self,
        options: &ImageOptions,
        source: &Source,
        seed: String,
        inputs_hash: String,
    ) -> Manifest {
        Manifest {
            board: options.board.name.clone(),
            commit: source.commit.clone(),
            root_hash: self.hash,
            root_bytes: self.bytes,
            kernel_bytes: 0,
            kernel_hash: String::new(),
            seed,
            inputs_hash,
            command_line: options.board.command_line(kboot::Slot::A),
            files: self.files,
        }
    }
}

/// Builds the programs of `source` and packs `root.erofs` in `out`.
pub(crate) fn make_root(
    bench: Bench<'_>,
    source: &Source,
    board: &Board,
    robot: &Path,
    target_dir: &Path,
    out: &Path,
) -> Result<Root, ImageError> {
    bench.step.note("compiling the programs");
    let programs = programs::build(bench.step, source, board, target_dir, bench.logs)?;
    bench.step.note("packing the root file system");
    let tree = out.join("root");
    let contents = rootfs::Contents {
        board,
        source,
        programs: &programs,
        robot,
    };
    let files = rootfs::lay_out(&tree, contents)?;
    let image = out.join("root.erofs");
    filesystems::make_erofs(bench, &tree, &image, source.epoch_s)?;
    let bytes = size_within(&image, "the root file system", ROOT_LIMIT_BYTES)?;
    // The cheap half of the promise is kept at every build: packing again gives the same bytes.
    let again = out.join("root.again.erofs");
    filesystems::make_erofs(bench, &tree, &again, source.epoch_s)?;
    let hash = manifest::sha256_file(&image)?;
    let second = manifest::sha256_file(&again)?;
    fs::remove_file(&again).map_err(ImageError::file("remove", &again))?;
    if hash != second {
        let differing = "none: mkfs.erofs packs one tree in two ways".to_owned();
        return Err(ImageError::NotReproducible {
            first: hash,
            second,
            differing,
        });
    }
    Ok(Root { hash, bytes, files })
}

fn make_disk(
    bench: Bench<'_>,
    workspace: &Path,
    options: &ImageOptions,
    robot: &Path,
    image: &mut BuiltImage,
) -> Result<(), ImageError> {
    bench.step.note("assembling the disk");
    fs::copy(&options.kernel, &image.kernel).map_err(ImageError::file("copy", &options.kernel))?;
    image.manifest.kernel_bytes = size_within(&image.kernel, "the kernel", KERNEL_LIMIT_BYTES)?;
    image.manifest.kernel_hash = manifest::sha256_file(&image.kernel)?;
    let scratch = image.disk.with_extension("parts");
    let config = scratch.join("config-files");
    fs::create_dir_all(&config).map_err(ImageError::file("make", &config))?;
    let system = workspace.join(&options.board.system);
    let policy = workspace.join(&options.board.policy);
    for (from, name) in [
        (system.as_path(), "kairo.toml"),
        (policy.as_path(), "policy.toml"),
        (robot, "robot.toml"),
    ] {
        let to = config.join(name);
        fs::copy(from, &to).map_err(ImageError::file("copy", from))?;
        // Whatever the checkout's umask was: kairod refuses a policy that others can write.
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(&to, mode).map_err(ImageError::file("set the mode of", &to))?;
    }
    let parts = disk::Parts {
        board: &options.board,
        kernel: &image.kernel,
        root: &image.root,
        root_hash: &image.manifest.root_hash,
        config: &config,
        seed: &image.manifest.seed,
    };
    disk::assemble(bench, &image.disk, &scratch, parts)?;
    fs::remove_dir_all(&scratch).map_err(ImageError::file("remove", &scratch))?;
    bench.step.note("reading the disk back");
    verify::verify(&image.disk, &options.board, &image.manifest)
}

fn robot_file(workspace: &Path, options: &ImageOptions) -> Result<PathBuf, ImageError> {
    let file = options
        .robot
        .clone()
        .unwrap_or_else(|| workspace.join(&options.board.robot));
    if file.is_file() {
        return Ok(file);
    }
    Err(ImageError::Definition {
        path: file,
        reason: "the board's robot description is not there; --robot FILE names another".into(),
    })
}

/// The manifest of the earlier build, if it still describes these inputs.
fn reusable(file: &Path, inputs_hash: &str, options: &ImageOptions) -> Option<Manifest> {
    let manifest = Manifest::load(file)?;
    let same_seed = options
        .seed
        .as_ref()
        .is_none_or(|seed| *seed == manifest.seed);
    let same = manifest.inputs_hash == inputs_hash && same_seed;
    (same && manifest.host_files_unchanged()).then_some(manifest)
}

/// Whether the outputs of an earlier build are still those of its manifest. The disk is read in
/// full by the verifier, which takes a fraction of a second.
fn is_whole(image: &BuiltImage) -> bool {
    let kernel = manifest::sha256_file(&image.kernel);
    let root = manifest::sha256_file(&image.root);
    kernel.is_ok_and(|hash| hash == image.manifest.kernel_hash)
        && root.is_ok_and(|hash| hash == image.manifest.root_hash)
        && verify::verify(&image.disk, &image.board, &image.manifest).is_ok()
}

fn size_within(file: &Path, what: &'static str, limit_bytes: u64) -> Result<u64, ImageError> {
    let bytes = fs::metadata(file)
        .map_err(ImageError::file("look at", file))?
        .len();
    if bytes > limit_bytes {
        return Err(ImageError::TooLarge {
            what,
            bytes,
            limit_bytes,
        });
    }
    Ok(bytes)
}

/// What the compiler says about itself; empty when it cannot be asked, and then cargo will say.
fn compiler_version() -> String {
    let output = Command::new("rustc").arg("-vV").output();
    output
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default()
}
