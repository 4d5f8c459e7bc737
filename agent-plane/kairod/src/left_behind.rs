//! What an earlier kairod left open when it was killed or the machine went down, and how it ends.
//!
//! Everything that begins with an event ends with one. What the log's projections still hold as
//! open when kairod opens it for the first time belonged to a process that is no more: each is
//! ended by one event, whose `cause` says whether kairod alone (`kairod_restarted`) or the machine
//! (`rebooted`) started anew since. These events are in the log like all others, so whoever is
//! killed before they are written leaves them to the next one, and none is written twice.

use kairo_events::projection::{Claim, Claims, Intent, Intents, Kind, Open, OpenThings};
use kairo_events::{LogReader, StoreError};
use kairo_wire::Meta;

use crate::daemon::Daemon;
use crate::event_log::Found;
use crate::facts::{DeviceReleased, IntentEnded, PermissionRevoked, ServiceRemoved, SessionEnded};
use crate::intents::Status;

/// Most things of a kind that are ended at a start: more than kairod allows of any.
const MAX_LEFT: u32 = 4096;

/// What was left open.
#[derive(Debug, Default)]
pub struct Left {
    claims: Vec<Claim>,
    intents: Vec<Intent>,
    services: Vec<Open>,
    sessions: Vec<Open>,
    grants: Vec<Open>,
    /// The boot that we are in.
    boot: String,
}

impl Left {
    /// Reads it. Blocks on the disk.
    ///
    /// # Errors
    /// The disk or the file fails.
    pub fn read(log: &LogReader, boot: &str) -> Result<Self, StoreError> {
        let tables = log.connection();
        Ok(Self {
            claims: Claims::read(tables, MAX_LEFT)?,
            intents: Intents::running(tables, MAX_LEFT)?,
            services: OpenThings::read(tables, Kind::Service, MAX_LEFT)?,
            sessions: OpenThings::read(tables, Kind::Session, MAX_LEFT)?,
            grants: OpenThings::read(tables, Kind::Grant, MAX_LEFT)?,
            boot: boot.to_string(),
        })
    }

    /// What ended a thing that was begun in `boot`.
    fn cause(&self, boot: &str) -> &'static str {
        if boot == self.boot {
            "kairod_restarted"
        } else {
            "rebooted"
        }
    }
}

impl Daemon {
    /// From now on events are numbered and kept by this log. The first time, what an earlier kairod
    /// left in it is taken over or ended.
    pub fn attach_log(&self, found: Found) {
        self.idempotency.restore(found.keys);
        let left = found.left;
        if self.bus.attach(found.log, &found.report) {
            self.end_left(&left);
        }
    }

    fn end_left(&self, left: &Left) {
        for claim in &left.claims {
            let released = DeviceReleased {
                device: claim.device.clone(),
                epoch: claim.epoch,
                cause: left.cause(&claim.boot).into(),
            };
            self.bus.publish(&released, None);
        }
        for intent in &left.intents {
            let ended = IntentEnded {
                intent: intent.intent.clone(),
                name: None,
                parent: intent.parent.clone(),
                status: Status::Interrupted.name(),
                reason: "kairod ended without a word".into(),
                cause: Some(left.cause(&intent.boot)),
            };
            let cause = Meta {
                correlation_id: Some(intent.intent.clone()),
                ..Meta::default()
            };
            self.bus.publish(&ended, Some(&cause));
        }
        for service in &left.services {
            let removed = ServiceRemoved {
                namespace: service.name.clone(),
                cause: left.cause(&service.boot).into(),
            };
            self.bus.publish(&removed, None);
        }
        for session in &left.sessions {
            let ended = SessionEnded {
                connection: session.name.parse().ok(),
                cause: left.cause(&session.boot).into(),
            };
            self.bus.publish(&ended, None);
        }
        self.end_lost_grants(left);
    }

    /// Grants live in a file of their own. One that was told of and is not in it was revoked by a
    /// kairod that was killed before it said so, or its file was lost: it is not in force.
    fn end_lost_grants(&self, left: &Left) {
        let in_force: Vec<u64> = {
            let table = self.permissions.borrow();
            table.grants().iter().map(|grant| grant.id).collect()
        };
        for grant in &left.grants {
            let Ok(id) = grant.name.parse::<u64>() else {
                continue;
            };
            if in_force.contains(&id) {
                continue;
            }
            let revoked = PermissionRevoked {
                grant: id,
                by: None,
                cause: Some(left.cause(&grant.boot)),
            };
            self.bus.publish(&revoked, None);
        }
    }
}
