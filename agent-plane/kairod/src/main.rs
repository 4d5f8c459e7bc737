//! kairod: the agent plane's daemon. It routes IPC, keeps the device registry and the claims, and
//! carries events. It needs no privilege, opens no device node, and starts no process.
//!
//! One thread does everything ([`tokio`]'s current-thread runtime): requests are small, all state
//! is shared, and without locks there is no lock order and no waiting. What could block (connecting
//! to kairo-rt) runs on a helper thread. The supervisor's watchdog is fed from this same thread, so
//! a router that hangs is a service that is restarted.
//!
//! What kairod promises about safety is nothing: the real-time plane checks every command itself
//! and lets leases end when kairod dies.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use kairod::{Daemon, Policy, Settings, Socket, Supervisor};

/// Serves the kernel's IPC socket: methods, devices, events.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of the sockets.
    #[arg(long, env = "KAIRO_RUN_DIR", default_value = kairo_wire::endpoint::RUN_DIR)]
    run_dir: PathBuf,
    /// Who may do what; the built-in rules alone if it does not exist.
    #[arg(long, env = "KAIRO_POLICY", default_value = "/config/policy.toml")]
    policy: PathBuf,
    /// What is recorded and watched; the defaults if it does not exist.
    #[arg(long, env = "KAIRO_OBSERVE", default_value = "/config/observe.toml")]
    observe: PathBuf,
    /// Where /proc and /sys are that sensors are read from.
    #[arg(long, env = "KAIRO_SENSOR_ROOT", default_value = "/", hide = true)]
    sensor_root: PathBuf,
    /// What must outlive a restart. Without it, or where it cannot be written, what needs it is
    /// refused and everything else works.
    #[arg(long, env = "KAIRO_STATE_DIR", default_value = "/var/lib/kairo")]
    state_dir: PathBuf,
}

/// How long requests under way may go on when kairod is told to stop, and how long their answers
/// may take to be read. Both fit into what kairo-init allows for a stop.
const DRAIN_PATIENCE: Duration = Duration::from_millis(500);

/// How long the start waits for the event log.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// A policy or settings that are wrong, as kairo-init and systemd know it: not worth a restart
/// (EX_CONFIG).
const EXIT_CONFIG_REFUSED: u8 = 78;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    kairo_observe::log::start(std::env::var("KAIRO_LOG").ok().as_deref());
    let refused = |error: String| {
        tracing::error!("{error}");
        Ok(ExitCode::from(EXIT_CONFIG_REFUSED))
    };
    let policy = match Policy::load(&arguments.policy) {
        Ok(policy) => policy,
        Err(error) => return refused(error.to_string()),
    };
    let settings = match Settings::load(&arguments.observe) {
        Ok(settings) => settings,
        Err(error) => return refused(error.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Connecting to kairo-rt and opening the event log block; each may be stuck once while it
        // is tried anew.
        .max_blocking_threads(4)
        // Longer than from one look at the sensors to the next: a thread that sleeps is woken less
        // often than one that is made anew each time.
        .thread_keep_alive(Duration::from_secs(90))
        .build()
        .context("cannot start the event loop")?;
    let done = LocalSet::new().block_on(&runtime, async {
        // As a task of its own, or the set would poll it with every request of every client.
        let running = tokio::task::spawn_local(run(arguments, policy, settings));
        running.await.context("the event loop gave up")?
    });
    // A connection attempt that hangs must not hold up the end.
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}

async fn run(arguments: Arguments, policy: Policy, settings: Settings) -> anyhow::Result<()> {
    let supervisor = Supervisor::from_environment();
    // SAFETY: no handler is installed; a write beyond a limit on file sizes fails instead of ending
    // the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let socket = Socket::bind(&arguments.run_dir)?;
    let state_dir = usable_state_dir(&arguments.state_dir);
    let daemon = Rc::new(Daemon::new(
        policy,
        settings,
        &arguments.sensor_root,
        state_dir,
    ));
    if let Some(directory) = state_dir {
        let (first, opened) = tokio::sync::oneshot::channel();
        let (keeper, directory) = (Rc::clone(&daemon), directory.to_path_buf());
        tokio::task::spawn_local(kairod::keep_event_log(keeper, directory, first));
        // Events that are numbered by the log are worth a moment; a disk that hangs is not waited
        // for.
        let _ = tokio::time::timeout(LOG_PATIENCE, opened).await;
    }
    let grants = Rc::clone(&daemon);
    tokio::task::spawn_local(async move { grants.end_grants().await });
    tokio::task::spawn_local(kairod::watch_thresholds(Rc::clone(&daemon)));
    let rt_path = arguments.run_dir.join("rt.sock");
    let plane = Rc::clone(&daemon.plane);
    tokio::task::spawn_local(async move { kairod::keep_link(plane, &rt_path).await });
    tracing::info!("serving {}", socket.path().display());
    supervisor.send("READY=1");
    daemon.is_ready();

    tokio::select! {
        () = socket.accept(&daemon) => {}
        () = beat(&supervisor) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    supervisor.send("STOPPING=1");
    tracing::info!("stopping");
    daemon.drain(DRAIN_PATIENCE).await;
    if !daemon.bus.close(DRAIN_PATIENCE) {
        tracing::warn!("the event log did not close in time; what was acknowledged is in it");
    }
    Ok(())
}

/// The state directory, made if need be; none where that does not work.
fn usable_state_dir(path: &Path) -> Option<&Path> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(path) {
        Ok(()) => Some(path),
        Err(error) => {
            let path = path.display();
            tracing::error!("nothing outlives a restart: cannot make {path}: {error}");
            None
        }
    }
}

/// Feeds the supervisor's watchdog, if there is one.
async fn beat(supervisor: &Supervisor) {
    let Some(interval) = Supervisor::beat_interval() else {
        return std::future::pending().await;
    };
    let mut beats = tokio::time::interval(interval);
    loop {
        beats.tick().await;
        supervisor.send("WATCHDOG=1");
    }
}
