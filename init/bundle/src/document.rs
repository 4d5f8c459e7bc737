//! A signed document: a text in canonical JSON, and signatures over that text.
//!
//! Canonical means: no spaces, fields in the order of their type, every field there. What is read
//! is written again and compared, so nobody has to argue about what else might parse.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hex::{Hash, Hex, PublicKey};

/// Signatures on one document, at most: two sets of keys at a rotation.
pub const SIGNATURES_MAX: usize = 16;

/// What a document is. A signature on one kind is none on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A set of keys.
    Root,
    /// A release.
    Manifest,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Manifest => "manifest",
        }
    }

    fn message(self, text: &str) -> Vec<u8> {
        format!("kairo-bundle {} 1\n{text}", self.name()).into_bytes()
    }
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is larger than any can be.
    #[error("the {what} has {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// What it should be.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The largest.
        bytes_max: usize,
    },
    /// It is not JSON of the right shape.
    #[error("the {what} cannot be read: {reason}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It means something and is not written as it would be.
    #[error("the {what} is not in its canonical form")]
    NotCanonical {
        /// What it should be.
        what: &'static str,
    },
    /// A field has a value that cannot be.
    #[error("the {what}'s `{field}` {reason}")]
    Field {
        /// The document.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many signatures, or two by one key, or in another order than that of their keys.
    #[error("the signatures on the {what} are not in order, each key once, at most 16")]
    SignatureList {
        /// The document.
        what: &'static str,
    },
    /// A signature by a key that has no say: never trusted, or revoked.
    #[error("key {key} has no say over the {what}: it is unknown or was revoked")]
    UnknownKey {
        /// The document.
        what: &'static str,
        /// The key.
        key: PublicKey,
    },
    /// A signature that is none.
    #[error("the signature by {key} is not over this {what}")]
    BadSignature {
        /// The document.
        what: &'static str,
        /// The key.
        key: PublicKey,
    },
    /// Too few signatures.
    #[error("the {what} has {found} signatures by {whose}, and needs {needed}")]
    Threshold {
        /// The document.
        what: &'static str,
        /// Whose keys are counted.
        whose: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        needed: usize,
    },
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureBy {
    /// By whom.
    pub key: PublicKey,
    /// The signature.
    pub signature: Hex<64>,
}

/// A document and its signatures, none of which is checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The document's canonical text.
    pub text: String,
    /// In the order of their keys.
    pub signatures: Vec<SignatureBy>,
}

/// Keys that have a say, and how many of them must agree.
#[derive(Clone, Copy, Debug)]
pub struct Role<'a> {
    /// Whose keys they are, for messages.
    pub whose: &'static str,
    /// The keys.
    pub keys: &'a [PublicKey],
    /// How many must sign.
    pub threshold: usize,
}

impl Signed {
    /// Signs `document`.
    ///
    /// # Panics
    /// Never for the documents of this crate: strings, numbers and lists have a JSON form.
    #[must_use]
    pub fn new(kind: Kind, document: &impl Serialize, keys: &[&SigningKey]) -> Self {
        let text = canonical(document);
        let message = kind.message(&text);
        let sign = |key: &&SigningKey| SignatureBy {
            key: Hex(key.verifying_key().to_bytes()),
            signature: Hex(key.sign(&message).to_bytes()),
        };
        let mut signatures: Vec<SignatureBy> = keys.iter().map(sign).collect();
        signatures.sort_by_key(|signature| signature.key);
        signatures.dedup_by_key(|signature| signature.key);
        Self { text, signatures }
    }

    /// The name of the document: the hash of its text.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(self.text.as_bytes())
    }

    /// Checks that every signature counts, and that each role has enough of them. A signature that
    /// does not count is an error, not an ornament: otherwise bits in it would be free.
    ///
    /// # Errors
    /// [`DocumentError`] names the key or the role.
    pub fn verify(&self, kind: Kind, roles: &[Role<'_>]) -> Result<(), DocumentError> {
        let what = kind.name();
        let is_sorted = self.signatures.is_sorted_by(|one, next| one.key < next.key);
        if !is_sorted || self.signatures.len() > SIGNATURES_MAX {
            return Err(DocumentError::SignatureList { what });
        }
        let message = kind.message(&self.text);
        for SignatureBy { key, signature } in &self.signatures {
            let key = *key;
            if !roles.iter().any(|role| role.keys.contains(&key)) {
                return Err(DocumentError::UnknownKey { what, key });
            }
            let signature = Signature::from_bytes(&signature.0);
            // Strict: one message has no second valid signature made from the first.
            let is_valid = VerifyingKey::from_bytes(&key.0)
                .is_ok_and(|verifier| verifier.verify_strict(&message, &signature).is_ok());
            if !is_valid {
                return Err(DocumentError::BadSignature { what, key });
            }
        }
        for role in roles {
            let counts = |signature: &&SignatureBy| role.keys.contains(&signature.key);
            let found = self.signatures.iter().filter(counts).count();
            // A threshold of none would let everybody in; no document can have one.
            if found < role.threshold.max(1) {
                return Err(DocumentError::Threshold {
                    what,
                    whose: role.whose,
                    found,
                    needed: role.threshold.max(1),
                });
            }
        }
        Ok(())
    }
}

/// The one form of a document.
pub(crate) fn canonical(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("strings, numbers and lists have a JSON form")
}

/// Reads a document in its one form.
///
/// # Errors
/// [`DocumentError`]: too large, malformed, or not canonical.
pub(crate) fn read<T: DeserializeOwned + Serialize>(
    what: &'static str,
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, DocumentError> {
    if bytes.len() > bytes_max {
        return Err(DocumentError::TooLarge {
            what,
            bytes: bytes.len(),
            bytes_max,
        });
    }
    let document: T = serde_json::from_slice(bytes).map_err(|error| DocumentError::Malformed {
        what,
        reason: error.to_string(),
    })?;
    if canonical(&document).as_bytes() != bytes {
        return Err(DocumentError::NotCanonical { what });
    }
    Ok(document)
}
