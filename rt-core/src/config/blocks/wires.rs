//! The wires of a block: `input.PORT = SOURCE` and `output.PORT = SINK`.
//!
//! setup-only. A source is a number, `BLOCK.PORT`, `DEVICE.JOINT.SIGNAL` or `DEVICE.following`; a
//! sink is `DEVICE.JOINT.setpoint`, or a list of them.

use kairo_blocks::block::Port;
use kairo_blocks::graph::Wire;
use kairo_blocks::settings::{Entry, Table, Value};
use kairo_blocks::unit::Unit;

use super::super::diagnostic::{Problems, nearest};
use super::read::{Placed, Surroundings};
use super::{Crossing, Drive, LoopBlocks, Read, Signal, crossing};

/// What wires of all blocks have in common.
pub(super) struct Wiring<'w> {
    blocks: &'w [Placed],
    around: &'w Surroundings<'w>,
    /// Joints that are driven, by whom.
    driven: Vec<(usize, usize, String)>,
}

/// A source that was found.
struct Found {
    unit: Unit,
    control_loop: usize,
    wire: FoundWire,
}

enum FoundWire {
    Read(Read),
    Output { node: usize, port: usize },
}

impl<'w> Wiring<'w> {
    pub(super) const fn new(blocks: &'w [Placed], around: &'w Surroundings<'w>) -> Self {
        Self {
            blocks,
            around,
            driven: Vec::new(),
        }
    }
}

/// Wires `block`; what it reads and drives is added to its loop.
pub(super) fn wire(
    block: &Placed,
    wiring: &mut Wiring<'_>,
    inside: &mut LoopBlocks,
    problems: &mut Problems<'_>,
) -> Vec<Wire> {
    let Some(design) = &block.design else {
        return Vec::new();
    };
    let inputs = side(&block.table, "input", &design.inputs, problems);
    let (mut wires, mut whole) = (Vec::new(), true);
    for port in &design.inputs {
        let entry = inputs.and_then(|table| table.get(&port.name));
        let wire = match (entry, port.unwired) {
            (Some(entry), _) => source(block, port, entry, wiring, inside, problems),
            (None, Some(value)) => Some(Wire::Constant(value)),
            (None, None) => {
                let message = format!(
                    "input {} of block \"{}\" has no wire",
                    port.name, block.name
                );
                let fix = format!("add `input.{} = \"SOURCE\"`, in {}", port.name, port.unit);
                let key = format!("block.input.{}", port.name);
                problems.add(block.table.span.clone(), key, message, fix);
                None
            }
        };
        whole &= wire.is_some();
        wires.push(wire.unwrap_or(Wire::Constant(0.0)));
    }
    let crosses = |read: &Read| matches!(read, Read::Crossing(one) if one.node == block.node);
    let has_age = block.table.get(crossing::AGE_KEY);
    if let (Some(entry), false) = (has_age, inside.reads.iter().any(crosses))
        && whole
    {
        let key = format!("block.{}", crossing::AGE_KEY);
        let message = "is of no use: no input of this block comes from another loop";
        problems.add(entry.key_span.clone(), key, message, "remove it");
    }
    if let Some(outputs) = side(&block.table, "output", &design.outputs, problems) {
        for entry in &outputs.entries {
            let port = design
                .outputs
                .iter()
                .position(|port| port.name == entry.key);
            if let Some(port) = port {
                let unit = design.outputs[port].unit;
                sinks(block, (port, unit), entry, wiring, inside, problems);
            }
        }
    }
    wires
}

/// The table of wires on one side, after complaining about ports that are not there.
fn side<'t>(
    table: &'t Table,
    key: &str,
    ports: &[Port],
    problems: &mut Problems<'_>,
) -> Option<&'t Table> {
    let entry = table.get(key)?;
    let Value::Table(wires) = &entry.value else {
        let fix = format!("write `{key}.PORT = …`, a line a port");
        problems.add(
            entry.span.clone(),
            format!("block.{key}"),
            "is no table of wires",
            fix,
        );
        return None;
    };
    for wire in &wires.entries {
        if ports.iter().any(|port| port.name == wire.key) {
            continue;
        }
        let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let fix = match nearest(&wire.key, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => format!("this kind has no {key}s"),
            None => format!("the {key}s are {}", names.join(", ")),
        };
        let path = format!("block.{key}.{}", wire.key);
        problems.add(wire.key_span.clone(), path, "is no port of this block", fix);
    }
    Some(wires)
}

fn source(
    block: &Placed,
    port: &Port,
    entry: &Entry,
    wiring: &Wiring<'_>,
    inside: &mut LoopBlocks,
    problems: &mut Problems<'_>,
) -> Option<Wire> {
    let key = format!("block.input.{}", port.name);
    let text = match &entry.value {
        Value::Number(value) if value.is_finite() => return Some(Wire::Constant(*value)),
        Value::Flag(value) => return Some(Wire::Constant(f64::from(u8::from(*value)))),
        Value::Text(text) => text,
        _ => {
            let fix = "write \"BLOCK.PORT\", \"DEVICE.JOINT.SIGNAL\" or a number";
            problems.add(entry.span.clone(), key, "is no source", fix);
            return None;
        }
    };
    let found = match find(text, wiring) {
        Ok(found) => found?,
        Err((message, fix)) => {
            problems.add(entry.span.clone(), key, message, fix);
            return None;
        }
    };
    let crosses = Some(found.control_loop) != block.control_loop;
    if let (true, FoundWire::Read(_)) = (crosses, &found.wire) {
        let names = &wiring.around.loops;
        let own = block.control_loop.map_or("", |index| names[index].0);
        let message = format!(
            "\"{text}\" belongs to loop \"{}\", block \"{}\" runs on \"{own}\"",
            names[found.control_loop].0, block.name
        );
        let fix = "read it in a block of that loop, and the output of that block from here";
        problems.add(entry.span.clone(), key, message, fix);
        return None;
    }
    if found.unit != port.unit {
        let message = format!("\"{text}\" is in {}, the port in {}", found.unit, port.unit);
        let fix = "choose a source of the port's unit, or convert with a \"gain\" block";
        problems.add(entry.span.clone(), key, message, fix);
        return None;
    }
    Some(match found.wire {
        FoundWire::Output { node, port } if crosses => {
            let age_max_ms =
                crossing::age(block, text, found.control_loop, wiring.around, problems)?;
            let crossing = Crossing {
                from_loop: found.control_loop,
                from_node: node,
                from_port: port,
                node: block.node,
                age_max_ms,
            };
            Wire::External(number_of(Read::Crossing(crossing), inside))
        }
        FoundWire::Output { node, port } => Wire::Output { node, port },
        FoundWire::Read(read) => Wire::External(number_of(read, inside)),
    })
}

fn number_of(read: Read, inside: &mut LoopBlocks) -> usize {
    let known = inside.reads.iter().position(|known| *known == read);
    known.unwrap_or_else(|| {
        inside.reads.push(read);
        inside.reads.len() - 1
    })
}

/// `Ok(None)` when what is named has problems of its own; `Err` is what to say and the remedy.
fn find(text: &str, wiring: &Wiring<'_>) -> Result<Option<Found>, (String, String)> {
    let parts: Vec<&str> = text.split('.').collect();
    let devices = &wiring.around.devices;
    let device = devices.iter().position(|device| device.name == parts[0]);
    let block = wiring.blocks.iter().find(|block| block.name == parts[0]);
    if let (Some(block), None) = (block, device) {
        return find_output(block, &parts);
    }
    let Some(device) = device else {
        let mut known: Vec<&str> = wiring
            .blocks
            .iter()
            .map(|block| block.name.as_str())
            .collect();
        known.extend(devices.iter().map(|device| device.name.as_str()));
        let fix = match nearest(parts[0], &known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("there are {}", known.join(", ")),
        };
        return Err((format!("no block or device is named \"{}\"", parts[0]), fix));
    };
    let control_loop = devices[device].control_loop;
    if parts[1..] == ["following"] {
        return Ok(Some(Found {
            unit: Unit::FLAG,
            control_loop,
            wire: FoundWire::Read(Read::Following { device }),
        }));
    }
    let [_, joint, signal] = parts[..] else {
        let message = format!("\"{text}\" names no signal");
        let fix = format!("write \"{0}.JOINT.SIGNAL\" or \"{0}.following\"", parts[0]);
        return Err((message, fix));
    };
    let joint = find_joint(devices[device], joint)?;
    let Some((signal, _, unit)) = Signal::ALL.iter().find(|(_, name, _)| *name == signal) else {
        let names = Signal::ALL.map(|(_, name, _)| name);
        let fix = match nearest(signal, &names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("the signals are {}", names.join(", ")),
        };
        return Err((format!("\"{signal}\" is no signal of a joint"), fix));
    };
    let signal = *signal;
    Ok(Some(Found {
        unit: *unit,
        control_loop,
        wire: FoundWire::Read(Read::Joint {
            device,
            joint,
            signal,
        }),
    }))
}

fn find_output(block: &Placed, parts: &[&str]) -> Result<Option<Found>, (String, String)> {
    let (Some(design), Some(control_loop)) = (&block.design, block.control_loop) else {
        return Ok(None);
    };
    let names: Vec<&str> = design
        .outputs
        .iter()
        .map(|port| port.name.as_str())
        .collect();
    let wanted = parts[1..].join(".");
    let Some(port) = names.iter().position(|name| *name == wanted) else {
        let message = format!("block \"{}\" has no output \"{wanted}\"", block.name);
        let fix = match nearest(&wanted, &names) {
            Some(near) => format!("did you mean \"{}.{near}\"?", block.name),
            None => format!("its outputs are {}", names.join(", ")),
        };
        return Err((message, fix));
    };
    Ok(Some(Found {
        unit: design.outputs[port].unit,
        control_loop,
        wire: FoundWire::Output {
            node: block.node,
            port,
        },
    }))
}

fn find_joint(
    device: &super::super::DeviceConfig,
    wanted: &str,
) -> Result<usize, (String, String)> {
    let names: Vec<&str> = device
        .joints
        .iter()
        .map(|joint| joint.name.as_str())
        .collect();
    names
        .iter()
        .position(|name| *name == wanted)
        .ok_or_else(|| {
            let fix = match nearest(wanted, &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("its joints are {}", names.join(", ")),
            };
            (
                format!("device \"{}\" has no joint \"{wanted}\"", device.name),
                fix,
            )
        })
}

fn sinks(
    block: &Placed,
    (port, unit): (usize, Unit),
    entry: &Entry,
    wiring: &mut Wiring<'_>,
    inside: &mut LoopBlocks,
    problems: &mut Problems<'_>,
) {
    let one = [(entry.value.clone(), entry.span.clone())];
    let list = match &entry.value {
        Value::List(list) => &list[..],
        _ => &one[..],
    };
    for (value, span) in list {
        let result = match value {
            Value::Text(text) => sink(text, block, unit, wiring),
            _ => Err((
                "is no sink".to_owned(),
                "write \"DEVICE.JOINT.setpoint\"".to_owned(),
            )),
        };
        match result {
            Ok((device, joint)) => inside.drives.push(Drive {
                node: block.node,
                port,
                device,
                joint,
            }),
            Err((message, fix)) => {
                let key = format!("block.output.{}", entry.key);
                problems.add(span.clone(), key, message, fix);
            }
        }
    }
}

fn sink(
    text: &str,
    block: &Placed,
    unit: Unit,
    wiring: &mut Wiring<'_>,
) -> Result<(usize, usize), (String, String)> {
    let parts: Vec<&str> = text.split('.').collect();
    let [device_name, joint_name, "setpoint"] = parts[..] else {
        let fix = "write \"DEVICE.JOINT.setpoint\": setpoints are what blocks can drive";
        return Err((format!("\"{text}\" is no sink"), fix.to_owned()));
    };
    let devices = &wiring.around.devices;
    let Some(device) = devices.iter().position(|device| device.name == device_name) else {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let message = format!("no device is named \"{device_name}\"");
        return Err((message, format!("there are {}", names.join(", "))));
    };
    let joint = find_joint(devices[device], joint_name)?;
    if Some(devices[device].control_loop) != block.control_loop {
        let other = wiring.around.loops[devices[device].control_loop].0;
        let message = format!("device \"{device_name}\" runs on loop \"{other}\"");
        return Err((
            message,
            format!("put block \"{}\" on that loop", block.name),
        ));
    }
    if unit != Unit::RAD {
        let message = format!("the port is in {unit}, a setpoint in {}", Unit::RAD);
        return Err((message, "drive it from a port in rad".to_owned()));
    }
    let taken = wiring
        .driven
        .iter()
        .find(|driven| (driven.0, driven.1) == (device, joint));
    if let Some((_, _, by)) = taken {
        let message = format!("\"{text}\" is driven by block \"{by}\" already");
        return Err((
            message,
            "drive it from one block; combine with \"sum\"".to_owned(),
        ));
    }
    wiring.driven.push((device, joint, block.name.clone()));
    Ok((device, joint))
}
