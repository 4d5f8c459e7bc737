//! What remembers an e-stop when kairo-rt is killed: a file beside its sockets, there while any
//! device's e-stop is latched.
//!
//! Ordinary threads only; never a control loop. A press that is asked for is in the file before it
//! is acknowledged, and a clear that counts takes it away. Whatever is found under its name at a
//! start, or cannot be looked at, latches, also on a robot that starts unlatched. The run directory
//! is memory of the machine: a reboot begins as robot.toml says. What is written does not matter,
//! only that it is there, so no crash leaves it half written.
//!
//! Others may make files in that directory, and the owner of a file may delete it; so it counts as
//! kept only while it is ours.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::estop::Estop;
use crate::journal::note;

/// Its name in the run directory.
const FILE_NAME: &str = "estop-latched";
/// How often it is made anew when somebody else's is in the way.
const TRIES: usize = 8;

/// See the module documentation.
#[derive(Debug)]
pub struct EstopMemory {
    path: PathBuf,
    /// Held from a press to the file and from a look to its end, so that no look takes a file away
    /// that a press has just made. True while the newest try to keep it failed.
    failing: Mutex<bool>,
}

impl EstopMemory {
    /// The memory in `run_dir`. setup-only.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE_NAME),
            failing: Mutex::new(false),
        }
    }

    /// Whether an earlier kairo-rt ended with its e-stop latched, as far as anybody knows.
    /// setup-only.
    pub fn is_set(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }

    /// Stops the robot, and then sees to it that a restart does not forget it.
    ///
    /// # Errors
    /// When it would: the stop is asked for all the same.
    pub fn press(&self, words: &Estop) -> io::Result<()> {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        words.stop();
        let kept = self.keep();
        self.tell(&mut failing, &kept);
        kept
    }

    /// Brings the file to what the `loops` loops have decided for `devices` devices. Called when
    /// a clear counts, and all the time for those that come by lines.
    pub fn look(&self, words: &Estop, loops: usize, devices: usize) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        // In this order: what was decided about a stop that is taken in is visible.
        let settled = words.stops_are_taken_in(loops);
        if words.is_latched(devices) {
            let kept = self.keep();
            self.tell(&mut failing, &kept);
        } else if settled && self.is_set() {
            let gone = fs::remove_file(&self.path);
            self.tell(&mut failing, &gone);
        }
    }

    /// Makes the file, unless ours is there.
    fn keep(&self) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..TRIES {
            if self.is_ours() {
                return Ok(());
            }
            // Somebody else's, or nothing.
            let _ = fs::remove_file(&self.path);
            result = self.make();
        }
        match self.is_ours() {
            true => Ok(()),
            false => result.and(Err(ErrorKind::AlreadyExists.into())),
        }
    }

    fn is_ours(&self) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.is_file() && meta.uid() == own)
    }

    fn make(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        // For people who find it; without it the file counts as well.
        let _ = file.write_all(b"kairo-rt: the e-stop is latched; a clear removes this file\n");
        Ok(())
    }

    /// Once, not every look.
    fn tell(&self, failing: &mut bool, result: &io::Result<()>) {
        let failed = std::mem::replace(failing, result.is_err());
        if let (false, Err(error)) = (failed, result) {
            note(format_args!(
                "kairo-rt: {}: {error}: what a restart of kairo-rt will know of the e-stop is not \
                 what it is; is the run directory full or read-only?",
                self.path.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EstopConfig;
    use crate::estop::{Reader, Standing};
    use kairo_failsafe::{Action, Cause, CauseSet};
    use kairo_link::MonoNs;

    /// The words of a robot of one loop and one device that starts unlatched.
    fn words() -> Estop {
        Estop::new(&EstopConfig {
            latched_at_start: false,
            ..EstopConfig::default()
        })
    }

    /// The loop takes in what was asked for, and decides.
    fn decide(words: &Estop, reader: &mut Reader, latched: bool) {
        reader.read(MonoNs(1), words);
        let live = CauseSet::EMPTY.with(Cause::Estop, latched);
        let action = Action::SafeAction;
        words.publish(
            0,
            Standing {
                live,
                action,
                cause: None,
            },
        );
        reader.answer(words, 0);
    }

    #[test]
    fn a_press_is_kept_until_a_clear_counts_and_no_look_before_forgets_it() {
        let directory = tempfile::tempdir().unwrap();
        let memory = EstopMemory::new(directory.path());
        let (words, mut reader) = (words(), Reader::default());
        memory.look(&words, 1, 1);
        assert!(!memory.is_set());
        memory.press(&words).unwrap();
        assert!(memory.is_set());
        // The loop has not seen it yet: its newest word is that nothing is latched.
        memory.look(&words, 1, 1);
        assert!(memory.is_set(), "forgotten before the loop knew of it");
        decide(&words, &mut reader, true);
        memory.look(&words, 1, 1);
        assert!(memory.is_set());
        decide(&words, &mut reader, false);
        memory.look(&words, 1, 1);
        assert!(!memory.is_set(), "a clear counts");
    }

    #[test]
    fn a_latch_that_nobody_asked_for_is_kept_too() {
        let directory = tempfile::tempdir().unwrap();
        let memory = EstopMemory::new(directory.path());
        let (words, mut reader) = (words(), Reader::default());
        decide(&words, &mut reader, true);
        memory.look(&words, 1, 1);
        assert!(memory.is_set());
    }

    #[test]
    fn whatever_stands_under_its_name_latches_and_only_our_own_file_counts_as_kept() {
        let directory = tempfile::tempdir().unwrap();
        let memory = EstopMemory::new(directory.path());
        assert!(!memory.is_set());
        let nowhere = directory.path().join("nowhere");
        std::os::unix::fs::symlink(nowhere, &memory.path).unwrap();
        assert!(memory.is_set(), "a link to nowhere");
        memory.press(&words()).unwrap();
        assert!(memory.is_ours(), "replaced by our own");
        fs::remove_file(&memory.path).unwrap();
        fs::create_dir(&memory.path).unwrap();
        assert!(memory.is_set(), "a directory");
        assert!(memory.press(&words()).is_err(), "it cannot be kept there");
        // What cannot be looked at.
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(EstopMemory::new(&file).is_set());
    }
}
