//! Children that end with the test that started them, even when it is killed: an orphan that runs
//! control loops would keep a core busy until somebody finds it.
//!
//! Linux ends a child when the *thread* that started it ends. Whoever starts one here keeps it on
//! that thread, and ends it there. Does nothing for the children of the child.

use std::io::Error;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Makes what `command` starts end with this thread, as kill -9 ends it.
pub fn ends_with_its_parent(command: &mut Command) {
    let parent = Pid::this();
    let follow = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // A parent that was gone before is not noticed by the kernel any more.
        if getppid() == parent {
            Ok(())
        } else {
            Err(Error::from(nix::errno::Errno::ESRCH))
        }
    };
    // SAFETY: runs between fork and exec; makes two system calls, allocates and locks nothing.
    unsafe { command.pre_exec(follow) };
}
