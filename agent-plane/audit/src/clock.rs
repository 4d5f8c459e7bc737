//! When something happened: by the wall clock for people, and by the boot and its monotonic clock
//! for order. A step of the wall clock changes what is shown and nothing that is decided.
//!
//! Any thread; reading the boot's id opens a file, so it is done once.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// The last second that has four digits of year; a wall clock beyond it is shown as this.
const LAST_SECOND: u64 = 253_402_300_799;

/// The clocks of this boot.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: String,
}

/// One moment.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Wall clock, UTC, RFC 3339 with nanoseconds.
    pub time: String,
    /// Id of the boot; empty where the system tells none.
    pub boot: String,
    /// CLOCK_BOOTTIME: nanoseconds since the boot.
    pub monotonic_ns: u64,
}

impl Clock {
    /// The clocks of the running system.
    pub fn system() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            boot: boot.trim().to_owned(),
        }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        Moment {
            time: shown(since_epoch.unwrap_or_default()),
            boot: self.boot.clone(),
            monotonic_ns: since_boot.map_or(0, |since| {
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            }),
        }
    }
}

fn shown(since_epoch: Duration) -> String {
    let last = Duration::from_secs(LAST_SECOND);
    let time = SystemTime::UNIX_EPOCH + since_epoch.min(last);
    humantime::format_rfc3339_nanos(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_wall_clock_has_a_text() {
        assert_eq!(shown(Duration::ZERO), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(shown(Duration::MAX), "9999-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn the_monotonic_clock_goes_on() {
        let clock = Clock::system();
        let before = clock.now();
        assert!(clock.now().monotonic_ns >= before.monotonic_ns);
        assert!(before.monotonic_ns > 0);
    }
}
