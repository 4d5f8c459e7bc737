//! Starting a service: fork, dress the child, exec. The child takes on its cgroup first, so that
//! nothing it does is accounted elsewhere, and its user last, because dressing needs root. A step
//! that fails is reported through a pipe that exec closes; PID 1 waits for that word for at most
//! [`EXEC_DEADLINE`], because loading a program reads a disk.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2};
use nix::unistd::{setgid, setgroups, setsid, setuid};

use crate::phases::CGROUP_ROOT;
use crate::sys::{Launch, Pid, SysError};

const EXEC_DEADLINE: Duration = Duration::from_secs(1);

/// A started service.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    /// Its stdout and stderr.
    pub(super) output: OwnedFd,
}

/// Starts it. An error names the step that failed.
pub(super) fn start(launch: &Launch) -> Result<Started, SysError> {
    let program = launch.argv.first().cloned().unwrap_or_default();
    let error = |errno| SysError::refused(format!("start {program}"), errno);
    let text = |text: &str| CString::new(text).map_err(|_| error(Errno::EINVAL));
    let argv = launch.argv.iter().map(|word| text(word));
    let argv = argv.collect::<Result<Vec<CString>, SysError>>()?;
    let environment = launch
        .environment
        .iter()
        .map(|(key, value)| text(&format!("{key}={value}")));
    let environment = environment.collect::<Result<Vec<CString>, SysError>>()?;
    let (output, output_write) = pipe2(OFlag::O_CLOEXEC).map_err(error)?;
    let (word, word_write) = pipe2(OFlag::O_CLOEXEC).map_err(error)?;
    // SAFETY: this process has one thread, so the child may use the allocator and std.
    match unsafe { fork() }.map_err(error)? {
        ForkResult::Child => {
            let failed = dress(launch, &output_write).and_then(|()| {
                let execed = nix::unistd::execve(&argv[0], &argv, &environment);
                execed.map(drop).map_err(|errno| ("exec", errno))
            });
            if let Err((step, errno)) = failed {
                let mut message = (errno as i32).to_le_bytes().to_vec();
                message.extend_from_slice(step.as_bytes());
                let _nobody_reads = File::from(word_write).write_all(&message);
            }
            // SAFETY: _exit(2) takes no pointers; exit handlers belong to the parent.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop((output_write, word_write));
            let started = Started {
                pid: child.as_raw(),
                output,
            };
            match read_word(word) {
                None => Ok(started),
                // The child exits by itself and is reaped as nobody's.
                Some((step, errno)) => {
                    Err(SysError::refused(format!("start {program}, {step}"), errno))
                }
            }
        }
    }
}

/// The child's complaint; none when exec succeeded or the disk takes its time.
fn read_word(word: OwnedFd) -> Option<(String, Errno)> {
    let timeout = PollTimeout::try_from(EXEC_DEADLINE).unwrap_or(PollTimeout::ZERO);
    let mut fds = [PollFd::new(word.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, timeout) != Ok(1) {
        return None;
    }
    let mut message = [0; 64];
    let count = File::from(word).read(&mut message).ok()?;
    let (errno, step) = message[..count].split_first_chunk::<4>()?;
    let errno = Errno::from_raw(i32::from_le_bytes(*errno));
    Some((String::from_utf8_lossy(step).into_owned(), errno))
}

fn dress(launch: &Launch, output: &OwnedFd) -> Result<(), (&'static str, Errno)> {
    let step = |name: &'static str| move |errno: Errno| (name, errno);
    write_own(
        &format!("{CGROUP_ROOT}/{}/cgroup.procs", launch.cgroup),
        "0",
    )
    .map_err(step("join its cgroup"))?;
    write_own(
        "/proc/self/oom_score_adj",
        &launch.oom_score_adjust.to_string(),
    )
    .map_err(step("set its OOM score"))?;
    setsid().map_err(step("make its session"))?;
    let null = File::open("/dev/null").map_err(|_| ("open /dev/null", Errno::last()))?;
    dup2_stdin(&null).map_err(step("set its stdin"))?;
    dup2_stdout(output).map_err(step("set its stdout"))?;
    dup2_stderr(output).map_err(step("set its stderr"))?;
    let priority = launch.realtime_priority_max;
    setrlimit(Resource::RLIMIT_RTPRIO, priority, priority).map_err(step("limit RTPRIO"))?;
    if launch.lock_memory {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
            .map_err(step("lift MEMLOCK"))?;
    }
    let groups: Vec<Gid> = launch
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    setgroups(&groups).map_err(step("set its groups"))?;
    setgid(Gid::from_raw(launch.gid)).map_err(step("set its group"))?;
    setuid(Uid::from_raw(launch.uid)).map_err(step("set its user"))?;
    if launch.no_new_privileges {
        // SAFETY: this prctl takes integers only.
        let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        Errno::result(result).map_err(step("give up new privileges"))?;
    }
    // SAFETY: resetting SIGPIPE, which std ignores, to its default installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(step("unblock its signals"))
}

fn write_own(path: &str, text: &str) -> Result<(), Errno> {
    let write = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    write.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Marks a descriptor non-blocking.
pub(super) fn set_nonblocking(descriptor: &OwnedFd) {
    // SAFETY: fcntl(F_SETFL) takes integers only.
    unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
}
