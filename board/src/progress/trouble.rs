//! The two troubles of a machine that every tool reports in words of its own: a full disk and a
//! lack of network.
//!
//! Judges the last lines of a program that has failed, and those alone: a tool may try again
//! after a warning and succeed.

use std::io;

/// What to do about a full disk, to be put behind what ran into it.
pub const FULL_DISK_HINT: &str = ": free some, or set KAIRO_CACHE to a directory on a larger \
                                  disk, then run the same command again";

/// What tools say when a disk is full.
const DISK_SIGNS: [&str; 3] = [
    "No space left on device",
    "Disk quota exceeded",
    "don't have enough free space",
];
/// What apt-get, cargo and git say without a network.
const NETWORK_SIGNS: [&str; 7] = [
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Could not resolve",
    "Couldn't resolve host",
    "Could not connect",
    "Network is unreachable",
    "Unable to connect",
];

/// Why a program failed, where that is not the program's own matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A file system has no room.
    DiskFull,
    /// No server was reached.
    NoNetwork,
}

impl Trouble {
    /// The trouble that the last words of a failed program tell of.
    pub fn in_output(text: &str) -> Option<Self> {
        let says = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
        if says(&DISK_SIGNS) {
            return Some(Self::DiskFull);
        }
        says(&NETWORK_SIGNS).then_some(Self::NoNetwork)
    }
}

/// [`FULL_DISK_HINT`] for the error of a full disk, nothing for every other.
pub fn full_disk_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL_DISK_HINT,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_known_by_the_tools_own_words() {
        let of = Trouble::in_output;
        let apt = "E: You don't have enough free space in /var/cache/apt/archives/.";
        assert_eq!(of(apt), Some(Trouble::DiskFull));
        let cargo = "  [6] Could not resolve hostname (Could not resolve host: registry)";
        assert_eq!(of(cargo), Some(Trouble::NoNetwork));
        assert_eq!(of("error[E0425]: cannot find value `a`"), None);
    }

    #[test]
    fn only_a_full_disk_gets_the_hint() {
        let of = |errno: nix::Error| full_disk_hint(&errno.into());
        assert!(of(nix::Error::ENOSPC).contains("KAIRO_CACHE"));
        assert_eq!(of(nix::Error::EACCES), "");
    }
}
