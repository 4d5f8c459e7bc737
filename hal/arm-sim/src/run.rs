//! The program's loop: one thread, one `ppoll`, as long as nobody stops it.
//!
//! It sleeps until a byte, a control request or the end of a reply, and at most `IDLE_NS`, so
//! that it costs next to nothing beside an emulated machine on the same cores.

use std::os::fd::{AsFd, BorrowedFd};

use kairo_hal::MonoNs;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::control::{ControlServer, answer};
use crate::simulator::Simulator;
use crate::transport::Transport;

/// Longest sleep, ns. The arm's own motion is caught up at each waking.
const IDLE_NS: u64 = 50_000_000;
/// Most reads of the line per waking, so that a babbling host cannot starve the control socket.
const READS_MAX: usize = 16;

/// Serves the line and the control socket until `stop` becomes readable.
///
/// # Errors
/// The errno of a failed wait.
pub fn run(
    simulator: &mut Simulator,
    transport: &mut Transport,
    control: &mut Option<ControlServer>,
    stop: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut output = Vec::new();
    loop {
        if wait(simulator, transport, control.as_ref(), stop)? {
            return Ok(());
        }
        serve_line(simulator, transport, &mut output);
        if let Some(control) = control {
            control.serve(|line| answer(line, MonoNs::now(), simulator, transport));
        }
    }
}

/// Sleeps until there is something to do; true when it is to stop.
fn wait(
    simulator: &Simulator,
    transport: &Transport,
    control: Option<&ControlServer>,
    stop: BorrowedFd<'_>,
) -> Result<bool, Errno> {
    let now = MonoNs::now();
    let wake_at = [
        simulator.next_event_at(),
        transport.retry_at(),
        Some(now.plus_ns(IDLE_NS)),
    ]
    .into_iter()
    .flatten()
    .min();
    let left_ns = wake_at.map_or(IDLE_NS, |at| at.since_ns(now)).min(IDLE_NS);
    let timeout = TimeSpec::new(0, i64::try_from(left_ns).unwrap_or(0));

    let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
    fds.extend(
        transport
            .poll_fd()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
    );
    if let Some(control) = control {
        fds.extend(
            control
                .poll_fds()
                .map(|(fd, wanted)| PollFd::new(fd, wanted)),
        );
    }
    match ppoll(&mut fds, Some(timeout), None) {
        Ok(_) => Ok(fds[0].any().unwrap_or(true)),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn serve_line(simulator: &mut Simulator, transport: &mut Transport, output: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    for _ in 0..READS_MAX {
        let now = MonoNs::now();
        let (count, was_lost) = transport.receive(now, &mut buffer);
        if was_lost {
            simulator.hang_up();
        }
        if count == 0 {
            break;
        }
        simulator.receive(now, &buffer[..count]);
    }
    output.clear();
    simulator.take_output(MonoNs::now(), output);
    transport.send(output);
}

/// A descriptor that becomes readable on SIGTERM and SIGINT, which stop killing the process.
///
/// # Errors
/// The errno of the failed call.
pub fn stop_signals() -> Result<impl AsFd, Errno> {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
