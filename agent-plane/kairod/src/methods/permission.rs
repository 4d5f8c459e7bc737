//! `permission.*`: what the rules are, why something is refused, and giving rights for a while.

use std::rc::Rc;
use std::time::Duration;

use kairo_wire::{ErrorInfo, Meta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::audit::Audited;
use crate::daemon::Daemon;
use crate::denial;
use crate::facts::{PermissionDecided, PermissionGranted, PermissionRequested, PermissionRevoked};
use crate::permission::grant::{Ends, Grant, MAX_GRANTS, Now, origin};
use crate::permission::request::{KEPT_FOR, MAX_OF_ONE_USER, MAX_PENDING, Request, Trouble};
use crate::permission::{Class, Decision, DeviceLimits, Right, Rule, Subject, Who, builtin};
use crate::reasons::Reason;
use crate::router::{Call, Method, NoParams, Permission};
use crate::topics::Pattern;

/// Longest reason, bytes.
const MAX_REASON_BYTES: usize = 256;
/// How long the answer to a revocation waits for the disk.
pub const KEPT_PATIENCE: Duration = Duration::from_secs(2);
/// Most records in one answer, and most bytes of them as JSON: it fits into a frame.
const MAX_AUDIT_RECORDS: usize = 500;
const AUDIT_PAGE_BYTES: usize = 512 * 1024;
/// Longest time that a grant with an end may last, s: a year.
const MAX_TTL_S: u64 = 366 * 86_400;

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "permission.list",
            Permission::Admin,
            "Lists every rule in the order in which they are asked, and who may call what.",
            async |call, NoParams {}| Ok(list(&call)),
        ),
        Method::new(
            "permission.check",
            Permission::Observe,
            "Says whether the caller, or for an operator anybody, may do something, and why.",
            async |call, params| check(&call, &params),
        ),
        Method::new(
            "permission.request",
            Permission::Publish,
            "Asks an operator for a right; what becomes of it is told by an event.",
            async |call, params| request(&call, params),
        )
        .audited(Audited::After),
        Method::new(
            "permission.deny",
            Permission::Admin,
            "Refuses a request for a right.",
            async |call, params| deny(&call, &params),
        )
        .audited(Audited::After),
        Method::new(
            "permission.grant",
            Permission::Admin,
            "Gives a right, for a while or until it is revoked: what was asked for, or any.",
            async |call, params| grant(&call, params).await,
        )
        .audited(Audited::Before)
        .repeatable(),
        Method::new(
            "permission.revoke",
            Permission::Admin,
            "Takes a grant away; claims that rest on it end at once.",
            async |call, params| revoke(&call, &params).await,
        )
        .audited(Audited::After)
        .repeatable(),
        Method::new(
            "permission.audit",
            Permission::Admin,
            "Reads the audit log: who did what, why, and how it ended.",
            read_audit,
        ),
    ]
}

#[derive(Serialize, JsonSchema)]
struct List {
    /// The rules, the first that speaks decides.
    rules: Vec<RuleView>,
    /// The methods that each class may call where no rule above speaks.
    methods: Vec<ClassMethods>,
    /// Rights that somebody asks for, the oldest first.
    requests: Vec<RequestView>,
}

#[derive(Serialize, JsonSchema)]
struct RequestView {
    /// Its number: `permission.grant` and `permission.deny` take it.
    request: u64,
    /// Who asks.
    who: Subject,
    right: Right,
    /// A method, device id, topic or scope; `*` is one segment, `>` the tail.
    target: String,
    /// Why, in the asker's words: not to be believed.
    reason: String,
    /// For how long, s; none for good.
    ttl_s: Option<u64>,
    /// When it counts as refused, s from now.
    expires_s: u64,
}

#[derive(Serialize, JsonSchema)]
struct RuleView {
    /// `reserved`, `policy:LINE`, `grant:ID` or `builtin`.
    origin: String,
    allows: bool,
    /// Whom it means: everybody who is all of it.
    who: Who,
    right: Right,
    /// A method, device id, topic or scope; `*` is one segment, `>` the tail.
    target: String,
    /// How far it goes.
    limits: DeviceLimits,
    /// When it ends, seconds since 1970; none if only a revocation ends it.
    ends_wall_s: Option<u64>,
    /// Why a grant was given, and by whom.
    reason: Option<String>,
    granted_by: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ClassMethods {
    class: Class,
    methods: Vec<&'static str>,
}

fn view(rule: &Rule, allows: bool) -> RuleView {
    RuleView {
        origin: rule.origin.clone(),
        allows,
        who: rule.who.clone(),
        right: rule.right,
        target: rule.target.to_string(),
        limits: rule.limits.clone(),
        ends_wall_s: None,
        reason: None,
        granted_by: None,
    }
}

fn granted(grant: &Grant) -> RuleView {
    RuleView {
        ends_wall_s: grant.ends.map(|ends| ends.wall_s),
        reason: Some(grant.reason.clone()),
        granted_by: Some(grant.granted_by.clone()),
        ..view(&grant.rule, true)
    }
}

fn fixed(origin: &str, allows: bool, class: Option<Class>, right: Right, target: &str) -> RuleView {
    RuleView {
        origin: origin.into(),
        allows,
        who: Who {
            class,
            ..Who::default()
        },
        right,
        target: target.into(),
        limits: DeviceLimits::default(),
        ends_wall_s: None,
        reason: None,
        granted_by: None,
    }
}

fn list(call: &Call) -> List {
    let table = call.daemon.permissions.borrow();
    let policy = table.policy();
    let now = Now::read();
    let reserved = builtin::RESERVED
        .iter()
        .map(|(right, target)| fixed("reserved", false, None, *right, target));
    let denied = policy.deny.iter().map(|rule| view(rule, false));
    let live = table.grants().iter().rev().filter(|one| !one.is_over(now));
    let allowed = policy.allow.iter().map(|rule| view(rule, true));
    let builtins = builtin::RULES
        .iter()
        .map(|(class, right, target)| fixed("builtin", true, Some(*class), *right, target));
    let methods = Class::ALL.map(|class| ClassMethods {
        class,
        methods: call
            .daemon
            .router
            .methods()
            .iter()
            .filter(|method| method.permission.classes().contains(&class))
            .map(|method| method.name)
            .collect(),
    });
    List {
        rules: reserved
            .chain(denied)
            .chain(live.map(granted))
            .chain(allowed)
            .chain(builtins)
            .collect(),
        methods: methods.into(),
        requests: pending(&call.daemon),
    }
}

fn pending(daemon: &Daemon) -> Vec<RequestView> {
    let requests = daemon.requests.borrow();
    let view = |one: &Request| RequestView {
        request: one.id,
        who: one.subject.clone(),
        right: one.right,
        target: one.target.to_string(),
        reason: one.reason.clone(),
        ttl_s: one.ttl_s,
        expires_s: one.ends.duration_since(Instant::now()).as_secs(),
    };
    requests.pending().map(view).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CheckParams {
    /// The right.
    right: Right,
    /// The method, device id, topic or scope.
    target: String,
    /// Somebody else than the caller; operators only.
    who: Option<SubjectParams>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubjectParams {
    class: Class,
    name: Option<String>,
    /// The user; one that no rule names if absent.
    uid: Option<u32>,
}

#[derive(Serialize, JsonSchema)]
struct Checked {
    allowed: bool,
    /// The rule that decides: `reserved`, `policy:LINE`, `grant:ID`, `builtin`, or `default` when
    /// none speaks.
    rule: String,
    /// How far it goes.
    limits: DeviceLimits,
}

fn check(call: &Call, params: &CheckParams) -> Result<Checked, ErrorInfo> {
    let caller = call.connection.identity.subject();
    let subject = match &params.who {
        None => caller,
        Some(_) if caller.class != Class::Operator => {
            let text = "only an operator may ask about others; leave `who` out";
            return Err(Reason::OperatorsOnly.error(text));
        }
        Some(who) => Subject {
            class: who.class,
            name: who.name.clone(),
            uid: who.uid.unwrap_or(u32::MAX),
        },
    };
    let classes = classes_of(&call.daemon, params.right, &params.target)?;
    let table = call.daemon.permissions.borrow();
    let decision = table.decide(&subject, params.right, &params.target, classes, Now::read);
    let Decision {
        allowed,
        rule,
        limits,
    } = decision;
    Ok(Checked {
        allowed,
        rule: rule.into_owned(),
        limits,
    })
}

/// The classes that may call a method where no rule speaks; of other rights the table knows them.
fn classes_of(daemon: &Daemon, right: Right, target: &str) -> Result<&'static [Class], ErrorInfo> {
    if right != Right::MethodCall {
        return Ok(&[]);
    }
    let permission = match daemon.services.find(target) {
        Some((_, served)) => served.permission,
        None => daemon.router.find(target)?.permission,
    };
    Ok(permission.classes())
}

/// Refuses a text that is empty, long, or made for a terminal instead of for people.
fn check_reason(reason: &str) -> Result<(), ErrorInfo> {
    let length = reason.len();
    if !(1..=MAX_REASON_BYTES).contains(&length) {
        let text = format!("`reason` has {length} bytes, allowed is 1 to {MAX_REASON_BYTES}");
        return Err(Reason::invalid().error(text));
    }
    if reason.chars().any(char::is_control) {
        let text = "`reason` has control characters; write one line of plain text";
        return Err(Reason::invalid().error(text));
    }
    Ok(())
}

fn check_ttl(ttl_s: Option<u64>) -> Result<(), ErrorInfo> {
    match ttl_s.is_some_and(|ttl| ttl == 0 || ttl > MAX_TTL_S) {
        true => Err(Reason::invalid().error(format!("`ttl_s` is to be 1 to {MAX_TTL_S}"))),
        false => Ok(()),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RequestParams {
    /// The right.
    right: Right,
    /// To what: a method, device id, topic or scope; `*` is one segment, `>` the tail.
    target: String,
    /// Why, for the operator: one line.
    reason: String,
    /// For how long, s; until it is revoked if absent.
    ttl_s: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Requested {
    /// The number, as kairo.system.security.permission.decided tells it; none where the caller has
    /// the right already.
    request: Option<u64>,
    /// Whether the caller has the right already.
    allowed: bool,
    /// Whether the same was asked for before and waits.
    pending: bool,
}

/// Asks in the caller's own name: whom a grant would mean is not the caller's to say.
fn request(call: &Call, params: RequestParams) -> Result<Requested, ErrorInfo> {
    check_reason(&params.reason)?;
    check_ttl(params.ttl_s)?;
    let parsed = Pattern::parse(&params.target);
    let target = parsed.map_err(|error| Reason::invalid().error(error.to_string()))?;
    let daemon = &call.daemon;
    let subject = call.connection.identity.subject();
    let right = params.right;
    if kairo_events::topic::is_topic(&params.target) {
        let classes = classes_of(daemon, right, &params.target)?;
        let table = daemon.permissions.borrow();
        let decision = table.decide(&subject, right, &params.target, classes, Now::read);
        if decision.allowed {
            return Ok(Requested {
                request: None,
                allowed: true,
                pending: false,
            });
        }
        if decision.rule != "default" {
            // No grant could change it.
            return Err(denial::refusal(&subject, right, &params.target, &decision));
        }
    }
    let shown = target.to_string();
    let (reason, ttl_s) = (params.reason.clone(), params.ttl_s);
    let asked = daemon
        .requests
        .borrow_mut()
        .ask(&subject, right, target, params.reason, ttl_s);
    let (id, is_new) = asked.map_err(untaken)?;
    if is_new {
        let timed = Rc::clone(daemon);
        let timer = tokio::task::spawn_local(async move {
            tokio::time::sleep(KEPT_FOR).await;
            if timed.requests.borrow_mut().take(id).is_some() {
                decided(&timed, id, "expired", None, None);
            }
        });
        let timer = timer.abort_handle();
        daemon.requests.borrow_mut().set_timer(id, timer);
        let asked = PermissionRequested {
            request: id,
            connection: call.connection.number,
            class: subject.class.name(),
            name: subject.name,
            uid: subject.uid,
            right: right.name(),
            target: shown,
            reason,
            ttl_s,
        };
        daemon.bus.publish(&asked, Some(&call.meta));
    }
    Ok(Requested {
        request: Some(id),
        allowed: false,
        pending: !is_new,
    })
}

fn untaken(trouble: Trouble) -> ErrorInfo {
    match trouble {
        Trouble::TooMany => {
            let text = format!(
                "at most {MAX_OF_ONE_USER} requests of a user and {MAX_PENDING} of all wait for \
                 a decision"
            );
            Reason::Requests.error(text)
        }
        Trouble::Refused { request, why } => {
            let text = format!("an operator refused this a moment ago: {why}");
            Reason::Refused { request, why }.error(text)
        }
    }
}

/// Tells how a request ended.
fn decided(
    daemon: &Daemon,
    request: u64,
    outcome: &'static str,
    grant: Option<u64>,
    cause: Option<&Meta>,
) {
    let fact = PermissionDecided {
        request,
        outcome,
        grant,
    };
    daemon.bus.publish(&fact, cause);
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DenyParams {
    /// The request's number.
    request: u64,
    /// Why: whoever asks again is told.
    reason: String,
}

#[derive(Serialize, JsonSchema)]
struct Denied {
    /// The request's number.
    request: u64,
}

fn deny(call: &Call, params: &DenyParams) -> Result<Denied, ErrorInfo> {
    check_reason(&params.reason)?;
    let request = params.request;
    if !call
        .daemon
        .requests
        .borrow_mut()
        .refuse(request, &params.reason)
    {
        return Err(unknown_request(request));
    }
    decided(&call.daemon, request, "refused", None, Some(&call.meta));
    Ok(Denied { request })
}

fn unknown_request(request: u64) -> ErrorInfo {
    let text = format!("no request {request} waits for a decision; see permission.list");
    Reason::UnknownRequest { request }.error(text)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GrantParams {
    /// Grants what this request asks for, to who asks; then `who`, `right` and `target` are
    /// absent, and `ttl_s` and `reason` are the request's where they are.
    request: Option<u64>,
    /// Whom; at least one of `class`, `name`, `uid`.
    who: Option<Who>,
    /// What.
    right: Option<Right>,
    /// To what: a method, device id, topic or scope; `*` is one segment, `>` the tail.
    target: Option<String>,
    /// How far, with `device.write`.
    #[serde(default)]
    limits: DeviceLimits,
    /// How long, s; until it is revoked if absent.
    ttl_s: Option<u64>,
    /// Why, for people and for the audit log.
    reason: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Granted {
    /// Number to revoke it by.
    id: u64,
    /// When it ends, seconds since 1970; none if only a revocation ends it.
    ends_wall_s: Option<u64>,
}

/// What is to be granted, by what the parameters say or by the request that they name.
struct Wanted {
    who: Who,
    right: Right,
    target: Pattern,
    ttl_s: Option<u64>,
    reason: String,
}

fn wanted(daemon: &Daemon, params: &GrantParams) -> Result<Wanted, ErrorInfo> {
    let invalid = |text: String| Reason::invalid().error(text);
    let said = (params.who.clone(), params.right, params.target.as_deref());
    let Some(id) = params.request else {
        let (Some(who), Some(right), Some(target)) = said else {
            let text = "give `who`, `right` and `target`, or the `request` that asks for them";
            return Err(invalid(text.into()));
        };
        let reason = params.reason.clone().unwrap_or_default();
        let target = Pattern::parse(target).map_err(|error| invalid(error.to_string()))?;
        let ttl_s = params.ttl_s;
        return Ok(Wanted {
            who,
            right,
            target,
            ttl_s,
            reason,
        });
    };
    if said != (None, None, None) {
        let text = "a `request` says who may do what to what; leave `who`, `right`, `target` out";
        return Err(invalid(text.into()));
    }
    let requests = daemon.requests.borrow();
    let request = requests.find(id).ok_or_else(|| unknown_request(id))?;
    let subject = &request.subject;
    Ok(Wanted {
        who: Who {
            class: Some(subject.class),
            name: subject.name.clone(),
            uid: Some(subject.uid),
        },
        right: request.right,
        target: request.target.clone(),
        ttl_s: params.ttl_s.or(request.ttl_s),
        reason: params
            .reason
            .clone()
            .unwrap_or_else(|| request.reason.clone()),
    })
}

/// The grant that `params` ask for, without its number.
fn checked(call: &Call, params: &GrantParams) -> Result<Grant, ErrorInfo> {
    let invalid = |text: String| Reason::invalid().error(text);
    let wanted = wanted(&call.daemon, params)?;
    if wanted.who.is_empty() {
        let text = "`who` names nobody; give `class`, `name` or `uid`";
        return Err(invalid(text.into()));
    }
    check_reason(&wanted.reason)?;
    check_ttl(wanted.ttl_s)?;
    if let Some(trouble) = params.limits.trouble() {
        return Err(invalid(trouble));
    }
    if !params.limits.is_empty() && wanted.right != Right::DeviceWrite {
        return Err(invalid(
            "`limits` go with the right device.write only".into(),
        ));
    }
    let now = Now::read();
    let ends = wanted.ttl_s.map(|ttl| Ends {
        wall_s: now.wall_s.saturating_add(ttl),
        boot_s: Some(now.boot_s.saturating_add(ttl)),
    });
    Ok(Grant {
        id: 0,
        rule: Rule {
            origin: String::new(),
            who: wanted.who,
            right: wanted.right,
            target: wanted.target,
            limits: params.limits.clone(),
        },
        ends,
        granted_by: call.connection.identity.subject().to_string(),
        reason: wanted.reason,
    })
}

async fn grant(call: &Call, params: GrantParams) -> Result<Granted, ErrorInfo> {
    let mut grant = checked(call, &params)?;
    let request = params.request;
    let daemon = Rc::clone(&call.daemon);
    daemon.sweep_grants();
    let in_force = daemon.permissions.borrow().grants().len();
    if in_force + daemon.grants_to_come.get() >= MAX_GRANTS {
        let text = format!("{MAX_GRANTS} grants are in force; revoke some, or use the policy file");
        return Err(Reason::Grants.error(text));
    }
    let id = daemon.permissions.borrow_mut().number_grant();
    grant.id = id;
    grant.rule.origin = origin(id);
    let ends_wall_s = grant.ends.map(|ends| ends.wall_s);
    // Decided from here on: nobody denies or grants it meanwhile.
    let request = match request {
        Some(id) => {
            let taken = daemon.requests.borrow_mut().take(id);
            Some(taken.ok_or_else(|| unknown_request(id))?)
        }
        None => None,
    };
    let put_back = move |daemon: &Daemon, request: Option<Request>| {
        if let Some(request) = request {
            daemon.requests.borrow_mut().put_back(request);
        }
    };
    let kept = match daemon.keep_grant(grant.clone()) {
        Ok(kept) => kept,
        Err(error) => {
            put_back(&daemon, request);
            return Err(error);
        }
    };
    daemon.grants_to_come.set(daemon.grants_to_come.get() + 1);
    let call = call.clone();
    // A task of its own: a caller that gives up meanwhile must not leave a grant in the file that
    // is not in force, to come into force with the next start.
    let giving = tokio::task::spawn_local(async move {
        let kept = kept.await;
        daemon.grants_to_come.set(daemon.grants_to_come.get() - 1);
        if let Err(error) = kept {
            put_back(&daemon, request);
            return Err(error);
        }
        let request = request.map(|request| request.id);
        daemon.permissions.borrow_mut().grant(grant);
        daemon.grants_changed.notify_one();
        let by = call.connection.identity.subject().to_string();
        let granted = PermissionGranted {
            grant: id,
            by,
            request,
        };
        daemon.bus.publish(&granted, Some(&call.meta));
        if let Some(request) = request {
            decided(&daemon, request, "granted", Some(id), Some(&call.meta));
        }
        Ok(())
    });
    giving
        .await
        .map_err(|error| Reason::Internal.error(error.to_string()))??;
    Ok(Granted { id, ends_wall_s })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RevokeParams {
    /// The number that permission.grant gave.
    id: u64,
}

#[derive(Serialize, JsonSchema)]
struct Revoked {
    /// The number.
    id: u64,
    /// Whether it will stay revoked after a restart; `false` when it could not be written down yet.
    kept: bool,
}

async fn revoke(call: &Call, params: &RevokeParams) -> Result<Revoked, ErrorInfo> {
    let daemon = &call.daemon;
    let taken = daemon.permissions.borrow_mut().revoke(params.id);
    if taken.is_none() {
        let text = format!("there is no grant {}; see permission.list", params.id);
        return Err(Reason::UnknownGrant { grant: params.id }.error(text));
    }
    daemon.rights_changed();
    let kept = daemon.forget_grants(vec![params.id]);
    let revoked = PermissionRevoked {
        grant: params.id,
        by: Some(call.connection.identity.subject().to_string()),
        cause: None,
    };
    let (bus, meta) = (Rc::clone(&daemon.bus), call.meta.clone());
    // It is in force; whether it will be after a restart is worth a moment. Told behind that, or a
    // kill in between would leave a grant in force that was told as revoked; and told whether its
    // caller waits or not.
    let told = tokio::task::spawn_local(async move {
        let kept = tokio::time::timeout(KEPT_PATIENCE, kept).await;
        bus.publish(&revoked, Some(&meta));
        kept.unwrap_or(false)
    });
    Ok(Revoked {
        id: params.id,
        kept: told.await.unwrap_or(false),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AuditParams {
    /// Records with higher numbers; 0 if absent.
    #[serde(default)]
    after: u64,
    /// At most so many, up to 500; 100 if absent.
    limit: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
struct AuditPage {
    /// The records, as they stand in the log.
    records: Vec<serde_json::Value>,
    /// Whether there are more.
    more: bool,
    /// Entries that could not be written since kairod started.
    lost: u64,
}

async fn read_audit(call: Call, params: AuditParams) -> Result<AuditPage, ErrorInfo> {
    let audit = &call.daemon.audit;
    let unavailable = |text: String| Reason::NoAudit.error(text);
    let Some(directory) = audit.directory().map(std::path::Path::to_path_buf) else {
        return Err(unavailable(
            "there is no audit log; see kairod's words".into(),
        ));
    };
    let limit = params.limit.unwrap_or(100).clamp(1, MAX_AUDIT_RECORDS);
    let reading = move || kairo_audit::read(&directory, params.after, limit);
    let page = tokio::task::spawn_blocking(reading).await;
    let page = page
        .map_err(|error| unavailable(error.to_string()))?
        .map_err(|error| unavailable(error.to_string()))?;
    let mut answer = AuditPage {
        records: Vec::new(),
        more: page.has_more,
        lost: audit.lost(),
    };
    let mut bytes = 0;
    for record in &page.records {
        let record =
            serde_json::to_value(record).map_err(|error| unavailable(error.to_string()))?;
        bytes += record.to_string().len();
        if bytes > AUDIT_PAGE_BYTES && !answer.records.is_empty() {
            answer.more = true;
            break;
        }
        answer.records.push(record);
    }
    Ok(answer)
}
