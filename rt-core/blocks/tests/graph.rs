//! Graphs of blocks, compiled and run: order, cycles, delays, faults, and no touch of the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kairo_blocks::block::{Block, Design, FaultKind, Port};
use kairo_blocks::graph::{Cycle, Graph, Node, Wire};
use kairo_blocks::memory::Memory;
use kairo_blocks::program::{BlockFault, OtherMemory, Program};
use kairo_blocks::registry::Registry;
use kairo_blocks::settings::{Settings, Table};
use kairo_blocks::unit::Unit;

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what the calling thread does.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged to the system allocator, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        OPERATIONS.set(OPERATIONS.get() + 1);
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OPERATIONS.set(OPERATIONS.get() + 1);
        // SAFETY: as for `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn node(name: &str, kind: &str, table: &Table, wires: Vec<Wire>) -> Node {
    let mut settings = Settings::new(table, 0.004, &[]);
    let design = Registry::standard().design(kind, &mut settings);
    assert_eq!(settings.finish(), []);
    Node {
        name: name.to_owned(),
        kind: kind.to_owned(),
        design: design.expect("a design"),
        wires,
    }
}

fn from(node: usize) -> Wire {
    Wire::Output { node, port: 0 }
}

fn sum(name: &str, wires: Vec<Wire>) -> Node {
    let signs = vec![1.0; wires.len()];
    node(name, "sum", &Table::default().with("signs", signs), wires)
}

fn delay(name: &str, wire: Wire) -> Node {
    node(name, "delay", &Table::default(), vec![wire])
}

#[test]
fn every_block_runs_after_those_it_needs_whatever_the_order_of_the_file() {
    let graph = Graph {
        externals: 1,
        nodes: vec![
            sum("last", vec![from(1), from(2)]),
            sum("middle", vec![from(2), Wire::Constant(1.0)]),
            sum("first", vec![Wire::External(0)]),
        ],
    };
    assert_eq!(graph.order(), Ok(vec![2, 1, 0]));
    let mut program = graph.compile().expect("no cycle");
    program.set_external(0, 5.0);
    program.step().expect("no fault");
    assert_eq!(program.output(0, 0), 11.0, "all in the same period");
}

#[test]
fn a_circle_of_wires_is_refused_and_named_in_the_direction_signals_flow() {
    let graph = Graph {
        externals: 0,
        nodes: vec![
            sum("outside", vec![from(1)]),
            sum("a", vec![from(3)]),
            sum("b", vec![from(1)]),
            sum("c", vec![from(2)]),
        ],
    };
    let Err(Cycle(mut cycle)) = graph.order() else {
        panic!("a cycle was accepted");
    };
    // Wherever it begins, a flows to b, b to c, c to a.
    let begin = cycle
        .iter()
        .position(|node| *node == 1)
        .expect("a is in it");
    cycle.rotate_left(begin);
    assert_eq!(cycle, [1, 2, 3]);
    assert!(graph.compile().is_err());
}

#[test]
fn a_delay_breaks_the_circle_and_two_in_a_row_are_two_periods() {
    let graph = Graph {
        externals: 1,
        nodes: vec![
            sum("count", vec![from(1), Wire::External(0)]),
            delay("before", from(0)),
            delay("once", Wire::External(0)),
            delay("twice", from(2)),
        ],
    };
    let mut program = graph.compile().expect("the delay breaks it");
    let mut counts = Vec::new();
    let mut twice = Vec::new();
    for tick in 1..=4 {
        program.set_external(0, f64::from(tick));
        program.step().expect("no fault");
        counts.push(program.output(0, 0));
        twice.push(program.output(3, 0));
    }
    assert_eq!(counts, [1.0, 3.0, 6.0, 10.0]);
    // What is there at the beginning of the next period.
    assert_eq!(twice, [0.0, 1.0, 2.0, 3.0]);
}

fn custom<B: Block + 'static>(make: impl Fn() -> B + Send + Sync + 'static) -> Graph {
    let port = |name| vec![Port::new(name, Unit::ONE)];
    let node = Node {
        name: "custom".to_owned(),
        kind: "custom".to_owned(),
        design: Design::new(port("in"), port("out"), make),
        wires: vec![Wire::External(0)],
    };
    Graph {
        externals: 1,
        nodes: vec![sum("before", vec![Wire::Constant(1.0)]), node],
    }
}

struct Square {
    calls: u32,
}

impl Block for Square {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        self.calls += 1;
        assert!(inputs[0] != 7.0, "seven is not square");
        outputs[0] = (self.calls as f64) * (inputs[0] * inputs[0]);
        Ok(())
    }

    fn memory(&mut self, memory: &mut Memory<'_>) {
        let mut calls = u64::from(self.calls);
        memory.word(&mut calls);
        self.calls = calls as u32;
    }
}

#[test]
fn a_block_that_gives_nan_is_named_and_never_called_again() {
    let mut program = custom(|| Square { calls: 0 }).compile().expect("no cycle");
    program.set_external(0, 2.0);
    assert_eq!(program.step(), Ok(()));
    program.set_external(0, f64::NAN);
    let kind = FaultKind::NotFinite { output: 0 };
    let fault = BlockFault { node: 1, kind };
    assert_eq!(program.step(), Err(fault));
    program.set_external(0, 2.0);
    program.engage();
    assert_eq!(program.step(), Err(fault), "it came back");
    assert_eq!(program.fault(), Some(fault));
}

#[test]
fn a_block_that_panics_is_a_fault_of_that_block() {
    let mut program = custom(|| Square { calls: 0 }).compile().expect("no cycle");
    program.set_external(0, 7.0);
    let kind = FaultKind::Panicked;
    assert_eq!(program.step(), Err(BlockFault { node: 1, kind }));
    assert!(!kairo_blocks::containment::is_inside());
}

/// A program of one block of `kind`, its inputs from outside.
fn alone(kind: &str, table: &Table) -> Program {
    let mut one = node(kind, kind, table, Vec::new());
    one.wires = (0..one.design.inputs.len()).map(Wire::External).collect();
    let graph = Graph {
        externals: one.wires.len(),
        nodes: vec![one],
    };
    graph.compile().expect("no cycle")
}

/// The bits of everything that `program` gives from period `first` on.
fn run(program: &mut Program, kind: &str, table: &Table, ticks: std::ops::Range<u32>) -> Vec<u64> {
    let design = node(kind, kind, table, Vec::new()).design;
    let mut bits = Vec::new();
    for tick in ticks {
        for input in 0..design.inputs.len() {
            let value = f64::from((tick / 7 + input as u32) % 11) / 10.0;
            program.set_external(input, value);
        }
        assert_eq!(program.step(), Ok(()), "{kind}");
        let outputs = program.outputs(0, design.outputs.len());
        bits.extend(outputs.iter().map(|output| output.to_bits()));
    }
    bits
}

#[test]
fn every_kind_goes_on_from_its_saved_memory_as_if_it_had_never_stopped() {
    let mut settings = library();
    settings.push(("delay", Table::default().with("initial", 0.25)));
    for (kind, table) in settings {
        let mut first = alone(kind, &table);
        assert!(!first.has_begun());
        run(&mut first, kind, &table, 0..203);
        let mut saved = Vec::new();
        first.save(&mut |word| saved.push(word));
        assert_eq!(saved.len() as u64, first.memory_words(), "{kind}");
        let expected = run(&mut first, kind, &table, 203..400);
        let mut again = alone(kind, &table);
        assert_eq!(saved.len() as u64, again.memory_words(), "{kind} when new");
        let mut words = saved.iter();
        let loaded = again.load(&mut || *words.next().expect("as many words"));
        assert_eq!(loaded, Ok(()), "{kind}");
        assert_eq!(run(&mut again, kind, &table, 203..400), expected, "{kind}");
    }
}

#[test]
fn memory_of_other_blocks_is_refused_and_time_that_ran_out_is_replayed_without_a_call() {
    let flag = ("latch", Table::default());
    let loaded = alone(flag.0, &flag.1).load(&mut || 7);
    assert_eq!(loaded, Err(OtherMemory { found: 7 }));
    let mut program = custom(|| Square { calls: 0 }).compile().expect("no cycle");
    program.set_external(0, 7.0);
    let kind = FaultKind::Budget;
    let fault = BlockFault { node: 1, kind };
    assert_eq!(program.step_until(Some(fault)), Err(fault), "7 would panic");
    assert_eq!(program.step(), Err(fault));
}

/// Every kind of the library, at work for a thousand periods, with an engagement in between.
#[test]
fn no_kind_of_the_library_touches_the_heap_in_a_step() {
    let settings = library();
    let covered: Vec<&str> = settings.iter().map(|(kind, _)| *kind).collect();
    for kind in Registry::standard().names() {
        assert!(
            covered.contains(&kind) || kind == "delay",
            "{kind} is not covered"
        );
    }
    for (kind, table) in settings {
        let inputs = node(kind, kind, &table, Vec::new()).design.inputs.len();
        let mut program = alone(kind, &table);
        let before = OPERATIONS.get();
        for tick in 0..1000_u32 {
            for input in 0..inputs {
                let value = f64::from((tick / 50 + input as u32) % 7) / 10.0;
                program.set_external(input, value);
            }
            if tick == 500 {
                program.engage();
            }
            assert_eq!(program.step(), Ok(()), "{kind}");
        }
        assert_eq!(OPERATIONS.get(), before, "{kind} used the heap");
    }
}

/// Good settings of every kind.
fn library() -> Vec<(&'static str, Table)> {
    let table = Table::default;
    let tuning = |table: Table, prefix: &str| {
        table
            .with(&format!("{prefix}gain"), 2.0)
            .with(&format!("{prefix}integral_time_s"), 0.5)
            .with(&format!("{prefix}derivative_time_s"), 0.02)
            .with(&format!("{prefix}output_min"), -1.0)
            .with(&format!("{prefix}output_max"), 1.0)
    };
    let units = |table: Table| table.with("unit", "1").with("output_unit", "1");
    let motion = |table: Table| {
        table
            .with("velocity_max_rad_s", 2.0)
            .with("acceleration_max_rad_s2", 8.0)
            .with("jerk_max_rad_s3", 100.0)
    };
    let go = table().with("to", "b").with("when", "load > 0.1");
    let state = |name: &str, go: Vec<Table>| {
        let output = table().with("hold", 1.0);
        table()
            .with("name", name)
            .with("output", output)
            .with("go", go)
    };
    let back = table().with("to", "a").with("after_s", 0.02);
    let machine = table()
        .with("inputs", vec!["load"])
        .with("outputs", vec!["hold"])
        .with("state", vec![state("a", vec![go]), state("b", vec![back])]);
    vec![
        ("constant", table().with("value", 1.0)),
        ("sum", table()),
        ("gain", table().with("gain", 2.0)),
        ("clamp", table().with("min", -1.0).with("max", 1.0)),
        ("select", table()),
        ("compare", table().with("threshold", 0.2)),
        ("edge", table()),
        ("latch", table()),
        ("state-machine", machine),
        ("low-pass", table().with("cutoff_hz", 10.0)),
        ("high-pass", table().with("cutoff_hz", 10.0)),
        ("notch", table().with("frequency_hz", 10.0)),
        ("rate-limit", table().with("rate_max_per_s", 1.0)),
        ("jerk-limit", motion(table())),
        ("trajectory", motion(table().with("axes", 8.0))),
        ("pid", tuning(units(table()), "")),
        (
            "cascade",
            tuning(
                tuning(units(table().with("inner_unit", "1")), "outer_"),
                "inner_",
            ),
        ),
        ("madgwick", table().with("magnetometer", true)),
        ("quad-x", table()),
        (
            "arm-mixer",
            table().with("coupling", vec![vec![1.0, 0.0], vec![1.0, 1.0]]),
        ),
        ("differential", table()),
    ]
}
