//! Blocks and their wires before they run: order of execution, cycles, and compilation.
//!
//! setup-only. Wires are indices already; names, units and the places of mistakes in a file are the
//! business of whoever reads the file.

use crate::block::Design;
use crate::program::{Program, ProgramParts};

/// Where the value of an input comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wire {
    /// It never changes.
    Constant(f64),
    /// Something outside the graph, by number.
    External(usize),
    /// An output of a node.
    Output {
        /// The node.
        node: usize,
        /// Its port.
        port: usize,
    },
}

/// A block in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name in the file.
    pub name: String,
    /// Its kind, for people.
    pub kind: String,
    /// What it is.
    pub design: Design,
    /// Where each of its inputs comes from; as many as the design has inputs.
    pub wires: Vec<Wire>,
}

/// The blocks of one loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// How many values come from outside.
    pub externals: usize,
    /// The blocks, in the order of the file.
    pub nodes: Vec<Node>,
}

/// Blocks that wait for each other: each needs the one before it, and the first the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<usize>);

impl Graph {
    /// The nodes in the order they run: each after all it needs, delays last, otherwise as in the
    /// file.
    ///
    /// # Errors
    /// A cycle without a delay in it.
    pub fn order(&self) -> Result<Vec<usize>, Cycle> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut placed = vec![false; self.nodes.len()];
        loop {
            let ready = (0..self.nodes.len())
                .find(|node| !placed[*node] && self.needs(*node).all(|needed| placed[needed]));
            let Some(node) = ready else { break };
            placed[node] = true;
            order.push(node);
        }
        match placed.iter().position(|placed| !placed) {
            Some(stuck) => Err(self.cycle_behind(stuck, &placed)),
            None => {
                let is_delay = |node: &usize| self.nodes[*node].design.delay_initial().is_some();
                let (delays, others): (Vec<_>, Vec<_>) = order.into_iter().partition(is_delay);
                Ok(others.into_iter().chain(delays).collect())
            }
        }
    }

    /// The nodes whose result of the same period `node` needs. What a delay gives is there before
    /// anyone runs.
    fn needs(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let is_delay = |node: usize| self.nodes[node].design.delay_initial().is_some();
        self.nodes[node]
            .wires
            .iter()
            .filter_map(move |wire| match wire {
                Wire::Output { node, .. } if !is_delay(*node) => Some(*node),
                _ => None,
            })
    }

    /// Follows what `stuck` waits for until a node comes up twice. Every unplaced node waits for an
    /// unplaced one, so this ends within as many steps as there are nodes.
    fn cycle_behind(&self, stuck: usize, placed: &[bool]) -> Cycle {
        let mut path = vec![stuck];
        loop {
            let last = path[path.len() - 1];
            let next = self.needs(last).find(|needed| !placed[*needed]);
            let Some(next) = next else { return Cycle(path) };
            if let Some(start) = path.iter().position(|node| *node == next) {
                let mut cycle = path.split_off(start);
                // From cause to effect, as signals flow.
                cycle.reverse();
                return Cycle(cycle);
            }
            path.push(next);
        }
    }

    /// The flat schedule.
    ///
    /// # Errors
    /// A cycle without a delay in it.
    pub fn compile(&self) -> Result<Program, Cycle> {
        let order = self.order()?;
        let mut parts = ProgramParts::new(self.externals);
        let first_outputs: Vec<usize> = self
            .nodes
            .iter()
            .map(|node| parts.reserve(node.design.outputs.len()))
            .collect();
        for node in order {
            let wires = &self.nodes[node].wires;
            let slots: Vec<usize> = wires
                .iter()
                .map(|wire| match *wire {
                    Wire::Constant(value) => parts.constant(value),
                    Wire::External(number) => number,
                    Wire::Output { node, port } => first_outputs[node] + port,
                })
                .collect();
            parts.add(node, &self.nodes[node].design, &slots, first_outputs[node]);
        }
        Ok(parts.finish(first_outputs))
    }
}
