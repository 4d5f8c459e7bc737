//! What a transition writes: single sectors, in an order, each flushed before the next.

use crate::area::{Place, Writer};
use crate::sector::Sector;

/// One sector to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub place: Place,
    /// What.
    pub sector: Sector,
}

/// The writes of one transition. Only [`crate::state`] makes plans, and they write nothing that
/// is the loader's. A plan that is cut off anywhere leaves a state from which the machine boots a
/// whole system and from which the same transition, or the one that undoes it, is possible again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a plan changes nothing until it is performed"]
pub struct Plan(Vec<Write>);

impl Plan {
    /// Adds a write behind the others.
    pub(crate) fn then(mut self, place: Place, sector: Sector) -> Self {
        assert_eq!(
            place.writer(),
            Writer::System,
            "only the loader writes {place:?}"
        );
        self.0.push(Write { place, sector });
        self
    }

    /// What a system that forgot to settle the records would write.
    pub(crate) fn without_records(mut self) -> Self {
        self.0
            .retain(|write| !Place::RECORDS.contains(&write.place));
        self
    }

    /// The writes, in their order. Flush behind each.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.0
    }
}
