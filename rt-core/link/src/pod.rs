//! Plain-old-data types that may cross the boundary as 64-bit words.
//!
//! Shared memory is accessed only as relaxed atomic words, so a peer that writes while we read can
//! produce a torn value but never undefined behaviour. A torn or hostile value is caught by the
//! validation that every reader does after its single copy.

use crate::sync::{AtomicU64, Ordering};

/// A type whose every bit pattern is a valid value.
///
/// # Safety
/// The implementer is `repr(C)`, has an alignment of at most 8 and a size that is a multiple of 8,
/// contains no padding, no pointer, no reference, and no field with an invalid bit pattern (so no
/// `bool`, `char` or enum).
pub unsafe trait Pod: Copy + 'static {}

/// How many 64-bit words a `T` takes.
pub const fn words_of<T: Pod>() -> usize {
    assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8);
    size_of::<T>() / 8
}

/// Copies `value` into `words`, one relaxed store a word. rt-safe.
///
/// # Panics
/// If `words` is not exactly `words_of::<T>()` long, which is a bug of the caller.
#[inline]
pub(crate) fn store<T: Pod>(words: &[AtomicU64], value: &T) {
    assert_eq!(words.len(), words_of::<T>());
    let source = std::ptr::from_ref(value).cast::<u64>();
    for (index, word) in words.iter().enumerate() {
        // SAFETY: `index` is below `words_of::<T>()`, so the read stays inside `value`; `Pod` has
        // no padding, so every byte is initialised; the read is unaligned-tolerant.
        let bits = unsafe { source.add(index).read_unaligned() };
        word.store(bits, Ordering::Relaxed);
    }
}

/// Copies a `T` out of `words`, one relaxed load a word. rt-safe.
///
/// # Panics
/// If `words` is not exactly `words_of::<T>()` long, which is a bug of the caller.
#[inline]
pub(crate) fn load<T: Pod>(words: &[AtomicU64]) -> T {
    assert_eq!(words.len(), words_of::<T>());
    let mut value = std::mem::MaybeUninit::<T>::uninit();
    let target = value.as_mut_ptr().cast::<u64>();
    for (index, word) in words.iter().enumerate() {
        // SAFETY: `index` is below `words_of::<T>()`, so the write stays inside `value`.
        unsafe {
            target
                .add(index)
                .write_unaligned(word.load(Ordering::Relaxed))
        };
    }
    // SAFETY: every word of `value` was written, and any bit pattern is a valid `Pod`.
    unsafe { value.assume_init() }
}
