//! Topic names, their aliases, and the patterns that subscribers give.
//!
//! A topic is segments joined by dots. In a pattern `*` stands for one segment and `>`, at the
//! end, for one or more. The canonical form is `kairo.system.<module>.<action>`; the short form
//! `kairo.<module>.<action>` is an alias of the same event.

use kairo_events::Class;
pub use kairo_events::Pattern;

/// Most patterns in one subscription: bounds the work that an event costs a subscriber.
pub const MAX_PATTERNS: usize = 32;

/// Every topic that this kairod publishes, with what its `data` says.
pub const TOPICS: &[(&str, &str)] = &[
    (READY, "kairod answers on its socket"),
    (
        STOPPING,
        "kairod ends: all claims have ended, nothing new is begun",
    ),
    (
        RT_CONNECTED,
        "the link to kairo-rt is up: {robot, build, armed}",
    ),
    (
        RT_LOST,
        "the link to kairo-rt is down, all claims are dropped: {cause}",
    ),
    (
        RT_FAILSAFE,
        "a device's failsafe machine decided otherwise: {device, action, cause, live, estop}",
    ),
    (DEVICE_ADDED, "a device became usable: {device, path}"),
    (
        DEVICE_REMOVED,
        "a device cannot be used any more: {device, cause, detail}",
    ),
    (
        DEVICE_DEGRADED,
        "a device is there but impaired: {device, status, cause, detail}",
    ),
    (
        DEVICE_SAFE,
        "a device's safe action came into force: {device, cause}",
    ),
    (DEVICE_CLAIMED, "a claim began: {device, epoch, holder}"),
    (DEVICE_RELEASED, "a claim ended: {device, epoch, cause}"),
    (
        PERMISSION_DENIED,
        "a peer asked for what no rule allows: {connection, class, name, uid, right, target, rule, \
         untold}",
    ),
    (
        SERVICE_ADDED,
        "a process serves a namespace: {namespace, connection, pid}",
    ),
    (
        SERVICE_REMOVED,
        "a namespace is not served any more: {namespace, cause}",
    ),
    (
        SESSION_STARTED,
        "a connection of somebody who is no operator began: {connection, class, name, uid, pid}",
    ),
    (
        SESSION_ENDED,
        "such a connection ended: {connection, cause}",
    ),
    (
        INTENT_STARTED,
        "an intent began: {intent, name, parent, owner}",
    ),
    (
        INTENT_ENDED,
        "an intent ended: {intent, name, parent, status, reason}",
    ),
    (
        AUDIT_FINDING,
        "opening the audit log found something that an operator should know: {finding}",
    ),
    (PERMISSION_GRANTED, "a right was given: {grant, by}"),
    (PERMISSION_REVOKED, "a grant was taken away: {grant, by}"),
    (
        EVENT_GAP,
        "this subscription missed events: {from_seq, to_seq, lost}; sent to it alone",
    ),
    (
        EVENT_REPLAYED,
        "a replay is over: {events, damaged, until_seq}; sent to its subscription alone",
    ),
    (
        EVENT_STORE,
        "the event log works, or does not: {state, cause, head_seq, salvaged, damaged, lost}",
    ),
];

/// See [`TOPICS`].
pub const READY: &str = "kairo.system.ready";
/// See [`TOPICS`].
pub const STOPPING: &str = "kairo.system.stopping";
/// See [`TOPICS`].
pub const RT_CONNECTED: &str = "kairo.system.rt.connected";
/// See [`TOPICS`].
pub const RT_LOST: &str = "kairo.system.rt.lost";
/// See [`TOPICS`].
pub const RT_FAILSAFE: &str = "kairo.system.rt.failsafe";
/// See [`TOPICS`].
pub const DEVICE_ADDED: &str = "kairo.system.device.added";
/// See [`TOPICS`].
pub const DEVICE_REMOVED: &str = "kairo.system.device.removed";
/// See [`TOPICS`].
pub const DEVICE_DEGRADED: &str = "kairo.system.device.degraded";
/// See [`TOPICS`].
pub const DEVICE_SAFE: &str = "kairo.system.device.safe";
/// See [`TOPICS`].
pub const DEVICE_CLAIMED: &str = "kairo.system.device.claimed";
/// See [`TOPICS`].
pub const DEVICE_RELEASED: &str = "kairo.system.device.released";
/// See [`TOPICS`].
pub const PERMISSION_DENIED: &str = "kairo.system.security.permission.denied";
/// See [`TOPICS`].
pub const PERMISSION_GRANTED: &str = "kairo.system.security.permission.granted";
/// See [`TOPICS`].
pub const PERMISSION_REVOKED: &str = "kairo.system.security.permission.revoked";
/// See [`TOPICS`].
pub const SERVICE_ADDED: &str = "kairo.system.service.added";
/// See [`TOPICS`].
pub const SERVICE_REMOVED: &str = "kairo.system.service.removed";
/// See [`TOPICS`].
pub const SESSION_STARTED: &str = "kairo.system.session.started";
/// See [`TOPICS`].
pub const SESSION_ENDED: &str = "kairo.system.session.ended";
/// See [`TOPICS`].
pub const INTENT_STARTED: &str = "kairo.system.intent.started";
/// See [`TOPICS`].
pub const INTENT_ENDED: &str = "kairo.system.intent.ended";
/// See [`TOPICS`].
pub const AUDIT_FINDING: &str = "kairo.system.audit.finding";
/// See [`TOPICS`].
pub const EVENT_GAP: &str = "kairo.system.event.gap";
/// See [`TOPICS`].
pub const EVENT_REPLAYED: &str = "kairo.system.event.replayed";
/// See [`TOPICS`].
pub const EVENT_STORE: &str = "kairo.system.event.store";

/// The other names of `topic`.
pub fn aliases(topic: &str) -> Vec<String> {
    match topic.strip_prefix("kairo.system.") {
        Some(rest) if rest.contains('.') => vec![format!("kairo.{rest}")],
        _ => Vec::new(),
    }
}

/// The canonical name of a topic that may be given by its short name.
pub fn canonical(topic: &str) -> String {
    match topic.strip_prefix("kairo.") {
        Some(rest) if !rest.starts_with("system.") => format!("kairo.system.{rest}"),
        _ => topic.to_string(),
    }
}

/// How much an event of kairod's own is worth: what others decide by survives a power cut.
pub fn class(topic: &str) -> Class {
    match topic {
        DEVICE_CLAIMED | DEVICE_RELEASED | INTENT_STARTED | INTENT_ENDED | PERMISSION_GRANTED
        | PERMISSION_REVOKED => Class::Synchronous,
        _ => Class::Batched,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_topics_have_the_short_name_as_alias() {
        assert_eq!(aliases(DEVICE_ADDED), ["kairo.device.added"]);
        assert!(aliases(READY).is_empty());
        for (topic, _) in TOPICS {
            for alias in aliases(topic) {
                assert_eq!(canonical(&alias), *topic);
            }
            assert_eq!(canonical(topic), *topic);
        }
        assert_eq!(canonical("app.x"), "app.x");
    }
}
