//! The memory of one block of a plug-in: its arguments and its state, between pages without access.
//!
//! setup-only to make and drop. The state ends where the last page ends, as far as its alignment
//! allows, so that writing beyond it faults at once instead of changing somebody else's numbers.

use std::ffi::c_void;
use std::ptr::null_mut;

/// The largest page of any supported machine; guards are that wide.
const GUARD_BYTES: usize = 65_536;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Memory {
    base: *mut u8,
    length: usize,
    inputs: usize,
    state: *mut u8,
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

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing else refers to.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}
