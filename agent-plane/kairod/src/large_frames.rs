//! Large frames: requests and responses beyond the protocol's 1 MiB, over connections that
//! negotiated them.
//!
//! Memory for them is shared by all connections and bounded: a frame takes its share
//! ([`LargeFrames::share`]) when its header has been read and before its payload is, and the share
//! goes with it, from the caller to the service or back, until it is written or dropped. Who finds
//! none left is not read further until there is, first come, first served. Nobody can keep a share:
//! a frame must arrive, and be read by whom it is for, within [`PATIENCE`]. kairod's own methods
//! take no large requests and give no large results: only what services serve can be large.
//!
//! A frame on its way is in memory up to three times (as it came, taken apart, as it goes on), so
//! all of them together cost at most three times [`TOTAL_BYTES`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::FRAME_TIMEOUT;

/// Bytes of large frames in kairod at once: two of the longest.
pub const TOTAL_BYTES: usize = 16 * 1024 * 1024;
/// How long a peer may take to read one.
pub const PATIENCE: Duration = FRAME_TIMEOUT;
/// What shares are counted in, bytes.
const UNIT_BYTES: usize = 1024;

/// A frame's share; given back when dropped.
pub type Held = OwnedSemaphorePermit;

/// What all connections together may have.
#[derive(Debug)]
pub struct LargeFrames(Arc<Semaphore>);

impl Default for LargeFrames {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOTAL_BYTES / UNIT_BYTES)))
    }
}

impl LargeFrames {
    /// A share of so many bytes, once there is one.
    pub async fn share(&self, bytes: usize) -> Option<Held> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        // Fails only when closed, and nobody closes it.
        Arc::clone(&self.0).acquire_many_owned(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::frame::LARGE_CONTROL_BYTES;

    #[tokio::test]
    async fn all_frames_together_stay_within_the_total() {
        let frames = LargeFrames::default();
        let mut held = Vec::new();
        for _ in 0..TOTAL_BYTES / LARGE_CONTROL_BYTES {
            held.push(frames.share(LARGE_CONTROL_BYTES).await.unwrap());
        }
        let mut next = Box::pin(frames.share(LARGE_CONTROL_BYTES));
        let waits = tokio::time::timeout(Duration::from_millis(1), &mut next).await;
        assert!(waits.is_err());
        held.pop();
        assert!(next.await.is_some());
    }
}
