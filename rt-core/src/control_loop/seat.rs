//! One device in its loop: its rings, its buffers, and what waits to be handed back.
//!
//! rt-safe but for [`Seat::new`]. It moves words between the outside and [`Device`], which decides;
//! nothing that owns memory is dropped here, it goes back to the server through the events.

use kairo_failsafe::{self as failsafe, Flags};
use kairo_link::MonoNs;
use kairo_link::abi::{Cause, DeviceState, Reply, Verdict};
use kairo_link::latest;
use kairo_link::ring::PushError;
use kairo_link::stats::LoopStats;

use super::failsafe::{Guard, Order as Safety};
use crate::device::{Device, Tick};
use crate::estop::{Estop, Standing};
use crate::exchange::LoopSide;
use crate::order::{Event, LeaseChannel};

/// Commands taken from one lease in one tick. A holder that sends faster than this fills its own
/// ring; 64 judgements take some ten microseconds.
const COMMANDS_PER_TICK_MAX: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Seat {
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
    pub(super) fn new(part: SeatParts) -> Self {
        Self {
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

    pub(super) fn begin(&mut self, now: MonoNs, armed: bool, latched: bool) {
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
    pub(super) fn decide(&mut self, tick: Tick, robot: Flags, words: &Estop) -> bool {
        let decision = self.guard.step(tick, robot, &self.device);
        // Nobody's stream of commands goes on by itself when the e-stop is cleared.
        if decision.live.has(failsafe::Cause::Estop) {
            self.end_lease(tick, Cause::EmergencyStop);
        }
        match self.guard.tell(&decision) {
            Some(Safety::Restrain {
                action,
                cause,
                refuses,
            }) => self.device.restrain(tick.time, action, cause, refuses),
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

    pub(super) fn open_lease(&mut self, tick: Tick, channel: LeaseChannel) {
        self.end_lease(tick, Cause::Released);
        self.device.open_lease(channel.epoch);
        self.guard.lease_opened();
        self.lease = Some(channel);
    }

    /// Ends the lease if it is this one.
    pub(super) fn close_lease(&mut self, tick: Tick, epoch: u64, cause: Cause) {
        if self.device.lease_epoch() == epoch {
            self.end_lease(tick, cause);
        }
    }

    pub(super) fn observe(&mut self, tick: Tick) {
        match self.link.feedback.take() {
            Some(feedback) => {
                self.ticks_without_feedback = 0;
                if let Some(cause) = self.device.observe(tick.time, &feedback) {
                    self.end_lease(tick, cause);
                }
            }
            None => self.ticks_without_feedback = self.ticks_without_feedback.saturating_add(1),
        }
        if self.lease.is_some()
            && let Some(cause) = self.device.overdue(tick.time)
        {
            self.end_lease(tick, cause);
        }
    }

    /// Whether a bus that is up brings less than the loop could use. One tick without anything new
    /// is what two threads of the same period see of each other now and then.
    pub(super) fn starves(&self) -> bool {
        self.device.is_present() && self.ticks_without_feedback > 1
    }

    /// Takes and answers commands; true when there was one.
    pub(super) fn take_commands(&mut self, tick: Tick, stats: &LoopStats) -> bool {
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
                self.guard.commanded();
                stats
                    .command_age
                    .record(now.since_ns(MonoNs(command.issued_ns)));
            }
            self.reply(tick, &reply);
        }
        any
    }

    /// Ends the command in force when its time is over; true when it was.
    pub(super) fn expire(&mut self, tick: Tick) -> bool {
        let Some(notice) = self.device.expire(tick) else {
            return false;
        };
        self.guard.ended(Cause::CommandExpired);
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

    pub(super) fn end_lease(&mut self, tick: Tick, cause: Cause) {
        let Some(mut channel) = self.lease.take() else {
            return;
        };
        // The holder may be gone or hostile: the notice is a courtesy.
        let _ = channel.replies.push(&self.device.notice(tick, cause));
        self.device.end_lease(tick.time, cause);
        self.guard.ended(cause);
        // A lease opens only when none waits here, so nothing is overwritten.
        self.ended = Some((channel, cause));
    }

    /// Ends the lease, if there is one, and takes the declared safe action.
    pub(super) fn make_safe(&mut self, tick: Tick, cause: Cause) {
        self.end_lease(tick, cause);
        self.device.take_safe_action(tick.time, cause);
    }

    pub(super) fn move_setpoints(&mut self) {
        self.device.step();
    }

    pub(super) fn publish(&mut self, tick: Tick) {
        self.link.goals.publish(&self.device.goals());
        if let Some(writer) = &mut self.state {
            writer.publish(&self.device.state(tick));
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
