//! Whether anybody looks at the devices.
//!
//! kairo-rt rings as long as it has news, and it always has: the states of its devices. While
//! nobody has a claim and nobody asked for a state for [`LINGER`], kairod leaves the ring
//! unanswered, so that no other comes, and glances at the states every [`GLANCE`] by itself. An
//! idle robot's agent plane sleeps. Whoever reads a state pays attention first
//! ([`crate::plane::Plane::look`]) and so never sees an old one; what kairo-rt says in words (a
//! failsafe decision, a bus that is lost) does too, because what follows is worth seeing at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long states are followed after somebody looked.
const LINGER: Duration = Duration::from_secs(5);
/// How often they are looked at while nobody does. Bounds how late `device.safe` can be told then.
pub const GLANCE: Duration = Duration::from_secs(2);

/// Until when somebody looks.
#[derive(Debug, Default)]
pub struct Attention {
    until: Cell<Option<Instant>>,
    called: Notify,
}

impl Attention {
    /// Somebody looks.
    pub fn pay(&self) {
        if !self.is_paid() {
            self.called.notify_one();
        }
        self.until.set(Some(Instant::now() + LINGER));
    }

    /// Whether somebody looked lately.
    pub fn is_paid(&self) -> bool {
        self.until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when somebody looks after a time in which nobody did.
    pub async fn called(&self) {
        self.called.notified().await;
    }
}
