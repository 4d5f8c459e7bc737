//! Which block of a loop failed, and how, in one word of the statistics.
//!
//! rt-safe. The word is written once by the loop; zero says that no block has failed. A reader
//! trusts it no more than any other word.

use crate::abi::BlockFaultKind;

/// Bits of the detail.
const DETAIL_BITS: u32 = 32;
/// Bits of the kind, above the detail.
const KIND_BITS: u32 = 8;

/// A block's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFaultReport {
    /// Which block of its loop, in the order of the file.
    pub block: u32,
    /// What it did.
    pub kind: BlockFaultKind,
    /// The output, code or signal that goes with the kind; zero otherwise.
    pub detail: i32,
}

impl BlockFaultReport {
    /// The word. rt-safe.
    pub fn to_word(self) -> u64 {
        let detail = u64::from(self.detail.cast_unsigned());
        let kind = u64::from(self.kind as u32) << DETAIL_BITS;
        (u64::from(self.block) + 1) << (DETAIL_BITS + KIND_BITS) | kind | detail
    }

    /// What a word says; `None` for zero, and for what no loop writes.
    pub fn from_word(word: u64) -> Option<Self> {
        let block = (word >> (DETAIL_BITS + KIND_BITS)).checked_sub(1)?;
        let kind = (word >> DETAIL_BITS) as u32 & ((1 << KIND_BITS) - 1);
        Some(Self {
            block: u32::try_from(block).ok()?,
            kind: BlockFaultKind::from_u32(kind)?,
            detail: (word as u32).cast_signed(),
        })
    }

    /// What the block did, for people.
    pub fn describe(&self) -> String {
        let detail = self.detail;
        match self.kind {
            BlockFaultKind::NotFinite => format!("gave NaN or infinity on output {detail}"),
            BlockFaultKind::Reported => format!("reported fault {detail}"),
            BlockFaultKind::Panicked => "panicked".to_owned(),
            BlockFaultKind::Signal => format!("was stopped by signal {detail}"),
            BlockFaultKind::Budget => "used more processor time than its budget".to_owned(),
            BlockFaultKind::Stale => {
                "has an input from another loop that is older than its max_age_ms".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_report_comes_back_and_zero_is_none() {
        for (block, kind, detail) in [
            (0, BlockFaultKind::NotFinite, 0),
            (63, BlockFaultKind::Reported, -7),
            (5, BlockFaultKind::Signal, 11),
            ((1 << 24) - 2, BlockFaultKind::Budget, i32::MIN),
        ] {
            let report = BlockFaultReport {
                block,
                kind,
                detail,
            };
            assert_eq!(BlockFaultReport::from_word(report.to_word()), Some(report));
        }
        assert_eq!(BlockFaultReport::from_word(0), None);
        assert_eq!(BlockFaultReport::from_word(u64::MAX), None);
    }
}
