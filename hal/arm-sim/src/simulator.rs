//! The arm behind its line, against a clock that the caller reads.
//!
//! Bytes come in with the time they arrived, replies go out with the time their last bit is on the
//! wire. The line is half-duplex: a host that talks into pending replies destroys them, as on the
//! real one. One thread owns a simulator.
//!
//! Time: the arm advances in fixed steps up to the time asked for, at most [`CATCH_UP_STEPS_MAX`]
//! in a row; what a stopped or starved process missed beyond that is skipped and counted, so that
//! the arm never races through a backlog.

use std::collections::VecDeque;

use kairo_hal::MonoNs;
use kairo_hal::feetech::packet::{BROADCAST_ID, Instruction, PacketBuffer};
use kairo_hal::feetech::registers;

use crate::arm::{Arm, Cradle, JOINTS, STEP_NS};
use crate::fault::{FaultCounters, FaultRates, Faults};
use crate::instruction::{InstructionPacket, InstructionParser};

/// Time of one byte at 1 Mbaud 8N1: ten bits, ns.
pub const BYTE_NS: u64 = 10_000;
/// From the end of a request, or of the reply before, to the start of a reply, besides the return
/// delay register: one byte time for switching the line around, ns.
pub const TURNAROUND_NS: u64 = 10_000;
/// Most steps in a row: one second of the arm's time.
pub const CATCH_UP_STEPS_MAX: u64 = 4000;
/// Goal writes that are remembered: about two minutes of a 500 Hz loop.
pub const GOAL_HISTORY_MAX: usize = 65_536;
/// Instructions that wait for their last bit; a host cannot have more on the wire in earnest.
const WAITING_MAX: usize = 256;
/// Most parameter bytes that a reply can carry.
const REPLY_BYTES_MAX: u8 = 250;

/// How a simulation starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimulatorConfig {
    /// What every random choice comes from.
    pub seed: u64,
    /// Joint angles at the start, rad.
    pub pose_rad: [f64; JOINTS],
    /// Whether the arm is held before its torque is on.
    pub cradle: Cradle,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            pose_rad: [0.0; JOINTS],
            cradle: Cradle::UntilTorque,
        }
    }
}

/// What happened on the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounters {
    /// Valid instruction packets received.
    pub packets: u64,
    /// Replies due, whatever the faults made of them.
    pub replies: u64,
    /// Instruction packets with a wrong checksum.
    pub bad_checksum: u64,
    /// Received bytes that were part of no valid packet.
    pub garbage_bytes: u64,
    /// Replies destroyed because the host talked into them.
    pub collisions: u64,
    /// Arm time skipped because the simulator was not run for too long, ns.
    pub skipped_ns: u64,
    /// What the faults did.
    pub faults: FaultCounters,
}

/// One goal-position write that arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct GoalWrite {
    /// When its last bit arrived.
    pub at: MonoNs,
    /// The servos it addressed.
    pub ids: Vec<u8>,
    /// Their goals, rad.
    pub goal_rad: Vec<f64>,
}

/// The truth about one joint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JointTruth {
    /// Servo id.
    pub id: u8,
    /// Angle, rad.
    pub position_rad: f64,
    /// Speed, rad/s.
    pub velocity_rad_s: f64,
    /// Goal of the servo, rad.
    pub goal_rad: f64,
    /// Motor torque at the output, N·m.
    pub torque_nm: f64,
    /// Whether the shaft is driven.
    pub torque_enabled: bool,
    /// Motor current, A.
    pub current_a: f64,
}

/// The simulator. See the module documentation.
#[derive(Debug)]
pub struct Simulator {
    arm: Arm,
    arm_time: MonoNs,
    parser: InstructionParser,
    waiting: VecDeque<(MonoNs, InstructionPacket)>,
    outgoing: VecDeque<(MonoNs, Vec<u8>)>,
    line_free_at: MonoNs,
    faults: Faults,
    goals: VecDeque<GoalWrite>,
    goals_lost: u64,
    last_lost_at: MonoNs,
    counters: LineCounters,
}

impl Simulator {
    /// A simulation that starts at `now`.
    #[must_use]
    pub fn new(config: &SimulatorConfig, now: MonoNs) -> Self {
        Self {
            arm: Arm::new(config.seed, config.pose_rad, config.cradle),
            arm_time: now,
            parser: InstructionParser::default(),
            waiting: VecDeque::new(),
            outgoing: VecDeque::new(),
            line_free_at: now,
            faults: Faults::new(config.seed),
            goals: VecDeque::new(),
            goals_lost: 0,
            last_lost_at: MonoNs(0),
            counters: LineCounters::default(),
        }
    }

    /// Takes bytes that the host sent and that began to arrive at `now`.
    pub fn receive(&mut self, now: MonoNs, bytes: &[u8]) {
        self.run_until(now);
        let destroyed = self.outgoing.len() as u64;
        if destroyed > 0 {
            self.outgoing.clear();
            self.counters.collisions += destroyed;
            self.line_free_at = now;
        }
        for packet in self.parser.push(now, bytes) {
            self.counters.packets += 1;
            let start = self.line_free_at.max(now);
            let end = start.plus_ns(packet.wire_bytes() as u64 * BYTE_NS);
            self.line_free_at = end;
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back((end, packet));
            }
        }
        self.counters.garbage_bytes = self.parser.garbage_bytes;
        self.counters.bad_checksum = self.parser.bad_checksums;
    }

    /// When something will happen by itself: an instruction's last bit, or a reply's.
    #[must_use]
    pub fn next_event_at(&self) -> Option<MonoNs> {
        let waiting = self.waiting.front().map(|(at, _)| *at);
        let outgoing = self.outgoing.front().map(|(at, _)| *at);
        [waiting, outgoing].into_iter().flatten().min()
    }

    /// Advances to `now` and appends to `output` the replies whose last bit is on the wire.
    pub fn take_output(&mut self, now: MonoNs, output: &mut Vec<u8>) {
        self.run_until(now);
        while let Some((_, bytes)) = self.outgoing.pop_front_if(|(at, _)| *at <= now) {
            output.extend_from_slice(&bytes);
        }
    }

    /// Forgets what is under way, as when the cable is pulled. The arm keeps its power.
    pub fn hang_up(&mut self) {
        self.waiting.clear();
        self.outgoing.clear();
    }

    /// Sets the fault rates at `now` for `duration_ns` (0: until set again).
    pub fn set_faults(&mut self, now: MonoNs, rates: FaultRates, duration_ns: u64) {
        let until = (duration_ns > 0).then(|| now.plus_ns(duration_ns));
        self.faults.set(rates, until);
    }

    /// The servo with this id loses its supply for a moment; false when there is none.
    pub fn reboot(&mut self, now: MonoNs, id: u8) -> bool {
        self.run_until(now);
        let servo = self.arm.servos.iter_mut().find(|servo| servo.id() == id);
        servo.is_some_and(|servo| {
            servo.reboot();
            true
        })
    }

    /// Blocks the joint of servo `id` where it is, or lets it go again; false without that servo.
    pub fn jam(&mut self, now: MonoNs, id: u8, jammed: bool) -> bool {
        self.run_until(now);
        let found = self.arm.servos.iter().position(|servo| servo.id() == id);
        found.is_some_and(|joint| {
            self.arm.jam(joint, jammed);
            true
        })
    }

    /// The truth at `now`.
    pub fn truth(&mut self, now: MonoNs) -> [JointTruth; JOINTS] {
        self.run_until(now);
        std::array::from_fn(|index| {
            let servo = &self.arm.servos[index];
            let joint = self.arm.joints()[index];
            JointTruth {
                id: servo.id(),
                position_rad: joint.position_rad,
                velocity_rad_s: joint.velocity_rad_s,
                goal_rad: servo.goal_rad(),
                torque_nm: servo.motor.torque_nm,
                torque_enabled: servo.is_torque_enabled(),
                current_a: servo.motor.current_a,
            }
        })
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> LineCounters {
        LineCounters {
            faults: self.faults.counters,
            ..self.counters
        }
    }

    /// The goal writes after `since`, oldest first, and how many may be missing from them.
    pub fn goals_since(&self, since: MonoNs) -> (impl Iterator<Item = &GoalWrite>, u64) {
        let lost = if self.last_lost_at > since {
            self.goals_lost
        } else {
            0
        };
        (
            self.goals.iter().filter(move |write| write.at > since),
            lost,
        )
    }

    fn run_until(&mut self, now: MonoNs) {
        while let Some((at, packet)) = self.waiting.pop_front_if(|(at, _)| *at <= now) {
            self.advance_arm(at);
            self.execute(at, &packet);
        }
        self.advance_arm(now);
    }

    fn advance_arm(&mut self, now: MonoNs) {
        let due = now.since_ns(self.arm_time) / STEP_NS;
        let skipped = due.saturating_sub(CATCH_UP_STEPS_MAX);
        if skipped > 0 {
            self.counters.skipped_ns += skipped * STEP_NS;
            self.arm_time = self.arm_time.plus_ns(skipped * STEP_NS);
        }
        for _ in 0..due - skipped {
            self.arm.step();
        }
        self.arm_time = self.arm_time.plus_ns((due - skipped) * STEP_NS);
    }

    fn execute(&mut self, at: MonoNs, packet: &InstructionPacket) {
        let parameters = &packet.parameters[..];
        match (packet.instruction, parameters) {
            (Some(Instruction::Ping), []) => self.reply(packet.id, Vec::new()),
            (Some(Instruction::Read), [address, len]) => self.reply_read(packet.id, *address, *len),
            (Some(Instruction::Write), [address, data @ ..]) => {
                self.remember_goals(at, *address, data.len(), [(packet.id, data)].into_iter());
                self.write(packet.id, *address, data);
                self.acknowledge(packet.id);
            }
            (Some(Instruction::RegWrite), [address, data @ ..]) => {
                for servo in self.addressed(packet.id) {
                    servo.pending_write = Some((*address, data.to_vec()));
                }
                self.acknowledge(packet.id);
            }
            (Some(Instruction::Action), []) => {
                for servo in self.addressed(packet.id) {
                    if let Some((address, data)) = servo.pending_write.take() {
                        servo.write(address, &data);
                    }
                }
                self.acknowledge(packet.id);
            }
            (Some(Instruction::SyncRead), [address, len, ids @ ..]) => {
                for id in ids {
                    self.reply_read(*id, *address, *len);
                }
            }
            (Some(Instruction::SyncWrite), [address, len, data @ ..]) if *len > 0 => {
                let size = usize::from(*len);
                let chunks = data
                    .chunks_exact(size + 1)
                    .map(|chunk| (chunk[0], &chunk[1..]));
                self.remember_goals(at, *address, size, chunks.clone());
                for (id, bytes) in chunks {
                    self.write(id, *address, bytes);
                }
            }
            // An unknown instruction or a wrong parameter count: a servo stays silent.
            _ => {}
        }
    }

    fn addressed(&mut self, id: u8) -> impl Iterator<Item = &mut crate::servo::Servo> {
        self.arm
            .servos
            .iter_mut()
            .filter(move |servo| id == BROADCAST_ID || servo.id() == id)
    }

    fn write(&mut self, id: u8, address: u8, data: &[u8]) {
        for servo in self.addressed(id) {
            servo.write(address, data);
        }
    }

    /// Answers a write, if the servo is set to and was addressed alone.
    fn acknowledge(&mut self, id: u8) {
        let answers = self
            .arm
            .servo_mut(id)
            .is_some_and(|servo| servo.memory.get(&registers::RESPONSE_LEVEL) != 0);
        if answers {
            self.reply(id, Vec::new());
        }
    }

    fn reply_read(&mut self, id: u8, address: u8, len: u8) {
        let Some(servo) = self.arm.servo_mut(id) else {
            return;
        };
        let data = servo.memory.read(address, len.min(REPLY_BYTES_MAX));
        self.reply(id, data);
    }

    /// Puts a reply of servo `id` on the line after what is already to come.
    fn reply(&mut self, id: u8, data: Vec<u8>) {
        let Some(servo) = self.arm.servo_mut(id) else {
            return;
        };
        let status = servo.status();
        let delay_ns = servo.memory.get(&registers::RETURN_DELAY) as u64 * 2_000;
        let Some(packet) = PacketBuffer::raw(id, status.bits(), &data) else {
            return;
        };
        let start = self.line_free_at.plus_ns(TURNAROUND_NS + delay_ns);
        let end = start.plus_ns(packet.as_bytes().len() as u64 * BYTE_NS);
        // A dropped or shortened reply keeps its time slot: the servos behind it count on it.
        self.line_free_at = end;
        self.counters.replies += 1;
        let sent = self.faults.apply(start, packet.as_bytes());
        if !sent.is_empty() {
            self.outgoing.push_back((end, sent));
        }
    }

    fn remember_goals<'a>(
        &mut self,
        at: MonoNs,
        address: u8,
        len: usize,
        writes: impl Iterator<Item = (u8, &'a [u8])>,
    ) {
        let register = &registers::GOAL_POSITION;
        let Some(offset) = register.address.checked_sub(address).map(usize::from) else {
            return;
        };
        if offset + usize::from(register.width) > len {
            return;
        }
        let (ids, goal_rad) = writes
            .filter_map(|(id, data)| Some((id, register.decode(data.get(offset..)?)?)))
            .map(|(id, steps)| (id, registers::radians_from_steps(steps)))
            .unzip();
        if self.goals.len() == GOAL_HISTORY_MAX {
            self.last_lost_at = self.goals.pop_front().map_or(at, |lost| lost.at);
            self.goals_lost += 1;
        }
        self.goals.push_back(GoalWrite { at, ids, goal_rad });
    }
}
