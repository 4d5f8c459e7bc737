//! Any stream of bytes gives the same frames and the same error however it was cut into reads.

use kairo_wire::frame::header;
use kairo_wire::{Decoder, Frame, FrameError, Limits};

/// Bytes at the start of an input that say how the rest is cut.
const PLAN_BYTES: usize = 4;

/// Feeds the decoder in one piece and in many.
pub fn run(input: &[u8]) {
    let (plan, bytes) = input.split_at(input.len().min(PLAN_BYTES));
    let whole = decode(&[bytes]);
    let mut pieces = Vec::new();
    let (mut rest, mut cuts) = (bytes, plan.iter().cycle());
    while !rest.is_empty() {
        let wanted = usize::from(*cuts.next().unwrap_or(&0)) + 1;
        let (piece, left) = rest.split_at(wanted.min(rest.len()));
        pieces.push(piece);
        rest = left;
    }
    assert_eq!(whole, decode(&pieces), "the cut changed what was read");
    let mut again = Vec::new();
    for frame in &whole.0 {
        again.extend_from_slice(&header(frame.kind, frame.payload.len() as u32));
        again.extend_from_slice(&frame.payload);
    }
    assert!(bytes.starts_with(&again), "frames are not what was sent");
}

fn decode(pieces: &[&[u8]]) -> (Vec<Frame>, Option<FrameError>, bool) {
    let mut decoder = Decoder::new(Limits::default());
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error), false),
            }
        }
    }
    (frames, None, decoder.is_mid_frame())
}
