//! What `kairo doctor --rt` asks of a machine on which kairo-rt does not run: is it fit to?
//!
//! Ordinary process, no privilege needed, nothing is changed. The checks are those of bring-up that
//! an ordinary program can read, with the same names, so that what is mended here is not found
//! again there.

use std::fs;

use kairo_link::control::BringupCheck;

use crate::bringup::cores::{CoreSplit, parse_list};
use crate::bringup::machine::Machine;
use crate::bringup::process;
use crate::config::RobotConfig;

/// The table for `robot`, or for any robot on the cores that are isolated; the last core where none
/// is.
pub fn table(robot: Option<&RobotConfig>) -> Vec<BringupCheck> {
    let demands = robot.map(RobotConfig::demands).unwrap_or_default();
    let pinned: Vec<usize> = demands.iter().filter_map(|demand| demand.core).collect();
    let cores = if pinned.is_empty() {
        likely_cores()
    } else {
        pinned
    };
    let split = CoreSplit::of_this_machine(cores);
    let mut table = process::look(&demands);
    table.extend(Machine::here(false).table(&demands, &split));
    table
}

fn likely_cores() -> Vec<usize> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
        parse_list(&text.unwrap_or_default())
    };
    let isolated = read("isolated");
    match isolated.is_empty() {
        true => read("online").into_iter().next_back().into_iter().collect(),
        false => isolated.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_machine_gets_a_table_with_a_fix_for_each_failure() {
        let table = table(None);
        for name in [
            "kernel",
            "memlock_limit",
            "rtprio_limit",
            "timer_resolution",
            "governor",
        ] {
            assert!(
                table.iter().any(|line| line.check == name),
                "{name} is missing"
            );
        }
        for line in &table {
            assert_eq!(line.ok, line.fix.is_empty(), "{line:?}");
        }
    }
}
