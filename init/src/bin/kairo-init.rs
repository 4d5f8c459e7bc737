//! PID 1: boots the machine, keeps its services, ends it. Everything it does is in the library;
//! this is the order of the three.

use kairo_init::linux::{LinuxSys, reboot_on_panic};
use kairo_init::supervisor::Supervisor;
use kairo_init::sys::{Ending, Sys};
use kairo_init::{boot, supervisor};

fn main() {
    if std::process::id() != 1 {
        eprintln!("kairo-init is PID 1 of KairoOS and does nothing else; boot with init=");
        std::process::exit(2);
    }
    reboot_on_panic();
    let mut sys = match LinuxSys::new() {
        Ok(sys) => sys,
        // Without signals there is no reaping and no shutdown: the hook restarts the machine.
        Err(error) => panic!("{error}"),
    };
    sys.claim_ctrl_alt_del();
    if let Some(booted) = boot::run(&mut sys) {
        let mut supervisor = Supervisor::new(booted, sys.now());
        supervisor::run(&mut sys, &mut supervisor);
    }
    // Here only if the kernel refused to end: insist, and leave the rest to the watchdog.
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
        sys.end(Ending::Reboot);
    }
}
