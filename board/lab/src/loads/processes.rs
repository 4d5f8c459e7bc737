//! Loads made of processes: computing ones, and ones that live only to be made.

use std::convert::Infallible;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// More than the machine has cores.
const SPINNERS: usize = 4;
/// Processes that fork at the same time.
const FORKERS: usize = 4;
/// Children of one forker that live at the same time: together the group's limit of tasks.
const CHILDREN: usize = 100;
/// Every so many forks one child becomes a new program, which is dearer by far.
const EXEC_EVERY: usize = 16;

/// Computes in several processes at once.
pub fn spin() -> anyhow::Result<Infallible> {
    split(SPINNERS)?;
    let mut value = 0_u64;
    loop {
        value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005) + 1);
    }
}

/// Forks without end.
pub fn storm() -> anyhow::Result<Infallible> {
    split(FORKERS)?;
    let mut living = 0;
    for count in 0_usize.. {
        match child(count.is_multiple_of(EXEC_EVERY)) {
            Ok(()) => living += 1,
            // The limit of tasks: there is nothing to do but to bury some.
            Err(_) => living = living.max(1),
        }
        let block = living >= CHILDREN;
        while living > 0 && reap(block && living >= CHILDREN)? {
            living -= 1;
        }
    }
    unreachable!("the count does not end")
}

/// Becomes `count` processes.
fn split(count: usize) -> anyhow::Result<()> {
    for _ in 1..count {
        // SAFETY: this process has one thread, so the child may do anything.
        if let ForkResult::Child = unsafe { fork() }? {
            return Ok(());
        }
    }
    Ok(())
}

fn child(becomes_a_program: bool) -> anyhow::Result<()> {
    if becomes_a_program {
        let mut command = Command::new("/usr/bin/kairo-lab");
        command.args(["load", "idle"]).stdin(Stdio::null());
        // Reaped with the others.
        drop(command.spawn()?);
        return Ok(());
    }
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }? {
        // SAFETY: _exit(2) takes no pointers and does not return.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { .. } => Ok(()),
    }
}

/// Buries one child; false when there is none to bury.
fn reap(block: bool) -> anyhow::Result<bool> {
    let flags = (!block).then_some(WaitPidFlag::WNOHANG);
    match waitpid(Pid::from_raw(-1), flags) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(false),
        Ok(_) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
