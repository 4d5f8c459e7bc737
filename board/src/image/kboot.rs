//! The boot-selection record, KBOOT: which slot boots, and which is on trial.
//!
//! One record is one 512-byte sector in the environment format of U-Boot, so that the boot script
//! reads it with `env import -c` and needs no code of ours: a little-endian CRC-32 over the rest,
//! then `name=value` strings, each ended by a zero byte, an empty string, and zero padding.
//! One sector is the unit that storage writes whole, so a torn write never mixes two records.
//!
//! This module makes the factory record and reads records back. It does not choose slots: that is
//! the boot script's and the updater's work.

use std::collections::BTreeMap;

/// Bytes of one record: one sector.
pub const RECORD_BYTES: usize = 512;

/// Bytes of the CRC in front.
const CRC_BYTES: usize = 4;

/// The first sector of the state area.
pub const AREA_FIRST_LBA: u64 = 12288;

/// Sectors of the state area.
pub const AREA_SECTORS: u64 = 128;

/// Sector of the first record copy (R0); the second (R1) is eight sectors, 4 KiB, further.
pub const RECORD_0_LBA: u64 = AREA_FIRST_LBA;

/// Sector of the second record copy (R1).
pub const RECORD_1_LBA: u64 = AREA_FIRST_LBA + 8;

/// Bytes of a nonce or a manifest hash, at most: a SHA-512 in hexadecimal.
pub const MAX_TEXT_BYTES: usize = 128;

/// A slot of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Partitions 2 and 3.
    A,
    /// Partitions 4 and 5.
    B,
}

impl Slot {
    /// The letter used in records and on the kernel command line.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }
}

/// A boot record. `seq` grows by one with every change; the larger valid one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Sequence number, below 2^31 because the boot script compares signed numbers.
    pub seq: u32,
    /// The slot that boots.
    pub active: Slot,
    /// The slot on trial, with the nonce its attempt tokens carry.
    pub trial: Option<(Slot, String)>,
    /// Hash of the manifest that failed its trial and is refused from then on.
    pub bad: Option<String>,
}

/// Why a sector is no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// The sector has another length than [`RECORD_BYTES`].
    #[error("a boot record has 512 bytes, this has {0}")]
    Length(usize),
    /// The checksum does not match: never written, torn, or damaged.
    #[error("the checksum is {found:08x}, the contents make {expected:08x}")]
    Checksum {
        /// The one in the sector.
        found: u32,
        /// The one its contents have.
        expected: u32,
    },
    /// The contents are no record.
    #[error("the record's {0} is missing or out of range")]
    Field(&'static str),
}

impl Record {
    /// The record of a disk fresh from the factory: slot A boots, nothing is on trial.
    #[must_use]
    pub fn factory() -> Record {
        Record {
            seq: 1,
            active: Slot::A,
            trial: None,
            bad: None,
        }
    }

    /// The record as one sector.
    ///
    /// # Errors
    /// [`RecordError::Field`] when a nonce or hash is longer than [`MAX_TEXT_BYTES`] or holds a
    /// zero byte, which would end the string early.
    pub fn to_sector(&self) -> Result<[u8; RECORD_BYTES], RecordError> {
        let (trial, nonce) = match &self.trial {
            Some((slot, nonce)) => (slot.letter(), nonce.as_str()),
            None => ("", ""),
        };
        let bad = self.bad.as_deref().unwrap_or("");
        for (field, text) in [("knon", nonce), ("kbad", bad)] {
            if text.len() > MAX_TEXT_BYTES || text.contains('\0') {
                return Err(RecordError::Field(field));
            }
        }
        let variables = [
            ("kseq", self.seq.to_string()),
            ("kact", self.active.letter().to_owned()),
            ("ktry", trial.to_owned()),
            ("knon", nonce.to_owned()),
            ("kbad", bad.to_owned()),
        ];
        let mut sector = [0_u8; RECORD_BYTES];
        let mut at = CRC_BYTES;
        for (name, value) in variables {
            let text = format!("{name}={value}\0");
            // At most 15 + 7 + 7 + 134 + 134 bytes, which leaves room for the final zero.
            sector[at..at + text.len()].copy_from_slice(text.as_bytes());
            at += text.len();
        }
        let checksum = crc32fast::hash(&sector[CRC_BYTES..]);
        sector[..CRC_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Ok(sector)
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// [`RecordError`] says which check failed; a sector of zeros fails the checksum.
    pub fn from_sector(sector: &[u8]) -> Result<Record, RecordError> {
        if sector.len() != RECORD_BYTES {
            return Err(RecordError::Length(sector.len()));
        }
        let (head, body) = sector.split_at(CRC_BYTES);
        let found = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let expected = crc32fast::hash(body);
        if found != expected {
            return Err(RecordError::Checksum { found, expected });
        }
        let variables: BTreeMap<&str, &str> = body
            .split(|&byte| byte == 0)
            .take_while(|text| !text.is_empty())
            .filter_map(|text| std::str::from_utf8(text).ok()?.split_once('='))
            .collect();
        let value = |name| variables.get(name).copied().filter(|text| !text.is_empty());
        let seq: u32 = value("kseq")
            .and_then(|text| text.parse().ok())
            .filter(|&seq| seq < 1 << 31)
            .ok_or(RecordError::Field("kseq"))?;
        let active = slot(value("kact").ok_or(RecordError::Field("kact"))?, "kact")?;
        let trial = match value("ktry") {
            Some(letter) => {
                let nonce = value("knon").ok_or(RecordError::Field("knon"))?;
                Some((slot(letter, "ktry")?, nonce.to_owned()))
            }
            None => None,
        };
        Ok(Record {
            seq,
            active,
            trial,
            bad: value("kbad").map(str::to_owned),
        })
    }
}

fn slot(letter: &str, field: &'static str) -> Result<Slot, RecordError> {
    match letter {
        "a" => Ok(Slot::A),
        "b" => Ok(Slot::B),
        _ => Err(RecordError::Field(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_factory_record_is_what_u_boot_env_import_takes() {
        let sector = Record::factory().to_sector().unwrap();
        assert!(sector[4..].starts_with(b"kseq=1\0kact=a\0ktry=\0knon=\0kbad=\0\0"));
        // CRC-32 of the 508 bytes, computed by an independent implementation (zlib).
        assert_eq!(sector[..4], 0x97fb8e96_u32.to_le_bytes());
    }

    #[test]
    fn a_record_survives_the_way_to_disk_and_back() {
        let record = Record {
            seq: 41,
            active: Slot::B,
            trial: Some((Slot::A, "5f2c".to_owned())),
            bad: Some("00ff".to_owned()),
        };
        assert_eq!(
            Record::from_sector(&record.to_sector().unwrap()),
            Ok(record)
        );
    }

    #[test]
    fn the_longest_record_fits_and_a_longer_one_is_refused() {
        let mut record = Record {
            seq: (1 << 31) - 1,
            active: Slot::A,
            trial: Some((Slot::B, "n".repeat(MAX_TEXT_BYTES))),
            bad: Some("b".repeat(MAX_TEXT_BYTES)),
        };
        assert_eq!(
            Record::from_sector(&record.to_sector().unwrap()),
            Ok(record.clone())
        );
        record.bad = Some("b".repeat(MAX_TEXT_BYTES + 1));
        assert_eq!(record.to_sector(), Err(RecordError::Field("kbad")));
    }

    #[test]
    fn an_unwritten_sector_is_no_record() {
        let error = Record::from_sector(&[0; RECORD_BYTES]).unwrap_err();
        assert!(matches!(error, RecordError::Checksum { .. }));
        assert_eq!(Record::from_sector(&[0; 16]), Err(RecordError::Length(16)));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(bit in 0_usize..RECORD_BYTES * 8) {
            let mut sector = Record::factory().to_sector().unwrap();
            sector[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::from_sector(&sector).is_err());
        }

        #[test]
        fn hostile_contents_never_panic(body in proptest::collection::vec(any::<u8>(), 508)) {
            let mut sector = crc32fast::hash(&body).to_le_bytes().to_vec();
            sector.extend(body);
            let _ = Record::from_sector(&sector);
        }
    }
}
