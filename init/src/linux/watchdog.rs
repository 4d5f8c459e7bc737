//! The hardware watchdog's character device. Opening it starts it; the descriptor is closed only
//! to be reopened, and never with the magic close that would stop the dog.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::refused;
use crate::sys::SysError;

const WDIOC_GETBOOTSTATUS: libc::Ioctl = 0x8004_5702_u32 as libc::Ioctl;
const WDIOC_SETTIMEOUT: libc::Ioctl = 0xc004_5706_u32 as libc::Ioctl;
const WDIOC_GETTIMEOUT: libc::Ioctl = 0x8004_5707_u32 as libc::Ioctl;
const WDIOF_CARDRESET: libc::c_int = 0x20;

#[derive(Debug)]
pub(super) struct Watchdog(File);

impl Watchdog {
    pub(super) fn open(path: &str) -> Result<Self, SysError> {
        let device = OpenOptions::new().write(true).open(path);
        device.map(Self).map_err(refused(format!("open {path}")))
    }

    pub(super) fn set_timeout(&self, timeout_s: u32) -> Result<u32, SysError> {
        let what = format!("set the watchdog to {timeout_s} s");
        self.exchange(WDIOC_SETTIMEOUT, timeout_s as libc::c_int, &what)
    }

    pub(super) fn timeout(&self) -> Result<u32, SysError> {
        self.exchange(WDIOC_GETTIMEOUT, 0, "read the watchdog's timeout")
    }

    pub(super) fn caused_reset(&self) -> bool {
        let status = self.exchange(WDIOC_GETBOOTSTATUS, 0, "read the boot status");
        status.is_ok_and(|flags| flags as libc::c_int & WDIOF_CARDRESET != 0)
    }

    pub(super) fn feed(&mut self) -> Result<(), SysError> {
        self.0
            .write_all(b"\0")
            .map_err(refused("feed the watchdog"))
    }

    fn exchange(&self, request: libc::Ioctl, value: i32, what: &str) -> Result<u32, SysError> {
        let mut value: libc::c_int = value;
        // SAFETY: all three requests read or write one int at the pointer, which outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut value) };
        match Errno::result(result) {
            Ok(_) => Ok(u32::try_from(value).unwrap_or(0)),
            Err(errno) => Err(SysError::refused(what, errno)),
        }
    }
}
