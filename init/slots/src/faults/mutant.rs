//! The design broken on purpose, one way each, to see that the checks find it.

use super::world::Budget;
use crate::area::Place;
use crate::plan::Write;
use crate::record::{Nonce, Record};
use crate::sector::Sector;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The record names a slot before it is sealed.
    RecordBeforeSeal,
    /// Both copies of the record go to one sector.
    OneRecordSector,
    /// Nothing is ever flushed.
    NoFlush,
    /// Every trial has the same nonce.
    NonceReused,
    /// Every trial has the same nonce, and the system clears the tokens after activating.
    TokensCleared,
    /// The seal stays while its slot is written.
    SealKept,
    /// The older copy of the record may still name the slot that is written.
    NotSettled,
    /// The loader starts a trial without using up an attempt.
    NoToken,
    /// The running slot is written.
    WrongSlot,
    /// A failed release is forgotten.
    NoQuarantine,
    /// The floor is what the last commit says.
    FloorLowered,
    /// What was written is not read back.
    NotReadBack,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::RecordBeforeSeal,
        Self::OneRecordSector,
        Self::NoFlush,
        Self::NonceReused,
        Self::TokensCleared,
        Self::SealKept,
        Self::NotSettled,
        Self::NoToken,
        Self::WrongSlot,
        Self::NoQuarantine,
        Self::FloorLowered,
        Self::NotReadBack,
    ];

    /// The smallest world in which it is found.
    #[must_use]
    pub fn world(self) -> Budget {
        let nothing = Budget {
            installs: 1,
            cuts: 0,
            rots: 0,
            by_hand: 0,
            wipes: 0,
        };
        match self {
            Self::NoToken | Self::NoQuarantine | Self::WrongSlot => Budget {
                installs: 2,
                ..nothing
            },
            Self::NotReadBack => Budget { rots: 1, ..nothing },
            Self::SealKept => Budget { cuts: 1, ..nothing },
            Self::FloorLowered => nothing,
            Self::RecordBeforeSeal
            | Self::OneRecordSector
            | Self::NoFlush
            | Self::NonceReused
            | Self::TokensCleared
            | Self::NotSettled => Budget {
                installs: 2,
                cuts: 1,
                ..nothing
            },
        }
    }

    /// What the broken system writes instead.
    pub(super) fn spoil(self, writes: &[Write], old_floor: u64) -> Vec<(Place, Sector)> {
        let mut list: Vec<(Place, Sector)> = writes
            .iter()
            .map(|write| (write.place, write.sector))
            .collect();
        let is_record = |place: &Place| Place::RECORDS.contains(place);
        match self {
            Self::RecordBeforeSeal => list.sort_by_key(|(place, _)| !is_record(place)),
            Self::OneRecordSector => {
                for (place, _) in &mut list {
                    if is_record(place) {
                        *place = Place::Record0;
                    }
                }
            }
            Self::NonceReused => each_record(&mut list, same_nonce),
            Self::TokensCleared => {
                each_record(&mut list, same_nonce);
                let tries = list.iter().any(|(_, sector)| {
                    Record::from_sector(sector).is_ok_and(|record| record.trial.is_some())
                });
                if tries {
                    list.extend(Place::ATTEMPTS.map(|place| (place, Sector::VOID)));
                }
            }
            Self::SealKept => {
                list.retain(|(place, sector)| is_record(place) || *sector != Sector::VOID);
            }
            Self::NoQuarantine => each_record(&mut list, |record| {
                record.quarantine = crate::record::Quarantine::default();
            }),
            Self::FloorLowered => each_record(&mut list, |record| {
                if record.trial.is_none() {
                    record.floor = old_floor.min(1);
                }
            }),
            Self::NoFlush
            | Self::NotSettled
            | Self::NoToken
            | Self::WrongSlot
            | Self::NotReadBack => {}
        }
        list
    }
}

fn same_nonce(record: &mut Record) {
    if let Some(trial) = &mut record.trial {
        trial.nonce = Nonce([0x77; 8]);
    }
}

fn each_record(list: &mut [(Place, Sector)], change: impl Fn(&mut Record)) {
    for (_, sector) in list {
        if let Ok(mut record) = Record::from_sector(sector) {
            change(&mut record);
            *sector = record.to_sector();
        }
    }
}
