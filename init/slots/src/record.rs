//! What the sectors say: the record, the seals, the attempt tokens and the canary.
//!
//! Each type has one form on the disk. Reading accepts that form and nothing else, so that what
//! the operating system understands is what the boot script understands.

use std::fmt;

use crate::area::Slot;
use crate::sector::{Sector, SectorError, Variables, decimal, from_hex, to_hex};

/// The largest sequence number: the boot script compares signed numbers of 32 bits.
pub const SEQUENCE_MAX: u32 = (1 << 31) - 1;

/// Manifests that stay refused at the same time; the oldest is forgotten first.
pub const QUARANTINE_MAX: usize = 4;

/// The version of the boot script that this crate is the counterpart of.
pub const LOADER_VERSION: u32 = 1;

/// SHA-256 of a manifest as it was signed: the name of one update.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManifestHash(pub [u8; 32]);

impl fmt::Display for ManifestHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for ManifestHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ManifestHash({})", &to_hex(&self.0)[..12])
    }
}

/// What makes one trial's tokens different from those of every trial before. It must be random:
/// a nonce that comes back finds its attempts already used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(pub [u8; 8]);

impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&to_hex(&self.0))
    }
}

/// One release as the state area knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    /// Its name.
    pub manifest: ManifestHash,
    /// Its number in the order of releases.
    pub number: u64,
    /// The lowest number that may be installed once this one is committed.
    pub floor: u64,
}

/// A slot that boots until it has been confirmed or its attempts are spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trial {
    /// The slot.
    pub slot: Slot,
    /// What its tokens carry.
    pub nonce: Nonce,
    /// What is in it.
    pub release: Release,
}

/// Manifests that failed their trial, the newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quarantine([Option<ManifestHash>; QUARANTINE_MAX]);

impl Quarantine {
    /// Whether `manifest` is refused.
    #[must_use]
    pub fn holds(&self, manifest: ManifestHash) -> bool {
        self.0.contains(&Some(manifest))
    }

    /// The refused ones, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = ManifestHash> {
        self.0.into_iter().flatten()
    }

    /// With `manifest` as the newest.
    #[must_use]
    pub fn with(&self, manifest: ManifestHash) -> Self {
        let others = self.iter().filter(|other| *other != manifest);
        Self::of(std::iter::once(manifest).chain(others))
    }

    /// Without `manifest`.
    #[must_use]
    pub fn without(&self, manifest: ManifestHash) -> Self {
        Self::of(self.iter().filter(|other| *other != manifest))
    }

    fn of(manifests: impl Iterator<Item = ManifestHash>) -> Self {
        let mut list = [None; QUARANTINE_MAX];
        for (place, manifest) in list.iter_mut().zip(manifests) {
            *place = Some(manifest);
        }
        Self(list)
    }
}

/// Which slot boots, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Grows by one with every record; of two whole copies the larger one counts.
    pub sequence: u32,
    /// The slot that boots.
    pub active: Slot,
    /// The slot that is tried first.
    pub trial: Option<Trial>,
    /// The lowest release number that may be installed. Never falls.
    pub floor: u64,
    /// Whether the next boot makes configuration and data anew.
    pub wipe: bool,
    /// What is not installed again unless somebody insists.
    pub quarantine: Quarantine,
}

impl Record {
    /// The record of a disk fresh from the factory.
    #[must_use]
    pub fn factory(floor: u64) -> Self {
        Self {
            sequence: 1,
            active: Slot::A,
            trial: None,
            floor,
            wipe: false,
            quarantine: Quarantine::default(),
        }
    }

    /// Whether it says the same, its number aside.
    #[must_use]
    pub fn means_the_same_as(&self, other: &Self) -> bool {
        let sequence = self.sequence;
        Self { sequence, ..*other } == *self
    }

    /// The record as a sector.
    #[must_use]
    pub fn to_sector(&self) -> Sector {
        let trial =
            |text: &dyn Fn(&Trial) -> String| self.trial.as_ref().map_or(String::new(), text);
        let refused: Vec<String> = self
            .quarantine
            .iter()
            .map(|hash| hash.to_string())
            .collect();
        Sector::of(&[
            ("kseq", &self.sequence.to_string()),
            ("kact", self.active.letter()),
            ("ktry", &trial(&|trial| trial.slot.letter().to_owned())),
            ("knon", &trial(&|trial| trial.nonce.to_string())),
            ("khsh", &trial(&|trial| trial.release.manifest.to_string())),
            ("kbun", &trial(&|trial| trial.release.number.to_string())),
            ("kups", &trial(&|trial| trial.release.floor.to_string())),
            ("kmin", &self.floor.to_string()),
            ("kwip", if self.wipe { "1" } else { "" }),
            ("kbad", &refused.join(",")),
        ])
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// [`SectorError`] says which check failed.
    pub fn from_sector(sector: &Sector) -> Result<Self, SectorError> {
        let variables = sector.variables()?;
        let trial = match variables.get("ktry") {
            None => None,
            Some(_) => Some(Trial {
                slot: variables.need("ktry", SLOT, Slot::from_letter)?,
                nonce: Nonce(variables.need("knon", "16 hexadecimal digits", from_hex)?),
                release: release(&variables, ["khsh", "kbun", "kups"])?,
            }),
        };
        let record = Self {
            sequence: variables.need("kseq", SEQUENCE, sequence)?,
            active: variables.need("kact", SLOT, Slot::from_letter)?,
            trial,
            floor: variables.need("kmin", NUMBER, decimal)?,
            wipe: variables.get("kwip").is_some(),
            quarantine: quarantine(&variables)?,
        };
        if trial.is_some_and(|trial| trial.slot == record.active) {
            return Err(SectorError::Value {
                name: "ktry",
                value: record.active.to_string(),
                expected: "the slot that is not active",
            });
        }
        canonical(record, sector, Self::to_sector)
    }
}

/// What a slot was when it was committed. Written before the record says so, void before the slot
/// is written. When both records are damaged, the sealed slot with the larger number boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seal {
    /// The number of the record that committed it.
    pub sequence: u32,
    /// What is in the slot.
    pub release: Release,
}

impl Seal {
    /// The seal as a sector.
    #[must_use]
    pub fn to_sector(&self) -> Sector {
        Sector::of(&[
            ("sseq", &self.sequence.to_string()),
            ("shsh", &self.release.manifest.to_string()),
            ("sbun", &self.release.number.to_string()),
            ("smin", &self.release.floor.to_string()),
        ])
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// [`SectorError`] says which check failed.
    pub fn from_sector(sector: &Sector) -> Result<Self, SectorError> {
        let variables = sector.variables()?;
        let seal = Self {
            sequence: variables.need("sseq", SEQUENCE, sequence)?,
            release: release(&variables, ["shsh", "sbun", "smin"])?,
        };
        canonical(seal, sector, Self::to_sector)
    }
}

/// One attempt of a trial, written by the loader before the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The nonce of the trial.
    pub nonce: Nonce,
}

impl Token {
    /// The token as a sector.
    #[must_use]
    pub fn to_sector(&self) -> Sector {
        Sector::of(&[("anon", &self.nonce.to_string())])
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// [`SectorError`] says which check failed.
    pub fn from_sector(sector: &Sector) -> Result<Self, SectorError> {
        let variables = sector.variables()?;
        let nonce = Nonce(variables.need("anon", "16 hexadecimal digits", from_hex)?);
        canonical(Self { nonce }, sector, Self::to_sector)
    }
}

/// What the loader saw last: proof that it reads the sectors we write, and we those it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Canary {
    /// The number of the record it went by; 0 when both were damaged.
    pub sequence: u32,
    /// The version of the boot script.
    pub loader: u32,
}

impl Canary {
    /// The canary as a sector, in the alphabetical order in which `env export` writes.
    #[must_use]
    pub fn to_sector(&self) -> Sector {
        Sector::of(&[
            ("cseq", &self.sequence.to_string()),
            ("cver", &self.loader.to_string()),
        ])
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// [`SectorError`] says which check failed.
    pub fn from_sector(sector: &Sector) -> Result<Self, SectorError> {
        let variables = sector.variables()?;
        let canary = Self {
            sequence: variables.need("cseq", NUMBER, |text| u32::try_from(decimal(text)?).ok())?,
            loader: variables.need("cver", NUMBER, |text| u32::try_from(decimal(text)?).ok())?,
        };
        canonical(canary, sector, Self::to_sector)
    }
}

const SLOT: &str = "`a` or `b`";
const SEQUENCE: &str = "a number from 1 to 2147483647";
const NUMBER: &str = "a decimal number";

fn sequence(text: &str) -> Option<u32> {
    let number = u32::try_from(decimal(text)?).ok()?;
    (1..=SEQUENCE_MAX).contains(&number).then_some(number)
}

fn release(variables: &Variables<'_>, names: [&'static str; 3]) -> Result<Release, SectorError> {
    let [manifest, number, floor] = names;
    Ok(Release {
        manifest: ManifestHash(variables.need(manifest, "64 hexadecimal digits", from_hex)?),
        number: variables.need(number, NUMBER, decimal)?,
        floor: variables.need(floor, NUMBER, decimal)?,
    })
}

fn quarantine(variables: &Variables<'_>) -> Result<Quarantine, SectorError> {
    if variables.get("kbad").is_none() {
        return Ok(Quarantine::default());
    }
    variables.need("kbad", "up to four manifest hashes", |text| {
        let hashes: Option<Vec<_>> = text.split(',').map(from_hex).collect();
        Some(Quarantine::of(hashes?.into_iter().map(ManifestHash)))
    })
}

/// A value is what it was read from, byte for byte, or somebody else wrote it.
fn canonical<T>(value: T, sector: &Sector, form: fn(&T) -> Sector) -> Result<T, SectorError> {
    if form(&value) == *sector {
        Ok(value)
    } else {
        Err(SectorError::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn largest() -> Record {
        let hash = |byte| ManifestHash([byte; 32]);
        let mut quarantine = Quarantine::default();
        for byte in 0..6 {
            quarantine = quarantine.with(hash(byte));
        }
        Record {
            sequence: SEQUENCE_MAX,
            active: Slot::B,
            trial: Some(Trial {
                slot: Slot::A,
                nonce: Nonce([255; 8]),
                release: Release {
                    manifest: hash(7),
                    number: u64::MAX,
                    floor: u64::MAX,
                },
            }),
            floor: u64::MAX,
            wipe: true,
            quarantine,
        }
    }

    #[test]
    fn the_largest_record_fits_and_survives() {
        let record = largest();
        assert_eq!(Record::from_sector(&record.to_sector()), Ok(record));
        let factory = Record::factory(0);
        assert_eq!(Record::from_sector(&factory.to_sector()), Ok(factory));
    }

    #[test]
    fn seals_tokens_and_canaries_survive() {
        let seal = Seal {
            sequence: 9,
            release: largest().trial.unwrap().release,
        };
        assert_eq!(Seal::from_sector(&seal.to_sector()), Ok(seal));
        let token = Token {
            nonce: Nonce([1; 8]),
        };
        assert_eq!(Token::from_sector(&token.to_sector()), Ok(token));
        let canary = Canary {
            sequence: 0,
            loader: LOADER_VERSION,
        };
        assert_eq!(Canary::from_sector(&canary.to_sector()), Ok(canary));
        assert!(Token::from_sector(&canary.to_sector()).is_err());
        assert!(Record::from_sector(&seal.to_sector()).is_err());
    }

    #[test]
    fn the_quarantine_keeps_the_newest_four() {
        let list: Vec<u8> = largest().quarantine.iter().map(|hash| hash.0[0]).collect();
        assert_eq!(list, [5, 4, 3, 2]);
        let again = largest().quarantine.with(ManifestHash([3; 32]));
        let list: Vec<u8> = again.iter().map(|hash| hash.0[0]).collect();
        assert_eq!(list, [3, 5, 4, 2]);
        assert!(
            !again
                .without(ManifestHash([3; 32]))
                .holds(ManifestHash([3; 32]))
        );
    }

    #[test]
    fn a_record_that_means_nothing_is_refused_by_name() {
        let tried = Sector::of(&[("kseq", "1"), ("kact", "a"), ("ktry", "c"), ("kmin", "0")]);
        let error = Record::from_sector(&tried).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`ktry` is \"c\", which is not `a` or `b`"
        );
        let mut itself = largest();
        itself.active = Slot::A;
        let error = Record::from_sector(&itself.to_sector()).unwrap_err();
        assert!(error.to_string().contains("not active"), "{error}");
        for kseq in ["0", "2147483648", "-1", "01"] {
            let sector = Sector::of(&[("kseq", kseq), ("kact", "a"), ("kmin", "0")]);
            assert!(Record::from_sector(&sector).is_err(), "{kseq}");
        }
        let order = Sector::of(&[("kact", "a"), ("kseq", "1"), ("kmin", "0")]);
        assert_eq!(Record::from_sector(&order), Err(SectorError::Foreign));
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(
            names in proptest::collection::vec("k[a-z]{3}|s[a-z]{3}|anon|cver", 0..10),
            values in proptest::collection::vec("[0-9a-f,]{0,30}", 10),
        ) {
            let pairs: Vec<_> = names.iter().map(String::as_str)
                .zip(values.iter().map(String::as_str)).collect();
            let sector = Sector::of(&pairs);
            let _ = (Record::from_sector(&sector), Seal::from_sector(&sector));
            let _ = (Token::from_sector(&sector), Canary::from_sector(&sector));
        }

        #[test]
        fn every_record_survives(sequence in 1..=SEQUENCE_MAX, active in any::<bool>(),
            wipe in any::<bool>(), floor in any::<u64>(), nonce in any::<Option<[u8; 8]>>(),
            refused in proptest::collection::vec(any::<[u8; 32]>(), 0..5)) {
            let active = if active { Slot::A } else { Slot::B };
            let release = Release { manifest: ManifestHash([8; 32]), number: 1, floor };
            let record = Record {
                sequence, active, floor, wipe,
                trial: nonce.map(|nonce| Trial {
                    slot: active.other(),
                    nonce: Nonce(nonce),
                    release,
                }),
                quarantine: Quarantine::of(refused.into_iter().map(ManifestHash)),
            };
            prop_assert_eq!(Record::from_sector(&record.to_sector()), Ok(record));
        }
    }
}
