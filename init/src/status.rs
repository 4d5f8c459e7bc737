//! What PID 1 knows about the boot, in the shape the control protocol answers it.

use serde::Serialize;

use crate::sys::BootTime;

/// Most degradations kept; a boot has fewer steps.
const DEGRADED_MAX: usize = 64;

/// Milliseconds of a boot time, as reported everywhere.
pub fn milliseconds(time: BootTime) -> u64 {
    time.as_millis() as u64
}

/// What is behind `/data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// The disk.
    Ext4,
    /// Memory: what is written there is lost at power-off.
    Tmpfs,
}

/// The hardware watchdog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WatchdogStatus {
    /// It is open and counting.
    pub present: bool,
    /// Its timeout, seconds.
    pub timeout_s: u32,
    /// It is being fed.
    pub fed: bool,
    /// It reset the machine last time.
    pub caused_reset: bool,
    /// Why it is absent, ill-configured or not fed.
    pub why: Option<String>,
}

/// The boot.
#[derive(Debug, Clone, Serialize)]
pub struct BootStatus {
    /// When PID 1 started, CLOCK_BOOTTIME.
    pub init_start_ms: u64,
    /// When all services were ready or given up on for now; null until then.
    pub ready_ms: Option<u64>,
    /// What is behind /data.
    pub data: DataKind,
    /// Which slot booted.
    pub slot: Option<String>,
    /// `file`, `defaults: why`.
    pub config: String,
    /// The watchdog.
    pub watchdog: WatchdogStatus,
    /// Each step that did not go as planned, in words.
    pub degraded: Vec<String>,
}

impl BootStatus {
    /// A boot that starts now.
    pub fn new(now: BootTime) -> Self {
        Self {
            init_start_ms: milliseconds(now),
            ready_ms: None,
            data: DataKind::Tmpfs,
            slot: None,
            config: "defaults".to_owned(),
            watchdog: WatchdogStatus::default(),
            degraded: Vec::new(),
        }
    }

    /// Notes a degradation; beyond the bound it is dropped.
    pub fn degrade(&mut self, what: String) {
        if self.degraded.len() < DEGRADED_MAX {
            self.degraded.push(what);
        }
    }
}
