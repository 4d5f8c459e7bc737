//! Reads the `[[block]]` tables: what each is, then what it is wired to.
//!
//! setup-only. Two passes, because a block may be wired to one that stands further down.

use std::ops::Range;

use kairo_blocks::block::Design;
use kairo_blocks::graph::{Cycle, Node};
use kairo_blocks::registry::{Origin, Registry};
use kairo_blocks::settings::{Settings, Table, Value};

use super::super::diagnostic::{Problems, nearest};
use super::super::table::TableReader;
use super::super::{DeviceConfig, LoopConfig};
use super::crossing::AGE_KEY;
use super::wires::{Wiring, wire};
use super::{BLOCKS_MAX, LoopBlocks, source};

/// Keys of every block, whatever its kind.
const COMMON: [&str; 6] = ["name", "kind", "loop", "input", "output", AGE_KEY];

/// A block whose ports are known.
pub(super) struct Placed {
    pub(super) table: Table,
    pub(super) name: String,
    pub(super) kind: String,
    /// `None` when the kind or its settings are wrong; its ports are then unknown.
    pub(super) design: Option<Design>,
    /// `None` when there is no such loop.
    pub(super) control_loop: Option<usize>,
    /// Where it stands among its loop's blocks.
    pub(super) node: usize,
}

/// What blocks may refer to.
pub(in super::super) struct Surroundings<'r> {
    pub(in super::super) registry: &'r Registry,
    /// The loops by name; `None` for one that has problems of its own.
    pub(in super::super) loops: Vec<(&'r str, Option<&'r LoopConfig>)>,
    /// The devices, complete ones only.
    pub(in super::super) devices: Vec<&'r DeviceConfig>,
}

/// The blocks of each loop. Any problem added refuses the file.
pub(in super::super) fn read(
    file: &mut TableReader<'_>,
    around: &Surroundings<'_>,
    problems: &mut Problems<'_>,
) -> Vec<LoopBlocks> {
    let mut blocks = Vec::new();
    if file.has("block") {
        for reader in file.tables(problems, "block", BLOCKS_MAX) {
            let table = source::table(reader.source(), reader.span());
            blocks.extend(place(table, around, &blocks, problems));
        }
    }
    let mut loops = vec![LoopBlocks::default(); around.loops.len()];
    let mut wiring = Wiring::new(&blocks, around);
    for block in &blocks {
        let Some(control_loop) = block.control_loop else {
            continue;
        };
        let inside = &mut loops[control_loop];
        let wires = wire(block, &mut wiring, inside, problems);
        let design = block
            .design
            .clone()
            .unwrap_or_else(|| Design::delay(kairo_blocks::unit::Unit::ONE, 0.0));
        inside.has_plugins |= around.registry.origin(&block.kind) == Some(Origin::Plugin);
        inside.has_program_blocks |= around.registry.origin(&block.kind) == Some(Origin::Program);
        inside.graph.nodes.push(Node {
            name: block.name.clone(),
            kind: block.kind.clone(),
            design,
            wires,
        });
    }
    for inside in &mut loops {
        inside.graph.externals = inside.reads.len();
        match inside.graph.order() {
            Ok(order) => inside.order = order,
            Err(cycle) => complain_of_cycle(&cycle, inside, &blocks, problems),
        }
    }
    loops
}

fn complain_of_cycle(
    Cycle(cycle): &Cycle,
    inside: &LoopBlocks,
    blocks: &[Placed],
    problems: &mut Problems<'_>,
) {
    let names = cycle.iter().chain(cycle.first());
    let names: Vec<&str> = names
        .map(|node| inside.graph.nodes[*node].name.as_str())
        .collect();
    let at = blocks
        .iter()
        .find(|block| Some(&block.name.as_str()) == names.first());
    let span = at.map_or(0..0, |block| place_of(&block.table, "input"));
    let message = format!("blocks wait for each other: {}", names.join(" -> "));
    let fix = "put a block of kind \"delay\" into the circle; it gives the value of one period ago";
    problems.add(span, "block.input", message, fix);
}

/// Where the value of `key` stands, or the table when it is not there.
pub(super) fn place_of(table: &Table, key: &str) -> Range<usize> {
    let entry = table.get(key);
    entry.map_or_else(|| table.span.clone(), |entry| entry.span.clone())
}

/// A text of the table; complains when it is missing or something else.
fn text(table: &Table, key: &str, example: &str, problems: &mut Problems<'_>) -> Option<String> {
    let path = format!("block.{key}");
    match table.get(key).map(|entry| &entry.value) {
        Some(Value::Text(text)) if !text.is_empty() => Some(text.clone()),
        Some(_) => {
            let fix = format!("write a text such as \"{example}\"");
            problems.add(place_of(table, key), path, "is no text", fix);
            None
        }
        None => {
            let fix = format!("add `{key} = \"{example}\"`");
            problems.add(table.span.clone(), path, "is missing", fix);
            None
        }
    }
}

fn place(
    table: Table,
    around: &Surroundings<'_>,
    earlier: &[Placed],
    problems: &mut Problems<'_>,
) -> Option<Placed> {
    let name = text(&table, "name", "pan-filter", problems);
    let kind = text(&table, "kind", "low-pass", problems);
    let control_loop = text(&table, "loop", "arm-loop", problems)
        .and_then(|wanted| find_loop(&wanted, &table, around, problems));
    if let Some(name) = &name {
        check_name(name, &table, around, earlier, problems);
    }
    let design = kind.as_deref().and_then(|kind| {
        let config = control_loop.and_then(|index| around.loops[index].1);
        // Where the loop is wrong, settings are still read: one mistake shall not hide others.
        let period_s = config.map_or(0.004, |config| config.period_us as f64 / 1e6);
        read_design(kind, &table, period_s, around.registry, problems)
    });
    let node = earlier
        .iter()
        .filter(|block| block.control_loop.is_some() && block.control_loop == control_loop)
        .count();
    Some(Placed {
        name: name?,
        kind: kind?,
        table,
        design,
        control_loop,
        node,
    })
}

fn check_name(
    name: &str,
    table: &Table,
    around: &Surroundings<'_>,
    earlier: &[Placed],
    problems: &mut Problems<'_>,
) {
    let span = place_of(table, "name");
    if name.contains(['.', ' ', '"']) {
        let message = format!("\"{name}\" has a character that wires cannot name");
        problems.add(span, "block.name", message, "use letters, digits, - and _");
    } else if earlier.iter().any(|block| block.name == name) {
        let message = format!("\"{name}\" is used twice");
        problems.add(span, "block.name", message, "choose another name");
    } else if around.devices.iter().any(|device| device.name == name) {
        let message = format!("\"{name}\" is the name of a device");
        problems.add(
            span,
            "block.name",
            message,
            "choose another: wires name both alike",
        );
    }
}

fn find_loop(
    wanted: &str,
    table: &Table,
    around: &Surroundings<'_>,
    problems: &mut Problems<'_>,
) -> Option<usize> {
    let found = around.loops.iter().position(|(name, _)| *name == wanted);
    if found.is_none() {
        let names: Vec<&str> = around.loops.iter().map(|(name, _)| *name).collect();
        let fix = match nearest(wanted, &names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("the file has {}", names.join(", ")),
        };
        let message = format!("no `[[loop]]` is named \"{wanted}\"");
        problems.add(place_of(table, "loop"), "block.loop", message, fix);
    }
    found
}

fn read_design(
    kind: &str,
    table: &Table,
    period_s: f64,
    registry: &Registry,
    problems: &mut Problems<'_>,
) -> Option<Design> {
    if registry.origin(kind).is_none() {
        let known: Vec<&str> = registry.names().collect();
        let fix = match nearest(kind, &known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("the kinds are {}", known.join(", ")),
        };
        let message = format!("\"{kind}\" is no kind of block");
        problems.add(place_of(table, "kind"), "block.kind", message, fix);
        return None;
    }
    let mut settings = Settings::new(table, period_s, &COMMON);
    let design = registry.design(kind, &mut settings);
    let complaints = match design {
        Some(_) => settings.finish(),
        None => settings.give_up(),
    };
    let good = complaints.is_empty();
    for complaint in complaints {
        let key = format!("block.{}", complaint.key);
        problems.add(complaint.span, key, complaint.message, complaint.fix);
    }
    if design.is_none() && good {
        // A kind of somebody else's that gave up without a word must not pass for a good one.
        let message = format!("a block of kind \"{kind}\" cannot be made of these settings");
        problems.add(
            table.span.clone(),
            "block",
            message,
            "see the documentation of the kind",
        );
    }
    design.filter(|_| good)
}
