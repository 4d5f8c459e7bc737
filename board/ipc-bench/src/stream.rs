//! A gigabyte from a process through kairod to another, beside a raw socket and a raw relay.
//!
//! `kairo-ipc-bench stream KERNEL_SOCKET` measures, in turns. Every sender is a process of its own
//! and the reader is this one. Both ends of every way sum what they sent and saw, the same way, and
//! the sums must agree. Judging is done by `cargo xtask bench stream`.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kairo_wire::{Client, Incoming, Sealed, Service, Value, passing};
use serde_json::json;

/// Bytes of one window.
const TOTAL_BYTES: usize = 1 << 30;
/// Bytes of a window that only finds out which size is best.
const PROBE_BYTES: usize = 1 << 28;
/// Windows of each kind, in turns.
const WINDOWS: usize = 5;
/// What is written at once on a raw socket; the best of them is the control.
const RAW_SIZES: [usize; 4] = [1 << 16, 1 << 17, 1 << 18, 1 << 20];
/// Bytes of a payload in a descriptor; the best of them is measured.
const SEALED_SIZES: [usize; 3] = [1 << 18, 1 << 20, 1 << 22];
/// Descriptors that the raw sender is ahead, as a service is.
const DESCRIPTORS_AHEAD: usize = 4;
/// What the content repeats after, bytes: more than any cache of one core.
const SOURCE_BYTES: usize = 1 << 23;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sum that notices a byte, and a word, that is wrong, missing or out of place. Serial, and as
/// fast as memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    first: u64,
    second: u64,
    partial: [u8; 8],
    filled: usize,
}

impl Sum {
    /// Adds bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while self.filled > 0 && !bytes.is_empty() {
            self.partial[self.filled] = bytes[0];
            self.filled = (self.filled + 1) % 8;
            bytes = &bytes[1..];
            if self.filled == 0 {
                self.word(self.partial);
            }
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(*word);
        }
        self.partial[..rest.len()].copy_from_slice(rest);
        self.filled += rest.len();
    }

    fn word(&mut self, word: [u8; 8]) {
        self.first = self.first.wrapping_add(u64::from_le_bytes(word));
        self.second = self.second.wrapping_add(self.first);
    }

    /// As a text.
    pub fn text(&self) -> String {
        format!("{:016x}{:016x}", self.first, self.second)
    }
}

/// What is sent: noise that repeats.
fn source() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(SOURCE_BYTES);
    while bytes.len() < SOURCE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// The pieces of `total` bytes of the content.
fn pieces(source: &[u8], total: usize, size: usize) -> impl Iterator<Item = &[u8]> {
    (0..total / size).map(move |number| {
        let at = (number * size) % SOURCE_BYTES;
        &source[at..at + size]
    })
}

/// Is one of the other processes.
pub fn serve(kind: &str, path: &str) -> Result<()> {
    match kind {
        "pour" => pour(path),
        "relay" => relay(path),
        "service" => service(path),
        _ => bail!("there is no sender {kind}"),
    }
}

/// The raw sender: for each connection, as many bytes as it asks for, and their sum; in descriptors
/// if it asks for that, four ahead of what it says it has read.
fn pour(path: &str) -> Result<()> {
    let source = source();
    let listener = UnixListener::bind(path)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let (mut asked, mut sum) = ([0; 24], Sum::default());
        stream.read_exact(&mut asked)?;
        let [total, size, sealed] = words(asked);
        let mut ahead = 0;
        for piece in pieces(&source, total, size) {
            sum.add(piece);
            if sealed == 0 {
                stream.write_all(piece)?;
                continue;
            }
            while ahead >= DESCRIPTORS_AHEAD {
                ahead -= stream.read(&mut [0; DESCRIPTORS_AHEAD])?;
            }
            let sealed = Sealed::new(piece)?;
            passing::send(&stream, b"d", Some(sealed.descriptor()))?;
            ahead += 1;
        }
        if sealed > 0 {
            // What it has read since is of no use to anybody, and must not make the end a reset.
            while ahead > 0 {
                ahead -= stream.read(&mut [0; DESCRIPTORS_AHEAD])?;
            }
        }
        stream.write_all(sum.text().as_bytes())?;
    }
}

/// The raw relay: what the sender beside it sends, through this process.
fn relay(path: &str) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    let upstream = Path::new(path).with_file_name("pour");
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut from = UnixStream::connect(&upstream)?;
        let mut asked = [0; 24];
        stream.read_exact(&mut asked)?;
        from.write_all(&asked)?;
        let mut buffer = vec![0; words(asked)[1]];
        loop {
            match from.read(&mut buffer)? {
                0 => break,
                count => stream.write_all(&buffer[..count])?,
            }
        }
    }
}

fn words(bytes: [u8; 24]) -> [usize; 3] {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word) as usize
    };
    [word(0), word(8), word(16)]
}

/// The sender that is a service of kairod's.
fn service(kernel: &str) -> Result<()> {
    let source = source();
    let mut client = Client::connect_path(Path::new(kernel))?;
    client.negotiate(&["descriptors"], PATIENCE)?;
    let method = |name: &str, stream: bool| {
        json!({"name": name, "summary": "Sends.", "permission": "observe", "stream": stream,
               "params": {"type": "object"}, "result": {"type": "object"}})
    };
    let methods = json!([method("pour", true), method("sum", false)]);
    let registration = json!({"namespace": "bench", "methods": methods});
    let mut service = Service::register(client, registration, PATIENCE)?;
    let mut sum = Sum::default();
    while let Ok(asked) = service.next(Duration::from_secs(3600)) {
        let Some(asked) = asked else { continue };
        let params: serde_json::Value = serde_json::to_value(&asked.params)?;
        let number = |key: &str| params[key].as_u64().unwrap_or(0) as usize;
        let Some(name) = service.open(&asked, "content", json!({}))? else {
            service.answer(&asked, json!({"sum": sum.text()}))?;
            continue;
        };
        sum = Sum::default();
        let (total, size, sealed) = (number("total"), number("size"), number("sealed") > 0);
        for piece in pieces(&source, total, size) {
            sum.add(piece);
            if sealed {
                let sealed = Sealed::new(piece)?;
                service.send_sealed(&name, &sealed, false, PATIENCE)?;
            } else {
                service.send(&name, piece, false, PATIENCE)?;
            }
        }
        service.send(&name, &[], true, PATIENCE)?;
    }
    Ok(())
}

/// The senders, each a process.
#[derive(Debug)]
struct Senders {
    directory: PathBuf,
    children: Vec<Child>,
}

impl Senders {
    fn start(kernel: &str) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("kairo-stream-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let mut senders = Self {
            directory,
            children: Vec::new(),
        };
        for kind in ["pour", "relay", "service"] {
            let path = senders.directory.join(kind);
            let path = if kind == "service" {
                Path::new(kernel)
            } else {
                &path
            };
            let child = Command::new(std::env::current_exe()?)
                .args(["serve-stream", kind])
                .arg(path)
                .stdin(Stdio::null())
                .spawn()?;
            senders.children.push(child);
            let until = Instant::now() + PATIENCE;
            while !path.exists() {
                ensure!(Instant::now() < until, "{kind} does not start");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(senders)
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Reads `total` bytes over a raw way; gives bytes a second.
fn raw(path: &Path, total: usize, size: usize) -> Result<f64> {
    let mut stream = UnixStream::connect(path)?;
    let mut buffer = vec![0; size];
    let began = Instant::now();
    stream.write_all(&(total as u64).to_le_bytes())?;
    stream.write_all(&(size as u64).to_le_bytes())?;
    stream.write_all(&0_u64.to_le_bytes())?;
    let (mut sum, mut left) = (Sum::default(), total);
    while left > 0 {
        let most = left.min(size);
        let count = stream.read(&mut buffer[..most])?;
        ensure!(count > 0, "the sender ended");
        sum.add(&buffer[..count]);
        left -= count;
    }
    let took = began.elapsed().as_secs_f64();
    let mut theirs = String::new();
    stream.read_to_string(&mut theirs)?;
    ensure!(
        theirs == sum.text(),
        "the content arrived otherwise than it was sent"
    );
    Ok(total as f64 / took)
}

/// Reads `total` bytes in descriptors, from the sender directly; gives bytes a second.
fn raw_sealed(path: &Path, total: usize, size: usize) -> Result<f64> {
    let mut stream = UnixStream::connect(path)?;
    let (mut buffer, mut arrived) = (vec![0; size], VecDeque::new());
    let began = Instant::now();
    for word in [total as u64, size as u64, 1] {
        stream.write_all(&word.to_le_bytes())?;
    }
    let mut sum = Sum::default();
    for _ in 0..total / size {
        while arrived.is_empty() {
            let count = passing::receive(&stream, &mut [0; 1], &mut arrived)?;
            ensure!(count > 0, "the sender ended");
        }
        let descriptor = arrived.pop_front().context("no descriptor")?;
        let payload = Sealed::accept(descriptor, size as u64)?;
        stream.write_all(b"r")?;
        payload.read_at(&mut buffer, 0)?;
        sum.add(&buffer);
    }
    let took = began.elapsed().as_secs_f64();
    let mut theirs = String::new();
    stream.read_to_string(&mut theirs)?;
    ensure!(
        theirs == sum.text(),
        "the content arrived otherwise than it was sent"
    );
    Ok(total as f64 / took)
}

/// Reads `total` bytes through kairod; gives bytes a second.
fn through(client: &mut Client, total: usize, size: usize, sealed: bool) -> Result<f64> {
    let began = Instant::now();
    let params = json!({"policy": "block", "total": total, "size": size,
                        "sealed": u8::from(sealed)});
    let _: Value = client.call("bench.pour", params, PATIENCE)?;
    let (mut sum, mut seen) = (Sum::default(), 0);
    // One buffer for every payload: memory that was just used is the quickest there is.
    let mut buffer = vec![0; size];
    loop {
        let Some(Incoming::Chunk(chunk)) = client.next_incoming(PATIENCE)? else {
            bail!("no chunk");
        };
        ensure!(
            chunk.gap.is_none() && chunk.error.is_none(),
            "a broken stream: {chunk:?}"
        );
        ensure!(
            chunk.offset == seen,
            "a chunk at {}, expected {seen}",
            chunk.offset
        );
        seen += chunk.content_bytes();
        match &chunk.attached {
            Some(payload) => {
                payload.read_at(&mut buffer, 0)?;
                sum.add(&buffer);
            }
            None => sum.add(&chunk.data),
        }
        if chunk.end {
            break;
        }
    }
    let took = began.elapsed().as_secs_f64();
    let theirs: serde_json::Value = client.call("bench.sum", json!({}), PATIENCE)?;
    ensure!(seen == total as u64, "{seen} bytes of {total} arrived");
    ensure!(
        theirs["sum"] == sum.text(),
        "the content arrived otherwise than it was sent"
    );
    Ok(total as f64 / took)
}

/// The size of `sizes` with the highest rate, and every rate.
fn best(sizes: &[usize], mut rate: impl FnMut(usize) -> Result<f64>) -> Result<(usize, Vec<f64>)> {
    let mut rates = Vec::new();
    for size in sizes {
        rates.push(rate(*size)?);
    }
    let ranked = sizes
        .iter()
        .zip(&rates)
        .max_by(|one, other| one.1.total_cmp(other.1));
    let (size, _) = ranked.context("no sizes")?;
    Ok((*size, rates))
}

/// Measures.
pub fn measure(kernel: &str) -> Result<()> {
    let senders = Senders::start(kernel)?;
    let (pour, relay) = (
        senders.directory.join("pour"),
        senders.directory.join("relay"),
    );
    let mut client = Client::connect_path(Path::new(kernel))?;
    client.negotiate(&["descriptors"], PATIENCE)?;
    let until = Instant::now() + PATIENCE;
    while client
        .call::<Value>("bench.sum", json!({}), PATIENCE)
        .is_err()
    {
        ensure!(Instant::now() < until, "the service does not register");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (raw_size, raw_probe) = best(&RAW_SIZES, |size| raw(&pour, PROBE_BYTES, size))?;
    let probe = |size| through(&mut client, PROBE_BYTES, size, true);
    let (sealed_size, sealed_probe) = best(&SEALED_SIZES, probe)?;
    // The service cuts what is sent inline by itself.
    let inline_size = 1 << 20;
    let (mut direct, mut relayed, mut passed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut inline, mut sealed) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        direct.push(raw(&pour, TOTAL_BYTES, raw_size)?);
        sealed.push(through(&mut client, TOTAL_BYTES, sealed_size, true)?);
        passed.push(raw_sealed(&pour, TOTAL_BYTES, sealed_size)?);
        relayed.push(raw(&relay, TOTAL_BYTES, raw_size)?);
        inline.push(through(&mut client, TOTAL_BYTES, inline_size, false)?);
    }
    println!(
        "{}",
        json!({"bytes": TOTAL_BYTES, "raw_bytes_per_s": direct, "relay_bytes_per_s": relayed,
               "raw_descriptor_bytes_per_s": passed,
               "inline_bytes_per_s": inline, "descriptor_bytes_per_s": sealed,
               "raw_size": raw_size, "descriptor_size": sealed_size,
               "probes": {"raw": raw_probe, "descriptor": sealed_probe}})
    );
    Ok(())
}
