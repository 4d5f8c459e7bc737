//! `cargo xtask demo`: every promise of first light, tried from outside, one row each.
//!
//! The steps run over a [`world::World`]: the image in QEMU, or both planes hosted on this
//! machine. The demo exits 0 only if every step passed; it stops at no failure, because the
//! remaining rows tell what still works.

pub mod buckets;
pub mod hosted_world;
pub mod ipc;
pub mod latency;
pub mod qemu_world;
pub mod report;
pub mod screen;
pub mod sleeper;
pub mod stage;
pub mod steps;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use report::{Kernel, Report, StepResult};
use screen::Screen;
use stage::Stage;
use world::World;

/// What the demo leaves behind, and what it needs besides the system.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The JSON report, if one is wanted.
    pub json: Option<PathBuf>,
    /// The latency plot.
    pub plot: PathBuf,
    /// The `kairo` program, which plays the agent that is killed.
    pub cli: PathBuf,
}

/// A step: its stable name, what it shows, and what to do.
struct Step {
    name: &'static str,
    shows: &'static str,
    run: fn(&mut Stage, &Outputs, &mut Report) -> anyhow::Result<String>,
}

/// The steps, in order. The last ends the system.
const STEPS: [Step; 9] = [
    Step {
        name: "move",
        shows: "an agent drives the arm through three poses",
        run: |stage, _, _| steps::moves(stage),
    },
    Step {
        name: "refused_out_of_limit",
        shows: "a pose outside a joint's limits is refused by the real-time plane",
        run: |stage, _, _| steps::refused_out_of_limit(stage),
    },
    Step {
        name: "refused_without_claim",
        shows: "nobody commands an arm that is not theirs",
        run: |stage, _, _| steps::refused_without_claim(stage),
    },
    Step {
        name: "corrupted_packets",
        shows: "5 % of the servo replies are corrupted for 5 s",
        run: |stage, _, _| steps::corrupted_packets(stage),
    },
    Step {
        name: "agent_killed_holds",
        shows: "kill -9 of the agent in mid-motion: the arm stops by itself",
        run: |stage, outputs, _| steps::agent_killed_holds(stage, &outputs.cli),
    },
    Step {
        name: "kairod_killed",
        shows: "kill -9 of the agent plane's daemon: the control loop does not notice",
        run: |stage, _, _| steps::kairod_killed(stage),
    },
    Step {
        name: "cable_pulled",
        shows: "the servo cable is pulled and plugged back",
        run: |stage, _, _| steps::cable_pulled(stage),
    },
    Step {
        name: "latency",
        shows: "kairo-rt's lateness beside cyclictest: same period, priority and core",
        run: |stage, outputs, report| latency::compare(stage, &outputs.plot, report),
    },
    Step {
        name: "poweroff",
        shows: "everything ends in order",
        run: |stage, _, _| stage.world.power_off(),
    },
];

/// Runs the demo over `world` and writes the outputs.
///
/// # Errors
/// When the system never became ready, or an output could not be written. A failed step is not an
/// error: it is in the report.
pub fn run(mut world: Box<dyn World>, outputs: &Outputs) -> anyhow::Result<Report> {
    let facts = world.facts()?;
    let form = world.form();
    let mut stage = Stage::enter(world)?;
    let mut report = Report {
        form,
        accelerator: facts.accelerator,
        host_priority: facts.host_priority,
        kernel: kernel(&stage)?,
        image: facts.image,
        boot: facts.boot,
        ..Report::default()
    };
    let screen = Screen::begin(&heading(&report));
    for step in &STEPS {
        screen.running(step.name, step.shows);
        let started = Instant::now();
        let outcome = (step.run)(&mut stage, outputs, &mut report);
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let result = StepResult {
            name: step.name,
            ok,
            detail,
            ms,
        };
        screen.finished(&result);
        report.steps.push(result);
    }
    screen.end(&report);
    if let Some(path) = &outputs.json {
        write_json(path, &report)?;
    }
    Ok(report)
}

/// What the system under test says of its kernel.
fn kernel(stage: &Stage) -> anyhow::Result<Kernel> {
    let info = stage
        .connect()?
        .call("system.get_info", &serde_json::json!({}))?;
    let release = info["kernel"]["release"]
        .as_str()
        .context("system.get_info: no kernel.release")?;
    let preempt_rt = info["kernel"]["preempt_rt"]
        .as_bool()
        .context("system.get_info: no kernel.preempt_rt")?;
    Ok(Kernel {
        release: release.to_owned(),
        preempt_rt,
    })
}

fn heading(report: &Report) -> String {
    let kernel = &report.kernel;
    let preempt = if kernel.preempt_rt {
        "PREEMPT_RT"
    } else {
        "no PREEMPT_RT"
    };
    match (&report.image, &report.boot) {
        (Some(image), Some(boot)) => format!(
            "KairoOS in QEMU ({}, {} host priority): Linux {} {preempt}, kernel {:.1} MB, \
             root {:.1} MB, \
             kernel {} ms + init {} ms to ready",
            report.accelerator,
            report.host_priority,
            kernel.release,
            image.kernel_bytes as f64 / 1e6,
            image.root_bytes as f64 / 1e6,
            boot.kernel_ms,
            boot.init_to_ready_ms,
        ),
        _ => format!("KairoOS hosted on Linux {} {preempt}", kernel.release),
    }
}

fn write_json(path: &Path, report: &Report) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
