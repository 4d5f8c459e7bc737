//! What comes out of a transaction: one outcome per servo, and the counters.
//!
//! Plain `Copy` data in fixed arrays, so that the real-time plane can keep and send it. Everything
//! here is rt-safe.

use super::parser::StatusPacket;
use super::registers::{PresentState, TORQUE_ENABLE};
use super::status::StatusError;
use kairo_link::MonoNs;

/// Most register bytes in a sample.
pub const MAX_SAMPLE_BYTES: usize = 32;
/// What became of one servo's reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServoOutcome {
    /// A valid reply without fault bits.
    Ok,
    /// A valid reply, with data, and with the fault bits in [`ServoSample::status`].
    StatusError,
    /// No reply that could be recognised before the deadline.
    #[default]
    Timeout,
    /// A reply with a wrong checksum.
    BadChecksum,
}

impl ServoOutcome {
    /// Whether the sample holds data.
    #[must_use]
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Ok | Self::StatusError)
    }
}

/// One servo's part of a sync read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServoSample {
    /// The servo.
    pub id: u8,
    /// What became of its reply.
    pub outcome: ServoOutcome,
    /// The fault bits of its reply; empty without a reply.
    pub status: StatusError,
    /// When the reply was complete here; the instruction's start when there was none.
    pub received_at: MonoNs,
    data: [u8; MAX_SAMPLE_BYTES],
    len: u8,
}

impl ServoSample {
    /// The register bytes; empty without a valid reply.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data[..usize::from(self.len)]
    }

    /// The measured state, if that is what was read, with or without the torque switch. See
    /// [`super::ServoBus::sync_read_present`].
    #[must_use]
    pub fn present(&self) -> Option<PresentState> {
        let before = match self.has_torque() {
            true => usize::from(PresentState::ADDRESS - PresentState::ADDRESS_WITH_TORQUE),
            false => 0,
        };
        PresentState::decode(self.data().get(before..)?)
    }

    /// Whether the servo's torque is switched on, if that was read. See
    /// [`super::ServoBus::sync_read_present_and_torque`].
    #[must_use]
    pub fn is_torque_enabled(&self) -> Option<bool> {
        let enabled = TORQUE_ENABLE.decode(self.data())? != 0;
        self.has_torque().then_some(enabled)
    }

    const fn has_torque(&self) -> bool {
        self.len == PresentState::LEN_WITH_TORQUE
    }

    /// The sample of a servo that has not answered yet.
    pub(super) fn missing(id: u8, asked_at: MonoNs) -> Self {
        Self {
            id,
            received_at: asked_at,
            ..Self::default()
        }
    }

    /// Takes over a valid reply.
    pub(super) fn fill(&mut self, packet: &StatusPacket, received_at: MonoNs) {
        let bytes = packet.parameters();
        let len = bytes.len().min(MAX_SAMPLE_BYTES);
        self.data[..len].copy_from_slice(&bytes[..len]);
        self.len = len as u8;
        self.status = packet.status;
        self.received_at = received_at;
        self.outcome = if packet.status.is_empty() {
            ServoOutcome::Ok
        } else {
            ServoOutcome::StatusError
        };
    }
}

/// How a sync read went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Servos whose sample holds data.
    pub replies: u8,
    /// Servos without data.
    pub missing: u8,
    /// From the first byte out to the last byte looked at, ns.
    pub round_trip_ns: u64,
}

/// What happened to one servo since the bus was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServoCounters {
    /// Valid replies, with or without fault bits.
    pub replies: u64,
    /// Requests without a recognisable reply.
    pub timeouts: u64,
    /// Requests whose reply had a wrong checksum.
    pub bad_checksum: u64,
    /// Valid replies with fault bits.
    pub status_errors: u64,
}

/// What happened on the line since the bus was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusCounters {
    /// Instructions sent.
    pub instructions: u64,
    /// Received bytes that belonged to no valid packet.
    pub garbage_bytes: u64,
    /// Packet candidates with a wrong checksum, whoever sent them.
    pub bad_checksums: u64,
    /// Valid packets from servos that were not asked, or had already answered.
    pub unexpected_packets: u64,
    /// Instructions that the line did not take.
    pub failed_writes: u64,
}
