//! The real-time plane as the agent plane knows it: the link, the devices, and who claimed what.
//!
//! Everything here is memory: no function waits. [`crate::link`] does the I/O and calls in with
//! what it heard; methods call in with what clients want. Claims belong to a connection and to a
//! link: they end with whichever ends first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use kairo_link::MonoNs;
use kairo_link::abi::{Phase, Reply};
use kairo_link::control::{Request, Welcome};
use kairo_link::operator::DeviceFailsafe;
use kairo_link::ring::PushError;
use kairo_link::stats::Stats;
use kairo_wire::{ErrorInfo, Meta};
use tokio::sync::oneshot;

use crate::attention::Attention;
use crate::claim::{Claim, Draft};
use crate::device::{ALIAS_PREFIX, Device, Standing};
use crate::events::EventBus;
use crate::facts::{
    DeviceAdded, DeviceClaimed, DeviceDegraded, DeviceReleased, DeviceRemoved, DeviceSafe,
    RtConnected, RtFailsafe, RtLost,
};
use crate::link::Session;
use crate::reasons::Reason;
use crate::refusal;
use crate::views::{Peer, Status};

/// Ended claims that are remembered, to tell a late command why its epoch is stale.
const REMEMBERED_CLAIMS: usize = 64;

/// The answer to a claim: the epoch, or why not.
pub type ClaimAnswer = Result<u64, ErrorInfo>;

/// The answer to an e-stop or a clear: nothing, or the stable code and the reason of a refusal.
pub type StopAnswer = Result<(), (String, String)>;

/// Questions about e-stops that may wait for an answer: more are refused.
const STOPS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Plane {
    bus: Rc<EventBus>,
    session: Option<Session>,
    /// What had been counted at the last reset, and when; none without one.
    baseline: Option<(Stats, MonoNs)>,
    welcome: Welcome,
    devices: Vec<Device>,
    openings: BTreeMap<u64, oneshot::Sender<ClaimAnswer>>,
    stops: BTreeMap<u64, oneshot::Sender<StopAnswer>>,
    next_request: u64,
    ended: VecDeque<(u64, String)>,
    /// Whether anybody looks at the devices.
    pub attention: Rc<Attention>,
}

/// The plane, shared by everything on kairod's one thread. Never borrowed across an await.
pub type SharedPlane = Rc<RefCell<Plane>>;

impl Plane {
    /// Nothing known yet.
    pub fn new(bus: Rc<EventBus>) -> Self {
        Self {
            bus,
            session: None,
            baseline: None,
            welcome: Welcome::default(),
            devices: Vec::new(),
            openings: BTreeMap::new(),
            stops: BTreeMap::new(),
            next_request: 1,
            ended: VecDeque::new(),
            attention: Rc::default(),
        }
    }

    /// What kairo-rt said of itself, newest.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The statistics; none while kairo-rt is away.
    pub fn stats(&self) -> Option<&Stats> {
        self.session.as_ref().map(|session| &session.stats)
    }

    /// What had been counted at the last reset, and when.
    pub fn baseline(&self) -> Option<&(Stats, MonoNs)> {
        self.baseline.as_ref()
    }

    /// Counts from now on. The real-time plane's memory is only read; false while it is away.
    pub fn reset_counters(&mut self) -> bool {
        let counted = self.session.as_ref().map(|session| session.stats.copied());
        self.baseline = counted.map(|stats| (stats, MonoNs::now()));
        self.baseline.is_some()
    }

    /// The devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device that `name`, an id or an alias, means.
    pub fn find(&self, name: &str) -> Result<usize, ErrorInfo> {
        let id = name.strip_prefix(ALIAS_PREFIX).unwrap_or(name);
        let found = self.devices.iter().position(|device| device.id() == id);
        found.ok_or_else(|| {
            if self.devices.is_empty() && self.session.is_none() {
                return refusal::rt_away();
            }
            let known: Vec<String> = self.devices.iter().map(|d| d.id().to_string()).collect();
            refusal::unknown_device(name, &known)
        })
    }

    /// The link is up.
    pub fn connected(&mut self, session: Session, welcome: Welcome, devices: Vec<Device>) {
        self.session = Some(session);
        // Another kairo-rt counts from zero.
        self.baseline = None;
        self.devices = devices;
        self.welcome = welcome;
        let said = &self.welcome;
        let connected = RtConnected {
            robot: said.robot.clone(),
            build: said.build.clone(),
            armed: said.armed,
        };
        self.bus.publish(&connected, None);
        for device in &self.devices {
            if device.description.present {
                self.bus.publish(&added(device), None);
            }
        }
    }

    /// The link is down: every claim is void, because the real-time plane that gave it is gone or
    /// cannot be heard.
    pub fn disconnected(&mut self, cause: &str) {
        if self.session.take().is_none() {
            return;
        }
        self.openings.clear();
        self.stops.clear();
        for index in 0..self.devices.len() {
            self.free(index, "rt_lost", None);
            self.devices[index].detach();
        }
        let cause = cause.to_string();
        self.bus.publish(&RtLost { cause }, None);
    }

    /// Asks for a lease on a device.
    pub fn open(
        &mut self,
        index: usize,
        holder: Peer,
    ) -> Result<oneshot::Receiver<ClaimAnswer>, ErrorInfo> {
        let device = &self.devices[index];
        let name = device.id().to_string();
        if device.status() == Status::Unavailable {
            return Err(refusal::rt_away());
        }
        match &device.standing {
            Standing::Opening { holder, .. } => return Err(refusal::held(&name, holder)),
            Standing::Held(claim) if claim.holder.connection == holder.connection => {
                return Err(own_claim(&name, claim.epoch));
            }
            Standing::Held(claim) => return Err(refusal::held(&name, &claim.holder)),
            Standing::Free => {}
        }
        // Whether it is armed, and its bus up, is kairo-rt's to say: it knows what comes first.
        let request = self.next_request;
        self.next_request += 1;
        let device = u32::try_from(index).unwrap_or(u32::MAX);
        self.tell(&Request::OpenLease { request, device });
        let (sender, receiver) = oneshot::channel();
        self.openings.insert(request, sender);
        self.devices[index].standing = Standing::Opening { request, holder };
        self.attention.pay();
        Ok(receiver)
    }

    /// Asks for an e-stop, or with `clear` for its end. Never holds a stop back: kairo-rt hears of
    /// it even when nobody is left to take the answer.
    pub fn ask_stop(&mut self, clear: bool) -> Result<oneshot::Receiver<StopAnswer>, ErrorInfo> {
        if self.session.is_none() {
            return Err(refusal::rt_away());
        }
        let request = self.next_request;
        self.next_request += 1;
        self.tell(&match clear {
            true => Request::ClearEstop { request },
            false => Request::Estop { request },
        });
        // Answers that nobody waits for any more make room.
        self.stops.retain(|_, waiting| !waiting.is_closed());
        let (sender, receiver) = oneshot::channel();
        if self.stops.len() < STOPS_MAX {
            self.stops.insert(request, sender);
        }
        Ok(receiver)
    }

    /// kairo-rt answered an e-stop or a clear.
    pub fn stop_answered(&mut self, request: u64, answer: StopAnswer) {
        if let Some(waiting) = self.stops.remove(&request) {
            // Whoever asked may have gone.
            let _ = waiting.send(answer);
        }
    }

    /// The failsafe machine of a device decided otherwise.
    pub fn failsafe_changed(&mut self, index: usize, failsafe: DeviceFailsafe) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        device.failsafe = failsafe;
        let now = &device.failsafe;
        let decided = RtFailsafe {
            device: device.id().into(),
            action: now.action.clone(),
            cause: now.cause.clone(),
            live: now.live.clone(),
            estop: now.live.iter().any(|cause| cause == "estop"),
        };
        self.bus.publish(&decided, None);
    }

    /// kairo-rt gave a lease.
    pub fn opened(&mut self, request: u64, epoch: u64) {
        let asked = self.devices.iter_mut().find(|device| {
            matches!(device.standing, Standing::Opening { request: open, .. } if open == request)
        });
        let answer = self.openings.remove(&request);
        if let Some(device) = asked
            && let Standing::Opening { holder, .. } =
                std::mem::replace(&mut device.standing, Standing::Free)
            && answer.is_some_and(|answer| answer.send(Ok(epoch)).is_ok())
            && device.hold(holder, epoch)
        {
            return;
        }
        // Whoever asked has gone, or gave up waiting.
        self.tell(&Request::CloseLease {
            epoch,
            holder_gone: true,
        });
    }

    /// kairo-rt refused a lease.
    pub fn refused(&mut self, request: u64, code: &str, reason: &str) {
        let mut name = String::new();
        for device in &mut self.devices {
            match device.standing {
                Standing::Opening { request: open, .. } if open == request => {
                    device.standing = Standing::Free;
                    name = device.id().to_string();
                }
                _ => {}
            }
        }
        if let Some(answer) = self.openings.remove(&request) {
            if code == "ring_corrupt" {
                self.break_link();
            }
            let text = format!("the real-time plane refuses {name:?}: {reason}");
            let error = refusal::lease_refused(code, name).error(text);
            // Whoever asked may have gone.
            let _ = answer.send(Err(error));
        }
    }

    /// Announces a claim that its client now knows of.
    pub fn announce_claim(&self, index: usize, cause: Option<&Meta>) {
        let device = &self.devices[index];
        if let Standing::Held(claim) = &device.standing {
            let claimed = DeviceClaimed {
                device: device.id().into(),
                epoch: claim.epoch,
                connection: claim.holder.connection,
                pid: claim.holder.pid,
                uid: claim.holder.uid,
            };
            self.bus.publish(&claimed, cause);
        }
    }

    /// Refuses whoever does not have the claim on the device with that epoch.
    fn check_claim(&self, index: usize, connection: u64, epoch: u64) -> Result<(), ErrorInfo> {
        let ended = self.ended.iter().find(|(ended, _)| *ended == epoch);
        let ended = ended.map(|(_, cause)| cause.as_str());
        let device = &self.devices[index];
        let name = device.id();
        match device.status() {
            Status::Unavailable => return Err(refusal::rt_away()),
            Status::Lost => return Err(refusal::bus_lost(name, &device.trouble)),
            Status::Ready | Status::Faulted | Status::Disarmed => {}
        }
        match &device.standing {
            Standing::Held(claim) if claim.holder.connection == connection => {
                if claim.epoch == epoch {
                    return Ok(());
                }
                let why = ended.unwrap_or_default();
                Err(refusal::stale_epoch(name, epoch, Some(claim.epoch), why))
            }
            Standing::Held(claim) => Err(refusal::held(name, &claim.holder)),
            Standing::Opening { holder, .. } if holder.connection != connection => {
                Err(refusal::held(name, holder))
            }
            Standing::Opening { .. } | Standing::Free => Err(match ended {
                Some(cause) => refusal::stale_epoch(name, epoch, None, cause),
                None => refusal::not_claimed(name),
            }),
        }
    }

    /// Sends a command on a claim; `draft` builds it from the device and the claim.
    pub fn push(
        &mut self,
        index: usize,
        connection: u64,
        epoch: u64,
        draft: impl FnOnce(&Device, &Claim) -> Result<Draft, ErrorInfo>,
    ) -> Result<(u64, oneshot::Receiver<Reply>), ErrorInfo> {
        self.check_claim(index, connection, epoch)?;
        let device = &self.devices[index];
        let Standing::Held(claim) = &device.standing else {
            return Err(refusal::not_claimed(device.id()));
        };
        let draft = draft(device, claim)?;
        match self.devices[index].push(&draft) {
            Ok(sent) => Ok(sent),
            Err(PushError::Full) => {
                let text = "the real-time plane has not taken the commands sent before; \
                    send more slowly";
                Err(Reason::TooManyCommands.error_retried(text, 50))
            }
            Err(PushError::Corrupt(_)) => {
                self.close(index, "ring_corrupt", true, None);
                self.break_link();
                let name = self.devices[index].id();
                Err(refusal::stale_epoch(name, epoch, None, "ring_corrupt"))
            }
        }
    }

    /// Why a command's answer will never come.
    pub fn orphaned(&self, index: usize, epoch: u64) -> ErrorInfo {
        let ended = self.ended.iter().find(|(ended, _)| *ended == epoch);
        let cause = ended.map_or("revoked", |(_, cause)| cause.as_str());
        let name = self.devices.get(index).map_or("", Device::id);
        match cause {
            "rt_lost" => refusal::rt_away(),
            "bus_lost" => refusal::bus_lost(name, ""),
            cause => refusal::stale_epoch(name, epoch, None, cause),
        }
    }

    /// The holder gives its claim back.
    pub fn release(
        &mut self,
        index: usize,
        connection: u64,
        epoch: Option<u64>,
        cause: Option<&Meta>,
    ) -> Result<u64, ErrorInfo> {
        let in_force = match &self.devices[index].standing {
            Standing::Held(claim) if claim.holder.connection == connection => Some(claim.epoch),
            _ => None,
        };
        let epoch = epoch.or(in_force).unwrap_or(0);
        self.check_claim(index, connection, epoch)?;
        self.close(index, "released", false, cause);
        Ok(epoch)
    }

    /// A connection closed: its claims end.
    pub fn holder_gone(&mut self, connection: u64) {
        for index in 0..self.devices.len() {
            match &self.devices[index].standing {
                Standing::Held(claim) if claim.holder.connection == connection => {
                    self.close(index, "holder_gone", true, None);
                }
                Standing::Opening { request, holder } if holder.connection == connection => {
                    // The lease that may still come then finds nobody, and is given back.
                    self.openings.remove(request);
                }
                _ => {}
            }
        }
    }

    /// The claim on a device, or its newest command, serves this intent.
    pub fn serves_intent(&mut self, index: usize, intent: Option<&String>) {
        if let Some(intent) = intent
            && let Standing::Held(claim) = &mut self.devices[index].standing
        {
            claim.serve(intent);
        }
    }

    /// Ends the claims that serve one of `intents`; gives how many.
    pub fn cancel_claims_of(&mut self, intents: &BTreeSet<String>) -> usize {
        let mut ended = 0;
        for index in 0..self.devices.len() {
            if let Standing::Held(claim) = &self.devices[index].standing
                && claim.serves(intents)
            {
                self.close(index, "canceled", false, None);
                ended += 1;
            }
        }
        ended
    }

    /// Whether `connection` has a claim, or is about to.
    pub fn is_holding(&self, connection: u64) -> bool {
        self.devices.iter().any(|device| match &device.standing {
            Standing::Held(claim) => claim.holder.connection == connection,
            Standing::Opening { holder, .. } => holder.connection == connection,
            Standing::Free => false,
        })
    }

    /// A permission was taken away: ends the claims whose holder `may` no longer have them.
    pub fn reconsider(&mut self, may: impl Fn(u64, &str) -> bool) {
        for index in 0..self.devices.len() {
            if let Standing::Held(claim) = &self.devices[index].standing
                && !may(claim.holder.connection, self.devices[index].id())
            {
                self.close(index, "revoked", false, None);
            }
        }
    }

    /// kairo-rt ended a lease.
    pub fn lease_closed(&mut self, epoch: u64, cause: &str) {
        let held = self.devices.iter().position(
            |device| matches!(&device.standing, Standing::Held(claim) if claim.epoch == epoch),
        );
        if let Some(index) = held {
            self.free(index, cause, None);
        }
        if cause == "ring_corrupt" {
            // The rings last as long as the link.
            self.break_link();
        }
    }

    /// The device's bus is at `path` now, or nowhere if that is empty.
    pub fn bus_moved(&mut self, index: usize, path: String) {
        if let Some(device) = self.devices.get_mut(index) {
            let mut buses = self.welcome.buses.iter_mut();
            if let Some(bus) = buses.find(|bus| bus.name == device.description.bus) {
                bus.path.clone_from(&path);
            }
            device.path = path;
        }
    }

    /// A device was lost or found.
    pub fn device_changed(&mut self, index: usize, present: bool, cause: &str, detail: &str) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        let was_present = std::mem::replace(&mut device.description.present, present);
        device.trouble = detail.to_string();
        if present && !was_present {
            self.bus.publish(&added(device), None);
        } else if !present && was_present {
            let degraded = DeviceDegraded {
                device: device.id().into(),
                status: Status::Lost.name(),
                cause: cause.into(),
                detail: detail.into(),
            };
            self.bus.publish(&degraded, None);
            let removed = DeviceRemoved {
                device: degraded.device,
                cause: cause.into(),
                detail: detail.into(),
            };
            self.bus.publish(&removed, None);
            self.close(index, cause, false, None);
        }
    }

    /// Somebody reads the devices' states from now on: the newest ones.
    pub fn look(&mut self) {
        if !self.is_watched() {
            self.collect();
        }
        self.attention.pay();
    }

    /// Whether states and answers have to be taken in as they come.
    pub fn is_watched(&self) -> bool {
        let is_free = |device: &Device| matches!(device.standing, Standing::Free);
        self.attention.is_paid() || !self.devices.iter().all(is_free)
    }

    /// The doorbell rang: states and answers may have come.
    pub fn collect(&mut self) {
        for index in 0..self.devices.len() {
            let device = &mut self.devices[index];
            if let Some((_, Phase::Safe)) = device.refresh() {
                let cause = device.summary().cause.unwrap_or("none");
                let safe = DeviceSafe {
                    device: device.id().into(),
                    cause: cause.into(),
                };
                self.bus.publish(&safe, None);
            }
            let corrupt = match &mut device.standing {
                Standing::Held(claim) => claim.collect().is_err(),
                Standing::Opening { .. } | Standing::Free => false,
            };
            if corrupt {
                self.close(index, "ring_corrupt", true, None);
                self.break_link();
            }
        }
    }

    /// Ends all claims because kairod stops.
    pub fn close_all(&mut self) {
        for index in 0..self.devices.len() {
            self.close(index, "shutting_down", true, None);
        }
    }

    /// The link cannot be trusted any more: drop it, and start over.
    pub fn break_link(&self) {
        if let Some(session) = &self.session {
            session.broken.notify_one();
        }
    }

    /// Ends the claim on a device from our side, if there is one.
    fn close(&mut self, index: usize, cause: &str, holder_gone: bool, meta: Option<&Meta>) {
        if let Standing::Held(claim) = &self.devices[index].standing {
            let epoch = claim.epoch;
            self.tell(&Request::CloseLease { epoch, holder_gone });
            self.free(index, cause, meta);
        }
    }

    /// Forgets the claim on a device and tells everybody.
    fn free(&mut self, index: usize, cause: &str, meta: Option<&Meta>) {
        let device = &mut self.devices[index];
        if let Some(epoch) = device.free() {
            // What the device does now is worth seeing.
            self.attention.pay();
            if self.ended.len() == REMEMBERED_CLAIMS {
                self.ended.pop_front();
            }
            self.ended.push_back((epoch, cause.to_string()));
            let released = DeviceReleased {
                device: device.id().into(),
                epoch,
                cause: cause.into(),
            };
            self.bus.publish(&released, meta);
        }
    }

    /// Sends a control message. A link that does not take it at once is broken: kairo-rt reads
    /// these on an ordinary thread that has nothing else to do.
    fn tell(&self, request: &Request) {
        if let Some(session) = &self.session
            && session.send(request).is_err()
        {
            session.broken.notify_one();
        }
    }
}

fn own_claim(device: &str, epoch: u64) -> ErrorInfo {
    let text = format!("this connection already claims {device:?}, with epoch {epoch}");
    let device = device.to_string();
    Reason::AlreadyClaimed { device, epoch }.error(text)
}

fn added(device: &Device) -> DeviceAdded {
    DeviceAdded {
        device: device.id().into(),
        path: device.path.clone(),
    }
}
