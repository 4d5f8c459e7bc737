//! The services as data: what runs, as whom, where, how it proves its life, and how it ends.
//!
//! A service that is not in [`table`] does not exist. What a row means is the supervisor's
//! business; nothing here does anything.

use std::time::Duration;

use crate::boot::Booted;
use crate::sys::Launch;

/// Where the sockets are; `KAIRO_RUN_DIR` of every service.
pub const RUN_DIR: &str = "/run/kairo";
/// User and primary group of kairod; the group of kernel.sock.
pub const KAIRO_GID: u32 = 100;
/// User of kairod.
pub const KAIROD_UID: u32 = 100;
/// What kairod keeps across restarts. On the data partition itself: a database wants no overlay.
pub const KAIROD_STATE_DIR: &str = "/data/kairod";
/// User and primary group of kairo-forward.
const FORWARD_UID: u32 = 101;
/// The socket for notices of services that run as root, mode 0600.
pub const NOTIFY_ROOT: &str = "notify.root";
/// The socket for notices of the agent plane, which [`KAIRO_GID`] may write to.
pub const NOTIFY_AGENT: &str = "notify";
/// The group that may create files in [`RUN_DIR`]; only kairod has it.
pub const RUN_DIR_GID: u32 = 102;

/// Holds kairo-rt, and whatever is to be measured beside it.
pub const RT_CGROUP: &str = "kairo/rt";
/// Holds what belongs to neither plane.
pub const SYSTEM_CGROUP: &str = "kairo/system";
/// Limits of the agent plane; holds groups, not processes.
pub const AGENT_CGROUP: &str = "kairo/agent";
/// Holds kairod. A leaf of its own, because a group with children may not hold processes.
pub const KAIROD_CGROUP: &str = "kairo/agent/kairod";
/// Holds kairo-forward.
pub const FORWARD_CGROUP: &str = "kairo/agent/forward";

/// A service says by this exit status (EX_CONFIG of sysexits.h) that its configuration is wrong
/// and that starting it again cannot help.
pub const EXIT_CONFIG_REFUSED: i32 = 78;

/// One row.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name everywhere.
    pub name: &'static str,
    /// How it is started.
    pub launch: Launch,
    /// It says `READY=1` within this time; without one it is ready when it runs.
    pub ready_deadline: Option<Duration>,
    /// It votes on the watchdog.
    pub vote: Option<Vote>,
    /// Started when this one is ready or given up on for now.
    pub after: Option<&'static str>,
    /// Between SIGTERM and SIGKILL.
    pub stop_deadline: Duration,
    /// Shutdown order: lower ranks stop first.
    pub stop_rank: u8,
    /// Its cgroup is its own: whatever it leaves behind there is killed.
    pub owns_cgroup: bool,
}

/// How a service proves its life.
#[derive(Debug, Clone, Copy)]
pub struct Vote {
    /// It says `WATCHDOG=1` at least this often or is restarted.
    pub interval: Duration,
    /// It may be away this long, boot and restarts included, before the watchdog bites.
    pub grace: Duration,
}

/// Highest [`Service::stop_rank`].
pub const STOP_RANK_MAX: u8 = 2;

/// The table for this boot, in the order of starting.
pub fn table(booted: &Booted) -> Vec<Service> {
    let mut services = vec![kairo_rt(booted.robot_file), kairod()];
    if let Some(port) = booted.cmdline.forward_port {
        services.push(forward(port));
    }
    for (index, tty) in booted.cmdline.consoles.iter().enumerate() {
        services.push(console(index, tty));
    }
    services
}

fn launch(argv: &[&str], cgroup: &'static str) -> Launch {
    let notify = match cgroup.starts_with(AGENT_CGROUP) {
        true => NOTIFY_AGENT,
        false => NOTIFY_ROOT,
    };
    let environment = [
        ("PATH", "/usr/bin".to_owned()),
        ("KAIRO_RUN_DIR", RUN_DIR.to_owned()),
        ("NOTIFY_SOCKET", format!("{RUN_DIR}/{notify}")),
    ];
    Launch {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        environment: environment
            .map(|(key, value)| (key.to_owned(), value))
            .to_vec(),
        cgroup,
        uid: 0,
        gid: 0,
        groups: &[],
        realtime_priority_max: 0,
        lock_memory: false,
        no_new_privileges: true,
        oom_score_adjust: 0,
    }
}

fn promising_to_beat(mut launch: Launch, vote: Vote) -> Launch {
    let microseconds = vote.interval.as_micros().to_string();
    launch
        .environment
        .push(("WATCHDOG_USEC".to_owned(), microseconds));
    launch
}

fn kairo_rt(robot_file: &str) -> Service {
    let vote = Vote {
        // Three beats may be lost; a control loop that does not tick for 4 s is gone.
        interval: Duration::from_secs(4),
        // Two full starts with their ready deadlines, and some back-off.
        grace: Duration::from_secs(30),
    };
    let uid = KAIROD_UID.to_string();
    let argv = [
        "/usr/bin/kairo-rt",
        "--config",
        robot_file,
        "--agent-uid",
        &uid,
    ];
    Service {
        name: "kairo-rt",
        launch: Launch {
            realtime_priority_max: 99,
            lock_memory: true,
            oom_score_adjust: -1000,
            ..promising_to_beat(launch(&argv, RT_CGROUP), vote)
        },
        ready_deadline: Some(Duration::from_secs(10)),
        vote: Some(vote),
        after: None,
        stop_deadline: Duration::from_secs(3),
        stop_rank: 2,
        // Shared with programs measured beside it: leftovers of kairo-rt are not told apart.
        owns_cgroup: false,
    }
}

fn kairod() -> Service {
    let vote = Vote {
        interval: Duration::from_secs(10),
        // The robot is safe without it, so its restarts get two minutes before a reset is tried.
        grace: Duration::from_secs(120),
    };
    let argv = ["/usr/bin/kairod", "--state-dir", KAIROD_STATE_DIR];
    Service {
        name: "kairod",
        launch: Launch {
            uid: KAIROD_UID,
            gid: KAIRO_GID,
            groups: &[RUN_DIR_GID],
            ..promising_to_beat(launch(&argv, KAIROD_CGROUP), vote)
        },
        ready_deadline: Some(Duration::from_secs(10)),
        vote: Some(vote),
        after: Some("kairo-rt"),
        stop_deadline: Duration::from_secs(3),
        stop_rank: 1,
        owns_cgroup: true,
    }
}

fn forward(port: u16) -> Service {
    let address = format!("0.0.0.0:{port}");
    let argv = [
        "/usr/bin/kairo-forward",
        "--listen",
        &address,
        "--socket",
        "/run/kairo/kernel.sock",
    ];
    Service {
        name: "kairo-forward",
        launch: Launch {
            uid: FORWARD_UID,
            gid: FORWARD_UID,
            groups: &[KAIRO_GID],
            ..launch(&argv, FORWARD_CGROUP)
        },
        ready_deadline: None,
        vote: None,
        after: Some("kairod"),
        stop_deadline: Duration::from_secs(1),
        stop_rank: 0,
        owns_cgroup: true,
    }
}

/// Names of the consoles; as many as the command line may ask for.
const CONSOLE_NAMES: [&str; crate::cmdline::CONSOLES_MAX] = [
    "kairo-console",
    "kairo-console-2",
    "kairo-console-3",
    "kairo-console-4",
];

fn console(index: usize, tty: &str) -> Service {
    let device = format!("/dev/{tty}");
    let socket = format!("{RUN_DIR}/init.sock");
    let argv = [
        "/usr/bin/kairo-console",
        "--tty",
        &device,
        "--init-socket",
        &socket,
    ];
    Service {
        name: CONSOLE_NAMES[index],
        launch: Launch {
            // It starts cyclictest beside kairo-rt.
            realtime_priority_max: 99,
            lock_memory: true,
            no_new_privileges: false,
            ..launch(&argv, SYSTEM_CGROUP)
        },
        ready_deadline: None,
        vote: None,
        after: None,
        stop_deadline: Duration::from_secs(1),
        stop_rank: 0,
        owns_cgroup: false,
    }
}
