//! The memory of one block of a plug-in: its arguments and its state, between pages without access.
//!
//! setup-only to make and drop. Beside it is a copy of the state as `create` left it: what differs
//! from it is what steps have changed, and what does not are settings, tables and the like, which a
//! block made of other settings has in its own way. The state ends where the last page ends, as far
//! as its alignment allows, so that writing beyond it faults at once instead of changing somebody
//! else's numbers.

use std::ffi::c_void;
use std::ptr::null_mut;

use kairo_blocks::memory::Memory as Words;

/// The largest page of any supported machine; guards are that wide.
const GUARD_BYTES: usize = 65_536;
/// Bytes of what is saved at once.
const WORD_BYTES: usize = size_of::<u64>();

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Memory {
    base: *mut u8,
    length: usize,
    inputs: usize,
    state: *mut u8,
    size: usize,
    /// The state as it was made.
    made: Box<[u8]>,
}

// SAFETY: the mapping belongs to this value alone, whichever thread has it.
unsafe impl Send for Memory {}

impl Memory {
    /// Room for so many inputs and outputs, and a state; zeroed. `None` when the system has none.
    pub(crate) fn new(inputs: usize, outputs: usize, size: usize, align: usize) -> Option<Self> {
        let values = (inputs + outputs) * size_of::<f64>();
        let inside = (values + size + align).next_multiple_of(GUARD_BYTES);
        let length = inside + 2 * GUARD_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh private mapping.
        let base = unsafe { libc::mmap(null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = base.cast::<u8>();
        let memory = Self {
            base,
            length,
            inputs,
            // SAFETY: inside the mapping: `size` is less than `inside`.
            state: unsafe {
                let end = base.add(GUARD_BYTES + inside);
                end.sub(size.next_multiple_of(align))
            },
            size,
            made: Box::default(),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the part between the guards, all of it in the mapping.
        let opened = unsafe { libc::mprotect(memory.values().cast(), inside, access) };
        // SAFETY: as above; writing makes every page present.
        (opened == 0).then(|| unsafe {
            memory.values().cast::<u8>().write_bytes(0, inside);
            memory
        })
    }

    /// The state is as it shall be at the beginning. setup-only.
    pub(crate) fn is_made(&mut self) {
        self.made = self.state_bytes().into();
    }

    fn state_bytes(&self) -> &[u8] {
        // SAFETY: `new` made room for so many bytes, which are initialised; nobody but the block
        // that has this value writes to them, and it does not while they are borrowed.
        unsafe { std::slice::from_raw_parts(self.state, self.size) }
    }

    fn state_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.state, self.size) }
    }

    /// See [`Block::memory`](kairo_blocks::block::Block::memory): for each 64 words of the state,
    /// which of them differ from when it was made, and all of them. rt-safe.
    pub(crate) fn keep(&mut self, memory: &mut Words<'_>) {
        const GROUP_BYTES: usize = 64 * WORD_BYTES;
        for group in (0..self.size).step_by(GROUP_BYTES) {
            let places = (group..self.size).step_by(WORD_BYTES).take(64);
            let mut changed = 0;
            for (bit, place) in places.clone().enumerate() {
                let differs = word_at(self.state_bytes(), place) != word_at(&self.made, place);
                changed |= u64::from(differs) << bit;
            }
            memory.word(&mut changed);
            for (bit, place) in places.enumerate() {
                let before = word_at(self.state_bytes(), place);
                let mut word = before;
                memory.word(&mut word);
                if changed >> bit & 1 == 0 {
                    word = word_at(&self.made, place);
                }
                if word != before {
                    let end = self.size.min(place + WORD_BYTES);
                    let bytes = &mut self.state_bytes_mut()[place..end];
                    let length = bytes.len();
                    bytes.copy_from_slice(&word.to_le_bytes()[..length]);
                }
            }
        }
    }

    fn values(&self) -> *mut f64 {
        // SAFETY: inside the mapping, which is longer than two guards.
        unsafe { self.base.add(GUARD_BYTES).cast() }
    }

    /// Where the inputs are. rt-safe.
    pub(crate) fn inputs(&self) -> *mut f64 {
        self.values()
    }

    /// Where the outputs are. rt-safe.
    pub(crate) fn outputs(&self) -> *mut f64 {
        // SAFETY: `new` made room for them behind the inputs.
        unsafe { self.values().add(self.inputs) }
    }

    /// Where the state is. rt-safe.
    pub(crate) fn state(&self) -> *mut c_void {
        self.state.cast()
    }
}

/// The word at a place, with zeros behind the last byte. rt-safe.
fn word_at(bytes: &[u8], place: usize) -> u64 {
    let end = bytes.len().min(place + WORD_BYTES);
    let mut word = [0; WORD_BYTES];
    word[..end - place].copy_from_slice(&bytes[place..end]);
    u64::from_le_bytes(word)
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing else refers to.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}
