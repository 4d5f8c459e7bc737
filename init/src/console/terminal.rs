//! The terminal: opened raw, so that bytes arrive as they were sent and none is lost to a line
//! buffer of the kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::termios::{SetArg, SpecialCharacterIndices, cfmakeraw, tcgetattr, tcsetattr};

/// Opens a terminal for reading and writing and makes it raw: no echo, no editing, no signals, no
/// translation. Its speed stays as the kernel set it.
///
/// # Errors
/// It does not exist, or is no terminal.
pub fn open_raw(path: &str) -> io::Result<File> {
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        // A console must not become the controlling terminal: its hang-up would end us.
        .custom_flags(libc::O_NOCTTY)
        .open(path)?;
    let mut settings = tcgetattr(terminal.as_fd())?;
    cfmakeraw(&mut settings);
    settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    tcsetattr(terminal.as_fd(), SetArg::TCSANOW, &settings)?;
    Ok(terminal)
}
