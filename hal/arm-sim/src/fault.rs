//! What is made to go wrong with replies, deterministically from the seed.
//!
//! Each fault has a probability per reply. Damage done by `corrupt` is always such that the
//! packet's one-byte checksum is wrong: damage that it cannot see would be a different claim about
//! the controller (that it judges plausibility), and would make "every damaged reply was counted"
//! untestable.

use kairo_hal::MonoNs;
use kairo_hal::feetech::packet::checksum;

use crate::random::Random;

/// Most garbage bytes put before one reply.
const GARBAGE_BYTES_MAX: usize = 16;

/// Probabilities per reply, each 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// A bit is flipped, or two neighbouring bytes are replaced.
    pub corrupt: f64,
    /// The reply is not sent.
    pub drop: f64,
    /// Random bytes come before the reply.
    pub garbage: f64,
    /// Only the first part of the reply is sent.
    pub half: f64,
}

impl FaultRates {
    /// Whether every rate is a probability.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        [self.corrupt, self.drop, self.garbage, self.half]
            .iter()
            .all(|rate| (0.0..=1.0).contains(rate))
    }
}

/// What was done to replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Replies that were damaged.
    pub corrupted: u64,
    /// Replies that were not sent.
    pub dropped: u64,
    /// Replies that were cut short.
    pub halved: u64,
    /// Random bytes that were added.
    pub garbage_sent: u64,
}

/// The fault injector.
#[derive(Clone, Debug)]
pub struct Faults {
    rates: FaultRates,
    until: Option<MonoNs>,
    random: Random,
    /// What it did so far.
    pub counters: FaultCounters,
}

impl Faults {
    /// No faults yet.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            rates: FaultRates {
                corrupt: 0.0,
                drop: 0.0,
                garbage: 0.0,
                half: 0.0,
            },
            until: None,
            random: Random::new(seed, 0xFA),
            counters: FaultCounters {
                corrupted: 0,
                dropped: 0,
                halved: 0,
                garbage_sent: 0,
            },
        }
    }

    /// Sets the rates, until then or until they are set again.
    pub const fn set(&mut self, rates: FaultRates, until: Option<MonoNs>) {
        self.rates = rates;
        self.until = until;
    }

    /// Sends `reply` at `now` through the faults: what arrives at the host, empty when nothing.
    pub fn apply(&mut self, now: MonoNs, reply: &[u8]) -> Vec<u8> {
        if self.until.is_some_and(|until| now >= until) {
            self.set(FaultRates::default(), None);
        }
        // Every fault draws its number on every reply, so that one rate does not shift another.
        let rates = self.rates;
        let is_dropped = self.random.chance(rates.drop);
        let is_corrupted = self.random.chance(rates.corrupt);
        let is_halved = self.random.chance(rates.half);
        let has_garbage = self.random.chance(rates.garbage);
        if is_dropped {
            self.counters.dropped += 1;
            return Vec::new();
        }
        let mut sent = Vec::new();
        if has_garbage {
            let count = 1 + self.random.below(GARBAGE_BYTES_MAX);
            sent.extend((0..count).map(|_| self.random.bits() as u8));
            self.counters.garbage_sent += count as u64;
        }
        if is_halved {
            let kept = 1 + self.random.below(reply.len() - 1);
            sent.extend_from_slice(&reply[..kept]);
            self.counters.halved += 1;
        } else if is_corrupted {
            sent.extend(self.damage(reply));
            self.counters.corrupted += 1;
        } else {
            sent.extend_from_slice(reply);
        }
        sent
    }

    fn damage(&mut self, reply: &[u8]) -> Vec<u8> {
        let mut damaged = reply.to_vec();
        if self.random.chance(0.25) {
            let at = self.random.below(reply.len() - 1);
            damaged[at] = self.random.bits() as u8;
            damaged[at + 1] = self.random.bits() as u8;
            let last = damaged.len() - 1;
            let is_visible = damaged[..2] != [0xFF; 2]
                || damaged[3] != reply[3]
                || checksum(&damaged[2..last]) != damaged[last];
            if is_visible {
                return damaged;
            }
            damaged.copy_from_slice(reply);
        }
        // One flipped bit changes the sum by a power of two, which is never 0 modulo 256.
        let at = self.random.below(reply.len());
        damaged[at] ^= 1 << self.random.below(8);
        damaged
    }
}

#[cfg(test)]
mod tests {
    use super::{FaultRates, Faults};
    use kairo_hal::MonoNs;
    use kairo_hal::feetech::packet::checksum;
    use kairo_hal::feetech::{PacketBuffer, ParserEvent, StatusParser};

    #[test]
    fn damage_is_always_visible_to_the_checksum() {
        let mut faults = Faults::new(7);
        faults.set(
            FaultRates {
                corrupt: 1.0,
                ..FaultRates::default()
            },
            None,
        );
        let reply = PacketBuffer::raw(3, 0, &[0, 8, 0, 0, 0, 0, 121, 30]).unwrap();
        for _ in 0..20_000 {
            let damaged = faults.apply(MonoNs(0), reply.as_bytes());
            let mut parser = StatusParser::new();
            parser.expect(Some(8));
            parser.push(&damaged);
            while let Some(event) = parser.next_at_end() {
                assert!(!matches!(event, ParserEvent::Packet(_)), "{damaged:02X?}");
            }
        }
        assert_eq!(faults.counters.corrupted, 20_000);
    }

    #[test]
    fn faults_end_when_they_are_to() {
        let mut faults = Faults::new(7);
        let rates = FaultRates {
            drop: 1.0,
            ..FaultRates::default()
        };
        faults.set(rates, Some(MonoNs(100)));
        let reply = PacketBuffer::raw(1, 0, &[]).unwrap();
        assert!(faults.apply(MonoNs(99), reply.as_bytes()).is_empty());
        assert_eq!(
            faults.apply(MonoNs(100), reply.as_bytes()),
            reply.as_bytes()
        );
    }

    #[test]
    fn halves_and_garbage_are_what_they_say() {
        let mut faults = Faults::new(7);
        let reply = PacketBuffer::raw(1, 0, &[1, 2]).unwrap();
        faults.set(
            FaultRates {
                half: 1.0,
                ..FaultRates::default()
            },
            None,
        );
        let half = faults.apply(MonoNs(0), reply.as_bytes());
        assert!(!half.is_empty() && half.len() < 8 && reply.as_bytes().starts_with(&half));
        faults.set(
            FaultRates {
                garbage: 1.0,
                ..FaultRates::default()
            },
            None,
        );
        let garbage = faults.apply(MonoNs(0), reply.as_bytes());
        assert!(garbage.len() > 8 && garbage.ends_with(reply.as_bytes()));
        assert_eq!(checksum(&reply.as_bytes()[2..7]), reply.as_bytes()[7]);
    }
}
