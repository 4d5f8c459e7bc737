//! A machine of named states: outputs by state, transitions by conditions over its inputs.
//!
//! rt-safe. Everything is compiled to indices when the file is read: a period looks at the
//! transitions of the present state in the order of the file, and the first whose conditions all
//! hold is taken; at most one a period. Time is counted in periods, so a replay does the same. A
//! machine begins in its first state, and again when a command is followed.

use super::ANY;
use crate::block::{Block, Design, FaultKind, PORTS_MAX, Port};
use crate::memory::Memory;
use crate::settings::{Settings, Table, Value};
use crate::unit::Unit;

/// States of one machine.
const STATES_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Longest operators first, so that `>=` is not read as `>`.
const ORDERS: [(&str, Order); 4] = [
    (">=", Order::AtLeast),
    ("<=", Order::AtMost),
    (">", Order::Above),
    ("<", Order::Below),
];

#[derive(Clone, Copy, Debug)]
struct Condition {
    input: usize,
    order: Order,
    value: f64,
}

impl Condition {
    fn holds(&self, inputs: &[f64]) -> bool {
        let input = inputs[self.input];
        match self.order {
            Order::Above => input > self.value,
            Order::AtLeast => input >= self.value,
            Order::Below => input < self.value,
            Order::AtMost => input <= self.value,
        }
    }
}

#[derive(Clone, Debug)]
struct Transition {
    to: usize,
    conditions: Box<[Condition]>,
    /// Periods in the state before it may be taken.
    after_periods: u64,
}

#[derive(Clone, Debug)]
struct State {
    outputs: Box<[f64]>,
    transitions: Box<[Transition]>,
}

struct Machine {
    states: Box<[State]>,
    present: usize,
    periods: u64,
}

impl Block for Machine {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        if inputs.iter().any(|input| !input.is_finite()) {
            // A condition over NaN is false, which must not decide anything.
            return Err(FaultKind::NotFinite { output: 0 });
        }
        let state = &self.states[self.present];
        let due = state.transitions.iter().find(|transition| {
            self.periods >= transition.after_periods
                && transition
                    .conditions
                    .iter()
                    .all(|condition| condition.holds(inputs))
        });
        match due {
            Some(transition) => (self.present, self.periods) = (transition.to, 1),
            None => self.periods = self.periods.saturating_add(1),
        }
        let state = &self.states[self.present];
        outputs[..state.outputs.len()].copy_from_slice(&state.outputs);
        outputs[state.outputs.len()] = self.present as f64;
        Ok(())
    }

    fn engage(&mut self) {
        (self.present, self.periods) = (0, 0);
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.index(&mut self.present, self.states.len());
        memory.word(&mut self.periods);
    }
}

/// `state-machine`.
pub fn design(settings: &mut Settings<'_>) -> Option<Design> {
    let inputs = ports(settings, "inputs", "load = 1")?;
    let mut outputs = ports(settings, "outputs", "limit = rad")?;
    let tables = settings.tables("state");
    if !(1..=STATES_MAX).contains(&tables.len()) {
        let message = format!(
            "has {} states, a machine has 1 to {STATES_MAX}",
            tables.len()
        );
        settings.complain("state", message, "add `[[block.state]]` tables");
        return None;
    }
    let names: Vec<Option<&str>> = tables.iter().map(|table| name_of(table)).collect();
    let mut states = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let twice = names[..index].contains(&names[index]) && names[index].is_some();
        if twice {
            let name = names[index].unwrap_or_default();
            let at = table.get("name").map_or(0..0, |entry| entry.span.clone());
            let message = format!("\"{name}\" is the name of an earlier state");
            settings.complain_at(at, "state.name", message, "name every state differently");
        }
        let read = settings.nested(table, |inner| read_state(inner, &inputs, &outputs, &names));
        states.push(read);
    }
    let states: Box<[State]> = states.into_iter().collect::<Option<_>>()?;
    outputs.push(Port::new("state", Unit::ONE));
    Some(Design::new(inputs, outputs, move || Machine {
        states: states.clone(),
        present: 0,
        periods: 0,
    }))
}

fn name_of(table: &Table) -> Option<&str> {
    match &table.get("name")?.value {
        Value::Text(name) => Some(name),
        _ => None,
    }
}

/// Ports written as `"NAME"` or `"NAME = UNIT"`.
fn ports(settings: &mut Settings<'_>, key: &str, example: &str) -> Option<Vec<Port>> {
    let texts = settings.texts(key, example);
    let mut ports: Vec<Port> = Vec::new();
    for text in &texts {
        let (name, unit) = text.split_once('=').unwrap_or((text, "1"));
        let (name, unit) = (name.trim(), unit.trim());
        let Some(unit) = Unit::parse(unit) else {
            let message = format!("\"{unit}\" in \"{text}\" is no unit known here");
            settings.complain(key, message, format!("write it as in \"{example}\""));
            return None;
        };
        let taken = ports.iter().any(|port| port.name == name) || name == "state";
        if taken || !is_name(name) {
            let message = format!("\"{name}\" cannot name a port, or names another already");
            settings.complain(key, message, "use letters, digits and _, each name once");
            return None;
        }
        ports.push(Port::new(name, unit));
    }
    if ports.is_empty() || ports.len() >= PORTS_MAX {
        return None;
    }
    Some(ports)
}

fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !name.is_empty() && name.chars().all(allowed)
}

fn read_state(
    settings: &mut Settings<'_>,
    inputs: &[Port],
    outputs: &[Port],
    names: &[Option<&str>],
) -> Option<State> {
    settings.text("name", "open");
    let values = match settings.raw("output").map(|entry| &entry.value) {
        Some(Value::Table(table)) => settings.nested(table, |inner| {
            let values = outputs
                .iter()
                .map(|port| inner.number(&port.name, ANY, None));
            values.collect::<Vec<_>>()
        }),
        _ => {
            let first = outputs.first().map_or("", |port| port.name.as_str());
            let fix = format!("add `output.{first} = 0.0` for each output");
            settings.complain("output", "is missing", fix);
            return None;
        }
    };
    let mut transitions = Vec::new();
    if settings.has("go") {
        for table in settings.tables("go") {
            let read = settings.nested(table, |inner| read_transition(inner, inputs, names));
            transitions.push(read);
        }
    }
    Some(State {
        outputs: values.into_iter().collect::<Option<_>>()?,
        transitions: transitions.into_iter().collect::<Option<_>>()?,
    })
}

fn read_transition(
    settings: &mut Settings<'_>,
    inputs: &[Port],
    names: &[Option<&str>],
) -> Option<Transition> {
    let to = settings.text("to", "closed");
    let when = if settings.has("when") {
        settings.text("when", "load > 0.4")?
    } else {
        String::new()
    };
    let after_s = settings.number("after_s", 0.0..=1e6, Some(0.0))?;
    let to = to?;
    let Some(target) = names.iter().position(|name| *name == Some(to.as_str())) else {
        let known: Vec<&str> = names.iter().flatten().copied().collect();
        let message = format!("no state is named \"{to}\"");
        settings.complain(
            "to",
            message,
            format!("the states are {}", known.join(", ")),
        );
        return None;
    };
    let mut conditions = Vec::new();
    for text in when
        .split(" and ")
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        match condition(text, inputs) {
            Some(condition) => conditions.push(condition),
            None => {
                let ports: Vec<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
                let message = format!("\"{text}\" is no condition");
                let fix = format!(
                    "write INPUT > NUMBER, with >, >=, < or <= and the inputs {}, several joined \
                     by \" and \"",
                    ports.join(", ")
                );
                settings.complain("when", message, fix);
                return None;
            }
        }
    }
    if conditions.is_empty() && after_s == 0.0 {
        settings.complain(
            "to",
            "has no condition",
            "add `when = \"…\"` or `after_s = 1.0`",
        );
        return None;
    }
    Some(Transition {
        to: target,
        conditions: conditions.into(),
        after_periods: (after_s / settings.period_s()).ceil() as u64,
    })
}

fn condition(text: &str, inputs: &[Port]) -> Option<Condition> {
    let (at, (sign, order)) = ORDERS
        .iter()
        .find_map(|entry| text.find(entry.0).map(|at| (at, *entry)))?;
    let name = text[..at].trim();
    let value: f64 = text[at + sign.len()..].trim().parse().ok()?;
    let input = inputs.iter().position(|port| port.name == name)?;
    value.is_finite().then_some(Condition {
        input,
        order,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, PERIOD_S, complaints};
    use crate::settings::Table;

    /// A gripper that closes on something, holds it for a second, and lets go.
    fn gripper() -> Table {
        let go = |to: &str| Table::default().with("to", to);
        let state = |name: &str, hold: f64, go: Vec<Table>| {
            Table::default()
                .with("name", name)
                .with("output", Table::default().with("hold", hold))
                .with("go", go)
        };
        Table::default()
            .with("inputs", vec!["load", "want = flag"])
            .with("outputs", vec!["hold"])
            .with(
                "state",
                vec![
                    state("open", 0.0, vec![go("closing").with("when", "want > 0.5")]),
                    state(
                        "closing",
                        0.3,
                        vec![
                            go("holding").with("when", "load >= 0.4 and want > 0.5"),
                            go("open").with("when", "want < 0.5"),
                        ],
                    ),
                    state("holding", 1.0, vec![go("open").with("after_s", 0.04)]),
                ],
            )
    }

    #[test]
    fn takes_the_first_transition_whose_conditions_hold() {
        let mut machine = Bench::new("state-machine", &gripper());
        assert_eq!(
            machine.step(&[0.9, 0.0]),
            [0.0, 0.0],
            "open, whatever the load"
        );
        assert_eq!(
            machine.step(&[0.9, 1.0]),
            [0.3, 1.0],
            "one transition a period"
        );
        assert_eq!(machine.step(&[0.9, 1.0]), [1.0, 2.0]);
        let held = (0..20)
            .take_while(|_| machine.step(&[0.0, 0.0])[1] == 2.0)
            .count();
        assert_eq!(
            held,
            (0.04 / PERIOD_S) as usize - 1,
            "it holds for 0.04 s, entry included"
        );
        assert_eq!(machine.step(&[0.0, 1.0])[1], 1.0);
        machine.engage();
        assert_eq!(machine.step(&[0.0, 0.0])[1], 0.0, "it begins anew");
    }

    #[test]
    fn nan_decides_nothing() {
        let mut machine = Bench::new("state-machine", &gripper());
        assert!(machine.try_step(&[f64::NAN, 1.0]).is_err());
    }

    #[test]
    fn a_condition_or_state_that_is_not_there_is_refused_by_name() {
        let with = |when: &str, to: &str| {
            let go = Table::default().with("to", to).with("when", when);
            let output = Table::default().with("hold", 0.0);
            let state = Table::default()
                .with("name", "open")
                .with("output", output)
                .with("go", vec![go]);
            Table::default()
                .with("inputs", vec!["load"])
                .with("outputs", vec!["hold"])
                .with("state", vec![state])
        };
        let found = complaints("state-machine", &with("lod > 1", "open"));
        assert!(found[0].fix.contains("the inputs load"), "{found:?}");
        let found = complaints("state-machine", &with("load > 1", "opne"));
        assert_eq!(found[0].message, "no state is named \"opne\"");
        assert!(complaints("state-machine", &with("load => 1", "open")).len() == 1);
    }
}
