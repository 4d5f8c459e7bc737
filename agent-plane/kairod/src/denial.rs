//! What happens when a rule says no: a refusal for the caller, an event for the operator.
//!
//! A user whose programs ask for what they may not have a thousand times a second makes [`BURST`]
//! events, and then one every [`REFILL`] that says how many were left out: by user and not by
//! connection, because a connection is quickly made anew.

use std::cell::Cell;
use std::time::Duration;

use kairo_wire::ErrorInfo;
use tokio::time::Instant;

use crate::facts::PermissionDenied;
use crate::permission::{Decision, Right, Subject};
use crate::reasons::Reason;

/// Denials of a user that make an event each.
const BURST: u32 = 20;
/// How long it takes until one more does.
const REFILL: Duration = Duration::from_millis(500);

/// How many denials of a user may still make events.
#[derive(Debug)]
pub struct Quota {
    left: Cell<u32>,
    refilled: Cell<Instant>,
    untold: Cell<u64>,
}

/// The quotas of one user.
#[derive(Debug, Default)]
pub struct Quotas {
    /// Denials that make an event and an entry of the audit log.
    pub denials: Quota,
    /// Other entries of the audit log.
    pub notes: Quota,
    /// Sessions that make events.
    pub sessions: Quota,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            left: Cell::new(BURST),
            refilled: Cell::new(Instant::now()),
            untold: Cell::new(0),
        }
    }
}

impl Quota {
    /// Whether a denial at `now` makes an event; how many before it did not.
    pub fn take(&self, now: Instant) -> Option<u64> {
        let periods = now.duration_since(self.refilled.get()).as_millis() / REFILL.as_millis();
        let periods = u32::try_from(periods).unwrap_or(BURST);
        if periods > 0 {
            self.refilled.set(now);
            self.left
                .set(self.left.get().saturating_add(periods).min(BURST));
        }
        if self.left.get() == 0 {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.left.set(self.left.get() - 1);
        Some(self.untold.replace(0))
    }
}

/// The refusal.
pub fn refusal(subject: &Subject, right: Right, target: &str, decision: &Decision) -> ErrorInfo {
    let shown: String = target.chars().take(128).collect();
    let remedy = match decision.rule.as_ref() {
        "reserved" => "nobody may, over IPC".to_string(),
        "default" => "no rule allows it; an operator can grant it with `kairo permission grant`, \
                      or in the policy file"
            .to_string(),
        rule => format!("rule {rule} denies it"),
    };
    let text = format!("{subject} has no right {right} to {shown:?}: {remedy}");
    let reason = Reason::Denied {
        right: right.name().into(),
        target: shown,
        class: subject.class.name().into(),
        rule: decision.rule.to_string(),
    };
    reason.error(text)
}

/// The facts of the event.
pub fn event(
    connection: u64,
    subject: &Subject,
    right: Right,
    target: &str,
    decision: &Decision,
    untold: u64,
) -> PermissionDenied {
    PermissionDenied {
        connection,
        class: subject.class.name(),
        name: subject.name.clone(),
        uid: subject.uid,
        right: right.name(),
        target: target.chars().take(128).collect(),
        rule: decision.rule.to_string(),
        untold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_denials_makes_few_events_and_none_is_uncounted() {
        let quota = Quota::default();
        let start = quota.refilled.get();
        let told = (0..1000).filter(|_| quota.take(start).is_some()).count();
        assert_eq!(told, BURST as usize);
        let later = start + REFILL;
        assert_eq!(quota.take(later), Some(1000 - u64::from(BURST)));
        assert_eq!(quota.take(later), None);
    }
}
