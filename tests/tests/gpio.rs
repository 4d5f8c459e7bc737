//! The e-stop by GPIO lines, over the kernel's own interface: a chip of gpio-sim in the lab's
//! image, in instruction time, where a tick is counted and none is late by the host's load.
//!
//! What is checked is in `board/lab/src/estop.rs`, which runs in the guest and fails with the
//! promise that did not hold.

use std::time::Duration;

use anyhow::ensure;
use board::kernel::{self, Arch};
use board::latency::Mode;
use board::latency::guest::{Guest, build_image};
use kairo_tests::{out, paths};

/// Longest run of the checks, guest time; a run takes some ten seconds.
const CHECKS: Duration = Duration::from_secs(180);

#[test]
fn a_pulled_wire_stops_the_arm_in_the_next_tick_and_nothing_but_an_edge_of_the_reset_clears()
-> anyhow::Result<()> {
    let kernel = kernel::build(&paths(), Arch::X86_64)?.image;
    let image = build_image(&paths(), &kernel)?;
    let mut guest = Guest::boot(&image, &out("gpio"), Mode::Instruction)?;
    let argv = ["/usr/bin/kairo-lab", "estop-check"].map(String::from);
    let found = guest.lab(&argv, CHECKS, Mode::Instruction)?;
    eprintln!("{found}");
    ensure!(found["moving"]["ticks"].as_u64() <= Some(1), "{found}");
    ensure!(found["storm"]["storms"].as_u64() > Some(0), "{found}");
    Ok(())
}
