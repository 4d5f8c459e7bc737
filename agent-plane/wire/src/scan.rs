//! The check that every payload passes before a value is built from it.
//!
//! One pass over the bytes with a stack of fixed size: no allocation, no recursion, at most one
//! step per byte. It refuses what a decoder might otherwise pay for: nesting deeper than the
//! limit, more values than the limit, a container or string longer than the bytes that remain,
//! text that is not UTF-8, extension types (the protocol has none), and trailing bytes.

use crate::error::MAX_ID_BYTES;
use crate::message::Id;

/// Deepest nesting that any limit may allow; the size of the scanner's stack.
pub const MAX_DEPTH: usize = 64;

/// Why a payload is not acceptable MsgPack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The payload ends in the middle of a value.
    #[error("the payload ends inside a value that begins at byte {at}")]
    Truncated {
        /// Where the unfinished value begins.
        at: usize,
    },
    /// A container or a text claims more than there is.
    #[error("a length at byte {at} claims {claimed} elements, and {left} bytes are left")]
    Length {
        /// Where the claim stands.
        at: usize,
        /// What it claims.
        claimed: u64,
        /// Bytes that are left.
        left: usize,
    },
    /// Nested too deeply.
    #[error("nested deeper than {limit} levels at byte {at}")]
    Depth {
        /// Where the container too many begins.
        at: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many values.
    #[error("more than {limit} values")]
    Values {
        /// The limit.
        limit: usize,
    },
    /// A text is not UTF-8.
    #[error("the text at byte {at} is not UTF-8")]
    Utf8 {
        /// Where it begins.
        at: usize,
    },
    /// A byte that begins nothing this protocol knows.
    #[error("byte {byte:#04x} at {at} begins no value of this protocol")]
    Marker {
        /// Where it stands.
        at: usize,
        /// The byte.
        byte: u8,
    },
    /// More bytes follow the one value that a payload is.
    #[error("{count} bytes follow the message")]
    Trailing {
        /// How many.
        count: usize,
    },
}

/// What one marker announces.
enum Head {
    /// A value without children; `bytes` of body follow the head.
    Scalar { bytes: u64, text: bool },
    /// A container of so many values.
    Container { values: u64 },
}

/// Reads the head at `at`: what it is and how long the head itself is.
fn head(payload: &[u8], at: usize) -> Result<(Head, usize), ScanError> {
    let truncated = ScanError::Truncated { at };
    let byte = *payload.get(at).ok_or(truncated)?;
    let number = |width: usize| -> Result<u64, ScanError> {
        let digits = payload.get(at + 1..at + 1 + width).ok_or(truncated)?;
        Ok(digits
            .iter()
            .fold(0, |value, digit| value << 8 | u64::from(*digit)))
    };
    let scalar = |bytes| Head::Scalar { bytes, text: false };
    let text = |bytes| Head::Scalar { bytes, text: true };
    let container = |values| Head::Container { values };
    Ok(match byte {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (scalar(0), 1),
        0x80..=0x8f => (container(2 * u64::from(byte & 0x0f)), 1),
        0x90..=0x9f => (container(u64::from(byte & 0x0f)), 1),
        0xa0..=0xbf => (text(u64::from(byte & 0x1f)), 1),
        0xc4 => (scalar(number(1)?), 2),
        0xc5 => (scalar(number(2)?), 3),
        0xc6 => (scalar(number(4)?), 5),
        0xca | 0xce | 0xd2 => (scalar(4), 1),
        0xcb | 0xcf | 0xd3 => (scalar(8), 1),
        0xcc | 0xd0 => (scalar(1), 1),
        0xcd | 0xd1 => (scalar(2), 1),
        0xd9 => (text(number(1)?), 2),
        0xda => (text(number(2)?), 3),
        0xdb => (text(number(4)?), 5),
        0xdc => (container(number(2)?), 3),
        0xdd => (container(number(4)?), 5),
        0xde => (container(2 * number(2)?), 3),
        0xdf => (container(2 * number(4)?), 5),
        0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return Err(ScanError::Marker { at, byte }),
    })
}

/// Walks the value at `start` and returns the position after it.
fn walk(payload: &[u8], start: usize, depth: usize, values: usize) -> Result<usize, ScanError> {
    let depth = depth.min(MAX_DEPTH);
    let mut open = [0_u64; MAX_DEPTH];
    let mut level = 0;
    let mut position = start;
    let mut seen = 0;
    loop {
        seen += 1;
        if seen > values {
            return Err(ScanError::Values { limit: values });
        }
        let at = position;
        let (found, head_bytes) = head(payload, at)?;
        position += head_bytes;
        let left = payload.len() - position;
        match found {
            Head::Scalar { bytes, text } => {
                let length = usize::try_from(bytes).unwrap_or(usize::MAX);
                if length > left {
                    let claimed = bytes;
                    return Err(ScanError::Length { at, claimed, left });
                }
                let body = &payload[position..position + length];
                if text && std::str::from_utf8(body).is_err() {
                    return Err(ScanError::Utf8 { at });
                }
                position += length;
            }
            Head::Container { values: claimed } => {
                // Every value takes a byte at least.
                if claimed > left as u64 {
                    return Err(ScanError::Length { at, claimed, left });
                }
                if level == depth {
                    return Err(ScanError::Depth { at, limit: depth });
                }
                open[level] = claimed;
                level += 1;
            }
        }
        while level > 0 && open[level - 1] == 0 {
            level -= 1;
        }
        match level.checked_sub(1) {
            None => return Ok(position),
            Some(top) => open[top] -= 1,
        }
    }
}

/// Checks that `payload` is exactly one MsgPack value within `depth` levels (at most
/// [`MAX_DEPTH`]) and `values` values.
///
/// # Errors
/// The first thing wrong with it.
pub fn check(payload: &[u8], depth: usize, values: usize) -> Result<(), ScanError> {
    let end = walk(payload, 0, depth, values)?;
    match payload.len() - end {
        0 => Ok(()),
        count => Err(ScanError::Trailing { count }),
    }
}

/// The `id` of a message whose payload is unacceptable or incomplete, if it comes before the
/// damage: so that the error response can name the request it belongs to.
pub fn salvage_id(payload: &[u8]) -> Option<Id> {
    /// A message envelope has four keys; nobody is helped by a longer search.
    const KEYS: u64 = 8;
    let (Head::Container { values }, mut position) = head(payload, 0).ok()? else {
        return None;
    };
    if payload[0] & 0xf0 == 0x90 || matches!(payload[0], 0xdc | 0xdd) {
        return None;
    }
    for _ in 0..(values / 2).min(KEYS) {
        let end = walk(payload, position, 1, 2).ok()?;
        let key = text(payload, position, end)?;
        let value_end = walk(payload, end, MAX_DEPTH, usize::MAX).ok()?;
        if key == "id" {
            return id(payload, end, value_end);
        }
        position = value_end;
    }
    None
}

/// The text that lies between the two positions.
fn text(payload: &[u8], start: usize, end: usize) -> Option<&str> {
    let (Head::Scalar { text: true, .. }, head_bytes) = head(payload, start).ok()? else {
        return None;
    };
    std::str::from_utf8(&payload[start + head_bytes..end]).ok()
}

/// The id that lies between the two positions.
fn id(payload: &[u8], start: usize, end: usize) -> Option<Id> {
    if end - start > MAX_ID_BYTES + 5 {
        return None;
    }
    rmp_serde::from_slice(&payload[start..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmpv::Value;

    fn bytes(value: &Value) -> Vec<u8> {
        rmp_serde::to_vec(value).unwrap()
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Nil, |inner, _| Value::Array(vec![inner]))
    }

    #[test]
    fn depth_is_allowed_up_to_the_limit_and_not_beyond() {
        assert_eq!(check(&bytes(&nested(64)), 64, 1000), Ok(()));
        assert_eq!(
            check(&bytes(&nested(65)), 64, 1000),
            Err(ScanError::Depth { at: 64, limit: 64 })
        );
    }

    #[test]
    fn a_container_that_claims_more_than_there_is_is_refused() {
        for bomb in [
            vec![0xdd, 0xff, 0xff, 0xff, 0xff],
            vec![0xdf, 0xff, 0xff, 0xff, 0xff, 1, 1],
            vec![0xdb, 0x7f, 0xff, 0xff, 0xff, b'x'],
            vec![0xc6, 0x00, 0xff, 0xff, 0xff],
        ] {
            assert!(matches!(
                check(&bomb, 64, 1000),
                Err(ScanError::Length { .. })
            ));
        }
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let many = Value::Array(vec![Value::Nil; 100]);
        assert_eq!(check(&bytes(&many), 64, 101), Ok(()));
        let refused = Err(ScanError::Values { limit: 100 });
        assert_eq!(check(&bytes(&many), 64, 100), refused);
    }

    #[test]
    fn trailing_bytes_extension_types_and_bad_text_are_refused() {
        assert_eq!(
            check(&[0xc0, 0xc0], 64, 9),
            Err(ScanError::Trailing { count: 1 })
        );
        let extension = Err(ScanError::Marker { at: 0, byte: 0xd4 });
        assert_eq!(check(&[0xd4, 1, 1], 64, 9), extension);
        assert_eq!(check(&[0xa1, 0xff], 64, 9), Err(ScanError::Utf8 { at: 0 }));
        assert_eq!(check(&[], 64, 9), Err(ScanError::Truncated { at: 0 }));
    }

    #[test]
    fn an_id_before_the_damage_is_found() {
        // {"id": 7, "method": <truncated text>
        let damaged = b"\x82\xa2id\x07\xa6method\xd9\x50dev";
        assert_eq!(salvage_id(damaged), Some(Id::Number(7)));
        assert_eq!(salvage_id(b"\x82\xa6method\xd9\x50dev"), None);
        assert_eq!(salvage_id(b"GET / HTTP/1.1"), None);
        assert_eq!(salvage_id(b"\x92\xa2id\x07"), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None, ..Default::default()
        })]

        /// Whatever the bytes are, the scan returns; what it accepts, the decoder can build.
        #[test]
        fn byte_soup_is_accepted_only_if_it_can_be_decoded(
            soup in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            let _ = salvage_id(&soup);
            if check(&soup, MAX_DEPTH, 100).is_ok() {
                rmp_serde::from_slice::<Value>(&soup).unwrap();
            }
        }
    }
}
