//! What travels: words, 8 or 64 bytes.

use kairo_link::pod::Pod;

/// `N` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Words<const N: usize>(pub [u64; N]);

// SAFETY: u64 only, repr(C): no padding, every bit pattern valid.
unsafe impl<const N: usize> Pod for Words<N> {}

/// A cache line.
pub type Line = Words<8>;
