//! A control loop: one SCHED_FIFO thread that judges commands and moves setpoints, every period.
//!
//! rt-safe after [`ControlLoop::run`] has reported its bring-up: no allocation, no lock, no file,
//! no log; every tick is bounded by the number of devices and `COMMANDS_PER_TICK_MAX`. It never
//! waits for a bus: it reads the newest feedback with its age, and a bus that is slower than the
//! loop costs freshness, not ticks.
//!
//! A tick that begins late still runs; periods that can no longer begin in time are skipped and
//! counted (`schedule`). Setpoints advance by one period per tick run, so a skipped period makes a
//! motion later, never faster.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use kairo_link::MonoNs;
use kairo_link::abi::{Cause, DeviceState, Reply, Verdict};
use kairo_link::control::BringupCheck;
use kairo_link::latest;
use kairo_link::ring::PushError;
use kairo_link::stats::{LoopStats, Stats, add};

use crate::bringup::thread::{ThreadPlan, enter, read_back};
use crate::device::{Device, Tick};
use crate::exchange::LoopSide;
use crate::guard;
use crate::order::{Event, LeaseChannel, Order};
use crate::pace::sleep_until;
use crate::purity::Purity;
use crate::schedule::Schedule;
use crate::shared::{Decision, Shared};
use crate::wake::Wake;

/// Commands taken from one lease in one tick. A holder that sends faster than this fills its own
/// ring; 64 judgements take some ten microseconds.
const COMMANDS_PER_TICK_MAX: usize = 64;
/// Orders taken in one tick.
const ORDERS_PER_TICK_MAX: usize = 8;
/// Ticks with outputs disabled before the read-back: caches, page tables and branch predictors
/// settle, and the second half must run without a page fault.
const WARM_UP_TICKS: u64 = 50;
/// Thread counters are read every this many ticks: a system call of half a microsecond.
const PURITY_TICKS: u64 = 32;
/// States are announced by the bell at this interval at most, 100 times a second.
const BELL_INTERVAL_NS: u64 = 10_000_000;

/// One device in its loop.
#[derive(Debug)]
struct Seat {
    device: Device,
    link: LoopSide,
    lease: Option<LeaseChannel>,
    state: Option<latest::Writer<DeviceState>>,
    /// What waits to be handed back because the event ring was full.
    ended: Option<(LeaseChannel, Cause)>,
    retired: Option<latest::Writer<DeviceState>>,
    reported_present: bool,
}

/// A loop before and while it runs. See the module documentation.
#[derive(Debug)]
pub struct ControlLoop {
    plan: ThreadPlan,
    index: usize,
    period_ns: u64,
    seats: Vec<Seat>,
    orders: rtrb::Consumer<Order>,
    events: rtrb::Producer<Event>,
    bell: Wake,
    stats: Stats,
    shared: Arc<Shared>,
    stopping: bool,
}

/// What a loop is made of.
#[derive(Debug)]
pub struct LoopParts {
    /// Its thread.
    pub plan: ThreadPlan,
    /// Its index in the statistics.
    pub index: usize,
    /// Its period.
    pub period_ns: u64,
    /// Its devices, with their ends towards the bus.
    pub devices: Vec<(Device, LoopSide)>,
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
}

impl ControlLoop {
    /// A loop that does not run yet. setup-only.
    pub fn new(parts: LoopParts) -> Self {
        let seat = |(device, link)| Seat {
            device,
            link,
            lease: None,
            state: None,
            ended: None,
            retired: None,
            reported_present: false,
        };
        Self {
            plan: parts.plan,
            index: parts.index,
            period_ns: parts.period_ns,
            seats: parts.devices.into_iter().map(seat).collect(),
            orders: parts.orders,
            events: parts.events,
            bell: parts.bell,
            stats: parts.stats,
            shared: parts.shared,
            stopping: false,
        }
    }

    /// Runs until shutdown, and returns itself so that an ordinary thread drops it. The thread's
    /// bring-up is sent through `report` once.
    pub fn run(mut self, report: SyncSender<Vec<BringupCheck>>) -> Self {
        enter(&self.plan);
        self.warm_up(report);
        let purity = self.wait_for_decision();
        let mut schedule = Schedule::starting_after(MonoNs::now(), self.period_ns);
        let armed = self.shared.decision() == Decision::Armed;
        for seat in &mut self.seats {
            seat.device.decide(MonoNs::now(), armed);
        }
        self.own_stats()
            .first_planned_ns
            .store(schedule.first().0, Ordering::Relaxed);
        guard::count_this_thread();
        while !self.has_come_to_rest() {
            self.run_period(&mut schedule);
            if schedule.ticks().is_multiple_of(PURITY_TICKS) {
                purity.publish(&self.own_stats().thread);
            }
        }
        purity.publish(&self.own_stats().thread);
        self
    }

    fn own_stats(&self) -> &LoopStats {
        &self.stats.block().loops[self.index]
    }

    fn warm_up(&mut self, report: SyncSender<Vec<BringupCheck>>) {
        let mut schedule = Schedule::starting_after(MonoNs::now(), self.period_ns);
        let mut halfway = Purity::default();
        for tick in 0..WARM_UP_TICKS {
            if tick == WARM_UP_TICKS / 2 {
                halfway = Purity::of_this_thread();
            }
            self.idle_period(&mut schedule);
        }
        let end = Purity::of_this_thread();
        let faults =
            end.minor_faults + end.major_faults - halfway.minor_faults - halfway.major_faults;
        let thread = nix::unistd::gettid().as_raw();
        self.own_stats()
            .thread
            .tid
            .store(u64::try_from(thread).unwrap_or(0), Ordering::Relaxed);
        // The receiver waits for exactly one report from each thread, or is gone with the daemon.
        let _ = report.send(read_back(&self.plan, faults));
    }

    /// A period with outputs disabled: everything a tick touches, without an effect.
    fn idle_period(&mut self, schedule: &mut Schedule) {
        sleep_until(schedule.planned());
        let woke = MonoNs::now();
        schedule.begin();
        let tick = Tick {
            number: 0,
            time: woke,
        };
        for seat in &mut self.seats {
            seat.observe(tick);
            seat.device.step();
            seat.publish(tick);
        }
        self.shared.beat(self.index);
        schedule.finish(MonoNs::now());
    }

    fn wait_for_decision(&mut self) -> Purity {
        let mut schedule = Schedule::starting_after(MonoNs::now(), self.period_ns);
        // Bounded by the main thread, which decides as soon as every thread has reported.
        while self.shared.decision() == Decision::Pending && !self.shared.is_stopping() {
            self.idle_period(&mut schedule);
        }
        Purity::of_this_thread()
    }

    fn run_period(&mut self, schedule: &mut Schedule) {
        let planned = schedule.planned();
        sleep_until(planned);
        let woke = MonoNs::now();
        schedule.begin();
        let lateness_ns = woke.since_ns(planned);
        let stats = self.own_stats();
        stats.newest_planned_ns.store(planned.0, Ordering::Relaxed);
        stats.ticks.store(schedule.ticks(), Ordering::Relaxed);
        stats.lateness.record(lateness_ns);
        if !schedule.identity_holds() {
            add(&stats.identity_broken, 1);
        }
        self.tick(Tick {
            number: schedule.ticks(),
            time: woke,
        });
        let ended = MonoNs::now();
        let stats = self.own_stats();
        stats.execution.record(ended.since_ns(woke));
        let finished = schedule.finish(ended);
        if finished.skipped > 0 {
            stats.skipped.store(schedule.skipped(), Ordering::Relaxed);
            let late_wake = lateness_ns >= self.period_ns;
            let counter = if late_wake {
                &stats.overruns_late_wake
            } else {
                &stats.overruns_long_execution
            };
            add(counter, 1);
        }
        self.shared.beat(self.index);
    }

    fn tick(&mut self, tick: Tick) {
        if !self.stopping && self.shared.is_stopping() {
            self.stopping = true;
            for seat in &mut self.seats {
                seat.end_lease(tick, Cause::ShuttingDown);
                seat.device.take_safe_action(tick.time, Cause::ShuttingDown);
            }
        }
        self.take_orders(tick);
        let interval = (BELL_INTERVAL_NS / self.period_ns).max(1);
        let mut news = tick.number.is_multiple_of(interval);
        let stats = &self.stats.block().loops[self.index];
        for (number, seat) in self.seats.iter_mut().enumerate() {
            seat.observe(tick);
            news |= seat.take_commands(tick, stats);
            news |= seat.expire(tick);
            seat.device.step();
            seat.publish(tick);
            news |= seat.hand_back(number, &mut self.events);
        }
        if news {
            self.bell.ring();
        }
    }

    fn take_orders(&mut self, tick: Tick) {
        for _ in 0..ORDERS_PER_TICK_MAX {
            // An order can displace a buffer; there is room for one displaced buffer of a kind.
            let waits = |seat: &Seat| seat.ended.is_some() || seat.retired.is_some();
            if self.seats.iter().any(waits) {
                return;
            }
            let Ok(order) = self.orders.pop() else { return };
            self.obey(order, tick);
        }
    }

    fn obey(&mut self, order: Order, tick: Tick) {
        // Indices come from the server, which made them from the same configuration.
        match order {
            Order::OpenState { device, writer } => {
                let seat = &mut self.seats[device];
                seat.retired = seat.state.replace(writer);
            }
            Order::CloseState { device } => {
                let seat = &mut self.seats[device];
                seat.retired = seat.state.take();
            }
            Order::OpenLease { device, channel } => {
                let seat = &mut self.seats[device];
                seat.end_lease(tick, Cause::Released);
                seat.device.open_lease(channel.epoch);
                seat.lease = Some(channel);
                if self.stopping {
                    seat.end_lease(tick, Cause::ShuttingDown);
                }
            }
            Order::CloseLease {
                device,
                epoch,
                cause,
            } => {
                let seat = &mut self.seats[device];
                if seat.device.lease_epoch() == epoch {
                    seat.end_lease(tick, cause);
                }
            }
        }
    }

    /// Whether the daemon is stopping and every setpoint rests, outputs sent.
    fn has_come_to_rest(&self) -> bool {
        self.stopping && !self.seats.iter().any(|seat| seat.device.is_moving())
    }
}

impl Seat {
    fn observe(&mut self, tick: Tick) {
        if let Some(feedback) = self.link.feedback.take()
            && let Some(cause) = self.device.observe(tick.time, &feedback)
        {
            self.end_lease(tick, cause);
        }
        if self.lease.is_some()
            && let Some(cause) = self.device.overdue(tick.time)
        {
            self.end_lease(tick, cause);
        }
    }

    /// Takes and answers commands; true when there was one.
    fn take_commands(&mut self, tick: Tick, stats: &LoopStats) -> bool {
        let mut any = false;
        for _ in 0..COMMANDS_PER_TICK_MAX {
            let Some(lease) = &mut self.lease else { break };
            let command = match lease.commands.pop() {
                Ok(Some(command)) => command,
                Ok(None) => break,
                Err(_corrupt) => {
                    self.end_lease(tick, Cause::RingCorrupt);
                    return true;
                }
            };
            any = true;
            let now = MonoNs::now();
            let reply = self.device.command(now, tick, &command);
            if reply.verdict == Verdict::Accepted as u32 {
                stats
                    .command_age
                    .record(now.since_ns(MonoNs(command.issued_ns)));
            }
            self.reply(tick, &reply);
        }
        any
    }

    fn expire(&mut self, tick: Tick) -> bool {
        let Some(notice) = self.device.expire(tick) else {
            return false;
        };
        self.reply(tick, &notice);
        true
    }

    /// A full reply ring means a holder that does not read: its loss. A corrupt one ends the lease.
    fn reply(&mut self, tick: Tick, reply: &Reply) {
        let pushed = self.lease.as_mut().map(|lease| lease.replies.push(reply));
        if let Some(Err(PushError::Corrupt(_))) = pushed {
            self.end_lease(tick, Cause::RingCorrupt);
        }
    }

    fn end_lease(&mut self, tick: Tick, cause: Cause) {
        let Some(mut channel) = self.lease.take() else {
            return;
        };
        // The holder may be gone or hostile: the notice is a courtesy.
        let _ = channel.replies.push(&self.device.notice(tick, cause));
        self.device.end_lease(tick.time, cause);
        // A lease opens only when none waits here, so nothing is overwritten.
        self.ended = Some((channel, cause));
    }

    fn publish(&mut self, tick: Tick) {
        self.link.goals.publish(&self.device.goals());
        if let Some(writer) = &mut self.state {
            writer.publish(&self.device.state(tick));
        }
    }

    /// Moves what is due to the server; true when something went.
    fn hand_back(&mut self, device: usize, events: &mut rtrb::Producer<Event>) -> bool {
        let mut any = false;
        if events.slots() > 0
            && let Some((channel, cause)) = self.ended.take()
        {
            any |= events
                .push(Event::LeaseEnded {
                    device,
                    channel,
                    cause,
                })
                .is_ok();
        }
        if events.slots() > 0
            && let Some(writer) = self.retired.take()
        {
            any |= events.push(Event::StateRetired { writer }).is_ok();
        }
        let present = self.device.is_present();
        if present != self.reported_present
            && events.push(Event::Presence { device, present }).is_ok()
        {
            self.reported_present = present;
            any = true;
        }
        any
    }
}
