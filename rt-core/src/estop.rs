//! The words through which e-stops and operators reach the control loops, and what the loops
//! answer. Atomics only.
//!
//! rt-safe for the loops: every tick reads a handful of words. Writers are the operator socket
//! ([`crate::operator`]), the link server (which can ask for an e-stop, and for a clear only where
//! the robot allows it), and the thread that looks at the lines ([`crate::lines`]).
//! There is no latch here: every device's failsafe machine latches for itself, from flags that all
//! of them see, so no writer can undo a stop by writing a word.
//!
//! A request is a counter that grows: a loop that sees it grown since its last tick has one
//! request, and none is seen twice. Only a loop that has taken a request in says so
//! ([`Estop::taken_in`]), which is how a writer learns what became of it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use kairo_failsafe::{Action, Cause, CauseSet, Decision, Flags, Taker};
use kairo_link::MonoNs;
use kairo_link::control::MAX_DEVICES;
use kairo_link::stats::MAX_LOOPS;

use crate::config::EstopConfig;

/// The inputs were good at the newest look.
const GOOD: u64 = 1;
/// The reset button was down at the newest look.
const RESET: u64 = 2;
/// The bits below the time of a look.
const TIME_SHIFT: u32 = 2;

/// Causes that are raised and lowered from outside.
const RAISABLE: [Cause; 2] = [Cause::LowBattery, Cause::OperatorRequest];

/// See the module documentation.
#[derive(Debug)]
pub struct Estop {
    latched_at_start: bool,
    watched: bool,
    stale_ns: u64,
    stops: AtomicU64,
    clears: AtomicU64,
    takeovers: AtomicU64,
    raised: AtomicU64,
    deferred: AtomicU8,
    /// Time of the newest look at the lines, shifted, and what was seen.
    look: AtomicU64,
    /// The lines that were not good, as a set of `kairo_link::lines`.
    open: AtomicU64,
    /// Stops by lines: one that is over before a loop looks is not lost.
    line_stops: AtomicU64,
    answers: [AtomicU64; MAX_LOOPS],
    /// The stops that each loop has decided upon.
    stopped: [AtomicU64; MAX_LOOPS],
    pumps: [AtomicU64; MAX_LOOPS],
    decisions: [AtomicU64; MAX_DEVICES],
}

impl Default for Estop {
    fn default() -> Self {
        Self::new(&EstopConfig::default())
    }
}

impl Estop {
    /// The words of a robot. setup-only.
    pub fn new(config: &EstopConfig) -> Self {
        let latched = CauseSet::EMPTY.with(Cause::Estop, config.latched_at_start);
        let start = Standing {
            live: latched,
            action: Action::None,
            cause: None,
        };
        Self {
            latched_at_start: config.latched_at_start,
            watched: !config.inputs.is_empty() || config.reset.is_some(),
            stale_ns: config.input_stale_ms * 1_000_000,
            stops: AtomicU64::new(0),
            clears: AtomicU64::new(0),
            takeovers: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            deferred: AtomicU8::new(0),
            look: AtomicU64::new(0),
            open: AtomicU64::new(0),
            line_stops: AtomicU64::new(0),
            answers: [const { AtomicU64::new(0) }; MAX_LOOPS],
            stopped: [const { AtomicU64::new(0) }; MAX_LOOPS],
            pumps: [const { AtomicU64::new(0) }; MAX_LOOPS],
            decisions: std::array::from_fn(|_| AtomicU64::new(start.pack())),
        }
    }

    /// Whether every machine begins with its e-stop live. rt-safe.
    pub const fn latched_at_start(&self) -> bool {
        self.latched_at_start
    }

    /// Asks every loop for an e-stop. Any thread.
    pub fn stop(&self) {
        // Pairs with the load in `Reader::read`. Nothing else is published by it.
        self.stops.fetch_add(1, Ordering::Release);
    }

    /// Asks every loop to clear, and returns the number by which [`Estop::taken_in`] knows it.
    /// Ordinary threads that have checked who asks.
    pub fn clear(&self) -> u64 {
        // Pairs with the load in `Reader::read`.
        self.clears.fetch_add(1, Ordering::Release) + 1
    }

    /// Whether the first `loops` loops have taken clear number `clear` in.
    pub fn taken_in(&self, clear: u64, loops: usize) -> bool {
        // Pairs with the store in `Estop::answer`: what was decided before is visible.
        let answers = self.answers.iter().take(loops);
        answers
            .into_iter()
            .all(|answer| answer.load(Ordering::Acquire) >= clear)
    }

    /// Whether the first `loops` loops have decided upon every stop that was asked for.
    pub fn stops_are_taken_in(&self, loops: usize) -> bool {
        let stops = self.stops.load(Ordering::Acquire);
        // Pairs with the store in `Estop::answer`: what was decided before is visible.
        let stopped = self.stopped.iter().take(loops);
        stopped
            .into_iter()
            .all(|seen| seen.load(Ordering::Acquire) >= stops)
    }

    /// Takes over from what an operator may take over from. Operator socket.
    pub fn take_over(&self) {
        // Pairs with the load in `Reader::read`.
        self.takeovers.fetch_add(1, Ordering::Release);
    }

    /// Raises or lowers a cause from outside; false if it is none of those. Operator socket.
    pub fn raise(&self, cause: Cause, holds: bool) -> bool {
        let bit = u64::from(CauseSet::EMPTY.with(cause, true).bits());
        if !RAISABLE.contains(&cause) {
            return false;
        }
        // Pairs with the load in `Reader::read`.
        match holds {
            true => self.raised.fetch_or(bit, Ordering::Release),
            false => self.raised.fetch_and(!bit, Ordering::Release),
        };
        true
    }

    /// Defers what can be deferred, or no longer. Operator socket.
    pub fn defer(&self, on: bool) {
        // Pairs with the load in `Reader::read`.
        self.deferred.store(u8::from(on), Ordering::Release);
    }

    /// An input stops the robot: its number. Before [`Estop::saw`] tells its level. The thread that
    /// serves the lines; rt-safe.
    pub fn line_stop(&self) -> u64 {
        let number = self.line_stops.load(Ordering::Relaxed).wrapping_add(1);
        // Pairs with the load in `Reader::read`: what is counted of it is visible.
        self.line_stops.store(number, Ordering::Release);
        number
    }

    /// What the lines were at `now`: which are not good, and whether the reset is down. The thread
    /// that serves the lines; rt-safe.
    pub fn saw(&self, now: MonoNs, open: u64, reset: bool) {
        let good = u64::from(open == 0) * GOOD;
        self.open.store(open, Ordering::Relaxed);
        let look = (now.0 << TIME_SHIFT) | good | (u64::from(reset) * RESET);
        // Pairs with the load in `Reader::read`, and covers the store above and `line_stop`.
        self.look.store(look, Ordering::Release);
    }

    /// The lines that were not good at the newest look, as a set of `kairo_link::lines`.
    pub fn open_lines(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether the lines have been looked at lately and all inputs are good; true without lines.
    /// rt-safe.
    pub fn inputs_are_good(&self, now: MonoNs) -> bool {
        // Pairs with the store in `Estop::saw`.
        self.is_good(now, self.look.load(Ordering::Acquire))
    }

    fn is_good(&self, now: MonoNs, look: u64) -> bool {
        !self.watched || (look & GOOD != 0 && self.is_fresh(now, look))
    }

    fn is_fresh(&self, now: MonoNs, look: u64) -> bool {
        now.since_ns(MonoNs(look >> TIME_SHIFT)) <= self.stale_ns
    }

    /// What device number `device` decided. Its loop. rt-safe.
    pub fn publish(&self, device: usize, standing: Standing) {
        if let Some(word) = self.decisions.get(device) {
            // Pairs with the load in `Estop::standing`; the word is all there is.
            word.store(standing.pack(), Ordering::Relaxed);
        }
    }

    /// What device number `device` decided in its newest tick.
    pub fn standing(&self, device: usize) -> Standing {
        let word = self.decisions.get(device);
        Standing::unpack(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Whether the e-stop of any of the first `devices` devices is live.
    pub fn is_latched(&self, devices: usize) -> bool {
        (0..devices).any(|device| self.standing(device).live.has(Cause::Estop))
    }

    /// A loop has taken the requests of this tick in, and decided. rt-safe.
    fn answer(&self, index: usize, clear: u64, stops: u64) {
        // Pairs with the load in `Estop::stops_are_taken_in`.
        self.stopped[index].store(stops, Ordering::Release);
        // Pairs with the load in `Estop::taken_in`.
        self.answers[index].store(clear, Ordering::Release);
    }

    /// A healthy tick of a loop is over, without an e-stop. rt-safe.
    pub fn pump(&self, index: usize) {
        let word = &self.pumps[index];
        let next = word.load(Ordering::Relaxed).wrapping_add(1);
        // Pairs with the load in `Estop::pumped`.
        word.store(next, Ordering::Release);
    }

    /// Healthy ticks of each of the first `loops` loops. rt-safe.
    pub fn pumped(&self) -> [u64; MAX_LOOPS] {
        // Pairs with the store in `Estop::pump`.
        std::array::from_fn(|index| self.pumps[index].load(Ordering::Acquire))
    }
}

/// What a loop finds the lines to be, for records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinesSeen {
    /// The lines that are not good, as a set of `kairo_link::lines`.
    pub open: u64,
    /// Whether the reset is down.
    pub reset: bool,
    /// Whether they have been looked at lately.
    pub fresh: bool,
}

/// What a device's failsafe machine has decided, as it is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The live causes.
    pub live: CauseSet,
    /// The action in force.
    pub action: Action,
    /// The cause that demands it.
    pub cause: Option<Cause>,
}

impl From<&Decision> for Standing {
    fn from(decision: &Decision) -> Self {
        Self {
            live: decision.live,
            action: decision.action,
            cause: decision.cause,
        }
    }
}

impl Standing {
    /// One word: the causes, the action, the cause plus one.
    fn pack(self) -> u64 {
        let cause = self.cause.map_or(0, |cause| cause.index() as u64 + 1);
        u64::from(self.live.bits()) | ((self.action as u64) << 16) | (cause << 24)
    }

    fn unpack(word: u64) -> Self {
        let byte = |shift: u32| ((word >> shift) & 0xff) as usize;
        let cause = byte(24).checked_sub(1);
        Self {
            live: CauseSet::from_bits((word & 0xffff) as u16),
            action: Action::ALL.get(byte(16)).copied().unwrap_or_default(),
            cause: cause.and_then(|index| Cause::ALL.get(index).copied()),
        }
    }
}

/// A loop's view of the words: what is new since its last tick.
#[derive(Debug, Default)]
pub struct Reader {
    stops: u64,
    clears: u64,
    takeovers: u64,
    line_stops: u64,
    /// The stop by a line that this tick took in, not told yet.
    line_stop: Option<u64>,
    /// What was recorded of the lines last.
    recorded: Option<LinesSeen>,
    /// Whether the tick before had a clear: two in a row would be a level, not two edges.
    pulsed: bool,
}

impl Reader {
    /// What was asked before now is old: a loop begins with it. rt-safe.
    pub fn begin(&mut self, words: &Estop) {
        self.clears = words.clears.load(Ordering::Acquire);
        self.takeovers = words.takeovers.load(Ordering::Acquire);
    }

    /// The flags of this tick that the whole robot shares. rt-safe.
    pub fn read(&mut self, now: MonoNs, words: &Estop) -> Flags {
        // A clear is read before the stops and the inputs: one that was asked after them cannot
        // clear what it did not know of. Each pairs with its writer above.
        let clears = words.clears.load(Ordering::Acquire);
        let takeovers = words.takeovers.load(Ordering::Acquire);
        let look = words.look.load(Ordering::Acquire);
        let stops = words.stops.load(Ordering::Acquire);
        // After the look: one that tells a level comes with the stop it led to.
        let line_stops = words.line_stops.load(Ordering::Acquire);
        let pulled = line_stops != self.line_stops;
        self.line_stop = pulled.then_some(line_stops).or(self.line_stop);
        self.line_stops = line_stops;
        let pressed = stops != self.stops || pulled || !words.is_good(now, look);
        let button = words.watched && look & RESET != 0;
        let raised = words.raised.load(Ordering::Acquire);
        let asked = clears != self.clears && !self.pulsed;
        self.pulsed = asked;
        let flags = Flags {
            conditions: CauseSet::from_bits((raised & 0xffff) as u16).with(Cause::Estop, pressed),
            mode_changed: false,
            commanded: false,
            reset: button || asked,
            takeover: (takeovers != self.takeovers).then_some(Taker::Operator),
            defer: words.deferred.load(Ordering::Acquire) != 0,
        };
        (self.stops, self.takeovers) = (stops, takeovers);
        if asked {
            self.clears = clears;
        }
        flags
    }

    /// What the lines are, if that has changed since it was asked last. rt-safe.
    pub fn lines(&mut self, now: MonoNs, words: &Estop) -> Option<LinesSeen> {
        // Pairs with the store in `Estop::saw`.
        let look = words.look.load(Ordering::Acquire);
        let seen = LinesSeen {
            open: words.open_lines(),
            reset: look & RESET != 0,
            fresh: words.is_fresh(now, look),
        };
        let news = words.watched && self.recorded != Some(seen);
        self.recorded = Some(seen);
        news.then_some(seen)
    }

    /// The number of the stop by a line that was taken in, once. rt-safe.
    pub fn take_line_stop(&mut self) -> Option<u64> {
        self.line_stop.take()
    }

    /// Everything read has been decided upon. rt-safe.
    pub fn answer(&self, words: &Estop, index: usize) {
        words.answer(index, self.clears, self.stops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: MonoNs = MonoNs(5_000_000_000);

    fn wired() -> Estop {
        let mut config = EstopConfig::default();
        config.inputs.push(crate::config::LineConfig {
            name: "estop".into(),
            line: crate::config::LineAddress::Name("estop".into()),
            acts_when_high: true,
            bias: crate::config::Bias::PullUp,
            debounce_us: 0,
        });
        Estop::new(&config)
    }

    #[test]
    fn a_request_is_seen_once_by_every_loop() {
        let words = Estop::default();
        let (mut one, mut other) = (Reader::default(), Reader::default());
        words.stop();
        for reader in [&mut one, &mut other] {
            assert!(reader.read(NOW, &words).conditions.has(Cause::Estop));
            assert!(!reader.read(NOW, &words).conditions.has(Cause::Estop));
        }
        let clear = words.clear();
        assert!(one.read(NOW, &words).reset && !one.read(NOW, &words).reset);
        one.answer(&words, 0);
        assert!(words.taken_in(clear, 1) && !words.taken_in(clear, 2));
        other.read(NOW, &words);
        other.answer(&words, 1);
        assert!(words.taken_in(clear, 2));
    }

    #[test]
    fn clears_that_follow_at_once_are_edges_of_their_own() {
        let words = Estop::default();
        let mut reader = Reader::default();
        let mut levels = Vec::new();
        for _ in 0..2 {
            words.clear();
            levels.push(reader.read(NOW, &words).reset);
        }
        reader.answer(&words, 0);
        assert!(
            !words.taken_in(2, 1),
            "the second one waits for the level to fall"
        );
        levels.push(reader.read(NOW, &words).reset);
        reader.answer(&words, 0);
        assert_eq!(levels, [true, false, true]);
        assert!(words.taken_in(2, 1));
    }

    #[test]
    fn a_stop_asked_while_a_loop_starts_is_not_missed_and_a_clear_is() {
        let words = Estop::default();
        words.stop();
        words.clear();
        let mut reader = Reader::default();
        reader.begin(&words);
        let flags = reader.read(NOW, &words);
        assert!(flags.conditions.has(Cause::Estop) && !flags.reset);
    }

    #[test]
    fn lines_that_nobody_looks_at_any_more_are_a_stop() {
        let words = wired();
        let mut reader = Reader::default();
        let mut stops = |now| reader.read(now, &words).conditions.has(Cause::Estop);
        assert!(stops(NOW), "nobody has looked yet");
        words.saw(NOW, 0, false);
        assert!(!stops(NOW));
        assert!(!stops(NOW.plus_ns(20_000_000)));
        assert!(stops(NOW.plus_ns(20_000_001)), "the reader is dead");
        words.saw(NOW, 1, false);
        assert!(stops(NOW), "an input is open");
    }

    #[test]
    fn a_stop_by_a_line_is_seen_once_and_told_with_its_number() {
        let words = wired();
        let mut reader = Reader::default();
        words.saw(NOW, 0, false);
        assert!(!reader.read(NOW, &words).conditions.has(Cause::Estop));
        assert_eq!(reader.take_line_stop(), None);
        assert_eq!(words.line_stop(), 1);
        // Over before the tick.
        words.saw(NOW, 0, false);
        assert!(reader.read(NOW, &words).conditions.has(Cause::Estop));
        assert_eq!(reader.take_line_stop(), Some(1));
        assert!(!reader.read(NOW, &words).conditions.has(Cause::Estop));
        assert_eq!(reader.take_line_stop(), None);
    }

    #[test]
    fn a_record_has_the_lines_when_they_change_and_not_on_a_robot_without() {
        let words = wired();
        let mut reader = Reader::default();
        words.saw(NOW, 0, false);
        let seen = reader.lines(NOW, &words).expect("the first look is news");
        assert_eq!((seen.open, seen.reset, seen.fresh), (0, false, true));
        assert_eq!(reader.lines(NOW, &words), None);
        words.saw(NOW, 1, true);
        let seen = reader.lines(NOW, &words).expect("an input opened");
        assert_eq!((seen.open, seen.reset), (1, true));
        let late = NOW.plus_ns(30_000_000);
        assert!(reader.lines(late, &words).is_some_and(|seen| !seen.fresh));
        assert_eq!(Reader::default().lines(NOW, &Estop::default()), None);
    }

    #[test]
    fn only_causes_from_outside_can_be_raised_from_outside() {
        let words = Estop::default();
        assert!(words.raise(Cause::LowBattery, true) && !words.raise(Cause::Estop, false));
        let mut reader = Reader::default();
        assert!(reader.read(NOW, &words).conditions.has(Cause::LowBattery));
        words.raise(Cause::LowBattery, false);
        assert!(reader.read(NOW, &words).conditions.is_empty());
    }

    #[test]
    fn a_standing_survives_the_trip() {
        for cause in Cause::ALL {
            for action in Action::ALL {
                let live = CauseSet::EMPTY.with(cause, true);
                let standing = Standing {
                    live,
                    action,
                    cause: Some(cause),
                };
                assert_eq!(Standing::unpack(standing.pack()), standing);
            }
        }
        assert_eq!(Standing::unpack(0), Standing::default());
        assert!(
            Estop::default().is_latched(1),
            "latched before any loop runs"
        );
    }
}
