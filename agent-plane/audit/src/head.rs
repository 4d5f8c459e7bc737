//! `audit.head`: where the log ends, signed, and replaced as a whole after every group of entries.
//!
//! The log's own hashes say nothing about what was cut off its end. This file does: a log that is
//! shorter than its head was truncated, and a head that is behind what the log's last record saw
//! was put back. Only both together, rolled back to one moment, look whole from within.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Anchor, Digest};
use crate::files::{Directory, Files, HEAD_NAME, LOG_MODE, PUBLIC_KEY_NAME, replace};
use crate::key::{PublicKey, Purpose, SecretKey};
use crate::text::canonical;

/// `,"signature":""}` and a line feed around 128 digits.
const SIGNATURE_TAIL: usize = 14 + 128 + 2 + 1;

/// Where a log ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Number of the last record.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
    /// Index of its segment.
    pub segment: u32,
    /// Bytes of that segment up to the end of the record.
    pub segment_bytes: u64,
    /// Whether the log was closed there in order: nothing may follow.
    pub closed: bool,
    /// Wall clock when this was written.
    pub time: String,
    /// Id of the key.
    pub key: String,
    /// Signature of everything above.
    pub signature: String,
}

/// A head that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// No file.
    #[error("{0} has no audit log")]
    Missing(String),
    /// The file or the key is damaged.
    #[error("{0} is damaged; `kairo audit verify` says more")]
    Damaged(String),
    /// The directory cannot be read.
    #[error("cannot read {path}: {error}")]
    Io {
        /// The directory.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

impl Head {
    /// The record as something to remember elsewhere.
    pub const fn anchor(&self) -> Anchor {
        Anchor {
            number: Some(self.number),
            hash: self.hash,
        }
    }

    /// The content of the file, signed.
    pub(crate) fn encode(mut self, key: &SecretKey) -> Vec<u8> {
        self.key = key.public().id();
        self.signature = "0".repeat(128);
        let mut text = self.text();
        let signature = key.sign(Purpose::Head, &text[..text.len() - SIGNATURE_TAIL]);
        let at = text.len() - 3 - 128;
        text[at..at + 128].copy_from_slice(signature.as_bytes());
        text
    }

    fn text(&self) -> Vec<u8> {
        let mut text = canonical(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads the content of the file; none unless it is, to the byte, what this key signed.
    pub(crate) fn decode(text: &[u8], key: &PublicKey) -> Option<Self> {
        let signed = text.len().checked_sub(SIGNATURE_TAIL)?;
        let head: Self = serde_json::from_slice(text).ok()?;
        let whole = head.text() == text
            && head.key == key.id()
            && key.verifies(Purpose::Head, &text[..signed], &head.signature);
        whole.then_some(head)
    }

    /// Puts it in the place of the one before, for good.
    pub(crate) fn store(self, directory: &Path, key: &SecretKey) -> std::io::Result<()> {
        replace(directory, HEAD_NAME, &self.encode(key), LOG_MODE)
    }
}

/// Where the log of a directory ends, and the public key that signed that.
///
/// # Errors
/// When there is none, or it is damaged.
pub fn newest_checkpoint(directory: &Path) -> Result<(Head, PublicKey), HeadError> {
    let path = |name: &str| directory.join(name).display().to_string();
    let files = Directory(directory.to_owned());
    let read = |name: &str| match files.read(name) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(HeadError::Missing(directory.display().to_string())),
        Err(error) => Err(HeadError::Io {
            path: path(name),
            error,
        }),
    };
    let key = PublicKey::from_text(&read(PUBLIC_KEY_NAME)?);
    let key = key.ok_or_else(|| HeadError::Damaged(path(PUBLIC_KEY_NAME)))?;
    let head = Head::decode(&read(HEAD_NAME)?, &key);
    let head = head.ok_or_else(|| HeadError::Damaged(path(HEAD_NAME)))?;
    Ok((head, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_the_head_can_change() {
        let key = SecretKey::generate().unwrap();
        let head = Head {
            number: 12,
            hash: Digest::of(b"x"),
            segment: 3,
            segment_bytes: 400,
            closed: true,
            time: "2026-01-01T00:00:00.000000000Z".to_owned(),
            key: String::new(),
            signature: String::new(),
        };
        let text = head.encode(&key);
        let read = Head::decode(&text, &key.public()).unwrap();
        assert_eq!((read.number, read.segment_bytes), (12, 400));
        for bit in 0..8 * text.len() {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&other, &key.public()).is_none(), "bit {bit}");
        }
        for bytes in 0..text.len() {
            assert!(Head::decode(&text[..bytes], &key.public()).is_none());
        }
    }
}
