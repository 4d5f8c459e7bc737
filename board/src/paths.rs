//! Where the workspace, the cache and the build results live.
//!
//! Guarantees: a directory handed out by [`Paths::cache_dir`] or [`Paths::out_dir`] exists.
//! Does not: delete anything. The cache is shared by all checkouts of one user, because its
//! entries are named by the hash of what went into them and are therefore interchangeable.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::progress::full_disk_hint;

/// Why the directories could not be determined or made.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Neither the package manager nor the current directory leads to the workspace.
    #[error(
        "no KairoOS workspace above {start}: run this from inside a checkout, \
         or through `cargo xtask`"
    )]
    NoWorkspace {
        /// Where the search began.
        start: PathBuf,
    },
    /// No home directory to put the cache in.
    #[error(
        "neither KAIRO_CACHE, XDG_CACHE_HOME nor HOME is set: set KAIRO_CACHE to a directory \
         with some gigabytes free"
    )]
    NoCacheHome,
    /// A relative cache would be another one in every directory.
    #[error("KAIRO_CACHE is {path}, which is not an absolute path: begin it with a slash")]
    RelativeCache {
        /// What it is set to.
        path: PathBuf,
    },
    /// A directory could not be made.
    #[error("cannot make the directory {path}: {source}{}", full_disk_hint(source))]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The three places the build tool reads from and writes to.
#[derive(Debug, Clone)]
pub struct Paths {
    workspace: PathBuf,
    cache: PathBuf,
    out: PathBuf,
}

impl Paths {
    /// Finds the workspace and the cache from the environment; makes nothing yet.
    ///
    /// # Errors
    /// [`PathsError::NoWorkspace`] outside a checkout, [`PathsError::NoCacheHome`] when no
    /// variable names a place for the cache.
    pub fn discover() -> Result<Self, PathsError> {
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(package) => PathBuf::from(package),
            None => env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
        };
        let workspace = workspace_above(&start).ok_or(PathsError::NoWorkspace {
            start: start.clone(),
        })?;
        let cache = cache_home(|name| env::var_os(name).map(PathBuf::from))?;
        Ok(Self::at(&workspace, &cache))
    }

    /// The same over given directories; for tests.
    pub fn at(workspace: &Path, cache: &Path) -> Self {
        Self {
            workspace: workspace.to_path_buf(),
            cache: cache.to_path_buf(),
            out: workspace.join("out"),
        }
    }

    /// The root of the checkout.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The root of the cache. It may not exist yet.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A directory below the cache, made if missing. `name` may contain slashes.
    ///
    /// # Errors
    /// [`PathsError::Create`] when it cannot be made.
    pub fn cache_dir(&self, name: &str) -> Result<PathBuf, PathsError> {
        make(self.cache.join(name))
    }

    /// A directory below the workspace's `out/`, made if missing; `""` is `out/` itself.
    ///
    /// # Errors
    /// [`PathsError::Create`] when it cannot be made.
    pub fn out_dir(&self, name: &str) -> Result<PathBuf, PathsError> {
        make(if name.is_empty() {
            self.out.clone()
        } else {
            self.out.join(name)
        })
    }
}

fn make(path: PathBuf) -> Result<PathBuf, PathsError> {
    match fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(PathsError::Create { path, source }),
    }
}

/// The nearest ancestor that holds both the workspace manifest and the kernel fragments.
fn workspace_above(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|dir| dir.join("Cargo.lock").is_file() && dir.join("kernel-config").is_dir())
        .map(Path::to_path_buf)
}

fn cache_home(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, PathsError> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    if let Some(path) = variable("KAIRO_CACHE").filter(|path| !path.as_os_str().is_empty()) {
        return match path.is_absolute() {
            true => Ok(path),
            false => Err(PathsError::RelativeCache { path }),
        };
    }
    // The XDG specification says that a relative XDG_CACHE_HOME is to be ignored.
    if let Some(path) = absolute("XDG_CACHE_HOME") {
        return Ok(path.join("kairoos"));
    }
    absolute("HOME")
        .map(|home| home.join(".cache/kairoos"))
        .ok_or(PathsError::NoCacheHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<PathBuf> {
        let owned: Vec<(String, PathBuf)> = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), PathBuf::from(value)))
            .collect();
        move |name| {
            owned
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        }
    }

    #[test]
    fn cache_override_wins_over_the_cache_home() {
        let env = variables(&[("KAIRO_CACHE", "/big/cache"), ("XDG_CACHE_HOME", "/x")]);
        assert_eq!(cache_home(env).expect("found"), Path::new("/big/cache"));
    }

    #[test]
    fn a_relative_cache_override_is_refused_and_an_empty_one_is_none() {
        let error = cache_home(variables(&[("KAIRO_CACHE", "cache"), ("HOME", "/h")]));
        assert!(matches!(error, Err(PathsError::RelativeCache { .. })));
        let empty = cache_home(variables(&[("KAIRO_CACHE", ""), ("HOME", "/h")]));
        assert_eq!(empty.expect("found"), Path::new("/h/.cache/kairoos"));
    }

    #[test]
    fn cache_falls_back_to_home_and_ignores_relative_paths() {
        let env = variables(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/home/user")]);
        assert_eq!(
            cache_home(env).expect("found"),
            Path::new("/home/user/.cache/kairoos")
        );
        assert!(matches!(
            cache_home(variables(&[])),
            Err(PathsError::NoCacheHome)
        ));
    }

    #[test]
    fn the_workspace_is_found_from_a_package_below_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let package = dir.path().join("board");
        fs::create_dir_all(&package).expect("mkdir");
        fs::create_dir_all(dir.path().join("kernel-config")).expect("mkdir");
        assert_eq!(workspace_above(&package), None, "no lock file yet");
        fs::write(dir.path().join("Cargo.lock"), "").expect("write");
        assert_eq!(workspace_above(&package).as_deref(), Some(dir.path()));
    }

    #[test]
    fn handed_out_directories_exist() {
        let dir = tempfile::tempdir().expect("tempdir");
        let paths = Paths::at(&dir.path().join("tree"), &dir.path().join("cache"));
        assert!(paths.cache_dir("kernel/source").expect("made").is_dir());
        assert_eq!(
            paths.out_dir("").expect("made"),
            dir.path().join("tree/out")
        );
    }
}
