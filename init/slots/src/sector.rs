//! One sector in U-Boot's environment format, as `env import -c` reads and `env export -c` writes.
//!
//! A little-endian CRC-32 over the 508 bytes behind it, then `name=value` strings, each ended by a
//! zero byte, an empty string, and zeros. One sector of 512 bytes is what storage writes whole, so
//! a torn write is a wrong checksum and never half of one record and half of another.
//!
//! Reading takes hostile bytes: it allocates one short list, never panics, and accepts only what
//! this module would write itself, so that one meaning has one form.

use std::fmt;

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 512;

/// Bytes of the checksum in front.
const CHECKSUM_BYTES: usize = 4;

/// Strings in a sector, at most; the largest record has ten.
const VARIABLES_MAX: usize = 16;

/// The bytes of one sector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sector(pub [u8; SECTOR_BYTES]);

impl fmt::Debug for Sector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.variables() {
            Ok(variables) => write!(formatter, "Sector({variables:?})"),
            Err(error) => write!(formatter, "Sector({error})"),
        }
    }
}

/// Why a sector holds nothing that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorError {
    /// The checksum does not match: never written, made void, torn, or damaged.
    #[error("the checksum is {found:08x}, the contents make {expected:08x}")]
    Checksum {
        /// The one in the sector.
        found: u32,
        /// The one its contents have.
        expected: u32,
    },
    /// The checksum matches and the bytes behind it are not the strings we write.
    #[error("the strings are not what this system writes, although the checksum is right")]
    Foreign,
    /// A variable is not there.
    #[error("`{name}` is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A variable has a value that cannot be.
    #[error("`{name}` is {value:?}, which is not {expected}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What it has.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Sector {
    /// All zeros: its checksum is wrong, so it stands for nothing, to us and to the loader.
    pub const VOID: Self = Self([0; SECTOR_BYTES]);

    /// A sector with these variables, in this order.
    ///
    /// # Panics
    /// When they do not fit, which only a mistake in this crate can cause: every value it writes
    /// has a longest form, and a test writes the longest record.
    #[must_use]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let mut bytes = [0_u8; SECTOR_BYTES];
        let mut at = CHECKSUM_BYTES;
        for (name, value) in variables {
            for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
                bytes[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        }
        assert!(
            at < SECTOR_BYTES,
            "the empty string at the end needs a byte"
        );
        let checksum = crc32fast::hash(&bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Self(bytes)
    }

    /// The strings behind a right checksum.
    ///
    /// # Errors
    /// [`SectorError::Checksum`], or [`SectorError::Foreign`] when they are none of ours.
    pub fn variables(&self) -> Result<Variables<'_>, SectorError> {
        let (head, body) = self.0.split_at(CHECKSUM_BYTES);
        let found = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let expected = crc32fast::hash(body);
        if found != expected {
            return Err(SectorError::Checksum { found, expected });
        }
        let mut list = Vec::new();
        let mut rest = body;
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let (text, behind) = rest.split_at(end);
            rest = &behind[1..];
            if text.is_empty() {
                // Nothing may hide behind the end.
                let is_empty = rest.iter().all(|byte| *byte == 0);
                return if is_empty {
                    Ok(Variables(list))
                } else {
                    Err(SectorError::Foreign)
                };
            }
            let plain = |byte: &u8| byte.is_ascii_lowercase() || b"0123456789=,".contains(byte);
            if list.len() == VARIABLES_MAX || !text.iter().all(plain) {
                return Err(SectorError::Foreign);
            }
            let text = std::str::from_utf8(text).map_err(|_| SectorError::Foreign)?;
            list.push(text.split_once('=').ok_or(SectorError::Foreign)?);
        }
        Err(SectorError::Foreign)
    }
}

/// The variables of a sector, in their order. A name that is there twice counts as its first value,
/// as it does for U-Boot when it imports variables by name; an empty value is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variables<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Variables<'a> {
    /// The value of `name`, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let first = self.0.iter().find(|(other, _)| *other == name);
        first
            .map(|(_, value)| *value)
            .filter(|value| !value.is_empty())
    }

    /// The value of `name`, read by `read`.
    pub(crate) fn need<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SectorError> {
        let value = self.get(name).ok_or(SectorError::Missing { name })?;
        read(value).ok_or_else(|| SectorError::Value {
            name,
            value: value.to_owned(),
            expected,
        })
    }
}

/// A decimal number as it is written: digits, no sign, no zero in front.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits).then(|| text.parse().ok()).flatten()
}

/// Bytes from lower-case hexadecimal digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(body: &[u8]) -> Sector {
        let mut bytes = [0; SECTOR_BYTES];
        bytes[CHECKSUM_BYTES..CHECKSUM_BYTES + body.len()].copy_from_slice(body);
        let checksum = crc32fast::hash(&bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Sector(bytes)
    }

    #[test]
    fn the_bytes_are_those_u_boot_imports() {
        let sector = Sector::of(&[("kseq", "1"), ("kact", "a"), ("ktry", ""), ("knon", "")]);
        assert!(sector.0[4..].starts_with(b"kseq=1\0kact=a\0ktry=\0knon=\0\0"));
        // CRC-32 of the 508 bytes, computed by an independent implementation (zlib).
        assert_eq!(sector.0[..4], ZLIB_CHECKSUM.to_le_bytes());
        assert_eq!(sector.variables().unwrap().get("kact"), Some("a"));
        assert_eq!(sector.variables().unwrap().get("ktry"), None);
    }
    const ZLIB_CHECKSUM: u32 = 0x48a9_b5ec;

    #[test]
    fn what_stands_behind_the_end_or_is_no_text_of_ours_is_refused() {
        let foreign = Err(SectorError::Foreign);
        assert_eq!(sealed(b"a=1\0\0b=2\0").variables(), foreign);
        assert_eq!(sealed(b"a=$(x)\0").variables(), foreign);
        assert_eq!(sealed(b"a\0").variables(), foreign);
        assert_eq!(sealed(&[b'a'; 508]).variables(), foreign);
        assert_eq!(sealed(&b"a=1\0".repeat(17)).variables(), foreign);
        assert!(sealed(&b"a=1\0".repeat(16)).variables().is_ok());
        assert!(Sector::VOID.variables().is_err());
    }

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for text in ["", "00", "01", "+1", "-1", "1 ", "18446744073709551616"] {
            assert_eq!(decimal(text), None, "{text:?}");
        }
        assert_eq!(from_hex("00ff"), Some([0, 255]));
        assert_eq!(from_hex::<2>("00fF"), None);
        assert_eq!(to_hex(&[0, 255]), "00ff");
    }

    proptest! {
        #[test]
        fn hostile_contents_never_panic(body in proptest::collection::vec(any::<u8>(), 508)) {
            let _ = sealed(&body).variables();
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0..SECTOR_BYTES * 8) {
            let mut sector = Sector::of(&[("kseq", "41"), ("kact", "b")]);
            sector.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(sector.variables().is_err());
        }

        #[test]
        fn a_sector_torn_at_any_byte_is_one_of_the_two_or_none(cut in 0..=SECTOR_BYTES) {
            let old = Sector::of(&[("kseq", "41"), ("kact", "b")]);
            let new = Sector::of(&[("kseq", "42"), ("kact", "a")]);
            let mut torn = old;
            torn.0[..cut].copy_from_slice(&new.0[..cut]);
            prop_assert!(torn == old || torn == new || torn.variables().is_err());
        }
    }
}
