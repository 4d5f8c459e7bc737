//! The proof that no helper thread is real-time: every thread of the process is looked at.
//!
//! setup-only, from an ordinary thread, once all threads run. A thread inherits policy and mask
//! from whoever made it, and libraries make threads; so the list is the kernel's, not ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kairo_link::control::BringupCheck;

use super::cores::{list, parse_list};
use super::{Need, check};

/// Threads looked at; kairo-rt has some ten.
const THREADS_MAX: usize = 1024;
/// Position of the policy in /proc/PID/stat, counted behind the name (proc(5): field 41).
const POLICY_FIELD: usize = 38;

/// What the kernel says of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Helper {
    name: String,
    policy: i32,
    cores: BTreeSet<usize>,
}

/// Two lines about all threads but `real_time`: policy, and cores within `mask` (any, if empty).
pub fn check_all(real_time: &[u64], mask: &BTreeSet<usize>) -> Vec<BringupCheck> {
    judge(&helpers(real_time), mask)
}

fn helpers(real_time: &[u64]) -> Vec<Helper> {
    let tasks = fs::read_dir("/proc/self/task");
    let tasks = tasks.into_iter().flatten().flatten().take(THREADS_MAX);
    let of_others = tasks.filter(|task| {
        let number = task.file_name().to_string_lossy().parse::<u64>();
        number.is_ok_and(|number| !real_time.contains(&number))
    });
    // A thread that ends meanwhile is none.
    of_others.filter_map(|task| look(&task.path())).collect()
}

fn look(task: &Path) -> Option<Helper> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    // The name may hold anything, brackets too; fields are counted from the last one on.
    let (start, fields) = stat.rsplit_once(')')?;
    let policy = fields.split_whitespace().nth(POLICY_FIELD)?.parse().ok()?;
    let name = start.split_once('(')?.1.to_owned();
    let status = fs::read_to_string(task.join("status")).ok()?;
    let mut lines = status.lines();
    let cores = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(Helper {
        name,
        policy,
        cores: parse_list(cores),
    })
}

fn judge(helpers: &[Helper], mask: &BTreeSet<usize>) -> Vec<BringupCheck> {
    let is_ordinary = |helper: &&Helper| helper.policy == libc::SCHED_OTHER;
    let in_place = |helper: &&Helper| mask.is_empty() || helper.cores.is_subset(mask);
    let place = match mask.is_empty() {
        true => "any core".to_owned(),
        false => format!("cores {}", list(mask)),
    };
    let line = |name: &str, wanted: String, good: &dyn Fn(&&Helper) -> bool, need, fix: &str| {
        let bad: Vec<String> = helpers
            .iter()
            .filter(|helper| !good(helper))
            .map(|helper| {
                let cores = list(&helper.cores);
                format!("{} (policy {}, cores {cores})", helper.name, helper.policy)
            })
            .collect();
        let names: Vec<&str> = helpers.iter().map(|helper| helper.name.as_str()).collect();
        let found = match bad.is_empty() {
            true => format!("so are all {}: {}", names.len(), names.join(" ")),
            false => format!("not so: {}", bad.join(", ")),
        };
        check("helpers", name, wanted, found, bad.is_empty(), need, fix)
    };
    let policy_fix =
        "start kairo-rt as an ordinary thread: no chrt around it, no CPUSchedulingPolicy=";
    let mask_fix = "allow a core without real-time threads to this cgroup (cpuset.cpus)";
    vec![
        line(
            "policy",
            "SCHED_OTHER".into(),
            &is_ordinary,
            Need::Required,
            policy_fix,
        ),
        line("affinity", place, &in_place, Need::Helpful, mask_fix),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::gettid;

    fn helper(name: &str, policy: i32, cores: &[usize]) -> Helper {
        Helper {
            name: name.into(),
            policy,
            cores: cores.iter().copied().collect(),
        }
    }

    #[test]
    fn one_thread_with_another_policy_or_on_another_core_fails_the_line() {
        let mask = BTreeSet::from([0]);
        let good = [helper("main", 0, &[0]), helper("link-server", 0, &[0])];
        assert!(judge(&good, &mask).iter().all(|line| line.ok));
        let [first, second] = good;
        let table = judge(&[first.clone(), helper("x", libc::SCHED_FIFO, &[0])], &mask);
        assert!(
            !table[0].ok && table[0].required && table[1].ok,
            "{table:?}"
        );
        assert!(table[0].found.contains("x (policy 1"), "{table:?}");
        let table = judge(&[second, helper("y", 0, &[0, 1])], &mask);
        assert!(
            table[0].ok && !table[1].ok && !table[1].fix.is_empty(),
            "{table:?}"
        );
        let anywhere = judge(&[helper("y", 0, &[0, 1])], &BTreeSet::new());
        assert!(anywhere[1].ok);
    }

    #[test]
    fn the_kernel_s_list_has_the_threads_that_nobody_named() {
        let named = std::thread::Builder::new().name("odd) name".into());
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = named.spawn(move || {
            tell.send(u64::try_from(gettid().as_raw()).unwrap())
                .unwrap();
            let _ = ended.recv();
        });
        let number = told.recv().unwrap();
        let find = |helpers: &[Helper]| helpers.iter().any(|helper| helper.name == "odd) name");
        let all = helpers(&[]);
        assert!(find(&all), "{all:?}");
        assert!(all.iter().all(|helper| !helper.cores.is_empty()), "{all:?}");
        assert!(
            !find(&helpers(&[number])),
            "real-time threads are not helpers"
        );
        drop(end);
        thread.unwrap().join().unwrap();
    }
}
