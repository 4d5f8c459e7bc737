//! Topic names, their aliases, and the patterns that subscribers give.
//!
//! A topic is segments joined by dots. In a pattern `*` stands for one segment and `>`, at the
//! end, for one or more. The canonical form is `kairo.system.<module>.<action>`; the short form
//! `kairo.<module>.<action>` is an alias of the same event.

/// Longest pattern, bytes.
const MAX_BYTES: usize = 128;
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
pub const INTENT_STARTED: &str = "kairo.system.intent.started";
/// See [`TOPICS`].
pub const INTENT_ENDED: &str = "kairo.system.intent.ended";
/// See [`TOPICS`].
pub const AUDIT_FINDING: &str = "kairo.system.audit.finding";
/// See [`TOPICS`].
pub const EVENT_GAP: &str = "kairo.system.event.gap";

/// The other names of `topic`.
pub fn aliases(topic: &str) -> Vec<String> {
    match topic.strip_prefix("kairo.system.") {
        Some(rest) if rest.contains('.') => vec![format!("kairo.{rest}")],
        _ => Vec::new(),
    }
}

/// A checked pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<String>,
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.segments.join("."))
    }
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty, or too long.
    #[error("a topic pattern has 1 to {MAX_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// A segment is empty or has other characters.
    #[error(
        "{0:?} in a topic pattern: a segment is `*`, `>` at the end, or letters, digits, `_`, `-`"
    )]
    Segment(String),
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err(PatternError::Length(text.len()));
        }
        let segments: Vec<String> = text.split('.').map(str::to_string).collect();
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            let name = !segment.is_empty() && segment.bytes().all(plain);
            if !(name || segment == "*" || (segment == ">" && last)) {
                return Err(PatternError::Segment(segment.clone()));
            }
        }
        Ok(Self { segments })
    }

    /// Whether `topic` is meant.
    pub fn matches(&self, topic: &str) -> bool {
        let mut parts = topic.split('.');
        for segment in &self.segments {
            let part = parts.next();
            match (segment.as_str(), part) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (name, Some(part)) if name == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(topic)
    }

    #[test]
    fn a_star_is_one_segment_and_a_tail_is_one_or_more() {
        assert!(matches("kairo.*.added", "kairo.device.added"));
        assert!(!matches("kairo.*", "kairo.device.added"));
        assert!(matches("kairo.>", "kairo.device.added"));
        assert!(!matches("kairo.>", "kairo"));
        assert!(matches(">", "kairo"));
        assert!(!matches("kairo.device", "kairo.device.added"));
        assert!(!matches("kairo.device.added.x", "kairo.device.added"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a..b", "a.>.b", "a b", "a.**", &"x".repeat(129)] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn canonical_topics_have_the_short_name_as_alias() {
        assert_eq!(aliases(DEVICE_ADDED), ["kairo.device.added"]);
        assert!(aliases(READY).is_empty());
    }
}
