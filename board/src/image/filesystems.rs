//! Makes the file systems of an image with the tools of their own projects.
//!
//! Guarantees: the EROFS depends on its input tree and the timestamp alone, never on the host's
//! clock, users or directory order. FAT and ext4 partitions get their identity from the disk's
//! seed. Nothing is mounted and no root is needed.
//!
//! Why tools and not crates: mkfs.erofs and mke2fs have no equal in Rust, and for FAT the
//! `fatfs` crate has had no release since 2023 while dosfstools and mtools are kept up
//! (`docs/decisions/006-partition-tools.md`).

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::error::ImageError;
use crate::host::{Need, program_path};
use crate::progress::Step;

/// The longest one tool may take; each takes about a second.
const TOOL_DEADLINE: Duration = Duration::from_secs(300);

/// The UUID of every root: it must not differ between two builds.
const ROOT_UUID: &str = "6b616972-6f6f-4573-8f72-6f6f74000001";

/// Programs of the host that make an image.
pub const NEEDS: [Need; 7] = [
    need("libc.a", "libc6-dev", "PID 1, which is linked statically"),
    need("mkfs.erofs", "erofs-utils", "the read-only root"),
    need("mke2fs", "e2fsprogs", "the config and data partitions"),
    need(
        "debugfs",
        "e2fsprogs",
        "the owners of the default configuration",
    ),
    need("mkfs.vfat", "dosfstools", "the kernel partitions"),
    need("mcopy", "mtools", "copying the kernel into its partition"),
    need(
        "/usr/bin/cyclictest",
        "rt-tests",
        "the latency reference inside the image",
    ),
];

const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        program_or_file: program,
        debian_package: package,
        why,
    }
}

/// Where tools report to: the step shown to people and the directory of their logs.
#[derive(Debug, Clone, Copy)]
pub struct Bench<'a> {
    /// The step that is under way.
    pub step: &'a Step,
    /// Directory of the logs.
    pub logs: &'a Path,
}

impl Bench<'_> {
    /// Runs one tool; `why` is a verb phrase for the error.
    pub(super) fn run(
        &self,
        name: &str,
        why: &'static str,
        configure: impl FnOnce(&mut Command),
    ) -> Result<(), ImageError> {
        let program = program_path(name).unwrap_or_else(|| name.into());
        let mut command = Command::new(program);
        configure(&mut command);
        let log = self.logs.join(format!("{name}.log"));
        self.step
            .run(command, &log, TOOL_DEADLINE, |_| false)
            .map(|_| ())
            .map_err(|source| ImageError::Program { why, source })
    }
}

/// Makes the EROFS `image` from `tree`; every file is root's and `epoch_s` seconds old.
///
/// # Errors
/// [`ImageError::Program`] when mkfs.erofs fails.
pub fn make_erofs(
    bench: Bench<'_>,
    tree: &Path,
    image: &Path,
    epoch_s: u64,
) -> Result<(), ImageError> {
    remove_if_there(image)?;
    bench.run("mkfs.erofs", "make the root file system", |command| {
        command
            // lz4hc costs only the builder; the guest decompresses both at the same speed.
            .args([
                "-zlz4hc,12",
                "-C65536",
                "--all-root",
                "-x-1",
                "-U",
                ROOT_UUID,
            ])
            .arg(format!("-T{epoch_s}"))
            .arg(image)
            .arg(tree)
            .env("SOURCE_DATE_EPOCH", epoch_s.to_string());
    })
}

/// Makes a FAT16 file system of `bytes` in the new file `image`, with `files` in its root.
///
/// # Errors
/// [`ImageError::Program`] when mkfs.vfat or mcopy fails.
pub fn make_fat(
    bench: Bench<'_>,
    image: &Path,
    bytes: u64,
    label: &str,
    volume_id: u32,
    files: &[&Path],
) -> Result<(), ImageError> {
    make_empty(image, bytes)?;
    bench.run("mkfs.vfat", "make a FAT file system", |command| {
        command
            .args(["-F", "16", "-s", "4", "--invariant", "-n", label, "-i"])
            .arg(format!("{volume_id:08x}"))
            .arg(image);
    })?;
    if files.is_empty() {
        return Ok(());
    }
    bench.run("mcopy", "copy files into a FAT file system", |command| {
        command.arg("-i").arg(image).args(files).arg("::");
    })
}

/// Makes an ext4 file system with a journal of `bytes` in the new file `image`, filled from
/// `tree`; everything in it is root's.
///
/// # Errors
/// [`ImageError::Program`] when mke2fs or debugfs fails.
pub fn make_ext4(
    bench: Bench<'_>,
    image: &Path,
    bytes: u64,
    label: &str,
    uuid: &str,
    tree: Option<&Path>,
) -> Result<(), ImageError> {
    make_empty(image, bytes)?;
    bench.run("mke2fs", "make an ext4 file system", |command| {
        command
            .args([
                "-q", "-F", "-t", "ext4", "-L", label, "-U", uuid, "-m", "0", "-E",
            ])
            // Initialised here, or the guest's kernel would write to the disk for minutes after
            // the first boot, beside the real-time loops.
            .arg(format!(
                "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,\
                 assume_storage_prezeroed=1,hash_seed={uuid}"
            ));
        if let Some(tree) = tree {
            command.arg("-d").arg(tree);
        }
        command.arg(image);
    })?;
    let Some(tree) = tree else { return Ok(()) };
    // mke2fs keeps the builder's user id; the image must not depend on who builds it.
    let commands = image.with_extension("owners");
    let entries = fs::read_dir(tree).map_err(ImageError::file("list", tree))?;
    let mut script = String::new();
    for entry in entries {
        let entry = entry.map_err(ImageError::file("list", tree))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        for field in ["uid", "gid"] {
            script.push_str(&format!("set_inode_field /{name} {field} 0\n"));
        }
    }
    fs::write(&commands, script).map_err(ImageError::file("write", &commands))?;
    bench.run(
        "debugfs",
        "set the owners of the configuration",
        |command| {
            command.arg("-w").arg("-f").arg(&commands).arg(image);
        },
    )?;
    fs::remove_file(&commands).map_err(ImageError::file("remove", &commands))
}

/// Makes `path` a sparse file of `bytes` zeros, whatever it was before.
///
/// # Errors
/// [`ImageError::File`].
pub fn make_empty(path: &Path, bytes: u64) -> Result<(), ImageError> {
    remove_if_there(path)?;
    let file = File::create(path).map_err(ImageError::file("create", path))?;
    file.set_len(bytes).map_err(ImageError::file("size", path))
}

fn remove_if_there(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ImageError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::sha256_file;

    /// Two trees with the same contents, whose files were made in opposite order, by another
    /// user's habits: other timestamps and an unordered directory.
    fn tree(root: &Path, reverse: bool) {
        let mut names: Vec<String> = (0..200).map(|index| format!("file-{index:03}")).collect();
        if reverse {
            names.reverse();
        }
        for name in &names {
            fs::create_dir_all(root.join("usr/bin")).unwrap();
            fs::write(root.join("usr/bin").join(name), name.repeat(500)).unwrap();
        }
    }

    #[test]
    fn the_root_depends_on_contents_only() {
        let directory = tempfile::tempdir().unwrap();
        let step = Step::start("root", None);
        let bench = Bench {
            step: &step,
            logs: directory.path(),
        };
        let mut hashes = Vec::new();
        for (name, reverse) in [("one", false), ("another-place", true)] {
            let root = directory.path().join(name);
            tree(&root, reverse);
            let image = directory.path().join(format!("{name}.erofs"));
            make_erofs(bench, &root, &image, 1_700_000_000).unwrap();
            hashes.push(sha256_file(&image).unwrap());
        }
        assert_eq!(hashes[0], hashes[1]);
    }
}
