//! The other process: sends back what it gets, or waits to be woken and notes how old it is.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kairo_link::{MonoNs, ring};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::message::{Line, Words};
use crate::pin;
use crate::wires::{Mode, SLOTS, Steering, Theirs, open_of, ring_of, steering_of};

/// A line whose first word this is ends the waiting.
pub const LAST: u64 = u64::MAX;

/// Runs until told to quit: `KIND PID STEERING THERE BACK [BELL]`.
pub fn run(words: &[&str]) -> Result<()> {
    let [kind, pid, steering, there, back, rest @ ..] = words else {
        anyhow::bail!("a peer needs its descriptors");
    };
    // SAFETY: takes integers. A peer whose parent has died would wait, or spin, for ever.
    unsafe { nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, nix::libc::SIGKILL) };
    pin(1)?;
    let steering = steering_of(pid, steering)?;
    let ours_in = ring::Consumer::<Line>::new(ring_of(pid, there)?, SLOTS);
    let ours_out = ring::Producer::<Line>::new(ring_of(pid, back)?, SLOTS);
    let theirs = Theirs::join(pid, "back", "there")?;
    match *kind {
        "echo" => echo(&steering, ours_in, ours_out, &theirs),
        _ => {
            let bell = rest.first().context("a waiting peer needs a bell")?;
            wait(&steering, ours_in, open_of(pid, bell, false)?, theirs)
        }
    }
}

fn echo(
    steering: &Steering,
    mut ours_in: ring::Consumer<Line>,
    mut ours_out: ring::Producer<Line>,
    theirs: &Theirs,
) -> Result<()> {
    loop {
        let mode = steering.follow();
        if mode == Mode::EchoOurs as u64 {
            for _ in 0..1024 {
                if let Some(line) = ours_in.pop()? {
                    ours_out.push(&line)?;
                }
            }
        } else if mode == Mode::EchoTheirs as u64 {
            for _ in 0..1024 {
                if let Some(line) = theirs.take()? {
                    theirs.send(line)?;
                }
            }
        } else if mode == Mode::Quit as u64 {
            return Ok(());
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// One blocked thread a side; prints the ages, by the pace that stands in the second word.
fn wait(
    steering: &Steering,
    mut ours: ring::Consumer<Line>,
    bell: OwnedFd,
    theirs: Theirs,
) -> Result<()> {
    let waiting = std::thread::spawn(move || -> Result<Vec<[u64; 2]>> {
        pin(1)?;
        let mut ages = Vec::with_capacity(65536);
        loop {
            let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE)?;
            if nix::unistd::read(&bell, &mut [0; 64])? == 0 {
                return Ok(ages);
            }
            while let Some(Words([sent, pace, ..])) = ours.pop()? {
                if sent == LAST {
                    return Ok(ages);
                }
                ages.push([pace, MonoNs::now().since_ns(MonoNs(sent))]);
            }
        }
    });
    steering.follow();
    let mut ages = Vec::with_capacity(65536);
    'all: loop {
        theirs.listener.blocking_wait(|_| {})?;
        while let Some([sent, pace, ..]) = theirs.take()? {
            if sent == LAST {
                break 'all;
            }
            ages.push([pace, MonoNs::now().since_ns(MonoNs(sent))]);
        }
    }
    let ours = waiting
        .join()
        .map_err(|_| anyhow::anyhow!("the waiting thread panicked"))??;
    println!("{}", json!({"ours": ours, "iceoryx2": ages}));
    Ok(())
}
