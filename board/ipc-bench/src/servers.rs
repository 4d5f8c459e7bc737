//! The controls' processes, and zbus, which needs little.

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;
use zbus::connection::Builder;
use zbus::{Connection, Guid};

use crate::{grpc, raw};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The controls, each a process.
#[derive(Debug)]
pub struct Servers {
    directory: PathBuf,
    paths: BTreeMap<&'static str, String>,
    children: Vec<Child>,
}

impl Servers {
    /// Starts them.
    pub fn start() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("kairo-ipc-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let mut servers = Self {
            directory,
            paths: BTreeMap::new(),
            children: Vec::new(),
        };
        for kind in ["raw", "grpc", "zbus"] {
            let path = servers.directory.join(kind);
            let child = Command::new(std::env::current_exe()?)
                .args(["serve", kind])
                .arg(&path)
                .stdin(Stdio::null())
                .spawn()?;
            servers.children.push(child);
            let until = Instant::now() + PATIENCE;
            while !path.exists() {
                ensure!(Instant::now() < until, "{kind} does not start");
                std::thread::sleep(Duration::from_millis(5));
            }
            let path = path.to_str().context("the path is no text")?;
            servers.paths.insert(kind, path.to_string());
        }
        Ok(servers)
    }

    /// Their processes.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let numbers = self.children.iter().map(|child| child.id().try_into());
        let numbers: Result<Vec<i32>, _> = numbers.collect();
        Ok(numbers?.into_iter().map(Pid::from_raw).collect())
    }

    /// Where one listens.
    pub fn path(&self, kind: &str) -> &str {
        self.paths.get(kind).map_or("", String::as_str)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Is one of them.
pub fn serve(kind: &str, path: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match kind {
        "raw" => raw::serve(path),
        "grpc" => runtime.block_on(grpc::serve(path)),
        "zbus" => runtime.block_on(serve_bus(path)),
        _ => bail!("there is no server {kind}"),
    }
}

struct Pinger;

#[zbus::interface(name = "bench.Kernel")]
impl Pinger {
    fn ping(&self) -> u64 {
        1
    }
}

async fn serve_bus(path: &str) -> Result<()> {
    let (stream, _) = UnixListener::bind(path)?.accept()?;
    stream.set_nonblocking(true)?;
    let _connection = Builder::unix_stream(stream)
        .server(Guid::generate())
        .p2p()
        .serve_at("/kernel", Pinger)
        .build()
        .await?;
    std::future::pending::<()>().await;
    Ok(())
}

/// A peer-to-peer connection to it.
pub async fn bus_client(path: &str) -> Result<Connection> {
    let stream = UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(Builder::unix_stream(stream).p2p().build().await?)
}

/// Times calls one after another, ns each.
pub async fn bus_calls(bus: &Connection, count: usize) -> Result<Vec<u64>> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count / 10 + count {
        let began = Instant::now();
        let reply = bus
            .call_method(None::<&str>, "/kernel", Some("bench.Kernel"), "Ping", &())
            .await?;
        let _: u64 = reply.body().deserialize()?;
        if number >= count / 10 {
            all.push(began.elapsed().as_nanos() as u64);
        }
    }
    Ok(all)
}
