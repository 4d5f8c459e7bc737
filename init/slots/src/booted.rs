//! What the boot script said about this boot, on the kernel command line.

use crate::area::{ATTEMPTS, Slot};
use crate::loader::Source;
use crate::record::SEQUENCE_MAX;

/// What the running system was started as. It does not change until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booted {
    /// The slot whose kernel runs: `kairo.slot=`.
    pub slot: Slot,
    /// The attempt that this boot used up, 0 if none: `kairo.attempt=`.
    pub attempt: u8,
    /// The number of the record that the script went by, 0 without one: `kairo.seq=`.
    pub sequence: u32,
    /// What it went by: `kairo.from=`.
    pub source: Source,
}

/// The command line does not say how the system was started, so nothing may be updated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootedError {
    /// A word is missing: started without the boot script.
    #[error("`{0}` is not on the kernel command line: the boot script did not start this system")]
    Missing(&'static str),
    /// A word is there twice, or says nothing that the script says.
    #[error("`{0}` on the kernel command line is not what the boot script writes")]
    Value(&'static str),
}

impl Booted {
    /// Reads the kernel command line.
    ///
    /// # Errors
    /// [`BootedError`] names the word.
    pub fn from_command_line(line: &str) -> Result<Self, BootedError> {
        let attempt = |text: &str| text.parse().ok().filter(|attempt| *attempt <= ATTEMPTS);
        let sequence = |text: &str| text.parse().ok().filter(|number| *number <= SEQUENCE_MAX);
        Ok(Self {
            slot: word(line, "kairo.slot=", Slot::from_letter)?,
            attempt: word(line, "kairo.attempt=", attempt)?,
            sequence: word(line, "kairo.seq=", sequence)?,
            source: word(line, "kairo.from=", Source::from_word)?,
        })
    }
}

fn word<T>(
    line: &str,
    name: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, BootedError> {
    let mut values = line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(name));
    let value = values.next().ok_or(BootedError::Missing(name))?;
    if values.next().is_some() {
        return Err(BootedError::Value(name));
    }
    read(value).ok_or(BootedError::Value(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_boot_script_are_read_and_others_refused() {
        let line = "ro quiet kairo.slot=b kairo.attempt=2 kairo.seq=7 kairo.from=record\n";
        let booted = Booted {
            slot: Slot::B,
            attempt: 2,
            sequence: 7,
            source: Source::Record,
        };
        assert_eq!(Booted::from_command_line(line), Ok(booted));
        let without = line.replace("kairo.seq=7", "");
        let error = Booted::from_command_line(&without).unwrap_err();
        assert_eq!(error, BootedError::Missing("kairo.seq="));
        for (from, to) in [
            ("=b", "=c"),
            ("=2", "=4"),
            ("=7", "=2147483648"),
            ("ro ", "kairo.slot=a "),
        ] {
            let wrong = line.replacen(from, to, 1);
            let error = Booted::from_command_line(&wrong).unwrap_err();
            assert!(matches!(error, BootedError::Value(_)), "{wrong}");
        }
    }
}
