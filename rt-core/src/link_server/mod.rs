//! The ordinary thread behind `rt.sock`: one agent plane at a time, its leases, and their ends.
//!
//! Allocates, maps and closes on behalf of the control loops, which only ever get finished rings
//! through `rtrb` and give them back the same way. Rings and state buffers are made once a
//! connection, and reused by its leases: opening a lease maps nothing. What a peer keeps of earlier
//! connections is watched, and nobody is welcomed while too much is kept.
//!
//! Whoever connects is checked by SO_PEERCRED; a second live agent plane is refused, a dead one is
//! noticed by its hang-up and all its leases end with `agent_plane_gone`. Nothing a peer does
//! blocks this thread: every descriptor is non-blocking, a peer that does not read its notices is
//! dropped, one that attaches a descriptor to a message too, before it is taken; and what is
//! dropped is closed by another thread.
//!
//! The doorbell is the reading end of a pipe, not an eventfd: `O_NONBLOCK` belongs to the open
//! file, which both sides of an eventfd share, so a hostile peer could make our next ring block.
//! A pipe's writing end is ours alone. It never holds more than one ring.

mod connection;
mod listener;
mod routes;
mod safety;
mod share;
#[cfg(test)]
mod tests;
mod undertaker;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kairo_link::abi::Cause;
use kairo_link::control::{ControlError, Notice, Request, Welcome};
use kairo_link::segment::{SegmentError, VERSION};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bus_supervisor::PortPath;
use crate::journal::note;
use crate::order::{Event, LeaseChannel, Order};
use crate::shared::Shared;
use crate::wake::Wake;

use connection::Connection;
pub use listener::{ListenError, Listener};
pub use routes::{DeviceRoute, EpochCounter, LoopPort};
pub use safety::Safety;
use share::DeviceOffer;
pub use share::Tenancy;
use undertaker::Peer;

/// Connections that have not said hello yet; more are closed at once.
const PENDING_MAX: usize = 4;
/// Earlier connections whose memory somebody may still hold. A restarted agent plane needs none,
/// one that is being killed needs one; each takes about 80 KiB a device.
const HELD_LINKS_MAX: usize = 4;
/// How long a connection may stay without a hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(1);
/// Requests answered from one connection before the others get a turn.
const REQUESTS_PER_TURN_MAX: usize = 16;
/// How often to look at the shutdown flag when nothing happens.
const IDLE_MS: u16 = 100;
/// How often to retry orders that a loop had no room for.
const BACKLOG_MS: u16 = 5;

/// What the server is made of.
#[derive(Debug)]
pub struct LinkServer {
    /// Accepts connections.
    pub listener: Listener,
    /// What a newcomer is told; presence and ports are filled in when it comes.
    pub welcome: Welcome,
    /// Why the robot is not armed; empty when it is.
    pub not_armed_because: String,
    /// The statistics segment's descriptor.
    pub stats: OwnedFd,
    /// Where each bus is at present.
    pub ports: Vec<PortPath>,
    /// The devices, in the order of the welcome.
    pub devices: Vec<DeviceRoute>,
    /// The loops.
    pub loops: Vec<LoopPort>,
    /// Numbers of leases.
    pub epochs: EpochCounter,
    /// Rung by the loops.
    pub bell: Wake,
    /// The words shared with other threads.
    pub shared: Arc<Shared>,
    /// The agent plane.
    pub connection: Option<Connection>,
    /// Who has not said hello yet.
    pub pending: Vec<(Peer, Instant)>,
    /// E-stops and what became of them.
    pub safety: Safety,
    /// What earlier agent planes may still hold.
    pub retired: Vec<Tenancy>,
}

impl LinkServer {
    /// Runs until the control loops have ended.
    pub fn run(mut self) {
        while !self.shared.loops_are_done() {
            self.wait();
            self.bell.answer();
            self.take_events();
            self.tell_safety();
            if let Some(connection) = &self.connection {
                connection.ring();
            }
            self.serve_connection();
            self.serve_pending();
            self.accept();
            for control_loop in &mut self.loops {
                control_loop.flush();
            }
        }
        // The last notices: leases that ended with the shutdown.
        self.take_events();
    }

    fn wait(&self) {
        let mut fds = vec![
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), self.listener.interest()),
        ];
        let sockets = self.pending.iter().map(|(socket, _)| socket);
        let sockets = sockets.chain(
            self.connection
                .as_ref()
                .map(|connection| &connection.socket),
        );
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        let has_backlog = self.loops.iter().any(LoopPort::has_backlog);
        let hurry = has_backlog || self.safety.has_to_answer();
        let timeout = if hurry { BACKLOG_MS } else { IDLE_MS };
        // An interrupted or failed wait is a turn with nothing to do.
        let _ = poll(&mut fds, PollTimeout::from(timeout));
    }

    fn accept(&mut self) {
        for socket in self.listener.accept(usize::MAX) {
            if self.pending.len() < PENDING_MAX {
                self.pending.push((socket, Instant::now()));
            }
        }
    }

    fn serve_pending(&mut self) {
        let mut index = 0;
        while index < self.pending.len() {
            let (socket, since) = &self.pending[index];
            match socket.receive_bare::<Request>() {
                Ok(Request::Hello { version }) => {
                    let (socket, _) = self.pending.remove(index);
                    self.greet(socket, version);
                }
                Err(error) if error.is_would_block() && since.elapsed() < HELLO_PATIENCE => {
                    index += 1;
                }
                // Silent too long, gone, or not speaking this protocol.
                _ => drop(self.pending.remove(index)),
            }
        }
    }

    fn greet(&mut self, socket: Peer, version: u64) {
        self.retired.retain_mut(Tenancy::is_held);
        let refusal = if version != VERSION {
            Some(format!(
                "link version {version} is not {VERSION}: install kairod and kairo-rt of one build"
            ))
        } else if self.connection.is_some() {
            Some("busy: another agent plane is connected; stop it first".to_owned())
        } else if self.loops.iter().any(LoopPort::has_backlog) {
            Some("busy: a control loop does not take orders; try again".to_owned())
        } else if self.retired.len() >= HELD_LINKS_MAX {
            Some(format!(
                "limit: the memory of {HELD_LINKS_MAX} earlier links is still held by some \
                 process; end the processes of the earlier agent plane"
            ))
        } else {
            None
        };
        if let Some(reason) = refusal {
            let _ = socket.send(&Notice::Refused { reason }, &[]);
            return;
        }
        if let Err(error) = self.welcome(socket) {
            note(format_args!(
                "link: the agent plane could not be welcomed: {error}"
            ));
        }
    }

    fn welcome(&mut self, socket: Peer) -> Result<(), WelcomeError> {
        let number = self.epochs.next();
        let mut tenancy = Tenancy::default();
        let offers = self.devices.iter();
        let offers = offers.map(|_| DeviceOffer::make(number, &mut tenancy));
        let offers: Vec<_> = offers.collect::<Result<_, _>>()?;
        let (connection, doorbell) = Connection::new(socket, offers, tenancy)?;
        let mut descriptors = vec![self.stats.as_fd(), doorbell.as_fd()];
        descriptors.extend(connection.offers.iter().flat_map(DeviceOffer::descriptors));
        let mut welcome = self.welcome.clone();
        for (bus, port) in welcome.buses.iter_mut().zip(&self.ports) {
            bus.path = port.get().display().to_string();
        }
        for (description, device) in welcome.devices.iter_mut().zip(&self.devices) {
            description.present = device.present;
        }
        connection
            .socket
            .send(&Notice::Welcome(Box::new(welcome)), &descriptors)?;
        self.connection = Some(connection);
        self.safety.forget();
        self.tell_safety();
        Ok(())
    }

    /// The peer has mapped what it was offered: from now on it is used. Said again, it changes
    /// nothing.
    fn settle(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let offers = std::mem::take(&mut connection.offers);
        for (offer, device) in offers.into_iter().zip(&self.devices) {
            match offer.settle() {
                Ok(share) => {
                    connection.rings.push(Some(share.channel));
                    let order = Order::OpenState {
                        device: device.seat,
                        writer: share.states,
                    };
                    self.loops[device.control_loop].send(order);
                }
                Err(error) => return self.disconnect(&error.to_string()),
            }
        }
    }

    fn serve_connection(&mut self) {
        for _ in 0..REQUESTS_PER_TURN_MAX {
            let Some(connection) = &self.connection else {
                return;
            };
            match connection.socket.receive_bare::<Request>() {
                Ok(Request::Mapped) => self.settle(),
                Ok(Request::OpenLease { request, device }) => self.open_lease(request, device),
                Ok(Request::CloseLease { epoch, holder_gone }) => {
                    self.close_lease(epoch, holder_gone);
                }
                Ok(Request::Estop { request }) => {
                    let answer = self.safety.stop(request);
                    self.notify(&answer);
                }
                Ok(Request::ClearEstop { request }) => {
                    if let Some(refusal) = self.safety.clear(request) {
                        self.notify(&refusal);
                    }
                }
                Ok(Request::Hello { .. }) => self.disconnect("it said hello twice"),
                Err(error) if error.is_would_block() => return,
                Err(error) => self.disconnect(&error.to_string()),
            }
        }
    }

    fn open_lease(&mut self, request: u64, index: u32) {
        // A lease that is just ending is worth the tick it takes; one that is held is not.
        if let Some(route) = self.devices.get_mut(index as usize)
            && route.lease_epoch.is_some()
            && route.ending
            && route.waiting.is_none()
        {
            route.waiting = Some(request);
            return;
        }
        let answer = match self.try_open_lease(index) {
            Ok(epoch) => Notice::LeaseOpened { request, epoch },
            Err(Refusal { code, reason }) => Notice::LeaseRefused {
                request,
                code: code.to_owned(),
                reason,
            },
        };
        self.notify(&answer);
    }

    fn try_open_lease(&mut self, index: u32) -> Result<u64, Refusal> {
        let refuse = |code, reason: String| Refusal { code, reason };
        let count = self.devices.len();
        let Some(device) = self.devices.get_mut(index as usize) else {
            return Err(refuse(
                "no_such_device",
                format!("device {index} of {count}"),
            ));
        };
        if !self.welcome.armed {
            return Err(refuse("not_armed", self.not_armed_because.clone()));
        }
        if self.shared.is_stopping() {
            return Err(refuse("not_armed", "kairo-rt is shutting down".into()));
        }
        if self.safety.is_latched() {
            let reason = "the e-stop is latched; an operator clears it with `kairo rt clear-estop`";
            return Err(refuse("estopped", reason.to_owned()));
        }
        if !device.present {
            let reason = "its bus is not connected, or a servo does not answer".to_owned();
            return Err(refuse("bus_lost", reason));
        }
        if let Some(epoch) = device.lease_epoch {
            return Err(refuse("busy", format!("lease {epoch} is in force")));
        }
        let rings = self
            .connection
            .as_mut()
            .map(|connection| &mut connection.rings);
        let Some(rings) = rings.and_then(|rings| rings.get_mut(index as usize)) else {
            let reason = "the segments of the welcome are not acknowledged as mapped".to_owned();
            return Err(refuse("not_mapped", reason));
        };
        let corrupt = || {
            let reason = "its command ring holds impossible positions; connect anew".to_owned();
            refuse("ring_corrupt", reason)
        };
        let mut channel = rings.take().ok_or_else(corrupt)?;
        // Before the lease is announced, so that nothing of its own can be lost.
        if channel.commands.discard().is_err() {
            return Err(corrupt());
        }
        channel.epoch = self.epochs.next();
        let epoch = channel.epoch;
        device.lease_epoch = Some(epoch);
        let (seat, control_loop) = (device.seat, device.control_loop);
        self.loops[control_loop].send(Order::OpenLease {
            device: seat,
            channel,
        });
        Ok(epoch)
    }

    fn close_lease(&mut self, epoch: u64, holder_gone: bool) {
        let cause = if holder_gone {
            Cause::HolderGone
        } else {
            Cause::Released
        };
        match self
            .devices
            .iter_mut()
            .find(|device| device.lease_epoch == Some(epoch))
        {
            // Told already: a peer that repeats itself must not fill the queue of orders.
            Some(device) if device.ending => {}
            Some(device) => {
                device.ending = true;
                let order = Order::CloseLease {
                    device: device.seat,
                    epoch,
                    cause,
                };
                self.loops[device.control_loop].send(order);
            }
            // It ended by itself just before, or never was: closed all the same.
            None => self.notify(&Notice::LeaseClosed {
                epoch,
                cause: cause.name().into(),
            }),
        }
    }

    fn disconnect(&mut self, why: &str) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        self.retired.push(connection.tenancy);
        note(format_args!(
            "link: the agent plane is gone ({why}); its leases end"
        ));
        for device in &mut self.devices {
            let control_loop = &mut self.loops[device.control_loop];
            device.waiting = None;
            if let Some(epoch) = device.lease_epoch {
                device.ending = true;
                device.orphaned = true;
                let cause = Cause::AgentPlaneGone;
                control_loop.send(Order::CloseLease {
                    device: device.seat,
                    epoch,
                    cause,
                });
            }
            control_loop.send(Order::CloseState {
                device: device.seat,
            });
        }
    }

    /// Tells the agent plane what failsafe machines decided, and what became of clears.
    fn tell_safety(&mut self) {
        for notice in self.safety.news() {
            self.notify(&notice);
        }
    }

    fn take_events(&mut self) {
        for index in 0..self.loops.len() {
            while let Some(event) = self.loops[index].take_event() {
                self.happened(index, event);
            }
        }
    }

    fn happened(&mut self, control_loop: usize, event: Event) {
        let notice = match event {
            // Dropped here, on an ordinary thread, which is what it came back for.
            Event::StateRetired { writer } => return drop(writer),
            Event::LeaseEnded {
                device,
                channel,
                cause,
            } => {
                let Some((index, route)) = self.route(control_loop, device) else {
                    return;
                };
                route.lease_epoch = None;
                route.ending = false;
                let waiting = route.waiting.take();
                if std::mem::take(&mut route.orphaned) {
                    // Its connection is gone: unmapped here, by an ordinary thread.
                    drop(channel);
                } else {
                    let epoch = channel.epoch;
                    self.keep_rings(index, channel);
                    self.notify(&Notice::LeaseClosed {
                        epoch,
                        cause: cause.name().into(),
                    });
                }
                if let Some(request) = waiting {
                    self.open_lease(request, index);
                }
                return;
            }
            Event::Presence { device, present } => {
                let Some((index, route)) = self.route(control_loop, device) else {
                    return;
                };
                route.present = present;
                let (cause, detail) = if present {
                    (Cause::None, "every servo answers")
                } else {
                    (
                        Cause::BusLost,
                        "the bus was unplugged, or nobody answers on it",
                    )
                };
                Notice::DeviceChanged {
                    device: index,
                    present,
                    path: self.path_of(index),
                    cause: cause.name().into(),
                    detail: detail.into(),
                }
            }
        };
        self.notify(&notice);
    }

    /// Keeps the rings of an ended lease for the next one of the same connection.
    fn keep_rings(&mut self, index: u32, channel: LeaseChannel) {
        let connection = self.connection.as_mut();
        if let Some(place) = connection.and_then(|own| own.rings.get_mut(index as usize)) {
            *place = Some(channel);
        }
    }

    /// The node that the device's bus was last found at, as text; empty while there is none.
    fn path_of(&self, device: u32) -> String {
        let bus = self
            .welcome
            .devices
            .get(device as usize)
            .map(|device| &device.bus);
        let mut buses = self.welcome.buses.iter().zip(&self.ports);
        let port = buses.find(|(described, _)| Some(&described.name) == bus);
        port.map(|(_, port)| port.get().display().to_string())
            .unwrap_or_default()
    }

    /// The device in this seat of this loop, with its index.
    fn route(&mut self, control_loop: usize, seat: usize) -> Option<(u32, &mut DeviceRoute)> {
        let mut devices = (0_u32..).zip(&mut self.devices);
        devices.find(|(_, route)| route.control_loop == control_loop && route.seat == seat)
    }

    fn notify(&mut self, notice: &Notice) {
        let sent = self
            .connection
            .as_ref()
            .map(|connection| connection.socket.send(notice, &[]));
        if let Some(Err(error)) = sent {
            self.disconnect(&error.to_string());
        }
    }
}

/// Why there is no lease.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    reason: String,
}

/// Why an agent plane was not welcomed.
#[derive(Debug, thiserror::Error)]
enum WelcomeError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the doorbell pipe: {0}")]
    Doorbell(#[from] nix::errno::Errno),
}
