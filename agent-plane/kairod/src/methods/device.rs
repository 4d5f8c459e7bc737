//! `device.*`: what can be moved, who moves it, and moving it.
//!
//! kairod checks who may command; what may be commanded is for the real-time plane alone to say,
//! so that there is one truth about limits and a hostile kairod could change nothing about it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kairo_link::MonoNs;
use kairo_link::abi::{MAX_JOINTS, Mode, Reply, Verdict};
use kairo_wire::{ErrorCode, ErrorInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Audited;
use crate::claim::{Claim, Draft, Targets};
use crate::device::ALIAS_PREFIX;
use crate::device::Device;
use crate::permission::{DeviceLimits, Right};
use crate::reasons::{Amount, Reason};
use crate::refusal;
use crate::router::{Call, Guard, Method, NoParams, Permission, check_intent};
use crate::spans::Kind;
use crate::subscription::{Policy, Subscription, deliver_states};
use crate::views::{DeviceInfo, DeviceSummary};

/// How long kairo-rt may take to give a lease. It answers within a tick of its control thread;
/// one that takes this long is stuck, and the link is renewed.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before asking again for a lease whose predecessor is just ending.
const CLAIM_RETRY: Duration = Duration::from_millis(5);
/// How long the answer to a command may take: many periods of the slowest loop.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);
/// Samples a second at most: a subscription is for watching, not for control.
const MAX_RATE_HZ: f64 = 200.0;

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "device.list",
            Permission::Observe,
            "Lists the devices with their status and holders.",
            async |call, NoParams {}| Ok(list(&call)),
        ),
        Method::guarded(
            "device.info",
            Permission::Observe,
            guard(Right::DeviceRead, |params: &DeviceParams| {
                id_of(&params.device)
            }),
            "Describes a device: joints, limits, safe action, newest state.",
            async |call, params| info(&call, &params),
        ),
        Method::guarded(
            "device.claim",
            Permission::Actuate,
            guard(Right::DeviceClaim, |params: &DeviceParams| {
                id_of(&params.device)
            }),
            "Claims a device for this connection; gives the epoch that every device.send carries.",
            claim,
        )
        .audited(Audited::After),
        // Needs no right but to have the claim: whoever may no longer claim can still let go.
        Method::new(
            "device.release",
            Permission::Actuate,
            "Gives a claim back; the device takes its safe action.",
            async |call, params| release(&call, &params),
        )
        .urgent()
        .audited(Audited::After),
        Method::guarded(
            "device.send",
            Permission::Actuate,
            guard(Right::DeviceWrite, |params: &SendParams| {
                id_of(&params.device)
            }),
            "Sends a command on a claim and answers with what the real-time plane decided.",
            send,
        ),
        Method::guarded(
            "device.subscribe",
            Permission::Observe,
            guard(Right::DeviceRead, |params: &SubscribeParams| {
                id_of(&params.device)
            }),
            "Streams a device's state as MsgPack samples.",
            async |call, params| subscribe(&call, params),
        ),
    ]
}

/// The right that a row needs to the device that its parameters name, by id or by alias.
fn guard<P>(right: Right, target: fn(&P) -> &str) -> Guard<P> {
    Guard { right, target }
}

/// The id that `name`, an id or an alias, stands for.
fn id_of(name: &str) -> &str {
    name.strip_prefix(ALIAS_PREFIX).unwrap_or(name)
}

#[derive(Serialize, JsonSchema)]
struct List {
    devices: Vec<DeviceSummary>,
}

fn list(call: &Call) -> List {
    call.daemon.plane.borrow_mut().look();
    let plane = call.daemon.plane.borrow();
    List {
        devices: plane
            .devices()
            .iter()
            .filter(|device| {
                let daemon = &call.daemon;
                daemon.may(&call.connection, Right::DeviceRead, device.id())
            })
            .map(Device::summary)
            .collect(),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeviceParams {
    /// Id or alias: `arm` or `agent://device/arm`.
    device: String,
}

fn info(call: &Call, params: &DeviceParams) -> Result<DeviceInfo, ErrorInfo> {
    call.daemon.plane.borrow_mut().look();
    let plane = call.daemon.plane.borrow();
    let index = plane.find(&params.device)?;
    Ok(plane.devices()[index].info())
}

#[derive(Serialize, JsonSchema)]
struct Claimed {
    /// The device's id.
    device: String,
    /// The fencing token. Grows with every claim of any device; zero is never given.
    epoch: u64,
    /// Longest time to live of a command, ms.
    ttl_max_ms: u64,
}

async fn claim(call: Call, params: DeviceParams) -> Result<Claimed, ErrorInfo> {
    let started = Instant::now();
    loop {
        match claim_once(&call, &params).await {
            // Nobody holds it here, so this is a lease we closed (or the kairod before us left)
            // that the control loop has not seen the end of: a matter of a tick or two.
            Err(error) if is_lease_ending(&error) && started.elapsed() < CLAIM_TIMEOUT => {
                tokio::time::sleep(CLAIM_RETRY).await;
                still_may_claim(&call, id_of(&params.device))?;
            }
            result => return result,
        }
    }
}

/// Whether what allowed a claim when it was asked for still holds now that it is there: the right,
/// the intent that it serves, and a kairod that goes on.
fn still_may_claim(call: &Call, device: &str) -> Result<(), ErrorInfo> {
    let daemon = &call.daemon;
    daemon.require(&call.connection, Right::DeviceClaim, device)?;
    check_intent(daemon, &call.meta)?;
    if daemon.is_draining() {
        let text = "kairod is stopping; try again";
        return Err(Reason::Draining.error_retried(text, 1000));
    }
    Ok(())
}

/// Whether kairo-rt, and not kairod, said that the device is taken.
fn is_lease_ending(error: &ErrorInfo) -> bool {
    error.code == ErrorCode::Busy && error.reason_name() == "busy"
}

/// A claim that its caller was not told of yet: given back if the caller gives up.
struct Untold<'call> {
    call: &'call Call,
    claimed: Option<Claimed>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(claimed) = self.claimed.take() {
            let mut plane = self.call.daemon.plane.borrow_mut();
            let number = self.call.connection.number;
            if let Ok(index) = plane.find(&claimed.device) {
                // It may have ended meanwhile.
                let _ = plane.release(index, number, Some(claimed.epoch), None);
            }
        }
    }
}

async fn claim_once(call: &Call, params: &DeviceParams) -> Result<Claimed, ErrorInfo> {
    let claimed = open(call, params).await?;
    let mut untold = Untold {
        call,
        claimed: Some(claimed),
    };
    // Who was told of a claim finds its end in the log, also after a kill.
    call.daemon.bus.settled().await;
    untold.claimed.take().ok_or_else(refusal::rt_away)
}

async fn open(call: &Call, params: &DeviceParams) -> Result<Claimed, ErrorInfo> {
    let holder = call.connection.identity.view(call.connection.number);
    let (name, answer) = {
        let mut plane = call.daemon.plane.borrow_mut();
        let index = plane.find(&params.device)?;
        let name = plane.devices()[index].id().to_string();
        (name, plane.open(index, holder)?)
    };
    let epoch = match tokio::time::timeout(CLAIM_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer?,
        Ok(Err(_)) => return Err(refusal::rt_away()),
        Err(_) => {
            call.daemon.plane.borrow().break_link();
            return Err(refusal::rt_away());
        }
    };
    let still = still_may_claim(call, &name);
    let mut plane = call.daemon.plane.borrow_mut();
    // Looked up again: the devices may be others than before the wait.
    let index = plane.find(&name)?;
    if let Err(error) = still {
        plane.release(index, call.connection.number, Some(epoch), None)?;
        return Err(error);
    }
    plane.serves_intent(index, call.meta.correlation_id.as_ref());
    plane.announce_claim(index, Some(&call.meta));
    Ok(Claimed {
        ttl_max_ms: plane.devices()[index].description.ttl_max_ms,
        device: name,
        epoch,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReleaseParams {
    /// Id or alias.
    device: String,
    /// The claim's epoch; absent means the one this connection has.
    epoch: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Released {
    /// The device's id.
    device: String,
    /// The epoch that ended.
    epoch: u64,
}

fn release(call: &Call, params: &ReleaseParams) -> Result<Released, ErrorInfo> {
    let mut plane = call.daemon.plane.borrow_mut();
    let index = plane.find(&params.device)?;
    let connection = call.connection.number;
    let epoch = plane.release(index, connection, params.epoch, Some(&call.meta))?;
    let device = plane.devices()[index].id().to_string();
    Ok(Released { device, epoch })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SendParams {
    /// Id or alias.
    device: String,
    /// The epoch that device.claim gave.
    epoch: u64,
    /// What to do.
    command: CommandParams,
    /// How long the command stays in force, ms. Then the device takes its safe action.
    ttl_ms: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CommandParams {
    /// `position` and `velocity` move, `stop` slows down and holds, `reset` clears a latched
    /// fault and moves nothing.
    mode: ModeName,
    /// Where to, with mode `position`.
    positions: Option<Positions>,
    /// How fast, rad/s, with mode `velocity`. Joints that are not named come to rest.
    velocities: Option<Positions>,
    /// Fraction of the velocity limits to use, above 0 up to 1; 1 if absent.
    velocity_scale: Option<f64>,
    /// Acceleration to use at most, rad/s², at most every joint's limit; that limit if absent.
    acceleration_rad_s2: Option<f64>,
    /// Jerk to use at most, rad/s³, at most every joint's limit; that limit if absent.
    jerk_rad_s3: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ModeName {
    Position,
    Velocity,
    Stop,
    Reset,
}

/// Positions, rad, or velocities, rad/s: all joints in order, or some by name. Joints whose
/// position is not named keep the target of the command in force; when none is in force, what they
/// are commanded to now.
#[derive(Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a map of joint names to numbers, or a list of numbers for all joints"
)]
enum Positions {
    ByName(BTreeMap<String, f64>),
    InOrder(Vec<f64>),
}

#[derive(Serialize, JsonSchema)]
struct Sent {
    /// Number of the command within the claim.
    sequence: u64,
    /// Tick of the control loop from which it is in force.
    tick: u64,
    /// When that tick ran, CLOCK_MONOTONIC ns.
    applied_ns: u64,
    /// When it expires, CLOCK_MONOTONIC ns.
    expires_ns: u64,
}

async fn send(call: Call, params: SendParams) -> Result<Sent, ErrorInfo> {
    let waiting = call.patience(SEND_TIMEOUT);
    let params = within(&call.limits, params)?;
    let pushed = MonoNs::now();
    let (index, description, (sequence, answer)) = {
        let mut plane = call.daemon.plane.borrow_mut();
        let index = plane.find(&params.device)?;
        let sent = plane.push(
            index,
            call.connection.number,
            params.epoch,
            |device, claim| draft(&params, device, claim),
        )?;
        plane.serves_intent(index, call.meta.correlation_id.as_ref());
        (index, plane.devices()[index].description.clone(), sent)
    };
    let reply = match tokio::time::timeout(waiting, answer).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => return Err(call.daemon.plane.borrow().orphaned(index, params.epoch)),
        Err(_) => {
            let waited_ms = waiting.as_millis();
            return Err(refusal::no_reply(&description.name, sequence, waited_ms));
        }
    };
    trace_answer(&call, &description.name, pushed, &reply);
    if reply.verdict != Verdict::Accepted as u32 {
        return Err(refusal::verdict(&description, &reply, params.ttl_ms));
    }
    Ok(Sent {
        sequence,
        tick: reply.tick,
        applied_ns: reply.time_ns,
        expires_ns: reply.expires_ns,
    })
}

/// The span of what kairo-rt did with a command: from its way into the ring to the tick that
/// decided, both by the clock that the planes share. kairo-rt does nothing for it.
fn trace_answer(call: &Call, device: &str, pushed: MonoNs, reply: &Reply) {
    let tracer = &call.daemon.tracer;
    let Some(mut span) = tracer.child(&call.meta, || "rt.command", Kind::Internal) else {
        return;
    };
    span.put("device", device);
    span.put("epoch", reply.lease_epoch);
    span.put("sequence", reply.sequence);
    span.put("tick", reply.tick);
    span.put("decided_mono_ns", reply.time_ns);
    let outcome = match Verdict::from_u32(reply.verdict) {
        Some(Verdict::Accepted) => "ok".to_string(),
        Some(verdict) => format!("{verdict:?}"),
        None => format!("verdict {}", reply.verdict),
    };
    span.end_in_rt(pushed, MonoNs(reply.time_ns), &outcome);
}

/// The command as far as the rule goes that allows it. A velocity scale that was not asked for is
/// the most that is allowed; what was asked for beyond the rule is refused.
fn within(limits: &DeviceLimits, mut params: SendParams) -> Result<SendParams, ErrorInfo> {
    let refuse = |what: &str, value: Amount, max: Amount| {
        let text = format!("{what} is {value}, this caller is granted at most {max}");
        let what = what.to_string();
        Reason::GrantLimit { what, value, max }.error(text)
    };
    if params.command.mode == ModeName::Stop {
        // A stop is never refused for the sake of a limit.
        params.ttl_ms = limits
            .ttl_max_ms
            .map_or(params.ttl_ms, |max| params.ttl_ms.min(max));
        return Ok(params);
    }
    if params.command.mode == ModeName::Reset && limits.joints.is_some() {
        let text = "a reset means every joint; this caller is granted some";
        return Err(Reason::GrantJoint { joint: None }.error(text));
    }
    if let Some(max) = limits.ttl_max_ms
        && params.ttl_ms > max
    {
        return Err(refuse(
            "ttl_ms",
            Amount::Whole(params.ttl_ms),
            Amount::Whole(max),
        ));
    }
    if let Some(max) = limits.velocity_scale_max {
        let asked = *params.command.velocity_scale.get_or_insert(max);
        // Also refuses NaN, which is not at most anything.
        if asked.is_nan() || asked > max {
            return Err(refuse(
                "velocity_scale",
                Amount::Real(asked),
                Amount::Real(max),
            ));
        }
    }
    let given = [&params.command.positions, &params.command.velocities];
    for joints in given.into_iter().flatten() {
        check_joints(limits, joints)?;
    }
    Ok(params)
}

/// Refuses a joint that the rule does not name. A list in order means every joint.
fn check_joints(limits: &DeviceLimits, given: &Positions) -> Result<(), ErrorInfo> {
    let Some(allowed) = &limits.joints else {
        return Ok(());
    };
    let beyond = match given {
        Positions::InOrder(_) => Some("every joint, as a list does"),
        Positions::ByName(map) => map
            .keys()
            .find(|name| !allowed.contains(name))
            .map(String::as_str),
    };
    match beyond {
        Some(beyond) => {
            let shown: String = beyond.chars().take(64).collect();
            let text = format!(
                "the command names {shown}; this caller is granted: {}",
                allowed.join(", ")
            );
            let joint = Some(shown);
            Err(Reason::GrantJoint { joint }.error(text))
        }
        None => Ok(()),
    }
}

fn draft(params: &SendParams, device: &Device, claim: &Claim) -> Result<Draft, ErrorInfo> {
    let joints = device.description.joints.len();
    let command = &params.command;
    let given = (&command.positions, &command.velocities);
    let (mode, targets) = match (command.mode, given) {
        (ModeName::Position, (Some(positions), None)) => {
            let base = claim.targets_in_force().or_else(|| device.setpoints());
            (Mode::Position, numbers(device, positions, base)?)
        }
        (ModeName::Velocity, (None, Some(velocities))) => {
            let rest = Some([0.0; MAX_JOINTS]);
            (Mode::Velocity, numbers(device, velocities, rest)?)
        }
        (ModeName::Stop, (None, None)) => (Mode::Stop, [0.0; MAX_JOINTS]),
        (ModeName::Reset, (None, None)) => (Mode::Reset, [0.0; MAX_JOINTS]),
        (ModeName::Position, _) => {
            return Err(invalid(
                "mode \"position\" needs `positions`, and no `velocities`",
            ));
        }
        (ModeName::Velocity, _) => {
            return Err(invalid(
                "mode \"velocity\" needs `velocities`, and no `positions`",
            ));
        }
        (ModeName::Stop | ModeName::Reset, _) => {
            return Err(invalid(
                "modes \"stop\" and \"reset\" take no `positions` and no `velocities`",
            ));
        }
    };
    Ok(Draft {
        mode: mode as u32,
        joint_count: u32::try_from(joints).unwrap_or(u32::MAX),
        targets,
        velocity_scale: command.velocity_scale.unwrap_or(1.0),
        acceleration_rad_s2: command.acceleration_rad_s2.unwrap_or(0.0),
        jerk_rad_s3: command.jerk_rad_s3.unwrap_or(0.0),
        ttl_ns: params.ttl_ms.saturating_mul(1_000_000),
        sets_targets: mode == Mode::Position,
    })
}

fn invalid(text: impl Into<String>) -> ErrorInfo {
    Reason::invalid().error(text)
}

/// One number per joint; `base` completes the joints that are not named.
fn numbers(
    device: &Device,
    given: &Positions,
    base: Option<Targets>,
) -> Result<Targets, ErrorInfo> {
    match given {
        Positions::InOrder(list) => in_order(device, list),
        Positions::ByName(map) => by_name(device, map, base),
    }
}

fn in_order(device: &Device, list: &[f64]) -> Result<Targets, ErrorInfo> {
    let joints = device.description.joints.len();
    if list.len() != joints || joints > MAX_JOINTS {
        let text = format!(
            "{:?} has {joints} joints and the list has {}; name the joints to move only some",
            device.id(),
            list.len()
        );
        let device = device.id().to_string();
        return Err(Reason::JointCount { device, tick: None }.error(text));
    }
    let mut targets = [0.0; MAX_JOINTS];
    targets[..joints].copy_from_slice(list);
    Ok(targets)
}

fn by_name(
    device: &Device,
    map: &BTreeMap<String, f64>,
    base: Option<Targets>,
) -> Result<Targets, ErrorInfo> {
    let joints = &device.description.joints;
    if map.is_empty() {
        return Err(invalid("the map names no joint"));
    }
    let complete = joints.iter().all(|joint| map.contains_key(&joint.name));
    let base = if complete {
        Some([0.0; MAX_JOINTS])
    } else {
        base
    };
    let Some(mut targets) = base else {
        let text = format!(
            "no state of {:?} is known yet to complete the joints that are not named; try again",
            device.id()
        );
        return Err(Reason::NoState.error_retried(text, 50));
    };
    for (name, position) in map {
        let index = joints.iter().position(|joint| joint.name == *name);
        let Some(target) = index.and_then(|index| targets.get_mut(index)) else {
            let known: Vec<&str> = joints.iter().map(|joint| joint.name.as_str()).collect();
            let shown: String = name.chars().take(64).collect();
            let text = format!(
                "{:?} has no joint {shown:?}; it has: {}",
                device.id(),
                known.join(", ")
            );
            return Err(Reason::UnknownJoint { joint: shown }.error(text));
        };
        *target = *position;
    }
    Ok(targets)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubscribeParams {
    /// Id or alias.
    device: String,
    /// Samples a second, above 0 up to 200; 20 if absent.
    rate_hz: Option<f64>,
    /// What happens when the reader is slow; `drop` if absent.
    #[serde(default)]
    policy: Policy,
    /// Bytes of frames it may deliver before `stream.credit` grants more; absent means that only
    /// the connection's queue limits it.
    credit_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Subscribed {
    /// Name of the subscription, as its chunks carry it.
    subscription: String,
    /// Name of the stream.
    stream: String,
    /// What `data` of a chunk is: `msgpack`, one sample.
    format: &'static str,
}

fn subscribe(call: &Call, params: SubscribeParams) -> Result<Subscribed, ErrorInfo> {
    let rate_hz = params.rate_hz.unwrap_or(20.0);
    // Also refuses NaN. The lower bound keeps the period within what a timer can hold.
    if !(0.01..=MAX_RATE_HZ).contains(&rate_hz) {
        let text = format!("rate_hz is {rate_hz}, allowed is 0.01 to {MAX_RATE_HZ}");
        return Err(Reason::RateHz.error(text));
    }
    let device = {
        let plane = call.daemon.plane.borrow();
        let index = plane.find(&params.device)?;
        plane.devices()[index].id().to_string()
    };
    let connection = &call.connection;
    let intent = call.meta.correlation_id.clone();
    let subscription =
        Subscription::register(connection, params.policy, params.credit_bytes, intent)?;
    let delivery = deliver_states(
        Rc::clone(&call.daemon),
        Rc::clone(connection),
        Rc::clone(&subscription),
        device.clone(),
        Duration::from_secs_f64(1.0 / rate_hz),
    );
    subscription.run(connection, delivery);
    Ok(Subscribed {
        subscription: subscription.name.clone(),
        stream: format!("device/{device}/state"),
        format: "msgpack",
    })
}
