//! One device in its loop: its rings, its buffers, and what waits to be handed back.
//!
//! rt-safe but for [`Seat::new`]. What comes from outside comes through the loop's tap
//! (`recording`), also the clock. It moves words between the outside and [`Device`], which decides;
//! nothing that owns memory is dropped here, it goes back to the server through the events.

use kairo_failsafe::{self as failsafe, Flags};
use kairo_link::MonoNs;
use kairo_link::abi::{Cause, DeviceState, Reply, Verdict};
use kairo_link::latest;
use kairo_link::ring::PushError;
use kairo_link::stats::LoopStats;
use kairo_record::state::{Malformed, Sink, Source, State};
use kairo_record::tap::Tap;

use super::failsafe::{Guard, Order as Safety};
use crate::device::{Device, Tick};
use crate::estop::{Estop, Standing};
use crate::exchange::LoopSide;
use crate::order::{Event, LeaseChannel};
use crate::recording::{CommandTaken, Outcome, of_device, tag, unconnected};

/// Commands taken from one lease in one tick. A holder that sends faster than this fills its own
/// ring; 64 judgements take some ten microseconds.
const COMMANDS_PER_TICK_MAX: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Seat {
    /// Which device of the loop.
    index: usize,
    device: Device,
    guard: Guard,
    /// Its number in robot.toml, under which its standing is published.
    number: usize,
    link: LoopSide,
    lease: Option<LeaseChannel>,
    state: Option<latest::Writer<DeviceState>>,
    /// What waits to be handed back because the event ring was full.
    ended: Option<(LeaseChannel, Cause)>,
    retired: Option<latest::Writer<DeviceState>>,
    reported_present: bool,
    /// Ticks in a row without new feedback.
    ticks_without_feedback: u32,
    /// What the failsafe machine decided last.
    standing: Standing,
}

/// What a seat is made of.
#[derive(Debug)]
pub struct SeatParts {
    /// The device.
    pub device: Device,
    /// Its end towards the bus.
    pub link: LoopSide,
    /// Its number in robot.toml.
    pub number: usize,
    /// What watches over it.
    pub guard: Guard,
}

impl Seat {
    /// A device without lease or state buffer. setup-only.
    pub(super) fn new(index: usize, part: SeatParts) -> Self {
        Self {
            index,
            device: part.device,
            guard: part.guard,
            number: part.number,
            link: part.link,
            lease: None,
            state: None,
            ended: None,
            retired: None,
            reported_present: false,
            ticks_without_feedback: 0,
            standing: Standing::default(),
        }
    }

    pub(super) fn begin(&mut self, tick: Tick) {
        self.device.begin(tick);
    }

    pub(super) fn armed(&mut self, now: MonoNs, armed: bool, latched: bool) {
        self.device.decide(now, armed);
        self.guard.begin(now, latched);
    }

    /// Whether the other devices of the loop must know that this one stops.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.guard.is_in_trouble()
    }

    /// The loop missed a period, and shall stop for it.
    pub(super) fn overran(&mut self) {
        self.guard.overran();
    }

    /// Runs the failsafe machine over `robot`, the flags of the whole robot, and what is known of
    /// this device, and lets the device do what comes out. Publishes it; true when that is news.
    pub(super) fn decide(
        &mut self,
        tap: &mut Tap,
        tick: Tick,
        robot: Flags,
        words: &Estop,
    ) -> bool {
        let decision = self.guard.step(tick, robot, &self.device);
        // Nobody's stream of commands goes on by itself when the e-stop is cleared.
        if decision.live.has(failsafe::Cause::Estop) {
            self.end_lease(tap, tick, Cause::EmergencyStop);
        }
        match self.guard.tell(&decision) {
            Some(Safety::Restrain(restraint)) => self.device.restrain(tick.time, restraint),
            Some(Safety::Release) => self.device.release(tick.time),
            None => {}
        }
        let standing = Standing::from(&decision);
        let news = standing != self.standing;
        self.standing = standing;
        words.publish(self.number, standing);
        news
    }

    /// Whether the charge pump may go on for this device.
    pub(super) fn is_healthy(&self) -> bool {
        let stops = [
            failsafe::Cause::Estop,
            failsafe::Cause::ShuttingDown,
            failsafe::Cause::LoopOverrun,
            failsafe::Cause::PluginFault,
        ];
        !stops.iter().any(|cause| self.standing.live.has(*cause))
    }

    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    pub(super) const fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    pub(super) fn is_moving(&self) -> bool {
        self.device.is_moving()
    }

    /// Whether a displaced buffer waits, so that the next order could displace it for good.
    pub(super) fn has_to_hand_back(&self) -> bool {
        self.ended.is_some() || self.retired.is_some()
    }

    pub(super) fn open_state(&mut self, writer: latest::Writer<DeviceState>) {
        self.retired = self.state.replace(writer);
    }

    pub(super) fn close_state(&mut self) {
        self.retired = self.state.take();
    }

    pub(super) fn open_lease(&mut self, tap: &mut Tap, tick: Tick, channel: LeaseChannel) {
        self.end_lease(tap, tick, Cause::Released);
        self.device.open_lease(channel.epoch);
        self.guard.lease_opened();
        self.lease = Some(channel);
    }

    /// Ends the lease if it is this one.
    pub(super) fn close_lease(&mut self, tap: &mut Tap, tick: Tick, epoch: u64, cause: Cause) {
        if self.device.lease_epoch() == epoch {
            self.end_lease(tap, tick, cause);
        }
    }

    pub(super) fn observe(&mut self, tap: &mut Tap, tick: Tick) {
        let feedback = of_device(tag::FEEDBACK, self.index);
        match tap.input_some(feedback, || self.link.feedback.take()) {
            Some(feedback) => {
                self.ticks_without_feedback = 0;
                if let Some(cause) = self.device.observe(tick.time, &feedback) {
                    self.end_lease(tap, tick, cause);
                }
            }
            None => self.ticks_without_feedback = self.ticks_without_feedback.saturating_add(1),
        }
        if self.lease.is_some()
            && let Some(cause) = self.device.overdue(tick.time)
        {
            self.end_lease(tap, tick, cause);
        }
    }

    /// Whether a bus that is up brings less than the loop could use. One tick without anything new
    /// is what two threads of the same period see of each other now and then.
    pub(super) fn starves(&self) -> bool {
        self.device.is_present() && self.ticks_without_feedback > 1
    }

    /// Takes and answers commands; true when there was one.
    pub(super) fn take_commands(&mut self, tap: &mut Tap, tick: Tick, stats: &LoopStats) -> bool {
        let mut any = false;
        let entry = of_device(tag::COMMAND, self.index);
        for _ in 0..COMMANDS_PER_TICK_MAX {
            let Some(lease) = &mut self.lease else { break };
            let Some(taken) = tap.input_some(entry, || take(lease)) else {
                break;
            };
            any = true;
            if taken.corrupt {
                self.end_lease(tap, tick, Cause::RingCorrupt);
                break;
            }
            let CommandTaken { now, command, .. } = taken;
            let reply = self.device.command(now, tick, &command);
            if reply.verdict == Verdict::Accepted as u32 {
                self.guard.commanded(&command);
                stats
                    .command_age
                    .record(now.since_ns(MonoNs(command.issued_ns)));
            }
            self.reply(tap, tick, &reply);
        }
        any
    }

    /// Ends the command in force when its time is over; true when it was.
    pub(super) fn expire(&mut self, tap: &mut Tap, tick: Tick) -> bool {
        let Some(notice) = self.device.expire(tick) else {
            return false;
        };
        self.guard.ended(Cause::CommandExpired);
        self.reply(tap, tick, &notice);
        true
    }

    /// A full reply ring means a holder that does not read: its loss. A corrupt one ends the lease.
    fn reply(&mut self, tap: &mut Tap, tick: Tick, reply: &Reply) {
        let Some(lease) = &mut self.lease else { return };
        tap.output(of_device(tag::REPLY, self.index), reply);
        let corrupt = tap.input_some(of_device(tag::REPLY_CORRUPT, self.index), || {
            let pushed = lease.replies.push(reply);
            matches!(pushed, Err(PushError::Corrupt(_))).then_some(true)
        });
        if corrupt.is_some() {
            self.end_lease(tap, tick, Cause::RingCorrupt);
        }
    }

    pub(super) fn end_lease(&mut self, tap: &mut Tap, tick: Tick, cause: Cause) {
        let Some(mut channel) = self.lease.take() else {
            return;
        };
        let notice = self.device.notice(tick, cause);
        tap.output(of_device(tag::REPLY, self.index), &notice);
        // The holder may be gone or hostile: the notice is a courtesy.
        let _ = channel.replies.push(&notice);
        self.device.end_lease(tick.time, cause);
        self.guard.ended(cause);
        // A lease opens only when none waits here, so nothing is overwritten.
        self.ended = Some((channel, cause));
    }

    /// Ends the lease, if there is one, and takes the declared safe action.
    pub(super) fn make_safe(&mut self, tap: &mut Tap, tick: Tick, cause: Cause) {
        self.end_lease(tap, tick, cause);
        self.device.take_safe_action(tick.time, cause);
    }

    pub(super) fn move_setpoints(&mut self) {
        self.device.step();
    }

    pub(super) fn publish(&mut self, tap: &mut Tap, tick: Tick) {
        let goals = self.device.goals();
        tap.output(of_device(tag::GOALS, self.index), &goals);
        self.link.goals.publish(&goals);
        let state = self.device.state(tick);
        tap.output(of_device(tag::OUTCOME, self.index), &Outcome::from(&state));
        if let Some(writer) = &mut self.state {
            writer.publish(&state);
        }
    }

    /// Moves what is due to the server; true when something went.
    pub(super) fn hand_back(&mut self, device: usize, events: &mut rtrb::Producer<Event>) -> bool {
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

/// The next command of a lease, with the time at which it was taken.
fn take(lease: &mut LeaseChannel) -> Option<CommandTaken> {
    match lease.commands.pop() {
        Ok(None) => None,
        Ok(Some(command)) => Some(CommandTaken {
            corrupt: false,
            now: MonoNs::now(), // Through the tap.
            command,
        }),
        Err(_corrupt) => Some(CommandTaken {
            corrupt: true,
            ..CommandTaken::default()
        }),
    }
}

/// Of a keyframe. The buffers and rings are made anew in replay, where nobody is behind them; what
/// waits to be handed back decides only about when orders are taken, and those are recorded.
impl State for Seat {
    fn save(&self, sink: &mut Sink) {
        let Self {
            index: _,
            device,
            guard,
            number: _,
            standing: _,
            link: _,
            lease,
            state: _,
            ended: _,
            retired: _,
            reported_present,
            ticks_without_feedback,
        } = self;
        device.save(sink);
        guard.save(sink);
        lease.is_some().save(sink);
        reported_present.save(sink);
        ticks_without_feedback.save(sink);
    }

    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        let mut leased = false;
        self.device.load(source)?;
        self.guard.load(source)?;
        leased.load(source)?;
        self.reported_present.load(source)?;
        self.ticks_without_feedback.load(source)?;
        self.lease = leased.then(|| unconnected(self.device.lease_epoch()));
        Ok(())
    }

    fn describe(name: &str, words: &mut Vec<String>) {
        Device::describe(name, words);
        Guard::describe(name, words);
        for field in ["leased", "reported_present", "ticks_without_feedback"] {
            words.push(format!("{name}.{field}:u64"));
        }
    }
}
