//! A daemon with blocks of its own: kairo-rt, and two kinds more.
//!
//! `docs/do/add-a-block-in-rust.md` walks through this file. `deadband` is useful; `panics-at` is
//! there to try out what a panic does.

use std::process::ExitCode;

use kairo_blocks::block::{Block, Design, FaultKind, Port};
use kairo_blocks::memory::Memory;
use kairo_blocks::registry::Registry;
use kairo_blocks::settings::Settings;
use kairo_blocks::unit::Unit;

/// Lets small changes of its input pass by.
struct Deadband {
    width: f64,
    value: Option<f64>,
}

impl Block for Deadband {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        let before = self.value.unwrap_or(inputs[0]);
        let moved = (inputs[0] - before).abs() > self.width;
        let value = if moved { inputs[0] } else { before };
        self.value = Some(value);
        outputs[0] = value;
        Ok(())
    }

    fn engage(&mut self) {
        self.value = None;
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        memory.maybe(&mut self.value, Memory::number);
    }
}

/// Reads `unit` and `width_rad` (or whatever the unit is) and says which ports there are.
fn deadband(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::RAD))?;
    let width = settings.quantity("width", unit, 0.0..=10.0, None)?;
    let port = |name| vec![Port::new(name, unit)];
    Some(Design::new(port("in"), port("out"), move || Deadband {
        width,
        value: None,
    }))
}

/// Panics when its input exceeds a limit.
struct PanicsAt {
    limit: f64,
}

impl Block for PanicsAt {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        assert!(inputs[0] <= self.limit, "{} is too much", inputs[0]);
        outputs[0] = inputs[0];
        Ok(())
    }

    fn memory(&mut self, _: &mut Memory<'_>) {}
}

fn panics_at(settings: &mut Settings<'_>) -> Option<Design> {
    let limit = settings.number("limit_rad", -10.0..=10.0, None)?;
    let port = |name| vec![Port::new(name, Unit::RAD)];
    Some(Design::new(port("in"), port("out"), move || PanicsAt {
        limit,
    }))
}

fn main() -> ExitCode {
    let mut registry = Registry::standard();
    let added = registry
        .add("deadband", deadband)
        .and_then(|()| registry.add("panics-at", panics_at));
    if let Err(taken) = added {
        eprintln!("{taken}");
        return ExitCode::FAILURE;
    }
    kairo_rt::daemon::run_with(&registry)
}
