//! The byte line: what a serial protocol needs from whatever carries its bytes.
//!
//! A protocol layer is generic over [`ByteLine`], so that the same code runs over a tty, over a
//! pseudo-terminal and over a line simulated in virtual time. The clock is part of the trait for
//! the last of these: deadlines are always compared with the line's own time.
//!
//! Non-goals: framing, baud rates, and recovery. A line that answers [`BusError::Disconnected`] is
//! finished; whoever owns it opens a new one on an ordinary thread.

use kairo_link::MonoNs;

/// What was being done to a line when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusOp {
    /// Reading received bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Throwing received bytes away.
    Discard,
}

/// Why a line operation failed. `Copy`, so that the real-time plane can store and send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The deadline passed first. The line itself is fine.
    #[error("the line did not become ready before the deadline; is the device powered?")]
    Timeout,
    /// The far side is gone: hang-up, or the device was unplugged. Final for this line.
    #[error("the serial device is gone (errno {errno}); replug it and open the port again")]
    Disconnected {
        /// The errno that said so; 0 for an end of file or a bare hang-up.
        errno: i32,
    },
    /// Any other failure of the operating system.
    #[error("serial {op:?} failed with errno {errno}")]
    Io {
        /// The operation that failed.
        op: BusOp,
        /// The errno it failed with.
        errno: i32,
    },
}

/// A half- or full-duplex line of bytes with absolute deadlines.
///
/// Every method is *rt-safe* for every implementation used in the real-time plane.
pub trait ByteLine {
    /// Writes all of `bytes`, or fails. A failed write may have sent a part of them.
    ///
    /// # Errors
    /// [`BusError::Timeout`] when the deadline passes before the last byte was accepted.
    fn write_all(&mut self, bytes: &[u8], deadline: MonoNs) -> Result<(), BusError>;

    /// Reads at least one byte into `buffer` and returns how many came.
    ///
    /// Bytes that are already there are returned even when the deadline has passed.
    ///
    /// # Errors
    /// [`BusError::Timeout`] when nothing came before the deadline.
    fn read(&mut self, buffer: &mut [u8], deadline: MonoNs) -> Result<usize, BusError>;

    /// Throws away what was received and not yet read; returns how many bytes that were.
    ///
    /// Bounded: it gives up (without an error) on a line that sends faster than it can discard.
    ///
    /// # Errors
    /// Those of reading, except [`BusError::Timeout`].
    fn discard_input(&mut self) -> Result<usize, BusError>;

    /// The present instant of the clock that this line's deadlines are compared with.
    fn now(&self) -> MonoNs {
        MonoNs::now()
    }
}

impl<L: ByteLine + ?Sized> ByteLine for &mut L {
    fn write_all(&mut self, bytes: &[u8], deadline: MonoNs) -> Result<(), BusError> {
        (**self).write_all(bytes, deadline)
    }

    fn read(&mut self, buffer: &mut [u8], deadline: MonoNs) -> Result<usize, BusError> {
        (**self).read(buffer, deadline)
    }

    fn discard_input(&mut self) -> Result<usize, BusError> {
        (**self).discard_input()
    }

    fn now(&self) -> MonoNs {
        (**self).now()
    }
}
