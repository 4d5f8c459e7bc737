//! Any payload is a message or a typed error, and a message that was read is written so that it
//! reads the same.

use kairo_wire::frame::HEADER_BYTES;
use kairo_wire::message::Message;
use kairo_wire::{Event, Limits, Request, Response, StreamChunk, scan};

/// Reads the input as every kind of message.
pub fn run(input: &[u8]) {
    let limits = Limits::default();
    let well_formed = scan::check(input, limits.depth, limits.values).is_ok();
    // Read from frames that are refused: it must stand anything.
    let _ = scan::salvage_id(input);
    same_again::<Request>(input, well_formed);
    same_again::<Response>(input, well_formed);
    same_again::<Event>(input, well_formed);
    same_again::<StreamChunk>(input, well_formed);
}

/// By bytes and not by value: what is not a number is not equal to itself.
fn same_again<M>(input: &[u8], well_formed: bool)
where
    M: Message + for<'de> serde::Deserialize<'de>,
{
    let limits = Limits::default();
    let Ok(message) = M::decode(input, &limits) else {
        return;
    };
    assert!(well_formed, "{} from what the scan refuses", M::NAME);
    let once = message.encode(&limits).unwrap();
    let again = M::decode(&once[HEADER_BYTES..], &limits).unwrap();
    assert_eq!(once, again.encode(&limits).unwrap(), "{}", M::NAME);
}
