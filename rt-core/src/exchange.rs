//! What a bus thread and a control loop tell each other, through wait-free latest-value buffers.
//!
//! Both are real-time threads of one process, so nothing here is hostile; the buffers are those of
//! the link all the same, because they are what "the newest value, never torn, never waiting" is
//! called in this system. One pair of buffers per device. rt-safe.

use std::sync::Arc;

use kairo_link::abi::MAX_JOINTS;
use kairo_link::latest::{Reader, Writer, payload_words};
use kairo_link::pod::Pod;
use kairo_link::segment::{Kind, Segment};

/// What the loop wants of a device's servos.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Goals {
    /// The connection these goals were made for; goals of an earlier one are never sent, so an arm
    /// that comes back is not thrown to where it was.
    pub generation: u64,
    /// [`Goals::LEAVE`], [`Goals::ON`] or [`Goals::OFF`].
    pub torque: u64,
    /// Setpoints, rad.
    pub setpoint_rad: [f64; MAX_JOINTS],
}
// SAFETY: u64 and f64 only, repr(C), no padding, every bit pattern valid.
unsafe impl Pod for Goals {}

impl Goals {
    /// Torque is left as it is: before bring-up has decided, and until the device is present.
    pub const LEAVE: u64 = 0;
    /// The servos shall be under torque and follow the setpoints.
    pub const ON: u64 = 1;
    /// The servos shall be limp, whoever switched them on.
    pub const OFF: u64 = 2;
}

/// What the bus knows about one joint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct JointFeedback {
    /// Position, rad.
    pub position_rad: f64,
    /// Velocity, rad/s.
    pub velocity_rad_s: f64,
    /// Load, fraction of stall torque, signed.
    pub load_ratio: f64,
    /// Supply, V.
    pub voltage_v: f64,
    /// Current, A.
    pub current_a: f64,
    /// Temperature, degrees Celsius.
    pub temperature_c: f64,
    /// When the sample was taken, CLOCK_MONOTONIC ns; zero when there is none of this connection.
    pub sampled_ns: u64,
    /// Fault bits of the newest reply.
    pub status_bits: u32,
    /// Cycles in a row without a good reply.
    pub missed: u32,
}

/// What the bus knows about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Feedback {
    /// Counts connections; zero before the first.
    pub generation: u64,
    /// 1 while the bus is up.
    pub bus_up: u64,
    /// How often a servo of this device was found limp against its orders, on all connections.
    pub torque_losses: u64,
    /// The joint that was, the last time.
    pub limp_joint: u64,
    /// What the torque switches were read back as: [`Feedback::ALL_OFF`], [`Feedback::SOME_ON`], or
    /// zero before the first read-back of this connection.
    pub torque_seen: u64,
    /// The joints, in command order.
    pub joints: [JointFeedback; MAX_JOINTS],
}
// SAFETY: u64, pairs of u32 and f64 only, repr(C), no padding, every bit pattern valid.
unsafe impl Pod for Feedback {}

impl Feedback {
    /// Every servo that was read back is limp.
    pub const ALL_OFF: u64 = 1;
    /// A servo is under torque.
    pub const SOME_ON: u64 = 2;
}

/// The loop's ends of a device's pair.
#[derive(Debug)]
pub struct LoopSide {
    /// Where the newest feedback comes from.
    pub feedback: Reader<Feedback>,
    /// Where goals go.
    pub goals: Writer<Goals>,
}

/// The bus thread's ends of a device's pair.
#[derive(Debug)]
pub struct BusSide {
    /// Where feedback goes.
    pub feedback: Writer<Feedback>,
    /// Where the newest goals come from.
    pub goals: Reader<Goals>,
}

/// A value of a wire between two loops.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Sample {
    /// The value.
    pub value: f64,
    /// The time of the tick that gave it, CLOCK_MONOTONIC ns.
    pub given_ns: u64,
}
// SAFETY: f64 and u64, repr(C), no padding, every bit pattern valid.
unsafe impl Pod for Sample {}

/// A fresh wire between two loops. setup-only.
pub fn crossing() -> (Writer<Sample>, Reader<Sample>) {
    buffer()
}

/// A fresh pair of buffers. setup-only.
pub fn pair() -> (LoopSide, BusSide) {
    let (feedback_writer, feedback_reader) = buffer::<Feedback>();
    let (goals_writer, goals_reader) = buffer::<Goals>();
    (
        LoopSide {
            feedback: feedback_reader,
            goals: goals_writer,
        },
        BusSide {
            feedback: feedback_writer,
            goals: goals_reader,
        },
    )
}

fn buffer<T: Pod>() -> (Writer<T>, Reader<T>) {
    let segment = Segment::in_heap(Kind::Latest, payload_words::<T>(), 3, 0);
    (Writer::new(Arc::clone(&segment)), Reader::new(segment))
}
