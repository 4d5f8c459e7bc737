//! What a control loop's tick reads and gives, as entries of a record. rt-safe but for
//! [`entries`].
//!
//! **The rule.** A tick takes everything from outside through the loop's [`Tap`], under one of the
//! tags below, and shows it everything it gives. That is what makes a tick a function of its state
//! and its record, and `kairo-rt --replay` possible. A new input gets a tag here, a line in
//! [`entries`], and goes through the tap where it is read; state that a tick keeps goes into the
//! `recorded!` list of its struct. What is forgotten makes the replay of a recorded session differ
//! (`tests/record.rs`) or does not compile.
//!
//! Counters and histograms are neither inputs nor outputs: no tick reads them.

use kairo_blocks::block::PORTS_MAX;
use kairo_failsafe::{CauseSet, Flags, Taker};
use kairo_link::MonoNs;
use kairo_link::abi::{
    COMMAND_SLOTS, Cause, Command, DeviceState, JointState, MAX_JOINTS, REPLY_SLOTS, Reply,
};
use kairo_link::segment::{Kind, Segment};
use kairo_link::{latest, ring};
use kairo_record::file::EntryHeader;
use kairo_record::recorded;
use kairo_record::state::{Malformed, Sink, Source, State, join};
use kairo_record::tap::Entry;

use crate::estop::LinesSeen;
use crate::exchange::{Feedback, Goals, JointFeedback, Sample};
use crate::order::{LeaseChannel, Order};
use crate::periodic::Period;

/// The names of entries. A tag once given is never given another meaning.
pub mod tag {
    /// Input: the period, first entry of a tick.
    pub const PERIOD: u16 = 1;
    /// Input: the period that overran, only entry of a record between ticks.
    pub const OVERRUN: u16 = 2;
    /// Input: whether the daemon is stopping.
    pub const STOPPING: u16 = 3;
    /// Input: an order of the link server.
    pub const ORDER: u16 = 4;
    /// Input: new feedback of a device.
    pub const FEEDBACK: u16 = 5;
    /// Input: a command taken from a lease's ring, with the time at which it is judged.
    pub const COMMAND: u16 = 6;
    /// Input: a reply that could not be given because the ring is corrupt.
    pub const REPLY_CORRUPT: u16 = 7;
    // 8 and 9 were what blocks gave, when that was an input.
    /// Input: what the whole robot's e-stops and operators say.
    pub const SAFETY: u16 = 10;
    /// Input: a block whose time ran out, as a word of the statistics. Time is no function of what
    /// a block is given; everything else that it does is.
    pub const BLOCK_TIMEOUT: u16 = 11;
    /// Input: a new value from another loop; the index is that of what blocks of this loop read.
    pub const CROSSING: u16 = 12;
    /// Input: what the GPIO lines are, when that has changed. No tick reads it: what it decides by
    /// is in `SAFETY`, and this says why.
    pub const LINES: u16 = 13;
    /// Output: goals for a device.
    pub const GOALS: u16 = 32;
    /// Output: an answer to a command, or a notice.
    pub const REPLY: u16 = 33;
    /// Output: what is published of a device, but for what its feedback says already.
    pub const OUTCOME: u16 = 34;
    /// Output: what a block computed; the index is the block's, in the order of the file.
    pub const BLOCK: u16 = 35;
    /// Output: whether a block failed, as a word of the statistics.
    pub const BLOCK_FAULT: u16 = 36;
    /// Tags from here on are outputs.
    pub const FIRST_OUTPUT: u16 = GOALS;
}

/// An entry of the loop as a whole. rt-safe.
pub const fn of_loop(tag: u16) -> Entry {
    Entry { tag, index: 0 }
}

/// An entry of a device. rt-safe.
pub const fn of_device(tag: u16, device: usize) -> Entry {
    Entry {
        tag,
        index: device as u16,
    }
}

/// A command as it was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CommandTaken {
    /// Whether the ring was corrupt; there is no command then.
    pub corrupt: bool,
    /// When it was taken.
    pub now: MonoNs,
    /// The command.
    pub command: Command,
}

/// The outputs of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockOutputs {
    value: [f64; PORTS_MAX],
    count: usize,
}

impl Default for BlockOutputs {
    fn default() -> Self {
        Self {
            value: [0.0; PORTS_MAX],
            count: PORTS_MAX,
        }
    }
}

impl From<&[f64]> for BlockOutputs {
    fn from(values: &[f64]) -> Self {
        let mut outputs = Self {
            count: values.len().min(PORTS_MAX),
            ..Self::default()
        };
        outputs.value[..outputs.count].copy_from_slice(&values[..outputs.count]);
        outputs
    }
}

impl BlockOutputs {
    /// The first `count` of them. rt-safe.
    pub fn values(&self, count: usize) -> &[f64] {
        &self.value[..count]
    }
}

impl State for BlockOutputs {
    fn save(&self, sink: &mut Sink) {
        for value in &self.value[..self.count] {
            value.save(sink);
        }
    }

    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        self.value.load(source)
    }

    fn describe(name: &str, words: &mut Vec<String>) {
        <[f64; PORTS_MAX]>::describe(&join(name, "value"), words);
    }
}

/// An order as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderTaken {
    kind: u64,
    device: usize,
    epoch: u64,
    cause: Cause,
}

impl Default for OrderTaken {
    fn default() -> Self {
        Self {
            kind: 0,
            device: 0,
            epoch: 0,
            cause: Cause::None,
        }
    }
}

impl From<&Order> for OrderTaken {
    fn from(order: &Order) -> Self {
        let (kind, device, epoch, cause) = match *order {
            Order::OpenState { device, .. } => (1, device, 0, Cause::None),
            Order::CloseState { device } => (2, device, 0, Cause::None),
            Order::OpenLease {
                device,
                ref channel,
            } => (3, device, channel.epoch, Cause::None),
            Order::CloseLease {
                device,
                epoch,
                cause,
            } => (4, device, epoch, cause),
        };
        Self {
            kind,
            device,
            epoch,
            cause,
        }
    }
}

impl OrderTaken {
    /// The order again, with rings that nobody is behind; `None` for none of this version, or for
    /// a device that is not there. Replay only: allocates.
    pub fn rebuild(self, devices: usize) -> Option<Order> {
        let device = self.device;
        if device >= devices {
            return None;
        }
        Some(match self.kind {
            1 => Order::OpenState {
                device,
                writer: latest::Writer::new(Segment::in_heap(
                    Kind::Latest,
                    latest::payload_words::<DeviceState>(),
                    3,
                    0,
                )),
            },
            2 => Order::CloseState { device },
            3 => Order::OpenLease {
                device,
                channel: unconnected(self.epoch),
            },
            4 => Order::CloseLease {
                device,
                epoch: self.epoch,
                cause: self.cause,
            },
            _ => return None,
        })
    }
}

/// A lease's rings with nobody at the other end. Replay only: allocates.
pub fn unconnected(epoch: u64) -> LeaseChannel {
    let commands = ring::payload_words::<Command>(COMMAND_SLOTS);
    let commands = Segment::in_heap(Kind::Ring, commands, COMMAND_SLOTS, epoch);
    let replies = ring::payload_words::<Reply>(REPLY_SLOTS);
    let replies = Segment::in_heap(Kind::Ring, replies, REPLY_SLOTS, epoch);
    LeaseChannel {
        epoch,
        commands: ring::Consumer::new(commands, COMMAND_SLOTS),
        replies: ring::Producer::new(replies, REPLY_SLOTS),
    }
}

/// What the whole robot's e-stops and operators say in a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RobotFlags {
    conditions: u64,
    reset: bool,
    operator_takes_over: bool,
    defer: bool,
}

impl From<Flags> for RobotFlags {
    fn from(flags: Flags) -> Self {
        // Every field is named: one added later is recorded, or left out knowingly.
        let Flags {
            conditions,
            // Of a device.
            mode_changed: _,
            commanded: _,
            reset,
            takeover,
            defer,
        } = flags;
        Self {
            conditions: u64::from(conditions.bits()),
            reset,
            operator_takes_over: takeover == Some(Taker::Operator),
            defer,
        }
    }
}

impl From<RobotFlags> for Flags {
    fn from(taken: RobotFlags) -> Self {
        Self {
            conditions: CauseSet::from_bits((taken.conditions & 0xffff) as u16),
            mode_changed: false,
            commanded: false,
            reset: taken.reset,
            takeover: taken.operator_takes_over.then_some(Taker::Operator),
            defer: taken.defer,
        }
    }
}

recorded!(RobotFlags {
    conditions: u64,
    reset: bool,
    operator_takes_over: bool,
    defer: bool,
} fixed {});

/// What is published of a device, but for what its feedback says already.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    lease_epoch: u64,
    sequence: u64,
    expires_ns: u64,
    phase_since_ns: u64,
    phase_since_tick: u64,
    fault_since_ns: u64,
    fault_value: f64,
    fault_limit: f64,
    phase: u32,
    cause: u32,
    moving: u32,
    fault: u32,
    fault_joint: u32,
    inhibited: u32,
    target_rad: [f64; MAX_JOINTS],
}

impl From<&DeviceState> for Outcome {
    fn from(state: &DeviceState) -> Self {
        // Every field is named: one added later is recorded, or left out knowingly.
        let DeviceState {
            tick: _,
            time_ns: _,
            lease_epoch,
            sequence,
            expires_ns,
            phase_since_ns,
            phase_since_tick,
            fault_since_ns,
            fault_value,
            fault_limit,
            phase,
            cause,
            joint_count: _,
            moving,
            fault,
            fault_joint,
            // Of goals and feedback.
            torque: _,
            inhibited,
            joints,
        } = *state;
        let target_rad = joints.map(|joint| {
            let JointState {
                target_rad,
                // Of goals and feedback.
                setpoint_rad: _,
                // In the feedback.
                position_rad: _,
                velocity_rad_s: _,
                load_ratio: _,
                voltage_v: _,
                current_a: _,
                temperature_c: _,
                sampled_ns: _,
                status_bits: _,
                missed: _,
            } = joint;
            target_rad
        });
        Self {
            lease_epoch,
            sequence,
            expires_ns,
            phase_since_ns,
            phase_since_tick,
            fault_since_ns,
            fault_value,
            fault_limit,
            phase,
            cause,
            moving,
            fault,
            fault_joint,
            inhibited,
            target_rad,
        }
    }
}

recorded!(LinesSeen { open: u64, reset: bool, fresh: bool } fixed {});

recorded!(Period {
    number: u64,
    planned: MonoNs,
    woke: MonoNs,
    catches_up: bool,
} fixed {});

recorded!(CommandTaken { corrupt: bool, now: MonoNs, command: Command } fixed {});
recorded!(OrderTaken { kind: u64, device: usize, epoch: u64, cause: Cause } fixed {});

recorded!(Outcome {
    lease_epoch: u64,
    sequence: u64,
    expires_ns: u64,
    phase_since_ns: u64,
    phase_since_tick: u64,
    fault_since_ns: u64,
    fault_value: f64,
    fault_limit: f64,
    phase: u32,
    cause: u32,
    moving: u32,
    fault: u32,
    fault_joint: u32,
    inhibited: u32,
    target_rad: [f64; MAX_JOINTS],
} fixed {});

recorded!(Sample { value: f64, given_ns: u64 } fixed {});

recorded!(Goals {
    generation: u64,
    torque: u64,
    setpoint_rad: [f64; MAX_JOINTS],
} fixed {});

recorded!(JointFeedback {
    position_rad: f64,
    velocity_rad_s: f64,
    load_ratio: f64,
    voltage_v: f64,
    current_a: f64,
    temperature_c: f64,
    sampled_ns: u64,
    status_bits: u32,
    missed: u32,
} fixed {});

recorded!(Feedback {
    generation: u64,
    bus_up: u64,
    torque_losses: u64,
    limp_joint: u64,
    torque_seen: u64,
    joints: [JointFeedback; MAX_JOINTS],
} fixed {});

/// The entries of a tick, for the header of a file. setup-only.
pub fn entries() -> Vec<EntryHeader> {
    vec![
        describe::<Period>(tag::PERIOD, "period", "loop"),
        describe::<Period>(tag::OVERRUN, "overrun", "loop"),
        describe::<bool>(tag::STOPPING, "stopping", "loop"),
        describe::<OrderTaken>(tag::ORDER, "order", "loop"),
        describe::<Feedback>(tag::FEEDBACK, "feedback", "device"),
        describe::<CommandTaken>(tag::COMMAND, "command", "device"),
        describe::<bool>(tag::REPLY_CORRUPT, "reply_corrupt", "device"),
        describe::<RobotFlags>(tag::SAFETY, "safety", "loop"),
        describe::<u64>(tag::BLOCK_TIMEOUT, "block_timeout", "loop"),
        describe::<Sample>(tag::CROSSING, "crossing", "read"),
        describe::<LinesSeen>(tag::LINES, "lines", "loop"),
        describe::<Goals>(tag::GOALS, "goals", "device"),
        describe::<Reply>(tag::REPLY, "reply", "device"),
        describe::<Outcome>(tag::OUTCOME, "outcome", "device"),
        describe::<BlockOutputs>(tag::BLOCK, "block", "block"),
        describe::<u64>(tag::BLOCK_FAULT, "block_fault", "loop"),
    ]
}

fn describe<T: State>(tag: u16, name: &str, of: &str) -> EntryHeader {
    let mut words = Vec::new();
    T::describe("", &mut words);
    let direction = if tag < tag::FIRST_OUTPUT {
        "input"
    } else {
        "output"
    };
    EntryHeader {
        tag,
        name: name.to_owned(),
        of: of.to_owned(),
        direction: direction.to_owned(),
        words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_tag_of_its_own_and_names_its_words() {
        let entries = entries();
        for (index, entry) in entries.iter().enumerate() {
            assert!(!entry.words.is_empty(), "{entry:?}");
            let later = &entries[index + 1..];
            let twice = |other: &EntryHeader| other.tag == entry.tag || other.name == entry.name;
            assert!(!later.iter().any(twice), "{entry:?}");
        }
        let feedback = &entries[4];
        assert_eq!(feedback.words[5], "joints[0].position_rad:f64");
        assert_eq!(entries[2].words, ["value:u64"]);
    }

    /// A clock read in a tick and not through the tap is an input that no replay can give.
    #[test]
    fn no_tick_reads_the_clock_past_the_tap() {
        let sources = [
            include_str!("control_loop.rs"),
            include_str!("control_loop/block_stage.rs"),
            include_str!("control_loop/seat.rs"),
            include_str!("control_loop/failsafe.rs"),
            include_str!("device.rs"),
            include_str!("device/command.rs"),
            include_str!("device/moving.rs"),
            include_str!("fault.rs"),
            include_str!("lease.rs"),
            include_str!("safe_action.rs"),
            include_str!("motion.rs"),
            include_str!("steady.rs"),
        ];
        for source in sources {
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            for line in code.lines().filter(|line| line.contains("now()")) {
                assert!(line.contains("// Through the tap."), "{line}");
            }
        }
    }
}
