//! The rules that hold without a policy file: enough to look around, nothing that moves.

use super::{Class, Right};
use crate::topics::Pattern;

/// What nobody may do over IPC, whatever a policy says: facts of the kernel come from the kernel.
pub const RESERVED: &[(Right, &str)] = &[(Right::TopicPublish, "kairo.system.>")];

/// Whoever asks for a right may hear of the decision: it says the number and how it ended, and
/// nothing of who asked for what.
const DECIDED: &str = "kairo.system.security.permission.decided";

/// What a class may do to things other than methods. Operators may do everything that is not
/// reserved.
pub const RULES: &[(Class, Right, &str)] = &[
    (Class::Operator, Right::DeviceClaim, ">"),
    (Class::Operator, Right::DeviceRead, ">"),
    (Class::Operator, Right::DeviceWrite, ">"),
    (Class::Operator, Right::TopicPublish, ">"),
    (Class::Operator, Right::TopicSubscribe, ">"),
    (Class::Operator, Right::ServiceRegister, ">"),
    (Class::Operator, Right::MemoryRead, ">"),
    (Class::Operator, Right::MemoryWrite, ">"),
    (Class::Agent, Right::DeviceRead, ">"),
    (Class::Agent, Right::TopicPublish, "agent.>"),
    (Class::Agent, Right::TopicSubscribe, "agent.>"),
    (Class::Agent, Right::TopicSubscribe, "kairo.system.ready"),
    (Class::Agent, Right::TopicSubscribe, "kairo.system.rt.>"),
    (Class::Agent, Right::TopicSubscribe, "kairo.system.device.>"),
    (Class::Agent, Right::TopicSubscribe, "kairo.system.event.>"),
    (Class::Agent, Right::TopicSubscribe, "kairo.system.intent.>"),
    (Class::Agent, Right::TopicSubscribe, DECIDED),
    (Class::Skill, Right::DeviceRead, ">"),
    (Class::Skill, Right::TopicSubscribe, DECIDED),
    (Class::Skill, Right::TopicPublish, "skill.>"),
    (Class::Skill, Right::TopicSubscribe, "skill.>"),
    (Class::Skill, Right::TopicSubscribe, "kairo.system.ready"),
    (Class::Skill, Right::TopicSubscribe, "kairo.system.rt.>"),
    (Class::Skill, Right::TopicSubscribe, "kairo.system.device.>"),
    (Class::Skill, Right::TopicSubscribe, "kairo.system.event.>"),
    (Class::Driver, Right::DeviceRead, ">"),
    (Class::Driver, Right::TopicSubscribe, DECIDED),
    (Class::Driver, Right::TopicPublish, "driver.>"),
    (
        Class::Driver,
        Right::TopicSubscribe,
        "kairo.system.device.>",
    ),
    (Class::Driver, Right::TopicSubscribe, "kairo.system.event.>"),
    (Class::Service, Right::TopicPublish, "service.>"),
    (Class::Service, Right::TopicSubscribe, DECIDED),
    (Class::Service, Right::TopicSubscribe, "service.>"),
    (Class::Service, Right::TopicSubscribe, "kairo.system.ready"),
    (
        Class::Service,
        Right::TopicSubscribe,
        "kairo.system.event.>",
    ),
];

/// Whether nobody may.
pub fn is_reserved(right: Right, target: &str) -> bool {
    let rules = RESERVED.iter().filter(|(reserved, _)| *reserved == right);
    matches_any(rules.map(|(_, pattern)| *pattern), target)
}

/// Whether the built-in rules allow it.
pub fn allows(class: Class, right: Right, target: &str) -> bool {
    let rules = RULES
        .iter()
        .filter(|(allowed, about, _)| *allowed == class && *about == right);
    matches_any(rules.map(|(_, _, pattern)| *pattern), target)
}

fn matches_any<'a>(mut patterns: impl Iterator<Item = &'a str>, target: &str) -> bool {
    patterns.any(|pattern| Pattern::parse(pattern).is_ok_and(|pattern| pattern.matches(target)))
}
