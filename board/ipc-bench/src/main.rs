//! Measures calls over kairod's socket beside others', in turns, and prints every window as JSON.
//!
//! `kairo-ipc-bench KERNEL_SOCKET` measures calls, `stream KERNEL_SOCKET` streams; `serve KIND
//! SOCKET` and `serve-stream KIND SOCKET` are the other processes: every server and sender is one
//! of its own, as kairod is. Judging is done by `cargo xtask bench ipc` and `bench stream`.

mod grpc;
mod kernel;
mod placement;
mod raw;
mod servers;
mod stream;
mod subscribers;
mod windows;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::json;

use crate::placement::{Cores, Placement, server_at};
use crate::servers::Servers;

/// Calls of one window of one kind.
const CALLS: usize = 2_000;
/// Windows of each kind, in turns.
const WINDOWS: usize = 25;
/// Calls of one pipelined window.
const PIPELINED: usize = 40_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", kind, socket] => servers::serve(kind, socket),
        ["serve-stream", kind, socket] => stream::serve(kind, socket),
        ["stream", kernel] => stream::measure(kernel),
        [kernel] => measure(kernel),
        _ => bail!("usage: kairo-ipc-bench [stream] KERNEL_SOCKET"),
    }
}

fn measure(kernel: &str) -> Result<()> {
    let servers = Servers::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut raw = raw::Raw::connect(servers.path("raw"))?;
    let mut ours = kernel::Kernel::connect(kernel)?;
    let grpc = runtime.block_on(grpc::Caller::connect(servers.path("grpc")))?;
    let bus = runtime.block_on(servers::bus_client(servers.path("zbus")))?;
    let cores = Cores::choose()?;
    let kairod = server_at(kernel)?;
    let mut processes = servers.processes()?;
    processes.push(kairod);
    let mut found = windows::Windows::default();
    let mut pipelined: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..WINDOWS {
        for placement in Placement::ALL {
            cores.place(placement, &processes)?;
            let mut add = |who, times: &[u64]| found.add(placement, who, times);
            add("raw", &windows::calls(CALLS, || raw.round_trip())?);
            add("kairod", &windows::calls(CALLS, || ours.ping())?);
            add("zbus", &runtime.block_on(servers::bus_calls(&bus, CALLS))?);
            add("tonic", &runtime.block_on(grpc.calls(CALLS))?);
            let rate = ours.pipelined(PIPELINED)?;
            pipelined.entry(placement.name()).or_default().push(rate);
        }
    }
    cores.place(Placement::TwoCores, &processes)?;
    let subscribers = subscribers::measure(kernel, kairod)?;
    let calls = found.json();
    println!(
        "{}",
        json!({"calls": calls, "pipelined_per_s": pipelined, "window": CALLS,
               "subscribers": subscribers})
    );
    Ok(())
}
