//! Status packets out of a byte stream that may hold anything.
//!
//! The parser buffers what arrives and looks for `FF FF id length error parameters… checksum`. A
//! candidate that turns out wrong (impossible id or length, bad checksum) costs exactly its first
//! byte: the scan goes on at the next one, so a valid packet is found behind any garbage, including
//! garbage that looks like the start of a packet.
//!
//! Guarantees: rt-safe; the buffer is fixed; a byte is the start of at most one candidate, and a
//! candidate's checksum covers at most [`MAX_STATUS_PACKET`] bytes, so the work per received byte
//! is bounded by that. Every byte received is counted once, as part of a packet or as garbage.
//!
//! Telling the parser how long the expected reply is ([`StatusParser::expect`]) makes a corrupted
//! length byte harmless: without it, a length that came out too large would swallow the replies
//! that follow until [`StatusParser::next_at_end`] gives the candidate up.

use super::packet::{MAX_ID, OVERHEAD, checksum};
use super::status::StatusError;

/// Most parameter bytes in a status packet that the parser accepts. The STS3215 has 87 documented
/// register bytes; a control cycle reads 15. Longer packets are treated as garbage.
pub const MAX_PARAMETERS: usize = 96;
/// Longest status packet that the parser accepts, in bytes.
pub const MAX_STATUS_PACKET: usize = MAX_PARAMETERS + OVERHEAD;
/// Room for a packet and for a read that began before it ended.
const BUFFER_BYTES: usize = 4 * MAX_STATUS_PACKET;

/// A valid status packet.
#[derive(Clone, Copy)]
pub struct StatusPacket {
    /// Which servo answered.
    pub id: u8,
    /// The faults it reported.
    pub status: StatusError,
    parameters: [u8; MAX_PARAMETERS],
    len: usize,
}

impl StatusPacket {
    /// The parameter bytes: the registers that were read, or nothing.
    #[must_use]
    pub fn parameters(&self) -> &[u8] {
        &self.parameters[..self.len]
    }
}

impl core::fmt::Debug for StatusPacket {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("StatusPacket")
            .field("id", &self.id)
            .field("status", &self.status)
            .field("parameters", &self.parameters())
            .finish()
    }
}

impl PartialEq for StatusPacket {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.status == other.status
            && self.parameters() == other.parameters()
    }
}

impl Eq for StatusPacket {}

/// What the parser found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParserEvent {
    /// A packet whose checksum is right.
    Packet(StatusPacket),
    /// Something of the form of a packet whose checksum is wrong.
    BadChecksum {
        /// The id it carried, which may itself be what was corrupted.
        claimed_id: u8,
    },
}

/// The verdict on the bytes at the start of the buffer.
enum Candidate {
    Incomplete,
    NotAPacket,
    BadChecksum { claimed_id: u8 },
    Valid { len: usize },
}

/// An incremental, resynchronising receiver. See the module documentation.
#[derive(Clone)]
pub struct StatusParser {
    buffer: [u8; BUFFER_BYTES],
    start: usize,
    end: usize,
    expected_parameters: Option<usize>,
    garbage_bytes: u64,
    bad_checksums: u64,
}

impl Default for StatusParser {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for StatusParser {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("StatusParser")
            .field("buffered", &&self.buffer[self.start..self.end])
            .field("expected_parameters", &self.expected_parameters)
            .field("garbage_bytes", &self.garbage_bytes)
            .field("bad_checksums", &self.bad_checksums)
            .finish()
    }
}

impl StatusParser {
    /// An empty parser that accepts packets of any length up to [`MAX_STATUS_PACKET`].
    #[must_use]
    pub const fn new() -> Self {
        Self {
            buffer: [0; BUFFER_BYTES],
            start: 0,
            end: 0,
            expected_parameters: None,
            garbage_bytes: 0,
            bad_checksums: 0,
        }
    }

    /// From now on only packets with exactly this many parameter bytes are packets; `None` lifts
    /// that. *rt-safe*
    pub fn expect(&mut self, parameters: Option<usize>) {
        self.expected_parameters = parameters;
    }

    /// Drops what is buffered, counting it as garbage. *rt-safe*
    pub fn reset(&mut self) {
        self.garbage_bytes += (self.end - self.start) as u64;
        self.start = 0;
        self.end = 0;
    }

    /// Bytes received that were part of no valid packet.
    #[must_use]
    pub const fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
    }

    /// Candidates whose checksum was wrong.
    #[must_use]
    pub const fn bad_checksums(&self) -> u64 {
        self.bad_checksums
    }

    /// Counts bytes that were thrown away before they reached the parser.
    pub(crate) fn count_garbage(&mut self, bytes: usize) {
        self.garbage_bytes += bytes as u64;
    }

    /// Takes over as many of `bytes` as there is room for and returns how many that were. *rt-safe*
    ///
    /// There is always room for at least one byte once [`StatusParser::next`] has returned `None`,
    /// so alternating the two consumes any input.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let taken = bytes.len().min(BUFFER_BYTES - self.end);
        self.buffer[self.end..self.end + taken].copy_from_slice(&bytes[..taken]);
        self.end += taken;
        taken
    }

    /// The next finding in what was pushed, or `None` when more bytes are needed. *rt-safe*
    #[expect(
        clippy::should_implement_trait,
        reason = "None means 'not yet', not 'finished'"
    )]
    pub fn next(&mut self) -> Option<ParserEvent> {
        self.scan(false)
    }

    /// Like [`StatusParser::next`] when no more bytes will come: a half packet is given up as
    /// garbage, and what it had swallowed is looked through. `None` leaves the buffer empty.
    /// *rt-safe*
    pub fn next_at_end(&mut self) -> Option<ParserEvent> {
        self.scan(true)
    }

    fn scan(&mut self, at_end: bool) -> Option<ParserEvent> {
        while self.start < self.end {
            match self.judge() {
                Candidate::Incomplete if !at_end => return None,
                Candidate::Incomplete | Candidate::NotAPacket => self.drop_first_byte(),
                Candidate::BadChecksum { claimed_id } => {
                    self.drop_first_byte();
                    self.bad_checksums += 1;
                    return Some(ParserEvent::BadChecksum { claimed_id });
                }
                Candidate::Valid { len } => return Some(ParserEvent::Packet(self.take(len))),
            }
        }
        None
    }

    fn drop_first_byte(&mut self) {
        self.start += 1;
        self.garbage_bytes += 1;
    }

    fn judge(&self) -> Candidate {
        let bytes = &self.buffer[self.start..self.end];
        for (index, &byte) in bytes.iter().take(4).enumerate() {
            let possible = match index {
                0 | 1 => byte == 0xFF,
                2 => byte <= MAX_ID,
                _ => self.is_possible_length(byte),
            };
            if !possible {
                return Candidate::NotAPacket;
            }
        }
        let Some(&length) = bytes.get(3) else {
            return Candidate::Incomplete;
        };
        let total = usize::from(length) + 4;
        if bytes.len() < total {
            return Candidate::Incomplete;
        }
        if checksum(&bytes[2..total - 1]) == bytes[total - 1] {
            Candidate::Valid { len: total }
        } else {
            Candidate::BadChecksum {
                claimed_id: bytes[2],
            }
        }
    }

    fn is_possible_length(&self, length: u8) -> bool {
        let Some(parameters) = usize::from(length).checked_sub(2) else {
            return false;
        };
        match self.expected_parameters {
            Some(expected) => parameters == expected,
            None => parameters <= MAX_PARAMETERS,
        }
    }

    fn take(&mut self, len: usize) -> StatusPacket {
        let bytes = &self.buffer[self.start..self.start + len];
        let count = (len - OVERHEAD).min(MAX_PARAMETERS);
        let mut parameters = [0; MAX_PARAMETERS];
        parameters[..count].copy_from_slice(&bytes[5..5 + count]);
        let packet = StatusPacket {
            id: bytes[2],
            status: StatusError::from_bits(bytes[4]),
            parameters,
            len: count,
        };
        self.start += len;
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_BYTES, MAX_PARAMETERS, ParserEvent, StatusPacket, StatusParser};
    use crate::feetech::packet::{PacketBuffer, checksum};
    use crate::feetech::status::StatusError;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    fn packets_of(parser: &mut StatusParser, mut bytes: &[u8]) -> Vec<StatusPacket> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let taken = parser.push(bytes);
            bytes = &bytes[taken..];
            while let Some(event) = parser.next() {
                if let ParserEvent::Packet(packet) = event {
                    found.push(packet);
                }
            }
        }
        found
    }

    /// The plainest possible statement of what is in a byte string.
    fn packets_by_definition(bytes: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at + 6 <= bytes.len() {
            let (id, length) = (bytes[at + 2], usize::from(bytes[at + 3]));
            let shape = bytes[at] == 0xFF
                && bytes[at + 1] == 0xFF
                && id <= 0xFD
                && (2..=MAX_PARAMETERS + 2).contains(&length)
                && at + 4 + length <= bytes.len();
            if shape && checksum(&bytes[at + 2..at + 3 + length]) == bytes[at + 3 + length] {
                found.push((id, bytes[at + 4], bytes[at + 5..at + 3 + length].to_vec()));
                at += 4 + length;
            } else {
                at += 1;
            }
        }
        found
    }

    #[test]
    fn finds_the_sync_read_replies_of_the_manual() {
        // Feetech's "SMS/STS communication protocol manual", chapter "sync read": the replies of
        // servos 1 and 2 to FF FF FE 06 82 38 08 01 02 36.
        let line = [
            0xFF, 0xFF, 0x01, 0x0A, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x79, 0x1E, 0x55,
            0xFF, 0xFF, 0x02, 0x0A, 0x00, 0xFF, 0x07, 0x00, 0x00, 0x00, 0x00, 0x77, 0x23, 0x53,
        ];
        let mut parser = StatusParser::new();
        parser.expect(Some(8));
        let packets = packets_of(&mut parser, &line);
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].id, 1);
        assert_eq!(
            packets[0].parameters(),
            [0x00, 0x08, 0, 0, 0, 0, 0x79, 0x1E]
        );
        assert_eq!(
            packets[1].parameters(),
            [0xFF, 0x07, 0, 0, 0, 0, 0x77, 0x23]
        );
        assert_eq!(parser.garbage_bytes(), 0);
    }

    #[test]
    fn reports_error_bits_and_bad_checksums() {
        let mut parser = StatusParser::new();
        let faulty = PacketBuffer::raw(3, 0x24, &[1, 2]).unwrap();
        let packets = packets_of(&mut parser, faulty.as_bytes());
        assert_eq!(
            packets[0].status,
            StatusError::OVERHEAT.union(StatusError::OVERLOAD)
        );

        let mut bytes = faulty.as_bytes().to_vec();
        bytes[5] ^= 0x10;
        parser.push(&bytes);
        assert_eq!(
            parser.next(),
            Some(ParserEvent::BadChecksum { claimed_id: 3 })
        );
        assert_eq!(parser.next(), None);
        assert_eq!(parser.next_at_end(), None);
        assert_eq!(
            (parser.bad_checksums(), parser.garbage_bytes()),
            (1, bytes.len() as u64)
        );
    }

    #[test]
    fn a_corrupted_length_costs_one_reply_when_the_length_is_known() {
        let mut line = PacketBuffer::raw(1, 0, &[1, 2])
            .unwrap()
            .as_bytes()
            .to_vec();
        line[3] = 60;
        line.extend_from_slice(PacketBuffer::raw(2, 0, &[3, 4]).unwrap().as_bytes());
        let mut knowing = StatusParser::new();
        knowing.expect(Some(2));
        assert_eq!(packets_of(&mut knowing, &line).len(), 1);

        // Without the expectation the second reply is only found when the wait ends.
        let mut guessing = StatusParser::new();
        assert_eq!(packets_of(&mut guessing, &line).len(), 0);
        assert!(
            matches!(guessing.next_at_end(), Some(ParserEvent::Packet(packet)) if packet.id == 2)
        );
    }

    #[test]
    fn takes_more_than_its_buffer_in_pieces() {
        let mut parser = StatusParser::new();
        assert_eq!(packets_of(&mut parser, &[0xAA; 3 * BUFFER_BYTES]), vec![]);
        assert_eq!(parser.garbage_bytes(), 3 * BUFFER_BYTES as u64);
    }

    /// Byte soup rich in header bytes and small lengths, so that false starts are common.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop::sample::select(vec![0xFF, 0xFF, 0xFF, 0x01, 0x02, 0x03, 0x04, 0xFE, 0xFB]);
        prop::collection::vec(proptest::prop_oneof![byte, any::<u8>()], 0..600)
    }

    proptest! {
        #[test]
        fn finds_exactly_what_is_there_however_it_arrives(
            garbage in soup(), cuts in prop::collection::vec(1..40_usize, 1..8),
            id in 0..=0xFD_u8, error: u8, data in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut line = garbage;
            line.extend_from_slice(PacketBuffer::raw(id, error, &data).unwrap().as_bytes());
            let mut parser = StatusParser::new();
            let mut found = Vec::new();
            let mut rest = &line[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                found.extend(packets_of(&mut parser, piece));
                rest = later;
            }
            while let Some(event) = parser.next_at_end() {
                if let ParserEvent::Packet(packet) = event { found.push(packet); }
            }
            let expected = packets_by_definition(&line);
            let in_packets: usize = found.iter().map(|packet| packet.parameters().len() + 6).sum();
            prop_assert_eq!(parser.garbage_bytes() as usize + in_packets, line.len());
            let found: Vec<_> = found
                .iter()
                .map(|packet| (packet.id, packet.status.bits(), packet.parameters().to_vec()))
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn finds_a_packet_behind_garbage_without_waiting(
            garbage in prop::collection::vec(0..0xFF_u8, 0..300),
            id in 0..=0xFD_u8, data in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let packet = PacketBuffer::raw(id, 0, &data).unwrap();
            let mut parser = StatusParser::new();
            parser.expect(Some(data.len()));
            packets_of(&mut parser, &garbage);
            let found = packets_of(&mut parser, packet.as_bytes());
            prop_assert!(found.iter().any(|found| found.id == id && found.parameters() == data));
        }
    }
}
