//! The blocks of a loop in their place: after the commands, before the limits.
//!
//! rt-safe but for [`BlockStage::new`]: reads feedback and targets into the program's values, runs
//! it, and gives devices what it drives. What blocks drive is a target like an agent's: the limits
//! come after it, and it moves nothing unless an accepted command is in force.
//!
//! A block that faults ends the program for good, until kairo-rt is started again: what it left
//! behind cannot be trusted, and what it drove has nobody else to drive it.
//!
//! Wires between loops carry the newest value ([`Crossings`]). One that is older than the reading
//! block allows is a fault of that block: its source has stopped, or its loop.
//!
//! A replay computes the blocks again and compares what each gives. It begins with the memory that
//! a keyframe has of them; where they keep more than fits one, only a replay from arming on can
//! compute them, and one from later on takes what they gave from the record ([`Origin`]).

use kairo_blocks::block::FaultKind;
use kairo_blocks::program::{BlockFault, Program};
use kairo_link::MonoNs;
use kairo_link::abi::BlockFaultKind;
use kairo_link::block_fault::BlockFaultReport;
use kairo_link::latest::{Reader, Writer};
use kairo_record::state::{Malformed, Sink, Source, State};
use kairo_record::tap::Tap;

use super::seat::Seat;
use crate::config::LoopBlocks;
use crate::config::blocks::{Crossing, Drive, Read, Signal};
use crate::device::Device;
use crate::exchange::Sample;
use crate::recording::{BlockOutputs, of_device, of_loop, tag};

/// Words of a keyframe beside the blocks' memory and what came from other loops: what it has of
/// them, `follows`, when they began, how many words.
const OVERHEAD_WORDS: usize = 4;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct BlockStage {
    program: Program,
    /// The same blocks again, run with outputs disabled: bring-up warms code up without leaving a
    /// trace in the state of what runs later.
    rehearsal: Program,
    /// Devices are seats here.
    reads: Box<[Read]>,
    drives: Box<[Drive]>,
    inlets: Box<[Inlet]>,
    outlets: Box<[Outlet]>,
    /// When they first ran, CLOCK_MONOTONIC ns: what comes from other loops is waited for from then
    /// on. Zero before.
    begun_ns: u64,
    /// The nodes in the order they run, and how many outputs each has.
    order: Box<[(usize, usize)]>,
    follows: bool,
    /// Words of the program's memory.
    memory_words: u64,
    memory_words_max: u64,
    origin: Origin,
    failed: bool,
}

/// The ends of a loop's wires from and to other loops.
#[derive(Debug, Default)]
pub struct Crossings {
    /// Of what its blocks read, in the order of [`LoopBlocks::reads`].
    pub readers: Vec<Reader<Sample>>,
    /// Of what other loops' blocks read: node, output, and where it goes.
    pub writers: Vec<(usize, usize, Writer<Sample>)>,
}

/// A value that comes from another loop.
#[derive(Debug)]
struct Inlet {
    /// Its number among what blocks read.
    read: usize,
    crossing: Crossing,
    reader: Reader<Sample>,
    newest: Sample,
}

/// A value that goes to another loop.
#[derive(Debug)]
struct Outlet {
    node: usize,
    port: usize,
    writer: Writer<Sample>,
}

/// Where the outputs of blocks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The blocks.
    Computed,
    /// The record: their memory is not known.
    Recorded,
}

/// What a keyframe has of the blocks.
mod kept {
    /// Nothing: they have not run yet.
    pub(super) const NEW: u64 = 0;
    /// Their memory.
    pub(super) const MEMORY: u64 = 1;
    /// Nothing: it is too much.
    pub(super) const TOO_MUCH: u64 = 2;
    /// Nothing: one has failed, so they do not run again, and where it was stopped is chance.
    pub(super) const FAILED: u64 = 3;
}

impl BlockStage {
    /// The blocks of `config`, if there are any; `seats[device]` says where a device sits, and a
    /// keyframe has `room` for so many words of them. setup-only.
    pub(super) fn new(
        config: &LoopBlocks,
        seats: &[usize],
        crossings: Crossings,
        room: usize,
    ) -> Option<Self> {
        if config.graph.nodes.is_empty() {
            return None;
        }
        let reads = config.reads.iter().map(|read| match *read {
            Read::Joint {
                device,
                joint,
                signal,
            } => Read::Joint {
                device: seats[device],
                joint,
                signal,
            },
            Read::Following { device } => Read::Following {
                device: seats[device],
            },
            crossing @ Read::Crossing(_) => crossing,
        });
        let crossing = |(read, found): (usize, &Read)| match *found {
            Read::Crossing(crossing) => Some((read, crossing)),
            _ => None,
        };
        let inlets = config.reads.iter().enumerate().filter_map(crossing);
        let inlets = inlets.zip(crossings.readers);
        let inlets: Box<[Inlet]> = inlets
            .map(|((read, crossing), reader)| Inlet {
                read,
                crossing,
                reader,
                newest: Sample::default(),
            })
            .collect();
        let outlets = crossings.writers.into_iter();
        let outlets = outlets.map(|(node, port, writer)| Outlet { node, port, writer });
        let overhead = OVERHEAD_WORDS + 2 * inlets.len();
        let drives = config.drives.iter().map(|drive| Drive {
            device: seats[drive.device],
            ..*drive
        });
        // The configuration was read without a cycle, or it would not be here.
        let mut program = config.graph.compile().ok()?;
        let outputs = |node: usize| config.graph.nodes[node].design.outputs.len();
        let order = config.order.iter().map(|node| (*node, outputs(*node)));
        Some(Self {
            memory_words: program.memory_words(),
            memory_words_max: room.saturating_sub(overhead) as u64,
            inlets,
            outlets: outlets.collect(),
            begun_ns: 0,
            program,
            rehearsal: config.graph.compile().ok()?,
            reads: reads.collect(),
            drives: drives.collect(),
            order: order.collect(),
            follows: false,
            origin: Origin::Computed,
            failed: false,
        })
    }

    /// Runs the blocks without effect.
    pub(super) fn rehearse(&mut self, seats: &[Seat]) {
        for (number, read) in self.reads.iter().enumerate() {
            self.rehearsal.set_external(number, value_of(*read, seats));
        }
        // A fault here comes again when it matters.
        let _ = self.rehearsal.step();
        self.rehearsal.engage();
    }

    /// Runs the blocks, and gives the devices what they drive. Returns the block that failed, in
    /// this tick or an earlier one; nothing was given to any device then.
    pub(super) fn run(
        &mut self,
        tap: &mut Tap,
        seats: &mut [Seat],
        now: MonoNs,
    ) -> Option<BlockFaultReport> {
        let stale = self.take_crossings(tap, now);
        if self.origin == Origin::Recorded {
            return self.take(tap, seats);
        }
        if let Some(report) = stale {
            self.failed = true;
            tap.output(of_loop(tag::BLOCK_FAULT), &report.to_word());
            return stale;
        }
        let mut done = None;
        let timeout = tap.input_some(of_loop(tag::BLOCK_TIMEOUT), || {
            let result = self.step(seats, None);
            done = Some(result);
            let fault = result.err().filter(|fault| fault.kind == FaultKind::Budget);
            fault.map(|fault| report_of(fault).to_word())
        });
        // In a replay nothing has run yet, and what ran out of time then is not called.
        let result = done.unwrap_or_else(|| self.step(seats, timeout.and_then(timed_out)));
        let report = result.err().map(report_of);
        self.failed |= report.is_some();
        tap.output(
            of_loop(tag::BLOCK_FAULT),
            &report.map_or(0, BlockFaultReport::to_word),
        );
        if report.is_some() {
            return report;
        }
        for (node, count) in &self.order {
            let outputs = BlockOutputs::from(self.program.outputs(*node, *count));
            tap.output(of_device(tag::BLOCK, *node), &outputs);
        }
        for outlet in &mut self.outlets {
            outlet.writer.publish(&Sample {
                value: self.program.output(outlet.node, outlet.port),
                given_ns: now.0,
            });
        }
        self.drive(seats);
        None
    }

    /// Takes what is new from other loops; a block whose input is older than it may be has failed.
    fn take_crossings(&mut self, tap: &mut Tap, now: MonoNs) -> Option<BlockFaultReport> {
        if self.begun_ns == 0 {
            self.begun_ns = now.0;
        }
        let mut stale = None;
        for inlet in &mut self.inlets {
            let entry = of_device(tag::CROSSING, inlet.read);
            if let Some(sample) = tap.input_some(entry, || inlet.reader.take()) {
                inlet.newest = sample;
            }
            let since = MonoNs(inlet.newest.given_ns.max(self.begun_ns));
            if now.since_ns(since) > inlet.crossing.age_max_ms * 1_000_000 {
                stale.get_or_insert(BlockFaultReport {
                    block: inlet.crossing.node as u32,
                    kind: BlockFaultKind::Stale,
                    detail: 0,
                });
            }
        }
        stale
    }

    /// The same with outputs that were recorded.
    fn take(&mut self, tap: &mut Tap, seats: &mut [Seat]) -> Option<BlockFaultReport> {
        let _ = tap.input_some(of_loop(tag::BLOCK_TIMEOUT), || None::<u64>);
        let word = tap.input(of_loop(tag::BLOCK_FAULT), || 0_u64);
        let report = BlockFaultReport::from_word(word);
        self.failed |= report.is_some();
        if report.is_some() {
            return report;
        }
        for (node, count) in &self.order {
            let entry = of_device(tag::BLOCK, *node);
            let outputs: BlockOutputs = tap.input(entry, BlockOutputs::default);
            self.program.set_outputs(*node, outputs.values(*count));
        }
        self.drive(seats);
        None
    }

    fn drive(&self, seats: &mut [Seat]) {
        for drive in &self.drives {
            let wanted_rad = self.program.output(drive.node, drive.port);
            seats[drive.device]
                .device_mut()
                .drive(drive.joint, wanted_rad);
        }
    }

    fn step(&mut self, seats: &[Seat], ends: Option<BlockFault>) -> Result<(), BlockFault> {
        let follows = |drive: &Drive| seats[drive.device].device().is_following();
        let follows = self.drives.iter().any(follows);
        if follows && !self.follows {
            self.program.engage();
        }
        self.follows = follows;
        for (number, read) in self.reads.iter().enumerate() {
            self.program.set_external(number, value_of(*read, seats));
        }
        for inlet in &self.inlets {
            self.program.set_external(inlet.read, inlet.newest.value);
        }
        self.program.step_until(ends)
    }

    /// Of a keyframe: what has to be put back. rt-safe.
    pub(super) fn save(&mut self, sink: &mut Sink) {
        let kept = if self.failed {
            kept::FAILED
        } else if !self.program.has_begun() {
            kept::NEW
        } else if self.memory_words > self.memory_words_max || self.origin == Origin::Recorded {
            kept::TOO_MUCH
        } else {
            kept::MEMORY
        };
        kept.save(sink);
        self.follows.save(sink);
        self.begun_ns.save(sink);
        for inlet in &self.inlets {
            inlet.newest.save(sink);
        }
        if kept == kept::MEMORY {
            self.memory_words.save(sink);
            self.program.save(&mut |word| sink.put(word));
        }
    }

    /// Becomes what a keyframe says. Replay only.
    pub(super) fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        let (mut kept, mut words) = (kept::NEW, 0_u64);
        kept.load(source)?;
        self.follows.load(source)?;
        self.begun_ns.load(source)?;
        for inlet in &mut self.inlets {
            inlet.newest.load(source)?;
        }
        self.origin = Origin::Computed;
        self.failed = kept == kept::FAILED;
        match kept {
            kept::NEW | kept::FAILED => Ok(()),
            kept::MEMORY => {
                words.load(source)?;
                let other = |found| Malformed {
                    found,
                    wanted: "memory of these blocks",
                };
                if words != self.memory_words {
                    return Err(other(words));
                }
                let loaded = self.program.load(&mut || source.take());
                loaded.map_err(|memory| other(memory.found))
            }
            _ => {
                self.origin = Origin::Recorded;
                Ok(())
            }
        }
    }

    /// Where outputs come from since the last keyframe was loaded.
    pub(super) const fn origin(&self) -> Origin {
        self.origin
    }
}

/// The fault that a recorded timeout was.
fn timed_out(word: u64) -> Option<BlockFault> {
    let report = BlockFaultReport::from_word(word)?;
    Some(BlockFault {
        node: report.block as usize,
        kind: FaultKind::Budget,
    })
}

fn value_of(read: Read, seats: &[Seat]) -> f64 {
    match read {
        Read::Following { device } => f64::from(u8::from(seats[device].device().is_following())),
        // Not of a seat: comes from its inlet, and is zero before anything came.
        Read::Crossing(_) => 0.0,
        Read::Joint {
            device,
            joint,
            signal,
        } => signal_of(seats[device].device(), joint, signal),
    }
}

fn signal_of(device: &Device, joint: usize, signal: Signal) -> f64 {
    let measured = device.measured(joint);
    match signal {
        Signal::Position => measured.position_rad,
        Signal::Velocity => measured.velocity_rad_s,
        Signal::Load => measured.load_ratio,
        Signal::Current => measured.current_a,
        Signal::Voltage => measured.voltage_v,
        Signal::Temperature => measured.temperature_c,
        Signal::Target => device.target_rad(joint),
        Signal::Setpoint => device.setpoint_rad(joint),
    }
}

/// The fault as it is reported to other threads and processes.
fn report_of(fault: BlockFault) -> BlockFaultReport {
    let (kind, detail) = match fault.kind {
        FaultKind::NotFinite { output } => (BlockFaultKind::NotFinite, output.cast_signed()),
        FaultKind::Reported { code } => (BlockFaultKind::Reported, code),
        FaultKind::Panicked => (BlockFaultKind::Panicked, 0),
        FaultKind::Signal { number } => (BlockFaultKind::Signal, number),
        FaultKind::Budget => (BlockFaultKind::Budget, 0),
    };
    BlockFaultReport {
        block: fault.node as u32,
        kind,
        detail,
    }
}
