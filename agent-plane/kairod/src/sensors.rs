//! What the machine says of its own health: temperatures, batteries, memory, load, disk.
//!
//! Read from `/proc` and `/sys` below a root that is `/` everywhere but in tests. A sensor driver
//! may take its time, or never come back (a fuel gauge on a stuck bus), so everything is read on a
//! helper thread, at most one reading at a time, and whoever asks meanwhile waits half a second and
//! then gets what was read last. What is not there is absent, never zero. Bounded: so many zones,
//! so many supplies, and files of a page.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Notify;

/// Thermal zones, and power supplies, that are looked at.
const MAX_SENSORS: usize = 32;
/// Longest file that is read, bytes; `/proc/stat` of a machine with many CPUs and interrupts.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// How long somebody who asks waits for a reading.
const PATIENCE: Duration = Duration::from_millis(500);

/// A temperature.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Temperature {
    /// Its place, unique: `thermal_zone0`.
    pub sensor: String,
    /// What it measures, as its driver says.
    pub zone: String,
    pub celsius: f64,
}

/// A battery of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Battery {
    /// Its place: `BAT0`.
    pub sensor: String,
    /// Charge, percent.
    pub percent: f64,
    /// `Charging`, `Discharging`, `Full`, …, as its driver says.
    pub status: Option<String>,
    /// None where it does not say.
    pub voltage_v: Option<f64>,
}

/// The disk with the state directory.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Disk {
    pub path: String,
    pub total_bytes: u64,
    /// What programs without privilege may still write.
    pub free_bytes: u64,
}

/// One look at everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Load averages over 1, 5 and 15 minutes; empty where they cannot be read.
    pub load: Vec<f64>,
    /// CPUs that are online.
    pub cpus: usize,
    /// Ticks of all CPUs since boot, busy and all.
    pub ticks: Option<(u64, u64)>,
    /// Memory that programs could still have, and all, bytes.
    pub memory: Option<(u64, u64)>,
    pub temperatures: Vec<Temperature>,
    pub batteries: Vec<Battery>,
    pub disk: Option<Disk>,
}

/// Where to look.
#[derive(Clone, Debug)]
struct Places {
    root: PathBuf,
    disk: Option<PathBuf>,
}

/// Looks, and remembers what it saw.
#[derive(Debug)]
pub struct Sensors {
    places: Places,
    newest: RefCell<Option<(Instant, Rc<Sample>)>>,
    /// A reading is under way.
    reading: Cell<bool>,
    done: Notify,
}

impl Sensors {
    /// Sensors below `root`, and the disk that `disk` lies on.
    pub fn new(root: &Path, disk: Option<&Path>) -> Self {
        Self {
            places: Places {
                root: root.to_path_buf(),
                disk: disk.map(Path::to_path_buf),
            },
            newest: RefCell::default(),
            reading: Cell::new(false),
            done: Notify::new(),
        }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.places.root
    }

    /// What was seen, at most so long ago if the sensors answer in time, and how long ago it was.
    /// None where they never answered.
    pub async fn sample(self: &Rc<Self>, max_age: Duration) -> Option<(Duration, Rc<Sample>)> {
        let newest = |sensors: &Self| {
            let newest = sensors.newest.borrow().clone();
            newest.map(|(at, sample)| (at.elapsed(), sample))
        };
        if let Some(young) = newest(self).filter(|(age, _)| *age <= max_age) {
            return Some(young);
        }
        let done = self.done.notified();
        tokio::pin!(done);
        // Registered before the reading begins, so that its end is not missed.
        done.as_mut().enable();
        if !self.reading.replace(true) {
            let sensors = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let places = sensors.places.clone();
                let read = tokio::task::spawn_blocking(move || places.read()).await;
                if let Ok(sample) = read {
                    *sensors.newest.borrow_mut() = Some((Instant::now(), Rc::new(sample)));
                }
                sensors.reading.set(false);
                sensors.done.notify_waiters();
            });
        }
        // In time or not: what there is then is the answer.
        let _ = tokio::time::timeout(PATIENCE, done).await;
        newest(self)
    }
}

impl Places {
    /// Looks at everything. May block for as long as a driver does.
    fn read(&self) -> Sample {
        let root = &self.root;
        let load = read(&root.join("proc/loadavg")).unwrap_or_default();
        let stat = read(&root.join("proc/stat")).unwrap_or_default();
        let memory = read(&root.join("proc/meminfo")).unwrap_or_default();
        Sample {
            load: load
                .split_whitespace()
                .take(3)
                .filter_map(|word| word.parse().ok())
                .collect(),
            cpus: stat.lines().filter(|line| is_one_cpu(line)).count(),
            ticks: ticks(&stat),
            memory: kib(&memory, "MemAvailable").zip(kib(&memory, "MemTotal")),
            temperatures: sorted(&root.join("sys/class/thermal"), "thermal_zone")
                .iter()
                .filter_map(|zone| temperature(zone))
                .collect(),
            batteries: sorted(&root.join("sys/class/power_supply"), "")
                .iter()
                .filter_map(|supply| battery(supply))
                .collect(),
            disk: self.disk.as_deref().and_then(disk),
        }
    }
}

fn is_one_cpu(line: &str) -> bool {
    let number = line.strip_prefix("cpu");
    number.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
}

/// A file's text, without the space around it.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim().to_string())
}

fn number(path: &Path) -> Option<f64> {
    let number: f64 = read(path)?.parse().ok()?;
    number.is_finite().then_some(number)
}

/// What lies in a directory and begins so, by name.
fn sorted(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let mut paths: Vec<PathBuf> = fitting
        .map(|entry| entry.path())
        .take(MAX_SENSORS)
        .collect();
    // By length first, so that zone 10 comes after zone 9.
    paths.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    paths
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn temperature(zone: &Path) -> Option<Temperature> {
    Some(Temperature {
        sensor: name(zone),
        zone: read(&zone.join("type"))?,
        celsius: number(&zone.join("temp"))? / 1000.0,
    })
}

fn battery(supply: &Path) -> Option<Battery> {
    let says = |file: &str, word: &str| read(&supply.join(file)).is_some_and(|text| text == word);
    // `Device` is the battery of a mouse or a headset.
    if !says("type", "Battery") || says("scope", "Device") || says("present", "0") {
        return None;
    }
    let share = |now: &str, full: &str| {
        let full = number(&supply.join(full)).filter(|full| *full > 0.0)?;
        Some(100.0 * number(&supply.join(now))? / full)
    };
    let percent = number(&supply.join("capacity"))
        .or_else(|| share("energy_now", "energy_full"))
        .or_else(|| share("charge_now", "charge_full"))?;
    Some(Battery {
        sensor: name(supply),
        percent,
        status: read(&supply.join("status")),
        voltage_v: number(&supply.join("voltage_now")).map(|microvolts| microvolts / 1e6),
    })
}

fn disk(path: &Path) -> Option<Disk> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    Some(Disk {
        path: path.display().to_string(),
        total_bytes: found.blocks() * found.fragment_size(),
        free_bytes: found.blocks_available() * found.fragment_size(),
    })
}

/// Ticks of all CPUs, busy and all: user, nice, system, idle, iowait, irq, softirq, steal.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let words = line.split_whitespace().take(8);
    let all: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let total: u64 = all.iter().sum();
    let idle = all.get(3)? + all.get(4).copied().unwrap_or(0);
    Some((total.saturating_sub(idle), total))
}

/// A `Name:   123 kB` line, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn sample(root: &Path) -> Sample {
        let places = Places {
            root: root.to_path_buf(),
            disk: Some(root.to_path_buf()),
        };
        places.read()
    }

    #[test]
    fn a_machine_s_files_are_read_as_the_kernel_documents_them() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| write(root.path(), name, text);
        file("proc/loadavg", "0.50 1.25 2.00 1/100 999\n");
        file(
            "proc/stat",
            "cpu  100 0 50 800 50 0 0 0 9 9\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 5\n",
        );
        file(
            "proc/meminfo",
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n",
        );
        file("sys/class/thermal/thermal_zone10/type", "gpu\n");
        file("sys/class/thermal/thermal_zone10/temp", "51500\n");
        file("sys/class/thermal/thermal_zone2/type", "cpu-thermal\n");
        file("sys/class/thermal/thermal_zone2/temp", "-4000\n");
        file("sys/class/thermal/thermal_zone3/type", "broken\n");
        file("sys/class/thermal/cooling_device0/type", "fan\n");
        file("sys/class/power_supply/BAT0/type", "Battery\n");
        file("sys/class/power_supply/BAT0/energy_now", "30\n");
        file("sys/class/power_supply/BAT0/energy_full", "120\n");
        file("sys/class/power_supply/BAT0/status", "Discharging\n");
        file("sys/class/power_supply/BAT0/voltage_now", "11100000\n");
        file("sys/class/power_supply/mouse/type", "Battery\n");
        file("sys/class/power_supply/mouse/scope", "Device\n");
        file("sys/class/power_supply/mouse/capacity", "3\n");
        file("sys/class/power_supply/AC/type", "Mains\n");
        let sample = sample(root.path());
        assert_eq!(sample.load, [0.5, 1.25, 2.0]);
        assert_eq!((sample.cpus, sample.ticks), (2, Some((150, 1000))));
        assert_eq!(sample.memory, Some((250 * 1024, 1000 * 1024)));
        let zones: Vec<_> = sample
            .temperatures
            .iter()
            .map(|zone| zone.celsius)
            .collect();
        assert_eq!(zones, [-4.0, 51.5]);
        assert_eq!(sample.batteries.len(), 1);
        let battery = &sample.batteries[0];
        assert!((battery.percent - 25.0).abs() < 1e-9, "{battery:?}");
        assert_eq!(battery.voltage_v, Some(11.1));
        assert!(sample.disk.unwrap().total_bytes > 0);
    }

    #[test]
    fn what_is_not_there_is_absent_and_not_zero() {
        let root = tempfile::tempdir().unwrap();
        let found = sample(root.path());
        let empty = Sample {
            disk: found.disk.clone(),
            ..Sample::default()
        };
        assert_eq!(found, empty);
    }
}
