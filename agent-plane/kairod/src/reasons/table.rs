//! The rows: every reason for which kairod refuses something.
//!
//! `Variant { facts } = Code "name", never | later, "remedy";`: the first line of documentation is
//! the meaning that programs are told, `later` says that the same request can succeed later. The
//! names are public and only ever added to.

use super::Amount;
use crate::views::Peer;

super::reasons! {
    /// The frame or the message in it breaks the protocol.
    Malformed = InvalidRequest "malformed", never,
        "Compare what is sent with the frames and messages of the reference.";
    /// A request with that id is under way on this connection.
    DuplicateId = InvalidRequest "duplicate_id", never,
        "Give each request an id of its own.";

    /// A parameter is missing, of the wrong type, or has a value that makes no sense.
    InvalidValue {
        /// The method.
        method: Option<String>,
        /// What of the event is wrong.
        part: Option<String>,
    } = InvalidParams "invalid_value", never,
        "Compare the parameters with the method's schema: `kairo methods NAME`.";
    /// A parameter has a name that the method does not know.
    UnknownKey {
        /// The method.
        method: String,
        /// The name.
        key: String,
    } = InvalidParams "unknown_key", never,
        "Take the names of the method's schema: `kairo methods NAME`.";
    /// A key is given twice, so what it says depends on the decoder.
    DuplicateKey {
        /// The key.
        key: String,
    } = InvalidParams "duplicate_key", never,
        "Give each key once.";
    /// The list has another length than the device has joints.
    JointCount {
        /// The device.
        device: String,
        /// The tick in which the real-time plane decided.
        tick: Option<u64>,
    } = InvalidParams "joint_count", never,
        "Give every joint in the order of `device.info`, or some by name.";
    /// The device has no joint of that name.
    UnknownJoint {
        /// The name.
        joint: String,
    } = InvalidParams "unknown_joint", never,
        "Take the names of `device.info`.";
    /// A joint is given NaN or infinity.
    NotFinite {
        /// The device.
        device: String,
        /// The joint.
        joint: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = InvalidParams "not_finite", never,
        "Find out where the number comes from; send finite ones only.";
    /// The subscription has no durable consumer, so nothing can be acknowledged.
    NoConsumer = InvalidParams "no_consumer", never,
        "Name a `consumer` in event.subscribe.";

    /// No method has that name.
    UnknownMethod {
        /// The name.
        method: String,
    } = NotFound "unknown_method", never,
        "Take one of kernel.introspect; a service's methods are there while it serves.";
    /// No device has that name.
    UnknownDevice {
        /// The name.
        device: String,
    } = NotFound "unknown_device", never,
        "Take one of device.list.";
    /// The real-time plane knows no such device.
    NoSuchDevice {
        /// The device.
        device: String,
    } = NotFound "no_such_device", never,
        "See `kairo rt status`; kairo-rt and kairod may be of different builds.";
    /// This connection has no subscription of that name.
    UnknownSubscription {
        /// The name.
        subscription: String,
    } = NotFound "unknown_subscription", never,
        "Subscriptions end with their connection; subscribe anew.";
    /// No loop or bus has that name, or none is named and there are several.
    UnknownSource = NotFound "unknown_source", never,
        "Take one of `rt.status`, or ask for all.";
    /// No grant has that number.
    UnknownGrant {
        /// The number.
        grant: u64,
    } = NotFound "unknown_grant", never,
        "See permission.list; a grant that ended is gone.";
    /// No request for a right has that number, or it was decided.
    UnknownRequest {
        /// The number.
        request: u64,
    } = NotFound "unknown_request", never,
        "See permission.list; a request that nobody decides ends after 15 minutes.";
    /// There never was an intent of that id, or it is forgotten.
    UnknownIntent {
        /// The id.
        intent: String,
    } = NotFound "unknown_intent", never,
        "See intent.list.";
    /// No durable consumer has that name.
    UnknownConsumer = NotFound "unknown_consumer", never,
        "Subscribe with the consumer's name first.";

    /// No rule allows it, or one denies it.
    Denied {
        /// The right that is missing.
        right: String,
        /// To what.
        target: String,
        /// The caller's class.
        class: String,
        /// The rule that decided: `reserved`, `policy:LINE`, or `default` when none spoke.
        rule: String,
    } = PermissionDenied "denied", never,
        "Ask for the right with permission.request, or change the policy file.";
    /// An operator refused the same request a moment ago.
    Refused {
        /// The number that it had.
        request: u64,
        /// The operator's words.
        why: String,
    } = PermissionDenied "refused", never,
        "Do without, or ask again later with a better reason.";
    /// Only an operator may do this.
    OperatorsOnly = PermissionDenied "operators_only", never,
        "Leave out what concerns others, or let an operator do it.";
    /// This connection has not claimed the device.
    NotClaimed {
        /// The device.
        device: String,
    } = PermissionDenied "not_claimed", never,
        "Call device.claim first, on the same connection.";
    /// It belongs to somebody else.
    NotOwner = PermissionDenied "not_owner", never,
        "Let its owner or an operator do it.";
    /// The command concerns a joint that the caller's grant does not name.
    GrantJoint {
        /// The joint; none when every joint is meant.
        joint: Option<String>,
    } = PermissionDenied "grant_joint", never,
        "Command the joints of the grant only: permission.check shows them.";
    /// A connection can only become less than it is.
    More = PermissionDenied "more", never,
        "Confine a connection as an operator, before it is handed on.";
    /// The process that made the connection has ended.
    ProcessEnded = PermissionDenied "process_ended", never,
        "Connect anew, from the process that asks.";
    /// This robot does not let an emergency stop be cleared over IPC.
    NotAllowed = PermissionDenied "not_allowed", never,
        "Clear it at the robot, or set `clear_over_ipc` in robot.toml.";

    /// Another connection has claimed the device.
    Claimed {
        /// The device.
        device: String,
        /// Who has it.
        holder: Peer,
    } = Busy "claimed", later,
        "Wait for kairo.system.device.released, or ask its holder.";
    /// The real-time plane has a lease on the device in force.
    Busy {
        /// The device.
        device: String,
    } = Busy "busy", later,
        "Try again: a lease ends by itself a moment after its claim.";
    /// All places for connections are taken, or kept for operators.
    Places = Busy "places", later,
        "Try again, or close connections that are not needed.";
    /// The user has as many connections as one user may have.
    Share = Busy "share", later,
        "Close some, or use one connection for more.";
    /// Another process serves that namespace.
    NamespaceTaken = Busy "namespace_taken", later,
        "Choose another namespace, or end the process that serves it.";
    /// The service has too many calls under way, or does not read its requests.
    ServiceBusy {
        /// Its namespace.
        service: String,
    } = Busy "service_busy", later,
        "Try again, with fewer calls at once.";
    /// A large request found no place to begin at once.
    LargeFrames = Busy "large_frames", later,
        "Send it again when fewer requests of the connection are under way.";
    /// Another subscription reads for that consumer.
    ConsumerBusy = Busy "consumer_busy", later,
        "End the other subscription first.";
    /// The event log has more to write than it takes.
    QueueFull = Busy "queue_full", later,
        "Publish more slowly.";

    /// It was not done within the time that the caller gave, or that any request may take.
    Deadline = Timeout "deadline", later,
        "Allow more with `meta.deadline_ms`, up to 60000; find out whether it happened.";
    /// The real-time plane did not answer the command.
    NoReply {
        /// The command's number.
        sequence: u64,
    } = Timeout "no_reply", later,
        "It may still have been applied, and expires by itself; see `kairo rt status`.";
    /// The command was older than its time to live when it arrived.
    Expired {
        /// The device.
        device: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
        /// Its time to live, ms.
        ttl_ms: u64,
        /// Its age, ms.
        age_ms: f64,
    } = Timeout "expired", later,
        "Use a longer ttl_ms.";
    /// A frame did not arrive whole in time, and the connection closes.
    SlowFrame = Timeout "slow_frame", never,
        "Write whole frames; connect anew.";
    /// The process that serves the method did not answer in time.
    ServiceLate = Timeout "service_late", later,
        "See service.status; the call may still have its effect.";

    /// A joint is asked beyond where it may be.
    PositionLimit {
        /// The device.
        device: String,
        /// The joint.
        joint: String,
        /// What was asked for, rad.
        value: f64,
        /// The least, rad.
        min: f64,
        /// The most, rad.
        max: f64,
        /// `rad`.
        unit: String,
        /// What was asked for, rad.
        value_rad: f64,
        /// The least, rad.
        min_rad: f64,
        /// The most, rad.
        max_rad: f64,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Limit "position_limit", never,
        "Stay within the limits of device.info.";
    /// A joint is asked to be faster than it may be.
    VelocityLimit {
        /// The device.
        device: String,
        /// The joint.
        joint: String,
        /// What was asked for.
        value: f64,
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// The unit of the three.
        unit: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Limit "velocity_limit", never,
        "Stay within the limits of device.info.";
    /// A joint is asked to change its speed faster than it may.
    AccelerationLimit {
        /// The device.
        device: String,
        /// The joint.
        joint: String,
        /// What was asked for.
        value: f64,
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// The unit of the three.
        unit: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Limit "acceleration_limit", never,
        "Stay within the limits of device.info.";
    /// A joint is asked for more jerk than it may have.
    JerkLimit {
        /// The device.
        device: String,
        /// The joint.
        joint: String,
        /// What was asked for.
        value: f64,
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// The unit of the three.
        unit: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Limit "jerk_limit", never,
        "Stay within the limits of device.info.";
    /// velocity_scale is not a fraction.
    VelocityScale {
        /// The device.
        device: String,
        /// What was asked for.
        value: f64,
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// `1`.
        unit: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Limit "velocity_scale", never,
        "Give more than 0, at most 1.";
    /// The time to live is longer than the device allows, or nothing.
    TtlOutOfRange {
        /// The device.
        device: String,
        /// What was asked for, ms.
        ttl_ms: u64,
        /// The most, ms.
        ttl_max_ms: u64,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Limit "ttl_out_of_range", never,
        "Keep to `ttl_max_ms` of device.info, and renew commands in time.";
    /// The rate is beyond what samples are made at.
    RateHz = Limit "rate_hz", never,
        "Ask for 0.01 to 200 samples a second.";
    /// The real-time plane has not taken the commands sent before.
    TooManyCommands = Limit "too_many_commands", later,
        "Send more slowly.";
    /// The connection has as many subscriptions as it may have.
    Subscriptions = Limit "subscriptions", never,
        "End one with event.unsubscribe, or name several patterns in one.";
    /// As many streams of services are open as may be.
    Streams = Limit "streams", later,
        "End one with event.unsubscribe, or try again.";
    /// The result does not fit into a frame.
    ResultTooLarge = Limit "result_too_large", never,
        "Ask for less at once.";
    /// The command asks for more than the caller's grant allows.
    GrantLimit {
        /// The parameter.
        what: String,
        /// What was asked for.
        value: Amount,
        /// The most.
        max: Amount,
    } = Limit "grant_limit", never,
        "Stay within the limits that permission.check shows.";
    /// As many grants are in force as may be.
    Grants = Limit "grants", never,
        "Revoke some, or use the policy file.";
    /// As many requests for rights wait as may.
    Requests = Limit "requests", later,
        "Wait until an operator has decided some; ask for one right with a pattern.";
    /// As many services are registered as may be.
    Services = Limit "services", never,
        "End one that is not needed.";
    /// The service's time-out is out of range.
    TimeoutMs = Limit "timeout_ms", never,
        "Give 1 to the most that the message names.";
    /// The intent's deadline is out of range.
    DeadlineMs = Limit "deadline_ms", never,
        "Give 1 to the most that the message names.";
    /// There are too many live intents, or they nest too deep.
    Intents = Limit "intents", never,
        "End some with intent.end.";
    /// The idempotency key is empty or too long.
    IdempotencyKeyLength = Limit "idempotency_key", never,
        "Give 1 to 128 bytes.";
    /// The caller, or all callers together, keep too many idempotency keys.
    IdempotencyKeys = Limit "idempotency_keys", later,
        "Use them only for what must not happen twice.";
    /// The event's data is too long.
    EventTooLarge = Limit "event_too_large", never,
        "Publish a reference to it, or send it as a stream.";
    /// The event log has a limit that this is beyond.
    Events {
        /// The limit.
        what: String,
    } = Limit "events", never,
        "See the limits of the events reference.";
    /// With the caller in it, the request is more than a service takes.
    TooLarge = Limit "too_large", never,
        "Send less at once.";
    /// A text of the metadata is too long.
    MetaTooLong = Limit "meta_too_long", never,
        "Keep `meta` texts to 256 bytes.";
    /// The user publishes more than its share.
    PublishRate = Limit "publish_rate", later,
        "Publish more slowly, or what is frequent as a stream.";

    /// That policy is not for this kind of subscription.
    Policy = Unsupported "policy", never,
        "Use `drop` or `block` for samples.";
    /// The device knows no such mode.
    UnknownMode {
        /// The device.
        device: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Unsupported "unknown_mode", never,
        "Use position, velocity, stop or reset.";
    /// Methods that other processes serve keep no idempotency keys.
    IdempotencyKeyServed = Unsupported "idempotency_key", never,
        "Leave the key out, and make the service's method repeatable by its parameters.";

    /// It was withdrawn; what it had done by then stays done.
    Canceled = Canceled "canceled", never,
        "Nothing: whoever asked, or its intent, called it off.";

    /// The epoch is not that of the claim in force.
    StaleEpoch {
        /// The device.
        device: String,
        /// The epoch that was given.
        epoch: u64,
        /// That of the claim in force.
        epoch_in_force: Option<u64>,
        /// Why the claim ended, where it is known.
        cause: Option<String>,
    } = Conflict "stale_epoch", never,
        "Claim the device again.";
    /// The command came out of order.
    StaleSequence {
        /// The device.
        device: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Conflict "stale_sequence", later,
        "Send it again.";
    /// This connection has claimed the device already.
    AlreadyClaimed {
        /// The device.
        device: String,
        /// The claim's epoch.
        epoch: u64,
    } = Conflict "already_claimed", never,
        "Use the epoch that is named.";
    /// The command says that it was issued in the future.
    IssuedInFuture {
        /// The device.
        device: String,
        /// How far, s.
        ahead_s: f64,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Conflict "issued_in_future", never,
        "Issue commands by CLOCK_MONOTONIC of this machine.";
    /// A fault of the device is latched.
    Faulted {
        /// The device.
        device: String,
        /// What happened.
        cause: String,
        /// The joint.
        joint: String,
        /// What was measured.
        value: f64,
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// The unit of the three.
        unit: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Conflict "faulted", never,
        "Remove the cause, then `kairo device reset NAME`.";
    /// Something outside the command path forbids motion.
    Inhibited {
        /// The device.
        device: String,
        /// What.
        cause: String,
        /// The tick in which the real-time plane decided.
        tick: u64,
    } = Conflict "inhibited", never,
        "See `kairo rt status`.";
    /// An emergency stop is latched.
    Estopped {
        /// The device.
        device: String,
    } = Conflict "estopped", never,
        "Remove the cause, then `kairo rt clear-estop`.";
    /// An input that stopped the robot is not good yet.
    StillLatched = Conflict "still_latched", never,
        "Release the stop at the robot first.";
    /// A request under that key was interrupted, and nobody knows whether it took effect.
    OutcomeUnknown {
        /// The method.
        method: String,
        /// When it was begun.
        began: String,
        /// Where to look whether it took effect.
        look: String,
    } = Conflict "outcome_unknown", never,
        "Look whether it took effect; if not, send it under a new key.";
    /// The idempotency key was used for another request.
    IdempotencyKeyReused = Conflict "idempotency_key", never,
        "Use a new key for each thing that is to happen once.";
    /// That namespace is the kernel's.
    NamespaceReserved = Conflict "namespace_reserved", never,
        "Choose another namespace.";
    /// This connection serves a namespace already.
    ServesAlready = Conflict "serves_already", never,
        "Serve each namespace over a connection of its own.";
    /// The intent has ended, and nothing can be done in its name.
    IntentEnded {
        /// How: `completed`, `failed`, `canceled`, `expired`, `abandoned`, `interrupted`.
        status: String,
    } = Conflict "intent_ended", never,
        "Begin another intent.";
    /// Something of the connection is in force that rests on what it is.
    InUse = Conflict "in_use", never,
        "Confine a connection before it does anything else.";
    /// Another event has that id.
    EventId {
        /// Its number.
        seq: u64,
    } = Conflict "event_id", never,
        "Give each event an id of its own.";
    /// The stream has another version than was expected.
    StreamVersion {
        /// The version that it has.
        actual: u64,
    } = Conflict "stream_version", never,
        "Read what was appended meanwhile, decide anew, and expect the newer version.";
    /// The consumer has events that it has not acknowledged.
    Unacknowledged = Conflict "unacknowledged", never,
        "Acknowledge them with event.ack first.";

    /// kairo-rt is not running, or is restarting.
    RtAway = Unavailable "rt_away", later,
        "Try again; see `kairo rt status`.";
    /// The device's bus is lost.
    BusLost {
        /// The device.
        device: String,
    } = Unavailable "bus_lost", later,
        "Check its cable, and wait for kairo.system.device.added.";
    /// The real-time plane has not armed the device.
    NotArmed {
        /// The device.
        device: String,
        /// The tick in which the real-time plane decided; none for a claim.
        tick: Option<u64>,
    } = Unavailable "not_armed", never,
        "See `kairo rt status` for what bring-up found.";
    /// The memory shared with the real-time plane is damaged, and is made anew.
    RingCorrupt {
        /// The device.
        device: String,
    } = Unavailable "ring_corrupt", later,
        "Claim the device again; report it if it comes back.";
    /// The real-time plane refuses for a reason that this kairod does not know.
    RtRefused {
        /// The device; none where it concerns all.
        device: Option<String>,
        /// The reason, as kairo-rt names it.
        cause: String,
    } = Unavailable "rt_refused", never,
        "Install kairo-rt and kairod of the same build.";
    /// No state of the device is known that could complete the command.
    NoState = Unavailable "no_state", later,
        "Try again, or name every joint.";
    /// A file of /proc or /sys cannot be read.
    NoProc = Unavailable "no_proc", never,
        "Mount /proc and /sys where kairod runs.";
    /// What must be written down cannot be.
    NoStore {
        /// `absent`, `disk_full`, `damaged`, `later_version`, `no_numbers`, `closed`, `io`.
        cause: Option<String>,
    } = Unavailable "no_store", later,
        "See `kairo status` and the space in the state directory.";
    /// kairod has no state directory, so nothing can be kept.
    NoStateDirectory = Unavailable "no_state_directory", never,
        "Start kairod with a state directory.";
    /// The process that served the method has ended.
    ServiceGone = Unavailable "service_gone", later,
        "Find out whether it happened; try again when it serves again.";
    /// kairod is stopping.
    Draining = Unavailable "draining", later,
        "Try again after its restart.";
    /// It must be audited, and cannot be, so it is not done.
    NoAudit = Unavailable "no_audit", later,
        "See the space in the state directory, and `kairo audit verify`.";
    /// The request under that idempotency key failed.
    IdempotencyKeyFailed = Unavailable "idempotency_key", later,
        "Send it again, with the same key.";

    /// The service answered or streamed what breaks the protocol.
    ServiceFault = Internal "service_fault", never,
        "Tell who wrote the service; the message says what it did.";
    /// A bug of the system, not of the caller.
    Internal = Internal "internal", never,
        "Report it with the message and kairod's log.";
}
