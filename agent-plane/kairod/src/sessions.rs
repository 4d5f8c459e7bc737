//! Sessions: the connections of agents, skills, drivers and services, from their first to their
//! last word.
//!
//! Each begins and ends with an event, so that after a kill the next kairod knows whom it cost
//! their connection and says so ([`crate::left_behind`]). An operator's connections are none: they
//! come and go with every command, and hold nothing that has no event of its own. A user whose
//! programs connect all the time makes only as many of them as its quota allows; the rest go
//! without.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::facts::{SessionEnded, SessionStarted};
use crate::permission::Class;

impl Daemon {
    /// `connection` is somebody's who is to be told of, from now on.
    pub fn session_started(&self, connection: &Connection) {
        let peer = connection.identity.view(connection.number);
        if peer.class == Class::Operator || connection.told.get() {
            return;
        }
        let quotas = self.quotas_of(peer.uid);
        if quotas.sessions.take(tokio::time::Instant::now()).is_none() {
            return;
        }
        connection.told.set(true);
        let started = SessionStarted {
            connection: peer.connection,
            class: peer.class.to_string(),
            name: peer.name,
            uid: peer.uid,
            pid: peer.pid,
        };
        self.bus.publish(&started, None);
    }

    /// It has ended.
    pub fn session_ended(&self, connection: &Connection, cause: &str) {
        if !connection.told.replace(false) {
            return;
        }
        let ended = SessionEnded {
            connection: Some(connection.number),
            cause: cause.into(),
        };
        self.bus.publish(&ended, None);
    }
}
