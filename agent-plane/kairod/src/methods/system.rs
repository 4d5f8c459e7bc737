//! `system.*`: what machine this is and how it is doing, read from /proc and /sys at each call.

use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::reasons::Reason;
use crate::router::{Call, Method, NoParams, Permission};
use crate::sensors::{Battery, Disk, Temperature};

/// The commit the image builder built from.
const COMMIT: Option<&str> = option_env!("KAIRO_COMMIT");
/// How old a reading of the sensors may be that is shown: whoever asks every second sees one anew,
/// and whoever asks a thousand times wakes no driver more often.
const SENSORS_AGE: Duration = Duration::from_millis(900);

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "system.get_info",
            Permission::Observe,
            "Says which system, kernel, version and robot this is.",
            async |call, NoParams {}| info(&call),
        ),
        Method::new(
            "system.get_metrics",
            Permission::Observe,
            "Gives load, CPU time, memory, pressure, temperatures, batteries and disk.",
            async |call, NoParams {}| metrics(&call).await,
        ),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Info {
    os: Os,
    kernel: Kernel,
    /// Version of kairod.
    version: &'static str,
    /// The commit it was built from; none in a build that was not told.
    commit: Option<&'static str>,
    hostname: String,
    /// CPU architecture.
    machine: String,
    /// CPUs online.
    cpus: usize,
    /// Since boot, s.
    uptime_s: f64,
    /// Since kairod started, s.
    kairod_uptime_s: f64,
    /// The robot's name; none while kairo-rt has not said it.
    robot: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Os {
    id: String,
    name: String,
    version: String,
}

#[derive(Serialize, JsonSchema)]
struct Kernel {
    release: String,
    version: String,
    /// Whether `version` says PREEMPT_RT. (Mainline 6.12 has no /sys/kernel/realtime.)
    preempt_rt: bool,
}

fn info(call: &Call) -> Result<Info, ErrorInfo> {
    let names = nix::sys::utsname::uname()
        .map_err(|errno| Reason::Internal.error(format!("uname failed: {errno}")))?;
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    let version = text(names.version());
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let robot = call.daemon.plane.borrow().welcome().robot.clone();
    Ok(Info {
        os: Os {
            id: os_field(&release, "ID"),
            name: os_field(&release, "NAME"),
            version: os_field(&release, "VERSION_ID"),
        },
        kernel: Kernel {
            release: text(names.release()),
            preempt_rt: version.contains("PREEMPT_RT"),
            version,
        },
        version: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        hostname: text(names.nodename()),
        machine: text(names.machine()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        uptime_s: first_number(&read(Path::new("/proc/uptime"))?),
        kairod_uptime_s: call.daemon.started.elapsed().as_secs_f64(),
        robot: Some(robot).filter(|robot| !robot.is_empty()),
    })
}

/// A field of os-release(5), without its quotes.
fn os_field(release: &str, name: &str) -> String {
    let line = release
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_default().trim_matches('"').to_string()
}

fn read(path: &Path) -> Result<String, ErrorInfo> {
    fs::read_to_string(path).map_err(|error| {
        let path = path.display();
        Reason::NoProc.error(format!("cannot read {path}: {error}"))
    })
}

fn first_number(text: &str) -> f64 {
    let word = text.split_whitespace().next();
    word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

#[derive(Serialize, JsonSchema)]
struct Metrics {
    /// Load averages over 1, 5 and 15 minutes.
    load: Vec<f64>,
    /// CPU time since boot by CPU; a caller's rate is a difference of two calls.
    cpus: Vec<CpuTime>,
    memory: Memory,
    /// Share of time that work was delayed, by resource; empty without PSI in the kernel.
    pressure: Vec<Pressure>,
    /// Every thermal zone that answers.
    temperatures: Vec<Temperature>,
    /// Every battery of the machine; empty where there is none.
    batteries: Vec<Battery>,
    /// The disk with the state directory; none where it cannot be asked.
    disk: Option<Disk>,
    /// How long ago the sensors were read, s; none where they never answered.
    sensors_age_s: Option<f64>,
    kairod: OwnMetrics,
}

#[derive(Serialize, JsonSchema)]
struct CpuTime {
    /// `cpu0`, …
    name: String,
    user_s: f64,
    system_s: f64,
    idle_s: f64,
    iowait_s: f64,
    irq_s: f64,
    steal_s: f64,
}

#[derive(Serialize, JsonSchema)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
    free_bytes: u64,
    swap_total_bytes: u64,
    swap_free_bytes: u64,
}

#[derive(Serialize, JsonSchema)]
struct Pressure {
    /// `cpu`, `memory` or `io`.
    resource: &'static str,
    /// Some tasks waited, share of the last 10 s, percent.
    some_10s_percent: f64,
    /// Some tasks waited, share of the last 60 s, percent.
    some_60s_percent: f64,
}

#[derive(Serialize, JsonSchema)]
struct OwnMetrics {
    /// Memory in RAM.
    resident_bytes: u64,
}

async fn metrics(call: &Call) -> Result<Metrics, ErrorInfo> {
    let root = call.daemon.sensors.root();
    let load = read(&root.join("proc/loadavg"))?;
    let status = read(Path::new("/proc/self/status"))?;
    let cpus = cpu_times(&read(&root.join("proc/stat"))?);
    let memory = memory(&read(&root.join("proc/meminfo"))?);
    let pressure = pressures(root);
    let seen = call.daemon.sensors.sample(SENSORS_AGE).await;
    let age_s = seen.as_ref().map(|(age, _)| age.as_secs_f64());
    let sample = seen.map(|(_, sample)| sample).unwrap_or_default();
    Ok(Metrics {
        load: load
            .split_whitespace()
            .take(3)
            .filter_map(|word| word.parse().ok())
            .collect(),
        cpus,
        memory,
        pressure,
        temperatures: sample.temperatures.clone(),
        batteries: sample.batteries.clone(),
        disk: sample.disk.clone(),
        sensors_age_s: age_s,
        kairod: OwnMetrics {
            resident_bytes: kib_field(&status, "VmRSS"),
        },
    })
}

fn cpu_times(stat: &str) -> Vec<CpuTime> {
    // USER_HZ, the unit of /proc/stat, is 100 on every architecture we run on.
    const TICK_S: f64 = 0.01;
    let cpus = stat.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let number = name.strip_prefix("cpu")?;
        number.parse::<u32>().ok()?;
        let ticks: Vec<f64> = words.map_while(|word| word.parse().ok()).collect();
        let seconds = |index: usize| ticks.get(index).copied().unwrap_or(0.0) * TICK_S;
        Some(CpuTime {
            name: name.into(),
            user_s: seconds(0) + seconds(1),
            system_s: seconds(2),
            idle_s: seconds(3),
            iowait_s: seconds(4),
            irq_s: seconds(5) + seconds(6),
            steal_s: seconds(7),
        })
    });
    cpus.collect()
}

fn memory(text: &str) -> Memory {
    Memory {
        total_bytes: kib_field(text, "MemTotal"),
        available_bytes: kib_field(text, "MemAvailable"),
        free_bytes: kib_field(text, "MemFree"),
        swap_total_bytes: kib_field(text, "SwapTotal"),
        swap_free_bytes: kib_field(text, "SwapFree"),
    }
}

/// A `Name:   123 kB` line, in bytes.
fn kib_field(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = word.and_then(|word| word.parse().ok()).unwrap_or(0);
    kib.saturating_mul(1024)
}

fn pressures(root: &Path) -> Vec<Pressure> {
    let all = ["cpu", "memory", "io"].into_iter().filter_map(|resource| {
        let text = fs::read_to_string(root.join("proc/pressure").join(resource)).ok()?;
        let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let field = |name: &str| {
            let word = some.split(' ').find_map(|word| word.strip_prefix(name));
            word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
        };
        Some(Pressure {
            resource,
            some_10s_percent: field("avg10="),
            some_60s_percent: field("avg60="),
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_documented() {
        let stat = "cpu  9 9 9 9\ncpu0 100 50 30 1000 7 3 2 1 0 0\nintr 5\n";
        let cpus = cpu_times(stat);
        assert_eq!(cpus.len(), 1);
        assert!((cpus[0].user_s - 1.5).abs() < 1e-9 && (cpus[0].idle_s - 10.0).abs() < 1e-9);
        let text = "MemTotal:        2048 kB\nMemFree:  1 kB\n";
        assert_eq!(memory(text).total_bytes, 2 * 1024 * 1024);
        assert_eq!(
            os_field("ID=kairo\nNAME=\"Kairo OS\"\n", "NAME"),
            "Kairo OS"
        );
    }
}
