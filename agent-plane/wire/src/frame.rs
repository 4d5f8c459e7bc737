//! Frames: the 8-byte header, its limits, and a decoder that is fed whatever bytes arrived.
//!
//! The decoder does no I/O, so an async reader, a blocking reader and a test drive the same code.
//! It looks at a header as soon as its eight bytes are there and refuses it before a byte of the
//! payload is kept. What it holds is at most one read's worth of bytes beyond the frame under way.

/// "KA", big-endian.
pub const MAGIC: [u8; 2] = [0x4b, 0x41];
/// The one version there is.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Client to kernel.
    Request = 1,
    /// Kernel to client, one for each request that has an id.
    Response = 2,
    /// Kernel to client, to a subscription.
    Event = 3,
    /// Kernel to client, bulk data of a subscription.
    StreamChunk = 4,
}

impl FrameKind {
    /// The kind that `number` stands for, if any.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Event),
            4 => Some(Self::StreamChunk),
            _ => None,
        }
    }
}

/// What a peer may send. The defaults are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload of a request, a response or an event, bytes.
    pub control_bytes: usize,
    /// Longest payload of a stream chunk, bytes.
    pub chunk_bytes: usize,
    /// Deepest nesting of a payload, at most [`crate::scan::MAX_DEPTH`].
    pub depth: usize,
    /// Most MsgPack values in a payload: bounds what one small frame can make a decoder build
    /// (a byte of nil becomes a value of some 40 bytes).
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            control_bytes: 1024 * 1024,
            chunk_bytes: 16 * 1024 * 1024,
            depth: 64,
            values: 65_536,
        }
    }
}

/// Longest payload of a request or a response over a connection that negotiated the feature
/// `large_frames`, bytes. What is longer travels as a stream, or in a descriptor.
pub const LARGE_CONTROL_BYTES: usize = 8 * 1024 * 1024;

impl Limits {
    /// The longest payload of a frame of that kind, bytes.
    pub const fn payload_bytes(&self, kind: FrameKind) -> usize {
        match kind {
            FrameKind::StreamChunk => self.chunk_bytes,
            FrameKind::Request | FrameKind::Response | FrameKind::Event => self.control_bytes,
        }
    }
}

/// A header that cannot be accepted. The stream cannot be resynchronised after it: close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not our protocol.
    #[error("the frame begins with {found:02x?}, expected \"KA\": is this a KairoOS IPC peer?")]
    Magic {
        /// What came instead.
        found: [u8; 2],
    },
    /// Another version.
    #[error("frame version {found} is not spoken here, only {VERSION}")]
    Version {
        /// What came.
        found: u8,
    },
    /// No such kind.
    #[error("frame type {found} is unknown (1 request, 2 response, 3 event, 4 stream chunk)")]
    Kind {
        /// What came.
        found: u8,
    },
    /// Longer than allowed.
    #[error("a frame of {bytes} bytes exceeds the limit of {limit} bytes for its type")]
    TooLong {
        /// What the header claims.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// The MsgPack payload, not looked at yet.
    pub payload: Vec<u8>,
}

/// The header of a frame of `kind` with a payload of `length` bytes.
pub fn header(kind: FrameKind, length: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [MAGIC[0], MAGIC[1], VERSION, kind as u8, a, b, c, d]
}

/// Reads a header: what follows it and how many bytes.
///
/// # Errors
/// See [`FrameError`].
pub fn parse_header(
    header: [u8; HEADER_BYTES],
    limits: &Limits,
) -> Result<(FrameKind, usize), FrameError> {
    let [m0, m1, version, kind, a, b, c, d] = header;
    if [m0, m1] != MAGIC {
        return Err(FrameError::Magic { found: [m0, m1] });
    }
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let kind = FrameKind::from_u8(kind).ok_or(FrameError::Kind { found: kind })?;
    let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
    let limit = limits.payload_bytes(kind);
    if bytes > limit {
        return Err(FrameError::TooLong { bytes, limit });
    }
    Ok((kind, bytes))
}

/// Turns a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// A decoder with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// Takes bytes that arrived. Call [`Decoder::next_frame`] until it gives none before feeding
    /// more: that keeps what is held within one frame and one read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or none while more bytes are needed.
    ///
    /// # Errors
    /// See [`FrameError`]; the decoder is of no use after one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((head, body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return self.check_prefix().map(|()| None);
        };
        let (kind, length) = parse_header(*head, &self.limits)?;
        let Some(payload) = body.get(..length) else {
            return Ok(None);
        };
        if self.start == 0 && payload.len() > RETAINED_BYTES && body.len() == length {
            // A large frame that is alone in the buffer becomes the payload: moved, not copied.
            let mut payload = std::mem::take(&mut self.buffer);
            payload.drain(..HEADER_BYTES);
            return Ok(Some(Frame { kind, payload }));
        }
        let payload = payload.to_vec();
        self.start += HEADER_BYTES + length;
        if self.start == self.buffer.len() {
            self.start = 0;
            // A large frame must not keep its memory for the life of an idle connection.
            if self.buffer.capacity() > RETAINED_BYTES {
                self.buffer = Vec::new();
            } else {
                self.buffer.clear();
            }
        }
        Ok(Some(Frame { kind, payload }))
    }

    /// Takes other limits from the next header on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What the frame under way announces: its kind, and the bytes of its payload; none before its
    /// header is whole.
    pub fn announced(&self) -> Option<(FrameKind, usize)> {
        let rest = &self.buffer[self.start..];
        parse_header(*rest.first_chunk()?, &self.limits).ok()
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The bytes of an unfinished or refused frame after its header, as far as they came.
    pub fn unfinished_payload(&self) -> &[u8] {
        let rest = &self.buffer[self.start..];
        rest.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Refuses a wrong magic as soon as its bytes are there.
    fn check_prefix(&self) -> Result<(), FrameError> {
        let rest = &self.buffer[self.start..];
        match rest {
            // The first byte alone is not judged: the error would name a second that never came,
            // and be another than for the same bytes in one piece.
            [] | [_] => Ok(()),
            [first, second, ..] if [*first, *second] == MAGIC => Ok(()),
            [first, second, ..] => Err(FrameError::Magic {
                found: [*first, *second],
            }),
        }
    }
}

/// Buffer that an idle connection keeps, bytes.
const RETAINED_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop};

    fn encoded(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(kind, payload.len() as u32).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn the_header_is_the_published_one() {
        assert_eq!(
            header(FrameKind::StreamChunk, 0x0102_0304),
            [0x4b, 0x41, 1, 4, 1, 2, 3, 4]
        );
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_payload_is_held() {
        let mut decoder = Decoder::default();
        decoder.feed(&header(FrameKind::Request, 1024 * 1024 + 1));
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::TooLong {
                bytes: 1024 * 1024 + 1,
                limit: 1024 * 1024
            })
        );
        let mut decoder = Decoder::default();
        decoder.feed(&header(FrameKind::StreamChunk, 16 * 1024 * 1024));
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.buffer.capacity() < 1024);
    }

    #[test]
    fn the_error_does_not_depend_on_where_the_bytes_were_cut() {
        let mut decoder = Decoder::default();
        decoder.feed(b"G");
        assert_eq!(decoder.next_frame(), Ok(None));
        decoder.feed(b"ET");
        let refused = decoder.next_frame();
        assert_eq!(refused, Err(FrameError::Magic { found: *b"GE" }));
    }

    #[test]
    fn wrong_magic_version_and_type_are_told_apart() {
        let refuse = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(refuse(b"GE"), FrameError::Magic { found: *b"GE" });
        assert_eq!(
            refuse(&[0x4b, 0x41, 2, 1, 0, 0, 0, 0]),
            FrameError::Version { found: 2 }
        );
        assert_eq!(
            refuse(&[0x4b, 0x41, 1, 5, 0, 0, 0, 0]),
            FrameError::Kind { found: 5 }
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None, ..Default::default()
        })]

        /// However the bytes are cut, the same frames come out.
        #[test]
        fn frames_survive_any_fragmentation(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cut in 1_usize..97,
        ) {
            let bytes: Vec<u8> = payloads
                .iter()
                .flat_map(|payload| encoded(FrameKind::Event, payload))
                .collect();
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push(frame.payload);
                }
            }
            assert_eq!(found, payloads);
            assert!(!decoder.is_mid_frame());
        }

        /// A truncated stream gives the whole frames and waits for the rest.
        #[test]
        fn truncation_never_invents_a_frame(
            payload in prop::collection::vec(any::<u8>(), 1..200), missing in 1_usize..200,
        ) {
            let bytes = encoded(FrameKind::Request, &payload);
            let kept = bytes.len().saturating_sub(missing).max(1);
            let mut decoder = Decoder::default();
            decoder.feed(&bytes[..kept.min(bytes.len() - 1)]);
            assert_eq!(decoder.next_frame(), Ok(None));
            assert!(decoder.is_mid_frame());
        }

        /// Byte soup ends in an error or in waiting, never in a panic.
        #[test]
        fn byte_soup_cannot_panic(soup in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            decoder.feed(&soup);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
