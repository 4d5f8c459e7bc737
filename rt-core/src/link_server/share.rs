//! What one connection shares with us: for each device a state buffer and two rings, made when it
//! connects and used by one lease after the other. Ordinary threads only.
//!
//! Nothing real-time touches any of it before the peer has said that it has mapped everything and
//! the segments are settled (`kairo_link::offer`). What comes back from the loops is unmapped here,
//! by an ordinary thread, when the connection is gone.

use std::os::fd::BorrowedFd;

use kairo_link::abi::{COMMAND_SLOTS, Command, DeviceState, REPLY_SLOTS, Reply};
use kairo_link::offer::{Offer, Tenant};
use kairo_link::segment::{Kind, SegmentError};
use kairo_link::{latest, ring};

use crate::order::LeaseChannel;

/// One device's segments before the peer has mapped them.
#[derive(Debug)]
pub(super) struct DeviceOffer {
    states: Offer,
    commands: Offer,
    replies: Offer,
}

/// One device's ends after that.
#[derive(Debug)]
pub(super) struct DeviceShare {
    /// For the loop that publishes.
    pub states: latest::Writer<DeviceState>,
    /// For the first lease.
    pub channel: LeaseChannel,
}

/// Who still holds what a connection was given.
#[derive(Debug, Default)]
pub struct Tenancy(Vec<Tenant>);

impl DeviceOffer {
    /// The segments of one device for connection number `connection`; `tenancy` watches them.
    pub(super) fn make(connection: u64, tenancy: &mut Tenancy) -> Result<Self, SegmentError> {
        let state_words = latest::payload_words::<DeviceState>();
        let command_words = ring::payload_words::<Command>(COMMAND_SLOTS);
        let reply_words = ring::payload_words::<Reply>(REPLY_SLOTS);
        let mut make = |name, kind, words, slots| {
            let (offer, tenant) = Offer::make(name, kind, words, slots, connection)?;
            tenancy.0.push(tenant);
            Ok(offer)
        };
        Ok(Self {
            states: make(c"kairo-state", Kind::Latest, state_words, 3)?,
            commands: make(c"kairo-commands", Kind::Ring, command_words, COMMAND_SLOTS)?,
            replies: make(c"kairo-replies", Kind::Ring, reply_words, REPLY_SLOTS)?,
        })
    }

    /// The descriptors of a welcome, in its order.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.states.descriptor(),
            self.commands.descriptor(),
            self.replies.descriptor(),
        ]
    }

    /// After the peer has mapped them.
    pub(super) fn settle(self) -> Result<DeviceShare, SegmentError> {
        let (commands, replies) = (self.commands.settle()?, self.replies.settle()?);
        Ok(DeviceShare {
            states: latest::Writer::new(self.states.settle()?),
            channel: LeaseChannel {
                epoch: 0,
                commands: ring::Consumer::new(commands, COMMAND_SLOTS),
                replies: ring::Producer::new(replies, REPLY_SLOTS),
            },
        })
    }
}

impl Tenancy {
    /// Whether somebody else still holds any of it.
    pub(super) fn is_held(&mut self) -> bool {
        self.0.retain(|tenant| !tenant.has_left());
        !self.0.is_empty()
    }
}
