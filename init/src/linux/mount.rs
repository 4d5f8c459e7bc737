//! Attaching and detaching file systems through the fsopen family of system calls.
//!
//! Not mount(2): there, reading the disk and attaching the result are one call, so that a mount
//! abandoned at its deadline can still appear later, on top of the fallback. Here a child that was
//! killed while the disk hung never reaches the last step, which is the one that attaches.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::sys::Mount;

const FSCONFIG_SET_FLAG: libc::c_int = 0;
const FSCONFIG_SET_STRING: libc::c_int = 1;
const FSCONFIG_CMD_CREATE: libc::c_int = 6;
const CLOSE_ON_EXEC: libc::c_int = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_int = 4;

fn c_string(text: &str) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// Makes the file system and attaches it. May block on the disk.
pub(super) fn attach(mount: &Mount) -> Result<(), Errno> {
    let fstype = c_string(mount.fstype)?;
    // SAFETY: fsopen(2) reads the NUL-terminated string and returns a new descriptor.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), CLOSE_ON_EXEC) };
    let context = owned(context)?;
    configure(&context, "source", Some(&mount.source))?;
    let mut attributes: libc::c_int = 0;
    for flag in mount.flags {
        attributes |= match *flag {
            "ro" => {
                configure(&context, "ro", None)?;
                1
            }
            "nosuid" => 2,
            "nodev" => 4,
            "noexec" => 8,
            _ => return Err(Errno::EINVAL),
        };
    }
    for option in &mount.options {
        match option.split_once('=') {
            Some((key, value)) => configure(&context, key, Some(value))?,
            None => configure(&context, option, None)?,
        }
    }
    command(context.as_raw_fd(), FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: fsmount(2) takes descriptors and integers and returns a new descriptor.
    let tree = unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            CLOSE_ON_EXEC,
            attributes,
        )
    };
    let tree = owned(tree)?;
    let target = c_string(&mount.target)?;
    // SAFETY: both paths are NUL-terminated and live across the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(moved).map(drop)
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let descriptor = Errno::result(result)? as RawFd;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn configure(context: &OwnedFd, key: &str, value: Option<&str>) -> Result<(), Errno> {
    let kind = match value {
        Some(_) => FSCONFIG_SET_STRING,
        None => FSCONFIG_SET_FLAG,
    };
    command(context.as_raw_fd(), kind, Some(key), value)
}

fn command(
    context: RawFd,
    kind: libc::c_int,
    key: Option<&str>,
    value: Option<&str>,
) -> Result<(), Errno> {
    let key = key.map(c_string).transpose()?;
    let value = value.map(c_string).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: each pointer is null or a NUL-terminated string that lives across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context,
            kind,
            pointer(&key),
            pointer(&value),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Detaches what is mounted there. Tried for a second while it is busy, because the processes
/// that were just killed close their files a moment later.
pub(super) fn detach(target: &str) -> Result<(), Errno> {
    let target = c_string(target)?;
    for _ in 0..10 {
        // SAFETY: the path is NUL-terminated and lives across the call.
        match Errno::result(unsafe { libc::umount2(target.as_ptr(), libc::UMOUNT_NOFOLLOW) }) {
            Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(100)),
            other => return other.map(drop),
        }
    }
    Err(Errno::EBUSY)
}
