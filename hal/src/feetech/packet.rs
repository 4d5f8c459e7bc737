//! Instruction packets: encoding into a fixed buffer, and the checksum.
//!
//! `FF FF id length instruction parameters… checksum`, where length counts the parameters plus two
//! and the checksum is the complement of the low byte of the sum from id to the last parameter.
//! Everything here is rt-safe: a packet is built on the stack, and one that would not fit is a
//! `None`, never a panic.

/// Addresses every servo on the line; only ping, read-less writes and sync instructions use it.
pub const BROADCAST_ID: u8 = 0xFE;
/// The highest id a servo can have.
pub const MAX_ID: u8 = 0xFD;
/// Header, id, length, instruction or error byte, checksum.
pub const OVERHEAD: usize = 6;
/// Largest packet on the line. The length byte (at most 0xFF) counts everything after itself, and
/// four bytes precede that: header, id and the length byte.
pub const MAX_PACKET: usize = 255 + 4;

/// What a packet asks a servo to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Instruction {
    /// Answer with a status packet.
    Ping = 0x01,
    /// Answer with the contents of registers.
    Read = 0x02,
    /// Change registers now.
    Write = 0x03,
    /// Change registers when `Action` comes.
    RegWrite = 0x04,
    /// Carry out the stored `RegWrite`.
    Action = 0x05,
    /// Read the same registers of several servos, which answer one after another.
    SyncRead = 0x82,
    /// Write the same registers of several servos; nobody answers.
    SyncWrite = 0x83,
}

impl Instruction {
    /// The instruction with this code, if the servo knows it.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x01 => Self::Ping,
            0x02 => Self::Read,
            0x03 => Self::Write,
            0x04 => Self::RegWrite,
            0x05 => Self::Action,
            0x82 => Self::SyncRead,
            0x83 => Self::SyncWrite,
            _ => return None,
        })
    }
}

/// The checksum over `bytes`, which run from the id to the last parameter.
#[must_use]
pub const fn checksum(bytes: &[u8]) -> u8 {
    let mut sum: u8 = 0;
    let mut index = 0;
    while index < bytes.len() {
        sum = sum.wrapping_add(bytes[index]);
        index += 1;
    }
    !sum
}

/// A packet being built, in place, on the stack.
#[derive(Clone, Copy)]
pub struct PacketBuffer {
    bytes: [u8; MAX_PACKET],
    len: usize,
}

impl PacketBuffer {
    /// A packet of any kind: `code` is an instruction, or the error byte of a status packet.
    /// `None` when the parameters do not fit.
    #[must_use]
    pub fn raw(id: u8, code: u8, parameters: &[u8]) -> Option<Self> {
        let mut packet = Self::begin(id, code);
        packet.extend(parameters)?;
        Some(packet.finish())
    }

    /// Asks whether servo `id` is there.
    #[must_use]
    pub fn ping(id: u8) -> Self {
        Self::begin(id, Instruction::Ping as u8).finish()
    }

    /// Reads `len` bytes from `address` of one servo.
    #[must_use]
    pub fn read(id: u8, address: u8, len: u8) -> Self {
        let mut packet = Self::begin(id, Instruction::Read as u8);
        packet.push(address);
        packet.push(len);
        packet.finish()
    }

    /// Writes `data` from `address` on of one servo (or of all, with [`BROADCAST_ID`]).
    #[must_use]
    pub fn write(id: u8, address: u8, data: &[u8]) -> Option<Self> {
        Self::addressed(id, Instruction::Write, address, data)
    }

    /// Stores a write that [`PacketBuffer::action`] carries out.
    #[must_use]
    pub fn reg_write(id: u8, address: u8, data: &[u8]) -> Option<Self> {
        Self::addressed(id, Instruction::RegWrite, address, data)
    }

    /// Carries out the stored writes of every servo at once.
    #[must_use]
    pub fn action() -> Self {
        Self::begin(BROADCAST_ID, Instruction::Action as u8).finish()
    }

    /// Reads `len` bytes from `address` of each servo in `ids`, which answer in that order.
    #[must_use]
    pub fn sync_read(ids: &[u8], address: u8, len: u8) -> Option<Self> {
        let mut packet = Self::begin(BROADCAST_ID, Instruction::SyncRead as u8);
        packet.extend(&[address, len])?;
        packet.extend(ids)?;
        Some(packet.finish())
    }

    /// Writes to `address` of each servo in `ids` its own `len` bytes, taken from `data` in order.
    /// `None` when `data` is not exactly `ids.len() * len` bytes or the packet does not fit.
    #[must_use]
    pub fn sync_write(ids: &[u8], address: u8, len: u8, data: &[u8]) -> Option<Self> {
        if len == 0 || data.len() != ids.len() * usize::from(len) {
            return None;
        }
        let mut packet = Self::begin(BROADCAST_ID, Instruction::SyncWrite as u8);
        packet.extend(&[address, len])?;
        for (id, chunk) in ids.iter().zip(data.chunks_exact(usize::from(len))) {
            packet.extend(&[*id])?;
            packet.extend(chunk)?;
        }
        Some(packet.finish())
    }

    /// The bytes to put on the line.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn addressed(id: u8, instruction: Instruction, address: u8, data: &[u8]) -> Option<Self> {
        let mut packet = Self::begin(id, instruction as u8);
        packet.extend(&[address])?;
        packet.extend(data)?;
        Some(packet.finish())
    }

    fn begin(id: u8, code: u8) -> Self {
        let mut bytes = [0; MAX_PACKET];
        bytes[..5].copy_from_slice(&[0xFF, 0xFF, id, 0, code]);
        Self { bytes, len: 5 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn extend(&mut self, more: &[u8]) -> Option<()> {
        let end = self.len.checked_add(more.len())?;
        // One byte is kept for the checksum.
        if end >= MAX_PACKET {
            return None;
        }
        self.bytes[self.len..end].copy_from_slice(more);
        self.len = end;
        Some(())
    }

    fn finish(mut self) -> Self {
        // After the length byte come everything already there past index 3, and the checksum.
        self.bytes[3] = u8::try_from(self.len - 3).unwrap_or(u8::MAX);
        self.push(checksum(&self.bytes[2..self.len]));
        self
    }
}

impl core::fmt::Debug for PacketBuffer {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "PacketBuffer({:02X?})", self.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::{BROADCAST_ID, MAX_PACKET, PacketBuffer};

    // The byte strings of the next tests are the worked examples of Feetech's "SMS/STS
    // communication protocol manual", chapter "instruction types".

    #[test]
    fn ping_matches_the_manual() {
        assert_eq!(
            PacketBuffer::ping(1).as_bytes(),
            [0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB]
        );
        let answer = PacketBuffer::raw(1, 0, &[]).unwrap();
        assert_eq!(answer.as_bytes(), [0xFF, 0xFF, 0x01, 0x02, 0x00, 0xFC]);
    }

    #[test]
    fn read_of_present_position_matches_the_manual() {
        let request = PacketBuffer::read(1, 0x38, 2);
        assert_eq!(
            request.as_bytes(),
            [0xFF, 0xFF, 0x01, 0x04, 0x02, 0x38, 0x02, 0xBE]
        );
        let answer = PacketBuffer::raw(1, 0, &[0x18, 0x05]).unwrap();
        assert_eq!(
            answer.as_bytes(),
            [0xFF, 0xFF, 0x01, 0x04, 0x00, 0x18, 0x05, 0xDD]
        );
    }

    #[test]
    fn write_matches_the_manual() {
        let set_id = PacketBuffer::write(BROADCAST_ID, 0x05, &[0x01]).unwrap();
        assert_eq!(
            set_id.as_bytes(),
            [0xFF, 0xFF, 0xFE, 0x04, 0x03, 0x05, 0x01, 0xF4]
        );
        let goal = PacketBuffer::write(1, 0x2A, &[0x00, 0x08, 0x00, 0x00, 0xE8, 0x03]).unwrap();
        assert_eq!(
            goal.as_bytes(),
            [
                0xFF, 0xFF, 0x01, 0x09, 0x03, 0x2A, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03, 0xD5
            ]
        );
    }

    #[test]
    fn reg_write_and_action_match_the_manual() {
        let stored =
            PacketBuffer::reg_write(1, 0x2A, &[0x00, 0x08, 0x00, 0x00, 0xE8, 0x03]).unwrap();
        assert_eq!(
            stored.as_bytes(),
            [
                0xFF, 0xFF, 0x01, 0x09, 0x04, 0x2A, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03, 0xD4
            ]
        );
        assert_eq!(
            PacketBuffer::action().as_bytes(),
            [0xFF, 0xFF, 0xFE, 0x02, 0x05, 0xFA]
        );
    }

    #[test]
    fn sync_write_matches_the_manual() {
        let one = [0x00, 0x08, 0x00, 0x00, 0xE8, 0x03];
        let data = [one, one, one, one].concat();
        let packet = PacketBuffer::sync_write(&[1, 2, 3, 4], 0x2A, 6, &data).unwrap();
        let expected = [
            &[0xFF, 0xFF, 0xFE, 0x20, 0x83, 0x2A, 0x06][..],
            &[0x01, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03],
            &[0x02, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03],
            &[0x03, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03],
            &[0x04, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03, 0x58],
        ]
        .concat();
        assert_eq!(packet.as_bytes(), expected);
    }

    #[test]
    fn sync_read_matches_the_manual() {
        let packet = PacketBuffer::sync_read(&[1, 2], 0x38, 8).unwrap();
        assert_eq!(
            packet.as_bytes(),
            [0xFF, 0xFF, 0xFE, 0x06, 0x82, 0x38, 0x08, 0x01, 0x02, 0x36]
        );
    }

    #[test]
    fn refuses_what_does_not_fit() {
        // 252 data bytes and the address give the largest length byte, 0xFF.
        let largest = PacketBuffer::write(1, 0, &[0; 252]).unwrap();
        assert_eq!(largest.as_bytes().len(), MAX_PACKET);
        assert_eq!(largest.as_bytes()[3], 0xFF);
        assert!(PacketBuffer::write(1, 0, &[0; 253]).is_none());
        assert!(PacketBuffer::sync_write(&[1, 2], 0x2A, 2, &[0; 3]).is_none());
        assert!(PacketBuffer::sync_write(&[], 0x2A, 0, &[]).is_none());
        assert!(PacketBuffer::sync_read(&[1; 300], 0x38, 2).is_none());
    }
}
