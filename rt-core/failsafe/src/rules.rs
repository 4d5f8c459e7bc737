//! What each cause demands, when it clears, and who may take over: the defaults, and the bounds of
//! what a robot may change. rt-safe to read; made and changed when set up.

use core::fmt;

use crate::action::Action;
use crate::cause::{CAUSES, Cause};

/// Longest hold-first delay. Holding is what a device does meanwhile, so it is a bound on how long
/// a device that cannot hold for ever (a hot servo, a flat battery) is made to.
pub const HOLD_FIRST_LONGEST_MS: u64 = 60_000;
/// Longest deferral.
pub const DEFER_LONGEST_MS: u64 = 60_000;

/// When a live cause ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// When its condition no longer holds.
    WhenGone,
    /// When its condition no longer holds and a new lease begins.
    OnModeChange,
    /// When its condition no longer holds and an operator resets.
    OnReset,
    /// Not before kairo-rt is started again.
    Never,
}

impl Clear {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::WhenGone,
        Self::OnModeChange,
        Self::OnReset,
        Self::Never,
    ];

    /// The stable name. rt-safe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WhenGone => "when-gone",
            Self::OnModeChange => "on-mode-change",
            Self::OnReset => "on-reset",
            Self::Never => "never",
        }
    }
}

/// Who may command the device again although the cause is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Whoever holds a lease, by an accepted command.
    Always,
    /// Only after an operator has said so.
    OperatorOnly,
    /// Nobody.
    Never,
}

impl Takeover {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Always, Self::OperatorOnly, Self::Never];

    /// The stable name. rt-safe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OperatorOnly => "operator-only",
            Self::Never => "never",
        }
    }
}

impl fmt::Display for Clear {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl fmt::Display for Takeover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What one cause does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it demands.
    pub action: Action,
    /// How long it demands no more than a hold at first, ms.
    pub hold_first_ms: u64,
    /// When it ends.
    pub clear: Clear,
    /// Who may take over.
    pub takeover: Takeover,
    /// Whether an operator may defer it.
    pub deferrable: bool,
}

impl Rule {
    const fn new(action: Action, clear: Clear, takeover: Takeover) -> Self {
        Self {
            action,
            hold_first_ms: 0,
            clear,
            takeover,
            deferrable: false,
        }
    }
}

/// Why a rule is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// The e-stop and the end of kairo-rt keep everything but their action.
    Fixed(Cause),
    /// Their action must stop the device.
    TooMild(Cause, Action),
    /// Nothing may move while the cause is live.
    MustNotMove(Cause, Action),
    /// A delay is out of bounds.
    TooLong(u64, u64),
    /// A delay before something that is no more than a hold.
    NothingToDelay(Action),
}

impl fmt::Display for RuleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(cause) => write!(formatter, "only the action of {cause} can be changed"),
            Self::TooMild(cause, action) => {
                write!(
                    formatter,
                    "{action} does not stop the device, as {cause} must"
                )
            }
            Self::MustNotMove(cause, action) => write!(
                formatter,
                "{action} moves the device, as it must not under {cause}; \
                 use hold, safe-action or torque-off"
            ),
            Self::TooLong(given, most) => write!(formatter, "{given} ms is more than {most} ms"),
            Self::NothingToDelay(action) => {
                write!(
                    formatter,
                    "{action} is no more than a hold, so there is nothing to delay"
                )
            }
        }
    }
}

/// The rules of all causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    rules: [Rule; CAUSES],
    defer_max_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rules: Cause::ALL.map(default_rule),
            defer_max_ms: 30_000,
        }
    }
}

impl Rules {
    /// What `cause` does. rt-safe.
    pub const fn of(&self, cause: Cause) -> &Rule {
        &self.rules[cause.index()]
    }

    /// Longest time a deferral lasts, from the moment its cause became live, ms. rt-safe.
    pub const fn defer_max_ms(&self) -> u64 {
        self.defer_max_ms
    }

    /// Changes the longest deferral. setup-only.
    ///
    /// # Errors
    /// Above [`DEFER_LONGEST_MS`].
    pub fn set_defer_max_ms(&mut self, defer_max_ms: u64) -> Result<(), RuleError> {
        if defer_max_ms > DEFER_LONGEST_MS {
            return Err(RuleError::TooLong(defer_max_ms, DEFER_LONGEST_MS));
        }
        self.defer_max_ms = defer_max_ms;
        Ok(())
    }

    /// Changes what `cause` does. setup-only.
    ///
    /// # Errors
    /// What would make the e-stop no e-stop, a ramp under an e-stop, into what was hit or from who
    /// knows where, and delays out of bounds.
    pub fn set(&mut self, cause: Cause, rule: Rule) -> Result<(), RuleError> {
        let own = default_rule(cause);
        if matches!(cause, Cause::Estop | Cause::ShuttingDown) {
            if (Rule {
                action: own.action,
                ..rule
            }) != own
            {
                return Err(RuleError::Fixed(cause));
            }
            if !rule.action.stops_motion() {
                return Err(RuleError::TooMild(cause, rule.action));
            }
        }
        if cause.must_not_move() && rule.action == Action::RampToRest {
            return Err(RuleError::MustNotMove(cause, rule.action));
        }
        if rule.hold_first_ms > HOLD_FIRST_LONGEST_MS {
            return Err(RuleError::TooLong(
                rule.hold_first_ms,
                HOLD_FIRST_LONGEST_MS,
            ));
        }
        if rule.hold_first_ms > 0 && rule.action <= Action::Hold {
            return Err(RuleError::NothingToDelay(rule.action));
        }
        self.rules[cause.index()] = rule;
        Ok(())
    }
}

/// What `cause` does unless the robot says otherwise.
fn default_rule(cause: Cause) -> Rule {
    use Action::{Hold, None, SafeAction};
    use Clear::{Never as NeverClears, OnModeChange, OnReset, WhenGone};
    use Takeover::{Always, Never, OperatorOnly};
    match cause {
        Cause::Estop => Rule::new(SafeAction, OnReset, Never),
        Cause::ShuttingDown => Rule::new(SafeAction, NeverClears, Never),
        Cause::PluginFault => Rule::new(SafeAction, OnReset, Never),
        Cause::LoopOverrun => Rule::new(SafeAction, OnModeChange, OperatorOnly),
        // The device itself refuses commands until it is reset.
        Cause::ServoFault | Cause::FollowingError => Rule::new(SafeAction, WhenGone, Always),
        // Holding costs current, and current is heat: rest after a moment.
        Cause::OverTemperature => Rule {
            hold_first_ms: 2_000,
            ..Rule::new(SafeAction, WhenGone, OperatorOnly)
        },
        Cause::BusLost | Cause::FeedbackStale => Rule::new(SafeAction, WhenGone, Never),
        Cause::LowBattery => Rule {
            hold_first_ms: 5_000,
            deferrable: true,
            ..Rule::new(SafeAction, WhenGone, OperatorOnly)
        },
        Cause::OperatorRequest => Rule::new(Hold, WhenGone, Never),
        Cause::DeviceLink => Rule::new(None, WhenGone, Never),
        Cause::AgentGone | Cause::LeaseLost | Cause::CommandExpired | Cause::Released => {
            Rule::new(SafeAction, WhenGone, Always)
        }
    }
}
