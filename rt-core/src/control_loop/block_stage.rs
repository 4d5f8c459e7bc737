//! The blocks of a loop in their place: after the commands, before the limits.
//!
//! rt-safe but for [`BlockStage::new`]: reads feedback and targets into the program's values, runs
//! it, and gives devices what it drives. What blocks drive is a target like an agent's: the limits
//! come after it, and it moves nothing unless an accepted command is in force.
//!
//! A block that faults ends the program for good, until kairo-rt is started again: what it left
//! behind cannot be trusted, and what it drove has nobody else to drive it.

use kairo_blocks::block::FaultKind;
use kairo_blocks::program::{BlockFault, Program};
use kairo_link::abi::BlockFaultKind;
use kairo_link::block_fault::BlockFaultReport;
use kairo_record::tap::Tap;

use super::seat::Seat;
use crate::config::LoopBlocks;
use crate::config::blocks::{Drive, Read, Signal};
use crate::device::Device;
use crate::recording::{of_device, of_loop, tag};

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
    follows: bool,
}

impl BlockStage {
    /// The blocks of `config`, if there are any; `seats[device]` says where a device sits.
    /// setup-only.
    pub(super) fn new(config: &LoopBlocks, seats: &[usize]) -> Option<Self> {
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
        });
        let drives = config.drives.iter().map(|drive| Drive {
            device: seats[drive.device],
            ..*drive
        });
        // The configuration was read without a cycle, or it would not be here.
        Some(Self {
            program: config.graph.compile().ok()?,
            rehearsal: config.graph.compile().ok()?,
            reads: reads.collect(),
            drives: drives.collect(),
            follows: false,
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
    pub(super) fn run(&mut self, tap: &mut Tap, seats: &mut [Seat]) -> Option<BlockFaultReport> {
        let word = tap.input(of_loop(tag::BLOCK_FAULT), || match self.step(seats) {
            Ok(()) => 0,
            Err(fault) => report_of(fault).to_word(),
        });
        let report = BlockFaultReport::from_word(word);
        if report.is_some() {
            return report;
        }
        for (number, drive) in self.drives.iter().enumerate() {
            let program = &self.program;
            let wanted_rad = tap.input(of_device(tag::DRIVEN, number), || {
                program.output(drive.node, drive.port)
            });
            seats[drive.device]
                .device_mut()
                .drive(drive.joint, wanted_rad);
        }
        None
    }

    fn step(&mut self, seats: &[Seat]) -> Result<(), BlockFault> {
        let follows = |drive: &Drive| seats[drive.device].device().is_following();
        let follows = self.drives.iter().any(follows);
        if follows && !self.follows {
            self.program.engage();
        }
        self.follows = follows;
        for (number, read) in self.reads.iter().enumerate() {
            self.program.set_external(number, value_of(*read, seats));
        }
        self.program.step()
    }
}

fn value_of(read: Read, seats: &[Seat]) -> f64 {
    match read {
        Read::Following { device } => f64::from(u8::from(seats[device].device().is_following())),
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
