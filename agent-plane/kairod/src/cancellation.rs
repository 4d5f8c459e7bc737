//! Everything that can be called off because the intent that it belongs to was.
//!
//! Each of those things carries its intent's id itself; this is the one list of the places where
//! they are. Process sessions are added here when they exist.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use crate::daemon::Daemon;

/// How many things were called off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Canceled {
    /// Requests under way; they answer E_CANCELED.
    pub requests: usize,
    /// Subscriptions; they deliver nothing more.
    pub subscriptions: usize,
    /// Claims; their devices take their safe actions.
    pub claims: usize,
}

/// Calls off what belongs to one of `intents`: first what moves.
pub fn cancel_everywhere(daemon: &Daemon, intents: &BTreeSet<String>) -> Canceled {
    let claims = daemon.plane.borrow_mut().cancel_claims_of(intents);
    let mut canceled = Canceled {
        claims,
        ..Canceled::default()
    };
    for connection in daemon.connections.borrow().values() {
        canceled.requests += connection.cancel_requests_of(intents);
        canceled.subscriptions += connection.cancel_subscriptions_of(intents);
    }
    canceled
}
