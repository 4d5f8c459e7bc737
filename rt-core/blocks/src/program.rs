//! The blocks of a loop, compiled: values in one array, blocks in the order they run.
//!
//! Made by `Graph::compile`, setup-only; everything public here is rt-safe and bounded by the
//! number of blocks and ports. A program that has faulted stays faulted: the block is never called
//! again, because what it left behind cannot be trusted.

use std::fmt;
use std::ops::Range;

use crate::block::{Block, Design, FaultKind, PORTS_MAX};
use crate::containment::contained;
use crate::memory::Memory;

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
    /// Whether a period or an engagement has left anything behind.
    begun: bool,
}

/// Memory that was saved by a program of other blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherMemory {
    /// The word that cannot be.
    pub found: u64,
}

impl Program {
    /// Gives external `number` its value for the next step. rt-safe.
    pub fn set_external(&mut self, number: usize, value: f64) {
        self.values[number] = value;
    }

    /// The newest values of a node's outputs, `count` of them. rt-safe.
    pub fn outputs(&self, node: usize, count: usize) -> &[f64] {
        let first = self.first_outputs[node];
        &self.values[first..first + count]
    }

    /// Makes `values` the newest outputs of a node, in place of what it would compute. rt-safe.
    pub fn set_outputs(&mut self, node: usize, values: &[f64]) {
        let first = self.first_outputs[node];
        self.values[first..first + values.len()].copy_from_slice(values);
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
        self.step_until(None)
    }

    /// As [`Self::step`], but for the block of `ends`: it is not called, and has failed that way.
    /// For a replay of what is no function of the blocks' inputs: time that ran out. rt-safe.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_until(&mut self, ends: Option<BlockFault>) -> Result<(), BlockFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.begun = true;
        for step in &mut self.steps {
            if let Some(fault) = ends.filter(|fault| fault.node == step.node) {
                self.fault = Some(fault);
                return Err(fault);
            }
            let mut inputs = [0.0; PORTS_MAX];
            let sources = &self.gather[step.inputs.clone()];
            for (input, source) in inputs.iter_mut().zip(sources) {
                *input = self.values[*source];
            }
            let outputs = &mut self.values[step.outputs.clone()];
            let inputs = &inputs[..sources.len()];
            let result = contained(step.node, || step.block.step(inputs, outputs)).and_then(|()| {
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
        self.begun = true;
        for step in &mut self.steps {
            let node = step.node;
            let block = &mut step.block;
            let engaged = contained(node, || {
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

    /// Whether there is memory yet: false until the first period. rt-safe.
    pub const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Words that [`Self::save`] gives. setup-only.
    pub fn memory_words(&mut self) -> u64 {
        let mut count = 0;
        self.remember(&mut Memory::Save(&mut |_| count += 1));
        count
    }

    /// Shows what has to be put back for the next period to be the same: all that blocks keep, and
    /// their newest outputs. Not a fault: a program that failed does not run again. rt-safe.
    pub fn save(&mut self, put: &mut dyn FnMut(u64)) {
        self.remember(&mut Memory::Save(put));
    }

    /// Becomes what was saved, and forgets a fault. rt-safe.
    ///
    /// # Errors
    /// A word that blocks like these cannot have saved; what was put back until then stays.
    pub fn load(&mut self, next: &mut dyn FnMut() -> u64) -> Result<(), OtherMemory> {
        (self.begun, self.fault) = (true, None);
        let mut memory = Memory::Load { next, wrong: None };
        self.remember(&mut memory);
        match memory {
            Memory::Load {
                wrong: Some(found), ..
            } => Err(OtherMemory { found }),
            _ => Ok(()),
        }
    }

    fn remember(&mut self, memory: &mut Memory<'_>) {
        for step in &mut self.steps {
            memory.numbers(&mut self.values[step.outputs.clone()]);
            step.block.memory(memory);
        }
        for delay in &self.delays {
            memory.number(&mut self.values[delay.to]);
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
            begun: false,
        }
    }
}
