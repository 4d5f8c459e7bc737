//! The tty requests that no crate offers: exclusive use and low latency.
//!
//! Everything here is *setup-only*. The unsafe code of the serial port is in this file alone.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `ASYNC_LOW_LATENCY` of `linux/tty_flags.h`.
const ASYNC_LOW_LATENCY: libc::c_int = 1 << 13;

/// The kernel's `struct serial_struct` (`linux/serial.h`), which libc does not define.
#[repr(C)]
#[derive(Clone, Copy)]
struct SerialStruct {
    kind: libc::c_int,
    line: libc::c_int,
    port: libc::c_uint,
    irq: libc::c_int,
    flags: libc::c_int,
    xmit_fifo_size: libc::c_int,
    custom_divisor: libc::c_int,
    baud_base: libc::c_int,
    close_delay: libc::c_ushort,
    io_type: libc::c_char,
    reserved_char: [libc::c_char; 1],
    hub6: libc::c_int,
    closing_wait: libc::c_ushort,
    closing_wait2: libc::c_ushort,
    iomem_base: *mut libc::c_uchar,
    iomem_reg_shift: libc::c_ushort,
    port_high: libc::c_uint,
    iomap_base: libc::c_ulong,
}

mod request {
    //! The raw requests; nix makes them public, this module keeps them in.
    use super::SerialStruct;

    nix::ioctl_none_bad!(tiocexcl, libc::TIOCEXCL);
    nix::ioctl_read_bad!(tiocgserial, libc::TIOCGSERIAL, SerialStruct);
    nix::ioctl_write_ptr_bad!(tiocsserial, libc::TIOCSSERIAL, SerialStruct);
}

/// Makes further opens of the tty fail (except for root). *setup-only*
pub(crate) fn set_exclusive(fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and TIOCEXCL takes no argument.
    unsafe { request::tiocexcl(fd.as_raw_fd()) }.map(drop)
}

/// Sets `ASYNC_LOW_LATENCY` and reads it back. *setup-only*
pub(crate) fn set_async_low_latency(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let mut serial = std::mem::MaybeUninit::<SerialStruct>::zeroed();
    // SAFETY: the descriptor is open, and the kernel fills the structure of exactly this layout.
    unsafe { request::tiocgserial(fd.as_raw_fd(), serial.as_mut_ptr()) }?;
    // SAFETY: zeroed memory is a valid value of this plain structure, and the call filled it.
    let mut serial = unsafe { serial.assume_init() };
    serial.flags |= ASYNC_LOW_LATENCY;
    // SAFETY: the descriptor is open, and the structure is one the kernel itself filled.
    unsafe { request::tiocsserial(fd.as_raw_fd(), &raw const serial) }?;
    let mut readback = serial;
    // SAFETY: as for the first call.
    unsafe { request::tiocgserial(fd.as_raw_fd(), &raw mut readback) }?;
    if readback.flags & ASYNC_LOW_LATENCY == 0 {
        return Err(Errno::ENOTSUP);
    }
    Ok(())
}
