//! Which keys are trusted, and how they change.
//!
//! A root names two sets of keys: root keys, which sign the next root and are kept offline, and
//! release keys, which sign manifests. A root follows another if its version is the next one and
//! enough root keys of *both* have signed it: the old ones so that only they can hand over, the
//! new ones so that nobody hands over to keys that do not work. A key is revoked by leaving it out.
//!
//! Nothing expires: a robot without a network does not know the time.

use serde::{Deserialize, Serialize};

use crate::document::{DocumentError, Kind, Role, Signed, read};
use crate::hex::PublicKey;

/// Keys in a set, at most.
pub const KEYS_MAX: usize = 8;

/// Bytes of a root's text, at most; eight keys in each set take 1.3 KiB.
const ROOT_BYTES_MAX: usize = 4096;

const FORMAT: &str = "kairo-root-1";

/// The trusted keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// `kairo-root-1`.
    pub format: String,
    /// From 1, and by one at each rotation.
    pub version: u32,
    /// Root keys that must sign.
    pub root_threshold: usize,
    /// The root keys, in order.
    pub root_keys: Vec<PublicKey>,
    /// Release keys that must sign.
    pub release_threshold: usize,
    /// The release keys, in order.
    pub release_keys: Vec<PublicKey>,
}

/// Why keys do not follow others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The document or its signatures.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It is not the next one.
    #[error("root {found} does not follow root {trusted}")]
    Version {
        /// The one that is trusted.
        trusted: u32,
        /// The one that was offered.
        found: u32,
    },
}

impl Root {
    /// A root; the keys are put in order.
    #[must_use]
    pub fn new(version: u32, root: (usize, &[PublicKey]), release: (usize, &[PublicKey])) -> Self {
        let sorted = |keys: &[PublicKey]| {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys
        };
        Self {
            format: FORMAT.to_owned(),
            version,
            root_threshold: root.0,
            root_keys: sorted(root.1),
            release_threshold: release.0,
            release_keys: sorted(release.1),
        }
    }

    /// Reads a root that is trusted because of where it lies, such as the one in the image, or
    /// that will not be trusted before it has been checked.
    ///
    /// # Errors
    /// [`DocumentError`] when it is not one.
    pub fn from_text(text: &[u8]) -> Result<Self, DocumentError> {
        let root: Self = read("root", text, ROOT_BYTES_MAX)?;
        root.checked()
    }

    /// The root that follows this one.
    ///
    /// # Errors
    /// [`RootError`]: not the next version, or not signed by enough keys of both.
    pub fn followed_by(&self, next: &Signed) -> Result<Self, RootError> {
        let root = Self::from_text(next.text.as_bytes())?;
        let expected = self.version.checked_add(1);
        if expected != Some(root.version) {
            return Err(RootError::Version {
                trusted: self.version,
                found: root.version,
            });
        }
        let roles = [
            self.role("the old root keys"),
            root.role("the new root keys"),
        ];
        next.verify(Kind::Root, &roles)?;
        Ok(root)
    }

    /// Who signs manifests.
    #[must_use]
    pub fn release_role(&self) -> Role<'_> {
        Role {
            whose: "release keys",
            keys: &self.release_keys,
            threshold: self.release_threshold,
        }
    }

    fn role(&self, whose: &'static str) -> Role<'_> {
        Role {
            whose,
            keys: &self.root_keys,
            threshold: self.root_threshold,
        }
    }

    fn checked(self) -> Result<Self, DocumentError> {
        let field = |field, reason: &str| DocumentError::Field {
            what: "root",
            field,
            reason: reason.to_owned(),
        };
        if self.format != FORMAT {
            return Err(field("format", "is not `kairo-root-1`"));
        }
        if self.version == 0 {
            return Err(field("version", "begins at 1"));
        }
        let sets = [
            (
                "root_keys",
                &self.root_keys,
                "root_threshold",
                self.root_threshold,
            ),
            (
                "release_keys",
                &self.release_keys,
                "release_threshold",
                self.release_threshold,
            ),
        ];
        for (keys_field, keys, threshold_field, threshold) in sets {
            if keys.is_empty() || keys.len() > KEYS_MAX {
                return Err(field(keys_field, "has no keys, or more than 8"));
            }
            if !keys.is_sorted_by(|one, next| one < next) {
                return Err(field(keys_field, "is not in order, or has a key twice"));
            }
            if threshold == 0 || threshold > keys.len() {
                return Err(field(threshold_field, "is 0 or more than there are keys"));
            }
        }
        Ok(self)
    }
}
