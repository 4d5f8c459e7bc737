//! `kairo failsafe list` and `kairo failsafe simulate`: what a robot does when things go wrong,
//! without a robot. Needs no kernel: it runs the machine that the control loop runs, with the rules
//! of a robot.toml, and reads nothing else.

mod timeline;

use std::io::BufRead;
use std::path::Path;

use kairo_failsafe::{Action, Cause, CauseSet, Decision, Flags, Rules, State, step};
use kairo_rt::config::{self, RobotConfig};
use serde_json::{Value, json};

use crate::arguments::{FailsafeListOptions, SimulateOptions};
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, Tone};
use timeline::{Moment, Script, moment};

/// The simulated loop's period.
const STEP_MS: u64 = 1;
/// How long a simulation goes on after its last event while something is still pending, ms.
const PATIENCE_MS: u64 = 130_000;

fn robot(path: Option<&Path>) -> Result<Option<RobotConfig>, Failure> {
    let load = |path| config::load(path).map_err(|error| Failure::Usage(error.to_string()));
    path.map(load).transpose()
}

fn rules(robot: Option<&RobotConfig>) -> Rules {
    robot.map_or_else(Rules::default, |robot| robot.failsafe.rules)
}

/// `failsafe list`.
pub fn list(terminal: &Terminal, options: &FailsafeListOptions) -> Result<(), Failure> {
    let rules = rules(robot(options.config.as_deref())?.as_ref());
    if terminal.json {
        let causes: Vec<Value> = Cause::ALL
            .iter()
            .map(|cause| described(*cause, &rules))
            .collect();
        let actions: Vec<Value> = Action::ALL
            .iter()
            .map(|action| json!({"action": action.name(), "does": action.describe()}))
            .collect();
        return terminal.json_page(&json!({
            "causes": causes, "actions": actions, "defer_max_ms": rules.defer_max_ms(),
        }));
    }
    if options.markdown {
        return terminal.line(markdown(&rules));
    }
    let mut table = Table::new(&[
        "CAUSE",
        "ACTION",
        ">HOLD FIRST ms",
        "CLEARS",
        "TAKEOVER",
        "DEFERRABLE",
        "WHEN",
    ]);
    for cause in Cause::ALL {
        let rule = rules.of(cause);
        table.row([
            Cell::from(cause.name()),
            rule.action.name().into(),
            rule.hold_first_ms.to_string().into(),
            rule.clear.name().into(),
            rule.takeover.name().into(),
            if rule.deferrable { "yes" } else { "no" }.into(),
            cause.means().into(),
        ]);
    }
    terminal.table(&table)?;
    terminal.line("")?;
    terminal.heading("Actions, mildest first; the highest one that is demanded wins")?;
    let mut table = Table::new(&["ACTION", "THE DEVICE"]);
    for action in Action::ALL {
        table.row([Cell::from(action.name()), action.describe().into()]);
    }
    terminal.table(&table)
}

fn described(cause: Cause, rules: &Rules) -> Value {
    let rule = rules.of(cause);
    json!({
        "cause": cause.name(), "when": cause.means(), "action": rule.action.name(),
        "hold_first_ms": rule.hold_first_ms, "clear": rule.clear.name(),
        "takeover": rule.takeover.name(), "deferrable": rule.deferrable,
    })
}

/// The tables of docs/reference/failsafe.md.
fn markdown(rules: &Rules) -> String {
    let mut text = String::from(
        "| cause | condition | action | hold first | clears | takeover | deferrable |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for cause in Cause::ALL {
        let rule = rules.of(cause);
        text += &format!(
            "| `{cause}` | {} | `{}` | {} ms | `{}` | `{}` | {} |\n",
            cause.means(),
            rule.action,
            rule.hold_first_ms,
            rule.clear,
            rule.takeover,
            if rule.deferrable { "yes" } else { "no" },
        );
    }
    text += "\n| action | the device |\n|---|---|\n";
    let rows = Action::ALL.map(|action| format!("| `{action}` | {} |", action.describe()));
    text + &rows.join("\n")
}

/// `failsafe simulate`.
pub fn simulate(terminal: &Terminal, options: &SimulateOptions) -> Result<(), Failure> {
    let robot = robot(options.config.as_deref())?;
    let rules = rules(robot.as_ref());
    let from_start = robot.is_none_or(|robot| robot.estop.latched_at_start);
    let mut simulation = Simulation::new(rules, options.from_start && from_start);
    if options.at.is_empty() {
        return interactive(terminal, &mut simulation);
    }
    let script = Script::parse(&options.at)?;
    let mut rows = Vec::new();
    for moment in &script.moments {
        rows.extend(simulation.run_to(moment.at_ms));
        rows.push(simulation.apply(moment));
    }
    rows.extend(simulation.settle());
    if terminal.json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        return terminal.json_page(&json!({ "rows": rows }));
    }
    let mut table = Table::new(&[
        ">TIME ms",
        "EVENT",
        "LIVE CAUSES",
        "ACTION",
        "COMMANDS",
        "WHY",
    ]);
    for row in &rows {
        table.row(row.cells());
    }
    terminal.table(&table)
}

/// Takes one moment a line from standard input, and answers each.
fn interactive(terminal: &Terminal, simulation: &mut Simulation) -> Result<(), Failure> {
    if terminal.live {
        terminal.line(timeline::HELP)?;
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::Usage(error.to_string()))?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            continue;
        }
        let mut rows = Vec::new();
        match moment(&words) {
            Ok(moment) if moment.at_ms < simulation.now_ms => {
                let now = simulation.now_ms;
                terminal.line(format!("it is {now} ms already; give a later time"))?;
            }
            Ok(moment) => {
                rows = simulation.run_to(moment.at_ms);
                rows.push(simulation.apply(&moment));
            }
            // A slip of the hand at a prompt ends nothing; one in a script does.
            Err(failure) if terminal.live => terminal.line(failure.to_string())?,
            Err(failure) => return Err(failure),
        }
        for row in &rows {
            match terminal.json {
                true => terminal.json_line(&row.json())?,
                false => terminal.line(row.line())?,
            }
        }
    }
    let rest = simulation.settle();
    for row in &rest {
        match terminal.json {
            true => terminal.json_line(&row.json())?,
            false => terminal.line(row.line())?,
        }
    }
    Ok(())
}

/// The machine and its time.
struct Simulation {
    rules: Rules,
    state: State,
    flags: Flags,
    now_ms: u64,
    told: Option<Decision>,
}

/// One line of what came out.
struct Row {
    at_ms: u64,
    event: String,
    told: Decision,
    why: String,
}

impl Simulation {
    fn new(rules: Rules, latched: bool) -> Self {
        Self {
            rules,
            state: match latched {
                true => State::starting(0, true),
                false => State::in_use(0),
            },
            flags: Flags::default(),
            now_ms: 0,
            told: None,
        }
    }

    /// One step now; pulses are over after it.
    fn step(&mut self) -> Decision {
        let now_ns = self.now_ms * 1_000_000;
        let (state, told) = step(now_ns, self.state, self.flags, &self.rules);
        self.state = state;
        self.flags.mode_changed = false;
        self.flags.commanded = false;
        self.flags.takeover = None;
        self.told = Some(told);
        told
    }

    /// Steps on to just before `at_ms`; a row for every change on the way.
    fn run_to(&mut self, at_ms: u64) -> Vec<Row> {
        let mut rows = Vec::new();
        while self.now_ms < at_ms {
            let before = self
                .told
                .map(|told| (told.action, told.live, told.agent_may_command));
            let told = self.step();
            let after = (told.action, told.live, told.agent_may_command);
            if before.is_some_and(|before| before != after) {
                rows.push(self.row(String::new(), told));
            }
            self.now_ms += STEP_MS;
        }
        rows
    }

    /// Lets `moment` happen, and steps.
    fn apply(&mut self, moment: &Moment) -> Row {
        self.now_ms = moment.at_ms;
        if moment.pulses_reset {
            // The step before the pulse: a reset that was held down would be no edge.
            self.flags.reset = false;
            self.step();
        }
        moment.apply(&mut self.flags);
        let told = self.step();
        if moment.pulses_reset {
            self.flags.reset = false;
        }
        self.row(moment.text.clone(), told)
    }

    /// Goes on until nothing is pending; a row for every change.
    fn settle(&mut self) -> Vec<Row> {
        let end = self.now_ms + PATIENCE_MS;
        let mut rows = Vec::new();
        let pending = |told: &Option<Decision>| {
            told.is_some_and(|told| !told.delayed.is_empty() || !told.deferred.is_empty())
        };
        while pending(&self.told) && self.now_ms < end {
            rows.extend(self.run_to(self.now_ms + 2));
        }
        rows
    }

    fn row(&self, event: String, told: Decision) -> Row {
        let why = why(self.now_ms, &told, &self.state, self.flags, &self.rules);
        let at_ms = self.now_ms;
        Row {
            at_ms,
            event,
            told,
            why,
        }
    }
}

/// What the decision comes from, in words.
fn why(now_ms: u64, told: &Decision, state: &State, flags: Flags, rules: &Rules) -> String {
    let mut parts = Vec::new();
    if let Some(cause) = told.cause {
        parts.push(format!("{cause} demands {}", told.action));
    }
    for cause in told.delayed.iter() {
        let rule = rules.of(cause);
        let from_ms = state.since_ns(cause) / 1_000_000 + rule.hold_first_ms;
        parts.push(format!(
            "{cause} holds first, {} from {from_ms} ms",
            rule.action
        ));
    }
    for cause in told.deferred.iter() {
        let until_ms = state.since_ns(cause) / 1_000_000 + rules.defer_max_ms();
        parts.push(format!("{cause} is deferred until {until_ms} ms"));
    }
    for cause in told.taken_over.iter() {
        parts.push(format!("{cause} is taken over from"));
    }
    for cause in told
        .live
        .iter()
        .filter(|cause| !flags.conditions.has(*cause))
    {
        parts.push(format!(
            "{cause} is gone but clears {}",
            rules.of(cause).clear
        ));
    }
    for cause in told.cleared.iter() {
        parts.push(format!("{cause} cleared"));
    }
    if told.stands_still && !told.live.is_empty() {
        parts.push("nothing ramps before the next lease".into());
    }
    if told.takeover_granted {
        parts.push("takeover granted".into());
    }
    if parts.is_empty() {
        parts.push(format!("nothing is live at {now_ms} ms"));
    }
    parts.join("; ")
}

fn names(set: CauseSet) -> Vec<&'static str> {
    set.iter().map(Cause::name).collect()
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "t_ms": self.at_ms, "event": self.event, "live": names(self.told.live),
            "action": self.told.action.name(), "cause": self.told.cause.map(Cause::name),
            "raised": names(self.told.raised), "cleared": names(self.told.cleared),
            "delayed": names(self.told.delayed), "deferred": names(self.told.deferred),
            "taken_over": names(self.told.taken_over),
            "agent_may_command": self.told.agent_may_command,
            "operator_may_take_over": self.told.operator_may_take_over,
            "takeover_granted": self.told.takeover_granted,
            "stands_still": self.told.stands_still, "why": self.why,
        })
    }

    fn live(&self) -> String {
        let live = names(self.told.live);
        if live.is_empty() {
            "-".into()
        } else {
            live.join(",")
        }
    }

    const fn commands(&self) -> &'static str {
        if self.told.agent_may_command {
            "followed"
        } else {
            "refused"
        }
    }

    fn cells(&self) -> [Cell; 6] {
        let tone = match self.told.action {
            Action::None => Tone::Good,
            Action::Warn => Tone::Warn,
            _ => Tone::Bad,
        };
        let event = if self.event.is_empty() {
            "-"
        } else {
            &self.event
        };
        [
            self.at_ms.to_string().into(),
            event.into(),
            self.live().into(),
            Cell::toned(self.told.action.name(), tone),
            self.commands().into(),
            self.why.as_str().into(),
        ]
    }

    fn line(&self) -> String {
        let (at, action, commands) = (self.at_ms, self.told.action, self.commands());
        format!(
            "{at:>7} ms  {action:<12} commands {commands}  {}: {}",
            self.live(),
            self.why
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference for people.
    const REFERENCE: &str = include_str!("../../../docs/reference/failsafe.md");

    #[test]
    fn the_reference_has_the_very_tables_of_the_code() {
        let tables = markdown(&Rules::default());
        assert!(
            REFERENCE.contains(&tables),
            "docs/reference/failsafe.md must hold `kairo failsafe list --markdown`:\n{tables}"
        );
    }
}
