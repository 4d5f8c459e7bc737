//! Bring-up of the process: its limits, its memory, its hold on CPU wake-up latency.
//!
//! setup-only, from the main thread, before any other thread exists. What is outside of the process
//! is in [`super::machine`].

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use kairo_link::control::BringupCheck;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getres};

use super::machine::Demand;
use super::{Need, check};
use crate::purity::Purity;

/// Heap touched at the start and kept: what set-up, the link and the log may come to need.
const HEAP_PREFAULT_BYTES: usize = 8 * 1024 * 1024;
/// The smallest page of any supported machine.
const PAGE_BYTES: usize = 4096;
/// A block that the C allocator would map by itself, were it not told not to.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK_BYTES: usize = 1024 * 1024;
/// A period must be this many times the resolution of the timer that ends it.
const TIMER_PARTS: u64 = 10;
/// SCHED_FIFO's highest priority.
const PRIORITY_MAX: u64 = 99;
/// Bits of capabilities in the kernel's masks (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_NICE: u32 = 23;
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

/// Prepares the process for threads with these demands; returns what must be held, and the table.
/// setup-only.
pub fn prepare(demands: &[Demand]) -> (Holds, Vec<BringupCheck>) {
    raise(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY);
    raise(Resource::RLIMIT_RTPRIO, PRIORITY_MAX);
    let mut table = limits();
    table.push(timer_resolution(demands));
    table.push(allocator());
    table.push(memory_lock());
    table.push(prefault_heap());
    let (cpu_dma_latency, line) = hold_cpu_latency();
    table.push(line);
    (
        Holds {
            _cpu_dma_latency: cpu_dma_latency,
        },
        table,
    )
}

/// What an ordinary process can tell without changing itself: the limits and the timer.
pub fn look(demands: &[Demand]) -> Vec<BringupCheck> {
    let mut table = limits();
    table.push(timer_resolution(demands));
    let (_closed, line) = hold_cpu_latency();
    table.push(line);
    table
}

/// `VmLck` of this process, bytes; zero when unknown.
pub fn locked_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Raises a limit as far as it goes. May be refused; what counts is what is read back.
fn raise(resource: Resource, wanted: u64) {
    if setrlimit(resource, wanted, wanted).is_err()
        && let Ok((_, hard)) = getrlimit(resource)
    {
        let _ = setrlimit(resource, hard, hard);
    }
}

/// The two limits that stand between an ordinary user and a real-time thread. A capability stands
/// above each.
fn limits() -> Vec<BringupCheck> {
    // The soft one is raised to it before it is needed.
    let limit = |resource| getrlimit(resource).map_or(0, |(_, hard)| hard);
    let line = |name: &str, found: u64, wanted: u64, capability: u32, fix: &str| {
        let text = |limit| match limit {
            RLIM_INFINITY => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let exempt = holds(capability);
        let found_text = match exempt {
            true => format!("{}, and exempt from it by a capability", text(found)),
            false => text(found),
        };
        let ok = exempt || found >= wanted;
        check(
            SCOPE,
            name,
            text(wanted),
            found_text,
            ok,
            Need::Required,
            fix,
        )
    };
    vec![
        line(
            "memlock_limit",
            limit(Resource::RLIMIT_MEMLOCK),
            RLIM_INFINITY,
            CAP_IPC_LOCK,
            "add to /etc/security/limits.d/kairo.conf: `@realtime - memlock unlimited`, or \
             LimitMEMLOCK=infinity in the unit, or run as root",
        ),
        line(
            "rtprio_limit",
            limit(Resource::RLIMIT_RTPRIO),
            PRIORITY_MAX,
            CAP_SYS_NICE,
            "add to /etc/security/limits.d/kairo.conf: `@realtime - rtprio 99`, or LimitRTPRIO=99 \
             in the unit, or setcap cap_sys_nice+ep kairo-rt",
        ),
    ]
}

/// Early in a boot the kernel still runs on a provisional clock source, and every timer is late by
/// up to a scheduler tick: arming then would mean to run blind for a second or two.
fn timer_resolution(demands: &[Demand]) -> BringupCheck {
    let end = Instant::now() + TIMERS_PATIENCE;
    let mut found_ns = resolution_ns();
    while found_ns != Some(1) && Instant::now() < end {
        std::thread::park_timeout(TIMERS_POLL);
        found_ns = resolution_ns();
    }
    judge_timer(found_ns, demands)
}

/// A machine without high-resolution timers still serves periods of many of its scheduler's ticks.
fn judge_timer(found_ns: Option<i64>, demands: &[Demand]) -> BringupCheck {
    let shortest = demands.iter().min_by_key(|demand| demand.period_us);
    let coarsest_ns = shortest.map_or(1, |demand| demand.period_us * 1000 / TIMER_PARTS);
    let wanted = match shortest {
        Some(demand) => format!(
            "at most {coarsest_ns} ns, a tenth of the {} us of {} ({})",
            demand.period_us, demand.name, demand.place
        ),
        None => "1 ns".to_owned(),
    };
    let found = found_ns.and_then(|ns| u64::try_from(ns).ok());
    let place = shortest.map_or("robot.toml", |demand| demand.place.as_str());
    check(
        SCOPE,
        "timer_resolution",
        wanted,
        found.map_or_else(|| "unknown".to_owned(), |ns| format!("{ns} ns")),
        found.is_some_and(|ns| ns <= coarsest_ns.max(1)),
        Need::Required,
        format!(
            "boot a kernel with CONFIG_HIGH_RES_TIMERS on a clock source that allows it (see \
             /sys/devices/system/clocksource/clocksource0/current_clocksource), or lengthen the \
             period at {place}"
        ),
    )
}

/// Resolution of CLOCK_MONOTONIC timers, which the kernel raises to a tick while it has none
/// better.
fn resolution_ns() -> Option<i64> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(resolution.num_nanoseconds())
}

fn memory_lock() -> BringupCheck {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    // Under a limit that counts, MCL_FUTURE would make later thread stacks fail instead of only
    // leaving them unlocked.
    let unlimited = limit == RLIM_INFINITY || holds(CAP_IPC_LOCK);
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

/// Whether this process holds a capability, by its bit.
fn holds(capability: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> capability & 1 == 1)
}

/// The C allocator never gives memory back and never maps single blocks, so that what was touched
/// once stays; and it keeps one arena, which is the one touched.
#[cfg(target_env = "gnu")]
fn allocator() -> BringupCheck {
    for (parameter, value) in [
        (libc::M_TRIM_THRESHOLD, -1),
        (libc::M_MMAP_MAX, 0),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: mallopt(3) takes two integers and has no other requirement.
        unsafe { libc::mallopt(parameter, value) };
    }
    // SAFETY: mallinfo2(3) takes nothing and returns numbers.
    let mapped = || unsafe { libc::mallinfo2() }.hblks;
    let before = mapped();
    let block = std::hint::black_box(vec![1_u8; LARGE_BLOCK_BYTES]);
    let by_itself = mapped() > before;
    drop(block);
    let found = match by_itself {
        true => "a large block was mapped by itself",
        false => "a large block came from the heap",
    };
    let wanted = "no block is mapped by itself, no memory given back";
    let fix = "run without a preloaded allocator: env -u LD_PRELOAD kairo-rt";
    check(
        SCOPE,
        "allocator",
        wanted,
        found,
        !by_itself,
        Need::Required,
        fix,
    )
}

/// Other C libraries have no such knobs; what they do shows as page faults.
#[cfg(not(target_env = "gnu"))]
fn allocator() -> BringupCheck {
    let found = "another C library's, left as it is";
    check(SCOPE, "allocator", "pinned", found, true, Need::Helpful, "")
}

/// Touches the heap, and shows that what was touched stayed.
fn prefault_heap() -> BringupCheck {
    touch_heap();
    let before = Purity::of_this_thread();
    touch_heap();
    let faults = Purity::of_this_thread().faults_since(&before);
    check(
        SCOPE,
        "heap",
        format!("{} KiB touched, and there", HEAP_PREFAULT_BYTES / 1024),
        format!("{faults} page faults on touching them again"),
        faults == 0,
        Need::Helpful,
        "let kairo-rt lock its memory: ulimit -l unlimited, or LimitMEMLOCK=infinity",
    )
}

fn touch_heap() {
    let mut heap = vec![0_u8; HEAP_PREFAULT_BYTES];
    for page in heap.chunks_mut(PAGE_BYTES) {
        page[0] = std::hint::black_box(1);
    }
    std::hint::black_box(&mut heap);
}

fn hold_cpu_latency() -> (Option<File>, BringupCheck) {
    let path = "/dev/cpu_dma_latency";
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let held = opened.and_then(|mut file| {
        file.write_all(&0_i32.to_ne_bytes())?;
        // What is in force, by the kernel's word: the lowest that anybody asks for.
        let mut in_force = [0; 4];
        file.read_exact(&mut in_force)?;
        Ok((file, i32::from_ne_bytes(in_force)))
    });
    let found = match &held {
        Ok((_, in_force_us)) => format!("{in_force_us} us, held"),
        Err(error) => format!("{path}: {error}"),
    };
    let ok = held
        .as_ref()
        .is_ok_and(|(_, in_force_us)| *in_force_us == 0);
    let fix = format!("run as root, or let this user write it: chmod 666 {path} (a udev rule)");
    let line = check(
        SCOPE,
        "cpu_dma_latency",
        "0 us, held",
        found,
        ok,
        Need::Helpful,
        fix,
    );
    (held.ok().map(|(file, _)| file), line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_check_and_a_fix_for_each_failure() {
        let (_holds, table) = prepare(&[]);
        let names: Vec<&str> = table.iter().map(|line| line.check.as_str()).collect();
        let expected = [
            "memlock_limit",
            "rtprio_limit",
            "timer_resolution",
            "allocator",
            "locked_memory",
            "heap",
            "cpu_dma_latency",
        ];
        assert_eq!(names, expected);
        for line in &table {
            assert_eq!(line.ok, line.fix.is_empty(), "{line:?}");
        }
    }

    #[test]
    fn a_period_below_what_the_timer_can_do_is_refused_with_its_line() {
        let demand = |period_us| Demand {
            name: "fast-loop".into(),
            core: None,
            period_us,
            place: "robot.toml:53".into(),
        };
        // Without high-resolution timers: the scheduler's tick at 250 Hz.
        let coarse = Some(4_000_000);
        let line = judge_timer(coarse, &[demand(50_000), demand(20_000)]);
        assert!(!line.ok && line.required, "{line:?}");
        assert!(line.wanted.contains("at most 2000000 ns"), "{line:?}");
        assert!(
            line.wanted
                .contains("20000 us of fast-loop (robot.toml:53)"),
            "{line:?}"
        );
        assert!(judge_timer(coarse, &[demand(50_000)]).ok);
        assert!(judge_timer(Some(1), &[demand(100)]).ok);
        assert!(!judge_timer(None, &[demand(100_000)]).ok);
    }
}
