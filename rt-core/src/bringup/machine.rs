//! Bring-up of the machine around the process: cores, interrupts, clocks, throttling.
//!
//! setup-only, from an ordinary thread. Everything is looked at, always; it is *changed* only when
//! asked to, in strict mode on a machine with a core to spare: a robot's computer is kairo-rt's to
//! tune, a developer's laptop is not. So the same table is what `kairo doctor --rt` shows on a
//! machine where kairo-rt never ran, and needs no privilege to be read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kairo_link::control::BringupCheck;

use super::cores::{CoreSplit, list, mask, parse_list};
use super::{Need, check};

/// Interrupts looked at; machines have a few hundred.
const INTERRUPTS_MAX: usize = 4096;
const SCOPE: &str = "machine";

/// A thread that is to be real-time, and what it asks of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Its name.
    pub name: String,
    /// The core it is pinned to, or not.
    pub core: Option<usize>,
    /// Its period.
    pub period_us: u64,
    /// Where the configuration says so, as `robot.toml:53`.
    pub place: String,
}

/// The machine, seen through its files.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    tunes: bool,
}

impl Machine {
    /// This machine, to be looked at and, if `tunes`, changed.
    pub fn here(tunes: bool) -> Self {
        Self {
            root: PathBuf::from("/"),
            tunes,
        }
    }

    /// The table of everything outside this process.
    pub fn table(&self, demands: &[Demand], split: &CoreSplit) -> Vec<BringupCheck> {
        let mut table = vec![self.kernel(), self.throttling(), self.group_scheduling()];
        let pinned = demands.iter().filter(|demand| demand.core.is_some());
        table.extend(pinned.map(|demand| self.core_exists(demand)));
        for core in &split.real_time {
            table.push(self.governor(*core));
            if split.separates() {
                table.push(self.isolation(*core));
                table.push(self.sibling(*core));
            }
        }
        if split.separates() {
            table.push(self.interrupts(split));
            table.push(self.work_queues(&split.housekeeping));
            table.push(self.timer_migration());
        }
        table
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Refusal shows in what is read back.
    fn write(&self, path: &Path, value: &str) {
        if self.tunes {
            let _ = fs::write(path, value);
        }
    }

    fn kernel(&self) -> BringupCheck {
        let version = self.read("proc/sys/kernel/version").unwrap_or_default();
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

    /// Linux stops real-time threads that use more than their share. A loop within its budget never
    /// meets it; a share of a few percent stops any.
    fn throttling(&self) -> BringupCheck {
        let number = |name: &str| -> Option<i64> {
            self.read(&format!("proc/sys/kernel/{name}"))?.parse().ok()
        };
        let (runtime, period) = (number("sched_rt_runtime_us"), number("sched_rt_period_us"));
        let (runtime_us, period_us) = (runtime.unwrap_or(-1), period.unwrap_or(1_000_000));
        let found = match runtime_us {
            -1 => "off".to_owned(),
            runtime_us => format!("{runtime_us} of every {period_us} us"),
        };
        check(
            SCOPE,
            "rt_throttling",
            "off, or 95 % at least",
            found,
            runtime_us < 0 || runtime_us * 100 >= period_us * 95,
            Need::Helpful,
            "sysctl kernel.sched_rt_runtime_us=950000 kernel.sched_rt_period_us=1000000",
        )
    }

    /// With CONFIG_RT_GROUP_SCHED a cgroup has real-time time of its own, none at first, and
    /// SCHED_FIFO is refused for no visible reason.
    fn group_scheduling(&self) -> BringupCheck {
        let groups = self.read("proc/self/cgroup").unwrap_or_default();
        let cpu = groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers
                .split(',')
                .any(|name| name == "cpu")
                .then_some(path)
        });
        let file = cpu.map(|path| {
            let directory = path.trim_start_matches('/');
            Path::new("sys/fs/cgroup/cpu")
                .join(directory)
                .join("cpu.rt_runtime_us")
        });
        let granted = file.as_ref().and_then(|file| self.read(file.to_str()?));
        let found = granted.as_ref().map_or_else(
            || "off".to_owned(),
            |granted| format!("on, {granted} us granted to this cgroup"),
        );
        let ok = granted.is_none_or(|granted| granted.parse::<i64>().is_ok_and(|time| time > 0));
        let file = file.unwrap_or_default();
        let fix = format!(
            "echo 950000 > /{}, parents first; or a kernel without CONFIG_RT_GROUP_SCHED",
            file.display()
        );
        let wanted = "off, or time granted";
        check(
            SCOPE,
            "rt_group_sched",
            wanted,
            found,
            ok,
            Need::Required,
            fix,
        )
    }

    fn online(&self) -> String {
        self.read("sys/devices/system/cpu/online")
            .unwrap_or_default()
    }

    fn core_exists(&self, demand: &Demand) -> BringupCheck {
        let core = demand.core.unwrap_or_default();
        let online = self.online();
        let ok = parse_list(&online).contains(&core);
        check(
            &demand.name,
            "core",
            format!("core {core} ({})", demand.place),
            format!("cores {online} are online"),
            ok,
            Need::Required,
            format!(
                "write another core at {}, or give the machine one",
                demand.place
            ),
        )
    }

    /// Whether the kernel keeps ordinary programs off a core: by its command line or by a cpuset
    /// partition.
    fn isolation(&self, core: usize) -> BringupCheck {
        let by_boot = self
            .read("sys/devices/system/cpu/isolated")
            .unwrap_or_default();
        let by_cpuset = self
            .read("sys/fs/cgroup/cpuset.cpus.isolated")
            .unwrap_or_default();
        let isolated: BTreeSet<usize> = &parse_list(&by_boot) | &parse_list(&by_cpuset);
        let found = match isolated.is_empty() {
            true => "no core is isolated".to_owned(),
            false => format!("cores {} are isolated", list(&isolated)),
        };
        check(
            &format!("core {core}"),
            "isolation",
            "isolated",
            found,
            isolated.contains(&core),
            Need::Required,
            format!(
                "boot with isolcpus=domain,managed_irq,{core} nohz_full={core} rcu_nocbs={core}"
            ),
        )
    }

    /// Two hardware threads of one core share its caches and its time.
    fn sibling(&self, core: usize) -> BringupCheck {
        let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        let siblings = parse_list(&self.read(&path).unwrap_or_default());
        let online = parse_list(&self.online());
        let others: BTreeSet<usize> = siblings
            .into_iter()
            .filter(|sibling| *sibling != core && online.contains(sibling))
            .collect();
        let found = match others.is_empty() {
            true => "none".to_owned(),
            false => format!("shared with core {}", list(&others)),
        };
        check(
            &format!("core {core}"),
            "smt_sibling",
            "none",
            found,
            others.is_empty(),
            Need::Helpful,
            "echo off > /sys/devices/system/cpu/smt/control",
        )
    }

    fn governor(&self, core: usize) -> BringupCheck {
        let path = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        if self.path(&path).exists() {
            self.write(&self.path(&path), "performance");
        }
        let found = self.read(&path);
        let ok = found.as_ref().is_none_or(|name| name == "performance");
        check(
            &format!("core {core}"),
            "governor",
            "performance",
            found.unwrap_or_else(|| "the frequency is not scaled".into()),
            ok,
            Need::Helpful,
            format!("echo performance > /{path}"),
        )
    }

    /// Moves interrupts to the housekeeping cores. Some cannot be moved (per-core timers, managed
    /// queues); those are counted, and none of them carries work of the agent plane.
    fn interrupts(&self, split: &CoreSplit) -> BringupCheck {
        let wanted = list(&split.housekeeping);
        let default = self.path("proc/irq/default_smp_affinity");
        self.write(&default, &mask(&split.housekeeping));
        let entries = fs::read_dir(self.path("proc/irq"));
        let entries = entries.into_iter().flatten().take(INTERRUPTS_MAX);
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
            self.write(&path, &wanted);
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
            format!(
                "for i in /proc/irq/*/smp_affinity_list; do echo {wanted} > $i; done; or boot \
                     with irqaffinity={wanted}; per-core interrupts stay"
            ),
        )
    }

    fn work_queues(&self, housekeeping: &BTreeSet<usize>) -> BringupCheck {
        const PATH: &str = "sys/devices/virtual/workqueue/cpumask";
        let wanted = mask(housekeeping);
        self.write(&self.path(PATH), &wanted);
        let found = self.read(PATH).unwrap_or_else(|| "unknown".into());
        let plain = |text: &str| text.replace(',', "").trim_start_matches('0').to_owned();
        let ok = plain(&found) == plain(&wanted);
        let fix = format!("echo {wanted} > /{PATH}");
        check(SCOPE, "work_queues", wanted, found, ok, Need::Helpful, fix)
    }

    /// With timer migration, the timer that wakes an idle isolated core is armed on a housekeeping
    /// core, and the wake-up is as late as that core is busy: exactly what isolation is to prevent
    /// (decision 037). A kernel without the setting does not migrate.
    fn timer_migration(&self) -> BringupCheck {
        let path = self.path("proc/sys/kernel/timer_migration");
        if path.exists() {
            self.write(&path, "0");
        }
        let found = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "0 (not built in)".to_owned(),
            Err(error) => error.to_string(),
            Ok(text) => text.trim().to_owned(),
        };
        // Where nothing may be changed, it is what kairo-rt would change.
        let need = match self.tunes {
            true => Need::Required,
            false => Need::Helpful,
        };
        let ok = found.starts_with('0');
        let fix = "sysctl kernel.timer_migration=0";
        check(SCOPE, "timer_migration", "0", found, ok, need, fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of four cores with core 3 wanted, made of files.
    fn machine(files: &[(&str, &str)], tunes: bool) -> (tempfile::TempDir, Machine) {
        let directory = tempfile::tempdir().unwrap();
        let usual = [
            ("proc/sys/kernel/version", "#1 SMP PREEMPT_RT"),
            ("proc/sys/kernel/sched_rt_runtime_us", "950000"),
            ("proc/sys/kernel/sched_rt_period_us", "1000000"),
            ("proc/sys/kernel/timer_migration", "1"),
            ("proc/self/cgroup", "0::/"),
            ("proc/irq/default_smp_affinity", "f"),
            ("proc/irq/9/smp_affinity_list", "0-3"),
            ("proc/irq/10/smp_affinity_list", "0-2"),
            ("sys/devices/system/cpu/online", "0-3"),
            ("sys/devices/system/cpu/isolated", "3"),
            (
                "sys/devices/system/cpu/cpu3/topology/thread_siblings_list",
                "3",
            ),
            (
                "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
                "powersave",
            ),
            ("sys/devices/virtual/workqueue/cpumask", "f"),
        ];
        for (path, text) in usual.iter().chain(files) {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        let machine = Machine {
            root: directory.path().to_path_buf(),
            tunes,
        };
        (directory, machine)
    }

    fn split() -> CoreSplit {
        CoreSplit {
            real_time: BTreeSet::from([3]),
            housekeeping: BTreeSet::from([0, 1, 2]),
        }
    }

    /// The names of the failed lines; each must have a fix, and only those.
    fn failed(machine: &Machine, demands: &[Demand]) -> Vec<String> {
        let table = machine.table(demands, &split());
        for line in &table {
            assert_eq!(line.ok, line.fix.is_empty(), "{line:?}");
        }
        let failed = table.iter().filter(|line| !line.ok);
        failed.map(|line| line.check.clone()).collect()
    }

    #[test]
    fn a_machine_that_may_not_be_changed_is_told_what_to_change() {
        let (directory, machine) = machine(&[], false);
        let names = ["governor", "interrupts", "work_queues", "timer_migration"];
        assert_eq!(failed(&machine, &[]), names);
        let mask = directory
            .path()
            .join("sys/devices/virtual/workqueue/cpumask");
        assert_eq!(
            fs::read_to_string(mask).unwrap(),
            "f\n",
            "nothing was written"
        );
    }

    #[test]
    fn a_robots_machine_is_changed_and_read_back() {
        let (directory, machine) = machine(&[], true);
        assert_eq!(failed(&machine, &[]), [""; 0]);
        let interrupt = directory.path().join("proc/irq/9/smp_affinity_list");
        assert_eq!(fs::read_to_string(interrupt).unwrap(), "0,1,2");
    }

    #[test]
    fn a_core_that_is_not_there_or_not_isolated_is_named_with_its_line() {
        let (_directory, machine) = machine(&[("sys/devices/system/cpu/isolated", "")], true);
        let demand = Demand {
            name: "arm-loop".into(),
            core: Some(7),
            period_us: 4000,
            place: "robot.toml:53".into(),
        };
        assert_eq!(
            failed(&machine, std::slice::from_ref(&demand)),
            ["core", "isolation"]
        );
        let table = machine.table(&[demand], &split());
        let line = table.iter().find(|line| line.check == "core").unwrap();
        assert_eq!(line.wanted, "core 7 (robot.toml:53)");
        assert!(line.required && line.found.contains("0-3"), "{line:?}");
        let line = table.iter().find(|line| line.check == "isolation").unwrap();
        assert!(
            line.required && line.fix.contains("isolcpus=domain,managed_irq,3"),
            "{line:?}"
        );
    }

    #[test]
    fn each_defect_has_its_line() {
        let cases = [
            (
                "proc/sys/kernel/version",
                "#1 SMP PREEMPT_DYNAMIC",
                "kernel",
            ),
            (
                "proc/sys/kernel/sched_rt_runtime_us",
                "500000",
                "rt_throttling",
            ),
            (
                "sys/devices/system/cpu/cpu3/topology/thread_siblings_list",
                "1,3",
                "smt_sibling",
            ),
        ];
        for (path, text, name) in cases {
            let (_directory, machine) = machine(&[(path, text)], true);
            assert_eq!(failed(&machine, &[]), [name]);
        }
        let group = [
            ("proc/self/cgroup", "4:cpu,cpuacct:/robot"),
            ("sys/fs/cgroup/cpu/robot/cpu.rt_runtime_us", "0"),
        ];
        let (_directory, machine) = machine(&group, true);
        assert_eq!(failed(&machine, &[]), ["rt_group_sched"]);
    }
}
