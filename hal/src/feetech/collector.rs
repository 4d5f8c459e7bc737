//! Sorting replies to the servos that were asked.
//!
//! Servos answer a sync read in the order of the request, which is what makes a missing or damaged
//! reply attributable: whoever is passed over will not answer any more. rt-safe; work per finding
//! is bounded by the number of servos.

use super::parser::{ParserEvent, StatusPacket};
use super::sample::{ServoOutcome, ServoSample};
use kairo_link::MonoNs;

/// Sorts what the parser finds into the samples of one transaction.
pub(super) struct Collector<'a> {
    samples: &'a mut [ServoSample],
    /// The first servo that is still to be heard from, in the order of answering.
    next: usize,
    /// Whether the last servo answered.
    is_complete: bool,
    unexpected: u64,
}

impl<'a> Collector<'a> {
    /// Nobody has been heard yet.
    pub(super) fn new(samples: &'a mut [ServoSample]) -> Self {
        Self {
            samples,
            next: 0,
            is_complete: false,
            unexpected: 0,
        }
    }

    /// Whether the last servo answered: nothing is to come then.
    pub(super) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether as many replies came, damaged ones included, as there are servos.
    pub(super) const fn has_heard_all(&self) -> bool {
        self.next >= self.samples.len()
    }

    /// Valid packets that answered nothing that was asked.
    pub(super) const fn unexpected(&self) -> u64 {
        self.unexpected
    }

    /// Takes one finding of the parser, made at `now`.
    pub(super) fn take(&mut self, event: &ParserEvent, now: MonoNs) {
        match event {
            ParserEvent::Packet(packet) => self.take_packet(packet, now),
            ParserEvent::BadChecksum { claimed_id } => self.take_damaged(*claimed_id),
        }
    }

    fn take_packet(&mut self, packet: &StatusPacket, now: MonoNs) {
        let waiting = self
            .samples
            .iter()
            .position(|sample| sample.id == packet.id && !sample.outcome.has_data());
        let Some(index) = waiting else {
            self.unexpected += 1;
            return;
        };
        self.samples[index].fill(packet, now);
        self.next = self.next.max(index + 1);
        self.is_complete = self.next == self.samples.len();
    }

    /// A damaged reply is put down to the servo it claims to be from if that one is still to be
    /// heard from, else (the id itself is what was damaged) to the one whose turn it was. If the
    /// blamed one answers after all, its answer replaces the blame.
    fn take_damaged(&mut self, claimed_id: u8) {
        let claimed = (self.next..self.samples.len())
            .find(|index| self.samples[*index].id == claimed_id)
            .unwrap_or(self.next);
        let Some(sample) = self.samples.get_mut(claimed) else {
            return;
        };
        if !sample.outcome.has_data() {
            sample.outcome = ServoOutcome::BadChecksum;
        }
        // Only one's turn is used up: a damaged id must not skip the servos in between.
        self.next += 1;
    }
}
