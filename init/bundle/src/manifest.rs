//! One release: its number, the boards it is for, and what it consists of.

use serde::{Deserialize, Serialize};

use crate::document::{DocumentError, read};
use crate::hex::Hash;

/// Bytes of a block, the unit in which artifacts are compared and fetched.
pub const BLOCK_BYTES: u64 = 4096;

/// Bytes of an artifact, at most: far beyond any slot, far below any overflow.
pub const ARTIFACT_BYTES_MAX: u64 = 1 << 30;

/// Boards that one release is for, at most.
pub const BOARDS_MAX: usize = 16;

/// The largest release number: what every JSON reader can hold exactly.
pub const SEQ_MAX: u64 = (1 << 53) - 1;

/// Bytes of a manifest's text, at most.
pub const MANIFEST_BYTES_MAX: usize = 8192;

/// Characters of a version or a board's name, at most.
const NAME_MAX: usize = 64;

const FORMAT: &str = "kairo-manifest-1";

/// Where an artifact goes in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The whole kernel partition: FAT with `kernel` and `boot.env`.
    Kernel,
    /// The whole root partition: EROFS and its verity tree.
    Root,
}

/// One part of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Where it goes.
    pub target: Target,
    /// Its size, whole blocks.
    pub size: u64,
    /// The hash of all of it.
    pub sha256: Hash,
    /// The hash of its block index: the hashes of its blocks, one behind the other.
    pub index_sha256: Hash,
}

impl Artifact {
    /// How many blocks it has.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size / BLOCK_BYTES
    }

    /// Bytes of its index.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.blocks() * 32
    }
}

/// One release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `kairo-manifest-1`.
    pub format: String,
    /// For people.
    pub version: String,
    /// Its place in the order of releases.
    pub seq: u64,
    /// The lowest release that may be installed once this one is committed. With its own number
    /// nothing older comes back; a lower one is the signed permission to go back that far.
    pub min_seq: u64,
    /// The boards it is for, in order.
    pub boards: Vec<String>,
    /// The oldest boot script that can start it.
    pub min_loader: u32,
    /// Kernel and root, in this order.
    pub artifacts: Vec<Artifact>,
    /// Root hash of the verity tree in the root artifact.
    pub verity_root: Hash,
}

impl Manifest {
    /// A manifest with the format's name.
    #[must_use]
    pub fn format() -> String {
        FORMAT.to_owned()
    }

    /// Reads a manifest's canonical text.
    ///
    /// # Errors
    /// [`DocumentError`] names the field.
    pub fn from_text(text: &[u8]) -> Result<Self, DocumentError> {
        let manifest: Self = read("manifest", text, MANIFEST_BYTES_MAX)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The artifact that goes to `target`.
    #[must_use]
    pub fn artifact(&self, target: Target) -> Option<&Artifact> {
        self.artifacts
            .iter()
            .find(|artifact| artifact.target == target)
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.format != FORMAT {
            return Err(field("format", "is not `kairo-manifest-1`"));
        }
        if !is_name(&self.version) {
            return Err(field(
                "version",
                "is not 1 to 64 letters, digits and `.+-_`",
            ));
        }
        if self.seq == 0 || self.seq > SEQ_MAX {
            return Err(field("seq", "is not from 1 to 2^53 - 1"));
        }
        if self.min_seq > self.seq {
            return Err(field(
                "min_seq",
                "is above seq: the release would refuse itself",
            ));
        }
        if self.boards.is_empty() || self.boards.len() > BOARDS_MAX {
            return Err(field("boards", "has no boards, or more than 16"));
        }
        if !self.boards.is_sorted_by(|one, next| one < next) {
            return Err(field("boards", "is not in order, or has a board twice"));
        }
        if !self.boards.iter().all(|board| is_name(board)) {
            return Err(field("boards", "has a name that is none"));
        }
        let targets: Vec<Target> = self
            .artifacts
            .iter()
            .map(|artifact| artifact.target)
            .collect();
        if targets != [Target::Kernel, Target::Root] {
            return Err(field("artifacts", "is not one kernel, then one root"));
        }
        for artifact in &self.artifacts {
            let is_whole = artifact.size % BLOCK_BYTES == 0;
            if artifact.size == 0 || !is_whole || artifact.size > ARTIFACT_BYTES_MAX {
                return Err(field(
                    "size",
                    "is not a number of 4 KiB blocks, up to 1 GiB",
                ));
            }
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+-_".contains(&byte);
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

fn field(field: &'static str, reason: &str) -> DocumentError {
    DocumentError::Field {
        what: "manifest",
        field,
        reason: reason.to_owned(),
    }
}
