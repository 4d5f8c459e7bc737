//! Driving a child process as part of a step: counting its lines, keeping its output.
//!
//! Guarantees: the complete output is in the log file; memory is bounded however much or
//! whatever the child prints; a child that outlives its deadline is ended.
//! Does not: parse what a child prints beyond handing each line to the caller's test.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Step;
use super::trouble::{FULL_DISK_HINT, Trouble, full_disk_hint};

/// Lines of a failed child's output that are shown; the rest is in its log.
const TAIL_LINES: usize = 25;
/// Longest piece of output treated as one line, in bytes; bounds memory on binary garbage.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// Lines in flight between the reader thread and the step.
const QUEUE_LINES: usize = 1024;
/// How long an ended child may take to leave before it is killed.
const END_GRACE: Duration = Duration::from_secs(5);

/// Why a driven child did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The program could not be started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// The program's name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The log file could not be written.
    #[error("cannot write the log {path}: {source}{}", full_disk_hint(source))]
    Log {
        /// The log file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program failed because the disk is full.
    #[error("`{program}` ran out of disk space{FULL_DISK_HINT}; complete output: {log}")]
    DiskFull {
        /// The program's name.
        program: String,
        /// Where its complete output is.
        log: PathBuf,
    },
    /// The program failed because it could not reach the network.
    #[error(
        "`{program}` could not reach the network. Connect, then run the same command again; \
         complete output: {log}"
    )]
    NoNetwork {
        /// The program's name.
        program: String,
        /// Where its complete output is.
        log: PathBuf,
    },
    /// The program ran and failed.
    #[error("`{program}` failed ({status}); complete output: {log}\n{tail}")]
    Failed {
        /// The program's name.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// Where its complete output is.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },
    /// The program did not finish in time and was ended.
    #[error("`{program}` did not finish within {deadline_s} s; output so far: {log}\n{tail}")]
    Deadline {
        /// The program's name.
        program: String,
        /// The limit, in seconds.
        deadline_s: u64,
        /// Where its output is.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },
}

impl ChildError {
    /// The last lines of the child's output, where there are any.
    pub fn tail(&self) -> &str {
        match self {
            Self::Failed { tail, .. } | Self::Deadline { tail, .. } => tail,
            _ => "",
        }
    }
}

impl Step {
    /// Runs `command` to its end. Its complete output goes to `log` (made anew), and every
    /// line for which `counts` says so advances the step by one unit.
    ///
    /// Standard input is closed. Returns the number of lines counted.
    ///
    /// # Errors
    /// [`ChildError`]; on [`ChildError::Failed`] and [`ChildError::Deadline`] the message
    /// holds the tail of the output and the path of the log.
    pub fn run(
        &self,
        command: Command,
        log: &Path,
        deadline: Duration,
        counts: impl Fn(&str) -> bool,
    ) -> Result<u64, ChildError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let log_error = |source| ChildError::Log {
            path: log.to_owned(),
            source,
        };
        let start_error = |source| ChildError::Start {
            program: program.clone(),
            source,
        };
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent).map_err(log_error)?;
        }
        let mut log_file = File::create(log).map_err(log_error)?;
        let (mut child, output) = start(command).map_err(start_error)?;
        let lines = lines_of(output);
        let end = Instant::now() + deadline;
        let mut tail = Tail::default();
        let mut counted = 0;
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Err(source) = log_file.write_all(line.as_bytes()) {
                        end_child(&mut child);
                        return Err(log_error(source));
                    }
                    let text = line.trim_end();
                    if counts(text) {
                        counted += 1;
                        self.advance(1);
                    }
                    tail.push(text);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    end_child(&mut child);
                    let (deadline_s, log) = (deadline.as_secs(), log.to_owned());
                    return Err(ChildError::Deadline {
                        program,
                        deadline_s,
                        log,
                        tail: tail.text(),
                    });
                }
            }
        }
        let status = child.wait().map_err(start_error)?;
        if status.success() {
            return Ok(counted);
        }
        let (log, tail) = (log.to_owned(), tail.text());
        Err(match Trouble::in_output(&tail) {
            Some(Trouble::DiskFull) => ChildError::DiskFull { program, log },
            Some(Trouble::NoNetwork) => ChildError::NoNetwork { program, log },
            None => ChildError::Failed {
                program,
                status,
                log,
                tail,
            },
        })
    }
}

/// Starts a command whose standard output and standard error are one pipe.
fn start(mut command: Command) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = command.spawn()?;
    // Ending here drops the command and with it this process's write ends of the pipe; with
    // one left open the reader would never see the end.
    Ok((child, reader))
}

/// Reads the lines on a thread of their own, so that waiting for one can have a deadline. The
/// thread ends with the last writer or with the receiver.
fn lines_of(reader: PipeReader) -> Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(QUEUE_LINES);
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        while let Some(line) = next_line(&mut reader) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Reads up to and including a newline, or [`LINE_BYTES_MAX`] bytes; `None` at the end.
fn next_line(reader: &mut impl BufRead) -> Option<String> {
    let mut bytes = Vec::new();
    match reader
        .by_ref()
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut bytes)
    {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Asks the child to leave, then makes it. `make` passes SIGTERM on to its own children.
fn end_child(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // A failure means that it has already left, which is what is wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let end = Instant::now() + END_GRACE;
    while Instant::now() < end {
        if let Ok(Some(_)) = child.try_wait() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The last lines of a child's output.
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        self.0
            .iter()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::ProgressBar;

    const LONG: Duration = Duration::from_secs(60);

    fn quiet(expected: Option<u64>) -> Step {
        Step::new("test", expected, Some(ProgressBar::hidden()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn counts_only_the_lines_that_matter_and_logs_all_of_them() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("deep/build.log");
        let step = quiet(Some(2));
        let command = shell("echo '  CC a.o'; echo noise >&2; echo '  LD b'");
        let counted = step
            .run(command, &log, LONG, |line| {
                line.starts_with("  CC") || line.starts_with("  LD")
            })
            .expect("runs");
        assert_eq!(counted, 2);
        let text = fs::read_to_string(log).expect("log");
        assert!(text.contains("noise") && text.contains("CC a.o"), "{text}");
    }

    #[test]
    fn failure_shows_the_tail_and_where_the_log_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("build.log");
        let command = shell("for i in $(seq 100); do echo line $i; done; exit 3");
        let error = quiet(None)
            .run(command, &log, LONG, |_| false)
            .expect_err("fails");
        let text = error.to_string();
        assert!(
            text.contains("line 100") && !text.contains("line 50\n"),
            "{text}"
        );
        assert!(text.contains("build.log"), "{text}");
    }

    #[test]
    fn a_full_disk_and_a_lack_of_network_are_one_sentence() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("build.log");
        let run = |words: &str| {
            let command = shell(&format!("echo 'start'; echo '{words}'; exit 2"));
            quiet(None)
                .run(command, &log, LONG, |_| false)
                .expect_err("fails")
        };
        let full = run("tar: a: Cannot write: No space left on device");
        assert!(matches!(full, ChildError::DiskFull { .. }), "{full}");
        assert!(full.to_string().contains("KAIRO_CACHE"), "{full}");
        let offline = run("Could not resolve host: registry");
        assert!(matches!(offline, ChildError::NoNetwork { .. }), "{offline}");
        assert!(!offline.to_string().contains('\n'), "{offline}");
    }

    #[test]
    fn a_child_that_outlives_its_deadline_is_ended() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("build.log");
        let command = shell("echo started; exec sleep 600");
        let error = quiet(None)
            .run(command, &log, Duration::from_millis(300), |_| false)
            .expect_err("ended");
        assert!(matches!(error, ChildError::Deadline { .. }), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = quiet(None)
            .run(
                Command::new("no-such-program"),
                &dir.path().join("log"),
                LONG,
                |_| false,
            )
            .expect_err("cannot start");
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
