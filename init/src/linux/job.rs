//! Work that may hang, in a child process: it is started, collected within a deadline, and
//! abandoned if it does not answer. A child stuck in the kernel is killed as soon as the kernel
//! lets it go and reaped whenever that is; PID 1 does not wait for it.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{ForkResult, fork, pipe2};

use super::{mount, refused};
use crate::sys::{Job, Pid, SysError};

/// A job in progress.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    answer: OwnedFd,
}

/// Starts a job.
pub(super) fn start(job: &Job) -> Result<Child, SysError> {
    let error = |errno| SysError::refused(job.to_string(), errno);
    let (answer, out) = pipe2(OFlag::O_CLOEXEC).map_err(error)?;
    // SAFETY: this process has one thread, so the child may use the allocator and std.
    match unsafe { fork() }.map_err(error)? {
        ForkResult::Parent { child } => Ok(Child {
            pid: child.as_raw(),
            answer,
        }),
        ForkResult::Child => {
            drop(answer);
            let (errno, content) = match perform(job) {
                Ok(content) => (0, content),
                Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
            };
            let mut out = File::from(out);
            // The parent may have given up: then nobody reads, and that is fine.
            let _nobody_reads = out.write_all(&errno.to_le_bytes());
            let _nobody_reads = out.write_all(&content);
            // SAFETY: _exit(2) takes no pointers; exit handlers belong to the parent.
            unsafe { libc::_exit(i32::from(errno != 0)) }
        }
    }
}

impl Child {
    /// Answers what the job produced; kills it at the deadline.
    pub(super) fn collect(self, job: &Job, deadline: Duration) -> Result<Vec<u8>, SysError> {
        let until = Instant::now() + deadline;
        let mut answer = File::from(self.answer);
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() => {
                    // SAFETY: kill(2) takes no pointers; the child is not reaped before this.
                    unsafe { libc::kill(self.pid, libc::SIGKILL) };
                    return Err(SysError::Deadline {
                        what: job.to_string(),
                        deadline_ms: deadline.as_millis() as u64,
                    });
                }
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(SysError::refused(job.to_string(), errno)),
            }
            match answer.read(&mut chunk).map_err(refused(job.to_string()))? {
                0 => break,
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        }
        match bytes.split_first_chunk::<4>() {
            Some((errno, content)) if *errno == [0; 4] => Ok(content.to_vec()),
            Some((errno, _)) => {
                let errno = Errno::from_raw(i32::from_le_bytes(*errno));
                Err(SysError::refused(job.to_string(), errno))
            }
            // It died before it could say anything.
            None => Err(SysError::refused(job.to_string(), Errno::ECHILD)),
        }
    }
}

fn perform(job: &Job) -> Result<Vec<u8>, Error> {
    match job {
        Job::Mount(mount) => mount::attach(mount)?,
        Job::Unmount(target) => mount::detach(target)?,
        Job::Sync => nix::unistd::sync(),
        Job::MakeDirs(path) => fs::create_dir_all(path)?,
        Job::MakePrivateDir(path, uid) => make_private_dir(path, *uid)?,
        Job::ReadFile(path, bytes_max) => return read(path, *bytes_max),
        Job::TakeFile(path, bytes_max) => {
            let content = read(path, *bytes_max)?;
            fs::remove_file(path)?;
            sync_parent(path)?;
            return Ok(content);
        }
        Job::ReplaceFile(path, content) => replace(path, content)?,
        Job::RenewSeed(path, count) => replace(path, &random(*count)?)?,
        Job::AppendLog {
            path,
            text,
            bytes_max,
        } => append(path, text, *bytes_max)?,
    }
    Ok(Vec::new())
}

/// By descriptor, so that a link that was put in its place gives nothing away.
fn make_private_dir(path: &str, uid: u32) -> Result<(), Error> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
    fs::create_dir_all(path)?;
    let mut options = OpenOptions::new();
    let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
    let directory = options.read(true).custom_flags(flags.bits()).open(path)?;
    fchown(&directory, Some(uid), Some(uid))?;
    directory.set_permissions(fs::Permissions::from_mode(0o700))?;
    directory.sync_all()
}

fn read(path: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    File::open(path)?
        .take(bytes_max as u64)
        .read_to_end(&mut content)?;
    Ok(content)
}

fn sync_parent(path: &str) -> Result<(), Error> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    File::open(parent)?.sync_all()
}

fn replace(path: &str, content: &[u8]) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = format!("{path}.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Waits for the pool: asking is what makes the kernel gather entropy on an idle machine.
fn random(count: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; count];
    // SAFETY: the buffer is valid for `count` bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), count, 0) };
    match Errno::result(got)? as usize {
        got if got == count => Ok(bytes),
        _ => Err(Error::from_raw_os_error(libc::EIO)),
    }
}

fn append(path: &str, text: &str, bytes_max: u64) -> Result<(), Error> {
    if fs::metadata(path).is_ok_and(|log| log.len() + text.len() as u64 > bytes_max) {
        fs::rename(path, format!("{path}.1"))?;
    }
    let mut log = OpenOptions::new().append(true).create(true).open(path)?;
    log.write_all(text.as_bytes())?;
    log.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaps through the answer of the operating system, as the reactor would.
    fn run(job: &Job, deadline: Duration) -> Result<Vec<u8>, SysError> {
        let child = start(job).unwrap();
        let pid = nix::unistd::Pid::from_raw(child.pid);
        let result = child.collect(job, deadline);
        nix::sys::wait::waitpid(pid, None).unwrap();
        result
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_taken_file_is_answered_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed").to_str().unwrap().to_owned();
        run(&Job::ReplaceFile(path.clone(), b"seed".to_vec()), PATIENCE).unwrap();
        let take = Job::TakeFile(path, 64);
        assert_eq!(run(&take, PATIENCE).unwrap(), b"seed");
        let error = run(&take, PATIENCE).unwrap_err();
        assert!(error.to_string().contains("ENOENT"), "{error}");
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f").to_str().unwrap().to_owned();
        run(&Job::ReplaceFile(path.clone(), vec![7; 100_000]), PATIENCE).unwrap();
        let read = run(&Job::ReadFile(path, 70_000), PATIENCE).unwrap();
        assert_eq!(read, vec![7; 70_000]);
    }

    #[test]
    fn a_log_is_rotated_at_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crash.log").to_str().unwrap().to_owned();
        for _ in 0..100 {
            let text = "x".repeat(100);
            let job = Job::AppendLog {
                path: path.clone(),
                text,
                bytes_max: 1000,
            };
            run(&job, PATIENCE).unwrap();
        }
        for name in ["crash.log", "crash.log.1"] {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_private_directory_is_made_and_a_link_is_not_followed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        run(&Job::MakePrivateDir(text(&path), own), PATIENCE).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        run(&Job::MakePrivateDir(text(&link), own), PATIENCE).unwrap_err();
    }

    #[test]
    fn a_job_that_hangs_is_abandoned_at_its_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opening a FIFO that nobody writes blocks, as a dead disk would.
        let job = Job::ReadFile(path.to_str().unwrap().to_owned(), 1);
        let error = run(&job, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, SysError::Deadline { .. }), "{error}");
    }
}
