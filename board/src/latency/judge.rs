//! The marks of the lab, from what was found: pure.

use super::Mode;
use super::account::{Account, Load};
use crate::bench::{Bound, Control, Mark};

/// kairo-rt's maximum may be this much above cyclictest's, and above its own on an idle machine,
/// instruction-µs.
const MARGIN_US: f64 = 1.0;
/// The load that others are held against.
const IDLE: &str = "idle";

/// Every mark. Wall time is noisy, so there lateness is reported and judged by nobody.
pub fn marks(mode: Mode, bare: &[Account], arm: &[Account]) -> Vec<Mark> {
    let idle = bare.iter().find(|account| account.load == IDLE);
    let mut marks = Vec::new();
    for account in bare {
        lateness(mode, account, &mut marks);
        let moved = idle.filter(|idle| idle.load != account.load);
        if let Some(idle) = moved {
            let moved_us = account.ours.max_us() - idle.ours.max_us();
            let bound = judged(mode, Bound::AtMost(MARGIN_US));
            let name = format!("{}: max, moved from idle", account.load);
            let theirs = account.theirs.as_ref().zip(idle.theirs.as_ref());
            // What the kernel alone makes of the load, beside the bound: it excuses nothing.
            let control = theirs.map(|(loaded, idle)| {
                Control::new("cyclictest", (loaded.max_us() - idle.max_us()).abs())
            });
            let moved_us = moved_us.abs();
            marks.push(Mark::new(name, moved_us, mode.unit(), control, bound));
        }
        purity(mode, "", account, &mut marks);
    }
    for account in arm {
        let name = format!("arm, {}: max lateness", account.load);
        let max_us = account.ours.max_us();
        marks.push(Mark::new(name, max_us, mode.unit(), None, Bound::Reported));
        purity(mode, "arm, ", account, &mut marks);
    }
    marks
}

fn judged(mode: Mode, bound: Bound) -> Bound {
    match mode {
        Mode::Instruction => bound,
        Mode::Wall => Bound::Reported,
    }
}

fn lateness(mode: Mode, account: &Account, marks: &mut Vec<Mark>) {
    let mut compare = |kind: &str, of: &dyn Fn(&Load) -> f64, margin: f64| {
        let control = account.theirs.as_ref();
        let control = control.map(|theirs| Control::new("cyclictest", of(theirs)));
        let bound = judged(mode, Bound::AtMostControlPlus(margin));
        let name = format!("{}: {kind}", account.load);
        let ours = of(&account.ours);
        marks.push(Mark::new(name, ours, mode.unit(), control, bound));
    };
    compare("max lateness", &Load::max_us, MARGIN_US);
    compare("median lateness", &|side| side.quantile_us(0.5), 0.0);
}

fn purity(mode: Mode, prefix: &str, account: &Account, marks: &mut Vec<Mark>) {
    // A host that stops the whole machine skips periods in it; it makes no faults.
    let skipped = judged(mode, Bound::AtMost(0.0));
    let counts = [
        ("periods skipped", account.skipped, skipped),
        ("page faults", account.faults, Bound::AtMost(0.0)),
        ("allocations", account.allocations, Bound::AtMost(0.0)),
        (
            "account broken",
            account.identity_broken,
            Bound::AtMost(0.0),
        ),
    ];
    for (kind, count, bound) in counts {
        let name = format!("{prefix}{}: {kind}", account.load);
        marks.push(Mark::new(name, count as f64, "times", None, bound));
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::tests::printed;
    use super::*;

    fn account(load: &str, ours: &[u64], theirs: &[u64]) -> Account {
        Account::read(&printed(load, ours, theirs)).unwrap()
    }

    fn missed(mode: Mode, accounts: &[Account]) -> Vec<String> {
        let marks = marks(mode, accounts, &[]);
        let missed = marks.into_iter().filter(|mark| !mark.ok);
        missed.map(|mark| mark.name).collect()
    }

    #[test]
    fn a_later_maximum_a_later_median_and_a_moved_maximum_are_missed() {
        let idle = account("idle", &[3000, 4000], &[3000, 4000]);
        assert!(missed(Mode::Instruction, std::slice::from_ref(&idle)).is_empty());
        let late = account("cpu", &[3000, 6000], &[3000, 4900]);
        let expected = ["cpu: max lateness", "cpu: max, moved from idle"];
        assert_eq!(missed(Mode::Instruction, &[idle.clone(), late]), expected);
        let median = account("cpu", &[3100, 4000], &[3000, 4000]);
        assert_eq!(
            missed(Mode::Instruction, &[idle, median]),
            ["cpu: median lateness"]
        );
    }

    #[test]
    fn wall_time_judges_no_lateness_but_purity() {
        let mut slow = account("idle", &[900_000], &[1000]);
        slow.skipped = 3;
        assert!(missed(Mode::Wall, std::slice::from_ref(&slow)).is_empty());
        slow.faults = 1;
        assert_eq!(
            missed(Mode::Wall, std::slice::from_ref(&slow)),
            ["idle: page faults"]
        );
        assert_eq!(missed(Mode::Instruction, &[slow]).len(), 4);
    }
}
