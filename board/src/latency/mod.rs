//! The latency lab: kairo-rt beside cyclictest, in one boot, under loads of the agent plane.
//!
//! Both run in turns with one period, priority and core; what is measured of kairo-rt is the
//! production binary's own always-on histograms. In instruction mode the guest's clocks count
//! instructions on a single CPU: no noise of the host, and the hardest case, because plane and
//! load share the core. It says nothing about hardware, so its unit is the instruction-µs. In wall
//! mode the ordinary two-CPU machine runs, and numbers are about this run of this host.
//!
//! Runs on a developer's machine; allocates and blocks.

pub mod account;
pub mod guest;
mod judge;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::bench::{Report, Run};
use crate::image::BuiltImage;
use crate::paths::Paths;
use crate::plot::{self, Curve};
use crate::progress::Step;
use account::{Account, Load};
use guest::Guest;

/// The loads that are run unless others are named, in order; `idle` first, because the others are
/// held against it.
pub const LOADS: [&str; 8] = [
    "idle",
    "cpu",
    "memory",
    "fork",
    "disk",
    "ipc",
    "oom",
    "kairod-kill",
];

/// What the guest's clocks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Instructions, on one CPU.
    Instruction,
    /// Time, on the board's CPUs.
    Wall,
}

impl Mode {
    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instruction => "instruction",
            Self::Wall => "wall",
        }
    }

    /// The core that is measured: the only one, or the isolated one.
    #[must_use]
    pub const fn core(self) -> usize {
        match self {
            Self::Instruction => 0,
            Self::Wall => 1,
        }
    }

    /// The unit of its numbers.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Instruction => "instruction-µs",
            Self::Wall => "µs",
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the clocks count.
    pub mode: Mode,
    /// The loads, by name.
    pub loads: Vec<String>,
    /// Length of one window.
    pub seconds: u64,
    /// Windows of each side under each load.
    pub rounds: usize,
    /// Period of the bare loop and of cyclictest.
    pub period_us: u64,
    /// Kills of one `kairod-kill` window.
    pub kills: usize,
    /// Whether the arm loop is measured too, for information.
    pub arm: bool,
    /// Where plots go.
    pub plots: Option<PathBuf>,
}

/// Boots `image` and measures.
///
/// # Errors
/// When the machine or a measurement fails; a missed mark is no error.
pub fn run(paths: &Paths, image: &BuiltImage, options: &Options) -> anyhow::Result<Report> {
    let out = paths.out_dir(&format!("latency/{}", options.mode.name()))?;
    let step = Step::start("Booting the lab", None);
    let mut guest = Guest::boot(image, &out, options.mode)?;
    step.done(&guest.kernel()?);
    let run = Run::begin("latency", paths, guest.accelerator(options.mode));
    let run = run.on_kernel(&guest.kernel()?);
    let mut bare = Vec::new();
    let mut arm = Vec::new();
    for load in &options.loads {
        bare.push(measure(&mut guest, options, load, "bare")?);
        if options.arm {
            arm.push(measure(&mut guest, options, load, "arm")?);
        }
    }
    if let Some(directory) = &options.plots {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        for load in &bare {
            draw(directory, options, load)?;
        }
    }
    let marks = judge::marks(options.mode, &bare, &arm);
    Ok(run.end(marks, raw(options, &bare, &arm)))
}

fn measure(
    guest: &mut Guest,
    options: &Options,
    load: &str,
    robot: &str,
) -> anyhow::Result<Account> {
    let step = Step::start(&format!("Measuring {robot} under {load}"), None);
    let found = guest.measure(options, load, robot)?;
    let account = Account::read(&found)
        .with_context(|| format!("what the guest found is not understood: {found}"))?;
    step.done(&account.summary());
    Ok(account)
}

fn draw(directory: &Path, options: &Options, account: &Account) -> anyhow::Result<()> {
    let Some(theirs) = &account.theirs else {
        return Ok(());
    };
    let curve = |name: &str, side: &Load| Curve {
        name: format!("{name} ({} samples)", side.count),
        buckets: side.in_microseconds(),
    };
    let title = format!(
        "Wake-up lateness under {}, {} µs period ({})",
        account.load,
        options.period_us,
        options.mode.unit()
    );
    let path = directory.join(format!("{}-{}.svg", options.mode.name(), account.load));
    let curves = [
        curve("kairo-rt", &account.ours),
        curve("cyclictest", theirs),
    ];
    Ok(plot::latency(&path, &title, &curves)?)
}

fn raw(options: &Options, bare: &[Account], arm: &[Account]) -> Value {
    let found = |accounts: &[Account]| -> Vec<Value> {
        accounts.iter().map(|account| account.raw.clone()).collect()
    };
    json!({
        "mode": options.mode.name(),
        "unit": options.mode.unit(),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "period_us": options.period_us,
        "bare": found(bare),
        "arm": found(arm),
    })
}
