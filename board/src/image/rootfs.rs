//! Lays out the tree of the root file system.
//!
//! Guarantees: the tree holds our programs, the host programs the board names, exactly the shared
//! libraries all of them need, a handful of text files in `/etc`, and mount points; modes are set
//! whatever the builder's umask. The answer lists every entry, sorted by path.
//!
//! The libraries lie in the directory the host's C library lies in, because a loader without a
//! cache looks there; `/lib` and `/lib64` are links into `/usr`, as the loader's own path needs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::definition::Board;
use super::elf;
use super::error::ImageError;
use super::manifest::{FileEntry, sha256_file};
use super::source::Source;

/// Where the rest of the system is mounted.
const MOUNT_POINTS: [&str; 13] = [
    "config",
    "data",
    "dev",
    "etc",
    "media",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/share/kairo",
    "var",
    "var/log",
    "var/tmp",
];

/// Links of the merged layout. `/init` is where the kernel looks last.
const LINKS: [(&str, &str); 6] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("init", "usr/bin/kairo-init"),
    ("usr/sbin", "bin"),
];

/// Text files that are the same in every image. `kairo` runs the agent plane, `forward` the
/// TCP bridge of emulated machines; init knows their numbers.
const TEXTS: [(&str, &str); 6] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/usr/sbin/nologin\n\
         kairo:x:100:100:agent plane:/:/usr/sbin/nologin\n\
         forward:x:101:101:IPC bridge:/:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        "root:x:0:\nkairo:x:100:\nforward:x:101:\nnogroup:x:65534:\n",
    ),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    ("etc/hostname", "kairo\n"),
    (
        "etc/hosts",
        "127.0.0.1 localhost\n127.0.1.1 kairo\n::1 localhost\n",
    ),
    ("etc/resolv.conf", "# Written by the network set-up.\n"),
];

/// What goes into a tree besides the fixed parts.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The board.
    pub board: &'a Board,
    /// What it is built from.
    pub source: &'a Source,
    /// The built programs, for `/usr/bin`.
    pub programs: &'a [PathBuf],
    /// The robot description, for `/usr/share/kairo/robot.toml`.
    pub robot: &'a Path,
}

/// Makes the tree in the new directory `root` and lists it.
///
/// # Errors
/// [`ImageError::LibraryMissing`] for an incomplete host, [`ImageError::File`].
pub fn lay_out(root: &Path, contents: Contents<'_>) -> Result<Vec<FileEntry>, ImageError> {
    if root.exists() {
        fs::remove_dir_all(root).map_err(ImageError::file("remove", root))?;
    }
    let mut tree = Tree {
        root,
        host_files: Vec::new(),
    };
    for directory in ["usr/bin", "usr/lib", "usr/lib64"]
        .iter()
        .chain(&MOUNT_POINTS)
    {
        tree.directory(directory)?;
    }
    for (path, target) in LINKS {
        let link = root.join(path);
        symlink(target, &link).map_err(ImageError::file("link", &link))?;
    }
    for (path, text) in TEXTS {
        tree.text(path, text)?;
    }
    tree.text(
        "etc/os-release",
        &os_release(contents.source, contents.board),
    )?;

    let mut programs = contents.programs.to_vec();
    for file in contents.programs {
        tree.copy(file, &format!("usr/bin/{}", file_name(file)), 0o755, false)?;
    }
    for program in &contents.board.host_program {
        let name = file_name(&program.path);
        tree.copy(&program.path, &format!("usr/bin/{name}"), 0o755, true)?;
        programs.push(program.path.clone());
    }
    tree.libraries(&elf::closure(&programs, &elf::loader_directories())?)?;
    tree.copy(contents.robot, "usr/share/kairo/robot.toml", 0o644, false)?;
    tree.list()
}

fn os_release(source: &Source, board: &Board) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "NAME=KairoOS\nID=kairoos\nPRETTY_NAME=\"KairoOS {version}\"\nVERSION_ID={version}\n\
         BUILD_ID={}\nVARIANT_ID={}\n",
        source.commit, board.name
    )
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A path of the host inside `/usr`, where all of the image's libraries live.
fn merged(path: &Path) -> String {
    let path = path.display().to_string();
    let path = path.trim_start_matches('/');
    if path.starts_with("usr/") {
        path.to_owned()
    } else {
        format!("usr/{path}")
    }
}

struct Tree<'a> {
    root: &'a Path,
    /// Files taken from the host: path in the tree, path on the host.
    host_files: Vec<(String, PathBuf)>,
}

impl Tree<'_> {
    fn directory(&self, path: &str) -> Result<(), ImageError> {
        let mut directory = self.root.to_path_buf();
        for part in std::iter::once("").chain(path.split('/')) {
            directory.push(part);
            fs::create_dir_all(&directory).map_err(ImageError::file("make", &directory))?;
            let mode = if path.ends_with("tmp") && directory.ends_with("tmp") {
                0o1777
            } else {
                0o755
            };
            set_mode(&directory, mode)?;
        }
        Ok(())
    }

    fn text(&self, path: &str, text: &str) -> Result<(), ImageError> {
        let file = self.root.join(path);
        fs::write(&file, text).map_err(ImageError::file("write", &file))?;
        set_mode(&file, 0o644)
    }

    fn copy(&mut self, from: &Path, to: &str, mode: u32, of_host: bool) -> Result<(), ImageError> {
        let file = self.root.join(to);
        fs::copy(from, &file).map_err(ImageError::file("copy", from))?;
        if of_host {
            self.host_files.push((format!("/{to}"), from.to_path_buf()));
        }
        set_mode(&file, mode)
    }

    fn libraries(&mut self, closure: &elf::Closure) -> Result<(), ImageError> {
        for (path, file) in &closure.interpreters {
            let target = merged(path);
            if let Some((parent, _)) = target.rsplit_once('/') {
                self.directory(parent)?;
            }
            self.copy(file, &target, 0o755, true)?;
        }
        let Some(c_library) = closure.libraries.get("libc.so.6") else {
            return Ok(());
        };
        let directory = merged(c_library.parent().unwrap_or(Path::new("/lib")));
        self.directory(&directory)?;
        for (soname, file) in &closure.libraries {
            self.copy(file, &format!("{directory}/{soname}"), 0o644, true)?;
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<FileEntry>, ImageError> {
        let mut entries = Vec::new();
        self.walk(self.root, &mut entries)?;
        entries.sort_by(|one: &FileEntry, other: &FileEntry| one.path.cmp(&other.path));
        Ok(entries)
    }

    fn walk(&self, directory: &Path, entries: &mut Vec<FileEntry>) -> Result<(), ImageError> {
        for entry in fs::read_dir(directory).map_err(ImageError::file("list", directory))? {
            let path = entry.map_err(ImageError::file("list", directory))?.path();
            let data = fs::symlink_metadata(&path).map_err(ImageError::file("look at", &path))?;
            let inside = path.strip_prefix(self.root).unwrap_or(&path);
            let inside = format!("/{}", inside.display());
            let host_file = self
                .host_files
                .iter()
                .find(|(to, _)| *to == inside)
                .map(|(_, from)| from.clone());
            let mut row = FileEntry {
                path: inside,
                bytes: 0,
                sha256: None,
                link: None,
                host_file,
            };
            if data.is_symlink() {
                let target = fs::read_link(&path).map_err(ImageError::file("read", &path))?;
                row.link = Some(target.display().to_string());
            } else if data.is_file() {
                row.bytes = data.len();
                row.sha256 = Some(sha256_file(&path)?);
            }
            entries.push(row);
            if data.is_dir() {
                self.walk(&path, entries)?;
            }
        }
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(ImageError::file("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out() -> (tempfile::TempDir, Vec<FileEntry>) {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut board = Board::load(workspace, "qemu-x86_64").unwrap();
        board.host_program.clear();
        let robot = directory.path().join("robot.toml");
        fs::write(&robot, "# robot\n").unwrap();
        let source = Source {
            directory: workspace.into(),
            commit: "c0ffee".into(),
            epoch_s: 0,
        };
        let programs = [std::env::current_exe().unwrap()];
        let contents = Contents {
            board: &board,
            source: &source,
            programs: &programs,
            robot: &robot,
        };
        let entries = lay_out(&directory.path().join("root"), contents).unwrap();
        (directory, entries)
    }

    #[test]
    fn the_loader_is_found_by_the_path_the_programs_name() {
        let (directory, _) = laid_out();
        let needs = elf::needs(&std::env::current_exe().unwrap()).unwrap();
        let interpreter = needs.interpreter.unwrap();
        let inside = directory
            .path()
            .join("root")
            .join(interpreter.trim_start_matches('/'));
        assert!(
            inside.is_file(),
            "{inside:?}: a link is broken or the loader is elsewhere"
        );
    }

    #[test]
    fn the_listing_is_sorted_and_knows_what_came_from_the_host() {
        let (_directory, entries) = laid_out();
        assert!(entries.is_sorted_by(|one, other| one.path < other.path));
        let library = entries
            .iter()
            .find(|entry| entry.path.ends_with("/libc.so.6"))
            .unwrap();
        assert!(library.host_file.is_some() && library.sha256.is_some());
        let passwd = entries
            .iter()
            .find(|entry| entry.path == "/etc/passwd")
            .unwrap();
        assert!(passwd.host_file.is_none());
    }

    #[test]
    fn every_mount_point_is_there() {
        let (directory, _) = laid_out();
        for path in [
            "proc", "sys", "dev", "run", "config", "data", "etc", "var", "tmp", "media",
        ] {
            assert!(directory.path().join("root").join(path).is_dir(), "{path}");
        }
    }
}
