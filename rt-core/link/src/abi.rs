//! What crosses the boundary: commands, replies and device states, as plain words.
//!
//! Enumerations travel as `u32` and come back through `from_u32`, which refuses unknown numbers:
//! a number in shared memory is an allegation, not a value. Units are SI and stand in the names.

use crate::pod::Pod;

/// Joints a device can have. Bounds every array here.
pub const MAX_JOINTS: usize = 8;
/// Slots of a lease's command ring: at 1 kHz a quarter of a second of commands.
pub const COMMAND_SLOTS: u64 = 256;
/// Slots of a lease's reply ring: one reply a command, and notices.
pub const REPLY_SLOTS: u64 = 512;
const _: () = assert!(
    REPLY_SLOTS >= 2 * COMMAND_SLOTS,
    "a reply never waits for a slow reader"
);

/// Declares an enumeration that travels as `u32`, with a stable text name per value.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $text:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$doc])* $variant = $number,)+ }

        impl $name {
            /// The value that `number` stands for, if any. rt-safe.
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The stable name, as the public protocol spells it. rt-safe.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}

wire_enum! {
    /// What a command asks for.
    Mode {
        /// Move the joints to `position_rad`, within the limits.
        Position = 1 "position",
        /// Slow down as fast as the limits allow and hold.
        Stop = 2 "stop",
        /// Move the joints at `target` rad/s, and come to rest in time at the position limits.
        Velocity = 3 "velocity",
        /// Clear a latched fault. Nothing moves, and the command in force, if any, stays.
        Reset = 4 "reset",
    }
}

wire_enum! {
    /// The real-time plane's answer to a command.
    Verdict {
        /// In force from the tick in the reply.
        Accepted = 0 "accepted",
        /// The device never armed: bring-up was refused.
        NotArmed = 1 "not_armed",
        /// The bus is down, so nothing can be commanded.
        BusLost = 2 "bus_lost",
        /// The epoch is not the one of the lease in force.
        StaleEpoch = 3 "stale_epoch",
        /// The sequence number does not grow: a replay or a reordering.
        StaleSequence = 4 "stale_sequence",
        /// Older than its own time to live when it arrived. `value`, `max` in seconds.
        Expired = 5 "expired",
        /// Time to live is zero or above the device's maximum. `value`, `max` in seconds.
        TtlOutOfRange = 6 "ttl_out_of_range",
        /// Mode unknown.
        UnknownMode = 7 "unknown_mode",
        /// Number of joints is not the device's.
        JointCount = 8 "joint_count",
        /// A number is NaN or infinite. `joint` ([`MAX_JOINTS`] for one that is no joint's),
        /// `value`.
        NotFinite = 9 "not_finite",
        /// Outside the joint's position limits. `value`, `min`, `max` in rad.
        PositionLimit = 10 "position_limit",
        /// Velocity scale is not in (0, 1].
        VelocityScale = 11 "velocity_scale",
        /// Issued in the future: a clock that is not CLOCK_MONOTONIC, or a trick. `value`: how
        /// far, in seconds.
        IssuedInFuture = 12 "issued_in_future",
        /// Faster than the joint may move. `value`, `min`, `max` in rad/s.
        VelocityLimit = 13 "velocity_limit",
        /// More acceleration than the joint may have. `value`, `max` in rad/s².
        AccelerationLimit = 14 "acceleration_limit",
        /// More jerk than the joint may have. `value`, `max` in rad/s³.
        JerkLimit = 15 "jerk_limit",
        /// A fault is latched: nothing but a reset is obeyed. `joint`, `value` and `max` as in the
        /// device's state; a reset is refused with it while the fault still shows.
        Faulted = 16 "faulted",
        /// An emergency stop or the failsafe machine forbids motion; the device's cause says which.
        Inhibited = 17 "inhibited",
    }
}

wire_enum! {
    /// Where a device stands.
    Phase {
        /// Bring-up has not finished, or was refused: no torque was ever commanded.
        Disarmed = 0 "disarmed",
        /// No lease: holding the position it has.
        Holding = 1 "holding",
        /// A lease is in force and commands are followed.
        Following = 2 "following",
        /// The declared safe action is in force; see the cause.
        Safe = 3 "safe",
        /// The bus is lost. Nothing can be commanded.
        Lost = 4 "lost",
        /// Present and not under torque: the first command switches it on.
        Idle = 5 "idle",
    }
}

wire_enum! {
    /// Why a device is where it stands.
    Cause {
        /// Nothing went wrong.
        None = 0 "none",
        /// The newest command outlived its time to live.
        CommandExpired = 1 "command_expired",
        /// The holder gave the lease back.
        Released = 2 "released",
        /// The agent plane withdrew the lease, because its holder is gone.
        HolderGone = 3 "holder_gone",
        /// The agent plane itself is gone.
        AgentPlaneGone = 4 "agent_plane_gone",
        /// The bus stopped answering or was unplugged.
        BusLost = 5 "bus_lost",
        /// The command ring was corrupt: the peer is broken or hostile.
        RingCorrupt = 6 "ring_corrupt",
        /// Strict bring-up refused to arm.
        BringupRefused = 7 "bringup_refused",
        /// Feedback of a joint is too old to go on.
        FeedbackStale = 8 "feedback_stale",
        /// kairo-rt is shutting down.
        ShuttingDown = 9 "shutting_down",
        /// The loop missed a period, and its overrun policy is to stop.
        LoopOverrun = 10 "loop_overrun",
        /// A joint did not follow its setpoint: jammed, blocked, or too weak. Latched.
        /// `value`, `limit` in rad.
        FollowingError = 11 "following_error",
        /// A servo reports overload, overcurrent, overheating or a broken sensor. Latched. `value`
        /// is the servo's status bits.
        ServoFault = 12 "servo_fault",
        /// A servo switched its torque off again and again. Latched. `value`, `limit` count.
        TorqueLost = 13 "torque_lost",
        /// The emergency stop is in force.
        EmergencyStop = 14 "emergency_stop",
        /// The failsafe machine decided so.
        Failsafe = 15 "failsafe",
        /// A control block of its loop failed; `rt.status` names it.
        BlockFault = 20 "block_fault",
    }
}

wire_enum! {
    /// How a control block failed.
    BlockFaultKind {
        /// An output was NaN or infinite; the detail is its number.
        NotFinite = 1 "not_finite",
        /// It reported a fault of its own; the detail is its code.
        Reported = 2 "reported",
        /// It panicked.
        Panicked = 3 "panicked",
        /// The processor stopped it; the detail is the signal.
        Signal = 4 "signal",
        /// It used more processor time than its budget.
        Budget = 5 "budget",
        /// A value from another loop was older than it may be.
        Stale = 6 "stale",
    }
}

/// A command for a device, as the agent plane writes it. Every field is hostile until checked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Command {
    /// Grows by at least one with every command of a lease.
    pub sequence: u64,
    /// The lease this belongs to.
    pub lease_epoch: u64,
    /// When the agent plane took it, CLOCK_MONOTONIC ns.
    pub issued_ns: u64,
    /// How long it stays in force from `issued_ns`, ns.
    pub ttl_ns: u64,
    /// A [`Mode`].
    pub mode: u32,
    /// Joints in use below; must be the device's number of joints.
    pub joint_count: u32,
    /// Fraction of the velocity limits to use, in (0, 1].
    pub velocity_scale: f64,
    /// Acceleration to use at most, rad/s²; zero for the joint's limit, never above it.
    pub acceleration_rad_s2: f64,
    /// Jerk to use at most, rad/s³; zero for the joint's limit, never above it.
    pub jerk_rad_s3: f64,
    /// One number per joint: rad with [`Mode::Position`], rad/s with [`Mode::Velocity`].
    pub target: [f64; MAX_JOINTS],
}
// SAFETY: u64, u32 pairs and f64 only, repr(C), no padding (asserted by `words_of`).
unsafe impl Pod for Command {}

/// The answer to one command, or a notice that the lease's standing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Reply {
    /// The command's sequence number; zero in a notice.
    pub sequence: u64,
    /// The lease.
    pub lease_epoch: u64,
    /// The tick of the control loop that decided.
    pub tick: u64,
    /// When that tick ran, CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// When the command now in force expires, CLOCK_MONOTONIC ns; in a notice of an expiry, when
    /// the command that was in force expired.
    pub expires_ns: u64,
    /// A [`Verdict`].
    pub verdict: u32,
    /// A [`Cause`]; other than `None` in a notice, and with the verdicts `Faulted` and
    /// `Inhibited`.
    pub cause: u32,
    /// The joint a limit verdict speaks of.
    pub joint: u32,
    /// Spare, zero.
    pub reserved: u32,
    /// The refused value.
    pub value: f64,
    /// Its lower limit.
    pub min: f64,
    /// Its upper limit.
    pub max: f64,
}
// SAFETY: u64, an even number of u32 and f64 only, repr(C), no padding.
unsafe impl Pod for Reply {}

/// One joint as the real-time plane sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct JointState {
    /// Measured position, rad.
    pub position_rad: f64,
    /// Measured velocity, rad/s.
    pub velocity_rad_s: f64,
    /// What the loop commands now, rad.
    pub setpoint_rad: f64,
    /// Where the command in force wants it, rad.
    pub target_rad: f64,
    /// Measured load, fraction of stall torque, signed.
    pub load_ratio: f64,
    /// Supply voltage, V.
    pub voltage_v: f64,
    /// Motor current, A.
    pub current_a: f64,
    /// Temperature, degrees Celsius.
    pub temperature_c: f64,
    /// When this joint's sample was taken, CLOCK_MONOTONIC ns; zero if never.
    pub sampled_ns: u64,
    /// Status error bits of the servo's newest reply.
    pub status_bits: u32,
    /// Cycles in a row without a good reply.
    pub missed: u32,
}

/// A device's whole state, published once a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct DeviceState {
    /// Tick of the control loop that wrote it.
    pub tick: u64,
    /// When that tick ran, CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// Epoch of the lease in force; zero when there is none.
    pub lease_epoch: u64,
    /// Sequence number of the command in force.
    pub sequence: u64,
    /// When it expires, CLOCK_MONOTONIC ns.
    pub expires_ns: u64,
    /// When the present phase began, CLOCK_MONOTONIC ns: the beginning of that tick.
    pub phase_since_ns: u64,
    /// The tick in which the present phase began.
    pub phase_since_tick: u64,
    /// When the fault below was latched, CLOCK_MONOTONIC ns; zero without one.
    pub fault_since_ns: u64,
    /// What tripped it: the following error in rad, status bits, or a count.
    pub fault_value: f64,
    /// What it may be at most.
    pub fault_limit: f64,
    /// A [`Phase`].
    pub phase: u32,
    /// A [`Cause`].
    pub cause: u32,
    /// Joints in use below.
    pub joint_count: u32,
    /// 1 while the setpoint moves.
    pub moving: u32,
    /// The [`Cause`] of a latched fault; [`Cause::None`] without one.
    pub fault: u32,
    /// The joint it was found on.
    pub fault_joint: u32,
    /// 1 while the servos are under torque, or may be: told to be, or left as they are and not
    /// found limp, or they were when their bus was lost.
    pub torque: u32,
    /// The [`Cause`] that inhibits motion; [`Cause::None`] while nothing does.
    pub inhibited: u32,
    /// The joints.
    pub joints: [JointState; MAX_JOINTS],
}
// SAFETY: u64, even numbers of u32 and f64 only, repr(C), no padding.
unsafe impl Pod for DeviceState {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::words_of;

    #[test]
    fn layouts_have_no_padding_and_stay_put() {
        assert_eq!(words_of::<Command>(), 16);
        assert_eq!(words_of::<Reply>(), 10);
        assert_eq!(words_of::<DeviceState>(), 14 + 10 * MAX_JOINTS);
    }

    #[test]
    fn unknown_numbers_are_refused() {
        assert_eq!(Mode::from_u32(0), None);
        assert_eq!(Verdict::from_u32(18), None);
        assert_eq!(Phase::from_u32(u32::MAX), None);
        assert_eq!(Verdict::from_u32(10), Some(Verdict::PositionLimit));
        assert_eq!(Verdict::PositionLimit.to_string(), "position_limit");
    }
}
