//! Running a program of the image for the console: bounded in time and in output, optionally in
//! the real-time cgroup, so that cyclictest measures on the cores it is to measure.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::console::command::Latency;
use crate::phases::CGROUP_ROOT;
use crate::services::RT_CGROUP;

/// Bytes kept of each of stdout and stderr; the rest is read and counted.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Longest a program may run.
const TIMEOUT_MS_MAX: u64 = 700_000;

/// The console's own request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Always `exec`.
    pub op: String,
    /// Program, by its full path, and arguments.
    pub argv: Vec<String>,
    /// `rt`, or absent for the console's own.
    pub cgroup: Option<String>,
    /// Killed after this time.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    10_000
}

/// Runs it and answers as the contract says.
pub fn run(request: &ExecRequest) -> Value {
    match try_run(request) {
        Ok(value) => value,
        Err(error) => json!({"ok": false, "error": error}),
    }
}

fn try_run(request: &ExecRequest) -> Result<Value, String> {
    let program = request.argv.first().ok_or("argv is empty")?;
    let join = match request.cgroup.as_deref() {
        None => None,
        Some("rt") => Some(format!("{CGROUP_ROOT}/{RT_CGROUP}/cgroup.procs")),
        Some(other) => return Err(format!("no cgroup '{other}'; rt, or leave it out")),
    };
    let mut command = Command::new(program);
    command.args(&request.argv[1..]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: this process has one thread, so the child may use std between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            // The console holds SIGTERM back while it answers; the program should not.
            SigSet::empty().thread_set_mask()?;
            match &join {
                Some(procs) => std::fs::write(procs, "0"),
                None => Ok(()),
            }
        })
    };
    let mut child = command
        .spawn()
        .map_err(|error| format!("start {program}: {error}"))?;
    let timeout = Duration::from_millis(request.timeout_ms.min(TIMEOUT_MS_MAX));
    let collected = collect(&mut child, Instant::now() + timeout);
    if collected.is_err() {
        // Its session is its own: this ends whatever it started, too.
        // SAFETY: kill(2) takes no pointers; the child is not reaped before wait.
        unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    }
    let status = child
        .wait()
        .map_err(|error| format!("wait for {program}: {error}"))?;
    let [stdout, stderr] = collected.map_err(|()| {
        let timeout_ms = timeout.as_millis();
        format!("{program} did not end within {timeout_ms} ms and was killed")
    })?;
    Ok(json!({
        "ok": true,
        "status": status.code().or(status.signal().map(|signal| 128 + signal)),
        "stdout": String::from_utf8_lossy(&stdout.kept),
        "stderr": String::from_utf8_lossy(&stderr.kept),
        "truncated_bytes": stdout.lost + stderr.lost,
    }))
}

#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    lost: usize,
}

/// Reads both pipes until they and the process have ended, or the time is up.
fn collect(child: &mut Child, until: Instant) -> Result<[Output; 2], ()> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut outputs = [Output::default(), Output::default()];
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(());
        }
        if stdout.is_none() && stderr.is_none() {
            // Both are closed: it has ended, or runs on silently.
            if child.try_wait().map_err(drop)?.is_some() {
                return Ok(outputs);
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
            continue;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let out = stdout
            .as_ref()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        let err = stderr
            .as_ref()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        let (has_out, has_err) = (out.is_some(), err.is_some());
        let mut fds: Vec<PollFd<'_>> = out.into_iter().chain(err).collect();
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return Err(()),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let out_ready = has_out && ready.next().unwrap_or(false);
        let err_ready = has_err && ready.next().unwrap_or(false);
        if out_ready && take(&mut stdout, &mut chunk, &mut outputs[0]) {
            stdout = None;
        }
        if err_ready && take(&mut stderr, &mut chunk, &mut outputs[1]) {
            stderr = None;
        }
    }
}

/// Reads once; true when the pipe has ended.
fn take(pipe: &mut Option<impl Read>, chunk: &mut [u8], output: &mut Output) -> bool {
    let Some(count) = pipe.as_mut().and_then(|pipe| pipe.read(chunk).ok()) else {
        return true;
    };
    let room = OUTPUT_BYTES_MAX - output.kept.len();
    output.kept.extend_from_slice(&chunk[..count.min(room)]);
    output.lost += count.saturating_sub(room);
    count == 0
}

/// The cyclictest run that `latency` stands for.
pub fn cyclictest(latency: Latency) -> ExecRequest {
    let Latency {
        seconds,
        period_us,
        priority,
        core,
    } = latency;
    let words = format!(
        "/usr/bin/cyclictest --quiet --mlockall --threads=1 --affinity={core} \
         --priority={priority} --interval={period_us} --duration={seconds}s"
    );
    ExecRequest {
        op: "exec".to_owned(),
        argv: words.split_whitespace().map(str::to_owned).collect(),
        cgroup: Some("rt".to_owned()),
        timeout_ms: u64::from(seconds) * 1000 + 10_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(argv: &[&str], timeout_ms: u64) -> Value {
        run(&ExecRequest {
            op: "exec".to_owned(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cgroup: None,
            timeout_ms,
        })
    }

    #[test]
    fn output_and_status_come_back() {
        let answer = exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], 60_000);
        let expected = json!({"ok": true, "status": 3, "stdout": "out\n", "stderr": "err\n",
            "truncated_bytes": 0});
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_children() {
        let answer = exec(&["/bin/sh", "-c", "sleep 1000 & sleep 1000"], 100);
        assert_eq!(answer["ok"], false, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("100 ms"));
    }

    #[test]
    fn output_is_bounded_and_the_rest_counted() {
        let answer = exec(&["/bin/sh", "-c", "head -c 1000000 /dev/zero"], 60_000);
        assert_eq!(answer["stdout"].as_str().unwrap().len(), OUTPUT_BYTES_MAX);
        assert_eq!(answer["truncated_bytes"], 1_000_000 - OUTPUT_BYTES_MAX);
    }

    #[test]
    fn what_cannot_start_is_named() {
        for argv in [&[][..], &["/nowhere/program"]] {
            assert_eq!(exec(argv, 1000)["ok"], false);
        }
    }
}
