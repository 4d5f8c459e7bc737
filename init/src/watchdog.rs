//! The hardware watchdog: opened before anything that can block, never closed, fed from one place.
//!
//! There is no petting thread: PID 1 has one loop, and the dog is to know whether that loop lives.
//! This works because no step may take longer than [`STEP_MAX`], well below the timeout. A device
//! that is missing or refuses the timeout is said in the status and is not fatal: a machine that
//! does not boot protects nobody. Writing an error leads to close and reopen at the next feeding,
//! as some drivers recover that way.

use std::time::Duration;

use crate::status::WatchdogStatus;
use crate::sys::{Sys, SysError};

/// The device. The kernel makes it before it starts PID 1 (CONFIG_DEVTMPFS_MOUNT).
pub const DEVICE: &str = "/dev/watchdog";
/// Timeout asked for: the longest a bcm2835 can count, the shortest that survives [`STEP_MAX`].
pub const TIMEOUT_S: u32 = 15;
/// How often it is fed while everything votes for it.
pub const FEED_INTERVAL: Duration = Duration::from_secs(1);
/// Longest that anything in PID 1 may take between two feedings.
pub const STEP_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(
    2 * STEP_MAX.as_secs() + FEED_INTERVAL.as_secs() < TIMEOUT_S as u64,
    "two slow steps in a row must not reset the machine"
);

/// Opens and configures the watchdog and feeds it once.
pub fn open(sys: &mut dyn Sys, status: &mut WatchdogStatus) -> Result<String, SysError> {
    status.present = false;
    if let Err(error) = sys.watchdog_open(DEVICE) {
        status.why = Some(error.to_string());
        return Err(error);
    }
    status.present = true;
    status.why = None;
    status.timeout_s = match sys.watchdog_set_timeout(TIMEOUT_S) {
        Ok(timeout_s) => timeout_s,
        Err(error) => {
            // It is counting with a timeout of its own: feed it all the same.
            status.why = Some(error.to_string());
            sys.watchdog_timeout().unwrap_or(0)
        }
    };
    status.caused_reset |= sys.watchdog_caused_reset();
    feed(sys, status);
    let reset = match status.caused_reset {
        true => ", it caused the last reset",
        false => "",
    };
    Ok(format!("watchdog {} s{reset}", status.timeout_s))
}

/// Feeds it; on a write error reopens it once and leaves the error in the status.
pub fn feed(sys: &mut dyn Sys, status: &mut WatchdogStatus) {
    if !status.present {
        return;
    }
    match sys.watchdog_feed() {
        Ok(()) => status.fed = true,
        Err(error) => {
            status.fed = false;
            status.why = Some(error.to_string());
            if sys.watchdog_open(DEVICE).is_ok() {
                // The timeout belongs to the device, but a driver that lost its state starts with
                // its own default: ask again.
                let _refused_is_already_in_the_status = sys.watchdog_set_timeout(TIMEOUT_S);
                status.fed = sys.watchdog_feed().is_ok();
            }
        }
    }
}
