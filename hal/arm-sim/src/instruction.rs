//! What a servo hears: instruction packets out of a byte stream that may hold anything.
//!
//! The same resynchronising scan as the host's status parser, for the other direction. A half
//! packet is forgotten after [`HALF_PACKET_NS`] of silence, as a UART's idle detection does.

use kairo_hal::MonoNs;
use kairo_hal::feetech::packet::{BROADCAST_ID, Instruction, MAX_PACKET, OVERHEAD, checksum};

/// Silence after which the rest of a packet will not come, ns. Generous, because a host's packet
/// may reach the simulator in pieces that a loaded machine delivers late.
pub const HALF_PACKET_NS: u64 = 50_000_000;

/// An instruction packet with a right checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstructionPacket {
    /// Whom it addresses.
    pub id: u8,
    /// The instruction's code; `None` for one that no servo knows.
    pub instruction: Option<Instruction>,
    /// Its parameters.
    pub parameters: Vec<u8>,
}

impl InstructionPacket {
    /// Bytes it had on the wire.
    #[must_use]
    pub const fn wire_bytes(&self) -> usize {
        self.parameters.len() + OVERHEAD
    }
}

/// The receiver. Its buffer holds at most one packet and what came with its last byte.
#[derive(Clone, Debug, Default)]
pub struct InstructionParser {
    buffer: Vec<u8>,
    last_byte_at: MonoNs,
    /// Bytes that were part of no valid packet.
    pub garbage_bytes: u64,
    /// Packets with a wrong checksum.
    pub bad_checksums: u64,
}

impl InstructionParser {
    /// Takes bytes that arrived at `now` and returns the packets that are complete.
    pub fn push(&mut self, now: MonoNs, bytes: &[u8]) -> Vec<InstructionPacket> {
        if now.since_ns(self.last_byte_at) > HALF_PACKET_NS {
            self.garbage_bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        self.last_byte_at = now;
        let mut packets = Vec::new();
        // In pieces of at most a packet, so that the buffer stays bounded whatever comes.
        for piece in bytes.chunks(MAX_PACKET) {
            self.buffer.extend_from_slice(piece);
            self.scan(&mut packets);
        }
        packets
    }

    fn scan(&mut self, packets: &mut Vec<InstructionPacket>) {
        let mut start = 0;
        while let Some(rest) = self.buffer.get(start..).filter(|rest| !rest.is_empty()) {
            let possible = rest
                .iter()
                .take(4)
                .enumerate()
                .all(|(index, byte)| match index {
                    0 | 1 => *byte == 0xFF,
                    2 => *byte <= BROADCAST_ID,
                    _ => *byte >= 2,
                });
            if !possible {
                start += 1;
                self.garbage_bytes += 1;
                continue;
            }
            let Some(total) = rest.get(3).map(|length| usize::from(*length) + 4) else {
                break;
            };
            let Some(packet) = rest.get(..total) else {
                break;
            };
            if checksum(&packet[2..total - 1]) != packet[total - 1] {
                start += 1;
                self.garbage_bytes += 1;
                self.bad_checksums += 1;
                continue;
            }
            packets.push(InstructionPacket {
                id: packet[2],
                instruction: Instruction::from_code(packet[4]),
                parameters: packet[5..total - 1].to_vec(),
            });
            start += total;
        }
        self.buffer.drain(..start);
    }
}

#[cfg(test)]
mod tests {
    use super::{HALF_PACKET_NS, InstructionParser};
    use kairo_hal::MonoNs;
    use kairo_hal::feetech::{Instruction, PacketBuffer};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_half_packet_is_forgotten_after_silence() {
        let mut parser = InstructionParser::default();
        let ping = PacketBuffer::ping(1);
        assert!(parser.push(MonoNs(0), &ping.as_bytes()[..4]).is_empty());
        let later = MonoNs(HALF_PACKET_NS + 1);
        let packets = parser.push(later, ping.as_bytes());
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].instruction, Some(Instruction::Ping));
        assert_eq!(parser.garbage_bytes, 4);
    }

    proptest! {
        #[test]
        fn every_byte_is_garbage_packet_or_waiting(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut parser = InstructionParser::default();
            let packets = parser.push(MonoNs(1), &bytes);
            let in_packets: usize = packets.iter().map(super::InstructionPacket::wire_bytes).sum();
            prop_assert_eq!(
                parser.garbage_bytes as usize + in_packets + parser.buffer.len(), bytes.len()
            );
            prop_assert!(parser.buffer.len() < 260);
        }
    }
}
