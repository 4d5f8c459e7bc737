//! What a report says of the machine it was made on.

use std::fs;

use serde::Serialize;

/// Facts without which a number means nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: usize,
    /// `uname -r` and `-v` of the kernel the measured programs ran on.
    pub kernel: String,
    /// `none` on the machine itself; `kvm`, `tcg` or `icount` in a guest.
    pub accel: String,
    /// Load average of the last minute, when the run began.
    pub load: f64,
    /// Processor time that a hypervisor took away during the run, ms over all processors.
    pub steal_ms: u64,
}

impl Host {
    /// Looks at this machine. `steal_ms` is that since boot, until the run ends.
    pub(super) fn now(accel: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_name(&read("/proc/cpuinfo"), &read("/proc/device-tree/model")),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!(
                "{} {}",
                read("/proc/sys/kernel/osrelease").trim(),
                read("/proc/sys/kernel/version").trim()
            ),
            accel: accel.to_owned(),
            load: first_number(&read("/proc/loadavg")),
            steal_ms: steal_ms(&read("/proc/stat")),
        }
    }
}

/// The processor's name; arm64 kernels name the board instead.
fn cpu_name(cpuinfo: &str, board: &str) -> String {
    let model = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map(|(_, name)| name.trim());
    match model {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ if !board.is_empty() => board.trim_end_matches('\0').to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The eighth number of the `cpu` line: time given to other guests, in ticks of USER_HZ, which is
/// 100 a second on every architecture Linux runs on today.
fn steal_ms(stat: &str) -> u64 {
    stat.lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .and_then(|line| line.split_whitespace().nth(7))
        .and_then(|ticks| ticks.parse::<u64>().ok())
        .map_or(0, |ticks| ticks * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kernels_write() {
        let stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(steal_ms(stat), 800);
        assert_eq!(steal_ms(""), 0);
        assert_eq!(cpu_name("model name\t: A CPU\n", ""), "A CPU");
        assert_eq!(
            cpu_name("BogoMIPS: 108\n", "Raspberry Pi 4\0"),
            "Raspberry Pi 4"
        );
        assert_eq!(cpu_name("", ""), "unknown");
        assert!((first_number("0.52 0.3 0.1 1/2 3") - 0.52).abs() < 1e-9);
        assert!(first_number("").is_nan());
    }

    #[test]
    fn this_machine_has_a_kernel_and_processors() {
        let host = Host::now("none");
        assert!(host.cpus > 0 && host.kernel.len() > 2 && host.accel == "none");
    }
}
