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
//! Requests and responses have a total each. Requests that wait for a service would otherwise hold
//! what its responses need, and a service that writes one of those reads no request meanwhile.
//!
//! A frame on its way is in memory up to three times (as it came, taken apart, as it goes on), so
//! all of them together cost at most six times [`TOTAL_BYTES`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kairo_wire::FrameKind;
use kairo_wire::frame::LARGE_CONTROL_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::FRAME_TIMEOUT;

/// Bytes of large requests in kairod at once, and of large responses: one of the longest, or
/// several.
pub const TOTAL_BYTES: usize = LARGE_CONTROL_BYTES;
/// How long a peer may take to read one.
pub const PATIENCE: Duration = FRAME_TIMEOUT;
/// What shares are counted in, bytes.
const UNIT_BYTES: usize = 1024;

/// A frame's share; given back when dropped.
#[derive(Debug)]
pub struct Share {
    _bytes: OwnedSemaphorePermit,
    /// Of requests: the one of its user.
    _turn: Option<OwnedSemaphorePermit>,
}

/// What all connections together may have.
#[derive(Debug)]
pub struct LargeFrames {
    requests: Arc<Semaphore>,
    responses: Arc<Semaphore>,
    /// One large request at a time of each user: one that is sent slowly delays its own user's.
    turns: RefCell<BTreeMap<u32, Arc<Semaphore>>>,
}

impl Default for LargeFrames {
    fn default() -> Self {
        let total = || Arc::new(Semaphore::new(TOTAL_BYTES / UNIT_BYTES));
        Self {
            requests: total(),
            responses: total(),
            turns: RefCell::default(),
        }
    }
}

impl LargeFrames {
    /// A share for a frame of so many bytes from `uid`, once there is one.
    pub async fn share(&self, kind: FrameKind, bytes: usize, uid: u32) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        // Acquiring fails only when closed, and nobody closes these.
        if kind == FrameKind::Response {
            let all = Arc::clone(&self.responses);
            return Some(Share {
                _bytes: all.acquire_many_owned(units).await.ok()?,
                _turn: None,
            });
        }
        let turn = Arc::clone(self.turns.borrow_mut().entry(uid).or_insert_with(one));
        let turn = turn.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.requests);
        Some(Share {
            _bytes: all.acquire_many_owned(units).await.ok()?,
            _turn: Some(turn),
        })
    }
}

fn one() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_together_stay_within_their_total_and_take_nothing_from_responses() {
        let frames = LargeFrames::default();
        let (request, half) = (FrameKind::Request, TOTAL_BYTES / 2);
        let held = [
            frames.share(request, half, 1).await.unwrap(),
            frames.share(request, half, 2).await.unwrap(),
        ];
        let mut next = Box::pin(frames.share(request, 1, 3));
        let waits = tokio::time::timeout(Duration::from_millis(1), &mut next).await;
        assert!(waits.is_err());
        let response = frames.share(FrameKind::Response, TOTAL_BYTES, 3).await;
        assert!(response.is_some());
        drop(held);
        assert!(next.await.is_some());
    }
}
