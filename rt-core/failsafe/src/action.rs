//! What a live cause demands. Ordered: a later one is more drastic, and wins. rt-safe.

use core::fmt;

/// An action of the machine. The order of the variants is the order of their severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Go on.
    #[default]
    None,
    /// Go on, and tell everybody.
    Warn,
    /// Slow down at the acceleration limit and hold, under torque. Commands are refused.
    Hold,
    /// Do what the device declares as its safe action, which is at least a hold.
    SafeAction,
    /// Move to the device's rest pose at its rest speed, then hold.
    RampToRest,
    /// Land where it is. For vehicles.
    Land,
    /// Let the motors idle.
    Idle,
    /// Switch torque off.
    TorqueOff,
}

impl Action {
    /// Every action, mildest first.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Warn,
        Self::Hold,
        Self::SafeAction,
        Self::RampToRest,
        Self::Land,
        Self::Idle,
        Self::TorqueOff,
    ];

    /// The stable name. rt-safe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Warn => "warn",
            Self::Hold => "hold",
            Self::SafeAction => "safe-action",
            Self::RampToRest => "ramp-to-rest",
            Self::Land => "land",
            Self::Idle => "idle",
            Self::TorqueOff => "torque-off",
        }
    }

    /// The action of this name, if any.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Whether commands are refused under it. rt-safe.
    pub fn stops_motion(self) -> bool {
        self >= Self::Hold
    }

    /// What it does, in a few words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::None => "goes on",
            Self::Warn => "goes on and tells everybody",
            Self::Hold => "slows down and holds under torque",
            Self::SafeAction => "does what the device declares as its safe action",
            Self::RampToRest => "moves to its rest pose at rest speed, then holds",
            Self::Land => "lands where it is",
            Self::Idle => "lets the motors idle",
            Self::TorqueOff => "switches torque off",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}
