//! The head of a bundle file, and the decision whether a machine takes what it describes.
//!
//! ```text
//! 8 bytes   `KAIROUPD`
//! 4 bytes   bytes of the head, big-endian, at most 128 KiB
//! head      canonical JSON: {"roots":[signed…],"manifest":signed}
//!           zeros to the next multiple of 4096
//! indexes   of each artifact, in the order of the manifest, each padded likewise
//! artifacts in the same order; whole blocks
//! ```
//!
//! Places follow from sizes, so no two parts can overlap and none can point elsewhere.

use serde::{Deserialize, Serialize};

use crate::document::{DocumentError, Kind, Signed, canonical, read};
use crate::hex::Hash;
use crate::manifest::{BLOCK_BYTES, Manifest, Target};
use crate::root::{Root, RootError};

/// The first bytes of a bundle.
pub const MAGIC: [u8; 8] = *b"KAIROUPD";

/// Bytes in front of the head.
pub const PREFIX_BYTES: usize = 12;

/// Bytes of a head, at most.
pub const HEAD_BYTES_MAX: usize = 128 * 1024;

/// Rotations that one bundle carries a machine over, at most.
pub const ROOTS_MAX: usize = 16;

/// Why a bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It is none.
    #[error("this is no KairoOS bundle")]
    Magic,
    /// It ends too early.
    #[error("the bundle ends after {bytes} bytes, and {needed} are needed")]
    Truncated {
        /// What there is.
        bytes: u64,
        /// What there must be.
        needed: u64,
    },
    /// There is something between its parts.
    #[error("the bundle has something where nothing belongs, behind its head")]
    Padding,
    /// Too many roots.
    #[error("the bundle carries {0} roots, more than 16")]
    TooManyRoots(usize),
    /// A document or its signatures.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The keys.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It is for other boards.
    #[error("release {version} is for {}, and this is {board}", boards.join(", "))]
    Board {
        /// The release.
        version: String,
        /// Its boards.
        boards: Vec<String>,
        /// This one.
        board: String,
    },
    /// It is older than what is allowed here.
    #[error("release {version} has number {seq}; the running one allows {floor} and later")]
    TooOld {
        /// The release.
        version: String,
        /// Its number.
        seq: u64,
        /// The lowest allowed.
        floor: u64,
    },
    /// The boot script is too old.
    #[error("release {version} needs boot script {needed}, and this machine has {loader}")]
    Loader {
        /// The release.
        version: String,
        /// What it needs.
        needed: u32,
        /// What there is.
        loader: u32,
    },
    /// A part is not what the manifest says.
    #[error("the {part} of the {target:?} artifact is not what the manifest says")]
    Part {
        /// Which artifact.
        target: Target,
        /// What of it.
        part: &'static str,
    },
}

/// The head of a bundle, none of whose signatures is checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Roots that follow the trusted one, in order.
    pub roots: Vec<Signed>,
    /// The release.
    pub manifest: Signed,
}

/// The machine that is asked to take a bundle.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The keys it trusts.
    pub root: &'a Root,
    /// Its board.
    pub board: &'a str,
    /// The version of its boot script.
    pub loader: u32,
    /// The lowest release number that may be installed.
    pub floor: u64,
}

/// A release that this machine may install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The release.
    pub manifest: Manifest,
    /// Its name: the hash of the manifest's text.
    pub hash: Hash,
    /// The keys that the bundle leads to. To be kept once the release is committed.
    pub root: Root,
}

/// Where a part of a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Where the index and the contents of an artifact are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Which artifact.
    pub target: Target,
    /// Its index.
    pub index: Extent,
    /// Its contents.
    pub contents: Extent,
}

impl Head {
    /// The beginning of a bundle: everything in front of the first index.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = canonical(self);
        let mut bytes = MAGIC.to_vec();
        bytes.extend((head.len() as u32).to_be_bytes());
        bytes.extend(head.as_bytes());
        bytes.resize(padded(bytes.len() as u64) as usize, 0);
        bytes
    }

    /// Reads the beginning of a bundle. `bytes` may go on behind the head.
    ///
    /// # Errors
    /// [`BundleError`]: no bundle, truncated, malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let length = Self::length(bytes)?;
        let needed = padded((PREFIX_BYTES + length) as u64);
        let truncated = BundleError::Truncated {
            bytes: bytes.len() as u64,
            needed,
        };
        let all = bytes.get(..needed as usize).ok_or(truncated)?;
        let (head, padding) = all[PREFIX_BYTES..].split_at(length);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(BundleError::Padding);
        }
        let head: Self = read("head", head, HEAD_BYTES_MAX)?;
        if head.roots.len() > ROOTS_MAX {
            return Err(BundleError::TooManyRoots(head.roots.len()));
        }
        Ok(head)
    }

    /// Bytes of the head, from the first [`PREFIX_BYTES`] of a bundle.
    ///
    /// # Errors
    /// [`BundleError`]: no bundle, truncated, or too large.
    pub fn length(prefix: &[u8]) -> Result<usize, BundleError> {
        let Some(prefix) = prefix.first_chunk::<PREFIX_BYTES>() else {
            return Err(BundleError::Truncated {
                bytes: prefix.len() as u64,
                needed: PREFIX_BYTES as u64,
            });
        };
        let [magic @ .., b0, b1, b2, b3] = *prefix;
        if magic != MAGIC {
            return Err(BundleError::Magic);
        }
        let length = u32::from_be_bytes([b0, b1, b2, b3]) as usize;
        if length > HEAD_BYTES_MAX {
            return Err(BundleError::Document(DocumentError::TooLarge {
                what: "head",
                bytes: length,
                bytes_max: HEAD_BYTES_MAX,
            }));
        }
        Ok(length)
    }

    /// Whether `machine` may install this.
    ///
    /// # Errors
    /// [`BundleError`] says what is in the way: keys, signatures, board, boot script, age.
    pub fn accept(&self, machine: &Machine<'_>) -> Result<Accepted, BundleError> {
        let mut root = machine.root.clone();
        for next in &self.roots {
            // A bundle carries everybody's rotations; those behind us are none of our business.
            let version = Root::from_text(next.text.as_bytes())?.version;
            if version > machine.root.version {
                root = root.followed_by(next)?;
            }
        }
        self.manifest
            .verify(Kind::Manifest, &[root.release_role()])?;
        // Only now is the text anything but bytes.
        let manifest = Manifest::from_text(self.manifest.text.as_bytes())?;
        let version = manifest.version.clone();
        if !manifest.boards.iter().any(|board| board == machine.board) {
            return Err(BundleError::Board {
                version,
                boards: manifest.boards,
                board: machine.board.to_owned(),
            });
        }
        if manifest.min_loader > machine.loader {
            return Err(BundleError::Loader {
                version,
                needed: manifest.min_loader,
                loader: machine.loader,
            });
        }
        if manifest.seq < machine.floor {
            return Err(BundleError::TooOld {
                version,
                seq: manifest.seq,
                floor: machine.floor,
            });
        }
        Ok(Accepted {
            manifest,
            hash: self.manifest.hash(),
            root,
        })
    }

    /// Where the parts of an accepted bundle are, and how long the file must be.
    #[must_use]
    pub fn places(&self, manifest: &Manifest) -> (Vec<Places>, u64) {
        let mut at = self.to_bytes().len() as u64;
        let mut extent = |length: u64| {
            let offset = at;
            at += padded(length);
            Extent { offset, length }
        };
        let indexes: Vec<Extent> = manifest
            .artifacts
            .iter()
            .map(|artifact| extent(artifact.index_bytes()))
            .collect();
        let contents: Vec<Extent> = manifest
            .artifacts
            .iter()
            .map(|artifact| extent(artifact.size))
            .collect();
        let parts = manifest
            .artifacts
            .iter()
            .zip(indexes.into_iter().zip(contents));
        let places = parts.map(|(artifact, (index, contents))| Places {
            target: artifact.target,
            index,
            contents,
        });
        (places.collect(), at)
    }
}

/// The next multiple of a block.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}
