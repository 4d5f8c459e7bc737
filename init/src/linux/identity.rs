//! Small system calls of the boot that std and nix do not offer: the loopback interface and the
//! kernel's random pool. None of them can block.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;

/// Brings `lo` up; the kernel gives it 127.0.0.1 by itself.
pub(super) fn loopback_up() -> Result<(), Errno> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is a C struct of integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    let descriptor = socket.as_raw_fd();
    // SAFETY: SIOCGIFFLAGS reads and writes the ifreq, which outlives the call.
    Errno::result(unsafe { libc::ioctl(descriptor, libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the call above filled in the flags member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads the ifreq, which outlives the call.
    Errno::result(unsafe { libc::ioctl(descriptor, libc::SIOCSIFFLAGS as _, &raw const request) })?;
    Ok(())
}

/// Credits a seed of at most 64 bytes to the pool.
pub(super) fn add_entropy(bytes: &[u8]) -> Result<(), Errno> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        size_bytes: libc::c_int,
        bytes: [u8; 64],
    }
    let mut info = PoolInfo {
        entropy_bits: bytes.len() as libc::c_int * 8,
        size_bytes: bytes.len() as libc::c_int,
        bytes: [0; 64],
    };
    info.bytes
        .get_mut(..bytes.len())
        .ok_or(Errno::EINVAL)?
        .copy_from_slice(bytes);
    let device = OpenOptions::new().write(true).open("/dev/urandom");
    let device =
        device.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: the struct has the layout of rand_pool_info and outlives the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    Ok(())
}
