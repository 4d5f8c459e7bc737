//! A serial port for one real-time thread: opened and configured on an ordinary thread, then read
//! and written with absolute deadlines.
//!
//! `serial2` configures the port (termios2, any baud rate); reading and writing are our own three
//! system calls, because they need deadlines on `CLOCK_MONOTONIC` and `Copy` errors. Pseudo-
//! terminals are accepted and ignore the baud rate.
//!
//! Guarantees: [`SerialBus::open`] is *setup-only*; the [`ByteLine`] methods are *rt-safe*. They
//! never wait longer than the deadline, apart from the kernel's own time in a non-blocking read or
//! write. A `SerialBus` can be moved to another thread; closing it (drop) may block in the driver
//! and belongs on an ordinary thread.
//!
//! What no configuration here can change: received bytes reach a tty through a kernel work queue of
//! ordinary priority, so a reader of any priority waits for that (`docs/reference/sts3215.md`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::line::{BusError, BusOp, ByteLine};
use crate::tty_ioctl;
use kairo_link::MonoNs;

/// Most reads in one [`ByteLine::discard_input`]; with [`DISCARD_CHUNK_BYTES`] each it empties the
/// 4 KiB of the tty layer twice over. A line that still has bytes then is babbling.
const DISCARD_READS_MAX: usize = 16;
const DISCARD_CHUNK_BYTES: usize = 512;

/// Why a port could not be opened. For ordinary threads.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The port could not be opened.
    #[error(
        "cannot open {}: {source}; is the cable plugged in (`ls /dev/ttyUSB* /dev/ttyACM*`), and \
         may this user open it (group dialout)?", path.display()
    )]
    Open {
        /// The port.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is there and is not a serial port.
    #[error("{} is not a serial port; give a tty such as /dev/ttyUSB0", path.display())]
    NotATty {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has the port.
    #[error("{0} is in use by another program; `fuser -v {0}` names it", path.display())]
    Busy {
        /// The port.
        path: PathBuf,
    },
    /// The port refused its settings.
    #[error("{} cannot be set to {baud} baud, 8N1, raw: {source}", path.display())]
    Configure {
        /// The port.
        path: PathBuf,
        /// The rate asked for.
        baud: u32,
        /// The system's reason.
        source: io::Error,
    },
}

/// How low the port's receive latency could be set. Both ways are tried; adapters differ in which
/// they know, and CDC-ACM adapters and pseudo-terminals know neither and need neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyGrant {
    /// `ASYNC_LOW_LATENCY` was set and read back.
    pub async_low_latency: bool,
    /// The adapter's latency timer after we asked for 1 ms (FTDI: 16 ms by default).
    pub latency_timer_ms: Option<u8>,
}

/// What a wait ended with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Usable,
    /// Hang-up, error or closed descriptor, with or without something left to read.
    HungUp,
}

/// An open serial port. See the module documentation.
#[derive(Debug)]
pub struct SerialBus {
    // Held for its lock; `serial2` opens without one.
    file: Flock<File>,
    path: PathBuf,
    latency: LatencyGrant,
}

impl SerialBus {
    /// Opens `path` exclusively, raw, 8N1 at `baud`, with the lowest latency it grants, and throws
    /// away what it had received. *setup-only*
    ///
    /// Exclusive means `TIOCEXCL`, which the kernel lets root pass, and an advisory `flock`, which
    /// holds among programs that ask for it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, baud: u32) -> Result<Self, OpenError> {
        let open_error = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOTTY) => OpenError::NotATty {
                path: path.to_owned(),
            },
            Some(libc::EBUSY | libc::EWOULDBLOCK) => OpenError::Busy {
                path: path.to_owned(),
            },
            _ => OpenError::Open {
                path: path.to_owned(),
                source,
            },
        };
        let metadata = std::fs::metadata(path).map_err(open_error)?;
        if !metadata.file_type().is_char_device() {
            return Err(OpenError::NotATty {
                path: path.to_owned(),
            });
        }
        let port = serial2::SerialPort::open(path, serial2::KeepSettings).map_err(open_error)?;
        let file = Flock::lock(
            File::from(OwnedFd::from(port)),
            FlockArg::LockExclusiveNonblock,
        )
        .map_err(|(_, errno)| open_error(errno.into()))?;
        // A pseudo-terminal would stay exclusive after us for as long as its far end is open, and
        // refuse the next kairo-rt; the lock above guards it.
        if !is_pseudo_terminal(&metadata) {
            tty_ioctl::set_exclusive(file.as_fd()).map_err(|errno| open_error(errno.into()))?;
        }
        configure(&file, baud).map_err(|source| OpenError::Configure {
            path: path.to_owned(),
            baud,
            source,
        })?;
        let latency = LatencyGrant {
            async_low_latency: tty_ioctl::set_async_low_latency(file.as_fd()).is_ok(),
            latency_timer_ms: set_latency_timer(path),
        };
        let mut bus = Self {
            file,
            path: path.to_owned(),
            latency,
        };
        // A port that hangs up at once is reported by the first transaction.
        let _ = bus.discard_input();
        Ok(bus)
    }

    /// Where the port was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the port granted.
    #[must_use]
    pub const fn latency(&self) -> LatencyGrant {
        self.latency
    }

    /// Waits for `wanted` until `deadline`.
    fn wait(&self, wanted: PollFlags, op: BusOp, deadline: MonoNs) -> Result<Ready, BusError> {
        loop {
            let left = time_left(deadline);
            let mut fds = [PollFd::new(self.file.as_fd(), wanted)];
            match ppoll(&mut fds, Some(left), None) {
                Ok(0) => return Err(BusError::Timeout),
                Ok(_) => {
                    let got = fds[0].revents().unwrap_or(PollFlags::POLLERR);
                    return Ok(if got == wanted {
                        Ready::Usable
                    } else {
                        Ready::HungUp
                    });
                }
                // A signal: the time left is computed again, so this ends at the deadline.
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failure(op, errno)),
            }
        }
    }

    /// One read; 0 when nothing is there.
    fn read_now(&self, buffer: &mut [u8], op: BusOp) -> Result<usize, BusError> {
        match nix::unistd::read(self.file.as_fd(), buffer) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(errno) => Err(failure(op, errno)),
        }
    }
}

impl ByteLine for SerialBus {
    fn write_all(&mut self, bytes: &[u8], deadline: MonoNs) -> Result<(), BusError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match nix::unistd::write(self.file.as_fd(), rest) {
                Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => {
                    let ready = self.wait(PollFlags::POLLOUT, BusOp::Write, deadline)?;
                    if ready == Ready::HungUp {
                        return Err(BusError::Disconnected { errno: 0 });
                    }
                    if MonoNs::now() >= deadline {
                        return Err(BusError::Timeout);
                    }
                }
                Ok(count) => rest = &rest[count.min(rest.len())..],
                Err(errno) => return Err(failure(BusOp::Write, errno)),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], deadline: MonoNs) -> Result<usize, BusError> {
        loop {
            let count = self.read_now(buffer, BusOp::Read)?;
            if count > 0 {
                return Ok(count);
            }
            let ready = self.wait(PollFlags::POLLIN, BusOp::Read, deadline)?;
            // A hung-up line polls as readable for ever and reads as empty; bytes that came before
            // the hang-up are still worth having. Past the deadline this was the last look.
            let is_last_look = ready == Ready::HungUp || MonoNs::now() >= deadline;
            if is_last_look {
                return match self.read_now(buffer, BusOp::Read)? {
                    0 if ready == Ready::HungUp => Err(BusError::Disconnected { errno: 0 }),
                    0 => Err(BusError::Timeout),
                    count => Ok(count),
                };
            }
        }
    }

    fn discard_input(&mut self) -> Result<usize, BusError> {
        let mut discarded = 0;
        let mut chunk = [0; DISCARD_CHUNK_BYTES];
        for _ in 0..DISCARD_READS_MAX {
            match self.read_now(&mut chunk, BusOp::Discard)? {
                0 => break,
                count => discarded += count,
            }
        }
        Ok(discarded)
    }
}

fn failure(op: BusOp, errno: Errno) -> BusError {
    match errno {
        Errno::EIO | Errno::ENXIO | Errno::ENODEV | Errno::EPIPE | Errno::ECONNRESET => {
            BusError::Disconnected {
                errno: errno as i32,
            }
        }
        _ => BusError::Io {
            op,
            errno: errno as i32,
        },
    }
}

/// The time left until `deadline` as `ppoll` wants it; zero when it has passed.
fn time_left(deadline: MonoNs) -> TimeSpec {
    let left_ns = deadline.since_ns(MonoNs::now());
    // A deadline centuries away must not overflow the signed kernel type.
    let seconds = i64::try_from(left_ns / 1_000_000_000).unwrap_or(i64::MAX / 2);
    let nanoseconds = i64::try_from(left_ns % 1_000_000_000).unwrap_or(0);
    TimeSpec::new(seconds, nanoseconds)
}

/// Whether this is the near end of a Unix 98 pseudo-terminal (Documentation/admin-guide/devices.txt
/// of the kernel: character majors 136 to 143).
fn is_pseudo_terminal(metadata: &std::fs::Metadata) -> bool {
    (136..=143).contains(&nix::sys::stat::major(metadata.rdev()))
}

fn configure(file: &File, baud: u32) -> io::Result<()> {
    let mut port = serial2::SerialPort::from(OwnedFd::from(file.try_clone()?));
    let mut settings = port.get_configuration()?;
    settings.set_raw();
    settings.set_baud_rate(baud)?;
    settings.set_char_size(serial2::CharSize::Bits8);
    settings.set_parity(serial2::Parity::None);
    settings.set_stop_bits(serial2::StopBits::One);
    settings.set_flow_control(serial2::FlowControl::None);
    port.set_configuration(&settings)
}

/// Asks an FTDI-like adapter for its shortest latency timer and returns what it has then.
fn set_latency_timer(path: &Path) -> Option<u8> {
    let real = std::fs::canonicalize(path).ok()?;
    let name = real.file_name()?.to_str()?;
    let timer = Path::new("/sys/bus/usb-serial/devices")
        .join(name)
        .join("latency_timer");
    if let Ok(mut file) = OpenOptions::new().write(true).open(&timer) {
        // Refusal shows in the value read back.
        let _ = io::Write::write_all(&mut file, b"1");
    }
    std::fs::read_to_string(timer).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{OpenError, SerialBus};
    use crate::line::{BusError, ByteLine};
    use kairo_link::MonoNs;
    use std::io::{Read, Write};
    use std::path::PathBuf;

    /// A pseudo-terminal: its near end as a file, and the path of the end to open.
    fn pseudo_terminal() -> (std::fs::File, PathBuf) {
        let pty = nix::pty::openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&pty.slave).unwrap();
        (pty.master.into(), path)
    }

    fn soon() -> MonoNs {
        MonoNs::now().plus_ns(2_000_000_000)
    }

    #[test]
    fn carries_every_byte_value_both_ways() {
        let (mut near, path) = pseudo_terminal();
        let mut bus = SerialBus::open(&path, 1_000_000).unwrap();
        let all: Vec<u8> = (0..=255).collect();
        bus.write_all(&all, soon()).unwrap();
        let mut seen = vec![0; all.len()];
        near.read_exact(&mut seen).unwrap();
        assert_eq!(seen, all);

        near.write_all(&all).unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 100];
        while received.len() < all.len() {
            let count = bus.read(&mut buffer, soon()).unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(received, all);
    }

    #[test]
    fn a_silent_line_times_out() {
        let (_near, path) = pseudo_terminal();
        let mut bus = SerialBus::open(&path, 1_000_000).unwrap();
        let deadline = MonoNs::now().plus_ns(2_000_000);
        assert_eq!(bus.read(&mut [0; 8], deadline), Err(BusError::Timeout));
        assert!(MonoNs::now() >= deadline);
    }

    #[test]
    fn a_full_line_times_out_instead_of_blocking() {
        let (_near, path) = pseudo_terminal();
        let mut bus = SerialBus::open(&path, 1_000_000).unwrap();
        let much = vec![0; 1 << 20];
        let deadline = MonoNs::now().plus_ns(5_000_000);
        assert_eq!(bus.write_all(&much, deadline), Err(BusError::Timeout));
    }

    #[test]
    fn a_pulled_cable_is_a_disconnection() {
        let (near, path) = pseudo_terminal();
        let mut bus = SerialBus::open(&path, 1_000_000).unwrap();
        drop(near);
        let read = bus.read(&mut [0; 8], soon());
        assert!(
            matches!(read, Err(BusError::Disconnected { .. })),
            "{read:?}"
        );
        let write = bus.write_all(b"x", soon());
        assert!(
            matches!(write, Err(BusError::Disconnected { .. })),
            "{write:?}"
        );
    }

    #[test]
    fn discards_what_was_received() {
        let (mut near, path) = pseudo_terminal();
        let mut bus = SerialBus::open(&path, 1_000_000).unwrap();
        near.write_all(&[1; 1000]).unwrap();
        let mut first = [0; 1];
        bus.read(&mut first, soon()).unwrap();
        assert_eq!(bus.discard_input(), Ok(999));
        assert_eq!(bus.discard_input(), Ok(0));
    }

    #[test]
    fn refuses_a_second_owner_and_what_is_no_port() {
        let (_near, path) = pseudo_terminal();
        let _first = SerialBus::open(&path, 1_000_000).unwrap();
        assert!(matches!(
            SerialBus::open(&path, 1_000_000),
            Err(OpenError::Busy { .. })
        ));
        let missing = SerialBus::open("/nonexistent/tty".as_ref(), 1_000_000);
        assert!(matches!(missing, Err(OpenError::Open { .. })));
        let no_tty = SerialBus::open("/dev/null".as_ref(), 1_000_000);
        assert!(
            matches!(no_tty, Err(OpenError::NotATty { .. })),
            "{no_tty:?}"
        );
        let file = SerialBus::open("Cargo.toml".as_ref(), 1_000_000);
        assert!(matches!(file, Err(OpenError::NotATty { .. })));
    }

    #[test]
    fn moves_to_another_thread() {
        fn assert_send<T: Send + 'static>() {}
        assert_send::<SerialBus>();
    }
}
