//! How fast a user may publish: a bucket of events and one of bytes for each uid.
//!
//! Generous for a program that works and small for one that runs away: its events would push those
//! of all others out of the ring and out of the writer's queue. Event loop only. Operators are not
//! counted; whether somebody is one is the caller's to know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kairo_wire::ErrorInfo;

use crate::reasons::Reason;

/// Events that a user may publish in a second, and at once.
pub const EVENTS_PER_S: u32 = 2000;
/// Bytes of `data` that a user may publish in a second, and at once.
pub const BYTES_PER_S: u32 = 16 * 1024 * 1024;
/// Users remembered. One that is forgotten begins with full buckets, as one has after a second.
const MAX_USERS: usize = 1024;

/// What is left of a second's worth, as a share of it.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    events: f64,
    bytes: f64,
    at: Instant,
}

/// The buckets of all users.
#[derive(Debug, Default)]
pub struct Allowances(BTreeMap<u32, Bucket>);

impl Allowances {
    /// Takes one event of `bytes` from what `uid` may publish at the time `now`.
    ///
    /// # Errors
    /// `E_LIMIT` `publish_rate`, with the time after which it would be taken.
    pub fn take(&mut self, uid: u32, bytes: usize, now: Instant) -> Result<(), ErrorInfo> {
        if self.0.len() >= MAX_USERS && !self.0.contains_key(&uid) {
            let second = Duration::from_secs(1);
            self.0
                .retain(|_, bucket| now.duration_since(bucket.at) < second);
        }
        let bucket = self.0.entry(uid).or_insert(Bucket {
            events: 1.0,
            bytes: 1.0,
            at: now,
        });
        let since_s = now.duration_since(bucket.at).as_secs_f64();
        bucket.at = now;
        bucket.events = (bucket.events + since_s).min(1.0);
        bucket.bytes = (bucket.bytes + since_s).min(1.0);
        let one = 1.0 / f64::from(EVENTS_PER_S);
        let share = bytes as f64 / f64::from(BYTES_PER_S);
        // More than a second's worth would never fit; it takes all there is.
        let share = share.min(1.0);
        let missing_s = (one - bucket.events).max(share - bucket.bytes);
        if missing_s > 0.0 {
            let retry_ms = (missing_s * 1000.0).ceil().max(1.0) as u64;
            let text = format!(
                "uid {uid} publishes more than {EVENTS_PER_S} events or {BYTES_PER_S} bytes in a \
                 second; try again in {retry_ms} ms"
            );
            return Err(Reason::PublishRate.error_retried(text, retry_ms));
        }
        bucket.events -= one;
        bucket.bytes -= share;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kairo_wire::ErrorCode;

    use super::*;

    #[test]
    fn a_second_s_worth_is_taken_and_no_more_until_time_passes() {
        let mut allowances = Allowances::default();
        let start = Instant::now();
        let taken = |allowances: &mut Allowances, uid, at| {
            let all = 0..EVENTS_PER_S * 2;
            all.take_while(|_| allowances.take(uid, 10, at).is_ok())
                .count() as u32
        };
        // The last one may be lost to rounding.
        let first = taken(&mut allowances, 7, start);
        assert!(
            (EVENTS_PER_S - 1..=EVENTS_PER_S).contains(&first),
            "{first}"
        );
        let refused = allowances.take(7, 10, start).unwrap_err();
        assert_eq!(refused.reason_name(), "publish_rate");
        assert!(allowances.take(8, 10, start).is_ok(), "somebody else");
        let half = taken(&mut allowances, 7, start + Duration::from_millis(500));
        assert!(
            (EVENTS_PER_S / 2 - 1..=EVENTS_PER_S / 2 + 1).contains(&half),
            "{half}"
        );
        let later = taken(&mut allowances, 7, start + Duration::from_secs(3600));
        assert!(later <= EVENTS_PER_S, "{later}");
    }

    #[test]
    fn bytes_count_too_and_the_refusal_says_how_long_to_wait() {
        let mut allowances = Allowances::default();
        let start = Instant::now();
        let half = BYTES_PER_S as usize / 2;
        allowances.take(7, half, start).unwrap();
        allowances.take(7, half, start).unwrap();
        let refused = allowances.take(7, half, start).unwrap_err();
        assert_eq!(
            (refused.code.clone(), refused.retry_after_ms),
            (ErrorCode::Limit, Some(500))
        );
        allowances
            .take(7, half, start + Duration::from_millis(500))
            .unwrap();
    }
}
