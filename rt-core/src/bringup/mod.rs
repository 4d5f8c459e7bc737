//! Bring-up: asks the kernel for real-time conditions, and reads back what it granted.
//!
//! setup-only. Nothing is believed because a call succeeded: every line of the table is what the
//! kernel says afterwards. A failed line never stops the daemon. In strict mode a failed *required*
//! line refuses to arm; otherwise it is listed, with the command that mends it.
//!
//! Order (reasons in `docs/internals/real-time-plane.md`): limits, timer, allocator, memory lock,
//! heap prefault, CPU wake-up latency ([`process`]); governor, interrupts and work queues off the
//! real-time cores, timers that stay ([`machine`]); then, on each thread, name, core, stack,
//! priority, timer slack ([`thread`]), a warm-up with outputs disabled, and the read-back; and when
//! every thread runs, the proof that no other one is real-time ([`ordinary_threads`]).

pub mod cores;

pub mod machine;
pub mod ordinary_threads;
pub mod process;
pub mod thread;

use kairo_link::control::BringupCheck;

/// Whether strict mode arms without a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it a latency promise is empty.
    Required,
    /// It lowers latency; its absence shows in the histograms.
    Helpful,
}

/// One line of the table. `fix` is dropped when the line is fine.
pub fn check(
    scope: &str,
    name: &str,
    wanted: impl Into<String>,
    found: impl Into<String>,
    ok: bool,
    need: Need,
    fix: impl Into<String>,
) -> BringupCheck {
    BringupCheck {
        scope: scope.into(),
        check: name.into(),
        wanted: wanted.into(),
        found: found.into(),
        ok,
        required: need == Need::Required,
        fix: if ok { String::new() } else { fix.into() },
    }
}

/// Whether to arm: always when not strict, else only when every required line is fine.
pub fn may_arm(checks: &[BringupCheck], strict: bool) -> bool {
    !strict || checks.iter().all(|check| check.ok || !check.required)
}

/// The failed lines as text, one each, for the log.
pub fn failures(checks: &[BringupCheck]) -> Vec<String> {
    let failed = checks.iter().filter(|check| !check.ok);
    failed
        .map(|check| {
            let need = if check.required {
                "required"
            } else {
                "helpful"
            };
            format!(
                "{} {} ({need}): wanted {}, found {}; fix: {}",
                check.scope, check.check, check.wanted, check.found, check.fix
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_arms_only_when_every_required_line_is_fine() {
        let fine = check("a", "policy", "x", "x", true, Need::Required, "unused");
        assert_eq!(fine.fix, "");
        let helpful = check("a", "governor", "x", "y", false, Need::Helpful, "do this");
        let required = check("a", "policy", "x", "y", false, Need::Required, "do that");
        assert!(may_arm(&[fine.clone(), helpful.clone()], true));
        assert!(!may_arm(&[fine.clone(), required.clone()], true));
        assert!(may_arm(&[fine, required.clone()], false));
        assert_eq!(failures(&[helpful, required]).len(), 2);
    }
}
