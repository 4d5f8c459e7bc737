//! What the demo found: the JSON file, whose field names are stable.

use serde::Serialize;
use serde_json::Value;

/// The kernel that ran.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Whether it is a PREEMPT_RT kernel.
    pub preempt_rt: bool,
}

/// The image that ran; absent in the hosted form.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Image {
    /// Size of the root file system.
    pub root_bytes: u64,
    /// Size of the kernel.
    pub kernel_bytes: u64,
    /// SHA-256 of the root file system.
    pub root_hash: String,
}

/// How long the boot took, by the guest's own clock; absent in the hosted form.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Boot {
    /// From the kernel's start to PID 1.
    pub kernel_ms: u64,
    /// From PID 1 to both planes ready.
    pub init_to_ready_ms: u64,
}

/// Four points of a distribution, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// Largest, untrimmed.
    pub max: f64,
}

/// The real-time plane's own account.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RealTime {
    /// Period of the control loop.
    pub period_us: u64,
    /// Ticks run since kairo-rt armed.
    pub ticks: u64,
    /// Periods skipped since kairo-rt armed.
    pub skipped: u64,
    /// Wake-up lateness in the latency step's windows.
    pub lateness_us: Quantiles,
    /// Page faults without disk access since arming.
    pub minor_faults: u64,
    /// Page faults with disk access since arming.
    pub major_faults: u64,
    /// Heap allocations since arming.
    pub allocations: u64,
    /// The bring-up table, as `rt.status` gives it.
    pub bringup: Value,
}

/// cyclictest beside it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cyclictest {
    /// What measured: `cyclictest`, or its stand-in where it may not run.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Samples.
    pub cycles: u64,
    /// Wake-up latency.
    pub latency_us: Quantiles,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct StepResult {
    /// Its stable name.
    pub name: &'static str,
    /// Whether what it claims was seen.
    pub ok: bool,
    /// What was seen, or what went wrong.
    pub detail: String,
    /// How long it took.
    pub ms: u64,
}

/// The whole report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `image` or `hosted`.
    pub form: &'static str,
    /// `kvm`, `tcg`, or `none` when hosted. Numbers from a virtual machine say nothing of a board.
    pub accelerator: String,
    /// `fifo` or `ordinary`: how the host scheduled the emulator's threads; empty when hosted.
    pub host_priority: &'static str,
    /// The kernel.
    pub kernel: Kernel,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// The real-time plane.
    pub rt: RealTime,
    /// cyclictest.
    pub cyclictest: Cyclictest,
    /// The steps, in order.
    pub steps: Vec<StepResult>,
}

impl Report {
    /// True only if there were steps and every one passed.
    pub fn passed(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_or_none_at_all_fails_the_demo() {
        let step = |ok| StepResult {
            name: "move",
            ok,
            detail: String::new(),
            ms: 1,
        };
        let with = |steps| Report {
            steps,
            ..Report::default()
        };
        assert!(!with(vec![]).passed());
        assert!(!with(vec![step(true), step(false)]).passed());
        assert!(with(vec![step(true), step(true)]).passed());
    }
}
