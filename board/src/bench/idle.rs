//! How often a daemon that has nothing to do wakes up.
//!
//! Every thread counts in `/proc` how often it went to sleep by itself; each of those ended with a
//! wake-up. Counts over a span, after the daemon has settled. A thread that came in the span
//! counts from its beginning; one that ended in it does not count, so the span's processor time is
//! reported beside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// How long a daemon may take to come to rest: what it wrote at its start is flushed by then, and a
/// helper thread without work has ended.
const SETTLING: Duration = Duration::from_secs(15);
/// How long it is watched: two of its longest pauses between attempts to reach kairo-rt.
const SPAN: Duration = Duration::from_secs(20);

/// What a process did while it had nothing to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// Wake-ups of all threads together.
    pub wakeups_per_s: f64,
    /// Wake-ups of each thread that had any, by its name.
    pub by_thread: BTreeMap<String, u64>,
    /// Processor time, ms in the span.
    pub processor_ms: u64,
    /// The span, s.
    pub span_s: f64,
}

/// One thread, as `/proc` has it.
#[derive(Clone, Debug, PartialEq)]
struct Thread {
    name: String,
    sleeps: u64,
}

/// Watches process `pid`; takes 35 s.
///
/// # Errors
/// It is gone.
pub fn watch(pid: u32) -> anyhow::Result<Idle> {
    std::thread::sleep(SETTLING);
    let (before, processor) = (threads(pid)?, processor_ms(pid)?);
    let began = Instant::now();
    std::thread::sleep(SPAN);
    let span_s = began.elapsed().as_secs_f64();
    let after = threads(pid)?;
    ensure!(!after.is_empty(), "process {pid} has no threads");
    let by_thread = difference(&before, &after);
    let all: u64 = by_thread.values().sum();
    Ok(Idle {
        wakeups_per_s: all as f64 / span_s,
        by_thread,
        processor_ms: processor_ms(pid)?.saturating_sub(processor),
        span_s,
    })
}

fn threads(pid: u32) -> anyhow::Result<BTreeMap<u32, Thread>> {
    let directory = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
    let mut threads = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str());
        let number = number.context("a thread without a number")?.parse()?;
        // One that ended since it was listed.
        if let Ok(status) = std::fs::read_to_string(path.join("status")) {
            threads.insert(number, thread(&status).context("a status without counts")?);
        }
    }
    Ok(threads)
}

/// Reads a thread's status.
fn thread(status: &str) -> Option<Thread> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    Some(Thread {
        name: value("Name:")?.trim().to_owned(),
        sleeps: value("voluntary_ctxt_switches:")?.trim().parse().ok()?,
    })
}

/// How often each went to sleep in between. Threads of one name count together.
fn difference(
    before: &BTreeMap<u32, Thread>,
    after: &BTreeMap<u32, Thread>,
) -> BTreeMap<String, u64> {
    let mut by_thread = BTreeMap::new();
    for (number, thread) in after {
        let earlier = before.get(number).map_or(0, |thread| thread.sleeps);
        let sleeps = thread.sleeps.saturating_sub(earlier);
        if sleeps > 0 {
            *by_thread.entry(thread.name.clone()).or_insert(0) += sleeps;
        }
    }
    by_thread
}

/// Processor time of a process so far, ms.
fn processor_ms(pid: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = processor_ticks(&stat).context("a stat without times")?;
    // The unit of /proc has been 10 ms for all programs since long before it could be asked for.
    Ok(ticks * 10)
}

/// utime and stime: fields 14 and 15. The name before them may hold anything.
fn processor_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_are_read_and_not_the_other_switches() {
        let status = "Name:\tkairod\nPid:\t7\nvoluntary_ctxt_switches:\t41\n\
                      nonvoluntary_ctxt_switches:\t9\n";
        let read = thread(status).unwrap();
        assert_eq!((read.name.as_str(), read.sleeps), ("kairod", 41));
        assert_eq!(thread("Name:\tkairod\n"), None);
    }

    #[test]
    fn a_new_thread_counts_whole_and_one_that_slept_through_not_at_all() {
        let one = |sleeps| Thread {
            name: "worker".into(),
            sleeps,
        };
        let before = BTreeMap::from([(1, one(10)), (2, one(5))]);
        let after = BTreeMap::from([(1, one(13)), (2, one(5)), (3, one(2))]);
        assert_eq!(
            difference(&before, &after),
            BTreeMap::from([("worker".to_string(), 5)])
        );
        assert!(difference(&after, &after).is_empty());
    }

    #[test]
    fn the_processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 5 0";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_is_watched_through_its_own_proc() {
        assert!(!threads(std::process::id()).unwrap().is_empty());
        assert!(processor_ms(std::process::id()).is_ok());
    }
}
