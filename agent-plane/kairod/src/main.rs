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

mod claim;
mod connection;
mod daemon;
mod device;
mod events;
mod identity;
mod link;
mod methods;
mod notify;
mod outgoing;
mod plane;
mod readiness;
mod refusal;
mod router;
mod server;
mod spelling;
mod subscription;
mod topics;
mod views;

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::daemon::Daemon;
use crate::notify::Supervisor;
use crate::server::Socket;

/// Serves the kernel's IPC socket: methods, devices, events.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of the sockets.
    #[arg(long, env = "KAIRO_RUN_DIR", default_value = kairo_wire::endpoint::RUN_DIR)]
    run_dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Connecting to kairo-rt is the only blocking job; one may be stuck while one tries anew.
        .max_blocking_threads(2)
        .build()
        .context("cannot start the event loop")?;
    let done = LocalSet::new().block_on(&runtime, run(&arguments));
    // A connection attempt that hangs must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let supervisor = Supervisor::from_environment();
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let socket = Socket::bind(&arguments.run_dir)?;
    let daemon = Rc::new(Daemon::new());
    let rt_path = arguments.run_dir.join("rt.sock");
    let plane = Rc::clone(&daemon.plane);
    tokio::task::spawn_local(async move { link::keep(plane, &rt_path).await });
    eprintln!("kairod: serving {}", socket.path().display());
    supervisor.send("READY=1");
    daemon
        .bus
        .publish(topics::READY, rmpv::Value::Map(Vec::new()), None);

    tokio::select! {
        () = socket.accept(&daemon) => {}
        () = beat(&supervisor) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    supervisor.send("STOPPING=1");
    eprintln!("kairod: stopping");
    // Devices take their safe action now, and not when kairo-rt notices that we are gone.
    daemon.plane.borrow_mut().close_all();
    Ok(())
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
