//! One load, measured: windows of kairo-rt and of cyclictest in turns.
//!
//! A window of kairo-rt begins when it is armed and ends when it is asked for its account, so its
//! maximum is exact and covers the plane's own start as well.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use kairo_link::histogram::Snapshot;
use serde_json::{Value, json};

use crate::init_socket;
use crate::loads::Load;
use crate::plane::{Plane, start_arm};
use crate::reference::{self, Resolution};
use crate::robot::{self, LAB_DIR, Robot, Timing};
use crate::session::Session;
use crate::troubles::{self, Trouble};

/// From the load's start to the first window, and after each kill to the next.
const SETTLE: Duration = Duration::from_millis(200);
/// How long kairo-init may take to bring kairod back; its longest back-off is 10 s.
const KAIROD_BACK: Duration = Duration::from_secs(40);

/// What to measure.
#[derive(Debug, Args)]
pub struct Plan {
    /// The load.
    #[arg(long)]
    load: Load,
    /// The robot; with the arm, cyclictest is left out.
    #[arg(long, default_value = "bare")]
    robot: Robot,
    /// Length of a window; where hardly any task runs, 20 times as long.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Windows of each.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Period.
    #[arg(long, default_value_t = 1000)]
    period_us: u64,
    /// SCHED_FIFO priority.
    #[arg(long, default_value_t = 80)]
    priority: u8,
    /// Core.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Kills of one `kairod-kill` window.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Lets cyclictest count whole µs instead of ns.
    #[arg(long)]
    microseconds: bool,
}

/// Measures and answers with one JSON object.
///
/// # Errors
/// When anything could not be run; nothing measured is an error.
pub fn run(plan: &Plan) -> anyhow::Result<Value> {
    std::fs::create_dir_all(LAB_DIR).context(LAB_DIR)?;
    let churn = crate::loads::CHURN_DIR;
    std::fs::create_dir_all(churn).context(churn)?;
    let (uid, gid) = crate::session::AGENT;
    std::os::unix::fs::chown(churn, Some(uid), Some(gid)).context(churn)?;
    // An operator's stop: kairo-rt then has no vote on the watchdog, and comes back by `start`.
    init_socket::stop("kairo-rt")?;
    let timing = Timing {
        period_us: plan.period_us,
        priority: plan.priority,
        core: plan.core,
    };
    let config = robot::write(plan.robot, timing)?;
    let _arm = match plan.robot {
        Robot::Arm => Some(start_arm()?),
        Robot::Bare => None,
    };
    let resolution = match plan.microseconds {
        true => Resolution::Microseconds,
        false => Resolution::Nanoseconds,
    };
    let patience = match plan.robot {
        Robot::Bare => plan.load.patience(),
        // Reported only.
        Robot::Arm => 1,
    };
    let duration = Duration::from_secs(plan.seconds * patience);
    let side = Side {
        plan,
        timing,
        duration,
        resolution,
        config: &config,
    };
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        rounds.push(side.round(round.is_multiple_of(2))?);
    }
    Ok(json!({
        "load": plan.load.name(),
        "arguments": reference::arguments(timing, Some(duration), resolution),
        "rounds": rounds,
    }))
}

/// What the windows of a run have in common.
struct Side<'p> {
    plan: &'p Plan,
    timing: Timing,
    duration: Duration,
    resolution: Resolution,
    config: &'p Path,
}

impl Side<'_> {
    /// A window of each under one instance of the load. Who goes first alternates, so that a load
    /// that changes while it runs favours nobody.
    fn round(&self, ours_first: bool) -> anyhow::Result<Value> {
        let load = self.plan.load;
        let session = load.is_a_session().then(|| Session::start(load));
        let session = session.transpose()?;
        std::thread::sleep(SETTLE);
        let (ours, theirs) = if ours_first {
            let ours = self.ours()?;
            (ours, self.theirs()?)
        } else {
            let theirs = self.theirs()?;
            (self.ours()?, theirs)
        };
        let work = session.as_ref().map(Session::work);
        if let Some(session) = session {
            session.end()?;
        }
        Ok(json!({"ours": ours, "theirs": theirs, "work": work}))
    }

    fn ours(&self) -> anyhow::Result<Value> {
        let plane = Plane::start(self.plan.robot, self.config)?;
        let (kills, proof) = self.trouble(|| plane.skipped())?;
        let mut account = plane.account();
        account["kills"] = kills;
        account["trouble"] = proof;
        plane.stop()?;
        Ok(account)
    }

    /// Lives through the window with the trouble that the load is, if it is one: what is said of
    /// the kills, and of the trouble.
    fn trouble(&self, skipped: impl Fn() -> u64) -> anyhow::Result<(Value, Value)> {
        let trouble = Trouble::begin(self.plan.load)?;
        let kills = match self.plan.load {
            Load::KairodKill => kill_kairod(skipped, self.plan.kills)?,
            _ => {
                std::thread::sleep(self.duration);
                Value::Null
            }
        };
        let proof = troubles::proof(trouble.as_ref());
        trouble.map_or(Ok(()), Trouble::end)?;
        Ok((kills, proof))
    }

    /// Null for the arm, which cyclictest has nothing to be compared with. It lives through the
    /// same trouble as kairo-rt.
    fn theirs(&self) -> anyhow::Result<Value> {
        if self.plan.robot == Robot::Arm {
            return Ok(Value::Null);
        }
        let (timing, resolution) = (self.timing, self.resolution);
        if !self.plan.load.is_a_trouble() {
            let window = reference::measure(timing, self.duration, resolution)?;
            return Ok(said(&window, &Value::Null));
        }
        // cyclictest does not count what it skips.
        let trouble = || self.trouble(|| 0);
        let (window, (kills, proof)) = reference::measure_during(timing, resolution, trouble)?;
        let trouble = if proof.is_null() { kills } else { proof };
        Ok(said(&window, &trouble))
    }
}

/// cyclictest's window for the report.
fn said(window: &reference::Window, trouble: &Value) -> Value {
    let lateness = distribution(&window.lateness);
    json!({"cycles": window.cycles, "lateness": lateness, "trouble": trouble})
}

/// A distribution for the report: exact maximum, and the filled buckets by their upper edges.
pub fn distribution(snapshot: &Snapshot) -> Value {
    json!({
        "count": snapshot.count,
        "max_ns": snapshot.max_ns,
        "buckets": snapshot.filled().collect::<Vec<_>>(),
    })
}

/// Kills kairod as a crash would, again and again, each time when kairo-init has brought it back;
/// says how many periods were skipped around each kill.
fn kill_kairod(skipped_so_far: impl Fn() -> u64, kills: usize) -> anyhow::Result<Value> {
    let mut skipped = Vec::new();
    for _ in 0..kills {
        let before = skipped_so_far();
        let pid = wait_for_kairod(None)?;
        std::thread::sleep(SETTLE);
        let kill = json!({"op": "signal", "service": "kairod", "signal": "KILL"});
        init_socket::request(&kill)?;
        wait_for_kairod(Some(pid))?;
        std::thread::sleep(SETTLE);
        skipped.push(skipped_so_far() - before);
    }
    Ok(json!({"skipped_around_each": skipped}))
}

/// Waits for a kairod that answers and is another one than `gone`.
fn wait_for_kairod(gone: Option<i64>) -> anyhow::Result<i64> {
    let end = Instant::now() + KAIROD_BACK;
    while Instant::now() < end {
        if let Some(pid) = init_socket::pid_of("kairod")?
            && Some(pid) != gone
            && std::os::unix::net::UnixStream::connect(crate::loads::KERNEL_SOCKET).is_ok()
        {
            return Ok(pid);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("kairod did not come back within {KAIROD_BACK:?}")
}
