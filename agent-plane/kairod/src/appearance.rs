//! Waiting for a name to appear in a directory, without looking again and again.
//!
//! Event loop only. Says that something of that name was made or moved there, not what it is nor
//! that it is still there: whoever waits looks, and has an interval of its own for what an
//! appearance does not tell, such as a socket that is there and refuses.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::readiness::{Watched, watch};

/// A directory, watched for one name.
#[derive(Debug)]
pub struct Appearance {
    directory: AsyncFd<Watched<Inotify>>,
    name: OsString,
}

impl Appearance {
    /// Watches the directory of `path` for its last part.
    ///
    /// # Errors
    /// There is no such directory, or this user watches too many already.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(directory, made | AddWatchFlags::IN_ONLYDIR)?;
        Ok(Self {
            directory: watch(inotify)?,
            name: path.file_name().unwrap_or(OsStr::new("")).to_os_string(),
        })
    }

    /// Returns once the name has appeared since the last time this returned. Never if the directory
    /// can be watched no longer.
    pub async fn next(&self) {
        loop {
            let Ok(mut ready) = self.directory.readable().await else {
                return std::future::pending().await;
            };
            match self.directory.get_ref().inner().read_events() {
                Ok(events) => {
                    let is_it = |name: &Option<OsString>| name.as_ref() == Some(&self.name);
                    // Without a name: more happened than was remembered, so it may have.
                    let overflow = AddWatchFlags::IN_Q_OVERFLOW;
                    let mut events = events.iter();
                    if events.any(|event| is_it(&event.name) || event.mask.contains(overflow)) {
                        return;
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Longer than any machine takes, so that a failure ends.
    const WATCHDOG: Duration = Duration::from_secs(30);

    async fn appears(appearance: &Appearance) -> bool {
        let next = tokio::time::timeout(WATCHDOG, appearance.next());
        next.await.is_ok()
    }

    #[tokio::test]
    async fn a_name_that_is_made_or_moved_there_appears_and_others_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rt.sock");
        let appearance = Appearance::of(&path).unwrap();
        std::fs::write(directory.path().join("other"), "").unwrap();
        // What the other file rang is in the kernel already, so it would be seen in this while.
        let a_while = tokio::time::sleep(Duration::from_millis(50));
        let early = tokio::select! {
            () = appearance.next() => true,
            () = a_while => false,
        };
        assert!(!early, "another name");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(appears(&appearance).await);
        std::fs::rename(directory.path().join("other"), &path).unwrap();
        assert!(appears(&appearance).await);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/rt.sock");
        assert!(Appearance::of(&path).is_err());
    }
}
