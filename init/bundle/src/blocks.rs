//! Which blocks of an artifact are on the machine already.
//!
//! The index of an artifact has the hash of each of its 4 KiB blocks. Hashing what the two slots
//! hold now tells where each block can be copied from, and what is left is fetched. A download that
//! was interrupted is resumed by the same means: blocks that stand at their place already are kept.

use std::collections::HashMap;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::bundle::BundleError;
use crate::hex::{Hash, Hex};
use crate::manifest::{Artifact, BLOCK_BYTES};

/// A block index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(Vec<Hash>);

/// What is to be done for a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They stand where they belong.
    Place,
    /// They are copied from this block, and those behind it, of the slot that runs.
    Running(u64),
    /// They are zeros.
    Zeros,
    /// They are fetched.
    Bundle,
}

/// A run of blocks that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub first: u64,
    /// How many.
    pub blocks: u64,
    /// Where they come from.
    pub from: Origin,
}

impl Index {
    /// Hashes everything `source` gives; a last block that is not whole is filled with zeros.
    ///
    /// # Errors
    /// What reading says.
    pub fn of(source: &mut dyn Read) -> io::Result<Self> {
        let mut hashes = Vec::new();
        let mut block = [0; BLOCK_BYTES as usize];
        loop {
            let filled = fill(source, &mut block)?;
            if filled == 0 {
                return Ok(Self(hashes));
            }
            block[filled..].fill(0);
            hashes.push(Hash::of(&block));
        }
    }

    /// The index as it stands in a bundle.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| hash.0).collect()
    }

    /// Reads an artifact's index.
    ///
    /// # Errors
    /// [`BundleError::Part`] when it is not the one that the manifest names.
    pub fn from_bytes(bytes: &[u8], artifact: &Artifact) -> Result<Self, BundleError> {
        let has_length = bytes.len() as u64 == artifact.index_bytes();
        if !has_length || Hash::of(bytes) != artifact.index_sha256 {
            return Err(BundleError::Part {
                target: artifact.target,
                part: "block index",
            });
        }
        let mut hashes = Vec::with_capacity(bytes.len() / 32);
        let mut rest = bytes;
        while let Some((hash, behind)) = rest.split_first_chunk::<32>() {
            hashes.push(Hex(*hash));
            rest = behind;
        }
        Ok(Self(hashes))
    }

    /// Checks a block that was fetched or copied.
    ///
    /// # Errors
    /// [`BundleError::Part`] when it is another block.
    pub fn check(&self, number: u64, block: &[u8], artifact: &Artifact) -> Result<(), BundleError> {
        let wanted = usize::try_from(number)
            .ok()
            .and_then(|number| self.0.get(number));
        if wanted == Some(&Hash::of(block)) {
            return Ok(());
        }
        Err(BundleError::Part {
            target: artifact.target,
            part: "block",
        })
    }

    /// Where each block comes from, in order, if the slot that is written holds `standby` now and
    /// the one that runs holds `running`.
    ///
    /// The slot that is written gives only what stands at its place already: anything else in it
    /// may be gone by the time it is needed.
    #[must_use]
    pub fn plan(&self, standby: &Self, running: &Self) -> Vec<Run> {
        let zeros = Hash::of(&[0; BLOCK_BYTES as usize]);
        let mut by_hash: HashMap<Hash, u64> = HashMap::with_capacity(running.0.len());
        for (hash, number) in running.0.iter().zip(0..) {
            by_hash.entry(*hash).or_insert(number);
        }
        let mut runs: Vec<Run> = Vec::new();
        for (position, (hash, number)) in self.0.iter().zip(0..).enumerate() {
            let from = if standby.0.get(position) == Some(hash) {
                Origin::Place
            } else if *hash == zeros {
                Origin::Zeros
            } else if running.0.get(position) == Some(hash) {
                Origin::Running(number)
            } else {
                by_hash
                    .get(hash)
                    .map_or(Origin::Bundle, |block| Origin::Running(*block))
            };
            match runs.last_mut() {
                Some(run) if run.goes_on_with(from) => run.blocks += 1,
                _ => runs.push(Run {
                    first: number,
                    blocks: 1,
                    from,
                }),
            }
        }
        runs
    }
}

impl Run {
    fn goes_on_with(&self, from: Origin) -> bool {
        match (self.from, from) {
            (Origin::Running(first), Origin::Running(next)) => first + self.blocks == next,
            (one, other) => one == other,
        }
    }
}

/// Bytes that a plan fetches.
#[must_use]
pub fn fetched_bytes(plan: &[Run]) -> u64 {
    let fetched = plan.iter().filter(|run| run.from == Origin::Bundle);
    fetched.map(|run| run.blocks * BLOCK_BYTES).sum()
}

/// Checks a whole artifact, as it was read back from where it was written. Reads no more than the
/// artifact has.
///
/// # Errors
/// [`BundleError::Part`] when it is another one, too short, or cannot be read.
pub fn check_artifact(source: &mut dyn Read, artifact: &Artifact) -> Result<(), BundleError> {
    let wrong = BundleError::Part {
        target: artifact.target,
        part: "contents",
    };
    let mut hasher = Sha256::new();
    let mut block = [0; BLOCK_BYTES as usize];
    for _ in 0..artifact.blocks() {
        match fill(source, &mut block) {
            Ok(filled) if filled == block.len() => hasher.update(block),
            _ => return Err(wrong),
        }
    }
    if Hex(hasher.finalize().into()) == artifact.sha256 {
        Ok(())
    } else {
        Err(wrong)
    }
}

/// Reads until `block` is full or the source ends.
fn fill(source: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match source.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
