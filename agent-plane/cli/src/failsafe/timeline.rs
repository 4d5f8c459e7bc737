//! The language of a simulated timeline: a time, and what happens then.

use kairo_failsafe::{Cause, Flags, Taker};

use crate::failure::Failure;

/// Shown at the prompt.
pub const HELP: &str = "\
one moment a line: TIME EVENT…, such as `200ms cause=agent-gone`; end with Ctrl-D
  cause=NAME  its condition begins     clear=NAME  it ends          lease  a new lease begins
  command     one is accepted
  reset       an edge of the reset     reset=down / reset=up        its level
  takeover=agent / takeover=operator   defer=on / defer=off";

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    Begins(Cause),
    Ends(Cause),
    Lease,
    Command,
    ResetPulse,
    Reset(bool),
    Takeover(Taker),
    Defer(bool),
}

/// A time and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, ms from the start.
    pub at_ms: u64,
    /// As it was written.
    pub text: String,
    /// Whether the reset goes up and down again.
    pub pulses_reset: bool,
    happenings: Vec<Happening>,
}

/// Moments in the order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The moments.
    pub moments: Vec<Moment>,
}

impl Script {
    /// Reads the values of all `--at`: every word that is a time begins a moment.
    pub fn parse(words: &[String]) -> Result<Self, Failure> {
        let mut groups: Vec<Vec<String>> = Vec::new();
        for word in words {
            match groups.last_mut() {
                Some(group) if humantime::parse_duration(word).is_err() => group.push(word.clone()),
                _ => groups.push(vec![word.clone()]),
            }
        }
        let moments: Result<Vec<_>, _> = groups.iter().map(|group| moment(group)).collect();
        let moments = moments?;
        if !moments.is_sorted_by_key(|moment| moment.at_ms) {
            return Err(Failure::Usage("the times of --at must not go back".into()));
        }
        Ok(Self { moments })
    }
}

/// Longest timeline, ms: a day, in steps of a millisecond.
const LONGEST_MS: u64 = 86_400_000;

/// Reads one moment: a time and events.
pub fn moment(words: &[String]) -> Result<Moment, Failure> {
    let [time, events @ ..] = words else {
        return Err(Failure::Usage("a moment is TIME EVENT…".into()));
    };
    let time = humantime::parse_duration(time)
        .map_err(|_| Failure::Usage(format!("{time:?} is no time such as 200ms or 2s")))?;
    let at_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if at_ms > LONGEST_MS {
        return Err(Failure::Usage("a simulation lasts a day at most".into()));
    }
    let happenings: Result<Vec<_>, _> = events.iter().map(|event| happening(event)).collect();
    let happenings = happenings?;
    Ok(Moment {
        at_ms,
        text: events.join(" "),
        pulses_reset: happenings.contains(&Happening::ResetPulse),
        happenings,
    })
}

fn happening(text: &str) -> Result<Happening, Failure> {
    let cause = |name: &str| {
        Cause::from_name(name).ok_or_else(|| {
            let known = Cause::ALL.map(Cause::name).join(", ");
            Failure::Usage(format!("{name:?} is no cause; there are {known}"))
        })
    };
    match text.split_once('=') {
        Some(("cause", name)) => Ok(Happening::Begins(cause(name)?)),
        Some(("clear", name)) => Ok(Happening::Ends(cause(name)?)),
        Some(("takeover", "agent")) => Ok(Happening::Takeover(Taker::Agent)),
        Some(("takeover", "operator")) => Ok(Happening::Takeover(Taker::Operator)),
        Some(("reset", "down")) => Ok(Happening::Reset(true)),
        Some(("reset", "up")) => Ok(Happening::Reset(false)),
        Some(("defer", "on")) => Ok(Happening::Defer(true)),
        Some(("defer", "off")) => Ok(Happening::Defer(false)),
        None if text == "reset" => Ok(Happening::ResetPulse),
        None if text == "lease" => Ok(Happening::Lease),
        None if text == "command" => Ok(Happening::Command),
        _ => Err(Failure::Usage(format!("{text:?} is no event\n{HELP}"))),
    }
}

impl Moment {
    /// Changes `flags` as the moment says.
    pub fn apply(&self, flags: &mut Flags) {
        for happening in &self.happenings {
            match *happening {
                Happening::Begins(cause) => flags.conditions = flags.conditions.with(cause, true),
                Happening::Ends(cause) => flags.conditions = flags.conditions.with(cause, false),
                Happening::Lease => flags.mode_changed = true,
                Happening::Command => flags.commanded = true,
                Happening::ResetPulse => flags.reset = true,
                Happening::Reset(level) => flags.reset = level,
                Happening::Takeover(taker) => flags.takeover = Some(taker),
                Happening::Defer(on) => flags.defer = on,
            }
        }
    }
}
