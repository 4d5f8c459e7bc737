//! A control loop: one SCHED_FIFO thread that judges commands and moves setpoints, every period.
//!
//! rt-safe after its bring-up has been reported (`periodic`): no allocation, no lock, no file, no
//! log; every tick is bounded by the number of devices and `COMMANDS_PER_TICK_MAX`. It never waits
//! for a bus: it reads the newest feedback with its age, and a bus that is slower than the loop
//! costs freshness, not ticks.
//!
//! A tick that begins late still runs; what happens to periods that can no longer begin in time is
//! the loop's overrun policy (`schedule`). Setpoints advance by one period per tick run, and not at
//! all in a tick that catches up, so an overrun makes a motion later, never faster.
//!
//! The steps of a tick have a fixed order, and each is a method of its own below
//! ([`ControlLoop::tick`]): what decides about safety stands before what it decides about, limits
//! stand after everything that could exceed them, and nothing comes between the limits and the
//! goals.
//!
//! A tick is a function of the loop's state and of what comes through the loop's tap: `recording`
//! has the rule. So a recorded session can be replayed, bit for bit, by this same code
//! ([`ControlLoop::replay`]).

mod block_stage;
mod failsafe;
mod heat;
mod seat;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kairo_failsafe::Flags;
use kairo_link::MonoNs;
use kairo_link::abi::Cause;
use kairo_link::stats::{LoopStats, PeriodStats, Stats, add};
use kairo_record::state::{Malformed, Sink, Source, State};
use kairo_record::tap::{self, Difference, TICK_WORDS_MAX, Tap};

use crate::config::{LoopBlocks, OverrunPolicy};
use crate::device::Tick;
use crate::estop::Reader;
use crate::order::{Event, Order};
use crate::periodic::{Period, Periodic};
use crate::recording::{OrderTaken, RobotFlags, of_loop, tag};
use crate::shared::Shared;
use crate::system_call_trace;
use crate::wake::Wake;
use block_stage::{BlockStage, Origin};
use seat::Seat;

pub use block_stage::Crossings;
pub use failsafe::Guard;
pub use seat::SeatParts;

/// Orders taken in one tick.
const ORDERS_PER_TICK_MAX: usize = 8;
/// States are announced by the bell at this interval at most, 100 times a second.
const BELL_INTERVAL_NS: u64 = 10_000_000;
/// A keyframe is recorded this often: what a replay that begins in the middle may have to skip.
const KEYFRAME_INTERVAL_NS: u64 = 1_000_000_000;

/// A loop before and while it runs. See the module documentation.
#[derive(Debug)]
pub struct ControlLoop {
    index: usize,
    period_ns: u64,
    overrun: OverrunPolicy,
    seats: Vec<Seat>,
    orders: rtrb::Consumer<Order>,
    events: rtrb::Producer<Event>,
    bell: Wake,
    stats: Stats,
    shared: Arc<Shared>,
    stopping: bool,
    reader: Reader,
    tap: Tap,
    keyframe_due: bool,
    blocks: Option<BlockStage>,
    /// Whether a block has failed: this loop's devices obey nobody until kairo-rt starts again.
    block_failed: bool,
}

/// What a loop is made of.
#[derive(Debug)]
pub struct LoopParts {
    /// Its index in the statistics.
    pub index: usize,
    /// Its period.
    pub period_ns: u64,
    /// What it does about missed periods.
    pub overrun: OverrunPolicy,
    /// Its devices, with their ends towards the bus.
    pub devices: Vec<SeatParts>,
    /// Orders of the link server.
    pub orders: rtrb::Consumer<Order>,
    /// Events for it.
    pub events: rtrb::Producer<Event>,
    /// Rung when there is something for it.
    pub bell: Wake,
    /// Where to count.
    pub stats: Stats,
    /// The words shared with other threads.
    pub shared: Arc<Shared>,
    /// The way of everything from outside.
    pub tap: Tap,
    /// Its control blocks.
    pub blocks: LoopBlocks,
    /// Their wires from and to other loops.
    pub crossings: Crossings,
    /// Where each device of the robot sits, by its index; of use for this loop's devices only.
    pub seats: Vec<usize>,
}

impl ControlLoop {
    /// A loop that does not run yet. setup-only.
    pub fn new(parts: LoopParts) -> Self {
        let seats = parts.devices.into_iter().enumerate();
        let seats: Vec<Seat> = seats.map(|(index, part)| Seat::new(index, part)).collect();
        let mut keyframe = Sink::new(TICK_WORDS_MAX);
        save_loop(&seats, None, [false; 2], &mut keyframe);
        let room = TICK_WORDS_MAX - keyframe.words().len();
        Self {
            index: parts.index,
            period_ns: parts.period_ns,
            overrun: parts.overrun,
            seats,
            reader: Reader::default(),
            orders: parts.orders,
            events: parts.events,
            bell: parts.bell,
            stats: parts.stats,
            shared: parts.shared,
            stopping: false,
            tap: parts.tap,
            keyframe_due: true,
            blocks: BlockStage::new(&parts.blocks, &parts.seats, parts.crossings, room),
            block_failed: false,
        }
    }

    fn own_stats(&self) -> &LoopStats {
        &self.stats.block().loops[self.index]
    }

    /// One tick. The order of the steps is a promise; see the module documentation.
    fn tick(&mut self, period: Period) {
        self.tap.begin();
        let period = self.tap.input(of_loop(tag::PERIOD), || period);
        let tick = tick_of(period);
        let interval = (BELL_INTERVAL_NS / self.period_ns).max(1);
        let mut news = tick.number.is_multiple_of(interval);
        for seat in &mut self.seats {
            seat.begin(tick);
        }
        // What the server orders: leases and state buffers, opened and closed.
        self.take_orders(tick);
        // 1. Observe.
        self.observe(tick);
        // 2. Decide: shutdown, e-stop and failsafe. What they decide outranks all that follows.
        news |= self.decide(tick);
        // 3. Commands, each judged; those in force expire.
        news |= self.take_commands(tick);
        // 4. Blocks: controllers, which may be wrong.
        news |= self.run_blocks(period);
        // 5. Limits, applied last and to everything: the setpoints move by one period.
        self.move_setpoints(period);
        // 6. Goals to the bus, states to the agent plane.
        self.publish(tick);
        self.tap.end();
        news |= self.hand_back();
        if news {
            system_call_trace::permitted(|| self.bell.ring());
        }
    }

    fn take_orders(&mut self, tick: Tick) {
        for _ in 0..ORDERS_PER_TICK_MAX {
            // An order can displace a buffer; there is room for one displaced buffer of a kind.
            if self.seats.iter().any(Seat::has_to_hand_back) {
                return;
            }
            let mut popped = None;
            let taken = self.tap.input_some(of_loop(tag::ORDER), || {
                popped = self.orders.pop().ok();
                popped.as_ref().map(OrderTaken::from)
            });
            let Some(taken) = taken else { return };
            // In a replay nothing was popped: rings with nobody behind them stand in.
            if let Some(order) = popped.or_else(|| taken.rebuild(self.seats.len())) {
                self.obey(order, tick);
            }
        }
    }

    fn obey(&mut self, order: Order, tick: Tick) {
        // Indices come from the server, which made them from the same configuration.
        match order {
            Order::OpenState { device, writer } => self.seats[device].open_state(writer),
            Order::CloseState { device } => self.seats[device].close_state(),
            Order::OpenLease { device, channel } => {
                let seat = &mut self.seats[device];
                seat.open_lease(&mut self.tap, tick, channel);
                if self.stopping {
                    seat.end_lease(&mut self.tap, tick, Cause::ShuttingDown);
                } else if self.block_failed {
                    seat.end_lease(&mut self.tap, tick, Cause::BlockFault);
                }
            }
            Order::CloseLease {
                device,
                epoch,
                cause,
            } => self.seats[device].close_lease(&mut self.tap, tick, epoch, cause),
        }
    }

    fn observe(&mut self, tick: Tick) {
        let mut starves = false;
        for seat in &mut self.seats {
            seat.observe(&mut self.tap, tick);
            starves |= seat.starves();
        }
        if starves {
            add(&self.own_stats().overruns_bus, 1);
        }
    }

    /// Every device's failsafe machine decides; true when any decided otherwise than before.
    fn decide(&mut self, tick: Tick) -> bool {
        if !self.stopping {
            let shared = &self.shared;
            self.stopping = self
                .tap
                .input(of_loop(tag::STOPPING), || shared.is_stopping());
            if self.stopping {
                self.make_safe(tick, Cause::ShuttingDown);
            }
        }
        let (words, reader) = (self.shared.estop(), &mut self.reader);
        self.tap
            .input_some(of_loop(tag::LINES), || reader.lines(tick.time, words));
        let robot = self.tap.input(of_loop(tag::SAFETY), || {
            RobotFlags::from(reader.read(tick.time, words))
        });
        let mut robot = Flags::from(robot);
        let ending = kairo_failsafe::Cause::ShuttingDown;
        let failed = kairo_failsafe::Cause::PluginFault;
        robot.conditions = robot.conditions.with(ending, self.stopping);
        robot.conditions = robot.conditions.with(failed, self.block_failed);
        let troubled = self.seats.iter().filter(|seat| seat.is_in_trouble());
        let troubled = troubled.count();
        let pressed = robot.conditions.has(kairo_failsafe::Cause::Estop);
        let (mut news, mut healthy) = (false, !pressed);
        for seat in &mut self.seats {
            let others = troubled - usize::from(seat.is_in_trouble());
            let linked = kairo_failsafe::Cause::DeviceLink;
            let mut flags = robot;
            flags.conditions = flags.conditions.with(linked, others > 0);
            news |= seat.decide(&mut self.tap, tick, flags, words);
            healthy &= seat.is_healthy();
        }
        self.reader.answer(words, self.index);
        if let Some(stop) = self.reader.take_line_stop() {
            self.count_line_stop(tick, stop);
        }
        let words = self.shared.estop();
        if healthy {
            words.pump(self.index);
        }
        news
    }

    /// This tick has decided upon stop `number` by a GPIO line.
    fn count_line_stop(&self, tick: Tick, number: u64) {
        let words = &self.stats.block().lines.loops[self.index];
        words.decided_in_tick.store(tick.number, Ordering::Relaxed);
        words.decided_ns.store(tick.time.0, Ordering::Relaxed);
        // Pairs with the load of whoever reports it: the words above are visible.
        words.decided_stop.store(number, Ordering::Release);
    }

    /// Ends every lease, and every device takes its declared safe action.
    fn make_safe(&mut self, tick: Tick, cause: Cause) {
        for seat in &mut self.seats {
            seat.make_safe(&mut self.tap, tick, cause);
        }
    }

    /// Takes, judges and answers commands; true when there is something to read.
    fn take_commands(&mut self, tick: Tick) -> bool {
        let stats = &self.stats.block().loops[self.index];
        let mut news = false;
        for seat in &mut self.seats {
            news |= seat.take_commands(&mut self.tap, tick, stats);
            news |= seat.expire(&mut self.tap, tick);
        }
        news
    }

    /// Runs the blocks; true when one has failed just now. Its loop's devices take their safe
    /// action then, and leases end as soon as they are opened.
    fn run_blocks(&mut self, period: Period) -> bool {
        // In a tick that catches up setpoints stand still, and so do controllers.
        let Some(blocks) = self.blocks.as_mut().filter(|_| !period.catches_up) else {
            return false;
        };
        if self.block_failed {
            return false;
        }
        let Some(report) = blocks.run(&mut self.tap, &mut self.seats, period.woke) else {
            return false;
        };
        self.block_failed = true;
        let word = &self.own_stats().block_fault;
        word.store(report.to_word(), Ordering::Relaxed);
        self.make_safe(tick_of(period), Cause::BlockFault);
        true
    }

    fn move_setpoints(&mut self, period: Period) {
        if period.catches_up {
            // The time this tick stands for is over: moving now would be moving twice as fast.
            return;
        }
        for seat in &mut self.seats {
            seat.move_setpoints();
        }
    }

    fn publish(&mut self, tick: Tick) {
        for seat in &mut self.seats {
            seat.publish(&mut self.tap, tick);
        }
    }

    /// Moves what is due to the server; true when something went.
    fn hand_back(&mut self) -> bool {
        let mut news = false;
        for (number, seat) in self.seats.iter_mut().enumerate() {
            news |= seat.hand_back(number, &mut self.events);
        }
        news
    }
}

/// Replay, by an ordinary thread: a loop made with [`Tap::replay`].
impl ControlLoop {
    /// Becomes what a keyframe says.
    ///
    /// # Errors
    /// When the keyframe is not one of a loop like this.
    pub fn load_keyframe(&mut self, words: &[u64]) -> Result<(), Malformed> {
        let mut source = Source::new(words);
        self.stopping.load(&mut source)?;
        self.block_failed.load(&mut source)?;
        for seat in &mut self.seats {
            seat.load(&mut source)?;
        }
        match &mut self.blocks {
            Some(blocks) => blocks.load(&mut source),
            None => Ok(()),
        }
    }

    /// Whether blocks are computed, rather than taken from the record; `None` without any that run.
    pub fn computes_blocks(&self) -> Option<bool> {
        let blocks = self.blocks.as_ref().filter(|_| !self.block_failed)?;
        Some(blocks.origin() == Origin::Computed)
    }

    /// The words a keyframe would have now.
    pub fn save_keyframe(&mut self, sink: &mut Sink) {
        let flags = [self.stopping, self.block_failed];
        save_loop(&self.seats, self.blocks.as_mut(), flags, sink);
    }

    /// Runs a recorded tick again, or what a recorded overrun led to.
    pub fn replay(&mut self, record: &[u64]) {
        let first = tap::entries(record).next().map(|(entry, _)| entry.tag);
        self.tap.load(record);
        if first == Some(tag::OVERRUN) {
            self.overran(Period::default());
        } else {
            self.tick(Period::default());
        }
    }

    /// How many outputs were compared so far, and where the first difference is.
    pub fn outcome(&self) -> (u64, Option<Difference>) {
        self.tap.outcome()
    }
}

fn save_loop(seats: &[Seat], blocks: Option<&mut BlockStage>, flags: [bool; 2], sink: &mut Sink) {
    flags.save(sink);
    for seat in seats {
        seat.save(sink);
    }
    if let Some(blocks) = blocks {
        blocks.save(sink);
    }
}

impl Periodic for ControlLoop {
    fn account(&self) -> &PeriodStats {
        &self.own_stats().periods
    }

    fn rehearse(&mut self, period: Period) {
        let tick = tick_of(period);
        if let Some(blocks) = &mut self.blocks {
            blocks.rehearse(&self.seats);
        }
        for seat in &mut self.seats {
            seat.observe(&mut self.tap, tick);
            seat.move_setpoints();
            seat.publish(&mut self.tap, tick);
        }
    }

    fn decided(&mut self, now: MonoNs, armed: bool) {
        let words = self.shared.estop();
        self.reader.begin(words);
        for seat in &mut self.seats {
            seat.armed(now, armed, words.latched_at_start());
        }
    }

    fn run(&mut self, period: Period) {
        let interval = (KEYFRAME_INTERVAL_NS / self.period_ns).max(1);
        if self.tap.is_live() && (self.keyframe_due || period.number.is_multiple_of(interval)) {
            self.keyframe_due = false;
            let flags = [self.stopping, self.block_failed];
            let (seats, blocks) = (&self.seats, self.blocks.as_mut());
            let save = |sink: &mut Sink| save_loop(seats, blocks, flags, sink);
            self.tap.keyframe(save);
        }
        self.tick(period);
    }

    fn overran(&mut self, period: Period) {
        if self.overrun == OverrunPolicy::Stop {
            add(&self.own_stats().stops, 1);
            self.tap.begin();
            let period = self.tap.input(of_loop(tag::OVERRUN), || period);
            for seat in &mut self.seats {
                seat.overran();
            }
            self.make_safe(tick_of(period), Cause::LoopOverrun);
            self.tap.end();
        }
    }

    fn ended(&mut self) {
        // Here and not in the tick, which makes no system call.
        kairo_plugin::renew();
        self.shared.beat(self.index);
    }

    /// Whether the daemon is stopping and every setpoint rests, outputs sent.
    fn is_finished(&self) -> bool {
        self.stopping && !self.seats.iter().any(Seat::is_moving)
    }
}

/// What the period is called in replies and states.
const fn tick_of(period: Period) -> Tick {
    Tick {
        number: period.number,
        time: period.woke,
    }
}
