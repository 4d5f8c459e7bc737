//! The blocks of a loop, compiled: values in one array, blocks in the order they run.
//!
//! Made by `Graph::compile`, setup-only; everything public here is rt-safe and bounded by the
//! number of blocks and ports. A program that has faulted stays faulted: the block is never called
//! again, because what it left behind cannot be trusted.

use std::fmt;
use std::ops::Range;

use crate::block::{Block, Design, FaultKind, PORTS_MAX};
use crate::containment::contained;

/// A block that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFault {
    /// Which node of the graph.
    pub node: usize,
    /// What it did.
    pub kind: FaultKind,
}

struct Step {
    node: usize,
    block: Box<dyn Block>,
    /// Its inputs in `Program::gather`.
    inputs: Range<usize>,
    /// Its outputs in `Program::values`.
    outputs: Range<usize>,
}

struct Delay {
    from: usize,
    to: usize,
    initial: f64,
    held: f64,
}

/// See the module documentation.
pub struct Program {
    values: Box<[f64]>,
    gather: Box<[usize]>,
    steps: Box<[Step]>,
    delays: Box<[Delay]>,
    first_outputs: Box<[usize]>,
    fault: Option<BlockFault>,
}

impl Program {
    /// Gives external `number` its value for the next step. rt-safe.
    pub fn set_external(&mut self, number: usize, value: f64) {
        self.values[number] = value;
    }

    /// The newest value of an output. rt-safe.
    pub fn output(&self, node: usize, port: usize) -> f64 {
        self.values[self.first_outputs[node] + port]
    }

    /// The fault that ended this program, if one did. rt-safe.
    pub const fn fault(&self) -> Option<BlockFault> {
        self.fault
    }

    /// Runs every block once. rt-safe.
    ///
    /// # Errors
    /// The fault of the first block that failed, now and in every later call. Outputs are then of
    /// no use.
    pub fn step(&mut self) -> Result<(), BlockFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        for step in &mut self.steps {
            let mut inputs = [0.0; PORTS_MAX];
            let sources = &self.gather[step.inputs.clone()];
            for (input, source) in inputs.iter_mut().zip(sources) {
                *input = self.values[*source];
            }
            let outputs = &mut self.values[step.outputs.clone()];
            let inputs = &inputs[..sources.len()];
            let result =
                contained(|| step.block.step(inputs, outputs)).and_then(|()| {
                    match outputs.iter().position(|value| !value.is_finite()) {
                        Some(output) => Err(FaultKind::NotFinite {
                            output: output as u32,
                        }),
                        None => Ok(()),
                    }
                });
            if let Err(kind) = result {
                let node = step.node;
                let fault = BlockFault { node, kind };
                self.fault = Some(fault);
                return Err(fault);
            }
        }
        // All delays read before any gives: two in a row are two periods.
        for delay in &mut self.delays {
            delay.held = self.values[delay.from];
        }
        for delay in &self.delays {
            self.values[delay.to] = delay.held;
        }
        Ok(())
    }

    /// A device begins to follow commands. rt-safe.
    pub fn engage(&mut self) {
        if self.fault.is_some() {
            return;
        }
        for step in &mut self.steps {
            let node = step.node;
            let block = &mut step.block;
            let engaged = contained(|| {
                block.engage();
                Ok(())
            });
            if let Err(kind) = engaged {
                self.fault = Some(BlockFault { node, kind });
                return;
            }
        }
        for delay in &self.delays {
            self.values[delay.to] = delay.initial;
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Program")
            .field("values", &self.values)
            .field("steps", &self.steps.len())
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// A program while it is put together. setup-only.
pub(crate) struct ProgramParts {
    values: Vec<f64>,
    gather: Vec<usize>,
    steps: Vec<Step>,
    delays: Vec<Delay>,
}

impl ProgramParts {
    pub(crate) fn new(externals: usize) -> Self {
        Self {
            values: vec![0.0; externals],
            gather: Vec::new(),
            steps: Vec::new(),
            delays: Vec::new(),
        }
    }

    /// Room for `count` values side by side; returns where it begins.
    pub(crate) fn reserve(&mut self, count: usize) -> usize {
        let first = self.values.len();
        self.values.resize(first + count, 0.0);
        first
    }

    pub(crate) fn constant(&mut self, value: f64) -> usize {
        self.values.push(value);
        self.values.len() - 1
    }

    pub(crate) fn add(&mut self, node: usize, design: &Design, slots: &[usize], first: usize) {
        if let Some(initial) = design.delay_initial() {
            self.values[first] = initial;
            self.delays.push(Delay {
                from: slots[0],
                to: first,
                initial,
                held: initial,
            });
        } else if let Some(block) = design.make() {
            let begin = self.gather.len();
            self.gather.extend(slots);
            self.steps.push(Step {
                node,
                block,
                inputs: begin..self.gather.len(),
                outputs: first..first + design.outputs.len(),
            });
        }
    }

    pub(crate) fn finish(self, first_outputs: Vec<usize>) -> Program {
        Program {
            values: self.values.into(),
            gather: self.gather.into(),
            steps: self.steps.into(),
            delays: self.delays.into(),
            first_outputs: first_outputs.into(),
            fault: None,
        }
    }
}
