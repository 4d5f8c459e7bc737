//! Who may do what: one table of rules and one decision.
//!
//! Everything is denied unless a rule allows it. In this order, the first rule that speaks decides:
//!
//! 1. what nobody may do ([`builtin::RESERVED`]): speak in the kernel's name;
//! 2. `[[deny]]` of the policy file;
//! 3. grants made at run time, the newest first;
//! 4. `[[allow]]` of the policy file, in the order of the file;
//! 5. the built-in rules: the classes that a method's row names, and [`builtin::RULES`].
//!
//! The same table answers a request, `permission.list`, `permission.check`, the reference and the
//! test that tries every method with every class, so that these cannot differ. Deciding looks at
//! no file and no connection, and at the clock only where a grant speaks.

pub mod builtin;
pub mod grant;
pub mod limits;
pub mod policy;
pub mod request;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topics::Pattern;
pub use limits::DeviceLimits;

/// What kind of peer it is. Given by the kernel from what it knows, never by the peer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A person at the robot, or a tool that acts for one: the CLI, a service console.
    Operator,
    /// A software agent: trusted with nothing that no rule gives it.
    Agent,
    /// A skill's process: less than the agent that started it.
    Skill,
    /// A process that serves a device.
    Driver,
    /// A process that serves methods of its own.
    Service,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 5] = [
        Self::Operator,
        Self::Agent,
        Self::Skill,
        Self::Driver,
        Self::Service,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Agent => "agent",
            Self::Skill => "skill",
            Self::Driver => "driver",
            Self::Service => "service",
        }
    }

    /// Whether a peer of this class may say what it and its name are from now on. Only who could do
    /// everything anyway: another class or name may be one that a rule allows more to, or that a
    /// denial does not mean.
    pub fn may_confine(self) -> bool {
        self == Self::Operator
    }
}

impl fmt::Display for Class {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a rule is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Right {
    /// Calling a method.
    #[serde(rename = "method.call")]
    MethodCall,
    /// Claiming and releasing a device.
    #[serde(rename = "device.claim")]
    DeviceClaim,
    /// Seeing a device's state.
    #[serde(rename = "device.read")]
    DeviceRead,
    /// Commanding a device that is claimed.
    #[serde(rename = "device.write")]
    DeviceWrite,
    /// Publishing events.
    #[serde(rename = "topic.publish")]
    TopicPublish,
    /// Receiving events.
    #[serde(rename = "topic.subscribe")]
    TopicSubscribe,
    /// Serving a namespace.
    #[serde(rename = "service.register")]
    ServiceRegister,
    /// Recalling memories of a scope.
    #[serde(rename = "memory.read")]
    MemoryRead,
    /// Adding to, changing and forgetting in a scope.
    #[serde(rename = "memory.write")]
    MemoryWrite,
}

impl Right {
    /// The name on the wire and in the policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MethodCall => "method.call",
            Self::DeviceClaim => "device.claim",
            Self::DeviceRead => "device.read",
            Self::DeviceWrite => "device.write",
            Self::TopicPublish => "topic.publish",
            Self::TopicSubscribe => "topic.subscribe",
            Self::ServiceRegister => "service.register",
            Self::MemoryRead => "memory.read",
            Self::MemoryWrite => "memory.write",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Whom a decision is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Subject {
    /// Its class.
    pub class: Class,
    /// The name that its session was given; none on a plain connection.
    pub name: Option<String>,
    /// Its user.
    pub uid: u32,
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{} {name:?} (uid {})", self.class, self.uid),
            None => write!(formatter, "{} (uid {})", self.class, self.uid),
        }
    }
}

/// Whom a rule means: everybody who is all that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// This class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The session of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// This user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

impl Who {
    /// Whether `subject` is meant.
    pub fn means(&self, subject: &Subject) -> bool {
        self.class.is_none_or(|class| class == subject.class)
            && self.uid.is_none_or(|uid| uid == subject.uid)
            && (self.name.is_none() || self.name == subject.name)
    }

    /// Whether nothing is said, which would mean everybody.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A rule: these may, or may not, do this to that.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Where it comes from: `policy:LINE`, `grant:ID` or `builtin`.
    pub origin: String,
    /// Whom it means.
    pub who: Who,
    /// What it is about.
    pub right: Right,
    /// What it may be done to: a method, a device id, a topic or a memory scope.
    pub target: Pattern,
    /// How far it goes, with `device.write`.
    pub limits: DeviceLimits,
}

impl Rule {
    fn speaks(&self, subject: &Subject, right: Right, target: &str) -> bool {
        self.right == right && self.who.means(subject) && self.target.matches(target)
    }
}

/// What was decided, and by which rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The rule that decided: its origin, or `default` when none spoke.
    pub rule: Cow<'static, str>,
    /// How far it may go.
    pub limits: DeviceLimits,
}

impl Decision {
    fn by(rule: &Rule, allowed: bool) -> Self {
        Self {
            allowed,
            rule: rule.origin.clone().into(),
            limits: if allowed {
                rule.limits.clone()
            } else {
                DeviceLimits::default()
            },
        }
    }

    fn builtin(allowed: bool) -> Self {
        Self {
            allowed,
            rule: if allowed { "builtin" } else { "default" }.into(),
            limits: DeviceLimits::default(),
        }
    }
}

/// Every rule, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Table {
    policy: policy::Policy,
    grants: Vec<grant::Grant>,
    next_grant: u64,
}

impl Table {
    /// The table of a policy, without grants.
    pub fn new(policy: policy::Policy) -> Self {
        Self {
            policy,
            grants: Vec::new(),
            next_grant: 1,
        }
    }

    /// The policy.
    pub fn policy(&self) -> &policy::Policy {
        &self.policy
    }

    /// Grants in force or expired and not yet swept, the oldest first.
    pub fn grants(&self) -> &[grant::Grant] {
        &self.grants
    }

    /// Puts back grants that were kept.
    pub fn restore(&mut self, grants: Vec<grant::Grant>, next: u64) {
        self.next_grant = self.next_grant.max(next);
        self.grants = grants;
    }

    /// The number of the next grant.
    pub fn next_grant(&self) -> u64 {
        self.next_grant
    }

    /// Gives out the number of a grant to come. It is never given out again.
    pub fn number_grant(&mut self) -> u64 {
        let id = self.next_grant;
        self.next_grant += 1;
        id
    }

    /// Adds a grant.
    pub fn grant(&mut self, grant: grant::Grant) {
        self.grants.push(grant);
    }

    /// Takes a grant away.
    pub fn revoke(&mut self, id: u64) -> Option<grant::Grant> {
        let at = self.grants.iter().position(|grant| grant.id == id)?;
        Some(self.grants.remove(at))
    }

    /// How long until the next grant is over; none without one that ends. Looked at once a minute
    /// at least, because a clock may be set: that the grant is over is seen at each decision, and
    /// so much later what rests on it ends too.
    pub fn next_end(&self, now: grant::Now) -> Option<Duration> {
        let ends = self.grants.iter().filter_map(|grant| grant.ends);
        let left = ends.map(|ends| {
            let wall = ends.wall_s.saturating_sub(now.wall_s);
            let boot = ends.boot_s.map(|boot| boot.saturating_sub(now.boot_s));
            wall.min(boot.unwrap_or(wall))
        });
        // Both clocks count whole seconds: one more, and it is over for certain.
        left.min().map(|left| Duration::from_secs(left.min(60) + 1))
    }

    /// Drops grants that are over at `now`, and gives them.
    pub fn sweep(&mut self, now: grant::Now) -> Vec<grant::Grant> {
        let (over, kept) = std::mem::take(&mut self.grants)
            .into_iter()
            .partition(|grant| grant.is_over(now));
        self.grants = kept;
        over
    }

    /// Whether `subject` may do `right` to `target`. `builtin` says what the built-in rules allow
    /// where the table itself does not know it: the classes of a method's row.
    pub fn decide(
        &self,
        subject: &Subject,
        right: Right,
        target: &str,
        builtin: &[Class],
        now: fn() -> grant::Now,
    ) -> Decision {
        if builtin::is_reserved(right, target) {
            return Decision {
                allowed: false,
                rule: "reserved".into(),
                limits: DeviceLimits::default(),
            };
        }
        let speaks = |rule: &&Rule| rule.speaks(subject, right, target);
        if let Some(rule) = self.policy.deny.iter().find(speaks) {
            return Decision::by(rule, false);
        }
        let mut granted = self.grants.iter().rev();
        if let Some(grant) = granted.find(|one| speaks(&&one.rule) && !one.is_over(now())) {
            return Decision::by(&grant.rule, true);
        }
        if let Some(rule) = self.policy.allow.iter().find(speaks) {
            return Decision::by(rule, true);
        }
        let allowed = match right {
            Right::MethodCall => builtin.contains(&subject.class),
            _ => builtin::allows(subject.class, right, target),
        };
        Decision::builtin(allowed)
    }
}

#[cfg(test)]
mod tests;
