//! The schema of `robot.toml`, written as the sequence of keys that are read.
//!
//! setup-only. Ranges and defaults stand here and nowhere else; `docs/reference/robot-toml.md`
//! repeats them for people and a test holds its key list to this one.

use std::path::Path;

use kairo_blocks::registry::Registry;
use kairo_link::abi::MAX_JOINTS;
use kairo_link::control::MAX_DEVICES;
use kairo_link::stats::{BusStats, LoopStats, MAX_BUSES, MAX_LOOPS};
use toml::de::DeTable;

use super::blocks::{self, Surroundings};
use super::diagnostic::{Problems, nearest};
use super::table::{Located, Most, TableReader};
use super::{
    BusConfig, DeviceConfig, LoopConfig, OverrunPolicy, RobotConfig, behaviour, check, feasibility,
    joint, recorder, safety,
};

/// Priorities the daemon may use: below 95, so that the kernel's own threads at 99 (migration,
/// watchdog) and a rescue shell keep the last word.
pub(super) const PRIORITY: std::ops::RangeInclusive<i64> = 1..=94;
/// A tick may cost this part of its period where the file does not say how much.
const BUDGET_PARTS: i64 = 4;
/// Cores a machine can have, as far as a mask goes.
pub(super) const CORE: std::ops::RangeInclusive<i64> = 0..=1023;

/// Where ticks lie in the period unless the file says it, µs. The kernel's scheduler tick falls on
/// whole milliseconds of CLOCK_MONOTONIC; a planned time that coincides with it is served after it
/// in the same interrupt, which made every fourth wake-up of a 1 kHz loop twice as late (decision
/// 065). 250 is half of the shortest period.
const PHASE_US: i64 = 250;

/// A table with what is needed to report problems about it later.
pub(super) struct Section<T> {
    /// `None` when the table itself has problems. It can still be referred to, so that one mistake
    /// in a bus does not look like a mistake in every device on it.
    pub(super) value: Option<T>,
    pub(super) name: Located<String>,
    /// The key its name stands under, for messages.
    pub(super) key: String,
}

/// Reads a whole file. `None`, or any problem added, refuses it.
pub(super) fn read(
    text: &str,
    registry: &Registry,
    problems: &mut Problems<'_>,
) -> Option<RobotConfig> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if is_broken(&errors, problems) {
        return None;
    }
    let mut file = TableReader::new(root.get_ref(), 0..0, "");
    let robot = file
        .table(problems, "robot")
        .and_then(|table| read_robot(table, problems));
    let buses: Vec<_> = file
        .tables_if_any(problems, "bus", counted::<BusStats>(MAX_BUSES))
        .into_iter()
        .filter_map(|table| read_bus(table, problems))
        .collect();
    let loops: Vec<_> = file
        .tables(problems, "loop", counted::<LoopStats>(MAX_LOOPS))
        .into_iter()
        .filter_map(|table| read_loop(table, problems))
        .collect();
    let devices: Vec<_> = file
        .tables_if_any(problems, "device", MAX_DEVICES)
        .into_iter()
        .filter_map(|table| read_device(table, &buses, &loops, problems))
        .collect();
    let complete = devices.iter().filter_map(|section| section.value.as_ref());
    let known: Vec<&DeviceConfig> = complete.map(|located| &located.device).collect();
    let failsafe = safety::read_failsafe(&mut file, &known, problems);
    let estop = safety::read_estop(&mut file, problems);
    let names = loops.iter().map(|section| section.name.value.as_str());
    let beside = problems.file().parent().map(Path::to_path_buf);
    let beside = beside.unwrap_or_default();
    let registry = blocks::load_plugins(&mut file, registry, &beside, problems);
    let around = Surroundings {
        registry: &registry,
        loops: names
            .zip(loops.iter().map(|section| section.value.as_ref()))
            .collect(),
        devices: known,
    };
    let blocks = blocks::read(&mut file, &around, problems);
    let recorder = recorder::read(&mut file, problems);
    file.finish(problems);
    check_across(&buses, &loops, &devices, problems);
    feasibility::cores(&buses, &loops, &devices, estop.as_ref(), problems);
    let (name, strict, trace_system_calls) = robot?;
    Some(RobotConfig {
        file: problems.file(),
        name,
        strict,
        trace_system_calls,
        buses: values(buses)?,
        loops: values(loops)?,
        devices: values(devices)?
            .into_iter()
            .map(|located| located.device)
            .collect(),
        failsafe: failsafe?,
        estop: estop?,
        blocks,
        recorder: recorder?,
        text: text.to_owned(),
    })
}

/// As many as the statistics have room for, each with a `T`.
const fn counted<T>(count: usize) -> Most {
    Most {
        count,
        statistics_bytes: Some(size_of::<T>()),
    }
}

/// Reports errors of syntax. What the parser recovered beside them may miss whole tables, and
/// problems about those would mislead.
fn is_broken(errors: &[toml::de::Error], problems: &mut Problems<'_>) -> bool {
    for error in errors {
        let fix = "see docs/reference/robot-toml.md for the shape of the file";
        let span = error.span().unwrap_or(0..0);
        problems.add(span, "", error.message().to_owned(), fix);
    }
    !errors.is_empty()
}

fn check_across(
    buses: &[Section<BusConfig>],
    loops: &[Section<LoopConfig>],
    devices: &[Section<LocatedDevice>],
    problems: &mut Problems<'_>,
) {
    check::names(buses, problems);
    check::names(loops, problems);
    check::names(devices, problems);
    check::servo_ids(buses, devices, problems);
    check::priorities(buses, loops, devices, problems);
    check::wire_time(buses, loops, devices, problems);
}

fn values<T>(sections: Vec<Section<T>>) -> Option<Vec<T>> {
    sections.into_iter().map(|section| section.value).collect()
}

/// Name, whether strict, whether system calls are traced.
fn read_robot(
    mut table: TableReader<'_>,
    problems: &mut Problems<'_>,
) -> Option<(String, bool, bool)> {
    let name = table.text(problems, "name", "so101");
    let strict = table.boolean(problems, "strict", true);
    let purity = match table.has("purity") {
        true => table.choice(problems, "purity", &[("count", false), ("trace", true)]),
        false => Some(false),
    };
    table.finish(problems);
    Some((name?.value, strict?, purity?))
}

fn read_bus(mut table: TableReader<'_>, problems: &mut Problems<'_>) -> Option<Section<BusConfig>> {
    let name = table.text(problems, "name", "arm-bus");
    let kind = table.choice(problems, "kind", &[("feetech-sts", ())]);
    let port = table.text(problems, "port", "serial:usb-1-1");
    let baud = table.integer(problems, "baud", 9_600..=1_000_000, Some(1_000_000));
    let priority = table.integer(problems, "priority", PRIORITY, None);
    let core = read_core(&mut table, problems);
    let timeout = table.integer(problems, "response_timeout_us", 200..=200_000, Some(12_000));
    let lost = table.integer(problems, "lost_after_cycles", 2..=10_000, Some(25));
    let budget = match table.has("budget_us") {
        true => table
            .integer(problems, "budget_us", 1..=100_000, None)
            .map(Some),
        false => Some(None),
    };
    let key = table.path_of("name");
    table.finish(problems);
    let name = name?;
    let complete = || {
        kind?;
        Some(BusConfig {
            line: problems.line_of(&name.span),
            name: name.value.clone(),
            port: port?.value,
            baud: u32::try_from(baud?.value).ok()?,
            priority: u8::try_from(priority?.value).ok()?,
            core: core?,
            response_timeout_us: u64::try_from(timeout?.value).ok()?,
            lost_after_cycles: u32::try_from(lost?.value).ok()?,
            budget_us: budget?.map(|budget| budget.value.unsigned_abs()),
        })
    };
    Some(Section {
        key,
        value: complete(),
        name,
    })
}

fn read_loop(
    mut table: TableReader<'_>,
    problems: &mut Problems<'_>,
) -> Option<Section<LoopConfig>> {
    let name = table.text(problems, "name", "arm-loop");
    let period = table.integer(problems, "period_us", 100..=100_000, None);
    let priority = table.integer(problems, "priority", PRIORITY, None);
    let core = read_core(&mut table, problems);
    let overrun = read_overrun(&mut table, problems);
    // Both lie within the period; without one, any period is long enough for the message.
    let longest_us = period.as_ref().map_or(100_000, |period| period.value);
    let phase = table.integer(problems, "phase_us", 0..=longest_us - 1, Some(PHASE_US));
    let share = Some(longest_us / BUDGET_PARTS);
    let budget = table.integer(problems, "budget_us", 1..=longest_us, share);
    let key = table.path_of("name");
    table.finish(problems);
    let name = name?;
    let complete = || {
        Some(LoopConfig {
            line: problems.line_of(&name.span),
            name: name.value.clone(),
            period_us: u64::try_from(period?.value).ok()?,
            priority: u8::try_from(priority?.value).ok()?,
            core: core?,
            overrun: overrun?,
            phase_us: u64::try_from(phase?.value).ok()?,
            budget_us: u64::try_from(budget?.value).ok()?,
        })
    };
    Some(Section {
        key,
        value: complete(),
        name,
    })
}

/// The overrun policy, with the cap that `burst` has and nothing else.
fn read_overrun(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<OverrunPolicy> {
    let burst = OverrunPolicy::Burst { most: 1 };
    let choices = [
        ("skip", OverrunPolicy::Skip),
        ("burst", burst),
        ("realign", OverrunPolicy::Realign),
        ("stop", OverrunPolicy::Stop),
    ];
    let policy = table.choice(problems, "overrun", &choices);
    let capped = table.has("burst_max");
    if policy != Some(burst) {
        if capped && policy.is_some() {
            let fix = "remove it, or write overrun = \"burst\"";
            let key = table.path_of("burst_max");
            problems.add(table.span(), key, "belongs to the policy burst", fix);
        }
        return policy;
    }
    let most = table.integer(problems, "burst_max", 1..=100, None)?;
    Some(OverrunPolicy::Burst {
        most: u32::try_from(most.value).ok()?,
    })
}

/// `Some(None)` when the key is not there: the thread is not pinned.
fn read_core(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<Option<usize>> {
    if !table.has("core") {
        return Some(None);
    }
    let core = table.integer(problems, "core", CORE, None)?;
    usize::try_from(core.value).ok().map(Some)
}

/// A device with the places of its servo ids.
pub(super) struct LocatedDevice {
    pub(super) device: DeviceConfig,
    pub(super) servo_spans: Vec<std::ops::Range<usize>>,
}

fn read_device(
    mut table: TableReader<'_>,
    buses: &[Section<BusConfig>],
    loops: &[Section<LoopConfig>],
    problems: &mut Problems<'_>,
) -> Option<Section<LocatedDevice>> {
    let name = table.text(problems, "name", "arm");
    let kind = table.choice(problems, "kind", &[("servo-arm", ())]);
    let bus = read_reference(&mut table, "bus", buses, problems);
    let control_loop = read_reference(&mut table, "loop", loops, problems);
    let behaviour = behaviour::read(&mut table, problems);
    let ttl = table.integer(problems, "ttl_max_ms", 10..=10_000, None);
    let stale = table.integer(problems, "feedback_stale_ms", 10..=10_000, None);
    let mut joints = Vec::new();
    let mut servo_spans = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut all_joints = true;
    for table in table.tables(problems, "joint", MAX_JOINTS) {
        let read = joint::read(table, &mut names, problems);
        all_joints &= read.is_some();
        if let Some((joint, span)) = read {
            joints.push(joint);
            servo_spans.push(span);
        }
    }
    let key = table.path_of("name");
    if let Some(behaviour) = behaviour.as_ref().filter(|_| all_joints) {
        behaviour.check_rest_pose(&joints, &table, problems);
    }
    table.finish(problems);
    let name = name?;
    let complete = || {
        kind?;
        let behaviour = behaviour?;
        let device = DeviceConfig {
            name: name.value.clone(),
            bus: bus?,
            control_loop: control_loop?,
            safe_action: behaviour.safe_action,
            ramp_velocity_scale: behaviour.ramp_velocity_scale,
            torque_at_start: behaviour.torque_at_start,
            ttl_max_ms: u64::try_from(ttl?.value).ok()?,
            feedback_stale_ms: u64::try_from(stale?.value).ok()?,
            joints: all_joints.then_some(joints)?,
        };
        Some(LocatedDevice {
            device,
            servo_spans,
        })
    };
    Some(Section {
        key,
        value: complete(),
        name,
    })
}

/// The index of the section that the text under `key` names.
fn read_reference<T>(
    table: &mut TableReader<'_>,
    key: &'static str,
    sections: &[Section<T>],
    problems: &mut Problems<'_>,
) -> Option<usize> {
    let wanted = table.text(problems, key, "NAME")?;
    let found = sections
        .iter()
        .position(|section| section.name.value == wanted.value);
    if found.is_none() {
        let names: Vec<&str> = sections
            .iter()
            .map(|section| section.name.value.as_str())
            .collect();
        let fix = match nearest(&wanted.value, &names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if names.is_empty() => format!("add a valid `[[{key}]]` table of that name"),
            None => format!("the file has {}", names.join(", ")),
        };
        let message = format!("no `[[{key}]]` is named \"{}\"", wanted.value);
        problems.add(wanted.span, table.path_of(key), message, fix);
    }
    found
}
