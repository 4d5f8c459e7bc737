//! What can go wrong, and sets of it. rt-safe. There are [`CAUSES`] causes and never more live
//! ones: a set is one word, so nothing that goes wrong can fill anything up.

use core::fmt;

/// How many causes there are.
pub const CAUSES: usize = 16;

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident $text:literal $means:literal,)+) => {
        /// A thing that goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Cause { $($(#[$doc])* $variant,)+ }

        impl Cause {
            /// Every cause, in the order of their indices.
            pub const ALL: [Self; CAUSES] = [$(Self::$variant,)+];

            /// The stable name. rt-safe.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// When its condition holds, in one sentence.
            pub const fn means(self) -> &'static str {
                match self { $(Self::$variant => $means,)+ }
            }
        }
    };
}

causes! {
    /// The emergency stop.
    Estop "estop"
        "an e-stop input is open, its reader is dead, or somebody asked for an e-stop",
    /// kairo-rt is ending.
    ShuttingDown "shutting_down"
        "kairo-rt is ending",
    /// A plug-in of the loop failed.
    PluginFault "plugin_fault"
        "a block of the loop panicked or put out what is no number",
    /// Too many periods missed.
    LoopOverrun "loop_overrun"
        "the loop missed periods and its overrun policy says stop",
    /// The servo says that something is wrong with it.
    ServoFault "servo_fault"
        "a servo reports overload, overcurrent or a broken sensor, or keeps losing its torque",
    /// Too hot.
    OverTemperature "over_temperature"
        "a servo is hotter than temperature_max_c",
    /// The joint does not follow.
    FollowingError "following_error"
        "a joint is too far from its setpoint for too long",
    /// Nobody answers on the bus.
    BusLost "bus_lost"
        "the bus is unplugged, or nobody answers on it",
    /// Feedback is too old.
    FeedbackStale "feedback_stale"
        "feedback of a joint is older than feedback_stale_ms",
    /// The battery is low.
    LowBattery "low_battery"
        "raised from outside: the battery is low",
    /// An operator said hold.
    OperatorRequest "operator_request"
        "raised by an operator",
    /// Another device of the loop is in trouble.
    DeviceLink "device_link"
        "another device of the same loop takes an action of at least hold",
    /// The agent plane is gone.
    AgentGone "agent_gone"
        "the agent plane vanished with a lease; until the next lease or accepted command",
    /// The lease is over without the holder's wish.
    LeaseLost "lease_lost"
        "the holder vanished, or broke its ring; until the next lease or accepted command",
    /// A command outlived its time to live.
    CommandExpired "command_expired"
        "the command in force outlived its time to live; until the next lease or accepted command",
    /// The holder gave the lease back.
    Released "released"
        "the holder gave the device back; until the next lease or accepted command",
}

impl Cause {
    /// Its index, below [`CAUSES`]. rt-safe.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a device must not move, not even to rest, while it is live: in an emergency, at the
    /// end, after a fault of the device itself, and without news of where it is. rt-safe.
    pub const fn must_not_move(self) -> bool {
        matches!(
            self,
            Self::Estop
                | Self::ShuttingDown
                | Self::ServoFault
                | Self::FollowingError
                | Self::BusLost
                | Self::FeedbackStale
        )
    }

    /// The cause of this name, if any; `-` and `_` are the same.
    pub fn from_name(name: &str) -> Option<Self> {
        let same = |cause: &Self| {
            let spelled = name
                .bytes()
                .map(|byte| if byte == b'-' { b'_' } else { byte });
            spelled.eq(cause.name().bytes())
        };
        Self::ALL.into_iter().find(same)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A set of causes. rt-safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CauseSet(u16);

const _: () = assert!(CAUSES <= 16, "a set is a word of 16 bits");

impl CauseSet {
    /// No cause.
    pub const EMPTY: Self = Self(0);

    /// The set of these bits, bit n for the cause of index n. rt-safe.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Its bits. rt-safe.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether `cause` is in it. rt-safe.
    pub const fn has(self, cause: Cause) -> bool {
        self.0 & (1 << cause.index()) != 0
    }

    /// With `cause`, if `holds`; otherwise without. rt-safe.
    #[must_use]
    pub const fn with(self, cause: Cause, holds: bool) -> Self {
        let bit = 1 << cause.index();
        Self(if holds { self.0 | bit } else { self.0 & !bit })
    }

    /// Whether nothing is in it. rt-safe.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The causes in it, in the order of their indices. rt-safe.
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(move |cause| self.has(*cause))
    }
}
