//! The allocator of every kairo-rt process: the system's, plus a count per real-time thread.
//!
//! A real-time thread turns counting on for itself once it is armed; from then on every
//! allocation, reallocation and free it causes is counted and published, in production as in
//! tests. Other threads pay one thread-local read. It counts and does not abort: an arm in motion
//! is safer with a late tick than without its loop.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Constant initialisers without destructors: usable inside an allocator, at any time.
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// See the module documentation.
#[derive(Debug)]
pub struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Counts this thread's heap operations from now on. rt-safe.
pub fn count_this_thread() {
    OPERATIONS.set(0);
    COUNTING.set(true);
}

/// Heap operations of this thread since [`count_this_thread`]. rt-safe.
pub fn operations() -> u64 {
    OPERATIONS.get()
}

fn note() {
    if COUNTING.get() {
        OPERATIONS.set(OPERATIONS.get().wrapping_add(1));
    }
}

// SAFETY: every call is passed on unchanged to the system allocator, which upholds the contract;
// the counting touches only thread-local cells and never allocates.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note();
        // SAFETY: as for `alloc`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note();
        // SAFETY: as for `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_heap_operation_of_a_counted_thread_only() {
        let counted = std::thread::spawn(|| {
            let before = vec![1_u8; 100];
            count_this_thread();
            assert_eq!(operations(), 0);
            let boxed = std::hint::black_box(Box::new(7_u64));
            assert_eq!(operations(), 1);
            drop(boxed);
            drop(before);
            operations()
        });
        assert_eq!(counted.join().unwrap(), 3);
        drop(std::hint::black_box(Box::new(7_u64)));
        assert_eq!(operations(), 0);
    }
}
