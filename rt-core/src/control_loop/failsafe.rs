//! The failsafe machine of one device in its loop: which causes hold, and what follows.
//!
//! rt-safe. It maps what the loop and the device know to the flags of `kairo_failsafe`, runs a step
//! of the machine a tick, and says what to do to the device. It decides nothing itself.

use kairo_failsafe::{self as failsafe, Clear, Decision, Flags, Rules, State, Taker};
use kairo_link::MonoNs;
use kairo_link::abi::{Cause, Command, Mode, Phase};
use kairo_record::state::{Malformed, Sink, Source, State as Recorded};

use super::heat::Heat;
use crate::config::FailsafeConfig;
use crate::device::{Device, Restraint, Tick};

/// See the module documentation.
#[derive(Debug)]
pub struct Guard {
    rules: Rules,
    temperature_max_c: f64,
    heat: Heat,
    state: State,
    /// Whether the newest decision stops the device.
    stops: bool,
    /// Whether it does for a reason other than another device.
    troubled: bool,
    /// What made the device safe last and has not been made up for by an accepted command.
    ended_by: Option<(failsafe::Cause, Cause)>,
    lease_opened: bool,
    /// A command was accepted since the last step.
    commanded: bool,
    /// An accepted command went before a live cause.
    agent_took_over: bool,
    overran: bool,
    restrained: bool,
    /// The fault that the device has latched, exactly.
    fault: Option<Cause>,
}

impl Guard {
    /// A guard that has decided nothing. setup-only.
    pub fn new(config: &FailsafeConfig) -> Self {
        Self {
            rules: config.rules,
            temperature_max_c: config.temperature_max_c,
            heat: Heat::default(),
            state: State::starting(0, true),
            stops: false,
            troubled: false,
            ended_by: None,
            lease_opened: false,
            commanded: false,
            agent_took_over: false,
            overran: false,
            restrained: false,
            fault: None,
        }
    }

    /// Time begins.
    pub(super) fn begin(&mut self, now: MonoNs, latched: bool) {
        self.state = State::starting(now.0, latched);
    }

    /// The lease ended, or the command in force did, because of `cause`.
    pub(super) fn ended(&mut self, cause: Cause) {
        let known = match cause {
            Cause::CommandExpired => failsafe::Cause::CommandExpired,
            Cause::Released => failsafe::Cause::Released,
            Cause::AgentPlaneGone => failsafe::Cause::AgentGone,
            Cause::HolderGone | Cause::RingCorrupt => failsafe::Cause::LeaseLost,
            // The others have conditions of their own.
            _ => return,
        };
        self.ended_by = Some((known, cause));
        // Whatever was commanded before is no takeover from this.
        self.agent_took_over = false;
    }

    pub(super) fn lease_opened(&mut self) {
        self.lease_opened = true;
        self.ended_by = None;
    }

    pub(super) fn overran(&mut self) {
        self.overran = true;
    }

    /// A command was accepted. A reset puts nothing in force that could end: it goes before no
    /// cause.
    pub(super) fn commanded(&mut self, command: &Command) {
        if command.mode == Mode::Reset as u32 {
            return;
        }
        self.commanded = true;
        self.agent_took_over = self.stops;
        self.ended_by = None;
    }

    /// Whether another device of the loop must know: this one takes an action of at least hold, for
    /// a reason other than another device.
    pub(super) const fn is_in_trouble(&self) -> bool {
        self.troubled
    }

    /// One step. `robot`: the flags that all devices share.
    pub(super) fn step(&mut self, tick: Tick, robot: Flags, device: &Device) -> Decision {
        self.heat.look(device.joints(), self.temperature_max_c);
        let mut conditions = robot.conditions;
        let mut set = |cause, holds| {
            conditions = conditions.with(cause, holds || conditions.has(cause));
        };
        let lost = device.phase() == Phase::Lost;
        let estop = failsafe::Cause::Estop;
        let stopped = robot.conditions.has(estop) || self.state.live().has(estop);
        if lost || stopped {
            // Whoever held it before: a device that comes back begins anew, and one whose e-stop
            // is cleared stays where it is.
            self.ended_by = None;
        }
        if let Some((cause, _)) = self.ended_by {
            set(cause, true);
            // What the machine latches is said once: else a reset would wait for a command, and
            // the command for the reset.
            if self.rules.of(cause).clear != Clear::WhenGone {
                self.ended_by = None;
            }
        }
        set(failsafe::Cause::BusLost, lost);
        set(
            failsafe::Cause::FeedbackStale,
            device.overdue(tick.time).is_some(),
        );
        let overran = std::mem::take(&mut self.overran);
        set(failsafe::Cause::LoopOverrun, overran);
        // The overrun was before this tick, and a lease that began in it came after: it counts.
        let mode_changed = self.lease_opened && !overran;
        self.lease_opened &= overran;
        set(failsafe::Cause::OverTemperature, self.heat.is_hot());
        let fault = device.fault().map(|fault| fault.cause);
        let followed = fault != Some(Cause::FollowingError);
        set(failsafe::Cause::FollowingError, !followed);
        set(failsafe::Cause::ServoFault, followed && fault.is_some());
        self.fault = fault;
        let agent = std::mem::take(&mut self.agent_took_over).then_some(Taker::Agent);
        let flags = Flags {
            conditions,
            mode_changed,
            commanded: std::mem::take(&mut self.commanded),
            takeover: robot.takeover.or(agent),
            ..robot
        };
        let (state, decision) = failsafe::step(tick.time.0, self.state, flags, &self.rules);
        self.state = state;
        self.stops = decision.action.stops_motion();
        let own = decision.stopping.with(failsafe::Cause::DeviceLink, false);
        self.troubled = !own.is_empty();
        decision
    }

    /// What the device must be told about a decision, if anything.
    pub(super) fn tell(&mut self, decision: &Decision) -> Option<Order> {
        let stops = decision.action.stops_motion();
        match (stops, self.restrained) {
            (true, before) => {
                self.restrained = true;
                let mut raised = decision.raised.iter();
                let begins = !before || raised.any(|cause| decision.stopping.has(cause));
                Some(Order::Restrain(Restraint {
                    action: decision.action,
                    cause: self.in_states(decision.cause),
                    refuses: !decision.agent_may_command,
                    begins,
                    stands_still: decision.stands_still,
                }))
            }
            (false, true) => {
                self.restrained = false;
                Some(Order::Release)
            }
            (false, false) => None,
        }
    }

    /// The cause as device states have it.
    fn in_states(&self, cause: Option<failsafe::Cause>) -> Cause {
        if let (Some(failsafe::Cause::ServoFault | failsafe::Cause::FollowingError), Some(fault)) =
            (cause, self.fault)
        {
            return fault;
        }
        match (cause, self.ended_by) {
            (Some(cause), Some((same, exactly))) if cause == same => exactly,
            (Some(cause), _) => in_states(cause),
            (None, _) => Cause::Failsafe,
        }
    }
}

/// Of a keyframe: the machine's memory, and what is remembered between steps.
impl Recorded for Guard {
    fn save(&self, sink: &mut Sink) {
        let Self {
            rules: _,
            temperature_max_c: _,
            heat,
            state,
            stops,
            troubled,
            ended_by,
            lease_opened,
            commanded,
            agent_took_over,
            overran,
            restrained,
            // Found again in every step.
            fault: _,
        } = self;
        heat.save(sink);
        state.to_words().save(sink);
        let (known, exactly) = ended_by.unwrap_or((failsafe::Cause::Released, Cause::None));
        u64::from(known as u8).save(sink);
        exactly.save(sink);
        for flag in [
            stops,
            troubled,
            lease_opened,
            commanded,
            agent_took_over,
            overran,
            restrained,
        ] {
            flag.save(sink);
        }
    }

    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        self.heat.load(source)?;
        let mut words = [0; failsafe::STATE_WORDS];
        words.load(source)?;
        self.state = State::from_words(&words);
        let (mut known, mut exactly) = (0, Cause::None);
        <u64 as Recorded>::load(&mut known, source)?;
        exactly.load(source)?;
        let cause = usize::try_from(known)
            .ok()
            .and_then(|index| failsafe::Cause::ALL.get(index));
        self.ended_by = cause
            .filter(|_| exactly != Cause::None)
            .map(|cause| (*cause, exactly));
        self.stops.load(source)?;
        self.troubled.load(source)?;
        self.lease_opened.load(source)?;
        self.commanded.load(source)?;
        self.agent_took_over.load(source)?;
        self.overran.load(source)?;
        self.restrained.load(source)
    }

    fn describe(name: &str, words: &mut Vec<String>) {
        Heat::describe(&format!("{name}.failsafe.heat"), words);
        <[u64; failsafe::STATE_WORDS]>::describe(&format!("{name}.failsafe"), words);
        for field in [
            "ended_by",
            "ended_exactly",
            "stops",
            "troubled",
            "lease_opened",
            "commanded",
            "agent_took_over",
            "overran",
            "restrained",
        ] {
            words.push(format!("{name}.failsafe.{field}:u64"));
        }
    }
}

/// What to do to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Do this.
    Restrain(Restraint),
    /// Commands are welcome again.
    Release,
}

/// The cause as device states have it.
const fn in_states(cause: failsafe::Cause) -> Cause {
    match cause {
        failsafe::Cause::Estop => Cause::EmergencyStop,
        failsafe::Cause::ShuttingDown => Cause::ShuttingDown,
        failsafe::Cause::LoopOverrun => Cause::LoopOverrun,
        failsafe::Cause::BusLost => Cause::BusLost,
        failsafe::Cause::FeedbackStale => Cause::FeedbackStale,
        failsafe::Cause::AgentGone => Cause::AgentPlaneGone,
        failsafe::Cause::CommandExpired => Cause::CommandExpired,
        failsafe::Cause::Released => Cause::Released,
        failsafe::Cause::LeaseLost => Cause::HolderGone,
        failsafe::Cause::PluginFault => Cause::BlockFault,
        failsafe::Cause::ServoFault
        | failsafe::Cause::OverTemperature
        | failsafe::Cause::FollowingError
        | failsafe::Cause::LowBattery
        | failsafe::Cause::OperatorRequest
        | failsafe::Cause::DeviceLink => Cause::Failsafe,
    }
}

#[cfg(test)]
mod tests;
