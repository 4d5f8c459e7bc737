//! The order of the rules, the classes, and what a policy file may not say.

use std::path::Path;

use super::grant::{Ends, Grant, Kept, Now, origin};
use super::policy::{Policy, PolicyError};
use super::*;

const NOW: Now = Now {
    wall_s: 1000,
    boot_s: 100,
};

fn agent(name: Option<&str>) -> Subject {
    Subject {
        class: Class::Agent,
        name: name.map(str::to_string),
        uid: 1001,
    }
}

fn policy(text: &str) -> Policy {
    Policy::parse(text, Path::new("policy.toml")).unwrap()
}

fn trouble(text: &str) -> String {
    Policy::parse(text, Path::new("policy.toml"))
        .unwrap_err()
        .to_string()
}

fn granted(id: u64, right: Right, target: &str, ends: Option<Ends>) -> Grant {
    Grant {
        id,
        rule: Rule {
            origin: origin(id),
            who: Who {
                class: Some(Class::Agent),
                ..Who::default()
            },
            right,
            target: Pattern::parse(target).unwrap(),
            limits: DeviceLimits::default(),
        },
        ends,
        granted_by: "a test".into(),
        reason: "to see".into(),
    }
}

fn may(table: &Table, subject: &Subject, right: Right, target: &str) -> (bool, String) {
    let decision = table.decide(subject, right, target, &[], || NOW);
    (decision.allowed, decision.rule.into_owned())
}

#[test]
fn without_a_policy_an_agent_sees_and_moves_nothing() {
    let table = Table::default();
    let agent = agent(None);
    assert!(may(&table, &agent, Right::DeviceRead, "arm").0);
    for right in [Right::DeviceClaim, Right::DeviceWrite, Right::MemoryRead] {
        assert_eq!(may(&table, &agent, right, "arm"), (false, "default".into()));
    }
    assert!(
        !may(
            &table,
            &agent,
            Right::TopicSubscribe,
            "kairo.system.security.x"
        )
        .0
    );
}

#[test]
fn nobody_speaks_in_the_kernels_name_whatever_a_policy_says() {
    let table = Table::new(policy("[[allow]]\nclass = 'operator'\npublish = ['>']\n"));
    let operator = Subject {
        class: Class::Operator,
        name: None,
        uid: 0,
    };
    let (allowed, rule) = may(
        &table,
        &operator,
        Right::TopicPublish,
        "kairo.system.rt.lost",
    );
    assert!(!allowed);
    assert_eq!(rule, "reserved");
    assert!(may(&table, &operator, Right::TopicPublish, "app.hello").0);
}

#[test]
fn a_denial_outranks_a_grant_and_a_grant_the_default() {
    let text = "[[deny]]\nname = 'rogue'\ndevices = ['*']\n";
    let mut table = Table::new(policy(text));
    let id = table.number_grant();
    table.grant(granted(id, Right::DeviceClaim, "arm", None));
    assert_eq!(
        may(&table, &agent(Some("rogue")), Right::DeviceClaim, "arm"),
        (false, "policy:1".into())
    );
    assert_eq!(
        may(&table, &agent(Some("good")), Right::DeviceClaim, "arm"),
        (true, "grant:1".into())
    );
    assert!(table.revoke(1).is_some());
    assert!(!may(&table, &agent(Some("good")), Right::DeviceClaim, "arm").0);
}

#[test]
fn a_grant_ends_by_whichever_clock_says_so_first() {
    let ends = Ends {
        wall_s: 1010,
        boot_s: Some(110),
    };
    let grant = granted(1, Right::DeviceClaim, "arm", Some(ends));
    let at = |wall_s, boot_s| grant.is_over(Now { wall_s, boot_s });
    assert!(!at(1009, 109));
    assert!(at(1010, 109));
    // The clock was set back by a day; time went on all the same.
    assert!(at(10, 110));
    // After a reboot only the wall clock can tell.
    let kept = Kept::from(&grant).into_grant(false).unwrap();
    assert!(!kept.is_over(Now {
        wall_s: 1009,
        boot_s: 100_000
    }));
    assert!(kept.is_over(Now {
        wall_s: 1010,
        boot_s: 1
    }));
}

#[test]
fn a_clock_that_is_set_is_noticed_by_decisions_at_once_and_by_the_sweep_within_a_minute() {
    let mut table = Table::new(Policy::default());
    let ends = Ends {
        wall_s: NOW.wall_s + 100_000,
        boot_s: Some(NOW.boot_s + 100_000),
    };
    table.grant(granted(1, Right::DeviceClaim, "arm", Some(ends)));
    let asked = |table: &Table, now: fn() -> Now| {
        let decision = table.decide(&agent(None), Right::DeviceClaim, "arm", &[], now);
        decision.allowed
    };
    let forward = || Now {
        wall_s: NOW.wall_s + 200_000,
        ..NOW
    };
    let back = || Now { wall_s: 0, ..NOW };
    assert!(asked(&table, || NOW) && asked(&table, back));
    assert!(!asked(&table, forward));
    let sweep = table.next_end(NOW).unwrap();
    assert!(sweep <= std::time::Duration::from_secs(61), "{sweep:?}");
    assert!(table.sweep(back()).is_empty());
    assert_eq!(table.sweep(forward()).len(), 1);
    assert_eq!(table.next_end(NOW), None);
}

#[test]
fn limits_travel_with_the_rule_that_decides() {
    let table = Table::new(policy(
        "[[allow]]\nclass = 'agent'\ndevices = ['arm']\nlimits = { velocity_scale_max = 0.5 }\n",
    ));
    let decision = table.decide(&agent(None), Right::DeviceWrite, "arm", &[], || NOW);
    assert!(decision.allowed);
    assert_eq!(decision.limits.velocity_scale_max, Some(0.5));
    let claim = table.decide(&agent(None), Right::DeviceClaim, "arm", &[], || NOW);
    assert!(claim.allowed && claim.limits.is_empty());
}

#[test]
fn a_policy_that_makes_no_sense_names_its_line_and_the_remedy() {
    for (text, expected) in [
        ("[[allow]]\ndevices = ['arm']\n", "names nobody"),
        ("[[allow]]\nclass = 'agent'\n", "allows or denies nothing"),
        (
            "[[allow]]\nclass = 'god'\nmethods = ['>']\n",
            "policy.toml:2",
        ),
        (
            "\n[[deny]]\nclass = 'agent'\nmethodz = ['>']\n",
            "policy.toml:4",
        ),
        (
            "[[allow]]\nclass = 'agent'\ndevices = ['a b']\n",
            "policy.toml:1",
        ),
        (
            "[[allow]]\nclass = 'agent'\ndevices = ['arm']\nlimits = { ttl_max_ms = 0 }\n",
            "ttl_max_ms is 0",
        ),
        (
            "[[allow]]\nclass = 'agent'\nmethods = ['>']\nrights = ['claim']\n",
            "`rights` say",
        ),
        ("[[identity]]\nclass = 'operator'\n", "needs `uid` or `gid`"),
    ] {
        let said = trouble(text);
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[test]
fn a_policy_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    assert_eq!(Policy::load(&path).unwrap(), Policy::default());
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
    let refused = Policy::load(&path);
    assert!(matches!(refused, Err(PolicyError::Writable { .. })));
}

#[test]
fn only_an_operator_says_what_it_becomes() {
    for class in Class::ALL {
        assert_eq!(class.may_confine(), class == Class::Operator, "{class}");
    }
}
