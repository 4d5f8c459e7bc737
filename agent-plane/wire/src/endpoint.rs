//! Where the kernel's socket is: from the environment, or given.
//!
//! In this order: `KAIRO_IPC_FD` (a connected descriptor that the parent left for us),
//! `KAIRO_IPC_SOCKET` (a path, or `tcp:127.0.0.1:PORT`), `KAIRO_RUN_DIR/kernel.sock`,
//! `/run/kairo/kernel.sock`. TCP exists for the port that QEMU forwards into a guest under
//! development, so only loopback addresses are accepted: the protocol has no encryption, and
//! behind a forwarder the kernel sees the forwarder's identity.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "kernel.sock";
/// The run directory of the image.
pub const RUN_DIR: &str = "/run/kairo";

/// A way to reach the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A connected descriptor, inherited.
    Descriptor(i32),
    /// A socket in the file system.
    Path(PathBuf),
    /// A loopback TCP port with a forwarder behind it.
    Tcp(SocketAddr),
}

/// Why the environment names no usable endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a descriptor number.
    #[error("KAIRO_IPC_FD is {value:?}, expected the number of an inherited descriptor above 2")]
    Descriptor {
        /// What it is.
        value: String,
    },
    /// Not a loopback address and port.
    #[error("{value:?} is not a loopback address: expected tcp:127.0.0.1:PORT")]
    Address {
        /// What it is.
        value: String,
    },
}

impl Endpoint {
    /// The endpoint that this process's environment names.
    ///
    /// # Errors
    /// When a variable is set and cannot be used.
    pub fn from_environment() -> Result<Self, EndpointError> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The same over any set of variables.
    ///
    /// # Errors
    /// When a variable is set and cannot be used.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, EndpointError> {
        if let Some(value) = variable("KAIRO_IPC_FD") {
            return match value.parse() {
                Ok(number) if number > 2 => Ok(Self::Descriptor(number)),
                _ => Err(EndpointError::Descriptor { value }),
            };
        }
        if let Some(value) = variable("KAIRO_IPC_SOCKET") {
            return Self::parse(&value);
        }
        let directory = variable("KAIRO_RUN_DIR").unwrap_or_else(|| RUN_DIR.into());
        Ok(Self::Path(PathBuf::from(directory).join(SOCKET_NAME)))
    }

    /// A path, or `tcp:` with a loopback address and port.
    ///
    /// # Errors
    /// When a TCP address is none, or not loopback.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let Some(address) = text.strip_prefix("tcp:") else {
            return Ok(Self::Path(text.into()));
        };
        match address.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Tcp(address)),
            _ => Err(EndpointError::Address { value: text.into() }),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Descriptor(number) => write!(formatter, "inherited descriptor {number}"),
            Self::Path(path) => write!(formatter, "{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Endpoint, EndpointError> {
        Endpoint::from_variables(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_string())
        })
    }

    #[test]
    fn the_nearest_variable_wins() {
        let default = Endpoint::Path("/run/kairo/kernel.sock".into());
        assert_eq!(from(&[]), Ok(default));
        let directory = ("KAIRO_RUN_DIR", "/tmp/x");
        assert_eq!(
            from(&[directory]),
            Ok(Endpoint::Path("/tmp/x/kernel.sock".into()))
        );
        let socket = ("KAIRO_IPC_SOCKET", "/tmp/s");
        assert_eq!(
            from(&[directory, socket]),
            Ok(Endpoint::Path("/tmp/s".into()))
        );
        let descriptor = ("KAIRO_IPC_FD", "7");
        assert_eq!(from(&[descriptor, socket]), Ok(Endpoint::Descriptor(7)));
    }

    #[test]
    fn standard_streams_and_foreign_addresses_are_refused() {
        assert!(from(&[("KAIRO_IPC_FD", "0")]).is_err());
        assert!(Endpoint::parse("tcp:192.0.2.1:80").is_err());
        let loopback = Endpoint::parse("tcp:127.0.0.1:7000").unwrap();
        assert_eq!(loopback.to_string(), "tcp:127.0.0.1:7000");
    }
}
