//! CLOCK_MONOTONIC in nanoseconds, the time that kairo-rt and the simulator write down.

/// The time now.
///
/// # Errors
/// When there is no such clock, or it runs before zero.
pub fn now_ns() -> anyhow::Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
