//! The socket: made safely, accepted from, taken away at the end.
//!
//! A lock file decides who serves a run directory, so a stale socket of a dead kairod can be
//! replaced without guessing and two living ones cannot fight over it. The socket is made under
//! another name, gets its mode, and is renamed into place: nobody ever sees it half made.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::endpoint::{RUN_DIR, SOCKET_NAME};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;

use crate::closer;
use crate::connection;
use crate::daemon::Daemon;

/// Pause after the system gave no connection: it has too few descriptors, or too little memory.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// Who may connect: the owner and the group of kairod.
const SOCKET_MODE: u32 = 0o660;
/// The name under which the first version of the protocol had its socket.
const LEGACY_PATH: &str = "/tmp/kairo-kernel.sock";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another kairod serves here.
    #[error(
        "another kairod already serves {}; stop it, or choose another --run-dir",
        .0.display()
    )]
    Occupied(PathBuf),
    /// Something that is not ours is in the way.
    #[error("{} exists and is not a socket; remove it, or choose another --run-dir", .0.display())]
    InTheWay(PathBuf),
    /// The kernel of the machine said no.
    #[error("cannot {what} {}: {error}", .path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
}

/// The socket of a run directory, ours while this lives.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    legacy: bool,
    _lock: Flock<File>,
}

impl Socket {
    /// Takes the run directory and makes the socket.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn bind(run_dir: &Path) -> Result<Self, ServeError> {
        let system = |what, path: &Path| {
            let path = path.to_path_buf();
            move |error: std::io::Error| ServeError::System { what, path, error }
        };
        std::fs::create_dir_all(run_dir).map_err(system("make the directory", run_dir))?;
        let lock_path = run_dir.join("kernel.lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options
            .open(&lock_path)
            .map_err(system("open", &lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| ServeError::Occupied(run_dir.to_path_buf()))?;

        let path = run_dir.join(SOCKET_NAME);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ServeError::InTheWay(path)),
            _ => {}
        }
        let fresh = run_dir.join("kernel.sock.new");
        // Left over from a kairod that died between making and renaming it; usually there is none.
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(system("bind", &fresh))?;
        std::fs::set_permissions(&fresh, Permissions::from_mode(SOCKET_MODE))
            .map_err(system("set the mode of", &fresh))?;
        std::fs::rename(&fresh, &path).map_err(system("rename into place", &path))?;
        let legacy = run_dir == Path::new(RUN_DIR) && link_legacy(&path);
        Ok(Self {
            listener,
            path,
            legacy,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts for ever; each connection runs as a task of its own.
    pub async fn accept(&self, daemon: &Rc<Daemon>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if daemon.admission.admits(daemon, &stream) {
                        tokio::task::spawn_local(connection::serve(Rc::clone(daemon), stream));
                    } else {
                        closer::close(stream.into_std());
                    }
                    // So that a new one is counted before the next is accepted, and that a flood
                    // of them takes turns with those who are there.
                    tokio::task::yield_now().await;
                }
                // Others go on being served; whoever waits is accepted when there is room.
                Err(_) => {
                    daemon.admission.failed();
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The lock is still ours, so these names are too. A failure leaves a stale name that the
        // next start replaces.
        let _ = std::fs::remove_file(&self.path);
        if self.legacy {
            let _ = std::fs::remove_file(LEGACY_PATH);
        }
    }
}

/// Makes the old name point at `path`. Only for the system's own run directory. /tmp belongs to
/// everybody, so a name that is not a link of ours stays as it is, and clients of today never
/// look there.
fn link_legacy(path: &Path) -> bool {
    let legacy = Path::new(LEGACY_PATH);
    if let Ok(found) = std::fs::symlink_metadata(legacy) {
        let ours = found.file_type().is_symlink()
            && found.uid() == nix::unistd::geteuid().as_raw()
            && std::fs::remove_file(legacy).is_ok();
        if !ours {
            tracing::warn!("{LEGACY_PATH} is not ours and stays as it is");
            return false;
        }
    }
    symlink(path, legacy).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let _entered = runtime.enter();
        let path = directory.path().join(SOCKET_NAME);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(directory.path()).unwrap();
        let mode = std::fs::metadata(socket.path()).unwrap().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let second = Socket::bind(directory.path());
        assert!(matches!(second, Err(ServeError::Occupied(_))));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let _entered = runtime.enter();
        let path = directory.path().join(SOCKET_NAME);
        std::fs::write(&path, "precious").unwrap();
        let refused = Socket::bind(directory.path());
        assert!(matches!(refused, Err(ServeError::InTheWay(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
