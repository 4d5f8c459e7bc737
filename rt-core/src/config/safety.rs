//! `[failsafe]` and `[estop]` of `robot.toml`: what each cause does, and where e-stops come from.
//!
//! setup-only. Both sections may be absent; the defaults are those of `kairo_failsafe`, and an
//! e-stop that is latched at the start.

use kairo_failsafe::{
    Action, Cause, Clear, DEFER_LONGEST_MS, HOLD_FIRST_LONGEST_MS, Rules, Takeover,
};

pub use kairo_hal::gpio::{Bias, LineAddress};

use super::DeviceConfig;
use super::diagnostic::Problems;
use super::schema::{CORE, PRIORITY};
use super::table::TableReader;

/// E-stop inputs a robot can have.
pub const ESTOP_INPUTS_MAX: usize = kairo_link::lines::MAX_INPUTS;

const DEFER_LONGEST: i64 = DEFER_LONGEST_MS.cast_signed();
const HOLD_FIRST_LONGEST: i64 = HOLD_FIRST_LONGEST_MS.cast_signed();

/// What each cause does on this robot, and where its measured causes begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailsafeConfig {
    /// The rules of all causes.
    pub rules: Rules,
    /// Temperature of a servo from which on it is too hot.
    pub temperature_max_c: f64,
}

impl Default for FailsafeConfig {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            temperature_max_c: 80.0,
        }
    }
}

/// Where e-stops come from, and what they switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EstopConfig {
    /// Whether an e-stop is live from the start, until an operator resets.
    pub latched_at_start: bool,
    /// Whether a clear that comes through the agent plane counts as an operator's.
    pub clear_over_ipc: bool,
    /// The inputs that must all be good.
    pub inputs: Vec<LineConfig>,
    /// The reset button, if any.
    pub reset: Option<LineConfig>,
    /// The output that toggles while all is well, if any.
    pub charge_pump: Option<ChargePumpConfig>,
    /// SCHED_FIFO priority of the thread that reads and writes the lines.
    pub priority: u8,
    /// The core it is pinned to, or not.
    pub core: Option<usize>,
    /// What one of its periods may cost; a twentieth of the period when absent.
    pub budget_us: Option<u64>,
    /// The line of the file that begins the section.
    pub line: usize,
    /// Where in the file the section is, in bytes.
    pub span: std::ops::Range<usize>,
    /// Age of the newest look at the lines from which on nobody looks any more.
    pub input_stale_ms: u64,
}

impl Default for EstopConfig {
    fn default() -> Self {
        Self {
            latched_at_start: true,
            clear_over_ipc: false,
            inputs: Vec::new(),
            reset: None,
            charge_pump: None,
            priority: 90,
            core: None,
            budget_us: None,
            line: 0,
            span: 0..0,
            input_stale_ms: 20,
        }
    }
}

impl EstopConfig {
    /// Whether there is any line to serve.
    pub fn has_lines(&self) -> bool {
        !self.inputs.is_empty() || self.reset.is_some() || self.charge_pump.is_some()
    }
}

/// An input line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineConfig {
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub line: LineAddress,
    /// Whether the high level is the one that acts: that stops, or that resets.
    pub acts_when_high: bool,
    /// Its bias.
    pub bias: Bias,
    /// How long it must be at rest to count as at rest. Acting counts at once.
    pub debounce_us: u64,
}

/// The charge pump output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargePumpConfig {
    /// Where it is.
    pub line: LineAddress,
    /// It toggles once in so many ticks of the slowest loop.
    pub every_ticks: u64,
}

/// Reads `[failsafe]`, which may be absent.
pub(super) fn read_failsafe(
    file: &mut TableReader<'_>,
    devices: &[&DeviceConfig],
    problems: &mut Problems<'_>,
) -> Option<FailsafeConfig> {
    let mut config = FailsafeConfig::default();
    if !file.has("failsafe") {
        return Some(config);
    }
    let mut table = file.table(problems, "failsafe")?;
    let defer = table.integer(problems, "defer_max_ms", 0..=DEFER_LONGEST, Some(30_000));
    if table.has("temperature_max_c") {
        let most = table.number(problems, "temperature_max_c", 20.0..=150.0);
        config.temperature_max_c = most?.value;
    }
    for cause in Cause::ALL {
        if table.has(cause.name())
            && let Some(rule) = table.table(problems, cause.name())
        {
            read_rule(rule, cause, devices, &mut config.rules, problems);
        }
    }
    table.finish(problems);
    let defer = defer?.value.unsigned_abs();
    config.rules.set_defer_max_ms(defer).ok()?;
    Some(config)
}

fn read_rule(
    mut table: TableReader<'_>,
    cause: Cause,
    devices: &[&DeviceConfig],
    rules: &mut Rules,
    problems: &mut Problems<'_>,
) {
    let own = *rules.of(cause);
    let mut rule = own;
    if table.has("action") {
        let actions = Action::ALL.map(|action| (action.name(), action));
        rule.action = (table.choice(problems, "action", &actions)).unwrap_or(own.action);
    }
    if table.has("clear") {
        let clears = Clear::ALL.map(|clear| (clear.name(), clear));
        rule.clear = (table.choice(problems, "clear", &clears)).unwrap_or(own.clear);
    }
    if table.has("takeover") {
        let takers = Takeover::ALL.map(|takeover| (takeover.name(), takeover));
        rule.takeover = (table.choice(problems, "takeover", &takers)).unwrap_or(own.takeover);
    }
    // A delay of the default action means nothing to a milder one.
    let delay = match rule.action > Action::Hold {
        true => own.hold_first_ms.cast_signed(),
        false => 0,
    };
    let delay = table.integer(
        problems,
        "hold_first_ms",
        0..=HOLD_FIRST_LONGEST,
        Some(delay),
    );
    rule.hold_first_ms = delay.map_or(0, |delay| delay.value.unsigned_abs());
    let deferrable = table.boolean(problems, "deferrable", own.deferrable);
    rule.deferrable = deferrable.unwrap_or(own.deferrable);
    let (span, key) = (table.span_of("action"), table.path_of("action"));
    table.finish(problems);
    for device in devices.iter().filter(|device| !can(device, rule.action)) {
        let message = format!("device \"{}\" cannot {}", device.name, rule.action);
        let fix = format!("it can {}", abilities(device));
        problems.add(span.clone(), key.clone(), message, fix);
    }
    if let Err(error) = rules.set(cause, rule) {
        let fix = "see docs/reference/failsafe.md for what can be changed";
        problems.add(span, key, error.to_string(), fix);
    }
}

/// Whether the device can do it. An arm neither lands nor idles, and ramps to a declared pose only.
fn can(device: &DeviceConfig, action: Action) -> bool {
    match action {
        Action::Land | Action::Idle => false,
        Action::RampToRest => device.has_rest_pose(),
        _ => true,
    }
}

fn abilities(device: &DeviceConfig) -> String {
    let able = Action::ALL
        .into_iter()
        .filter(|action| can(device, *action));
    let names: Vec<&str> = able.map(Action::name).collect();
    names.join(", ")
}

/// Reads `[estop]`, which may be absent.
pub(super) fn read_estop(
    file: &mut TableReader<'_>,
    problems: &mut Problems<'_>,
) -> Option<EstopConfig> {
    let default = EstopConfig::default();
    if !file.has("estop") {
        return Some(default);
    }
    let mut table = file.table(problems, "estop")?;
    let latched = table.boolean(problems, "latched_at_start", default.latched_at_start);
    if latched == Some(false) {
        // Asked for, so that whoever reads the file later learns why this robot moves at once.
        let example = "it cannot move by itself";
        table.text(problems, "not_latched_because", example);
    }
    let clear = table.boolean(problems, "clear_over_ipc", default.clear_over_ipc);
    let priority = table.integer(
        problems,
        "priority",
        PRIORITY,
        Some(default.priority.into()),
    );
    let stale = table.integer(problems, "input_stale_ms", 2..=1_000, Some(20));
    let mut core = Some(None);
    if table.has("core") {
        let found = table.integer(problems, "core", CORE, None);
        core = found.map(|core| usize::try_from(core.value).ok());
    }
    let mut budget = Some(None);
    if table.has("budget_us") {
        let found = table.integer(problems, "budget_us", 1..=100_000, None);
        budget = found.map(|budget| Some(budget.value.unsigned_abs()));
    }
    let span = table.span();
    let mut inputs = Vec::new();
    if table.has("input") {
        for input in table.tables(problems, "input", ESTOP_INPUTS_MAX) {
            inputs.push(read_input(input, true, problems));
        }
    }
    let mut reset = Some(None);
    if table.has("reset") {
        let found = table.table(problems, "reset");
        reset = found
            .and_then(|found| read_input(found, false, problems))
            .map(Some);
    }
    let mut charge_pump = Some(None);
    if table.has("charge_pump") {
        let found = table.table(problems, "charge_pump");
        charge_pump = found.and_then(|found| read_pump(found, problems)).map(Some);
    }
    table.finish(problems);
    Some(EstopConfig {
        latched_at_start: latched?,
        clear_over_ipc: clear?,
        inputs: inputs.into_iter().collect::<Option<Vec<_>>>()?,
        reset: reset?,
        charge_pump: charge_pump?,
        priority: u8::try_from(priority?.value).ok()?,
        core: core?,
        budget_us: budget?,
        line: problems.line_of(&span),
        span,
        input_stale_ms: stale?.value.unsigned_abs(),
    })
}

/// A line's place: `line`, or `chip` and `offset`.
fn read_address(table: &mut TableReader<'_>, problems: &mut Problems<'_>) -> Option<LineAddress> {
    if table.has("line") || !table.has("chip") {
        return table
            .text(problems, "line", "estop")
            .map(|name| LineAddress::Name(name.value));
    }
    let chip = table.text(problems, "chip", "pinctrl-rp1")?.value;
    let offset = table.integer(problems, "offset", 0..=1023, None)?;
    let offset = u32::try_from(offset.value).ok()?;
    Some(LineAddress::At { chip, offset })
}

/// An input. `stops`: whether it is an e-stop, which acts when its circuit is open, or the reset
/// button, which acts when its circuit is closed.
fn read_input(
    mut table: TableReader<'_>,
    stops: bool,
    problems: &mut Problems<'_>,
) -> Option<LineConfig> {
    let line = read_address(&mut table, problems);
    let name = match (table.has("name"), &line) {
        (true, _) => table
            .text(problems, "name", "stop-button")
            .map(|name| name.value),
        (false, Some(LineAddress::Name(name))) => Some(name.clone()),
        (false, _) => Some(if stops { "estop" } else { "reset" }.to_owned()),
    };
    let levels = [("high", true), ("low", false)];
    let mut acts_when_high = Some(stops);
    if table.has("active_level") {
        acts_when_high = table.choice(problems, "active_level", &levels);
    }
    let biases = [
        ("pull-up", Bias::PullUp),
        ("pull-down", Bias::PullDown),
        ("as-is", Bias::AsIs),
    ];
    let mut bias = Some(Bias::AsIs);
    if table.has("bias") {
        bias = table.choice(problems, "bias", &biases);
    }
    let debounce = table.integer(problems, "debounce_us", 0..=1_000_000, Some(5_000));
    let (span, key) = (table.span(), table.path_of("bias"));
    table.finish(problems);
    let (acts_when_high, bias) = (acts_when_high?, bias?);
    let pulled_high = match bias {
        Bias::PullUp => Some(true),
        Bias::PullDown => Some(false),
        Bias::AsIs => None,
    };
    // An open circuit leaves the line to its bias: it must stop, and it must not reset.
    if pulled_high.is_some_and(|high| (high == acts_when_high) != stops) {
        let (message, fix) = if stops {
            (
                "pulls a broken wire to the level that means all is well",
                "use the other bias, or the other active_level",
            )
        } else {
            (
                "pulls a broken wire to the level that resets",
                "use the other bias, or the other active_level",
            )
        };
        problems.add(span, key, message, fix);
    }
    Some(LineConfig {
        name: name?,
        line: line?,
        acts_when_high,
        bias,
        debounce_us: debounce?.value.unsigned_abs(),
    })
}

fn read_pump(mut table: TableReader<'_>, problems: &mut Problems<'_>) -> Option<ChargePumpConfig> {
    let line = read_address(&mut table, problems);
    let every = table.integer(problems, "every_ticks", 1..=1_000, Some(1));
    table.finish(problems);
    Some(ChargePumpConfig {
        line: line?,
        every_ticks: every?.value.unsigned_abs(),
    })
}
