//! The latency step: kairo-rt's wake-up lateness beside cyclictest's.
//!
//! Same boot, same period, same priority, same core, in turns: a window of the running control
//! loop, cyclictest while kairo-rt is stopped, then another window of the loop. Numbers from a
//! virtual machine are about this run of this machine; only the comparison means anything, and
//! here even that is noisy. No verdict hangs on them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::buckets::Buckets;
use super::ipc::Ipc;
use super::report::{Cyclictest, RealTime, Report};
use super::stage::Stage;
use super::steps::loop_account;
use super::world::CyclictestRequest;
use crate::plot::{self, Curve};

/// Length of each window.
const WINDOW: Duration = Duration::from_secs(5);
/// How long kairo-rt may take to hold the arm again.
const BACK: Duration = Duration::from_secs(20);

/// Measures both, fills the report, draws the plot.
///
/// # Errors
/// When either could not be measured, or the plot not be drawn.
pub fn compare(stage: &mut Stage, plot: &Path, report: &mut Report) -> anyhow::Result<String> {
    let first = window(stage)?;
    report.rt = account(stage)?;
    let request = request(stage)?;
    stage.world.stop_real_time()?;
    let answer = stage.world.cyclictest(request);
    stage.world.start_real_time()?;
    stage.clear_estop()?;
    stage.wait_for_phase(&["holding", "safe"], BACK)?;
    let answer = answer?;
    let ours = first.plus(&window(stage)?);
    let thread = &answer.result["thread"]["0"];
    let theirs = Buckets::of_cyclictest(thread).context("cyclictest's result has no histogram")?;
    report.rt.lateness_us = ours.quantiles();
    report.cyclictest = Cyclictest {
        program: answer.program,
        arguments: answer.arguments,
        cycles: thread["cycles"].as_u64().unwrap_or_else(|| theirs.count()),
        latency_us: theirs.quantiles(),
    };
    let curve = |name: &str, buckets: &Buckets| Curve {
        name: format!("{name} ({} samples)", buckets.count()),
        buckets: buckets.in_microseconds(),
    };
    let title = format!(
        "Wake-up lateness, {} µs period, same core and priority ({})",
        request.period_us, report.accelerator
    );
    plot::latency(
        plot,
        &title,
        &[curve("kairo-rt", &ours), curve(answer.program, &theirs)],
    )?;
    let (rt, cyclic) = (report.rt.lateness_us, report.cyclictest.latency_us);
    Ok(format!(
        "kairo-rt p50 {:.1} p99 {:.1} max {:.1} µs; {} p50 {:.1} p99 {:.1} max {:.1} µs; \
         plot: {}",
        rt.p50,
        rt.p99,
        rt.max,
        answer.program,
        cyclic.p50,
        cyclic.p99,
        cyclic.max,
        plot.display()
    ))
}

/// What the control loop recorded during one window.
fn window(stage: &Stage) -> anyhow::Result<Buckets> {
    let mut ipc = stage.connect()?;
    let before = lateness(&mut ipc)?;
    std::thread::sleep(WINDOW);
    Ok(lateness(&mut ipc)?.since(&before))
}

fn lateness(ipc: &mut Ipc) -> anyhow::Result<Buckets> {
    let status = ipc.call("rt.status", &json!({}))?;
    let params = json!({"loop": status["loops"][0]["name"], "kind": "lateness"});
    let answer = ipc.call("rt.histogram", &params)?;
    let buckets = answer["buckets"]
        .as_array()
        .context("rt.histogram: no `buckets`")?;
    let pair = |bucket: &Value| {
        // Edges are whole nanoseconds, given in µs.
        let upper_ns = (bucket["upper"].as_f64()? * 1000.0).round() as u64;
        Some((upper_ns, bucket["count"].as_u64()?))
    };
    let pairs: Option<Vec<_>> = buckets.iter().map(pair).collect();
    Ok(Buckets::from_pairs(
        pairs.context("rt.histogram: a bucket is not understood")?,
    ))
}

/// cyclictest is asked for what the first loop runs with.
fn request(stage: &Stage) -> anyhow::Result<CyclictestRequest> {
    let status = stage.connect()?.call("rt.status", &json!({}))?;
    let first = &status["loops"][0];
    Ok(CyclictestRequest {
        period_us: first["period_us"]
            .as_u64()
            .context("rt.status: no `period_us`")?,
        priority: first["priority"]
            .as_u64()
            .context("rt.status: no `priority`")?,
        core: first["core"].as_u64(),
        duration: WINDOW,
    })
}

/// kairo-rt's own account so far; lateness comes later.
fn account(stage: &Stage) -> anyhow::Result<RealTime> {
    let mut ipc = stage.connect()?;
    let account = loop_account(&mut ipc)?;
    let status = ipc.call("rt.status", &json!({}))?;
    let thread = &status["loops"][0]["thread"];
    let number = |key: &str| {
        thread[key]
            .as_u64()
            .with_context(|| format!("rt.status: the loop's thread has no `{key}`"))
    };
    Ok(RealTime {
        period_us: account.period_us,
        ticks: account.ticks,
        skipped: account.skipped,
        minor_faults: number("minor_faults")?,
        major_faults: number("major_faults")?,
        allocations: number("allocations")?,
        bringup: status["bringup"].clone(),
        ..RealTime::default()
    })
}
