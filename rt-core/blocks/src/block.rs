//! What a block is, and what it says about itself before it runs.
//!
//! A [`Design`] is read from settings: the ports, and how to make the block. It can make any number
//! of equal blocks, so a configuration stays a value. setup-only, all but [`Block`] itself.

use std::fmt;
use std::sync::Arc;

use crate::memory::Memory;
use crate::unit::Unit;

/// Ports a block can have on one side. Bounds the copy of a block's inputs on the stack.
pub const PORTS_MAX: usize = 32;

/// A unit of control mathematics while it runs.
///
/// A block may be moved between threads while it rests; it is only ever run by one.
pub trait Block: Send {
    /// One period. rt-safe, and so must every implementation be: bounded, no heap, lock or wait.
    ///
    /// `inputs` and `outputs` are as long as the design's ports, in their order; `outputs` holds
    /// the values of the period before. A value that is not finite counts as a fault.
    ///
    /// # Errors
    /// A fault of the block's own. Its loop takes the safe action and never calls it again.
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind>;

    /// A device begins to follow commands: forget what was gathered while nothing obeyed, such as
    /// an integral, and start from the next inputs. Estimates of the world stay. rt-safe.
    fn engage(&mut self) {}

    /// Names every number that a period keeps for the next one, always the same ones in the same
    /// order; settings are not among them. It is how a record can begin in the middle and be
    /// replayed: what is forgotten here makes such a replay differ. A block without memory leaves
    /// it empty. rt-safe.
    fn memory(&mut self, memory: &mut Memory<'_>);
}

/// What a block did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Its output of this number is NaN or infinite.
    NotFinite {
        /// The port.
        output: u32,
    },
    /// It reported a fault of its own with this code.
    Reported {
        /// The code.
        code: i32,
    },
    /// It panicked.
    Panicked,
    /// The processor stopped it with this signal, as in a wrong memory access.
    Signal {
        /// The signal.
        number: i32,
    },
    /// It used more processor time in one tick than its loop allows.
    Budget,
}

/// A place to wire to.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name in the file.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// For an input: the value when nothing is wired. Without one it must be wired.
    pub unwired: Option<f64>,
}

impl Port {
    /// A port; as an input it must be wired.
    pub fn new(name: impl Into<String>, unit: Unit) -> Self {
        Self {
            name: name.into(),
            unit,
            unwired: None,
        }
    }

    /// An input that may be left alone, and then has `value`.
    pub fn optional(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            unwired: Some(value),
        }
    }
}

/// Makes a block.
type Maker = Arc<dyn Fn() -> Box<dyn Block> + Send + Sync>;

/// What runs inside a node of the graph.
#[derive(Clone)]
enum Inside {
    Block(Maker),
    Delay { initial: f64 },
}

/// A block as configured: its ports, and how to make it.
#[derive(Clone)]
pub struct Design {
    /// Inputs in the order of `step`.
    pub inputs: Vec<Port>,
    /// Outputs in the order of `step`.
    pub outputs: Vec<Port>,
    inside: Inside,
}

impl Design {
    /// A design whose blocks `make` makes.
    pub fn new<B: Block + 'static>(
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        make: impl Fn() -> B + Send + Sync + 'static,
    ) -> Self {
        let inside = Inside::Block(Arc::new(move || Box::new(make())));
        Self {
            inputs,
            outputs,
            inside,
        }
    }

    /// One period between input and output: the only design that may close a circle of wires.
    pub fn delay(unit: Unit, initial: f64) -> Self {
        Self {
            inputs: vec![Port::new("in", unit)],
            outputs: vec![Port::new("out", unit)],
            inside: Inside::Delay { initial },
        }
    }

    /// The first output of a delay; `None` for every other design.
    pub fn delay_initial(&self) -> Option<f64> {
        match self.inside {
            Inside::Delay { initial } => Some(initial),
            Inside::Block(_) => None,
        }
    }

    /// A fresh block; `None` for a delay, which the program itself performs.
    pub fn make(&self) -> Option<Box<dyn Block>> {
        match &self.inside {
            Inside::Block(make) => Some(make()),
            Inside::Delay { .. } => None,
        }
    }
}

impl fmt::Debug for Design {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Design")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Design {
    /// Ports are compared by value, what makes the block by identity.
    fn eq(&self, other: &Self) -> bool {
        let same_inside = match (&self.inside, &other.inside) {
            (Inside::Block(one), Inside::Block(two)) => Arc::ptr_eq(one, two),
            (Inside::Delay { initial: one }, Inside::Delay { initial: two }) => one == two,
            _ => false,
        };
        same_inside && self.inputs == other.inputs && self.outputs == other.outputs
    }
}
