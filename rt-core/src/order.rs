//! What the link server asks of a control loop, and what the loop tells it, in-process.
//!
//! Both go through `rtrb` rings. Everything that owns memory is made by the server, moved in,
//! used, and moved back: a real-time thread never drops one.

use kairo_link::abi::{Cause, Command, DeviceState, Reply};
use kairo_link::{latest, ring};

/// Orders a loop can have waiting: a lease and a state buffer opened and closed for every device
/// the daemon can have, twice over.
pub const ORDERS_MAX: usize = 64;
/// Events that can wait for the server. The loop keeps what does not fit and tries again.
pub const EVENTS_MAX: usize = 64;

/// The loop's ends of a lease's rings.
#[derive(Debug)]
pub struct LeaseChannel {
    /// The lease.
    pub epoch: u64,
    /// Commands from the holder.
    pub commands: ring::Consumer<Command>,
    /// Replies to the holder.
    pub replies: ring::Producer<Reply>,
}

/// What the loop shall do. `device` counts within the loop.
#[derive(Debug)]
pub enum Order {
    /// Publish states here from now on.
    OpenState {
        /// The device.
        device: usize,
        /// Where.
        writer: latest::Writer<DeviceState>,
    },
    /// Publish states nowhere.
    CloseState {
        /// The device.
        device: usize,
    },
    /// Follow this lease.
    OpenLease {
        /// The device.
        device: usize,
        /// Its rings.
        channel: LeaseChannel,
    },
    /// End this lease, if it is the one in force, and take the safe action.
    CloseLease {
        /// The device.
        device: usize,
        /// The lease.
        epoch: u64,
        /// Why.
        cause: Cause,
    },
}

/// What happened in a loop. `device` counts within the loop.
#[derive(Debug)]
pub enum Event {
    /// A lease ended; here are its rings, to be dropped.
    LeaseEnded {
        /// The device.
        device: usize,
        /// Its rings.
        channel: LeaseChannel,
        /// Why.
        cause: Cause,
    },
    /// A state buffer is not written any more; here it is, to be dropped.
    StateRetired {
        /// The buffer.
        writer: latest::Writer<DeviceState>,
    },
    /// A device was lost or found.
    Presence {
        /// The device.
        device: usize,
        /// Whether it is there.
        present: bool,
    },
}
