//! The lines' thread with wires of its own: what it tells the loops, and when the pump runs.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use kairo_failsafe::Cause;
use kairo_link::lines::{LineDescription, LineKind, report};

use super::*;
use crate::config::{Bias, EstopConfig, LineAddress, LineConfig};
use crate::estop::Reader;

const START: MonoNs = MonoNs(10_000_000_000);
const PERIOD_NS: u64 = 1_000_000;
const DEBOUNCE_NS: u64 = 5_000_000;

/// A wire that a test holds the other end of.
#[derive(Clone, Debug, Default)]
struct Fake {
    /// `Ok(acting)`, or what the kernel says.
    level: Arc<Mutex<Option<Errno>>>,
    acting: Arc<AtomicUsize>,
    edges: Arc<AtomicU64>,
    bell: Option<Arc<OwnedFd>>,
}

impl Fake {
    fn act(&self, acting: bool) {
        self.acting.store(usize::from(acting), Ordering::SeqCst);
    }

    fn fail(&self, errno: Option<Errno>) {
        *self.level.lock().unwrap() = errno;
    }

    fn boxed(&self) -> Option<Box<dyn Wire>> {
        Some(Box::new(self.clone()))
    }
}

impl Wire for Fake {
    fn is_acting(&mut self) -> Result<bool, Errno> {
        match *self.level.lock().unwrap() {
            Some(errno) => Err(errno),
            None => Ok(self.acting.load(Ordering::SeqCst) != 0),
        }
    }

    fn take_edges(&mut self) -> Result<bool, Errno> {
        Ok(self.edges.swap(0, Ordering::SeqCst) > 0)
    }

    fn edges(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.as_fd())
    }
}

/// What a pump's line was driven to.
#[derive(Clone, Debug, Default)]
struct Driven(Arc<Mutex<Vec<bool>>>);

impl Coil for Driven {
    fn drive(&mut self, high: bool) -> Result<(), Errno> {
        self.0.lock().unwrap().push(high);
        Ok(())
    }
}

struct Bench {
    lines: Lines,
    shared: Arc<Shared>,
    stats: Stats,
    now: MonoNs,
    reader: Reader,
}

fn line(name: &str) -> LineConfig {
    LineConfig {
        name: name.into(),
        line: LineAddress::Name(name.into()),
        acts_when_high: true,
        bias: Bias::PullUp,
        debounce_us: 5_000,
    }
}

impl Bench {
    fn new(inputs: &[&Fake], reset: Option<&Fake>, pump: Option<&Driven>) -> Self {
        let config = EstopConfig {
            inputs: inputs.iter().map(|_| line("stop")).collect(),
            reset: reset.map(|_| line("reset")),
            ..EstopConfig::default()
        };
        let (stats, shared) = (Stats::empty(), Arc::new(Shared::new(&config)));
        let watched = |fake: &Fake| Watched::new(fake.boxed(), DEBOUNCE_NS);
        let coil = |driven: &Driven| Box::new(driven.clone()) as Box<dyn Coil>;
        let mut lines = Lines::new(LinesParts {
            inputs: inputs.iter().map(|fake| watched(fake)).collect(),
            reset: reset.map(watched),
            pump: pump.map(|driven| Pump::new(Some(coil(driven)), 1)),
            loops: 1,
            stats: stats.clone(),
            shared: Arc::clone(&shared),
        });
        lines.rehearse(Period {
            woke: START,
            ..Period::default()
        });
        lines.decided(START, true);
        Self {
            lines,
            shared,
            stats,
            now: START,
            reader: Reader::default(),
        }
    }

    /// A period of the lines, and a tick of the loop after it: whether it finds a stop, and the
    /// level of the reset.
    fn period(&mut self) -> (bool, bool) {
        self.now = self.now.plus_ns(PERIOD_NS);
        self.lines.run(Period {
            woke: self.now,
            ..Period::default()
        });
        self.tick()
    }

    fn tick(&mut self) -> (bool, bool) {
        let flags = self.reader.read(self.now, self.shared.estop());
        (flags.conditions.has(Cause::Estop), flags.reset)
    }

    fn stops(&mut self) -> bool {
        self.period().0
    }
}

#[test]
fn acting_stops_at_once_and_rest_counts_only_after_its_debounce() {
    let wire = Fake::default();
    let mut bench = Bench::new(&[&wire], None, None);
    assert!(!bench.stops());
    wire.act(true);
    assert!(bench.stops());
    wire.act(false);
    for period in 1..DEBOUNCE_NS / PERIOD_NS {
        assert!(bench.stops(), "good again after {period} ms of rest");
    }
    assert!(!bench.stops(), "at rest for its whole time");
}

#[test]
fn any_input_of_several_stops_and_the_report_says_which() {
    let wires = [Fake::default(), Fake::default(), Fake::default()];
    for number in 0..wires.len() {
        let all: Vec<&Fake> = wires.iter().collect();
        let mut bench = Bench::new(&all, None, None);
        assert!(!bench.stops());
        wires[number].act(true);
        assert!(bench.stops());
        assert_eq!(bench.shared.estop().open_lines(), 1 << number);
        let stats = &bench.stats.block().lines;
        assert_eq!(stats.stopped_by.load(Ordering::Relaxed), 1 << number);
        wires[number].act(false);
    }
}

#[test]
fn a_line_that_cannot_be_read_is_a_stop_and_so_is_one_that_was_never_opened() {
    let wire = Fake::default();
    let mut bench = Bench::new(&[&wire], None, None);
    assert!(!bench.stops());
    wire.fail(Some(Errno::ENODEV));
    assert!(bench.stops());
    let stats = &bench.stats.block().lines;
    assert_eq!(stats.unreadable.load(Ordering::Relaxed), 1);
    assert_eq!(
        stats.errno.load(Ordering::Relaxed),
        Errno::ENODEV as u64,
        "the report says why"
    );
    let mut never = Watched::new(None, 0);
    assert!(!never.look(START, false).good);
    let reset = Fake::default();
    let mut bench = Bench::new(&[], Some(&reset), None);
    assert_eq!(bench.period(), (false, false));
    reset.fail(Some(Errno::EIO));
    assert_eq!(bench.period(), (true, true), "held down, and a stop");
    reset.fail(None);
    let (stops, pressed) = bench.period();
    assert!(!stops && pressed, "back is no press: it is still settling");
}

#[test]
fn a_pull_that_is_over_before_anybody_looks_stops_all_the_same() {
    let wire = Fake::default();
    let mut bench = Bench::new(&[&wire], None, None);
    assert!(!bench.stops());
    // An edge was noted, and the level is back at rest: seen between two periods, with a whole
    // period of good looks before the loop's tick.
    bench.lines.parts.inputs[0].debounce_ns = 0;
    bench.lines.polled[0].fd = 0;
    wire.edges.store(1, Ordering::SeqCst);
    bench.lines.look(bench.now.plus_ns(10), true);
    bench.lines.look(bench.now.plus_ns(20), true);
    assert!(bench.shared.estop().inputs_are_good(bench.now));
    assert!(bench.tick().0, "the pull was lost");
    assert!(!bench.tick().0, "and counted twice");
}

#[test]
fn a_stop_is_counted_with_the_tick_that_had_begun() {
    let wire = Fake::default();
    let mut bench = Bench::new(&[&wire], None, None);
    let ticks = &bench.stats.block().loops[0].periods.ticks;
    ticks.store(41, Ordering::Relaxed);
    wire.act(true);
    assert!(bench.stops());
    assert_eq!(bench.reader.take_line_stop(), Some(1));
    assert_eq!(bench.reader.take_line_stop(), None);
    let described = [LineDescription {
        name: "front".into(),
        kind: LineKind::Input,
        ..LineDescription::default()
    }];
    let stop = report(&described, &bench.stats.block().lines, 1).stop;
    let stop = stop.unwrap();
    assert_eq!((stop.number, stop.by), (1, vec!["front".to_owned()]));
    assert_eq!(stop.loops[0].seen_after_tick, 41);
    assert!(bench.stops(), "still open");
    let stops = &bench.stats.block().lines.stops;
    assert_eq!(stops.load(Ordering::Relaxed), 1, "one pull is one stop");
}

#[test]
fn an_input_that_is_open_before_the_robot_is_armed_is_a_level_and_no_stop_of_its_own() {
    let wire = Fake::default();
    wire.act(true);
    let mut bench = Bench::new(&[&wire], None, None);
    assert!(bench.stops());
    let stops = &bench.stats.block().lines.stops;
    assert_eq!(stops.load(Ordering::Relaxed), 0);
}

#[test]
fn the_pump_toggles_with_healthy_ticks_only_and_falls_with_an_input() {
    let (wire, driven) = (Fake::default(), Driven::default());
    let mut bench = Bench::new(&[&wire], None, Some(&driven));
    let toggles = || driven.0.lock().unwrap().len();
    bench.stops();
    assert_eq!(toggles(), 0, "no loop has ticked");
    for _ in 0..4 {
        bench.shared.estop().pump(0);
        bench.stops();
    }
    assert_eq!(*driven.0.lock().unwrap(), [true, false, true, false]);
    bench.stops();
    assert_eq!(toggles(), 4, "a loop that does not tick stops it");
    bench.shared.estop().pump(0);
    bench.stops();
    wire.act(true);
    bench.shared.estop().pump(0);
    bench.stops();
    assert_eq!(driven.0.lock().unwrap().last(), Some(&false));
    let low = toggles();
    for _ in 0..10 {
        bench.shared.estop().pump(0);
        bench.stops();
    }
    assert_eq!(toggles(), low, "an input is open");
}

#[test]
fn the_pump_of_a_robot_that_is_not_armed_or_is_stopping_stands_still_and_low() {
    let driven = Driven::default();
    let mut bench = Bench::new(&[], None, Some(&driven));
    bench.lines.decided(START, false);
    bench.shared.estop().pump(0);
    bench.stops();
    assert!(driven.0.lock().unwrap().is_empty());
    bench.lines.decided(START, true);
    bench.shared.estop().pump(0);
    bench.stops();
    bench.shared.stop();
    bench.shared.estop().pump(0);
    bench.stops();
    assert_eq!(*driven.0.lock().unwrap(), [true, false]);
}

/// A wire whose edge is always there, which a hostile one comes close to.
fn stormy() -> Fake {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    nix::unistd::write(&writer, b"x").unwrap();
    // The writing end stays open, so that the reading end is readable and not hung up.
    std::mem::forget(writer);
    Fake {
        bell: Some(Arc::new(reader)),
        ..Fake::default()
    }
}

#[test]
fn an_edge_wakes_and_a_storm_of_them_costs_a_bounded_number_of_looks() {
    let wire = stormy();
    let mut bench = Bench::new(&[&wire], None, None);
    wire.edges.store(1, Ordering::SeqCst);
    let planned = MonoNs::now().plus_ns(2_000_000_000);
    bench.lines.wait(planned);
    assert!(MonoNs::now() >= planned, "it does not come early");
    let stats = &bench.stats.block().lines;
    let looks = stats.edge_looks.load(Ordering::Relaxed);
    assert_eq!(looks, u64::from(EDGE_LOOKS_MAX));
    assert_eq!(stats.storms.load(Ordering::Relaxed), 1);
    assert_eq!(stats.stops.load(Ordering::Relaxed), 1);
}

#[test]
fn a_wire_whose_chip_went_away_wakes_once() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(writer);
    let wire = Fake {
        bell: Some(Arc::new(reader)),
        ..Fake::default()
    };
    let mut bench = Bench::new(&[&wire], None, None);
    for _ in 0..3 {
        bench.lines.wait(MonoNs::now().plus_ns(200_000_000));
    }
    let stats = &bench.stats.block().lines;
    assert_eq!(stats.edge_looks.load(Ordering::Relaxed), 1);
    assert_eq!(stats.storms.load(Ordering::Relaxed), 0);
}
