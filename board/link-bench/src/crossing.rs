//! From one process to another: our rings beside iceoryx2's publish-subscribe.

use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kairo_link::{MonoNs, ring};
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{pipe2, write};
use serde_json::{Map, Value, json};

use crate::message::{Line, Words};
use crate::peer::LAST;
use crate::wires::{Mode, Offers, PATIENCE, SLOTS, Steering, Theirs};
use crate::{CORES, Patience, cores, pin};

/// Windows of each side.
const WINDOWS: usize = 20;
/// Round trips a window.
const TRIPS: usize = 2000;
/// Paces, with how many lines each side sends.
const PACES: [(u64, u64); 4] = [(1, 6), (10, 30), (100, 200), (1000, 2000)];

struct Ends {
    child: Child,
    steering: Steering,
    out: ring::Producer<Line>,
    back: ring::Consumer<Line>,
    theirs: Theirs,
}

/// Starts the peer and shares everything with it.
fn start(kind: &str, bell: Option<i32>) -> Result<Ends> {
    let offers = Offers::make()?;
    let own = std::process::id().to_string();
    let theirs = Theirs::join(&own, "there", "back")?;
    let child = Command::new(std::env::current_exe()?)
        .args(["peer", kind, &own])
        .args(offers.numbers())
        .args(bell.map(|bell| bell.to_string()))
        .env(
            CORES,
            cores()
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(","),
        )
        .stdout(Stdio::piped())
        .spawn()?;
    // The peer maps everything, then follows; only then the segments are closed.
    let steering = offers.steering.0;
    steering.steer(Mode::Idle)?;
    let (there, back) = (offers.there.0, offers.back.0);
    Ok(Ends {
        child,
        steering,
        out: ring::Producer::new(there.settle()?, SLOTS),
        back: ring::Consumer::new(back.settle()?, SLOTS),
        theirs,
    })
}

/// Round trips of one window, ns each.
fn window(mut trip: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
    let mut samples = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let began = Instant::now();
        trip()?;
        samples.push(began.elapsed().as_nanos() as u64);
    }
    samples.sort_unstable();
    Ok(samples)
}

/// Half a round trip at the quantiles of each window, ns.
fn quantiles(samples: &[u64]) -> Value {
    let at = |quantile: f64| samples[((samples.len() - 1) as f64 * quantile) as usize] as f64 / 2.0;
    json!({"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)})
}

/// Busy on both sides.
pub fn busy() -> Result<Value> {
    pin(0)?;
    let mut ends = start("echo", None)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let line = Words([7; 8]);
    let late = |since: Instant| -> Result<()> {
        ensure!(since.elapsed() < PATIENCE, "the peer does not answer");
        Ok(())
    };
    for _ in 0..WINDOWS {
        ends.steering.steer(Mode::EchoOurs)?;
        let samples = window(|| {
            ends.out.push(&line)?;
            let (mut patience, since) = (Patience::default(), Instant::now());
            while ends.back.pop()?.is_none() {
                patience.wait();
                patience.check(|| late(since))?;
            }
            Ok(())
        })?;
        ours.push(quantiles(&samples));
        ends.steering.steer(Mode::EchoTheirs)?;
        let samples = window(|| {
            ends.theirs.send(line.0)?;
            let (mut patience, since) = (Patience::default(), Instant::now());
            while ends.theirs.take()?.is_none() {
                patience.wait();
                patience.check(|| late(since))?;
            }
            Ok(())
        })?;
        theirs.push(quantiles(&samples));
    }
    ends.steering.steer(Mode::Quit)?;
    ends.child.wait()?;
    Ok(json!({"unit": "ns one way", "windows": {"ours": ours, "iceoryx2": theirs}}))
}

/// A sender at a pace, a blocked receiver. Ours goes the way a notice of kairo-rt goes: a private
/// eventfd, an ordinary thread, a pipe.
pub fn paced() -> Result<Value> {
    pin(0)?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let mut ends = start("wait", Some(reader.as_raw_fd()))?;
    let event = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?);
    let bell = Arc::clone(&event);
    // As kairo-rt's link server: it ends with the process.
    std::thread::spawn(move || {
        while bell.read().is_ok() && write(&writer, &1_u64.to_ne_bytes()).is_ok() {}
    });
    std::thread::sleep(Duration::from_millis(200));
    for (pace, lines) in PACES {
        let half = Duration::from_nanos(500_000_000 / pace);
        for _ in 0..lines {
            ends.out
                .push(&Words([MonoNs::now().0, pace, 0, 0, 0, 0, 0, 0]))?;
            event.write(1)?;
            std::thread::sleep(half);
            ends.theirs
                .send([MonoNs::now().0, pace, 0, 0, 0, 0, 0, 0])?;
            ends.theirs.notifier.notify()?;
            std::thread::sleep(half);
        }
    }
    ends.out.push(&Words([LAST; 8]))?;
    event.write(1)?;
    ends.theirs.send([LAST; 8])?;
    ends.theirs.notifier.notify()?;
    let output = ends.child.wait_with_output()?;
    let ages: Value = serde_json::from_slice(&output.stdout).context("the peer's ages")?;
    let mut found = Map::new();
    for (pace, _) in PACES {
        let of = |side: &str| {
            let all = ages[side].as_array().cloned().unwrap_or_default();
            let mine = all.iter().filter(|pair| pair[0] == pace);
            let mut samples: Vec<u64> = mine.filter_map(|pair| pair[1].as_u64()).collect();
            samples.sort_unstable();
            // A way is a way here, not half a round trip.
            samples.iter_mut().for_each(|sample| *sample *= 2);
            quantiles(&samples)
        };
        found.insert(
            format!("{pace} Hz"),
            json!({"ours": of("ours"), "iceoryx2": of("iceoryx2")}),
        );
    }
    Ok(json!({"unit": "ns one way", "paces": found}))
}
