//! Record files (`.krec`): a header that says everything needed to read it, then framed records.
//!
//! Ordinary threads only. `docs/reference/record-format.md` describes the bytes.
//!
//! A file is written front to back and may end anywhere: at a power cut, a full disk, a kill. So
//! each frame carries its length and a checksum, and the reader gives every whole frame before the
//! first that is not, and says where and how many bytes it dropped. It never takes a length from a
//! file for granted: memory is bounded by [`PAYLOAD_BYTES_MAX`] and [`HEADER_BYTES_MAX`] whatever
//! the bytes are. Nothing is repaired in place.

use std::io::{ErrorKind, Read};

use serde::{Deserialize, Serialize};

/// First bytes of a file. The line ends show a transfer that changed them.
pub const MAGIC: [u8; 8] = *b"KREC\r\n\x1a\n";
/// Version of everything after the magic. A reader takes its own and refuses others.
pub const VERSION: u32 = 1;
/// Longest header: a robot.toml of some hundred kilobytes.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Longest payload of a frame: the longest record of the ring.
pub const PAYLOAD_BYTES_MAX: usize = crate::ring::RECORD_WORDS_MAX * 8;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 24;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// One tick of a loop: entries, in the order in which the tick read and wrote them.
    Tick = 1,
    /// A loop's whole state before the tick that follows: replay can begin here.
    Keyframe = 2,
    /// Records are missing before the next frame of this loop: two words, the number of the first
    /// one missing and how many.
    Gap = 3,
    /// The recording ended in order.
    End = 4,
}

impl Kind {
    /// The kind of this number, if any.
    pub const fn from_u16(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Tick),
            2 => Some(Self::Keyframe),
            3 => Some(Self::Gap),
            4 => Some(Self::End),
            _ => None,
        }
    }
}

/// Why a file was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// By the recorder, as it ran.
    Recorder,
    /// After a crash, out of the black box that kairo-rt left behind.
    BlackBox,
}

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Why the file was made.
    pub origin: Origin,
    /// The program that recorded.
    pub build: Build,
    /// The robot's name.
    pub robot: String,
    /// The whole robot.toml.
    pub robot_toml: String,
    /// The file it came from: plug-ins are looked for beside it.
    #[serde(default)]
    pub robot_toml_path: String,
    /// CRC-32 of `robot_toml`.
    pub robot_toml_crc32: u32,
    /// Which run of kairo-rt recorded: the same in all its files.
    pub session: u64,
    /// Number of this file in the run.
    pub segment: u64,
    /// CLOCK_MONOTONIC when the run began, ns.
    pub started_monotonic_ns: u64,
    /// CLOCK_REALTIME at the same moment, ns since 1970. For people; no record depends on it.
    pub started_realtime_ns: u64,
    /// The loops, by the index in frames.
    pub loops: Vec<LoopHeader>,
    /// The entries of ticks.
    pub entries: Vec<EntryHeader>,
}

/// The program that recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// CRC-32 of the executable: another build may well compute another bit.
    pub executable_crc32: u32,
}

/// A loop and its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoopHeader {
    /// Its name.
    pub name: String,
    /// Its period.
    pub period_ns: u64,
    /// Its devices, by the index in entries.
    pub devices: Vec<DeviceHeader>,
    /// Its blocks, by the index in entries.
    #[serde(default)]
    pub blocks: Vec<BlockHeader>,
}

/// A control block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its outputs.
    pub outputs: Vec<String>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceHeader {
    /// Its name.
    pub name: String,
    /// Its joints, in command order.
    pub joints: Vec<String>,
}

/// What an entry of a tick is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryHeader {
    /// Its tag.
    pub tag: u16,
    /// Its name.
    pub name: String,
    /// What its index counts: `loop` (nothing, it is zero), `device`, or another noun.
    pub of: String,
    /// `input` or `output`.
    pub direction: String,
    /// `NAME:TYPE` of each word; TYPE is `u64` or `f64`. Zeros at the end are left out.
    pub words: Vec<String>,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is; other numbers are of later versions and can be passed over.
    pub kind: u16,
    /// Whose it is.
    pub loop_index: u16,
    /// Its number among the records of the loop.
    pub sequence: u64,
    /// Its words.
    pub payload: Vec<u64>,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not to be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Another kind of file.
    #[error("is not a KairoOS record: it does not begin with {MAGIC:?}")]
    NotARecord,
    /// Another version.
    #[error(
        "is of format version {found}, this program reads {VERSION}; use the kairo that made it"
    )]
    Version {
        /// What the file says.
        found: u32,
    },
    /// The header is damaged.
    #[error("has a damaged header: {what}; nothing after it can be read")]
    Header {
        /// What is wrong.
        what: String,
    },
}

/// What follows the last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Not there yet.
    Unknown,
    /// Nothing.
    Clean,
    /// Bytes that are no whole frame: the write was cut off, or they were damaged later.
    Torn {
        /// Where they begin.
        at_byte: u64,
    },
}

/// The first bytes of a file with this header.
///
/// # Errors
/// When the header is too long.
pub fn encode_header(header: &Header) -> Result<Vec<u8>, FileError> {
    let wrong = |what: String| FileError::Header { what };
    let json = serde_json::to_vec(header).map_err(|error| wrong(error.to_string()))?;
    if json.len() > HEADER_BYTES_MAX {
        let what = format!("{} bytes are more than {HEADER_BYTES_MAX}", json.len());
        return Err(wrong(what));
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(&json);
    bytes.extend(crc32fast::hash(&json).to_le_bytes());
    Ok(bytes)
}

/// Appends a frame to `bytes`.
pub fn encode_frame(bytes: &mut Vec<u8>, kind: u16, loop_index: u16, sequence: u64, words: &[u64]) {
    let start = bytes.len();
    bytes.extend(((words.len() * 8) as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(loop_index.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(sequence.to_le_bytes());
    for word in words {
        bytes.extend(word.to_le_bytes());
    }
    let sum = checksum(&bytes[start..]);
    bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Of a whole frame, leaving out the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Reads a file frame by frame.
#[derive(Debug)]
pub struct FileReader<R> {
    source: R,
    header: Header,
    position: u64,
    tail: Tail,
    frame: Vec<u8>,
}

impl<R: Read> FileReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn new(mut source: R) -> Result<Self, FileError> {
        let mut start = [0; 16];
        match source.read_exact(&mut start) {
            Ok(()) => (),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(FileError::NotARecord);
            }
            Err(error) => return Err(error.into()),
        }
        if start[..8] != MAGIC {
            return Err(FileError::NotARecord);
        }
        let found = word32(&start[8..]);
        if found != VERSION {
            return Err(FileError::Version { found });
        }
        let wrong = |what: String| FileError::Header { what };
        let length = word32(&start[12..]) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(wrong(format!("it claims {length} bytes")));
        }
        let mut json = Vec::new();
        (&mut source)
            .take(length as u64 + 4)
            .read_to_end(&mut json)?;
        if json.len() != length + 4 {
            return Err(wrong("it is cut off".to_owned()));
        }
        let sum = word32(&json[length..]);
        json.truncate(length);
        if sum != crc32fast::hash(&json) {
            return Err(wrong("its checksum is wrong".to_owned()));
        }
        let header = serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            source,
            header,
            position: (20 + length) as u64,
            tail: Tail::Unknown,
            frame: Vec::new(),
        })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What follows the last whole frame, once [`Self::next_frame`] has said `None`.
    pub const fn tail(&self) -> Tail {
        self.tail
    }

    /// The next whole frame; `None` at the end or at the first byte that is none of a whole frame.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn next_frame(&mut self) -> std::io::Result<Option<Frame>> {
        if self.tail != Tail::Unknown {
            return Ok(None);
        }
        self.frame.clear();
        let torn = Tail::Torn {
            at_byte: self.position,
        };
        self.tail = match self.fill(FRAME_HEADER_BYTES)? {
            0 => Tail::Clean,
            FRAME_HEADER_BYTES => Tail::Unknown,
            _ => torn,
        };
        if self.tail != Tail::Unknown {
            return Ok(None);
        }
        let length = word32(&self.frame) as usize;
        let plausible = length <= PAYLOAD_BYTES_MAX && length.is_multiple_of(8);
        if !plausible
            || self.fill(length)? != length
            || checksum(&self.frame) != word32(&self.frame[4..])
        {
            self.tail = torn;
            return Ok(None);
        }
        self.position += self.frame.len() as u64;
        let (head, payload) = self.frame.split_at(FRAME_HEADER_BYTES);
        let words = payload.chunks_exact(8).map(word64);
        Ok(Some(Frame {
            kind: u16::from_le_bytes([head[8], head[9]]),
            loop_index: u16::from_le_bytes([head[10], head[11]]),
            sequence: word64(&head[16..]),
            payload: words.collect(),
        }))
    }

    /// Appends up to `count` bytes to the frame; how many there were.
    fn fill(&mut self, count: usize) -> std::io::Result<usize> {
        let limited = (&mut self.source).take(count as u64);
        let mut limited = limited;
        limited.read_to_end(&mut self.frame)
    }
}

fn word32(bytes: &[u8]) -> u32 {
    bytes[..4]
        .iter()
        .rev()
        .fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

fn word64(bytes: &[u8]) -> u64 {
    bytes[..8]
        .iter()
        .rev()
        .fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests;
