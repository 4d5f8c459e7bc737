//! The floor: as many bytes there and back over a Unix socket, to a process that does nothing else.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::Result;

/// Bytes of a message: about what a small call weighs.
const BYTES: usize = 64;

/// The caller.
#[derive(Debug)]
pub struct Raw(UnixStream);

impl Raw {
    /// Connects.
    pub fn connect(path: &str) -> Result<Self> {
        Ok(Self(UnixStream::connect(path)?))
    }

    /// There and back.
    pub fn round_trip(&mut self) -> Result<()> {
        let mut message = [7; BYTES];
        self.0.write_all(&message)?;
        self.0.read_exact(&mut message)?;
        Ok(())
    }
}

/// Gives back what it is sent, until nobody sends any more.
pub fn serve(path: &str) -> Result<()> {
    let (mut stream, _) = UnixListener::bind(path)?.accept()?;
    let mut message = [0; BYTES];
    while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
    Ok(())
}
