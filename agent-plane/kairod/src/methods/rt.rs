//! `rt.*`: what the real-time plane counts, read from its statistics segment. Reading disturbs
//! nothing there: the segment is mapped read-only and written with relaxed stores.

mod line_view;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kairo_link::MonoNs;
use kairo_link::block_fault::BlockFaultReport;
use kairo_link::control::{BringupCheck, BusDescription, LoopDescription, Welcome};
use kairo_link::histogram::{Histogram, Snapshot};
use kairo_link::stats::{
    BusStats, LoopStats, PeriodStats, RecorderStats, ServoStats, Stats, StatsBlock, ThreadStats,
};
use kairo_link::system_call;
use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Audited;
use crate::device::Device;
use crate::plane::Plane;
use crate::reasons::Reason;
use crate::refusal;
use crate::router::{Call, Method, NoParams, Permission};
use crate::views::{self, Status};
use line_view::LinesView;

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "rt.status",
            Permission::Observe,
            "Shows bring-up, loops, buses and devices of the real-time plane.",
            async |call, NoParams {}| Ok(status(&call)),
        ),
        Method::new(
            "rt.histogram",
            Permission::Observe,
            "Gives a latency histogram of a loop or a bus: quantiles and filled buckets.",
            async |call, params| histogram(&call, &params),
        ),
        Method::new(
            "rt.estop",
            Permission::Actuate,
            "Stops every device, now; every claim ends. Only an operator can clear it.",
            async |call, NoParams {}| stop(&call, false).await,
        )
        .audited(Audited::After)
        .urgent(),
        Method::new(
            "rt.clear_estop",
            Permission::Admin,
            "Clears the e-stop, where robot.toml allows it over IPC and every input is good.",
            async |call, NoParams {}| stop(&call, true).await,
        )
        .audited(Audited::Before),
        Method::new(
            "rt.reset",
            Permission::Admin,
            "Counts from now on. kairod remembers what was counted; kairo-rt is only read.",
            async |call, NoParams {}| reset(&call),
        )
        .audited(Audited::After),
    ]
}

/// How long kairo-rt may take to answer: a clear waits for every control loop.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Serialize, JsonSchema)]
struct Stopped {
    /// Whether the e-stop is latched after this.
    estop: bool,
}

/// Asks kairo-rt for an e-stop, or for its end, and waits for the answer.
async fn stop(call: &Call, clear: bool) -> Result<Stopped, ErrorInfo> {
    let answer = call.daemon.plane.borrow_mut().ask_stop(clear)?;
    match tokio::time::timeout(STOP_TIMEOUT, answer).await {
        Ok(Ok(Ok(()))) => Ok(Stopped { estop: !clear }),
        Ok(Ok(Err((code, reason)))) => Err(refusal::not_cleared(&code, &reason)),
        Ok(Err(_)) | Err(_) => Err(refusal::rt_away()),
    }
}

#[derive(Serialize, JsonSchema)]
struct RtStatus {
    /// Whether the link to kairo-rt is up. When it is not, the rest is empty.
    connected: bool,
    /// Version of kairo-rt.
    build: String,
    /// The robot's name.
    robot: String,
    /// Whether the loops run armed.
    armed: bool,
    /// Whether the e-stop of any device is latched; none while kairo-rt is away.
    estop: Option<bool>,
    /// Since arming, s; none before.
    armed_for_s: Option<f64>,
    /// What is counted was counted for so long, s: since rt.reset, or arming.
    counted_for_s: Option<f64>,
    /// Memory locked at arming, bytes.
    locked_bytes: u64,
    /// The flight recorder; none when robot.toml has none.
    recorder: Option<RecorderView>,
    /// What bring-up asked of the kernel and read back.
    bringup: Vec<BringupView>,
    loops: Vec<LoopView>,
    buses: Vec<BusView>,
    devices: Vec<PhaseView>,
    /// The GPIO lines; none on a robot without.
    lines: Option<LinesView>,
}

#[derive(Serialize, JsonSchema)]
struct RecorderView {
    /// Whether the disk takes what is recorded.
    writing: bool,
    /// Error number of the newest failure of the disk; none if there was none.
    errno: Option<u64>,
    /// Times the disk failed.
    write_errors: u64,
    /// Whether the newest seconds survive a crash of kairo-rt.
    survives_crash: bool,
    /// Records handed to a file.
    records: u64,
    /// Records lost because the disk did not take them in time.
    dropped: u64,
    /// Bytes written.
    bytes: u64,
    /// Files begun.
    files: u64,
}

impl RecorderView {
    fn of(recorder: &RecorderStats) -> Option<Self> {
        let errno = count(&recorder.errno);
        (count(&recorder.enabled) == 1).then(|| Self {
            writing: count(&recorder.failing) == 0,
            errno: (errno != 0).then_some(errno),
            write_errors: count(&recorder.write_errors),
            survives_crash: count(&recorder.survives) == 1,
            records: count(&recorder.records),
            dropped: count(&recorder.dropped),
            bytes: count(&recorder.bytes),
            files: count(&recorder.files),
        })
    }
}

#[derive(Serialize, JsonSchema)]
struct BringupView {
    /// `process`, or a thread's name.
    scope: String,
    /// Name of the check.
    check: String,
    wanted: String,
    found: String,
    ok: bool,
    /// Whether strict mode refuses to arm without it.
    required: bool,
    /// The command that fixes it; empty when it is fine.
    fix: String,
}

impl From<&BringupCheck> for BringupView {
    fn from(check: &BringupCheck) -> Self {
        Self {
            scope: check.scope.clone(),
            check: check.check.clone(),
            wanted: check.wanted.clone(),
            found: check.found.clone(),
            ok: check.ok,
            required: check.required,
            fix: check.fix.clone(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct LoopView {
    name: String,
    period_us: u64,
    /// Where in the period its ticks lie: planned times modulo the period on CLOCK_MONOTONIC.
    phase_us: u64,
    /// SCHED_FIFO priority.
    priority: u32,
    /// The core it is pinned to; none when not pinned.
    core: Option<u32>,
    #[serde(flatten)]
    periods: PeriodView,
    /// Ticks beyond the first in a row to which a bus that is up brought nothing new.
    overruns_bus: u64,
    /// Times the overrun policy `stop` made the devices safe.
    stops: u64,
    /// Its control blocks, in the order of the file.
    blocks: Vec<String>,
    /// Which block failed and how; none while all work. Its devices obey nobody until kairo-rt is
    /// started again.
    block_fault: Option<String>,
    /// Age of commands when accepted.
    command_age_us: Quantiles,
}

/// The account of a periodic thread.
#[derive(Serialize, JsonSchema)]
struct PeriodView {
    /// What one period may cost, µs.
    budget_us: f64,
    /// Periods run since arming.
    ticks: u64,
    /// Periods skipped since arming.
    skipped: u64,
    /// Of the ticks, those run late, back to back.
    caught_up: u64,
    /// By how much the policy `realign` moved the planned times, µs.
    shifted_us: f64,
    /// Whether elapsed periods = ticks + skipped has held at every check.
    identity_holds: bool,
    /// Checks at which it did not: zero, or a bug of kairo-rt.
    identity_broken: u64,
    /// Overruns because the wake-up came late.
    overruns_late_wake: u64,
    /// Overruns because the period ran longer than its budget.
    overruns_long_execution: u64,
    /// Periods that cost more than their budget, overrun or not.
    over_budget: u64,
    /// Wake-up time minus planned time.
    lateness_us: Quantiles,
    /// Duration of the period's work.
    execution_us: Quantiles,
    thread: ThreadView,
}

#[derive(Serialize, JsonSchema)]
struct ThreadView {
    /// Kernel thread id; zero until it runs.
    tid: u64,
    /// Since arming, like all below.
    minor_faults: u64,
    major_faults: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
    /// Heap allocations.
    allocations: u64,
    /// Periods during which a page fault came.
    faulted_periods: u64,
    /// Periods during which somebody else was run instead.
    preempted_periods: u64,
    /// Periods that waited for something besides their planned time; those of a bus always do.
    blocked_periods: u64,
    /// Periods that made a system call; counted only where it is traced, else zero.
    traced_calls: u64,
    /// The first of them.
    first_system_call: Option<SystemCallView>,
}

/// A system call within a period.
#[derive(Serialize, JsonSchema)]
struct SystemCallView {
    number: u64,
    name: String,
    /// The period that made it.
    tick: u64,
    /// The control block that made it, if one did.
    block: Option<String>,
    /// The instruction that made it, as an offset into the program kairo-rt.
    program_offset: u64,
}

#[derive(Serialize, JsonSchema)]
struct BusView {
    name: String,
    /// The port as configured.
    port: String,
    /// The device node it resolved to; empty while absent.
    path: String,
    connected: bool,
    /// Read-and-write cycles since arming.
    cycles: u64,
    /// Times the bus was lost.
    losses: u64,
    /// Received bytes that belonged to no packet.
    garbage_bytes: u64,
    /// From the first byte sent to the last reply of a cycle.
    round_trip_us: Quantiles,
    #[serde(flatten)]
    periods: PeriodView,
    servos: Vec<ServoView>,
}

#[derive(Serialize, JsonSchema)]
struct ServoView {
    id: u8,
    /// Good replies.
    replies: u64,
    /// Replies that did not come in time.
    timeouts: u64,
    /// Replies with a wrong checksum or shape.
    bad_packets: u64,
    /// Replies that carried status error bits.
    status_errors: u64,
}

#[derive(Serialize, JsonSchema)]
struct PhaseView {
    id: String,
    status: Status,
    phase: Option<&'static str>,
    cause: Option<&'static str>,
    /// How long it has been in that phase, ms.
    phase_for_ms: Option<u64>,
    /// Epoch of the lease in force; zero when there is none.
    lease_epoch: Option<u64>,
    failsafe: FailsafeView,
}

/// What a device's failsafe machine decided last.
#[derive(Serialize, JsonSchema)]
struct FailsafeView {
    /// The action in force; empty while kairo-rt is away.
    action: String,
    /// The cause that demands it; `none` without.
    cause: String,
    /// Every live cause.
    live: Vec<String>,
}

fn estop_is_latched(devices: &[Device]) -> bool {
    let mut live = devices.iter().flat_map(|device| &device.failsafe.live);
    live.any(|cause| cause == "estop")
}

#[derive(Serialize, JsonSchema)]
struct Quantiles {
    count: u64,
    mean: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Quantiles {
    fn between(base: &Histogram, now: &Histogram) -> Self {
        let snapshot = now.snapshot().since(&base.snapshot());
        let quantile = |share| microseconds(snapshot.quantile_ns(share));
        Self {
            count: snapshot.count,
            mean: microseconds(snapshot.mean_ns()),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: microseconds(snapshot.max_ns),
        }
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

fn count(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn since(base: &AtomicU64, now: &AtomicU64) -> u64 {
    count(now).saturating_sub(count(base))
}

#[derive(Serialize, JsonSchema)]
struct ResetView {
    /// When counting began, CLOCK_MONOTONIC ns.
    reset_ns: u64,
}

fn reset(call: &Call) -> Result<ResetView, ErrorInfo> {
    let mut plane = call.daemon.plane.borrow_mut();
    if !plane.reset_counters() {
        return Err(refusal::rt_away());
    }
    let reset_ns = plane.baseline().map_or(0, |(_, time)| time.0);
    Ok(ResetView { reset_ns })
}

/// What had been counted at the last reset; an empty block without one.
fn baseline(plane: &Plane) -> Stats {
    plane
        .baseline()
        .map_or_else(Stats::empty, |(stats, _)| stats.clone())
}

fn status(call: &Call) -> RtStatus {
    call.daemon.plane.borrow_mut().look();
    let plane = call.daemon.plane.borrow();
    let base = baseline(&plane);
    let known = Welcome::default();
    let (welcome, stats) = match plane.stats() {
        Some(stats) => (plane.welcome(), Some(stats.block())),
        None => (&known, None),
    };
    let armed_ns = stats.map_or(0, |block| count(&block.armed_ns));
    let armed_for = MonoNs::now().duration_since(MonoNs(armed_ns));
    let reset = plane.baseline().map(|(_, time)| time.0);
    let counted_for = MonoNs::now().duration_since(MonoNs(reset.unwrap_or(armed_ns)));
    RtStatus {
        connected: stats.is_some(),
        build: welcome.build.clone(),
        robot: welcome.robot.clone(),
        armed: welcome.armed,
        estop: stats.map(|_| estop_is_latched(plane.devices())),
        armed_for_s: (armed_ns != 0).then_some(armed_for.as_secs_f64()),
        counted_for_s: (armed_ns != 0).then_some(counted_for.as_secs_f64()),
        locked_bytes: stats.map_or(0, |block| count(&block.locked_bytes)),
        recorder: stats.and_then(|block| RecorderView::of(&block.recorder)),
        bringup: welcome.bringup.iter().map(BringupView::from).collect(),
        loops: stats.map_or_else(Vec::new, |block| {
            let pairs = welcome.loops.iter().zip(&block.loops);
            pairs
                .zip(&base.block().loops)
                .map(|((described, stats), base)| loop_view(described, base, stats))
                .collect()
        }),
        buses: stats.map_or_else(Vec::new, |block| {
            let pairs = welcome.buses.iter().zip(&block.buses);
            pairs
                .zip(&base.block().buses)
                .map(|((described, stats), base)| bus_view(described, base, stats))
                .collect()
        }),
        devices: plane.devices().iter().map(phase_view).collect(),
        lines: stats.and_then(|block| LinesView::of(welcome, base.block(), block)),
    }
}

fn loop_view(described: &LoopDescription, base: &LoopStats, stats: &LoopStats) -> LoopView {
    LoopView {
        name: described.name.clone(),
        period_us: described.period_us,
        phase_us: described.phase_us,
        priority: described.priority,
        core: described.core,
        periods: period_view(&described.blocks, &base.periods, &stats.periods),
        overruns_bus: since(&base.overruns_bus, &stats.overruns_bus),
        stops: since(&base.stops, &stats.stops),
        blocks: described.blocks.clone(),
        block_fault: block_fault(described, count(&stats.block_fault)),
        command_age_us: Quantiles::between(&base.command_age, &stats.command_age),
    }
}

fn block_fault(described: &LoopDescription, word: u64) -> Option<String> {
    let report = BlockFaultReport::from_word(word)?;
    let name = usize::try_from(report.block)
        .ok()
        .and_then(|block| described.blocks.get(block));
    let name = name.map_or("?", String::as_str);
    Some(format!("block \"{name}\" {}", report.describe()))
}

/// The block of a word of the statistics that counts from one.
fn block_that_called(blocks: &[String], word: u64) -> Option<String> {
    let index = usize::try_from(word).ok()?.checked_sub(1)?;
    blocks.get(index).cloned()
}

fn period_view(blocks: &[String], base: &PeriodStats, stats: &PeriodStats) -> PeriodView {
    PeriodView {
        budget_us: microseconds(count(&stats.budget_ns)),
        ticks: since(&base.ticks, &stats.ticks),
        skipped: since(&base.skipped, &stats.skipped),
        caught_up: since(&base.caught_up, &stats.caught_up),
        shifted_us: microseconds(since(&base.shifted_ns, &stats.shifted_ns)),
        identity_holds: count(&stats.identity_broken) == 0,
        identity_broken: count(&stats.identity_broken),
        overruns_late_wake: since(&base.overruns_late_wake, &stats.overruns_late_wake),
        overruns_long_execution: since(
            &base.overruns_long_execution,
            &stats.overruns_long_execution,
        ),
        over_budget: since(&base.over_budget, &stats.over_budget),
        lateness_us: Quantiles::between(&base.lateness, &stats.lateness),
        execution_us: Quantiles::between(&base.execution, &stats.execution),
        thread: thread_view(blocks, &base.thread, &stats.thread),
    }
}

fn thread_view(blocks: &[String], base: &ThreadStats, stats: &ThreadStats) -> ThreadView {
    // Pairs with the release store that follows the words of the first call.
    let traced_calls = stats.traced_calls.load(Ordering::Acquire);
    let number = count(&stats.first_call_number);
    ThreadView {
        traced_calls,
        first_system_call: (traced_calls > 0).then(|| SystemCallView {
            number,
            name: system_call::name(number),
            tick: count(&stats.first_call_tick),
            block: block_that_called(blocks, count(&stats.first_call_block)),
            program_offset: count(&stats.first_call_offset),
        }),
        tid: count(&stats.tid),
        minor_faults: since(&base.minor_faults, &stats.minor_faults),
        major_faults: since(&base.major_faults, &stats.major_faults),
        voluntary_switches: since(&base.voluntary_switches, &stats.voluntary_switches),
        involuntary_switches: since(&base.involuntary_switches, &stats.involuntary_switches),
        allocations: since(&base.allocations, &stats.allocations),
        faulted_periods: since(&base.faulted_periods, &stats.faulted_periods),
        preempted_periods: since(&base.preempted_periods, &stats.preempted_periods),
        blocked_periods: since(&base.blocked_periods, &stats.blocked_periods),
    }
}

fn bus_view(described: &BusDescription, base: &BusStats, stats: &BusStats) -> BusView {
    let servo = |((id, stats), base): ((&u8, &ServoStats), &ServoStats)| ServoView {
        id: *id,
        replies: since(&base.replies, &stats.replies),
        timeouts: since(&base.timeouts, &stats.timeouts),
        bad_packets: since(&base.bad_packets, &stats.bad_packets),
        status_errors: since(&base.status_errors, &stats.status_errors),
    };
    BusView {
        name: described.name.clone(),
        port: described.port.clone(),
        path: described.path.clone(),
        connected: count(&stats.connected) != 0,
        cycles: since(&base.cycles, &stats.cycles),
        losses: since(&base.losses, &stats.losses),
        garbage_bytes: since(&base.garbage_bytes, &stats.garbage_bytes),
        round_trip_us: Quantiles::between(&base.round_trip, &stats.round_trip),
        periods: period_view(&[], &base.periods, &stats.periods),
        servos: described
            .servo_ids
            .iter()
            .zip(&stats.servos)
            .zip(&base.servos)
            .map(servo)
            .collect(),
    }
}

fn phase_view(device: &Device) -> PhaseView {
    let state = device.newest();
    let now = MonoNs::now();
    PhaseView {
        id: device.id().to_string(),
        status: device.status(),
        phase: state.and_then(views::phase),
        cause: state.and_then(views::cause),
        phase_for_ms: state.map(|state| now.since_ns(MonoNs(state.phase_since_ns)) / 1_000_000),
        lease_epoch: state.map(|state| state.lease_epoch),
        failsafe: FailsafeView {
            action: device.failsafe.action.clone(),
            cause: device.failsafe.cause.clone(),
            live: device.failsafe.live.clone(),
        },
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HistogramParams {
    /// Name of a loop; with one loop it may be left out.
    #[serde(rename = "loop")]
    control_loop: Option<String>,
    /// Name of a bus; with one bus it may be left out.
    bus: Option<String>,
    /// All loops together, or with the kind `round_trip` all buses.
    #[serde(default)]
    all: bool,
    /// What to show; `lateness` if absent, or `round_trip` when `bus` is given.
    kind: Option<KindName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum KindName {
    /// Of a loop: wake-up time minus planned time.
    Lateness,
    /// Of a loop: duration of the tick.
    Execution,
    /// Of a loop: age of commands when accepted.
    CommandAge,
    /// Of a bus: from the first byte sent to the last reply of a cycle.
    RoundTrip,
}

#[derive(Serialize, JsonSchema)]
struct HistogramView {
    /// The loop or bus.
    source: String,
    kind: KindName,
    /// `us`: every number below but the counts is microseconds.
    unit: &'static str,
    count: u64,
    mean: f64,
    max: f64,
    quantiles: QuantileView,
    /// The filled buckets, ascending. A bucket is at most 3.2 % wide.
    buckets: Vec<BucketView>,
    /// Of a loop: its period.
    period_us: Option<u64>,
    /// Of a loop: periods skipped, which no latency stands for.
    skipped: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct QuantileView {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
}

#[derive(Serialize, JsonSchema)]
struct BucketView {
    /// Largest value of the bucket.
    upper: f64,
    count: u64,
}

fn histogram(call: &Call, params: &HistogramParams) -> Result<HistogramView, ErrorInfo> {
    let plane = call.daemon.plane.borrow();
    let stats = plane.stats().ok_or_else(refusal::rt_away)?;
    let fallback = match params.bus {
        Some(_) => KindName::RoundTrip,
        None => KindName::Lateness,
    };
    let kind = params.kind.unwrap_or(fallback);
    let base = baseline(&plane);
    let (base, now, welcome) = (base.block(), stats.block(), plane.welcome());
    if kind == KindName::RoundTrip {
        bus_histogram(welcome, base, now, params)
    } else {
        loop_histogram(welcome, base, now, params, kind)
    }
}

fn loop_histogram(
    welcome: &Welcome,
    base: &StatsBlock,
    now: &StatsBlock,
    params: &HistogramParams,
    kind: KindName,
) -> Result<HistogramView, ErrorInfo> {
    if params.bus.is_some() {
        return Err(mismatch("a bus has only the kind \"round_trip\""));
    }
    let names: Vec<&str> = welcome
        .loops
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    let chosen = choose("loop", &names, params.control_loop.as_deref(), params.all)?;
    let of = |stats: &LoopStats| match kind {
        KindName::Execution => stats.periods.execution.snapshot(),
        KindName::CommandAge => stats.command_age.snapshot(),
        KindName::Lateness | KindName::RoundTrip => stats.periods.lateness.snapshot(),
    };
    let snapshots = chosen
        .iter()
        .map(|index| of(&now.loops[*index]).since(&of(&base.loops[*index])));
    let mut view = histogram_view(&source(&names, &chosen, "loops"), kind, snapshots);
    let skipped = |index: &usize| {
        let (base, now) = (&base.loops[*index].periods, &now.loops[*index].periods);
        since(&base.skipped, &now.skipped)
    };
    view.skipped = Some(chosen.iter().map(skipped).sum());
    if let [index] = chosen[..] {
        view.period_us = Some(welcome.loops[index].period_us);
    }
    Ok(view)
}

fn bus_histogram(
    welcome: &Welcome,
    base: &StatsBlock,
    now: &StatsBlock,
    params: &HistogramParams,
) -> Result<HistogramView, ErrorInfo> {
    if params.control_loop.is_some() {
        return Err(mismatch(
            "the kind \"round_trip\" is one of a bus, not of a loop",
        ));
    }
    let names: Vec<&str> = welcome
        .buses
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    let chosen = choose("bus", &names, params.bus.as_deref(), params.all)?;
    let snapshots = chosen.iter().map(|index| {
        let (base, now) = (&base.buses[*index], &now.buses[*index]);
        now.round_trip.snapshot().since(&base.round_trip.snapshot())
    });
    let source = source(&names, &chosen, "buses");
    Ok(histogram_view(&source, KindName::RoundTrip, snapshots))
}

/// What the histogram is of: the one that is chosen, or several.
fn source(names: &[&str], chosen: &[usize], several: &str) -> String {
    match chosen {
        [index] => names[*index].to_owned(),
        _ => format!("all {several}"),
    }
}

fn mismatch(text: &str) -> ErrorInfo {
    Reason::invalid().error(text)
}

/// The one that is asked for, or the only one, or all. Welcomes hold no more than the block has
/// room for.
fn choose(
    what: &str,
    names: &[&str],
    wanted: Option<&str>,
    all: bool,
) -> Result<Vec<usize>, ErrorInfo> {
    if all {
        return match wanted {
            Some(_) => Err(mismatch("\"all\" and a name exclude each other")),
            None => Ok((0..names.len()).collect()),
        };
    }
    let found = match wanted {
        Some(wanted) => names.iter().position(|name| *name == wanted),
        None if names.len() == 1 => Some(0),
        None => None,
    };
    found.map(|index| vec![index]).ok_or_else(|| {
        let known = names.join(", ");
        let text = match wanted {
            Some(wanted) => format!("there is no {what} {wanted:?}; there are: {known}"),
            None => format!("name a {what}, or ask for all; there are: {known}"),
        };
        Reason::UnknownSource.error(text)
    })
}

fn histogram_view(
    source: &str,
    kind: KindName,
    snapshots: impl Iterator<Item = Snapshot>,
) -> HistogramView {
    let together = snapshots.reduce(|all, each| all.and(&each));
    let snapshot = together.unwrap_or_else(|| Histogram::default().snapshot());
    let quantile = |share| microseconds(snapshot.quantile_ns(share));
    let bucket = |(upper_ns, count)| BucketView {
        upper: microseconds(upper_ns),
        count,
    };
    HistogramView {
        source: source.into(),
        kind,
        unit: "us",
        count: snapshot.count,
        mean: microseconds(snapshot.mean_ns()),
        max: microseconds(snapshot.max_ns),
        quantiles: QuantileView {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            p9999: quantile(0.9999),
        },
        buckets: snapshot.filled().map(bucket).collect(),
        period_us: None,
        skipped: None,
    }
}
