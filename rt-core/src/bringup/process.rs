//! Bring-up of the process and, in strict mode, of the machine around it.
//!
//! setup-only, from the main thread, before any other thread exists. Machine-wide settings
//! (governor, interrupts, work queues) are changed only in strict mode on a machine with a core to
//! spare: a robot's computer is kairo-rt's to tune, a developer's laptop is not.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use kairo_link::control::BringupCheck;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getres};

use super::cores::{CoreSplit, list, mask, parse_list};
use super::{Need, check};

/// Heap touched at the start and kept: what set-up, the link and the log may come to need.
const HEAP_PREFAULT_BYTES: usize = 8 * 1024 * 1024;
/// The smallest page of any supported machine.
const PAGE_BYTES: usize = 4096;
/// Interrupts looked at; machines have a few hundred.
const INTERRUPTS_MAX: usize = 4096;
const SCOPE: &str = "process";
/// How long bring-up waits for high-resolution timers: the kernel calibrates its clock for one
/// second after it started, under emulation a little longer.
const TIMERS_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const TIMERS_POLL: Duration = Duration::from_millis(10);

/// What must stay open for as long as the real-time threads run.
#[derive(Debug)]
pub struct Holds {
    /// The kernel keeps CPU wake-up latency at zero while this is open.
    _cpu_dma_latency: Option<File>,
}

/// Prepares the process; returns what must be held, and the table. setup-only.
pub fn prepare(split: &CoreSplit, strict: bool) -> (Holds, Vec<BringupCheck>) {
    let mut table = vec![kernel(), timer_resolution(), memory_lock()];
    prefault_heap();
    let (cpu_dma_latency, line) = hold_cpu_latency();
    table.push(line);
    if strict && split.separates() {
        table.push(governor(&split.real_time));
        table.push(interrupts(split));
        table.push(work_queues(&split.housekeeping));
        table.push(timer_migration());
    }
    (
        Holds {
            _cpu_dma_latency: cpu_dma_latency,
        },
        table,
    )
}

/// `VmLck` of this process, bytes; zero when unknown.
pub fn locked_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn kernel() -> BringupCheck {
    let version = nix::sys::utsname::uname()
        .map(|name| name.version().to_string_lossy().into_owned())
        .unwrap_or_default();
    let ok = version.contains("PREEMPT_RT");
    let fix = "boot a kernel with CONFIG_PREEMPT_RT, such as the KairoOS image's";
    check(
        SCOPE,
        "kernel",
        "PREEMPT_RT",
        version,
        ok,
        Need::Helpful,
        fix,
    )
}

/// Early in a boot the kernel still runs on a provisional clock source, and every timer is late by
/// up to a scheduler tick: arming then would mean to run blind for a second or two.
fn timer_resolution() -> BringupCheck {
    let end = Instant::now() + TIMERS_PATIENCE;
    let mut found_ns = resolution_ns();
    while found_ns != Some(1) && Instant::now() < end {
        std::thread::park_timeout(TIMERS_POLL);
        found_ns = resolution_ns();
    }
    check(
        SCOPE,
        "timer_resolution",
        "1 ns",
        found_ns.map_or_else(|| "unknown".to_owned(), |ns| format!("{ns} ns")),
        found_ns == Some(1),
        Need::Required,
        "boot a kernel with CONFIG_HIGH_RES_TIMERS on a clock source that allows it; see \
         /sys/devices/system/clocksource/clocksource0/current_clocksource",
    )
}

/// Resolution of CLOCK_MONOTONIC timers, which the kernel raises to a tick while it has none
/// better.
fn resolution_ns() -> Option<i64> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(resolution.num_nanoseconds())
}

fn memory_lock() -> BringupCheck {
    // May be refused; what counts is what is read back below.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let _ = setrlimit(Resource::RLIMIT_RTPRIO, 99, 99);
    pin_allocator();
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    // Under a limit that counts, MCL_FUTURE would make later thread stacks fail instead of only
    // leaving them unlocked.
    let unlimited = limit == RLIM_INFINITY || may_ignore_the_limit();
    let granted =
        unlimited && mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).is_ok();
    let bytes = locked_bytes();
    check(
        SCOPE,
        "locked_memory",
        "all memory, now and later",
        format!("VmLck {} KiB", bytes / 1024),
        granted && bytes > 0,
        Need::Required,
        "run as root, or raise the limit: ulimit -l unlimited, or LimitMEMLOCK=infinity",
    )
}

/// Whether this process holds CAP_IPC_LOCK, for which RLIMIT_MEMLOCK does not count.
fn may_ignore_the_limit() -> bool {
    /// Bit of the capability in the kernel's masks (linux/capability.h).
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

/// The C allocator never gives memory back and never maps single blocks, so that what was touched
/// once stays; and it keeps one arena, which is the one touched.
fn pin_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_TRIM_THRESHOLD, -1),
        (libc::M_MMAP_MAX, 0),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: mallopt(3) takes two integers and has no other requirement.
        unsafe { libc::mallopt(parameter, value) };
    }
}

fn prefault_heap() {
    let mut heap = vec![0_u8; HEAP_PREFAULT_BYTES];
    for page in heap.chunks_mut(PAGE_BYTES) {
        page[0] = std::hint::black_box(1);
    }
    std::hint::black_box(&mut heap);
}

fn hold_cpu_latency() -> (Option<File>, BringupCheck) {
    let path = "/dev/cpu_dma_latency";
    let opened = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| {
            file.write_all(&0_i32.to_ne_bytes())?;
            Ok(file)
        });
    let found = match &opened {
        Ok(_) => "0 us, held".to_owned(),
        Err(error) => format!("{path}: {error}"),
    };
    let fix = format!("run as root, or let this user write it: chmod 666 {path} (a udev rule)");
    let line = check(
        SCOPE,
        "cpu_dma_latency",
        "0 us, held",
        found,
        opened.is_ok(),
        Need::Helpful,
        fix,
    );
    (opened.ok(), line)
}

fn governor(real_time: &BTreeSet<usize>) -> BringupCheck {
    let mut found = BTreeSet::new();
    for core in real_time {
        let path = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        // Refusal shows in what is read back.
        let _ = fs::write(&path, "performance");
        if let Ok(name) = fs::read_to_string(&path) {
            found.insert(name.trim().to_owned());
        }
    }
    let fixed = found.is_empty();
    let ok = found.iter().all(|name| name == "performance");
    let names = found.into_iter().collect::<Vec<_>>().join(", ");
    let found = if fixed {
        "the frequency is not scaled".to_owned()
    } else {
        names
    };
    let fix = "cpupower frequency-set -g performance";
    check(
        SCOPE,
        "governor",
        "performance",
        found,
        ok,
        Need::Helpful,
        fix,
    )
}

/// Moves interrupts to the housekeeping cores. Some cannot be moved (per-core timers, managed
/// queues); those are counted, and none of them carries work of the agent plane.
fn interrupts(split: &CoreSplit) -> BringupCheck {
    let wanted = list(&split.housekeeping);
    let _ = fs::write("/proc/irq/default_smp_affinity", mask(&split.housekeeping));
    let entries = fs::read_dir("/proc/irq")
        .into_iter()
        .flatten()
        .take(INTERRUPTS_MAX);
    let (mut total, mut left) = (0, Vec::new());
    for entry in entries.flatten() {
        let path = entry.path().join("smp_affinity_list");
        let Ok(before) = fs::read_to_string(&path) else {
            continue;
        };
        total += 1;
        if parse_list(&before).is_disjoint(&split.real_time) {
            continue;
        }
        let _ = fs::write(&path, &wanted);
        let after = fs::read_to_string(&path).unwrap_or(before);
        if !parse_list(&after).is_disjoint(&split.real_time) {
            left.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let found = format!(
        "{} of {total} may run on a real-time core: {}",
        left.len(),
        left.join(" ")
    );
    check(
        SCOPE,
        "interrupts",
        format!("all on cores {wanted}"),
        found,
        left.is_empty(),
        Need::Helpful,
        "boot with irqaffinity= naming the housekeeping cores; per-core interrupts stay",
    )
}

fn work_queues(housekeeping: &BTreeSet<usize>) -> BringupCheck {
    let path = Path::new("/sys/devices/virtual/workqueue/cpumask");
    let wanted = mask(housekeeping);
    let _ = fs::write(path, &wanted);
    let found = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let plain = |text: &str| {
        text.trim()
            .replace(',', "")
            .trim_start_matches('0')
            .to_owned()
    };
    let ok = plain(&found) == plain(&wanted);
    let fix = format!("echo {wanted} > {}", path.display());
    check(
        SCOPE,
        "work_queues",
        wanted,
        found.trim(),
        ok,
        Need::Helpful,
        fix,
    )
}

/// With timer migration, the timer that wakes an idle isolated core is armed on a housekeeping
/// core, and the wake-up is as late as that core is busy: exactly what isolation is to prevent
/// (decision 037). A kernel without the setting does not migrate.
fn timer_migration() -> BringupCheck {
    const PATH: &str = "/proc/sys/kernel/timer_migration";
    let _ = fs::write(PATH, "0");
    let found = match fs::read_to_string(PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "0 (not built in)".to_owned(),
        Err(error) => error.to_string(),
        Ok(text) => text.trim().to_owned(),
    };
    let ok = found.starts_with('0');
    let fix = "sysctl kernel.timer_migration=0";
    check(
        SCOPE,
        "timer_migration",
        "0",
        found,
        ok,
        Need::Required,
        fix,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_check_and_a_fix_for_each_failure() {
        // Not strict: nothing outside this process is changed.
        let (_holds, table) = prepare(&CoreSplit::default(), false);
        let names: Vec<&str> = table.iter().map(|line| line.check.as_str()).collect();
        let expected = [
            "kernel",
            "timer_resolution",
            "locked_memory",
            "cpu_dma_latency",
        ];
        assert_eq!(names, expected);
        for line in &table {
            assert_eq!(line.ok, line.fix.is_empty(), "{line:?}");
        }
    }
}
