//! Feetech STS/SMS servos (STS3215 and relatives): codec, registers, and a bus of them.
//!
//! - [`packet`]: instruction packets into fixed buffers, checksums.
//! - [`parser`]: status packets out of a dirty byte stream, with resynchronisation.
//! - [`registers`]: addresses, widths, encodings and units of the STS3215.
//! - [`status`]: the error bits every reply carries.
//! - [`bus`]: transactions with several servos where one bad packet costs one sample.
//! - [`sample`]: what comes out of them: samples, outcomes, counters.
//!
//! The wire format is that of Feetech's "communication protocol manual" for SMS/STS servos
//! (protocol "0" of its SDKs): little-endian words, `FF FF id length body checksum`. The older SCS
//! servos are big-endian and are not supported.

pub mod bus;
mod collector;
pub mod packet;
pub mod parser;
pub mod registers;
pub mod sample;
pub mod status;

pub use bus::{MAX_SERVOS, ServoBus, ServoBusError};
pub use packet::{BROADCAST_ID, Instruction, MAX_ID, PacketBuffer};
pub use parser::{ParserEvent, StatusPacket, StatusParser};
pub use registers::{Access, Encoding, PresentState, Register};
pub use sample::{BusCounters, ReadSummary, ServoCounters, ServoOutcome, ServoSample};
pub use status::StatusError;
