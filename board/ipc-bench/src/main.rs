//! Measures calls over kairod's socket beside others', in turns, and prints every window as JSON.
//!
//! `kairo-ipc-bench KERNEL_SOCKET` measures calls, `stream KERNEL_SOCKET` streams; `serve KIND
//! SOCKET` and `serve-stream KIND SOCKET` are the other processes: every server and sender is one
//! of its own, as kairod is. Judging is done by `cargo xtask bench ipc` and `bench stream`.

mod grpc;
mod kernel;
mod raw;
mod servers;
mod stream;
mod windows;

use anyhow::{Result, bail};
use serde_json::json;

use crate::servers::Servers;

/// Calls of one window of one kind.
const CALLS: usize = 2_000;
/// Windows of each kind, in turns.
const WINDOWS: usize = 15;
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
    let mut found = windows::Windows::default();
    for _ in 0..WINDOWS {
        found.add("raw", &windows::calls(CALLS, || raw.round_trip())?);
        found.add("kairod", &windows::calls(CALLS, || ours.ping())?);
        found.add("zbus", &runtime.block_on(servers::bus_calls(&bus, CALLS))?);
        found.add("tonic", &runtime.block_on(grpc.calls(CALLS))?);
    }
    let mut pipelined = Vec::new();
    for _ in 0..WINDOWS {
        pipelined.push(ours.pipelined(PIPELINED)?);
    }
    println!(
        "{}",
        json!({"calls": found.json(), "pipelined_per_s": pipelined, "window": CALLS})
    );
    Ok(())
}
