//! SHA-256 values and their one text form: 64 lower-case hexadecimal digits. Upper case is refused,
//! because two texts of one value would let a byte of a file change unnoticed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 value.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// What the first record of a chain has before it.
    pub const NONE: Self = Self([0; 32]);

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = AnchorError;

    fn from_str(text: &str) -> Result<Self, AnchorError> {
        from_hex(text)
            .map(Self)
            .ok_or_else(|| AnchorError(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A record that somebody remembers outside of the log: its hash, and its number where known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the record, when it is part of the anchor.
    pub number: Option<u64>,
    /// Hash of the record.
    pub hash: Digest,
}

/// A text that is no anchor.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither HASH nor NUMBER:HASH with 64 lower-case hexadecimal digits; \
     `kairo audit checkpoint` prints one"
)]
pub struct AnchorError(String);

impl fmt::Display for Anchor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = self.number {
            write!(formatter, "{number}:")?;
        }
        write!(formatter, "{}", self.hash)
    }
}

impl FromStr for Anchor {
    type Err = AnchorError;

    fn from_str(text: &str) -> Result<Self, AnchorError> {
        let Some((number, hash)) = text.split_once(':') else {
            return Ok(Self {
                number: None,
                hash: text.parse()?,
            });
        };
        let number = number.parse().map_err(|_| AnchorError(text.to_owned()))?;
        Ok(Self {
            number: Some(number),
            hash: hash.parse().map_err(|_| AnchorError(text.to_owned()))?,
        })
    }
}

/// Lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

/// Bytes from exactly as many lower-case hexadecimal digits.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_text() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        assert!(text.to_uppercase().parse::<Digest>().is_err());
        assert!(text[1..].parse::<Digest>().is_err());
    }

    #[test]
    fn an_anchor_is_a_hash_with_or_without_its_number() {
        let hash = Digest::of(b"abc");
        for number in [None, Some(7)] {
            let anchor = Anchor { number, hash };
            assert_eq!(anchor.to_string().parse::<Anchor>().unwrap(), anchor);
        }
        assert!("7:abc".parse::<Anchor>().is_err());
        assert!("x".parse::<Anchor>().is_err());
    }
}
