//! A pretended machine that records what is asked of it, with a clock that only moves when
//! someone waits. Services are actors with a declared behaviour; failures are declared by a part
//! of the operation's text. Nothing here depends on real time, so a transcript is the same on any
//! machine.

use std::collections::HashMap;
use std::time::Duration;

use kairo_init::sys::{
    BootTime, ClientId, Ending, Event, Exit, Job, Launch, Mount, Pid, Sys, SysError,
};
use nix::errno::Errno;

/// How a service acts once it is started.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    pub ready_after: Option<Duration>,
    pub beats: bool,
    pub obeys_sigterm: bool,
    pub obeys_sigkill: bool,
    pub exits: Option<(Duration, Exit)>,
}

/// Ready in 200 ms, beats, ends when asked.
pub const WELL_BEHAVED: Actor = Actor {
    ready_after: Some(Duration::from_millis(200)),
    beats: true,
    obeys_sigterm: true,
    obeys_sigkill: true,
    exits: None,
};

#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    Fails(Errno),
    Hangs,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    name: String,
    actor: Actor,
    beat: Duration,
}

#[derive(Debug)]
pub struct Recorder {
    pub transcript: Vec<String>,
    pub ended: Option<Ending>,
    pub replies: Vec<(ClientId, String)>,
    pub files: HashMap<String, String>,
    clock: Duration,
    fed_at: Option<Duration>,
    feeds: u32,
    actors: HashMap<String, Actor>,
    troubles: Vec<(String, Trouble)>,
    processes: Vec<Process>,
    coming: Vec<(Duration, Event)>,
    last_pid: Pid,
}

const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(15);

impl Recorder {
    pub fn new(cmdline: &str) -> Self {
        let files = [
            ("/proc/cmdline", cmdline),
            ("/sys/devices/system/cpu/online", "0-1\n"),
            ("/sys/devices/system/cpu/isolated", "1\n"),
            ("/config/kairo.toml", "hostname = \"arm-1\"\n"),
            ("/config/robot.toml", "#"),
            ("/data/random-seed", "0123456789abcdef0123456789abcdef"),
        ];
        Self {
            transcript: Vec::new(),
            ended: None,
            replies: Vec::new(),
            files: files
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
                .into(),
            // The kernel has been busy for 0.3 s before PID 1 starts.
            clock: Duration::from_millis(300),
            fed_at: None,
            feeds: 0,
            actors: HashMap::new(),
            troubles: Vec::new(),
            processes: Vec::new(),
            coming: Vec::new(),
            last_pid: 99,
        }
    }

    pub fn actor(mut self, service: &str, actor: Actor) -> Self {
        self.actors.insert(service.to_owned(), actor);
        self
    }

    /// Every operation whose text contains `part` meets this trouble.
    pub fn trouble(mut self, part: &str, trouble: Trouble) -> Self {
        self.troubles.push((part.to_owned(), trouble));
        self
    }

    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    pub fn without_file(mut self, path: &str) -> Self {
        self.files.remove(path);
        self
    }

    pub fn at(mut self, seconds: f64, event: Event) -> Self {
        self.schedule(Duration::from_secs_f64(seconds), event);
        self
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.coming.push((at, event));
        // Stable: of two events at the same time, the one scheduled first comes first.
        self.coming.sort_by_key(|(at, _)| *at);
    }

    fn record(&mut self, line: &str) {
        self.flush_feeds();
        let clock = self.clock.as_secs_f64();
        self.transcript.push(format!("[{clock:8.3}] {line}"));
    }

    pub fn flush_feeds(&mut self) {
        let feeds = std::mem::take(&mut self.feeds);
        let fed_at = self.fed_at.unwrap_or_default().as_secs_f64();
        match feeds {
            0 => {}
            1 => self
                .transcript
                .push(format!("[{fed_at:8.3}] feed the watchdog")),
            _ => self
                .transcript
                .push(format!("[{fed_at:8.3}] feed the watchdog, {feeds} times")),
        }
    }

    fn attempt(&mut self, what: &str) -> Result<(), SysError> {
        self.attempt_within(what, None)
    }

    fn attempt_within(&mut self, what: &str, deadline: Option<Duration>) -> Result<(), SysError> {
        let met = self
            .troubles
            .iter()
            .find(|(part, _)| what.contains(part.as_str()));
        let met = met.map(|(_, trouble)| *trouble);
        match (met, deadline) {
            (None, _) => {
                self.record(what);
                Ok(())
            }
            (Some(Trouble::Hangs), Some(deadline)) => {
                self.record(&format!("{what} -> hangs"));
                self.clock += deadline;
                Err(SysError::Deadline {
                    what: what.to_owned(),
                    deadline_ms: deadline.as_millis() as u64,
                })
            }
            (Some(Trouble::Hangs), None) => panic!("{what} would hang PID 1: it has no deadline"),
            (Some(Trouble::Fails(errno)), _) => {
                self.record(&format!("{what} -> {errno:?}"));
                Err(SysError::refused(what, errno))
            }
        }
    }

    fn content(&self, path: &str) -> Result<String, SysError> {
        let missing = || SysError::refused(format!("read {path}"), Errno::ENOENT);
        self.files.get(path).cloned().ok_or_else(missing)
    }

    fn die(&mut self, pid: Pid, after: Duration, exit: Exit) {
        self.schedule(self.clock + after, Event::Exited(pid, exit));
    }

    fn alive(&self, pid: Pid) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    /// The dog bites when nobody has fed it for its timeout.
    fn watchdog_bites(&self) -> bool {
        self.fed_at
            .is_some_and(|fed_at| self.clock >= fed_at + WATCHDOG_TIMEOUT)
    }
}

impl Sys for Recorder {
    fn now(&self) -> BootTime {
        self.clock
    }

    fn say(&mut self, line: &str) {
        self.record(&format!("    \"{line}\""));
    }

    fn exists(&mut self, path: &str) -> bool {
        path == "/dev/null"
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        assert_eq!(path, "/proc/irq");
        ["0", "24", "default_smp_affinity"]
            .map(str::to_owned)
            .to_vec()
    }

    fn make_dir(&mut self, path: &str, mode: u32, gid: u32) -> Result<(), SysError> {
        self.attempt(&format!("make directory {path} {mode:o} group {gid}"))
    }

    fn make_link(&mut self, target: &str, link: &str) -> Result<(), SysError> {
        self.attempt(&format!("link {link} to {target}"))
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), SysError> {
        self.attempt(&mount.to_string())
    }

    fn read(&mut self, path: &str) -> Result<String, SysError> {
        self.attempt(&format!("read {path}"))?;
        self.content(path)
    }

    fn write(&mut self, path: &str, text: &str) -> Result<(), SysError> {
        self.attempt(&format!("write {} to {path}", text.trim_end()))?;
        self.files.insert(path.to_owned(), text.to_owned());
        Ok(())
    }

    fn run_bounded(&mut self, job: &Job, deadline: Duration) -> Result<Vec<u8>, SysError> {
        self.attempt_within(&job.to_string(), Some(deadline))?;
        match job {
            Job::ReadFile(path, _) => self.content(path).map(String::into_bytes),
            Job::TakeFile(path, _) => {
                let content = self.content(path).map(String::into_bytes);
                self.files.remove(path);
                content
            }
            _ => Ok(Vec::new()),
        }
    }

    fn run_detached(&mut self, job: &Job) -> Result<Pid, SysError> {
        self.attempt(&format!("{job} (nobody waits)"))?;
        self.last_pid += 1;
        self.die(self.last_pid, Duration::from_millis(5), Exit::Status(0));
        Ok(self.last_pid)
    }

    fn watchdog_open(&mut self, path: &str) -> Result<(), SysError> {
        self.attempt(&format!("open {path}"))
    }

    fn watchdog_set_timeout(&mut self, timeout_s: u32) -> Result<u32, SysError> {
        self.attempt(&format!("set the watchdog to {timeout_s} s"))?;
        Ok(timeout_s)
    }

    fn watchdog_timeout(&mut self) -> Result<u32, SysError> {
        self.attempt("read the watchdog's timeout")?;
        Ok(30)
    }

    fn watchdog_caused_reset(&mut self) -> bool {
        false
    }

    fn watchdog_feed(&mut self) -> Result<(), SysError> {
        self.fed_at = Some(self.clock);
        self.feeds += 1;
        Ok(())
    }

    fn set_hostname(&mut self, name: &str) -> Result<(), SysError> {
        self.attempt(&format!("set host name {name}"))
    }

    fn loopback_up(&mut self) -> Result<(), SysError> {
        self.attempt("bring lo up")
    }

    fn wall_clock_s(&self) -> i64 {
        0
    }

    fn set_wall_clock(&mut self, unix_s: i64) -> Result<(), SysError> {
        // The value is the build's, which a transcript must not depend on.
        assert!(unix_s > 1_700_000_000);
        self.attempt("set the clock")
    }

    fn add_entropy(&mut self, bytes: &[u8]) -> Result<(), SysError> {
        self.attempt(&format!("credit a seed of {} bytes", bytes.len()))
    }

    fn listen(&mut self, run_dir: &str, notify_gid: u32) -> Result<(), SysError> {
        self.attempt(&format!(
            "listen in {run_dir}, notices from group {notify_gid}"
        ))
    }

    fn launch(&mut self, launch: &Launch) -> Result<Pid, SysError> {
        self.attempt(&launch.to_string())?;
        let name = launch.argv[0].trim_start_matches("/usr/bin/").to_owned();
        let actor = self.actors.get(&name).copied().unwrap_or(WELL_BEHAVED);
        self.last_pid += 1;
        let pid = self.last_pid;
        let usec = launch
            .environment
            .iter()
            .find(|(key, _)| key == "WATCHDOG_USEC");
        let beat = usec.map_or(0, |(_, value)| value.parse::<u64>().expect("microseconds")) / 3;
        if let Some(after) = actor.ready_after.filter(|_| beat > 0) {
            self.schedule(self.clock + after, Event::Notify(pid, b"READY=1".to_vec()));
        }
        if actor.beats && beat > 0 {
            let at = self.clock + Duration::from_micros(beat);
            self.schedule(at, Event::Notify(pid, b"WATCHDOG=1".to_vec()));
        }
        if let Some((after, exit)) = actor.exits {
            self.die(pid, after, exit);
        }
        self.processes.push(Process {
            pid,
            name,
            actor,
            beat: Duration::from_micros(beat),
        });
        Ok(pid)
    }

    fn kill(&mut self, pid: Pid, signal: i32) -> Result<(), SysError> {
        let process = self.alive(pid);
        let name = process.map_or_else(|| pid.to_string(), |process| process.name.clone());
        let obeys = process.is_some_and(|process| match signal {
            libc::SIGTERM => process.actor.obeys_sigterm,
            _ => process.actor.obeys_sigkill,
        });
        self.record(&format!("signal {signal} to {name}"));
        match signal {
            libc::SIGTERM if obeys => self.die(pid, Duration::from_millis(50), Exit::Status(0)),
            _ if !obeys => {}
            _ => self.die(pid, Duration::from_millis(1), Exit::Signal(signal)),
        }
        Ok(())
    }

    fn kill_everything(&mut self) {
        self.record("kill every process");
    }

    fn wait(&mut self, until: BootTime) -> Vec<Event> {
        let due = self.coming.first().map_or(until, |(at, _)| *at);
        // A real clock moves a little with every wake.
        self.clock = self.clock.max(due.min(until)) + Duration::from_micros(1);
        if self.watchdog_bites() {
            self.record("*** the watchdog resets the machine");
            self.ended = Some(Ending::Reboot);
            return Vec::new();
        }
        let mut events = Vec::new();
        while self.coming.first().is_some_and(|(at, _)| *at <= self.clock) {
            let (at, event) = self.coming.remove(0);
            match &event {
                Event::Exited(pid, exit) if self.alive(*pid).is_some() => {
                    let name = self
                        .alive(*pid)
                        .map_or(String::new(), |process| process.name.clone());
                    self.record(&format!("... {name} {exit}"));
                    self.processes.retain(|process| process.pid != *pid);
                }
                Event::Notify(pid, text) => {
                    let Some(beat) = self.alive(*pid).map(|process| process.beat) else {
                        if !text.starts_with(b"FORGED") {
                            continue;
                        }
                        events.push(event);
                        continue;
                    };
                    if text == b"WATCHDOG=1" {
                        self.schedule(at + beat, event.clone());
                    }
                }
                _ => {}
            }
            events.push(event);
        }
        events
    }

    fn reply(&mut self, client: ClientId, line: &str) {
        self.replies.push((client, line.to_owned()));
    }

    fn end(&mut self, ending: Ending) {
        self.record(&format!("{ending} now"));
        self.ended = Some(ending);
    }
}
