//! The few words that all threads of the daemon share. rt-safe: atomics only.
//!
//! `main` keeps a reference for as long as any real-time thread has one, so dropping a thread's
//! reference frees nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kairo_link::stats::MAX_LOOPS;

use crate::config::EstopConfig;
use crate::estop::Estop;

/// What bring-up decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Checks are still being read back: run with outputs disabled.
    Pending,
    /// Run, and command the devices.
    Armed,
    /// Run with outputs disabled for good.
    Refused,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Shared {
    decision: AtomicUsize,
    stopping: AtomicBool,
    loops_done: AtomicBool,
    heartbeats: [AtomicU64; MAX_LOOPS],
    estop: Estop,
}

impl Shared {
    /// The words of a robot with these e-stops. setup-only.
    pub fn new(estop: &EstopConfig) -> Self {
        Self {
            estop: Estop::new(estop),
            ..Self::default()
        }
    }

    /// The words of e-stops and operators. rt-safe.
    pub const fn estop(&self) -> &Estop {
        &self.estop
    }

    /// What bring-up decided. rt-safe.
    pub fn decision(&self) -> Decision {
        // Pairs with `decide`.
        match self.decision.load(Ordering::Acquire) {
            1 => Decision::Armed,
            2 => Decision::Refused,
            _ => Decision::Pending,
        }
    }

    /// Lets the real-time threads go on, once. Main thread.
    pub fn decide(&self, armed: bool) {
        self.decision
            .store(if armed { 1 } else { 2 }, Ordering::Release);
    }

    /// Whether the daemon is shutting down: end leases, slow down, hold. rt-safe.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Starts the shutdown. Any thread.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the loops have come to rest and ended: bus threads end too. rt-safe.
    pub fn loops_are_done(&self) -> bool {
        self.loops_done.load(Ordering::Acquire)
    }

    /// The loops have ended. Main thread.
    pub fn set_loops_done(&self) {
        self.loops_done.store(true, Ordering::Release);
    }

    /// A loop has run a tick. rt-safe.
    pub fn beat(&self, loop_index: usize) {
        let word = &self.heartbeats[loop_index];
        word.store(
            word.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// How often each loop has beaten. Main thread.
    pub fn heartbeats(&self) -> [u64; MAX_LOOPS] {
        std::array::from_fn(|index| self.heartbeats[index].load(Ordering::Relaxed))
    }
}
