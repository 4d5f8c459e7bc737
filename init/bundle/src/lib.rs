//! Update bundles: what they contain, who signed them, and what of them a machine must fetch.
//!
//! - [`hex`], [`document`]: signed documents in one canonical form.
//! - [`root`]: which keys are trusted, and how they change.
//! - [`manifest`]: one release: its number, boards, and artifacts by hash.
//! - [`bundle`]: the head of a bundle file, and the decision whether a machine takes it.
//! - [`blocks`]: which blocks of an artifact are on the machine already.
//!
//! Everything read is hostile until its signatures are checked, and bounded before: sizes first,
//! then form, then signatures, then meaning. A document has one form, byte for byte, so a flipped
//! bit anywhere is refused. Does not open files or connections, keep secrets, or write slots.
#![forbid(unsafe_code)]

pub mod blocks;
pub mod bundle;
pub mod document;
pub mod hex;
pub mod manifest;
pub mod root;
