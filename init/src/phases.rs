//! The boot sequence. [`PHASES`] is what happens, in order, with the consequence of each failure;
//! the functions below it are how.
//!
//! Rules a phase keeps: what touches a disk goes through [`Boot::job`] with a deadline; what only
//! touches the kernel's memory may be called directly; nothing here starts a service.

mod planes;

use std::time::Duration;

use crate::boot::{Boot, Consequence, Phase, PhaseError};
use crate::cmdline::Cmdline;
use crate::config::SystemConfig;
use crate::status::DataKind;
use crate::sys::{Job, Mount};
use crate::{services, watchdog};

/// The boot sequence, first row first.
pub const PHASES: &[Phase] = &[
    row("watchdog", open_watchdog, Consequence::Continue),
    row("kernel file systems", mount_kernel, Consequence::Reboot),
    row("command line", read_cmdline, Consequence::Continue),
    row("/config", mount_config, Consequence::Continue),
    row("/data", mount_data, Consequence::Fallback(data_in_memory)),
    row(
        "overlays",
        overlays_on_data,
        Consequence::Fallback(overlays_in_memory),
    ),
    row("agent state", make_agent_state, Consequence::Continue),
    row("host name", set_hostname, Consequence::Continue),
    row("loopback", raise_loopback, Consequence::Continue),
    row("clock", raise_clock, Consequence::Continue),
    row("random seed", load_seed, Consequence::Continue),
    row("cgroups", planes::make_cgroups, Consequence::Continue),
    row(
        "CPU isolation",
        planes::keep_rt_cpus_quiet,
        Consequence::Continue,
    ),
    row("run directory", prepare_run_dir, Consequence::Reboot),
];

const fn row(
    name: &'static str,
    run: fn(&mut Boot<'_>) -> Result<String, PhaseError>,
    on_failure: Consequence,
) -> Phase {
    Phase {
        name,
        run,
        on_failure,
    }
}

/// A healthy disk mounts in milliseconds; a journal replay takes a few seconds.
const MOUNT_DEADLINE: Duration = watchdog::STEP_MAX;
/// Small files on a mounted disk.
const FILE_DEADLINE: Duration = Duration::from_secs(2);
/// Partition numbers of the partition plan.
const CONFIG_PARTITION: u8 = 6;
const DATA_PARTITION: u8 = 7;
/// The system's settings.
pub const CONFIG_FILE: &str = "/config/kairo.toml";
/// The robot's own configuration, and the one that ships with the image.
const ROBOT_FILE: &str = "/config/robot.toml";
/// Used when /config has none.
pub const ROBOT_FILE_OF_THE_IMAGE: &str = "/usr/share/kairo/robot.toml";
const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// The random seed carried from one boot to the next.
pub const SEED_FILE: &str = "/data/random-seed";
/// Size of the seed: the pool's own state is 32 bytes, more does not help.
pub const SEED_BYTES: usize = 32;
/// Where the cgroup tree is.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The clock never shows a time before this image was built; seconds since 1970. Reproducible
/// builds pass SOURCE_DATE_EPOCH; without it, the day this line was written.
const BUILD_TIME_S: i64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match i64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("SOURCE_DATE_EPOCH must be seconds since 1970"),
    },
    None => 1_795_219_200,
};

fn open_watchdog(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let said = watchdog::open(boot.sys, &mut boot.status.watchdog)?;
    if let Some(why) = boot.status.watchdog.why.clone() {
        boot.degrade(format!("watchdog: {why}"));
    }
    Ok(said)
}

/// File systems of the kernel's own: (type, target, flags, options).
type KernelMount = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);
const STRICT: &[&str] = &["nosuid", "nodev", "noexec"];
const KERNEL_MOUNTS: &[KernelMount] = &[
    ("proc", "/proc", STRICT, &[]),
    ("sysfs", "/sys", STRICT, &[]),
    ("devtmpfs", "/dev", &["nosuid", "noexec"], &["mode=0755"]),
    (
        "devpts",
        "/dev/pts",
        &["nosuid", "noexec"],
        &["mode=0620", "gid=5", "ptmxmode=0666"],
    ),
    ("tmpfs", "/dev/shm", STRICT, &["mode=1777", "size=16m"]),
    ("tmpfs", "/run", STRICT, &["mode=0755", "size=16m"]),
    (
        "tmpfs",
        "/tmp",
        &["nosuid", "nodev"],
        &["mode=1777", "size=32m"],
    ),
    ("cgroup2", CGROUP_ROOT, STRICT, &["nsdelegate"]),
    ("pstore", "/sys/fs/pstore", STRICT, &[]),
];

/// Links that programs expect beside the kernel's own nodes; devtmpfs does not make them.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

fn mount_kernel(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let mut mounted = Vec::new();
    for (fstype, target, flags, options) in KERNEL_MOUNTS {
        // The kernel mounts devtmpfs itself before it starts PID 1; one on top would hide nothing
        // but would stay open in two places.
        if *fstype == "devtmpfs" && boot.sys.exists("/dev/null") {
            continue;
        }
        if matches!(*target, "/dev/pts" | "/dev/shm") {
            boot.sys.make_dir(target, 0o755, 0)?;
        }
        let result = boot.sys.mount(&Mount {
            fstype,
            source: (*fstype).to_owned(),
            target: (*target).to_owned(),
            flags,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        });
        match result {
            Ok(()) => mounted.push(*target),
            // Without these three there is nothing to stand on.
            Err(error) if matches!(*target, "/proc" | "/sys" | "/run") => return Err(error.into()),
            Err(error) => boot.degrade(error.to_string()),
        }
    }
    for (target, link) in DEVICE_LINKS {
        if let Err(error) = boot.sys.make_link(target, link) {
            boot.degrade(error.to_string());
        }
    }
    // Ours are few lines that a person waits for: the kernel's rate limit would swallow some.
    if let Err(error) = boot.sys.write("/proc/sys/kernel/printk_devkmsg", "on\n") {
        boot.degrade(error.to_string());
    }
    if !boot.status.watchdog.present && watchdog::open(boot.sys, &mut boot.status.watchdog).is_ok()
    {
        boot.sys.say("watchdog found after mounting /dev");
    }
    Ok(format!("mounted {}", mounted.join(" ")))
}

fn read_cmdline(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let text = boot.sys.read("/proc/cmdline")?;
    boot.cmdline = Cmdline::parse(&text);
    for complaint in boot.cmdline.complaints.clone() {
        boot.degrade(complaint);
    }
    boot.status.slot = boot.cmdline.slot.clone();
    let named = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    Ok(format!(
        "command line: slot {}, disk {}, RT CPUs {}",
        named(&boot.cmdline.slot),
        named(&boot.cmdline.disk),
        match boot.cmdline.rt_cpus.is_empty() {
            true => "none".to_owned(),
            false => boot.cmdline.rt_cpus.to_list(),
        }
    ))
}

fn partition(boot: &Boot<'_>, number: u8) -> Result<String, PhaseError> {
    boot.cmdline
        .partition(number)
        .ok_or_else(|| PhaseError::Unusable("no kairo.disk= on the kernel command line".to_owned()))
}

fn mount_config(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    boot.status.config = "defaults: /config is not mounted".to_owned();
    let mount = Mount {
        fstype: "ext4",
        source: partition(boot, CONFIG_PARTITION)?,
        target: "/config".to_owned(),
        flags: &["ro", "nosuid", "nodev", "noexec"],
        options: Vec::new(),
    };
    boot.job(&Job::Mount(mount), MOUNT_DEADLINE)?;
    boot.disk_mounts.push("/config");
    // Whether it is there is all PID 1 wants to know: reading it is kairo-rt's business.
    if boot
        .job(&Job::ReadFile(ROBOT_FILE.to_owned(), 1), FILE_DEADLINE)
        .is_ok()
    {
        boot.robot_file = ROBOT_FILE;
    }
    let read = Job::ReadFile(CONFIG_FILE.to_owned(), CONFIG_BYTES_MAX);
    let parsed = match boot.job(&read, FILE_DEADLINE) {
        Ok(bytes) => SystemConfig::parse(CONFIG_FILE, &String::from_utf8_lossy(&bytes)),
        Err(error) => Err(error.to_string()),
    };
    match parsed {
        Ok(config) => {
            boot.config = config;
            boot.status.config = CONFIG_FILE.to_owned();
            Ok(format!("mounted /config, settings from {CONFIG_FILE}"))
        }
        Err(why) => {
            boot.status.config = format!("defaults: {why}");
            boot.degrade(format!("default settings are used: {why}"));
            Ok("mounted /config".to_owned())
        }
    }
}

fn mount_data(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let mount = Mount {
        fstype: "ext4",
        source: partition(boot, DATA_PARTITION)?,
        target: "/data".to_owned(),
        flags: STRICT,
        options: Vec::new(),
    };
    boot.job(&Job::Mount(mount), MOUNT_DEADLINE)?;
    boot.disk_mounts.push("/data");
    boot.status.data = DataKind::Ext4;
    Ok("mounted /data (ext4)".to_owned())
}

fn data_in_memory(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    boot.sys.mount(&memory("/data", "size=64m"))?;
    Ok("mounted /data in memory: what is written there is lost at power-off".to_owned())
}

fn memory(target: &str, size: &str) -> Mount {
    Mount {
        fstype: "tmpfs",
        source: "tmpfs".to_owned(),
        target: target.to_owned(),
        flags: STRICT,
        options: vec!["mode=0755".to_owned(), size.to_owned()],
    }
}

const OVERLAYS: [(&str, &str); 2] = [("/etc", "etc"), ("/var", "var")];

fn overlays_on_data(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    overlays(boot, "/data/overlay")
}

fn overlays_in_memory(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    boot.sys.make_dir("/run/overlay", 0o755, 0)?;
    boot.sys.mount(&memory("/run/overlay", "size=32m"))?;
    overlays(boot, "/run/overlay")
}

fn overlays(boot: &mut Boot<'_>, base: &str) -> Result<String, PhaseError> {
    for (target, name) in OVERLAYS {
        if boot.disk_mounts.contains(&target) {
            continue;
        }
        let (upper, work) = (
            format!("{base}/{name}/upper"),
            format!("{base}/{name}/work"),
        );
        boot.job(&Job::MakeDirs(upper.clone()), FILE_DEADLINE)?;
        boot.job(&Job::MakeDirs(work.clone()), FILE_DEADLINE)?;
        let mount = Mount {
            fstype: "overlay",
            source: "overlay".to_owned(),
            target: target.to_owned(),
            flags: STRICT,
            options: vec![
                format!("lowerdir={target}"),
                format!("upperdir={upper}"),
                format!("workdir={work}"),
            ],
        };
        boot.job(&Job::Mount(mount), MOUNT_DEADLINE)?;
        boot.disk_mounts.push(target);
    }
    boot.job(&Job::MakeDirs("/var/log".to_owned()), FILE_DEADLINE)?;
    Ok(format!("mounted overlays of /etc and /var on {base}"))
}

/// kairod is not root and cannot make it itself.
fn make_agent_state(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let path = services::KAIROD_STATE_DIR.to_owned();
    let said = format!("made {path}");
    let job = Job::MakePrivateDir(path, services::KAIROD_UID);
    boot.job(&job, FILE_DEADLINE)?;
    Ok(said)
}

fn set_hostname(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let name = boot.config.hostname.clone();
    boot.sys.set_hostname(&name)?;
    Ok(format!("host name {name}"))
}

fn raise_loopback(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    boot.sys.loopback_up()?;
    Ok("loopback up".to_owned())
}

fn raise_clock(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    if boot.sys.wall_clock_s() >= BUILD_TIME_S {
        return Ok("clock is plausible".to_owned());
    }
    boot.sys.set_wall_clock(BUILD_TIME_S)?;
    Ok("clock was before the build, set to the build time".to_owned())
}

/// The old seed is removed before it is credited: after a power cut the same seed must not count
/// as fresh entropy twice. The new one is written at once because robots are switched off hard.
fn load_seed(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    let take = Job::TakeFile(SEED_FILE.to_owned(), SEED_BYTES);
    let loaded = match boot.job(&take, FILE_DEADLINE) {
        Ok(seed) if seed.len() == SEED_BYTES => {
            boot.sys.add_entropy(&seed)?;
            true
        }
        // The first boot has none, and a short one is worth nothing.
        Ok(_) | Err(_) => false,
    };
    // Nobody waits for it: on a first boot the kernel gathers entropy for a second or two.
    let renew = Job::RenewSeed(SEED_FILE.to_owned(), SEED_BYTES);
    boot.seed_job = Some(boot.sys.run_detached(&renew)?);
    Ok(match loaded {
        true => "random seed loaded, a new one is being made".to_owned(),
        false => "no random seed from the last boot, one is being made".to_owned(),
    })
}

fn prepare_run_dir(boot: &mut Boot<'_>) -> Result<String, PhaseError> {
    // Only kairod is in this group: it may create kernel.sock here, everyone may pass through,
    // and the sticky bit keeps it from replacing PID 1's or kairo-rt's sockets.
    boot.sys
        .make_dir(services::RUN_DIR, 0o1771, services::RUN_DIR_GID)?;
    if let Err(error) = boot
        .sys
        .make_link("/run/kairo/kernel.sock", "/tmp/kairo-kernel.sock")
    {
        boot.degrade(error.to_string());
    }
    boot.sys.listen(services::RUN_DIR, services::KAIRO_GID)?;
    Ok("listening on /run/kairo/notify, notify.root and init.sock".to_owned())
}
