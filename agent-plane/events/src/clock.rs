//! The two clocks of an event, and the boot they belong to.
//!
//! Wall time may be set; the monotonic clock never goes back within a boot. Tests give clocks of
//! their own.

use nix::time::{ClockId, clock_gettime};

/// Where times come from.
#[derive(Clone, Copy)]
pub struct Clocks {
    /// Wall time, ns since 1970.
    pub wall_ns: fn() -> i64,
    /// CLOCK_MONOTONIC, ns.
    pub monotonic_ns: fn() -> u64,
}

impl std::fmt::Debug for Clocks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Clocks")
    }
}

impl Default for Clocks {
    fn default() -> Self {
        Self {
            wall_ns: || read_ns(ClockId::CLOCK_REALTIME),
            monotonic_ns: || u64::try_from(read_ns(ClockId::CLOCK_MONOTONIC)).unwrap_or(0),
        }
    }
}

/// These clocks exist on every Linux; 0 says that this one does not.
fn read_ns(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| {
        time.tv_sec()
            .saturating_mul(1_000_000_000)
            .saturating_add(time.tv_nsec())
    })
}

/// The kernel's name for this boot; `unknown` without /proc.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".into(), |text| text.trim().to_string())
}

/// Eight random hexadecimal digits, to tell one log's ids from another's.
pub(crate) fn random_name() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    // Without /proc the clock has to do; two logs would have to be made in the same nanosecond.
    uuid.map_or_else(
        |_| format!("{:08x}", read_ns(ClockId::CLOCK_REALTIME) as u32),
        |uuid| uuid.chars().take(8).collect(),
    )
}
