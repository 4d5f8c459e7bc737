//! Whether the hardware watchdog is fed: a pure function of time and the services' pulses.
//!
//! The main loop calls [`verdict`] itself, so that its own life is the first vote: a loop that
//! hangs cannot feed. Each voter then agrees while it is alive (ready, and its last beat younger
//! than its interval), while it has been away for less than its grace (a boot or a restart in
//! progress), or while it abstains for a declared reason. One disagreement is enough: the feeding
//! stops and the hardware resets the machine within its timeout. It is a veto and not a majority
//! because a reset is the safe answer to a robot whose control loop is gone.

use std::time::Duration;

use crate::sys::BootTime;

/// What the watchdog needs to know of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Its name, for the reason.
    pub name: &'static str,
    /// Ready, and the last beat is younger than the interval it promised.
    pub alive: bool,
    /// When it was last alive; for one that never was, when its boot began.
    pub last_alive: BootTime,
    /// How long it may be away before the watchdog is left to bite.
    pub grace: Duration,
    /// Not asked: stopped by an operator, or its configuration was refused and neither a restart
    /// nor a reboot would help.
    pub abstains: bool,
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Feed.
    Feed,
    /// Do not feed, because of this service, away for this long.
    Starve(&'static str, Duration),
}

/// Decides; the first objecting voter is named.
pub fn verdict(now: BootTime, pulses: &[Pulse]) -> Verdict {
    for pulse in pulses {
        let away = now.saturating_sub(pulse.last_alive);
        if !pulse.alive && !pulse.abstains && away > pulse.grace {
            return Verdict::Starve(pulse.name, away);
        }
    }
    Verdict::Feed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_votes_holds() {
        const RT: Pulse = Pulse {
            name: "kairo-rt",
            alive: true,
            last_alive: Duration::from_secs(100),
            grace: Duration::from_secs(30),
            abstains: false,
        };
        const AGENT: Pulse = Pulse {
            name: "kairod",
            grace: Duration::from_secs(120),
            ..RT
        };
        const GONE: (bool, bool) = (false, false);
        const ALIVE: (bool, bool) = (true, false);
        const ABSTAINS: (bool, bool) = (false, true);
        // (seconds since both were last alive, RT, agent, who starves the dog)
        let table = [
            (0, ALIVE, ALIVE, None),
            (30, GONE, ALIVE, None),
            (31, GONE, ALIVE, Some("kairo-rt")),
            (31, GONE, GONE, Some("kairo-rt")),
            (31, ABSTAINS, ALIVE, None),
            (31, ABSTAINS, GONE, None),
            (120, ALIVE, GONE, None),
            (121, ALIVE, GONE, Some("kairod")),
            (121, ALIVE, ABSTAINS, None),
            (100_000, ALIVE, ALIVE, None),
            (100_000, ABSTAINS, ABSTAINS, None),
        ];
        for (away_s, rt, agent, expected) in table {
            let now = Duration::from_secs(100 + away_s);
            let pulses = [(RT, rt), (AGENT, agent)].map(|(pulse, (alive, abstains))| Pulse {
                alive,
                abstains,
                ..pulse
            });
            let starved_by = match verdict(now, &pulses) {
                Verdict::Feed => None,
                Verdict::Starve(name, _) => Some(name),
            };
            assert_eq!(
                starved_by, expected,
                "away {away_s} s, rt {rt:?}, agent {agent:?}"
            );
        }
    }

    #[test]
    fn a_clock_before_the_last_beat_feeds() {
        let pulse = Pulse {
            name: "kairo-rt",
            alive: false,
            last_alive: Duration::from_secs(5),
            grace: Duration::ZERO,
            abstains: false,
        };
        assert_eq!(verdict(Duration::from_secs(4), &[pulse]), Verdict::Feed);
    }
}
