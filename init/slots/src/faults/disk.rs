//! A disk with a write cache: what is on the medium, what is not yet, and what a cut can leave.
//!
//! Sectors are real ones, each kept once in a [`Library`] and named by a number, so that a state
//! of the whole disk is two dozen bytes. Sectors that differ but whose checksum is wrong are one
//! and the same here: nothing can tell them apart.

use std::collections::HashMap;

use crate::area::{Place, Slot, Snapshot};
use crate::record::{Record, Seal};
use crate::sector::{SECTOR_BYTES, Sector};

/// Sectors of the modelled disk: the area, and a kernel and a root for each slot.
pub const SECTORS: usize = Place::ALL.len() + 4;

/// Writes that the cache holds at most; a real one evicts what is oldest too.
const PENDING_MAX: usize = 8;

/// Where in a sector the power fails.
const TORN_AT: [usize; 4] = [4, 12, 64, 256];

/// A sector in the library.
pub type Id = u16;

/// The void sector.
pub const VOID: Id = 0;

/// The sector whose checksum is wrong.
pub const GARBAGE: Id = 1;

/// Where a slot's kernel is on this disk.
#[must_use]
pub fn kernel(slot: Slot) -> usize {
    Place::ALL.len() + 2 * slot as usize
}

/// Where a slot's root is on this disk.
#[must_use]
pub fn root(slot: Slot) -> usize {
    kernel(slot) + 1
}

/// Every sector that was ever on the disk.
#[derive(Debug)]
pub struct Library {
    sectors: Vec<Sector>,
    records: Vec<Option<Record>>,
    seals: Vec<Option<Seal>>,
    ids: HashMap<Sector, Id>,
    torn: HashMap<(Id, Id), Vec<Id>>,
}

impl Default for Library {
    fn default() -> Self {
        let mut library = Self {
            sectors: Vec::new(),
            records: Vec::new(),
            seals: Vec::new(),
            ids: HashMap::new(),
            torn: HashMap::new(),
        };
        library.id(&Sector::VOID);
        library.id(&Sector([0xee; SECTOR_BYTES]));
        library
    }
}

impl Library {
    /// The number of a sector.
    pub fn id(&mut self, sector: &Sector) -> Id {
        if let Some(id) = self.ids.get(sector) {
            return *id;
        }
        let id = Id::try_from(self.sectors.len()).expect("a bounded world has few sectors");
        self.sectors.push(*sector);
        self.records.push(Record::from_sector(sector).ok());
        self.seals.push(Seal::from_sector(sector).ok());
        self.ids.insert(*sector, id);
        id
    }

    /// The sector with this number.
    #[must_use]
    pub fn sector(&self, id: Id) -> &Sector {
        &self.sectors[id as usize]
    }

    /// The record that a sector is.
    #[must_use]
    pub fn record(&self, id: Id) -> Option<&Record> {
        self.records[id as usize].as_ref()
    }

    /// The seal that a sector is.
    #[must_use]
    pub fn seal(&self, id: Id) -> Option<&Seal> {
        self.seals[id as usize].as_ref()
    }

    /// The area of a disk.
    #[must_use]
    pub fn area(&self, view: &[Id; SECTORS]) -> Snapshot {
        Snapshot(std::array::from_fn(|index| *self.sector(view[index])))
    }

    /// What `new` can be when the power failed while it was written over `old`.
    fn torn(&mut self, old: Id, new: Id) -> Vec<Id> {
        if let Some(known) = self.torn.get(&(old, new)) {
            return known.clone();
        }
        let mut list = Vec::new();
        for cut in TORN_AT {
            let mut torn = *self.sector(old);
            torn.0[..cut].copy_from_slice(&self.sector(new).0[..cut]);
            let id = match torn.variables() {
                Ok(_) => self.id(&torn),
                Err(_) if torn == *self.sector(old) => old,
                Err(_) if torn == *self.sector(new) => new,
                Err(_) => GARBAGE,
            };
            if id != old && id != new && !list.contains(&id) {
                list.push(id);
            }
        }
        self.torn.insert((old, new), list.clone());
        list
    }
}

/// The writes in the cache, the oldest first: where, and what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pending {
    writes: [(u8, Id); PENDING_MAX],
    length: u8,
}

impl std::ops::Deref for Pending {
    type Target = [(u8, Id)];

    fn deref(&self) -> &Self::Target {
        &self.writes[..self.length as usize]
    }
}

impl Pending {
    fn push(&mut self, index: usize, id: Id) {
        self.writes[self.length as usize] = (index as u8, id);
        self.length += 1;
    }

    /// Without the first `count`; what is free is the same in all that have the same writes.
    fn drop_first(&mut self, count: usize) {
        let mut rest = Self::default();
        for (index, id) in &self[count..] {
            rest.push(*index as usize, *id);
        }
        *self = rest;
    }
}

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    /// What is on the medium.
    pub durable: [Id; SECTORS],
    /// What was written and not flushed, the oldest first.
    pub pending: Pending,
}

impl Disk {
    /// What reading gives.
    #[must_use]
    pub fn view(&self) -> [Id; SECTORS] {
        let mut view = self.durable;
        for (index, id) in self.pending.iter() {
            view[*index as usize] = *id;
        }
        view
    }

    /// Writes into the cache.
    pub fn write(&mut self, index: usize, id: Id) {
        if self.pending.len() == PENDING_MAX {
            self.settle(1);
        }
        self.pending.push(index, id);
    }

    /// Flushes all but the last `kept_back` writes.
    pub fn flush(&mut self, kept_back: usize) {
        self.settle(self.pending.len().saturating_sub(kept_back));
    }

    fn settle(&mut self, count: usize) {
        for (index, id) in &self.pending[..count] {
            self.durable[*index as usize] = *id;
        }
        self.pending.drop_first(count);
    }

    /// Every disk that a power cut can leave, if the device writes its cache in any order.
    pub fn cuts(&self, library: &mut Library) -> Vec<[Id; SECTORS]> {
        let mut disks = vec![self.durable];
        let mut seen = [false; SECTORS];
        for (index, _) in self.pending.iter() {
            let index = *index as usize;
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let mut choices: Vec<Id> = Vec::new();
            let mut old = self.durable[index];
            let values = self
                .pending
                .iter()
                .filter(|(other, _)| *other as usize == index);
            for (_, new) in values {
                choices.extend(library.torn(old, *new));
                choices.push(*new);
                old = *new;
            }
            choices.retain(|id| *id != self.durable[index]);
            choices.sort_unstable();
            choices.dedup();
            let without = disks.len();
            for choice in choices {
                for at in 0..without {
                    let mut disk = disks[at];
                    disk[index] = choice;
                    disks.push(disk);
                }
            }
        }
        disks
    }

    /// Every disk that a power cut can leave, if the device writes in order; the write that the
    /// cut hits may be torn.
    pub fn cuts_in_order(&self, library: &mut Library) -> Vec<[Id; SECTORS]> {
        let mut disk = self.durable;
        let mut disks = vec![disk];
        for (index, new) in self.pending.iter() {
            let index = *index as usize;
            for torn in library.torn(disk[index], *new) {
                let mut hit = disk;
                hit[index] = torn;
                disks.push(hit);
            }
            disk[index] = *new;
            disks.push(disk);
        }
        disks
    }
}
