//! Runs one kind of block in a test: settings in, numbers out.

use crate::block::{Block, Design, FaultKind};
use crate::registry::Registry;
use crate::settings::{Complaint, Settings, Table};

/// The period of every test, s.
pub const PERIOD_S: f64 = 0.004;

/// The complaints about `table` as a block of `kind`.
pub fn complaints(kind: &str, table: &Table) -> Vec<Complaint> {
    read(kind, table).1
}

fn read(kind: &str, table: &Table) -> (Option<Design>, Vec<Complaint>) {
    let mut settings = Settings::new(table, PERIOD_S, &["name", "kind", "loop"]);
    let design = Registry::standard().design(kind, &mut settings);
    (design, settings.finish())
}

/// The design of a block of `kind` from good settings.
pub fn design(kind: &str, table: &Table) -> Design {
    let (design, complaints) = read(kind, table);
    assert!(complaints.is_empty(), "{complaints:?}");
    design.expect("a design without complaints")
}

/// A block that is run by hand.
pub struct Bench {
    block: Box<dyn Block>,
    outputs: Vec<f64>,
}

impl Bench {
    /// A fresh block of `kind`.
    pub fn new(kind: &str, table: &Table) -> Self {
        let design = design(kind, table);
        Self {
            block: design.make().expect("a block"),
            outputs: vec![0.0; design.outputs.len()],
        }
    }

    /// One period.
    pub fn step(&mut self, inputs: &[f64]) -> &[f64] {
        self.try_step(inputs).expect("no fault");
        &self.outputs
    }

    /// One period that may fail.
    pub fn try_step(&mut self, inputs: &[f64]) -> Result<(), FaultKind> {
        self.block.step(inputs, &mut self.outputs)
    }

    /// Begins anew, as when a command is followed.
    pub fn engage(&mut self) {
        self.block.engage();
    }
}
