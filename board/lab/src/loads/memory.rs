//! Loads on memory: walking through it, mapping it, and taking all of it.

use std::convert::Infallible;
use std::hint::black_box;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

/// Walked through, over and over: more than any cache.
const WALK_BYTES: usize = 64 << 20;
/// Mapped, touched and given back in between.
const MAP_BYTES: usize = 8 << 20;
/// One access a cache line.
const LINE_BYTES: usize = 64;
/// The smallest page of any supported machine.
const PAGE_BYTES: usize = 4096;
/// Taken at a time until there is no more.
const GULP_BYTES: usize = 4 << 20;

/// Walks through memory, and maps and unmaps it.
pub fn walk() -> anyhow::Result<Infallible> {
    let mut memory = vec![1_u8; WALK_BYTES];
    loop {
        for line in memory.chunks_mut(LINE_BYTES) {
            line[0] = line[0].wrapping_add(1);
        }
        black_box(&mut memory);
        touch(MAP_BYTES);
    }
}

/// Allocates in a child until the kernel kills it, again and again.
pub fn exhaust() -> anyhow::Result<Infallible> {
    loop {
        // SAFETY: this process has one thread, so the child may do anything.
        match unsafe { fork() }? {
            ForkResult::Child => loop {
                std::mem::forget(touch(GULP_BYTES));
            },
            ForkResult::Parent { child } => drop(waitpid(child, None)?),
        }
    }
}

/// Fresh memory, every page of it written.
fn touch(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0_u8; bytes];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    black_box(memory)
}
