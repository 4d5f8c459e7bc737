//! Bring-up of one thread, done by the thread itself, and the proof of it.
//!
//! setup-only. Real-time threads: [`enter`] once, then the warm-up, then [`read_back`]. Every other
//! thread: [`enter_ordinary`], because a thread inherits policy and mask from whoever made it, and
//! a logger at SCHED_FIFO on the isolated core is how latency is lost without a trace.

use std::collections::BTreeSet;

use core_affinity::CoreId;
use kairo_link::control::BringupCheck;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::{Need, check, cores};

/// Stack of a real-time thread. The deepest path needs about 20 KiB in a debug build.
pub const STACK_BYTES: usize = 512 * 1024;
/// Touched at the start, so that no stack page is ever missing later: all but what the frames
/// above and the guard need.
const STACK_TOUCHED_BYTES: usize = 384 * 1024;
/// Of it, what is proven to be there, below the frames of the read-back.
const STACK_CHECKED_BYTES: usize = 320 * 1024;
/// The smallest page of any supported machine.
const PAGE_BYTES: usize = 4096;
/// Timer slack of a real-time thread, ns: 1 is the smallest, 0 would mean the default of 50 µs.
const TIMER_SLACK_NS: u64 = 1;

/// What a real-time thread shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Its name; the kernel keeps 15 bytes.
    pub name: String,
    /// SCHED_FIFO priority.
    pub priority: u8,
    /// The core it is pinned to, or not.
    pub core: Option<usize>,
}

/// Makes the calling thread what `plan` says, as far as the kernel grants it. setup-only.
///
/// Failures show in [`read_back`]; they are not errors here.
pub fn enter(plan: &ThreadPlan) {
    if let Some(core) = plan.core {
        core_affinity::set_for_current(CoreId { id: core });
    }
    touch_stack();
    if let Ok(priority) = ThreadPriorityValue::try_from(plan.priority) {
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        let priority = ThreadPriority::Crossplatform(priority);
        let _ = set_thread_priority_and_policy(thread_native_id(), priority, policy);
    }
    let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK_NS);
}

/// Makes the calling thread an ordinary one on the cores in `mask`. setup-only.
///
/// # Errors
/// What the kernel said, as a text.
pub fn enter_ordinary(mask: &BTreeSet<usize>) -> Result<(), String> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // Not through thread-priority, which would also change the nice value that init or the shell
    // chose.
    // SAFETY: thread 0 is the caller; the kernel only reads `parameters`.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) } != 0 {
        return Err(format!("SCHED_OTHER refused: {}", Errno::last()));
    }
    if mask.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for core in mask {
        set.set(*core)
            .map_err(|errno| format!("core {core}: {errno}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|errno| format!("cores {} refused: {errno}", cores::list(mask)))
}

/// What the kernel says the calling thread is, beside what it should be. setup-only.
pub fn read_back(plan: &ThreadPlan, faults_in_warm_up: u64) -> Vec<BringupCheck> {
    let scope = plan.name.as_str();
    let mut table = vec![
        check_name(scope),
        check_policy(plan),
        check_slack(scope),
        check(
            scope,
            "prefault",
            "0 page faults in the last warm-up cycles",
            format!("{faults_in_warm_up}"),
            faults_in_warm_up == 0,
            Need::Required,
            "let kairo-rt lock its memory: ulimit -l unlimited, or LimitMEMLOCK=infinity",
        ),
        check_stack(scope),
    ];
    if let Some(core) = plan.core {
        table.push(check_affinity(scope, core));
    }
    table
}

fn check_name(scope: &str) -> BringupCheck {
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
    let found = comm.trim_end().to_owned();
    // Names are for people with `ps -L`: nothing depends on one.
    let wanted: String = scope.chars().take(15).collect();
    let ok = found == wanted;
    check(
        scope,
        "name",
        wanted,
        found,
        ok,
        Need::Helpful,
        "choose a name of ASCII letters",
    )
}

fn check_policy(plan: &ThreadPlan) -> BringupCheck {
    let wanted = format!("SCHED_FIFO {}", plan.priority);
    let found = kernel_policy().unwrap_or_else(|errno| format!("unknown ({errno})"));
    let ok = found == wanted;
    let fix = "run as root, or grant it: setcap cap_sys_nice+ep kairo-rt, or LimitRTPRIO=99; in a \
               container or cgroup v1 also allow real-time time (cpu.rt_runtime_us)";
    check(&plan.name, "policy", wanted, found, ok, Need::Required, fix)
}

/// Policy and priority of the calling thread, by the kernel's own word.
///
/// Not through thread-priority: that asks pthread_getschedparam(3), and glibc answers it from what
/// it last set itself, whatever the thread has become since.
fn kernel_policy() -> Result<String, Errno> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: thread 0 is the caller; the kernel writes one `sched_param`, which lives.
    if unsafe { libc::sched_getparam(0, &raw mut parameters) } != 0 {
        return Err(Errno::last());
    }
    // SAFETY: thread 0 is the caller; no memory is involved.
    let policy = match unsafe { libc::sched_getscheduler(0) } {
        -1 => return Err(Errno::last()),
        libc::SCHED_OTHER => "SCHED_OTHER".to_owned(),
        libc::SCHED_FIFO => "SCHED_FIFO".to_owned(),
        libc::SCHED_RR => "SCHED_RR".to_owned(),
        other => format!("policy {other}"),
    };
    Ok(format!("{policy} {}", parameters.sched_priority))
}

fn check_affinity(scope: &str, core: usize) -> BringupCheck {
    let found: BTreeSet<usize> = sched_getaffinity(Pid::from_raw(0))
        .map(|set| {
            (0..CpuSet::count())
                .filter(|core| set.is_set(*core) == Ok(true))
                .collect()
        })
        .unwrap_or_default();
    let ok = found == BTreeSet::from([core]);
    let fix = format!(
        "give the machine a core {core} (`nproc`), allow it to this cgroup (cpuset.cpus), or \
         change `core` in robot.toml"
    );
    check(
        scope,
        "affinity",
        format!("core {core}"),
        format!("cores {}", cores::list(&found)),
        ok,
        Need::Required,
        fix,
    )
}

fn check_slack(scope: &str) -> BringupCheck {
    // Kernels since 6.13 report 0 for a real-time thread: none is ever applied.
    let found = nix::sys::prctl::get_timerslack()
        .ok()
        .and_then(|slack| u64::try_from(slack).ok());
    check(
        scope,
        "timer_slack",
        format!("at most {TIMER_SLACK_NS} ns"),
        found.map_or("unknown".into(), |slack| format!("{slack} ns")),
        found.is_some_and(|slack| slack <= TIMER_SLACK_NS),
        Need::Required,
        "allow prctl(PR_SET_TIMERSLACK) in the seccomp filter",
    )
}

/// Writes to every page of the stack that the thread may come to use.
#[inline(never)]
fn touch_stack() {
    let mut stack = [0_u8; STACK_TOUCHED_BYTES];
    for page in stack.chunks_mut(PAGE_BYTES) {
        // Opaque to the optimiser, so that the write happens.
        page[0] = std::hint::black_box(1);
    }
    std::hint::black_box(&mut stack);
}

/// The size of this machine's pages: 4, 16 or 64 KiB.
fn page_bytes() -> usize {
    let answer = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let bytes = answer
        .ok()
        .flatten()
        .and_then(|bytes| usize::try_from(bytes).ok());
    bytes.unwrap_or(PAGE_BYTES)
}

/// Whether the stack below the caller is there, page by page, as far as it was touched.
fn check_stack(scope: &str) -> BringupCheck {
    let marker = 0_u8;
    let here = &raw const marker as usize;
    // From the page that this frame is in, downwards; the frame that touched began a little above.
    let page_bytes = page_bytes();
    let end = here / page_bytes * page_bytes;
    let start = end - STACK_CHECKED_BYTES;
    let mut pages = [0_u8; STACK_CHECKED_BYTES / PAGE_BYTES];
    let (address, length) = (start as *mut libc::c_void, STACK_CHECKED_BYTES);
    // SAFETY: mincore(2) reads no memory at `address`, and writes one byte a page into `pages`,
    // which has one for each page of the smallest size, so for larger ones too.
    let answered = unsafe { libc::mincore(address, length, pages.as_mut_ptr()) } == 0;
    let kibibytes = pages.iter().filter(|page| **page & 1 == 1).count() * page_bytes / 1024;
    check(
        scope,
        "stack",
        format!("{} KiB there", STACK_CHECKED_BYTES / 1024),
        format!("{kibibytes} KiB there"),
        answered && kibibytes == STACK_CHECKED_BYTES / 1024,
        Need::Required,
        "let kairo-rt lock its memory: ulimit -l unlimited, or LimitMEMLOCK=infinity",
    )
}

const _: () = assert!(STACK_CHECKED_BYTES < STACK_TOUCHED_BYTES);
const _: () = assert!(STACK_TOUCHED_BYTES + 64 * 1024 <= STACK_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_kernel_says_whether_granted_or_not() {
        let plan = ThreadPlan {
            name: "kairo-proof".into(),
            priority: 5,
            core: Some(0),
        };
        let builder = std::thread::Builder::new()
            .name(plan.name.clone())
            .stack_size(STACK_BYTES);
        let thread = builder.spawn(move || {
            enter(&plan);
            let table = read_back(&plan, 0);
            enter_ordinary(&BTreeSet::new()).unwrap();
            (table, check_policy(&plan))
        });
        let (table, after) = thread.unwrap().join().unwrap();
        let names: Vec<&str> = table.iter().map(|line| line.check.as_str()).collect();
        assert_eq!(
            names,
            [
                "name",
                "policy",
                "timer_slack",
                "prefault",
                "stack",
                "affinity"
            ]
        );
        assert!(table[0].ok && table[2].ok && table[4].ok, "{table:?}");
        for line in &table {
            assert_eq!(line.ok, line.fix.is_empty(), "{line:?}");
        }
        assert!(
            !after.ok,
            "an ordinary thread was taken for a real-time one: {after:?}"
        );
    }

    #[test]
    fn a_core_that_is_not_there_is_found_out() {
        let thread = std::thread::spawn(|| {
            enter(&ThreadPlan {
                name: "x".into(),
                priority: 1,
                core: Some(1000),
            });
            check_affinity("x", 1000)
        });
        let line = thread.join().unwrap();
        assert!(!line.ok && line.fix.contains("nproc"), "{line:?}");
    }
}
