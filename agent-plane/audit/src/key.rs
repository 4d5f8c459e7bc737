//! The key that signs checkpoints and the head, and its two files.
//!
//! `audit.key` (mode 0600) holds both halves, so that a damaged file never signs with a key that
//! nobody has; `audit.pub` holds the public half and its id. Both are one line of canonical JSON
//! and are refused when a byte differs. The secret leaves this module only into its file.

use std::fmt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, from_hex, to_hex};
use crate::text::canonical;

const SECRET_FORMAT: &str = "kairo-audit-key-1";
const PUBLIC_FORMAT: &str = "kairo-audit-public-key-1";

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is not exactly what was written.
    #[error("{name} is damaged or not a key file of the audit log")]
    Damaged {
        /// The file.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read {name}: {error}")]
    Io {
        /// The file.
        name: String,
        /// Why.
        error: std::io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a new audit key: {0}")]
    NoRandom(getrandom::Error),
}

/// The public half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicFile {
    format: String,
    public: String,
    id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFile {
    format: String,
    secret: String,
    public: String,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", self.id())
    }
}

impl PublicKey {
    /// The name of the key in checkpoints: the beginning of its digest.
    pub fn id(&self) -> String {
        to_hex(&Digest::of(self.0.as_bytes()).0[..8])
    }

    /// The key, as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        to_hex(self.0.as_bytes())
    }

    /// The content of its file.
    pub fn to_text(&self) -> String {
        line(&PublicFile {
            format: PUBLIC_FORMAT.to_owned(),
            public: self.hex(),
            id: self.id(),
        })
    }

    /// Reads the content of a file, byte for byte as [`Self::to_text`] writes it.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let file: PublicFile = serde_json::from_slice(text).ok()?;
        let key = Self(VerifyingKey::from_bytes(&from_hex(&file.public)?).ok()?);
        (key.to_text().as_bytes() == text).then_some(key)
    }

    /// Reads a file that somebody keeps elsewhere.
    ///
    /// # Errors
    /// When it cannot be read, or is not exactly what `audit.pub` was.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| KeyError::Io {
            name: name.clone(),
            error,
        })?;
        Self::from_text(&text).ok_or(KeyError::Damaged { name })
    }

    /// Whether a signature, in hexadecimal digits, is this key's for these bytes.
    pub fn verifies(&self, purpose: Purpose, bytes: &[u8], signature: &str) -> bool {
        let Some(signature) = from_hex(signature) else {
            return false;
        };
        // Strict: one message has no second valid signature made from the first.
        let signature = Signature::from_bytes(&signature);
        let message = purpose.message(bytes);
        self.0.verify_strict(&message, &signature).is_ok()
    }
}

/// What a signature is for; one for a head is none for a record.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// A record.
    Record,
    /// The head file.
    Head,
}

impl Purpose {
    fn message(self, bytes: &[u8]) -> Vec<u8> {
        let name: &[u8] = match self {
            Self::Record => b"kairo-audit record 1\n",
            Self::Head => b"kairo-audit head 1\n",
        };
        [name, bytes].concat()
    }
}

/// Both halves.
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretKey({})", self.public().id())
    }
}

impl SecretKey {
    /// A new key from the system's random numbers; waits until the system has some.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::NoRandom)?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// A signature, in hexadecimal digits.
    pub fn sign(&self, purpose: Purpose, bytes: &[u8]) -> String {
        to_hex(&self.0.sign(&purpose.message(bytes)).to_bytes())
    }

    /// The content of its file.
    pub fn to_text(&self) -> String {
        line(&SecretFile {
            format: SECRET_FORMAT.to_owned(),
            secret: to_hex(&self.0.to_bytes()),
            public: self.public().hex(),
        })
    }

    /// Reads the content of its file, byte for byte as [`Self::to_text`] writes it.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let file: SecretFile = serde_json::from_slice(text).ok()?;
        let key = Self(SigningKey::from_bytes(&from_hex(&file.secret)?));
        (key.to_text().as_bytes() == text).then_some(key)
    }
}

/// A value as one line of canonical JSON. Values of this module always are JSON.
fn line(value: &impl Serialize) -> String {
    let mut text = String::from_utf8(canonical(value).unwrap_or_default()).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_key_file_can_change() {
        let key = SecretKey::generate().unwrap();
        let public = key.public().to_text();
        let secret = key.to_text();
        assert!(PublicKey::from_text(public.as_bytes()) == Some(key.public()));
        assert!(SecretKey::from_text(secret.as_bytes()).is_some());
        for (text, is_public) in [(public, true), (secret, false)] {
            for bit in 0..8 * text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let read = match is_public {
                    true => PublicKey::from_text(&bytes).is_some(),
                    false => SecretKey::from_text(&bytes).is_some(),
                };
                assert!(!read, "bit {bit} of {text}");
            }
        }
    }

    #[test]
    fn a_signature_for_one_purpose_is_none_for_the_other() {
        let key = SecretKey::generate().unwrap();
        let signature = key.sign(Purpose::Head, b"x");
        assert!(key.public().verifies(Purpose::Head, b"x", &signature));
        assert!(!key.public().verifies(Purpose::Record, b"x", &signature));
        assert!(!key.public().verifies(Purpose::Head, b"y", &signature));
        assert!(!format!("{key:?}").contains(&to_hex(&key.0.to_bytes())));
    }
}
