//! The state area on the disk: which sector holds what, who writes it, and a copy of all of it.
//!
//! Every sector lies in a 4 KiB block of its own, because a disk with 4 KiB blocks inside writes a
//! sector by rewriting its block, and a cut then hurts the neighbours too. The second record and
//! the second seal lie 1 MiB behind the first, because flash loses whole erase blocks.

use std::fmt;

use crate::sector::Sector;

/// The first sector of the area, behind the first loader area of every board.
pub const AREA_FIRST_LBA: u64 = 0x3000;

/// Sectors of the area: up to the second loader area.
pub const AREA_SECTORS: u64 = 0x1000;

/// Attempts that a slot on trial gets.
pub const ATTEMPTS: u8 = 3;

/// One of the two systems on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// Partitions 2 and 3.
    A,
    /// Partitions 4 and 5.
    B,
}

impl Slot {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The letter in records, on the kernel command line and for people.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The slot with this letter.
    #[must_use]
    pub fn from_letter(letter: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|slot| slot.letter() == letter)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.letter())
    }
}

/// Who may write a sector. Nobody writes what the other one writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The operating system: records and seals.
    System,
    /// The boot script: attempt tokens and the canary.
    Loader,
}

/// A sector of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The first copy of the record.
    Record0,
    /// The second copy of the record.
    Record1,
    /// What slot a was when it was last committed.
    SealA,
    /// The same of slot b.
    SealB,
    /// The token of the first attempt.
    Attempt1,
    /// The token of the second attempt.
    Attempt2,
    /// The token of the third attempt.
    Attempt3,
    /// What the loader saw last.
    Canary,
}

impl Place {
    /// All of them, in the order of [`Snapshot`].
    pub const ALL: [Self; 8] = [
        Self::Record0,
        Self::Record1,
        Self::SealA,
        Self::SealB,
        Self::Attempt1,
        Self::Attempt2,
        Self::Attempt3,
        Self::Canary,
    ];

    /// The two copies of the record.
    pub const RECORDS: [Self; 2] = [Self::Record0, Self::Record1];

    /// The attempt tokens, in the order in which they are used.
    pub const ATTEMPTS: [Self; ATTEMPTS as usize] =
        [Self::Attempt1, Self::Attempt2, Self::Attempt3];

    /// Its sector on the disk. The boot script has these numbers in it; a test compares them.
    #[must_use]
    pub fn lba(self) -> u64 {
        match self {
            Self::Record0 => 0x3000,
            Self::SealA => 0x3010,
            Self::Attempt1 => 0x3018,
            Self::Canary => 0x3020,
            Self::Attempt2 => 0x3028,
            Self::Attempt3 => 0x3038,
            Self::Record1 => 0x3800,
            Self::SealB => 0x3810,
        }
    }

    /// Who writes it.
    #[must_use]
    pub fn writer(self) -> Writer {
        match self {
            Self::Record0 | Self::Record1 | Self::SealA | Self::SealB => Writer::System,
            Self::Attempt1 | Self::Attempt2 | Self::Attempt3 | Self::Canary => Writer::Loader,
        }
    }

    /// The seal of `slot`.
    #[must_use]
    pub fn seal(slot: Slot) -> Self {
        match slot {
            Slot::A => Self::SealA,
            Slot::B => Self::SealB,
        }
    }

    /// Its index in [`Self::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The area as it was read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub [Sector; Place::ALL.len()]);

impl Snapshot {
    /// An area in which nothing was ever written.
    pub const EMPTY: Self = Self([Sector::VOID; Place::ALL.len()]);

    /// The sector at `place`.
    #[must_use]
    pub fn at(&self, place: Place) -> &Sector {
        &self.0[place.index()]
    }

    /// Puts `sector` at `place`.
    pub fn put(&mut self, place: Place, sector: Sector) {
        self.0[place.index()] = sector;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sector_has_a_block_of_its_own_inside_the_area() {
        for (index, place) in Place::ALL.into_iter().enumerate() {
            assert_eq!(place.index(), index);
            let lba = place.lba();
            assert!((AREA_FIRST_LBA..AREA_FIRST_LBA + AREA_SECTORS).contains(&lba));
            assert_eq!(lba % 8, 0, "{place:?} does not begin a 4 KiB block");
            let same = Place::ALL.into_iter().filter(|other| other.lba() == lba);
            assert_eq!(same.count(), 1, "{place:?}");
        }
    }

    #[test]
    fn copies_are_a_mebibyte_apart() {
        for (one, two) in [
            (Place::Record0, Place::Record1),
            (Place::SealA, Place::SealB),
        ] {
            assert_eq!((two.lba() - one.lba()) * 512, 1 << 20);
        }
    }

    #[test]
    fn letters_name_slots() {
        for slot in Slot::BOTH {
            assert_eq!(Slot::from_letter(slot.letter()), Some(slot));
            assert_eq!(slot.other().other(), slot);
        }
        assert_eq!(Slot::from_letter("A"), None);
    }
}
