//! The two planes' resources: the cgroup tree with its limits, and the cores of the real-time
//! plane. Writes to the kernel's memory only, so nothing here can hang; each refusal is said and
//! the rest is done all the same.

use super::CGROUP_ROOT;
use crate::boot::{Boot, PhaseError};
use crate::cpus::Cpus;
use crate::services;

/// The tree: directories in order, controllers handed down by each inner one.
const CGROUPS: &[&str] = &[
    "kairo",
    services::RT_CGROUP,
    services::SYSTEM_CGROUP,
    services::AGENT_CGROUP,
    services::KAIROD_CGROUP,
    services::FORWARD_CGROUP,
];
const CONTROLLERS: &str = "+cpu +cpuset +memory +pids\n";

pub(super) fn make_cgroups(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let root = CGROUP_ROOT;
    for name in CGROUPS {
        boot.sys.make_dir(&format!("{root}/{name}"), 0o755, 0)?;
        // Controllers go down to the children of the root, of kairo and of the agent plane; the
        // other groups hold processes, which excludes handing controllers down.
        if *name == "kairo" {
            try_write(boot, &format!("{root}/cgroup.subtree_control"), CONTROLLERS);
        }
        if matches!(*name, "kairo" | services::AGENT_CGROUP) {
            try_write(
                boot,
                &format!("{root}/{name}/cgroup.subtree_control"),
                CONTROLLERS,
            );
        }
    }
    let (agent, rt) = (boot.config.agent.clone(), boot.config.rt.clone());
    let mib = |mib: u32| format!("{}\n", u64::from(mib) << 20);
    let limits = [
        // A quarter of the usual 100 ms period keeps the agent plane's stalls short.
        (
            "kairo/agent/cpu.max",
            format!("{} 25000\n", u64::from(agent.cpu_percent) * 250),
        ),
        ("kairo/agent/memory.high", mib(agent.memory_high_mib)),
        ("kairo/agent/memory.max", mib(agent.memory_max_mib)),
        ("kairo/agent/pids.max", format!("{}\n", agent.tasks_max)),
        // memory.min protects only as far as every ancestor grants it.
        ("kairo/memory.min", mib(rt.memory_min_mib)),
        ("kairo/rt/memory.min", mib(rt.memory_min_mib)),
    ];
    for (file, value) in limits {
        try_write(boot, &format!("{root}/{file}"), &value);
    }
    Ok("made cgroups kairo/rt, kairo/agent, kairo/system".to_owned())
}

fn try_write(boot: &mut Boot<'_>, path: &str, text: &str) -> bool {
    match boot.sys.write(path, text) {
        Ok(()) => true,
        Err(error) => {
            boot.degrade(error.to_string());
            false
        }
    }
}

/// Keeps the RT cores for kairo/rt: nobody else may run there, and interrupts and kernel workers
/// are on the housekeeping cores. kairo/rt has those too, for kairo-rt's own helper threads, which
/// have no business on an RT core; a cpuset partition would deny them (decision 015).
pub(super) fn keep_rt_cpus_quiet(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let unusable = |why: String| PhaseError::Unusable(why);
    let online = boot.sys.read("/sys/devices/system/cpu/online")?;
    let online = Cpus::parse_list(&online).map_err(|error| unusable(error.to_string()))?;
    let rt = boot.cmdline.rt_cpus;
    if rt.is_empty() {
        return Ok("no RT CPUs named, all CPUs are shared".to_owned());
    }
    let housekeeping = online.without(rt);
    if !rt.is_within(online) || housekeeping.is_empty() {
        return Err(unusable(format!(
            "kairo.rt_cpus={} does not leave a housekeeping CPU of {}; all CPUs are shared",
            rt.to_list(),
            online.to_list()
        )));
    }
    let (all, rest) = (
        format!("{}\n", online.to_list()),
        format!("{}\n", housekeeping.to_list()),
    );
    let cgroup = |file: &str| format!("{CGROUP_ROOT}/kairo/{file}");
    try_write(boot, &cgroup("rt/cpuset.cpus"), &all);
    try_write(boot, &cgroup("agent/cpuset.cpus"), &rest);
    try_write(boot, &cgroup("system/cpuset.cpus"), &rest);
    let isolation = kernel_isolation(boot, rt);
    let mask = format!("{}\n", housekeeping.to_mask());
    try_write(boot, "/sys/devices/virtual/workqueue/cpumask", &mask);
    try_write(boot, "/proc/irq/default_smp_affinity", &mask);
    let mut fixed = 0;
    for irq in boot.sys.list("/proc/irq") {
        // Per-CPU and managed interrupts cannot be moved and refuse; they are counted.
        if irq.bytes().all(|byte| byte.is_ascii_digit())
            && boot
                .sys
                .write(&format!("/proc/irq/{irq}/smp_affinity"), &mask)
                .is_err()
        {
            fixed += 1;
        }
    }
    Ok(format!(
        "CPUs {} for kairo/rt ({isolation}), {} for the rest; {fixed} interrupts cannot be moved",
        rt.to_list(),
        housekeeping.to_list()
    ))
}

/// Whether the kernel itself keeps its balancing off the RT cores, which only its command line can
/// ask for.
fn kernel_isolation(boot: &mut Boot<'_>, rt: Cpus) -> &'static str {
    let isolated = boot.sys.read("/sys/devices/system/cpu/isolated");
    let isolated = isolated.ok().and_then(|list| Cpus::parse_list(&list).ok());
    if isolated.is_some_and(|isolated| rt.is_within(isolated)) {
        return "isolated";
    }
    boot.degrade(format!(
        "the kernel balances load onto the RT CPUs: add isolcpus=managed_irq,domain,{} to its \
         command line",
        rt.to_list()
    ));
    "not isolated"
}
