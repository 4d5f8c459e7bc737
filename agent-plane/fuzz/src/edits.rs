//! An input as edits of files: what a failing disk or a hand with an editor does to them.

/// Most edits of one input: damage of a few places is what differs, more of it does not.
const MAX_EDITS: usize = 16;
/// Bytes that describe an edit.
const EDIT_BYTES: usize = 5;

/// Does the edits that `input` describes; gives whether anything is other than before.
pub fn apply(input: &[u8], files: &mut [Vec<u8>]) -> bool {
    let before: Vec<Vec<u8>> = files.to_vec();
    for edit in input.chunks_exact(EDIT_BYTES).take(MAX_EDITS) {
        let &[what, low, middle, high, value] = edit else {
            continue;
        };
        let count = files.len();
        let file = &mut files[usize::from(what >> 4) % count];
        let place = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let at = place % (file.len() + 1);
        match what & 0x0f {
            0..6 if at < file.len() => file[at] ^= value,
            6 => file.truncate(at),
            7 => file.extend(std::iter::repeat_n(value, at % 512)),
            8 => file.insert(at, value),
            9 if at < file.len() => drop(file.remove(at)),
            10 => {
                let end = (at + usize::from(value)).min(file.len());
                file.drain(at..end);
            }
            11 => {
                let end = (at + usize::from(value)).min(file.len());
                let copy = file[at..end].to_vec();
                file.extend_from_slice(&copy);
            }
            12 => {
                let end = (at + usize::from(value) * 16).min(file.len());
                file[at..end].fill(0);
            }
            _ => {}
        }
    }
    before != files
}
